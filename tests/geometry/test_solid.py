"""Meshes that are not watertight: what is sampled, rejected and thickened, and how well."""

import numpy as np
import pytest
import trimesh

from benchmarks.visibility_reference import outside as reference_outside
from conftest import shared
from metasdf.geometry import rays
from metasdf.geometry.bodies import (
    HALF_THICKNESS,
    NoSolidError,
    find_body,
)
from metasdf.geometry.body_sampling import sample_body_surface, sample_sdf
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.normalisation import normalise
from metasdf.geometry.solids import VisibleSolid, WindingSolid
from metasdf.preparation.depth_camera import scan

RADIUS = 1 / 1.03  # of a normalised ball


def ball(subdivisions=4, radius=1.0):
    return trimesh.creation.icosphere(subdivisions, radius)


def soup(faces, vertices):
    return trimesh.Trimesh(vertices, faces, process=False)


def together(*meshes):
    return trimesh.util.concatenate(meshes)


def square(half=1.0):
    corners = half * np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    return soup([[0, 1, 2], [0, 2, 3]], corners)


def flipped(mesh, share=0.3):
    faces = mesh.faces.copy()
    chosen = np.random.default_rng(0).random(len(faces)) < share
    faces[chosen] = faces[chosen][:, ::-1]
    return soup(faces, mesh.vertices)


def without(mesh, count):
    kept = np.random.default_rng(1).permutation(len(mesh.faces))[count:]
    return soup(mesh.faces[kept], mesh.vertices)


def rows_of(mesh, open_rule="reject", count=30_000):
    body = find_body(normalise(mesh), open_rule)
    return body, np.concatenate(sample_sdf(body, count))


def share_right(rows, truth, near=2e-3):
    """Share of rows with the sign of the true distance, points nearer than the facets aside."""
    far = np.abs(truth) > near
    return np.mean((truth < 0)[far] == (rows[:, 3] <= 0)[far])


def ball_sdf(rows):
    return np.linalg.norm(rows[:, :3], axis=1) - RADIUS


@pytest.mark.parametrize(
    ("name", "mesh", "method"),
    [
        ("doubled", lambda: together(ball(), ball()), "winding number"),
        ("doubled and inverted", lambda: together(ball(), flipped(ball(), 1)), "winding number"),
        ("30 % inverted", lambda: flipped(ball()), "visibility, no border"),
        ("one face missing", lambda: without(ball(), 1), "visibility"),
        ("20 faces missing", lambda: without(flipped(ball()), 20), "visibility"),
    ],
)
def test_a_damaged_ball_is_a_ball(name, mesh, method):
    both = mesh()
    both.merge_vertices()
    body, rows = rows_of(both)
    assert body.quality.method == method
    assert len(rows) > 0.96 * 30_000
    assert share_right(rows, ball_sdf(rows)) > 0.999
    right = np.abs(ball_sdf(rows)) > 0.05
    assert np.abs(rows[right, 3] - ball_sdf(rows)[right]).max() < 4e-3


def test_junk_inside_does_not_count():
    rng = np.random.default_rng(0)
    junk = soup(np.arange(120).reshape(-1, 3), rng.uniform(-0.45, 0.45, (120, 3)))
    body, rows = rows_of(together(trimesh.creation.box(), junk))
    assert body.quality.hidden > 0.3
    half = 0.5 * (2 / np.sqrt(3)) * RADIUS
    q = np.abs(rows[:, :3].astype(float)) - half
    truth = np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)
    assert len(rows) == 30_000
    assert np.abs(rows[:, 3] - truth).max() < 1e-6


def test_a_void_is_kept_by_orientation_and_filled_by_visibility():
    core = ball(3, 0.4)
    core.invert()
    hollow = together(ball(), core)
    body, rows = rows_of(hollow)
    assert body.quality.method == "winding number"
    inner = np.linalg.norm(rows[:, :3], axis=1) < 0.35
    assert (rows[inner, 3] > 0).all()
    body, rows = rows_of(flipped(hollow))
    assert body.quality.method == "visibility, no border"
    inner = np.linalg.norm(rows[:, :3], axis=1) < 0.35
    assert inner.any()
    assert np.abs(rows[inner, 3] - ball_sdf(rows)[inner]).max() < 5e-3


def cup(height):
    """The part of a ball below `height`."""
    mesh = ball()
    return soup(mesh.faces[mesh.triangles_center[:, 2] < height], mesh.vertices)


@pytest.mark.parametrize(
    ("mesh", "reason"),
    [
        (square, "no thickness"),
        (lambda: together(square(), square()), "no thickness"),
        (lambda: cup(0.0), "no thickness"),
        (lambda: cup(0.5), "open"),
        (lambda: cup(0.9), "open"),
        (lambda: without(ball(), 125), "open"),
        (lambda: together(ball(3), square(2)), "no thickness"),
    ],
)
def test_an_open_mesh_is_rejected_with_the_reason(mesh, reason):
    with pytest.raises(NoSolidError, match=reason) as caught:
        find_body(normalise(mesh()))
    quality = caught.value.quality
    assert quality.ambiguous > 0.06 or quality.zero_thickness > 0.1
    assert "edges are open" in str(caught.value) or "doubled" in str(caught.value)


def test_a_thickened_sheet_has_the_distance_to_a_slab_with_round_edges():
    body, rows = rows_of(square(), "thicken")
    assert body.quality.method == "visibility, thickened"
    beyond = np.abs(rows[:, :3].astype(float)) - np.array([1, 1, 0]) * RADIUS / np.sqrt(2)
    truth = np.linalg.norm(np.maximum(beyond, 0), axis=1) - HALF_THICKNESS
    assert np.abs(rows[:, 3] - truth).max() < 1e-6
    assert (rows[:, 3] < 0).sum() > 1000


def test_a_thickened_cup_is_a_shell_and_a_ball_with_a_wing_stays_solid():
    body, rows = rows_of(cup(0.5), "thicken")
    assert body.quality.method == "visibility, thickened shell"
    height = rows[:, 2] + normalise(cup(0.5)).vertices[:, 2].min() * -1 - RADIUS
    assert (rows[:, 3] >= -HALF_THICKNESS - 1e-6).all()
    assert (rows[(np.abs(rows[:, :2]).max(axis=1) < 0.3) & (np.abs(height) < 0.3), 3] > 0).all()

    body, rows = rows_of(together(ball(4), square(2)), "thicken")
    assert body.quality.method == "visibility, thickened"
    assert not body.shell
    assert rows[:, 3].min() < -0.2


@pytest.mark.parametrize("mesh", [square, lambda: cup(0.5), lambda: together(ball(3), square(2))])
def test_surface_samples_of_a_thickened_mesh_lie_where_its_distance_is_0(mesh):
    body = find_body(normalise(mesh()), "thicken")
    points = sample_body_surface(body, 2000, np.random.default_rng(0))
    assert points.shape == (2000, 3)
    nearest = trimesh.proximity.closest_point(body.solid.surface, points)[1]
    assert np.abs(nearest - HALF_THICKNESS).max() < 1e-6


def test_surface_samples_leave_out_what_is_hidden():
    boxes = [trimesh.creation.box().apply_translation([x, 0, 0]) for x in (-0.25, 0.25)]
    for mesh in (together(*boxes), flipped(together(*boxes))):
        body = find_body(normalise(mesh))
        points = sample_body_surface(body, 3000, np.random.default_rng(0))
        outside = np.abs(points) / body.solid.surface.bounds[1]
        assert np.abs(outside.max(axis=1) - 1).max() < 1e-6
        assert np.allclose(points.mean(axis=0), 0, atol=0.03)


def test_the_two_kinds_of_solid_agree_on_a_watertight_mesh():
    mesh = normalise(trimesh.creation.torus(1, 0.2, 48, 24))
    points = np.random.default_rng(0).uniform(-1, 1, (5000, 3))
    assert np.array_equal(VisibleSolid(mesh).outside(points), WindingSolid(mesh).outside(points))


def test_visibility_is_the_same_without_embree(monkeypatch):
    mesh = normalise(without(flipped(ball(3)), 3))
    points = np.random.default_rng(0).uniform(-1, 1, (500, 3))
    with_embree = VisibleSolid(mesh).outside(points)
    monkeypatch.setattr(rays, "EmbreeScene", None)
    assert np.mean(VisibleSolid(mesh).outside(points) == with_embree) > 0.99


def agreement(mesh, count=2000):
    """Share of our samples on whose side the reference agrees, and of those left out."""
    body = find_body(mesh)
    pos, neg = sample_sdf(body, 20_000)
    rows = np.concatenate([pos, neg])
    chosen = np.random.default_rng(0).choice(len(rows), count, replace=False)
    outside = reference_outside(mesh, rows[chosen, :3].astype(float))
    return np.mean(outside == (chosen < len(pos))), 1 - len(rows) / 20_000


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "ShapeNetV2/02876657/e9371d3abbb3bb7265bca0cae1ecfff5/models/model_normalized.obj",
        "ShapeNetV2/03797390/ea127b5b9ba0696967699ff4ba91a25/models/model_normalized.obj",
        "single/chair.obj",
        "psb/plane/m1172.off",
        "psb/plane/m1121.off",
        "psb/table/m874.off",
        "psb/table/m910.off",
    ],
)
def test_real_meshes_agree_with_the_brute_force_reference(name):
    share, left_out = agreement(normalise(load_mesh(shared("data", "meshes", *name.split("/")))))
    assert share >= 0.995
    assert left_out < 0.2


@pytest.mark.parametrize("name", ["teapot.obj", "stanford-bunny.obj"])
def test_the_open_teapot_and_the_holed_bunny_are_rejected(name):
    mesh = normalise(load_mesh(shared("data", "meshes", "single", name)))
    with pytest.raises(NoSolidError, match="open"):
        find_body(mesh)


# Depth scans.


def test_a_scan_sees_one_side_of_a_ball():
    body = find_body(normalise(ball(5)))
    points = scan(body, 5000, np.random.default_rng(0))
    assert points.shape == (5000, 3)
    assert np.abs(np.linalg.norm(points, axis=1) - RADIUS).max() < 1e-3
    view = points.mean(axis=0) / np.linalg.norm(points.mean(axis=0))
    # From distance D the points with p.view > r^2 / D are seen, up to the edge.
    along = points @ view
    edge = RADIUS**2 * np.sin(np.radians(14))
    assert along.min() == pytest.approx(edge, abs=0.06)
    assert np.array_equal(points, scan(body, 5000, np.random.default_rng(0)))
    other = scan(body, 5000, np.random.default_rng(1)).mean(axis=0)
    assert np.linalg.norm(other - points.mean(axis=0)) > 0.1


def test_noise_moves_scanned_points_along_their_rays():
    body = find_body(normalise(trimesh.creation.box()))
    clean = scan(body, 4000, np.random.default_rng(0))
    noisy = scan(body, 4000, np.random.default_rng(0), noise=0.02)
    moved = noisy - clean
    assert np.linalg.norm(moved, axis=1).std() > 0.01
    assert np.sqrt((moved**2).sum(axis=1).mean()) == pytest.approx(0.02, rel=0.05)
    # The lines on which points moved meet in one place: the camera, 1 / sin(14 degrees) away.
    directions = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    across = np.eye(3) - directions[:, :, None] * directions[:, None, :]
    camera = np.linalg.solve(across.sum(axis=0), (across @ clean[:, :, None]).sum(axis=0)[:, 0])
    assert np.linalg.norm(camera) == pytest.approx(1 / np.sin(np.radians(14)), rel=1e-3)
    assert np.linalg.norm(across @ (camera - clean)[:, :, None], axis=1).max() < 1e-2


def test_a_scan_of_a_thickened_sheet_lies_on_the_thickened_surface():
    body = find_body(normalise(square()), "thicken")
    points = scan(body, 1000, np.random.default_rng(0))
    assert np.allclose(np.abs(points[:, 2]), HALF_THICKNESS, atol=1e-6)
    assert len(np.unique(np.sign(points[:, 2]))) == 1
