"""Fields become meshes at the right place; a shape without surface is reported, never empty."""

import json

import numpy as np
import pytest
import torch
import trimesh

from conftest import sphere_curriculum
from metasdf.checkpoint import build_model
from metasdf.data import read_split
from metasdf.reconstruction import (
    NoSurfaceError,
    evaluate_grid,
    extract_mesh,
    grid_points,
    reconstruct_shape,
    reconstruct_split,
)

CPU = torch.device("cpu")


def sphere(x):
    return x.norm(dim=1) - 0.6


def test_lattice_points_are_exact_from_corner_to_corner():
    points = grid_points(0, 27, 3)
    expected = [[i, j, k] for i in (-1, 0, 1) for j in (-1, 0, 1) for k in (-1, 0, 1)]
    assert points.tolist() == expected


def test_lattice_points_keep_their_axis_at_full_resolution():
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
    mesh = extract_mesh(evaluate_grid(sphere, 65, CPU))
    radius = np.linalg.norm(mesh.vertices, axis=1)
    assert np.abs(radius - 0.6).max() < 1e-3
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * np.pi * 0.6**3, rel=0.005)


def test_a_slab_off_centre_is_where_it_should_be():
    def slab(x):
        return (
            (x - torch.tensor([0.1, -0.2, 0.3])).abs().sub(torch.tensor([0.4, 0.05, 0.3])).amax(1)
        )

    mesh = extract_mesh(evaluate_grid(slab, 97, CPU))
    expected = [[-0.3, -0.25, 0.0], [0.5, -0.15, 0.6]]
    assert mesh.bounds == pytest.approx(np.array(expected), abs=1e-3)


def test_a_surface_that_leaves_the_box_is_closed_at_its_border():
    mesh = extract_mesh(evaluate_grid(lambda x: x[:, 0] - 0.25, 33, CPU))
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(1.25 * 4, rel=1e-3)
    assert np.abs(mesh.vertices).max() <= 1 + 1e-4


@pytest.mark.parametrize(
    ("value", "message"), [(0.3, "outside everywhere"), (-0.3, "inside"), (float("nan"), "finite")]
)
def test_a_field_without_surface_is_an_error(value, message):
    with pytest.raises(NoSurfaceError, match=message):
        extract_mesh(np.full((8, 8, 8), value, np.float32))


@pytest.fixture
def curriculum(spheres, tmp_path):
    return sphere_curriculum(spheres, tmp_path)


@pytest.fixture
def model(curriculum):
    """Untrained, but its initialisation is roughly a ball: enough to make meshes of."""
    return build_model({**curriculum, "training_mode": "l1"}).eval()


def test_a_split_is_reconstructed_and_failures_are_counted(model, curriculum, tmp_path, capsys):
    split = tmp_path / "test.json"
    split.write_text('{"made": {"spheres": ["e", "absent", "f"]}}')
    curriculum = {**curriculum, "test_split": str(split)}
    with torch.no_grad():
        model.network.net[-1].bias.fill_(-0.3)
    failed = reconstruct_split(model, curriculum, CPU, "some.pth", trajectories=1)
    assert failed == 1
    assert "failed: made/spheres/absent" in capsys.readouterr().err
    folder = tmp_path / "reconstructions"
    meshes = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.ply"))
    assert meshes == [
        "initialisation.ply",
        "made/spheres/e.ply",
        "made/spheres/f.ply",
        *(f"steps/made/spheres/e_{k}.ply" for k in range(3)),
    ]
    record = json.loads((folder / "reconstructions.json").read_text())
    assert record["checkpoint"] == "some.pth"
    assert [bool(shape["error"]) for shape in record["shapes"]] == [False, True, False]
    assert record["shapes"][0]["adapt_seconds"] > 0
    last = trimesh.load_mesh(folder / "steps/made/spheres/e_2.ply")
    final = trimesh.load_mesh(folder / "made/spheres/e.ply")
    assert np.array_equal(last.vertices, final.vertices)


def test_a_shape_without_surface_leaves_no_file(model, curriculum, tmp_path, capsys):
    with torch.no_grad():
        model.network.net[-1].weight.zero_()
        model.network.net[-1].bias.fill_(5.0)
    assert reconstruct_split(model, curriculum, CPU) == 2
    assert "no zero crossing" in capsys.readouterr().err
    assert not list((tmp_path / "reconstructions").rglob("*.ply"))


def test_a_shape_does_not_depend_on_its_neighbours(model, curriculum, tmp_path):
    with torch.no_grad():
        model.network.net[-1].bias.fill_(-0.3)
    shapes = read_split(curriculum["test_split"])
    alone, _ = reconstruct_shape(model, curriculum, shapes[1], CPU)
    reconstruct_split(model, curriculum, CPU)
    together = trimesh.load_mesh(tmp_path / "reconstructions" / f"{shapes[1]}.ply")
    assert np.allclose(alone.vertices, together.vertices, atol=1e-6)
