"""Fields become meshes at the right place, and evaluating less of the grid changes nothing."""

import numpy as np
import pytest
import torch
import trimesh

from conftest import run_script, sphere_arguments, sphere_curriculum
from metasdf.api import train
from metasdf.data.names import read_split
from metasdf.files import read_json
from metasdf.geometry.grid import NoSurfaceError, evaluate_grid, grid_points, mesh_from_grid
from metasdf.geometry.sparse_grid import SparseGrid
from metasdf.learning.model_files import load_model
from metasdf.losses import SURFACES, build_loss
from metasdf.method import Method
from metasdf.networks import CoordinateNetwork
from metasdf.reconstruction.fields import mesh_field
from metasdf.reconstruction.fitting import held_out_task

CPU = torch.device("cpu")


def sphere(x):
    return x.norm(dim=1) - 0.6


def dense_mesh(field, resolution):
    return mesh_from_grid(evaluate_grid(field, resolution, CPU))


def sparse(field, resolution):
    """What the field is where its surface is; `field` need not be continuous."""
    return SparseGrid(lambda x: (field(x), field(x)), resolution, CPU)


def assert_same_mesh(one, other):
    assert np.array_equal(one.faces, other.faces)
    assert np.abs(one.vertices - other.vertices).max() < 1e-6


# The grid, all of it


def test_grid_points_are_exact_from_corner_to_corner():
    points = grid_points(0, 27, 3)
    expected = [[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
    assert points.tolist() == expected


def test_grid_points_keep_their_axis_at_full_resolution():
    n = 256
    index = torch.tensor([0, 255, 256, 65_535, 65_536, 8_421_504, n**3 - 1])
    for flat in index.tolist():
        point = grid_points(flat, flat + 1, n)[0]
        ijk = np.array(np.unravel_index(flat, (n, n, n)))
        assert point.numpy() == pytest.approx(2 * ijk / (n - 1) - 1, abs=1e-7)
    # A row along z: x and y stay constant, as they do not in a grid made by float division.
    row = grid_points(5 * n, 6 * n, n)
    assert len(row[:, 0].unique()) == len(row[:, 1].unique()) == 1


def test_a_sphere_becomes_a_closed_mesh_of_its_radius_facing_outward():
    mesh = dense_mesh(sphere, 65)
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.6).max() < 1e-3
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.005)


def test_a_slab_off_centre_is_where_it_should_be():
    def slab(x):
        return (
            (x - torch.tensor([0.1, -0.2, 0.3])).abs().sub(torch.tensor([0.4, 0.05, 0.3])).amax(1)
        )

    expected = [[-0.3, -0.25, 0.0], [0.5, -0.15, 0.6]]
    for mesh in (dense_mesh(slab, 97), sparse(slab, 97).mesh()):
        assert mesh.bounds == pytest.approx(np.array(expected), abs=1e-3)


def test_a_surface_that_leaves_the_box_is_closed_at_its_border():
    def wall(x):
        return x[:, 0] - 0.25

    for mesh in (dense_mesh(wall, 33), sparse(wall, 33).mesh()):
        assert mesh.is_watertight
        assert mesh.volume == pytest.approx(1.25 * 4, rel=1e-3)
        assert np.abs(mesh.vertices).max() <= 1 + 1e-4


@pytest.mark.parametrize(
    ("value", "message"),
    [(0.3, "outside everywhere"), (0.0, "outside"), (-0.3, "inside"), (float("nan"), "finite")],
)
def test_a_field_without_surface_is_an_error(value, message):
    with pytest.raises(NoSurfaceError, match=message):
        mesh_from_grid(np.full((8, 8, 8), value, np.float32))
    with pytest.raises(NoSurfaceError, match=message):
        sparse(lambda x: value + 0 * x[:, 0], 32).mesh()


@pytest.mark.parametrize(
    "field", [lambda x: x[:, 0].abs(), lambda x: x.norm(dim=1), lambda x: x.abs().amax(dim=1) - 1.2]
)
def test_a_field_that_only_touches_zero_or_the_border_has_no_surface(field):
    for mesh in (dense_mesh, lambda *arguments: sparse(*arguments).mesh()):
        with pytest.raises(NoSurfaceError, match="everywhere"):
            mesh(field, 33)


# Less of it


@pytest.mark.parametrize("resolution", [3, 4, 17, 40, 65, 96])
def test_less_of_the_grid_gives_the_same_mesh_at_any_resolution(resolution):
    def egg(x):
        return (x * torch.tensor([1.0, 1.5, 0.8])).norm(dim=1) - 0.9

    assert_same_mesh(sparse(egg, resolution).mesh(), dense_mesh(egg, resolution))


@pytest.mark.parametrize(
    "field",
    [
        lambda x: x.abs().sum(dim=1) - 0.5,
        lambda x: x[:, 0] - x[:, 1],
        lambda x: (x - 1).norm(dim=1) - 0.1,
    ],
)
@pytest.mark.parametrize("resolution", [65, 145])
def test_zeros_right_on_the_grid_and_surface_at_its_border_make_no_difference(field, resolution):
    mesh = sparse(field, resolution).mesh()
    assert mesh.is_watertight
    assert_same_mesh(mesh, dense_mesh(field, resolution))


def test_a_function_that_is_flat_beyond_its_clamp_loses_no_piece():
    def pieces(x):
        ball = x.norm(dim=1) - 0.5
        crumb = (x - torch.tensor([0.83, -0.71, 0.9])).norm(dim=1) - 0.025
        return torch.minimum(ball, crumb).clamp(-0.02, 0.02)

    grid = SparseGrid(lambda x: (pieces(x), pieces(x)), 96, CPU, clamp=0.02)
    mesh = grid.mesh()
    assert mesh.body_count == 2
    assert_same_mesh(mesh, dense_mesh(pieces, 96))


@pytest.mark.parametrize("resolution", [32, 64, 145])
def test_a_jump_without_any_slope_is_found_between_middles_of_both_signs(resolution):
    def flat(x):
        return sphere(x).sign() + 0 * x[:, 0]

    assert_same_mesh(sparse(flat, resolution).mesh(), dense_mesh(flat, resolution))


def test_a_clamp_that_hides_all_slopes_loses_no_piece_with_a_middle_in_it():
    def ball(x):
        return ((x - torch.tensor([0.03, 0.1, 0.02])).norm(dim=1) - 0.06).clamp(-0.01, 0.01)

    mesh = SparseGrid(lambda x: (ball(x), ball(x)), 32, CPU, clamp=0.01).mesh()
    assert_same_mesh(mesh, dense_mesh(ball, 32))


def test_small_pieces_and_thin_sheets_are_found():
    def pieces(x):
        ball = x.norm(dim=1) - 0.5
        crumb = (x - torch.tensor([0.83, -0.71, 0.9])).norm(dim=1) - 0.025
        sheet = ((x - torch.tensor([0.0, 0.75, 0.0])).abs() - torch.tensor([0.6, 0.01, 0.6])).amax(
            1
        )
        return torch.minimum(torch.minimum(ball, crumb), sheet)

    grid = sparse(pieces, 128)
    mesh = grid.mesh()
    assert mesh.body_count == 3
    assert_same_mesh(mesh, dense_mesh(pieces, 128))
    assert len(grid.evaluated.keys) < 128**3 / 10


@pytest.mark.parametrize("seed", range(4))
def test_crumbs_close_to_a_large_surface_are_found(seed):
    rng = np.random.default_rng(seed)
    spacing = 2 / 95
    middles = rng.uniform(-0.6, 0.6, (12, 3))
    middles[:, 2] = 0.1 + spacing * rng.uniform(2.5, 9, 12)
    radii = torch.from_numpy(spacing * rng.uniform(0.9, 2.5, 12)).float()
    middles = torch.from_numpy(middles).float()
    turn = torch.from_numpy(np.linalg.qr(rng.normal(size=(3, 3)))[0]).float()

    def field(x):
        x = x @ turn
        beyond = x.abs() - torch.tensor([0.7, 0.7, 0.1])
        slab = beyond.clamp(min=0).norm(dim=1) + beyond.amax(1).clamp(max=0)
        crumbs = (x[:, None] - middles).norm(dim=2) - radii
        return torch.minimum(slab, crumbs.amin(1))

    grid = sparse(field, 96)
    mesh = grid.mesh()
    assert mesh.body_count > 5
    assert_same_mesh(mesh, dense_mesh(field, 96))
    assert len(grid.evaluated.keys) < 96**3 / 8


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("kind", "w0"), [("siren", 10.0), ("siren", 30.0), ("pe", 1.0)])
def test_fields_of_many_pieces_lose_none(kind, w0, seed):
    torch.manual_seed(seed)
    network = CoordinateNetwork(kind, hidden_features=16, hidden_layers=1, w0=w0)
    with torch.no_grad():
        some = network(2 * torch.rand(20_000, 3) - 1)
    level = torch.quantile(some, [0.05, 0.01, 0.003][seed])  # the less, the smaller pieces

    def field(x):
        return network(x)[:, 0] - level

    # Large enough for blocks of blocks. At the border vertices differ by up to 1e-4 spacings.
    assert_same_mesh(sparse(field, 145).mesh(), dense_mesh(field, 145))


def test_a_sign_that_jumps_is_found_by_the_logit():
    def field(x):
        logit = 20 * torch.tanh(30 * sphere(x)) + torch.sin(9 * x[:, 0])
        return torch.sign(logit) * (sphere(x).abs() + 0.02), logit

    grid = SparseGrid(field, 96, CPU)
    assert_same_mesh(grid.mesh(), dense_mesh(lambda x: field(x)[0], 96))
    assert len(grid.evaluated.keys) < 96**3 / 5


def test_surface_is_followed_into_blocks_that_were_left_out(monkeypatch):
    found = SparseGrid.candidates

    def few(self):
        blocks, bounds = found(self)
        one = np.abs(
            sphere(self.evaluated.coordinates(self.evaluated.key(blocks + 1))).numpy()
        ).argmin()
        return blocks[one : one + 1], bounds[one : one + 1]

    monkeypatch.setattr(SparseGrid, "candidates", few)
    assert_same_mesh(sparse(sphere, 64).mesh(), dense_mesh(sphere, 64))


def test_bounds_that_were_too_narrow_are_widened(monkeypatch):
    found = SparseGrid.candidates

    def flat(self):
        blocks, bounds = found(self)
        return blocks, bounds / 100

    monkeypatch.setattr(SparseGrid, "candidates", flat)
    assert_same_mesh(sparse(sphere, 64).mesh(), dense_mesh(sphere, 64))


@pytest.mark.parametrize("start", [0, 7, 300])
def test_what_one_block_hides_is_found_from_those_around_it(monkeypatch, start):
    found = SparseGrid.candidates

    def falsified(self):
        blocks, bounds = found(self)
        bounds[start::50] = 1e-6
        return blocks, bounds

    monkeypatch.setattr(SparseGrid, "candidates", falsified)
    assert_same_mesh(sparse(sphere, 64).mesh(), dense_mesh(sphere, 64))


def test_no_point_is_evaluated_twice():
    seen = []

    def field(x):
        seen.append(x.detach())
        return sphere(x), sphere(x)

    grid = SparseGrid(field, 144, CPU)
    grid.mesh()
    points = torch.cat(seen)
    assert (
        len(points.unique(dim=0)) == len(grid.evaluated.keys) == len(np.unique(grid.evaluated.keys))
    )
    assert len(points) <= len(grid.evaluated.keys) + 8  # middles of clipped blocks may coincide


@pytest.mark.parametrize(
    ("method", "mode"), [("metasdf", "multitask"), ("metasdf", "l1"), ("autodecoder", "l1")]
)
def test_a_trained_model_gives_the_same_mesh_either_way(method, mode, spheres, tmp_path):
    keys = {"method": method, "training_mode": mode, "num_epochs": 30, "code_steps": 100}
    curriculum = sphere_curriculum(spheres, tmp_path, **keys)
    train(curriculum, device=CPU)
    model = load_model(tmp_path / "checkpoints" / "latest.pth")
    task = held_out_task(curriculum, read_split(curriculum["test_split"])[0], CPU)
    fields = model.adapt(task["context"])
    for surface in SURFACES:
        meshes = [mesh_field(model, fields, 48, CPU, dense, surface) for dense in (False, True)]
        assert_same_mesh(*meshes)


def test_the_command_meshes_either_way(spheres, tmp_path):
    arguments = ["tables_tiny", *sphere_arguments(spheres, tmp_path, num_epochs=30, resolution=40)]
    train(sphere_curriculum(spheres, tmp_path, num_epochs=30), device=CPU)
    checkpoint = ("--checkpoint", tmp_path / "checkpoints" / "latest.pth")
    folder, files = tmp_path / "reconstructions", {}
    for more in ((), ("--dense",)):
        run_script("run_reconstruct.py", *arguments, *checkpoint, *more, cwd=tmp_path)
        record = read_json(folder / "reconstructions.json")
        assert record["curriculum"]["dense_grid"] == bool(more)
        files[more] = {file.name: trimesh.load_mesh(file) for file in folder.rglob("*.ply")}
    assert len(files[()]) >= 2
    assert files[()].keys() == files[("--dense",)].keys()
    for name, mesh in files[()].items():
        assert_same_mesh(mesh, files[("--dense",)][name])


def test_a_field_without_gradients_is_meshed_all_the_same():
    class Ball(Method):
        loss = build_loss("l1")

        def predict(self, x, fields):
            return (x.detach().norm(dim=-1, keepdim=True) - 0.6).detach()

    assert_same_mesh(mesh_field(Ball(), None, 33, CPU), dense_mesh(sphere, 33))
