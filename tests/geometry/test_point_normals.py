"""Normals of points that come without: their planes, and which side is outside."""

import numpy as np
import pytest
import trimesh

from metasdf.geometry.point_normals import estimated_normals, oriented_normals
from metasdf.preparation.shapes import make_shape


def sampled(mesh, count, seed=0):
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=seed)
    return np.asarray(points), mesh.face_normals[faces]


def inverted(mesh):
    mesh.invert()
    return mesh


def test_planes_through_neighbours_give_the_normals_of_a_sphere():
    points, _ = sampled(trimesh.creation.icosphere(subdivisions=4), 3000)
    normals = estimated_normals(points)
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1)
    outward = points / np.linalg.norm(points, axis=1, keepdims=True)
    assert np.median(np.abs((normals * outward).sum(axis=1))) > 0.995


@pytest.mark.parametrize(
    "mesh",
    [
        trimesh.creation.icosphere(subdivisions=4),
        trimesh.creation.box((1, 0.4, 0.2)),
        trimesh.creation.torus(0.5, 0.15),
        trimesh.util.concatenate(  # two parts: neither may be inside out
            [
                trimesh.creation.icosphere(subdivisions=3),
                trimesh.creation.icosphere(subdivisions=3).apply_translation((4, 0, 0)),
            ]
        ),
        trimesh.util.concatenate(  # the inner surface points into its cavity
            [
                trimesh.creation.icosphere(subdivisions=3),
                inverted(trimesh.creation.icosphere(subdivisions=3, radius=0.6)),
            ]
        ),
    ],
    ids=["sphere", "box", "torus", "two spheres", "hollow sphere"],
)
@pytest.mark.parametrize("moved", [0.0, 100.0])
def test_normals_point_outward(mesh, moved):
    points, truth = sampled(mesh, 4000)
    normals = oriented_normals(points + moved)
    assert ((normals * truth).sum(axis=1) > 0).mean() > 0.99


def test_normals_of_procedural_solids_point_outward():
    right = []
    for index in range(6):
        points, truth = sampled(make_shape("general", 5, index), 10_000)
        right.append(((oriented_normals(points) * truth).sum(axis=1) > 0).mean())
    assert np.median(right) > 0.97  # thin plates are hard
    assert max(right) > 0.99


def test_noise_changes_few_of_them():
    points, truth = sampled(trimesh.creation.torus(0.5, 0.15), 4000)
    noisy = points + np.random.default_rng(0).normal(scale=0.005, size=points.shape)
    assert ((oriented_normals(noisy) * truth).sum(axis=1) > 0).mean() > 0.97


def test_points_that_occur_twice_have_the_same_normal():
    points, truth = sampled(trimesh.creation.icosphere(subdivisions=3), 500)
    normals = oriented_normals(np.concatenate([points, points[::2]]))
    np.testing.assert_array_equal(normals[500:], normals[:500:2])
    assert ((normals[:500] * truth).sum(axis=1) > 0).all()


def test_many_small_parts_point_outward():
    places = np.random.default_rng(0).uniform(-20, 20, (60, 3))
    ball, truth = sampled(trimesh.creation.icosphere(subdivisions=3, radius=0.3), 40)
    points = (places[:, None] + ball).reshape(-1, 3)
    normals = oriented_normals(points).reshape(60, 40, 3)
    assert ((normals * truth).sum(axis=-1) > 0).mean() > 0.98


@pytest.mark.parametrize("count", [10, 13, 20, 50])
def test_few_points_are_enough(count):
    points, truth = sampled(trimesh.creation.icosphere(subdivisions=3), count)
    normals = oriented_normals(points)
    assert np.linalg.norm(normals, axis=1) == pytest.approx(1)
    assert ((normals * truth).sum(axis=1) > 0).mean() > 0.75
