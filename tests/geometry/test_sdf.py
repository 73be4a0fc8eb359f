"""Signed distances against formulas and an independent winding number; the sampling recipe."""

import igl
import numpy as np
import pytest
import trimesh

from metasdf.errors import InputError
from metasdf.geometry.bodies import NoSolidError, find_body
from metasdf.geometry.body_sampling import sample_sdf
from metasdf.geometry.normalisation import normalise
from metasdf.geometry.sampling import sample_points
from metasdf.geometry.sdf import signed_distance


def concatenate(*meshes):
    return trimesh.util.concatenate(meshes)


def cube(rng, count=20_000):
    return rng.uniform(-1, 1, size=(count, 3))


def box_sdf(points, half):
    q = np.abs(points) - half
    return np.linalg.norm(np.maximum(q, 0), axis=1) + np.minimum(q.max(axis=1), 0)


def test_a_box_has_its_formula_to_float32():
    half = np.array([0.3, 0.5, 0.7])
    points = cube(np.random.default_rng(0))
    distance = signed_distance(trimesh.creation.box(2 * half), points)
    assert distance.dtype == np.float32
    assert np.abs(distance - box_sdf(points, half)).max() < 1e-7


def test_a_fine_sphere_is_near_its_formula():
    points = cube(np.random.default_rng(0))
    distance = signed_distance(trimesh.creation.icosphere(5, 0.8), points)
    assert np.abs(distance - (np.linalg.norm(points, axis=1) - 0.8)).max() < 1e-3


@pytest.mark.parametrize("height", [1e-3, 1e-5, 1e-7, 1e-9])
def test_points_next_to_the_surface_have_the_right_sign(height):
    box = trimesh.creation.box((1, 1, 1))
    box = box.subdivide().subdivide()
    rng = np.random.default_rng(0)
    points, face = trimesh.sample.sample_surface(box, 2000, seed=0)
    side = rng.choice([-1.0, 1.0], size=2000)
    points = points + side[:, None] * height * box.face_normals[face]
    truth = box_sdf(points, 0.5)
    assert np.array_equal(np.sign(signed_distance(box, points)), np.sign(truth))


def test_signs_agree_with_the_exact_winding_number_everywhere():
    mesh = normalise(trimesh.creation.torus(1, 0.05, 32, 12))
    mesh = concatenate(mesh, trimesh.creation.capsule(0.8, 0.1).apply_translation([0, 0, -0.3]))
    points = sample_points(mesh, 40_000, np.random.default_rng(0)).astype(np.float64)
    winding = igl.winding_number(np.array(mesh.vertices), np.array(mesh.faces), points)
    assert np.array_equal(signed_distance(mesh, points) < 0, winding > 0.5)


def test_bodies_overlapping_nested_and_inverted():
    points = cube(np.random.default_rng(0))
    radius = np.linalg.norm(points, axis=1)
    big, small = trimesh.creation.icosphere(4, 0.8), trimesh.creation.icosphere(4, 0.4)
    off = np.abs(radius - 0.8) > 0.01
    off &= np.abs(radius - 0.4) > 0.01

    def inside(*meshes):
        return signed_distance(concatenate(*meshes), points) < 0

    assert np.array_equal(inside(big, small)[off], (radius < 0.8)[off])
    small.invert()  # its faces point into it: a void
    assert np.array_equal(inside(big, small)[off], ((radius < 0.8) & (radius > 0.4))[off])
    assert np.array_equal(inside(small)[off], (radius < 0.4)[off])

    left = trimesh.creation.box((0.8, 0.8, 0.8)).apply_translation([-0.2, 0, 0])
    right = left.copy().apply_translation([0.4, 0, 0])
    step = np.array([0.2, 0, 0])
    union = np.minimum(box_sdf(points + step, 0.4), box_sdf(points - step, 0.4))
    assert np.array_equal(inside(left, right), union < 0)


def test_an_open_mesh_is_refused():
    box = trimesh.creation.box()
    box.update_faces(np.arange(12) > 0)
    with pytest.raises(InputError, match="3 of 18 edges are open"):
        signed_distance(box, np.zeros((1, 3)))


@pytest.mark.parametrize(("test", "wide", "narrow"), [(False, 0.005, 0.0005), (True, 0.05, 0.0005)])
def test_the_recipe_is_deepsdfs(test, wide, narrow):
    # Across a thin plate nothing but the Gaussian spreads the points near the surface.
    plate = normalise(trimesh.creation.box((1, 1e-3, 1)))
    points = sample_points(plate, 50_000, np.random.default_rng(1), test)
    assert points.shape == (50_000, 3)
    assert points.dtype == np.float32
    assert points[:23_500, 1].var() == pytest.approx(wide, rel=0.05)
    assert points[23_500:47_000, 1].var() == pytest.approx(narrow, rel=0.05)
    uniform = points[47_000:]
    assert np.abs(uniform).max() <= 1
    assert np.allclose(uniform.mean(axis=0), 0, atol=0.05)
    assert np.allclose(uniform.var(axis=0), 1 / 3, atol=0.02)


def test_samples_are_divided_by_sign_seeded_and_finite():
    body = find_body(normalise(trimesh.creation.icosphere(3)))
    pos, neg = sample_sdf(body, 5000, np.random.default_rng(2))
    assert pos.dtype == neg.dtype == np.float32
    assert pos.shape[1] == neg.shape[1] == 4
    assert len(pos) + len(neg) == 5000
    assert (pos[:, 3] > 0).all()
    assert (neg[:, 3] <= 0).all()
    for rows in (pos, neg):
        assert np.abs(np.linalg.norm(rows[:, :3], axis=1) - 1 / 1.03 - rows[:, 3]).max() < 0.02
    again = sample_sdf(body, 5000, np.random.default_rng(2))
    assert np.array_equal(pos, again[0])
    assert np.array_equal(neg, again[1])


def test_a_mesh_without_volume_is_refused():
    # Two sheets on one another, triangulated differently: closed, but nothing lies between.
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], float)
    faces = np.array([[0, 1, 2], [0, 2, 3], [1, 0, 3], [1, 3, 2]])
    with pytest.raises(NoSolidError, match="no thickness") as caught:
        find_body(normalise(trimesh.Trimesh(vertices, faces, process=False)))
    assert caught.value.quality.zero_thickness == 1
    assert caught.value.quality.watertight


def test_where_bodies_overlap_the_distance_is_that_of_their_union():
    left = trimesh.creation.box((0.8, 0.8, 0.8)).apply_translation([-0.2, 0, 0])
    right = left.copy().apply_translation([0.4, 0, 0])
    both = normalise(concatenate(left, right))
    half = both.bounds[1]
    body = find_body(both)
    assert body.quality.method == "winding number"
    assert body.quality.hidden == pytest.approx(1 / 6, abs=0.02)
    rows = np.concatenate(sample_sdf(body, 30_000))
    assert len(rows) > 29_900
    assert np.abs(rows[:, 3] - box_sdf(rows[:, :3].astype(float), half)).max() < 1e-6

    right.invert()
    body = find_body(normalise(concatenate(left, right)))  # winding 0 where they overlap
    assert body.quality.method == "visibility, no border"
    rows = np.concatenate(sample_sdf(body, 30_000))
    assert len(rows) > 29_900
    assert np.abs(rows[:, 3] - box_sdf(rows[:, :3].astype(float), half)).max() < 1e-6
