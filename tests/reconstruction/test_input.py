"""A file of the user's own comes back as a mesh in the file's frame; context size and noise."""

import json
import runpy
import sys

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial import cKDTree

from conftest import MESHED, ROOT, shared, sphere_curriculum
from metasdf.api import train
from metasdf.data.formats import write_normalisation
from metasdf.data.names import read_split
from metasdf.data.samples import Samples
from metasdf.errors import InputError
from metasdf.geometry.mesh import face_normals, sample_surface
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.normalisation import TURNS, Normalisation
from metasdf.geometry.sdf import SurfaceTree, signed_distance
from metasdf.learning.checkpoints import save_checkpoint
from metasdf.learning.models import build_model
from metasdf.losses import DistanceLoss
from metasdf.method import Method
from metasdf.reconstruction.contexts import (
    cloud_signed_distance,
    draw_context,
    input_normalisation,
    normalise_input,
)
from metasdf.reconstruction.fitting import draw_reconstruction_task
from metasdf.reconstruction.inputs import MIN_POINTS, ShapeInput, read_shape_input
from metasdf.reconstruction.one_shape import reconstruct
from metasdf.reconstruction.single_file import reconstruct_file

CPU = torch.device("cpu")
SCALE, SHIFT = 40.0, np.array([100.0, -200.0, 300.0])  # the frame of the files
RADIUS = 0.7


class Ball(Method):
    """Fits a ball about the origin of the normalised frame, exactly."""

    num_steps = 3
    loss = DistanceLoss()

    def adapt(self, context, num_steps=None):
        x, y = context
        return (x.norm(dim=-1, keepdim=True) - y).mean()

    def predict(self, x, fields):
        return x.norm(dim=-1, keepdim=True) - fields


class NearestSample(Method):
    """The distance at a point is that of the nearest context point."""

    num_steps = 1
    loss = DistanceLoss()

    def adapt(self, context, num_steps=None):
        return cKDTree(context[0][0].numpy()), context[1][0]

    def predict(self, x, fields):
        tree, y = fields
        return y[tree.query(x[0].detach().numpy())[1]][None]


def rng():
    return np.random.default_rng(0)


def body(kind):
    return {
        "sphere": lambda: trimesh.creation.icosphere(4, radius=RADIUS),
        "torus": lambda: trimesh.creation.torus(0.6, 0.25, major_sections=64, minor_sections=32),
        "box": lambda: trimesh.creation.box((1.0, 0.6, 0.4)),
    }[kind]()


def cloud(kind="sphere", count=3000):
    """Points and normals of a body, in the frame of the files."""
    mesh = body(kind)
    points, faces = sample_surface(mesh, count, rng())
    return points * SCALE + SHIFT, face_normals(mesh, faces)


def sdf_samples(radius=RADIUS, count=20_000):
    x = rng().uniform(-1, 1, (count, 3))
    return np.column_stack([x, np.linalg.norm(x, axis=1) - radius]).astype(np.float32)


def write(folder, kind, name="sphere"):
    """A file of one kind that holds the sphere; its path."""
    points, normals = cloud(name)
    mesh = body(name).apply_scale(SCALE).apply_translation(SHIFT)
    suffix, _, content = kind.partition(" ")
    path = folder / f"scan.{suffix}"
    if content == "mesh":
        mesh.export(path)
    elif suffix == "xyz":
        np.savetxt(path, points if content == "points" else np.hstack([points, normals]))
    elif content == "points" and suffix == "npz":
        np.savez(path, points=points)
    elif content == "oriented" and suffix == "npz":
        np.savez(path, points=points.astype(np.float32), normals=3 * normals)
    elif content == "sdf":
        rows = sdf_samples()
        np.savez(path, points=rows[:, :3] * SCALE + SHIFT, sdf=rows[:, 3] * SCALE)
    elif content == "pos neg":
        rows = sdf_samples()
        np.savez_compressed(path, pos=rows[rows[:, 3] > 0], neg=rows[rows[:, 3] <= 0])
    elif suffix == "obj":
        path.write_text("".join(f"v {x} {y} {z}\n" for x, y, z in points))
    elif suffix == "off":
        np.savetxt(path, points, header=f"OFF\n{len(points)} 0 0", comments="")
    elif suffix == "glb":
        trimesh.Scene(trimesh.PointCloud(points)).export(path)
    else:
        write_cloud(path, points, normals if content == "oriented" else None)
    return path


def write_cloud(path, points, normals=None):
    columns = points if normals is None else np.hstack([points, normals])
    names = ("x", "y", "z", "nx", "ny", "nz")[: columns.shape[1]]
    header = "\n".join(f"property double {name}" for name in names)
    text = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n{header}\nend_header"
    np.savetxt(path, columns, header=text, comments="")


def curriculum(spheres, folder, **overrides):
    return sphere_curriculum(spheres, folder, **{"context_mode": "levelset", **overrides})


def reconstructed(model, curriculum, path, output, **options):
    """The mesh and its record."""
    assert reconstruct_file(model, curriculum, CPU, path, output, **options) in MESHED
    record = json.loads(output.with_name(output.name + ".json").read_text())
    return trimesh.load_mesh(output), record


KINDS = {
    "mesh": [f"{suffix} mesh" for suffix in ("obj", "ply", "stl", "off", "glb")],
    "points": [f"{suffix} points" for suffix in ("ply", "xyz", "npz", "obj", "off", "glb")],
    "points with normals": ["ply oriented", "xyz oriented", "npz oriented"],
    "SDF samples": ["npz sdf"],
}


@pytest.mark.parametrize(
    ("kind", "file"), [(kind, file) for kind, files in KINDS.items() for file in files]
)
@pytest.mark.parametrize("mode", ["levelset", "dense"])
def test_every_kind_of_file_comes_back_in_its_own_frame(kind, file, mode, spheres, tmp_path):
    path = write(tmp_path, file)
    settings = curriculum(spheres, tmp_path, context_mode=mode, context_points=400)
    if kind == "SDF samples" and mode == "levelset":
        with pytest.raises(InputError, match=r"scan.*dense"):
            reconstruct_file(Ball(), settings, CPU, path, tmp_path / "out.ply")
        return
    mesh, record = reconstructed(Ball(), settings, path, tmp_path / "out.ply")
    radius = np.linalg.norm(mesh.vertices - SHIFT, axis=1)
    assert np.abs(radius / SCALE - RADIUS).max() < 0.02
    assert mesh.is_watertight
    assert mesh.volume > 0
    assert record["kind"] == kind
    estimated = kind == "points" and mode == "dense"
    assert (record["normals"] == "estimated") == estimated
    assert record["context_points"] == 400
    assert record["steps"] == 3
    assert record["distance"]["mean"] < 0.01 * SCALE
    assert record["distance"]["relative_mean"] == pytest.approx(
        record["distance"]["mean"] / (RADIUS * SCALE), rel=0.02
    )


@pytest.mark.parametrize("kind", ["torus", "box"])
@pytest.mark.parametrize("file", ["ply oriented", "obj mesh"])
def test_a_body_is_rebuilt_from_its_signed_distances(kind, file, spheres, tmp_path):
    settings = curriculum(
        spheres, tmp_path, context_mode="dense", context_points=20_000, resolution=32
    )
    path = write(tmp_path, file, kind)
    mesh, record = reconstructed(NearestSample(), settings, path, tmp_path / "out.ply")
    true = body(kind).apply_scale(SCALE).apply_translation(SHIFT)
    assert record["distance"]["relative_mean"] < 0.02
    assert mesh.bounds == pytest.approx(true.bounds, abs=0.05 * SCALE)
    assert abs(mesh.volume) == pytest.approx(true.volume, rel=0.1)


@pytest.mark.parametrize("kind", ["mesh", "points", "samples"])
@pytest.mark.parametrize("up", TURNS)
def test_a_scan_whose_up_is_another_axis_is_turned_and_turned_back(kind, up):
    """The model knows a cone that stands on its base, y up."""
    cone = trimesh.creation.cone(0.5, 1.0, sections=64)  # z up
    cone.vertices = (cone.vertices - [0, 0, 0.5]) @ TURNS["z"].T @ TURNS[up] * SCALE + SHIFT
    points, faces = sample_surface(cone, 20_000, rng())
    near = points + rng().normal(scale=0.05 * SCALE, size=points.shape)
    shape = {
        "mesh": cone,
        "points": (points, face_normals(cone, faces)),
        "samples": ShapeInput(near, distances=signed_distance(cone, near)),
    }[kind]
    seen = {}

    class Upright(NearestSample):
        def adapt(self, context, num_steps=None):
            seen["inside"] = context[0][0][context[1][0, :, 0] < 0].numpy()
            return super().adapt(context, num_steps)

    result = reconstruct(Upright(), shape, context_mode="dense", resolution=48, up=up)
    assert result.record["up"] == up
    low, high = (seen["inside"][side(seen["inside"][:, 1])] for side in (below, above))
    assert np.abs(low[:, [0, 2]]).mean() > 2 * np.abs(high[:, [0, 2]]).mean()
    tree = SurfaceTree(cone)
    assert tree.nearest(result.mesh.vertices)[0].max() < 0.15 * SCALE
    np.testing.assert_allclose(result.mesh.bounds, cone.bounds, atol=0.1 * SCALE)
    inside = cone.vertices.mean(axis=0, keepdims=True)
    assert result.field(inside)[0] < 0


def below(heights):
    return heights < -0.2


def above(heights):
    return heights > 0.2


def test_deepsdfs_samples_go_back_to_the_frame_of_the_mesh(spheres, tmp_path):
    path = write(tmp_path, "npz pos neg")
    settings = curriculum(spheres, tmp_path, context_mode="dense")
    mesh, _ = reconstructed(Ball(), settings, path, tmp_path / "out.ply")
    assert np.linalg.norm(mesh.vertices, axis=1) == pytest.approx(RADIUS, abs=0.02)
    frame = tmp_path / "frame.npz"
    write_normalisation(frame, Normalisation(-SHIFT, 1 / SCALE))
    mesh, record = reconstructed(
        Ball(), settings, path, tmp_path / "out.ply", normalisation_file=frame
    )
    radius = np.linalg.norm(mesh.vertices - SHIFT, axis=1)
    assert radius == pytest.approx(RADIUS * SCALE, abs=0.02 * SCALE)
    assert record["distance"]["mean"] < 0.01 * SCALE


def test_part_of_a_shape_needs_the_frame_of_the_whole(spheres, tmp_path):
    points, _ = cloud()
    half = points[points[:, 0] > SHIFT[0]]
    path, frame = tmp_path / "half.ply", tmp_path / "frame.npz"
    write_cloud(path, half)
    write_normalisation(frame, Normalisation(-SHIFT, 1 / SCALE))
    settings = curriculum(spheres, tmp_path, context_mode="partial")
    alone, _ = reconstructed(Ball(), settings, path, tmp_path / "alone.ply")
    whole, record = reconstructed(
        Ball(), settings, path, tmp_path / "whole.ply", normalisation_file=frame
    )
    assert whole.bounds.mean(axis=0) == pytest.approx(SHIFT, abs=0.5)
    assert np.linalg.norm(whole.vertices - SHIFT, axis=1).max() < 1.02 * RADIUS * SCALE
    assert record["distance"]["relative_mean"] < 0.02
    assert alone.bounds.mean(axis=0)[0] > SHIFT[0] + 0.3 * RADIUS * SCALE
    write_normalisation(frame, Normalisation(SHIFT, 1 / SCALE))
    with pytest.raises(InputError, match=r"outside of the cube.*--normalization"):
        reconstruct_file(Ball(), settings, CPU, path, tmp_path / "no.ply", frame)


def test_an_open_mesh_is_a_surface_but_bounds_no_solid(spheres, tmp_path):
    mesh = body("sphere")
    mesh.update_faces(mesh.triangles_center[:, 2] < 0.1)
    path = tmp_path / "bowl.ply"
    mesh.export(path)
    frame = tmp_path / "frame.npz"
    write_normalisation(frame, Normalisation(np.zeros(3), 1.0))
    settings = curriculum(spheres, tmp_path)
    options = {"path": path, "output": tmp_path / "out.ply", "normalisation_file": frame}
    _, record = reconstructed(Ball(), settings, **options)
    assert record["distance"]["mean"] < 0.01
    settings["context_mode"] = "dense"
    with pytest.raises(InputError, match=r"bowl.ply: .*open.*--open thicken"):
        reconstruct_file(Ball(), settings, CPU, **options)
    _, record = reconstructed(NearestSample(), settings, **options, open_rule="thicken")
    assert "thickened" in record["signs"]


def test_the_bunny_read_as_points_comes_back_in_its_frame(spheres, tmp_path):
    bunny = load_mesh(shared("data", "meshes", "single", "stanford-bunny.obj"))
    points, faces = sample_surface(bunny, 20_000, rng())
    path = tmp_path / "bunny.ply"
    write_cloud(path, points, face_normals(bunny, faces))
    settings = curriculum(
        spheres, tmp_path, context_mode="dense", context_points=20_000, resolution=32
    )
    mesh, record = reconstructed(NearestSample(), settings, path, tmp_path / "out.ply")
    size = np.ptp(points, axis=0).max()
    assert mesh.bounds == pytest.approx(bunny.bounds, abs=0.05 * size)
    assert record["distance"]["mean"] < 0.02 * size
    shape = read_shape_input(shared("data", "meshes", "single", "stanford-bunny.obj"))
    assert shape.kind == "mesh"
    assert np.ptp(input_normalisation(shape).apply(shape.points), axis=0).max() < 2 / 1.03


# Signed distances from oriented points


@pytest.mark.parametrize("kind", ["sphere", "torus"])
def test_oriented_points_tell_signed_distances(kind):
    mesh = body(kind)
    points, faces = sample_surface(mesh, 5000, rng())
    queries = rng().uniform(-1, 1, (3000, 3))
    found = cloud_signed_distance(points, face_normals(mesh, faces), queries)
    if kind == "sphere":
        true = np.linalg.norm(queries, axis=1) - RADIUS
    else:
        true = np.hypot(np.linalg.norm(queries[:, :2], axis=1) - 0.6, queries[:, 2]) - 0.25
    assert np.abs(found - true).max() < 0.04
    assert np.abs(found - true).mean() < 0.003


def test_beyond_the_rim_of_a_surface_its_plane_does_not_count():
    plate = np.column_stack([rng().uniform(-0.5, 0.5, (4000, 2)), np.zeros(4000)])
    normals = np.tile([0.0, 0.0, 1.0], (4000, 1))
    distance = cloud_signed_distance(plate, normals, np.array([[0.9, 0.0, 0.0], [0.0, 0.0, 0.3]]))
    assert distance == pytest.approx([0.4, 0.3], abs=0.05)


def test_points_at_equal_places_count_once():
    points, normals = cloud(count=1000)
    points = (points - SHIFT) / SCALE
    queries = rng().uniform(-1, 1, (200, 3))
    once = cloud_signed_distance(points, normals, queries)
    often = cloud_signed_distance(np.tile(points, (20, 1)), np.tile(normals, (20, 1)), queries)
    assert often == pytest.approx(once)


def test_noisy_points_keep_their_side():
    points, normals = cloud("torus", 10_000)
    points = (points - SHIFT) / SCALE + rng().normal(scale=0.02, size=points.shape)
    queries = rng().uniform(-1, 1, (5000, 3))
    true = np.hypot(np.linalg.norm(queries[:, :2], axis=1) - 0.6, queries[:, 2]) - 0.25
    found = cloud_signed_distance(points, normals, queries)
    clear = np.abs(true) > 0.03
    assert np.array_equal(np.sign(found[clear]), np.sign(true[clear]))
    near = np.abs(true) < 0.1  # from the plane of the nearest point alone it would be 0.023
    assert np.abs(found - true)[near].mean() < 0.017


def test_points_are_smoothed_only_as_far_as_they_are_noisy():
    """Edges stay sharp, and few noisy points do not become a blob."""
    points, normals = cloud("box", 10_000)
    points = (points - SHIFT) / SCALE
    corner = np.abs(points).max(axis=0) - 0.01
    assert cloud_signed_distance(points, normals, corner[None])[0] == pytest.approx(-0.01, abs=3e-3)
    few = rng().permutation(len(points))[:300]
    noisy = points[few] + rng().normal(scale=0.02, size=(300, 3))
    inside = cloud_signed_distance(noisy, normals[few], np.zeros((1, 3)))
    assert inside[0] < -0.15  # the box is 0.4 thick


def test_thin_parts_are_not_taken_for_noise():
    rod = trimesh.creation.cylinder(0.05, 1.6, sections=32)
    points, faces = sample_surface(rod, 128, rng())
    queries = points + rng().normal(scale=0.02, size=points.shape)
    true = np.abs(signed_distance(rod, queries))
    found = np.abs(cloud_signed_distance(points, face_normals(rod, faces), queries))
    assert np.abs(found - true).mean() < 0.009  # opposite planes averaged: 0.012 and more


def test_a_dense_context_is_half_outside_half_inside_and_true():
    points, normals = cloud()
    shape = ShapeInput((points - SHIFT) / SCALE, normals)
    rows, held_out = draw_context(shape, True, 1001, rng())
    assert rows.shape == (1001, 4)
    assert held_out.shape == (100, 4)
    assert rows.dtype == held_out.dtype == np.float32
    assert (rows[:, 3] > 0).sum() == 501
    assert (held_out[:, 3] > 0).sum() == 50
    for x, y in ((part[:, :3], part[:, 3]) for part in (rows, held_out)):
        assert np.abs(np.linalg.norm(x, axis=1) - RADIUS - y).max() < 0.04
    assert not {row.tobytes() for row in rows} & {row.tobytes() for row in held_out}
    with pytest.raises(InputError, match="normals point inward"):
        draw_context(ShapeInput(shape.points, -normals), True, 100, rng())


def test_a_surface_context_has_no_point_twice():
    points, _ = cloud(count=500)
    rows, held_out = draw_context(ShapeInput(points), False, 1000, rng())
    assert (len(rows), len(held_out)) == (450, 50)
    every = np.concatenate([rows, held_out])
    assert len(np.unique(every, axis=0)) == 500
    assert not every[:, 3].any()


def test_of_few_points_none_is_held_out():
    points, _ = cloud(count=90)
    rows, held_out = draw_context(ShapeInput(points), False, 1000, rng())
    assert (len(rows), len(held_out)) == (90, 0)


# Frames


def test_the_frame_is_that_of_preprocessing():
    mesh = body("box").apply_translation([5, 6, 7])
    offset, scale, _ = input_normalisation(ShapeInput(np.asarray(mesh.vertices), mesh=mesh))
    assert offset == pytest.approx([-5, -6, -7])
    assert scale == pytest.approx(1 / (1.03 * np.linalg.norm([0.5, 0.3, 0.2])))
    again = input_normalisation(ShapeInput(np.asarray(mesh.vertices)))
    assert (again.offset.tolist(), again.scale) == (offset.tolist(), scale)


def test_samples_inside_tell_how_far_a_shape_reaches():
    rows = sdf_samples(0.5).astype(np.float64)
    offset, scale, _ = input_normalisation(
        ShapeInput(rows[:, :3] + [9, 0, 0], distances=rows[:, 3])
    )
    assert offset == pytest.approx([-9, 0, 0], abs=0.01)
    assert scale == pytest.approx(1 / (1.03 * 0.5), rel=0.02)


def test_distances_are_scaled_with_the_frame():
    shape = ShapeInput(np.array([[3.0, 0, 0], [1.0, 0, 0]]), distances=np.array([1.0, -1.0]))
    local = normalise_input(shape, Normalisation(np.zeros(3), 0.25))
    assert local.points[:, 0].tolist() == [0.75, 0.25]
    assert local.distances.tolist() == [0.25, -0.25]


# Reading


def test_rows_that_are_no_numbers_are_left_out_and_counted(spheres, tmp_path, caplog):
    caplog.set_level("INFO", logger="metasdf")
    points, normals = cloud(count=1000)
    points[:7, 1], normals[7:10] = np.nan, 0
    path = tmp_path / "scan.npz"
    np.savez(path, points=points, normals=normals)
    shape = read_shape_input(path)
    assert shape.left_out == 10
    assert len(shape.points) == len(shape.normals) == 990
    reconstruct_file(Ball(), curriculum(spheres, tmp_path), CPU, path, tmp_path / "o.ply")
    assert "10 rows left out" in caplog.text


def test_colours_and_absent_normals_are_no_normals(tmp_path):
    points, normals = cloud(count=100)
    path = tmp_path / "scan.xyz"
    np.savetxt(path, np.hstack([points, np.full((100, 3), 200)]))
    assert read_shape_input(path).kind == "points"
    np.savetxt(path, np.hstack([points, normals]))
    assert read_shape_input(path).kind == "points with normals"
    path = tmp_path / "scan.ply"
    write_cloud(path, points, np.zeros((100, 3)))
    assert read_shape_input(path).kind == "points"


# Context points and noise


@pytest.mark.parametrize("mode", ["dense", "levelset"])
def test_noise_moves_the_context_but_neither_distances_nor_queries(mode, spheres, tmp_path):
    settings = curriculum(spheres, tmp_path, context_mode=mode)
    shapes = read_split(settings["test_split"])
    samples = Samples(spheres, shapes[0])
    clean = draw_reconstruction_task(samples, settings)
    noisy = draw_reconstruction_task(samples, {**settings, "context_noise": 0.05})
    moved = noisy["context"][0] - clean["context"][0]
    assert moved.std() == pytest.approx(0.05, rel=0.1)
    assert np.array_equal(noisy["context"][1], clean["context"][1])
    for part in range(2):
        assert np.array_equal(noisy["query"][part], clean["query"][part])
    again = draw_reconstruction_task(samples, {**settings, "context_noise": 0.05})
    assert np.array_equal(again["context"][0], noisy["context"][0])
    other = Samples(spheres, shapes[1])
    clean = draw_reconstruction_task(other, settings)["context"][0]
    noisy = draw_reconstruction_task(other, {**settings, "context_noise": 0.05})["context"][0]
    assert not np.allclose(noisy - clean, moved, atol=0.01)


@pytest.mark.parametrize(("mode", "default"), [("dense", 1000), ("levelset", 10_000)])
def test_the_number_of_context_points_can_be_chosen(mode, default, spheres, tmp_path):
    settings = curriculum(
        spheres, tmp_path, context_mode=mode, reconstruction_levelset_samples=10_000
    )
    samples = Samples(spheres, read_split(settings["test_split"])[0])
    before = draw_reconstruction_task(samples, settings)
    assert len(before["context"][0]) == default
    for count in (1, 50, 801, 3000):
        task = draw_reconstruction_task(samples, {**settings, "context_points": count})
        x, y = task["context"]
        assert len(x) == len(y) == count
        if mode == "dense":
            assert abs((y > 0).sum() - count / 2) <= 1
            known = {row.tobytes() for row in x}
            assert not known & {row.tobytes() for row in task["query"][0]}
        if count <= default:  # what is asked does not depend on what is known
            assert np.array_equal(task["query"][0], before["query"][0])


def test_noise_and_number_reach_the_model(spheres, tmp_path):
    seen = {}

    class Spy(Ball):
        def adapt(self, context, num_steps=None):
            seen["radius"] = context[0].norm(dim=-1)
            return super().adapt(context, num_steps)

    path = write(tmp_path, "ply points")
    settings = curriculum(spheres, tmp_path, context_points=700, context_noise=0.03)
    reconstructed(Spy(), settings, path, tmp_path / "o.ply")
    assert seen["radius"].shape == (1, 700)
    assert seen["radius"].std().item() == pytest.approx(0.03, rel=0.15)


# The command


def run(*arguments, monkeypatch):
    """Run the script in this process; its exit code."""
    monkeypatch.setattr(sys, "argv", ["run_reconstruct.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / "3D" / "scripts" / "run_reconstruct.py"), run_name="__main__")
    return caught.value.code or 0


@pytest.fixture(scope="module")
def trained(spheres, tmp_path_factory):
    """A model that has seen spheres, and a checkpoint of it."""
    folder = tmp_path_factory.mktemp("trained")
    settings = curriculum(
        spheres, folder, context_mode="dense", num_epochs=60, lr=2e-3, validate_every=60
    )
    assert train(settings, device=CPU).left_out == 0
    return folder / "checkpoints" / "latest.pth"


def test_a_trained_model_rebuilds_a_sphere_from_the_command_line(
    trained, tmp_path, monkeypatch, capsys
):
    path, folder = write(tmp_path, "xyz oriented"), tmp_path / "results"
    where = ("--reconstruction_output_dir", folder, "--resolution", 32)
    arguments = ("tables_tiny", "--checkpoint", trained, "--input", path, *where)
    assert run(*arguments, "--reconstruction_steps", 4, monkeypatch=monkeypatch) in MESHED
    output = capsys.readouterr().out
    assert "scan.xyz: points with normals, 3000 points" in output
    assert "dense; 4 steps in" in output
    assert "note: the context" not in output
    mesh = trimesh.load_mesh(folder / "scan_reconstruction.ply")
    assert mesh.bounds.mean(axis=0) == pytest.approx(SHIFT, abs=0.2 * SCALE)
    record = json.loads((folder / "scan_reconstruction.ply.json").read_text())
    assert record["distance"]["relative_mean"] < 0.2
    assert record["curriculum"]["context_mode"] == "dense"
    assert record["checkpoint"] == str(trained)
    # The points as they are: another context mode than the model knows.
    assert run(*arguments, "--context_mode", "levelset", monkeypatch=monkeypatch) in (*MESHED, 1)
    output = capsys.readouterr().out
    assert "note: the context is levelset, but the model was trained with dense\n" in output


def test_what_a_model_was_trained_with_is_the_checkpoints(trained, tmp_path, monkeypatch, capsys):
    path = write(tmp_path, "xyz oriented")
    where = ("--reconstruction_output_dir", tmp_path, "--resolution", 24)
    arguments = ("compare_set_hyper", "--checkpoint", trained, "--input", path, *where)
    assert run(*arguments, monkeypatch=monkeypatch) in MESHED
    output = capsys.readouterr().out
    assert "note: the checkpoint is of method metasdf, compare_set_hyper has another" in output
    record = json.loads((tmp_path / "scan_reconstruction.ply.json").read_text())["curriculum"]
    assert (record["method"], record["lr"], record["num_epochs"]) == ("metasdf", 2e-3, 60)
    assert record["resolution"] == 24
    assert run(*arguments, "--lr", 2e-3, monkeypatch=monkeypatch) in MESHED
    capsys.readouterr()
    for option, value in (("--hidden_features", 64), ("--lr", 1e-3)):
        assert run(*arguments, option, value, monkeypatch=monkeypatch) == 2
        assert f"{option} {value}: {trained} was trained with" in capsys.readouterr().err


def test_surface_that_is_made_up_shows_on_the_way_back(spheres, tmp_path, caplog):
    caplog.set_level("INFO", logger="metasdf")

    class More(Ball):
        """The ball that was given, and a small one in each corner of the cube."""

        def predict(self, x, fields):
            other = (x.abs() - 0.78).norm(dim=-1, keepdim=True) - 0.2
            return torch.minimum(super().predict(x, fields), other)

    settings = curriculum(spheres, tmp_path)
    path = write(tmp_path, "ply points")
    _, one = reconstructed(Ball(), settings, path, tmp_path / "one.ply")
    _, more = reconstructed(More(), settings, path, tmp_path / "more.ply")
    assert more["distance"]["relative_mean"] < one["distance"]["relative_mean"] + 4e-3
    assert more["distance"]["back_relative_mean"] > one["distance"]["back_relative_mean"] + 5e-3
    assert more["held_out_error"] > one["held_out_error"] + 5e-3
    assert (one["trusted"], more["trusted"]) == (True, False)
    assert (one["pieces"], more["pieces"]) == (1, 9)
    assert "the surface has 9 pieces; 9 kept" in caplog.text
    _, kept = reconstructed(More(), {**settings, "keep": "largest"}, path, tmp_path / "kept.ply")
    assert (kept["pieces"], kept["trusted"]) == (9, True)
    assert "the surface has 9 pieces; 1 kept" in caplog.text


def test_a_result_far_from_the_input_is_told(spheres, tmp_path, caplog):
    caplog.set_level("INFO", logger="metasdf")

    class Small(Ball):
        def predict(self, x, fields):
            return super().predict(x, fields) + 0.4

    reconstructed(
        Small(), curriculum(spheres, tmp_path), write(tmp_path, "obj mesh"), tmp_path / "o.ply"
    )
    assert "do not trust this one: its error" in caplog.text


def test_a_field_without_surface_leaves_no_file(spheres, tmp_path, caplog):
    caplog.set_level("INFO", logger="metasdf")

    class Nothing(Ball):
        def predict(self, x, fields):
            return torch.ones(*x.shape[:-1], 1)

    path, output = write(tmp_path, "ply points"), tmp_path / "out.ply"
    settings = curriculum(spheres, tmp_path)
    reconstructed(Ball(), settings, path, output)
    assert reconstruct_file(Nothing(), settings, CPU, path, output) == 1
    assert "failed:" in caplog.text
    assert [file.name for file in tmp_path.iterdir()] == ["scan.ply"]


def bad_files(folder):
    """Files that cannot be used, by name, and what is said of each."""
    points, _ = cloud(count=50)
    few = "holds {} usable points of {}; at least " + str(MIN_POINTS)

    def text(name, content):
        (folder / name).write_text(content)

    text("empty.xyz", "")
    text("words.xyz", "one two three\n")
    np.savetxt(folder / "counted.xyz", points, header="50", comments="")
    text("binary.npz", "no archive")
    text("kind.csv", "1,2,3\n")
    text("empty.ply", "")
    text("faces.ply", "ply\nformat ascii 1.0\nelement face 0\nend_header\n")
    text("empty.obj", "")
    np.savetxt(folder / "four.xyz", np.ones((20, 4)))
    np.savetxt(folder / "nan.xyz", np.full((20, 3), np.nan))
    np.savetxt(folder / "few.xyz", points[:4])
    np.savetxt(folder / "one.xyz", np.ones((20, 3)))
    np.savetxt(folder / "far.xyz", points + 1e12)
    write_cloud(folder / "nan.ply", np.full((20, 3), np.nan))
    np.savez(folder / "pickle.npz", points=np.array([{"a": 1}] * 20, object))
    np.savez_compressed(folder / "pickled.npz", points=np.array([{"a": 1}] * 20, object))
    np.savez(folder / "other.npz", vertices=points)
    np.savez(folder / "words.npz", points=np.full((20, 3), "x"))
    np.savez(folder / "flat.npz", points=points.ravel())
    np.savez(folder / "uneven.npz", points=points, normals=points[:20])
    np.savez(folder / "columns.npz", pos=points, neg=points)
    np.savez(folder / "outside.npz", points=points, sdf=np.ones(50))
    rows = sdf_samples(count=200)
    rows = rows[rows[:, 3] > 0]
    np.savez(folder / "noneg.npz", pos=rows, neg=rows[:0])
    np.savez(folder / "large.npz", pos=rows * 500, neg=-rows * 500)
    return {
        "absent.ply": "there is no such file",
        "empty.xyz": "holds no points",
        "words.xyz": "is not a table of numbers",
        "counted.xyz": "no row that counts them",
        "binary.npz": "is damaged or no npz file",
        "kind.csv": "is of no known kind",
        "empty.ply": "empty.ply",
        "faces.ply": "faces.ply",
        "empty.obj": few.format(0, 0),
        "four.xyz": "has 4 columns",
        "nan.xyz": few.format(0, 20),
        "few.xyz": few.format(4, 4),
        "one.xyz": "all points are the same",
        "far.xyz": "too far from the origin",
        "nan.ply": few.format(0, 20),
        "pickle.npz": "Python objects",
        "pickled.npz": "Python objects",
        "other.npz": "holds vertices; want",
        "words.npz": "points is <U1",
        "flat.npz": "want [n, 3]",
        "uneven.npz": "want [50, 3]",
        "columns.npz": "want [n, 4]",
        "outside.npz": "no sample lies inside",
        "noneg.npz": "no sample lies inside",
        "large.npz": "outside of the cube",
    }


@pytest.fixture(scope="module")
def untrained(spheres, tmp_path_factory):
    folder = tmp_path_factory.mktemp("untrained")
    settings = curriculum(spheres, folder)
    state = {"curriculum": settings, "epoch": 0, "optimizer": {}, "train_shapes": []}
    save_checkpoint(folder / "model.pth", {**state, "model": build_model(settings).state_dict()})
    return folder / "model.pth"


def test_what_cannot_be_used_ends_with_one_line_and_code_2(
    untrained, tmp_path, monkeypatch, capsys
):
    files = tmp_path / "files"
    files.mkdir()
    for name, message in bad_files(files).items():
        code = run(
            *("tables_tiny", "--checkpoint", untrained, "--input", files / name),
            *("--output", tmp_path / "out.ply", "--context_mode", "dense"),
            monkeypatch=monkeypatch,
        )
        error = capsys.readouterr().err
        assert (name, code, error.count("\n")) == (name, 2, 1), error
        assert error.startswith("error: ")
        assert name in error
        assert message in error
    assert [file.name for file in tmp_path.iterdir()] == ["files"]


def test_options_that_do_not_go_together_are_told(untrained, tmp_path, monkeypatch, capsys):
    path = write(tmp_path, "ply points")
    before = path.read_bytes()
    link = tmp_path / "link.ply"
    link.symlink_to(path)
    given = ("--input", path)
    for arguments, message in (
        ((*given, "--output", path), "is the input itself"),
        ((*given, "--output", link), "is the input itself"),
        ((*given, "--output", tmp_path / "out.off"), "written as one of"),
        ((*given, "--normalization", tmp_path / "no.npz"), "file not found"),
        ((*given, "--open", "close"), "--open"),
        ((*given, "--trajectories", 1), "--trajectories goes without --input"),
        (("--output", tmp_path / "out.ply"), "--output goes with --input"),
        ((*given, "--context_noise", "-1"), "context_noise"),
        ((*given, "--context_points", "0"), "context_points"),
    ):
        arguments = ("tables_tiny", "--checkpoint", untrained, *arguments)
        assert run(*arguments, monkeypatch=monkeypatch) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert message in error
    assert path.read_bytes() == before
