"""`reconstruct` takes meshes, points or files and gives a mesh and a field in the same frame."""

import numpy as np
import pytest
import torch
import trimesh

from metasdf.errors import InputError
from metasdf.geometry.bodies import NoSolidError
from metasdf.geometry.grid import NoSurfaceError, extract_mesh
from metasdf.geometry.mesh import face_normals, sample_surface
from metasdf.geometry.normalisation import Normalisation
from metasdf.losses import CompositeLoss, DistanceLoss
from metasdf.method import Method
from metasdf.reconstruction.inputs import ShapeInput
from metasdf.reconstruction.one_shape import reconstruct

SCALE, SHIFT = 40.0, np.array([100.0, -200.0, 300.0])  # the frame of the inputs
RADIUS = 0.7


class Ball(Method):
    """Fits a ball about the origin of the normalised frame, exactly; keeps what it was given."""

    num_steps = 3
    loss = DistanceLoss()

    def adapt(self, context, num_steps=None):
        x, y = self.context = context
        return (x.norm(dim=-1, keepdim=True) - y).mean()

    def predict(self, x, fields):
        return x.norm(dim=-1, keepdim=True) - fields


def sphere():
    mesh = trimesh.creation.icosphere(4, radius=RADIUS)
    return mesh.apply_scale(SCALE).apply_translation(SHIFT)


def points_and_normals(count=3000):
    points, faces = sample_surface(sphere(), count, np.random.default_rng(0))
    return points, face_normals(sphere(), faces)


def signed_distances():
    x = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    distances = SCALE * (np.linalg.norm(x, axis=1) - RADIUS)
    return ShapeInput(x * SCALE + SHIFT, distances=distances)


def bowl():
    mesh = sphere()
    mesh.update_faces(mesh.triangles_center[:, 2] < SHIFT[2])
    return mesh


INPUTS = {
    "mesh": sphere,
    "points": lambda: points_and_normals()[0],
    "points with normals": points_and_normals,
    "SDF samples": signed_distances,
}


@pytest.mark.parametrize("kind", INPUTS)
def test_mesh_and_field_are_in_the_frame_of_the_input(kind):
    result = reconstruct(Ball(), INPUTS[kind](), resolution=48, context_points=500)
    assert result.record["kind"] == kind
    assert result.record["input"] is None
    assert result.mesh.is_watertight
    radius = np.linalg.norm(result.mesh.vertices - SHIFT, axis=1)
    assert radius / SCALE == pytest.approx(RADIUS, abs=0.01)
    points = np.random.default_rng(1).uniform(-0.9, 0.9, (20_000, 3)) * SCALE + SHIFT
    distances = result.field(points)
    assert distances.dtype == np.float32
    expected = np.linalg.norm(points - SHIFT, axis=1) - RADIUS * SCALE
    assert np.abs(distances - expected).max() < 0.01 * SCALE
    assert result.field(np.zeros((0, 3))).shape == (0,)
    with pytest.raises(InputError, match=r"points are \[3\], want \[n, 3\]"):
        result.field(np.zeros(3))


def test_a_file_gives_what_its_mesh_gives(tmp_path):
    sphere().export(tmp_path / "sphere.obj")
    from_file = reconstruct(Ball(), tmp_path / "sphere.obj", resolution=24)
    from_text = reconstruct(Ball(), str(tmp_path / "sphere.obj"), resolution=24)
    assert np.array_equal(from_file.mesh.vertices, from_text.mesh.vertices)
    assert from_file.record["input"] == str(tmp_path / "sphere.obj")
    from_memory = reconstruct(Ball(), sphere(), resolution=24)
    assert from_file.mesh.bounds == pytest.approx(from_memory.mesh.bounds, abs=0.01 * SCALE)


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (sphere, "dense"),
        (bowl, "levelset"),
        (points_and_normals, "dense"),
        (lambda: points_and_normals()[0], "levelset"),
        (signed_distances, "dense"),
    ],
)
def test_without_a_curriculum_the_context_is_dense_where_there_are_signed_distances(make, mode):
    model = Ball()
    record = reconstruct(model, make(), resolution=16).record
    assert record["context_mode"] == mode
    assert record["context_points"] == model.context[0].shape[1]
    assert record["context_points"] == {"dense": 50_000, "levelset": 10_000}[mode] or (
        record["kind"] == "points" and record["context_points"] == 2700  # of 3000
    )
    assert (model.context[1] != 0).any() == (mode == "dense")


def test_a_models_curriculum_says_what_context_it_adapts_to():
    model = Ball()
    model.curriculum = {"context_mode": "levelset"}
    assert reconstruct(model, sphere(), resolution=16).record["context_mode"] == "levelset"
    given = reconstruct(model, sphere(), resolution=16, context_mode="dense")
    assert given.record["context_mode"] == "dense"
    model.curriculum = {"context_mode": "dense"}
    without = reconstruct(model, points_and_normals()[0], resolution=16)
    assert (without.record["normals"], without.record["context_mode"]) == ("estimated", "dense")
    model.curriculum = {"context_mode": "dense", "data": "digits"}
    with pytest.raises(InputError, match="trained on images"):
        reconstruct(model, sphere())


def test_the_context_depends_on_the_seed_alone():
    model, contexts = Ball(), []
    for seed in (0, 0, 1):
        torch.manual_seed(len(contexts))
        reconstruct(model, sphere(), resolution=16, context_points=50, seed=seed)
        contexts.append(model.context[0])
    assert torch.equal(contexts[0], contexts[1])
    assert not torch.equal(contexts[0], contexts[2])


def test_noise_steps_and_frame_reach_model_and_record():
    model, frame = Ball(), Normalisation(-SHIFT, 1 / SCALE)
    half = points_and_normals()[0]
    half = half[half[:, 0] > SHIFT[0]]
    options = {"normalisation": frame, "context_noise": 0.03, "num_steps": 7, "resolution": 24}
    result = reconstruct(model, half, **options)
    assert model.context[0].norm(dim=-1).std().item() == pytest.approx(0.03, rel=0.15)
    assert result.record["steps"] == 7
    assert result.record["normalisation"] == {"offset": (-SHIFT).tolist(), "scale": 1 / SCALE}
    assert result.mesh.bounds.mean(axis=0) == pytest.approx(SHIFT, abs=0.5)


def test_nothing_is_printed_and_the_input_stays_as_it_is(capsys):
    mesh, (points, normals) = sphere(), points_and_normals()
    before = mesh.vertices.copy(), points.copy(), normals.copy()
    reconstruct(Ball(), mesh, resolution=16)
    reconstruct(Ball(), (points, normals), resolution=16)
    for array, kept in zip((mesh.vertices, points, normals), before, strict=True):
        assert np.array_equal(array, kept)
    assert capsys.readouterr() == ("", "")


def test_a_mesh_that_bounds_no_solid_is_an_error_in_dense_mode_unless_thickened():
    with pytest.raises(NoSolidError):
        reconstruct(Ball(), bowl(), context_mode="dense")
    thick = reconstruct(
        Ball(), bowl(), context_mode="dense", open_rule="thicken", resolution=16, context_points=100
    )
    assert "thickened" in thick.record["signs"]


def test_a_field_without_surface_is_an_error():
    class Nothing(Ball):
        def predict(self, x, fields):
            return torch.ones(*x.shape[:-1], 1)

    with pytest.raises(NoSurfaceError, match="outside everywhere"):
        reconstruct(Nothing(), sphere(), resolution=16)


def test_errors_about_a_file_name_it_and_keep_their_kind(tmp_path):
    bowl().export(tmp_path / "bowl.ply")
    with pytest.raises(NoSolidError, match=r"bowl\.ply: .*open"):
        reconstruct(Ball(), tmp_path / "bowl.ply", context_mode="dense")


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        (np.zeros((20, 2)), {}, r"points is float64 \[20, 2\], want \[n, 3\]"),
        (np.full((20, 3), "x"), {}, "points is <U1"),
        ([[0, 0, 0], [1, 1]], {}, "points: "),
        (np.full((20, 3), np.nan), {}, "holds 0 usable points of 20"),
        (np.ones((20, 3)), {}, "all points are the same"),
        ((np.ones((20, 3)), np.ones((19, 3))), {}, r"normals is .*want \[20, 3\]"),
        (trimesh.Trimesh(), {}, "the mesh: has no faces"),
        ("absent.ply", {}, "there is no such file"),
        (None, {}, "points is object"),
        (sphere(), {"context_mode": "sparse"}, "context_mode: 'sparse' is unknown"),
        (sphere(), {"num_steps": -1}, "num_steps: -1 is too small"),
        (sphere(), {"context_points": 0}, "context_points: 0 is too small"),
        (sphere(), {"resolution": 1}, "resolution: 1 is too small"),
        (sphere(), {"context_noise": -1.0}, "context_noise: -1.0 is too small"),
        (sphere(), {"seed": -1}, "seed: -1 is too small"),
        (sphere(), {"open_rule": "close"}, "open_rule: 'close' is unknown; choose reject or"),
        (sphere(), {"device": "abacus"}, "abacus: not available"),
    ],
)
def test_what_cannot_be_used_is_an_input_error(shape, options, message):
    with pytest.raises(InputError, match=message):
        reconstruct(Ball(), shape, **options)


def test_a_field_is_meshed_without_any_model():
    mesh = extract_mesh(lambda x: x.norm(dim=1) - 0.5, 48)
    assert mesh.is_watertight
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(0.5, abs=2e-3)


class CompositeBall(Ball):
    """The same with two outputs, a smooth logit and a distance that is off by half."""

    loss = CompositeLoss()

    def predict(self, x, fields):
        distance = super().predict(x, fields)
        return torch.cat([10 * distance, 0.5 * distance.abs() + 0.02], dim=-1)


def test_the_surface_is_the_level_set_that_was_asked_for_and_distances_stay():
    model, points = CompositeBall(), points_and_normals()
    results = {}
    for surface in ("composite", "logit"):
        result = reconstruct(model, points, resolution=48, surface=surface, context_mode="dense")
        assert result.record["surface"] == surface
        results[surface] = result
    fields = [result.field(points[0] * 1.1) for result in results.values()]
    assert np.array_equal(*fields)  # sign(logit) |distance|, whatever is meshed
    errors = {
        surface: np.abs(np.linalg.norm(result.mesh.vertices - SHIFT, axis=1) / SCALE - RADIUS)
        for surface, result in results.items()
    }
    # The jump of 2 * 0.02 where the sign changes makes a staircase of the composite surface.
    assert errors["logit"].mean() < 0.25 * errors["composite"].mean()
    model.curriculum = {"surface": "logit", "context_mode": "dense"}
    assert reconstruct(model, points, resolution=24).record["surface"] == "logit"
    with pytest.raises(InputError, match="surface: 'smooth' is unknown"):
        reconstruct(model, points, surface="smooth")


def test_a_models_curriculum_says_how_where_nothing_else_does():
    model = Ball()
    sizes = {"resolution": 24, "reconstruction_sdf_samples": 600, "reconstruction_steps": 7}
    model.curriculum = {"context_mode": "dense", **sizes}
    record = reconstruct(model, points_and_normals()).record
    assert (record["steps"], record["context_points"]) == (7, 300)
    record = reconstruct(model, points_and_normals(), num_steps=2, context_points=100).record
    assert (record["steps"], record["context_points"]) == (2, 100)
