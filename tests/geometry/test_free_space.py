"""Sides of points that follow from samples of a signed distance function."""

import numpy as np
import pytest

from metasdf.geometry.free_space import free_space


def torus(x):
    return np.hypot(np.hypot(x[:, 0], x[:, 1]) - 0.6, x[:, 2]) - 0.2


def samples(count=4000, seed=0):
    """Points in the unit cube, most of them near a torus, and their distances to it."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, size=(10 * count, 3))
    near = np.abs(torus(x)) < 0.1
    return np.concatenate([x[near][: count // 2], x[~near][: count // 2]])


def test_what_follows_from_signed_distances_is_true_and_is_much():
    x = samples()
    free = free_space(x, torus(x), 5000, np.random.default_rng(1))
    truth = torus(free.points.astype(np.float64))
    known = free.sides != 0
    assert known.mean() > 0.9
    assert np.array_equal(free.sides[known], np.sign(truth[known]).astype(np.float32))
    assert (np.abs(truth) >= free.at_least - 1e-6).all()
    assert (np.abs(truth) <= free.at_most + 1e-6).all()
    assert (free.known().sides != 0).all()
    assert len(free.known().points) == known.sum()


def test_of_surface_points_only_what_is_clearly_beyond_them_is_outside():
    angles = np.random.default_rng(0).uniform(0, 2 * np.pi, size=(3000, 2))
    radius = 0.6 + 0.2 * np.cos(angles[:, 1])
    x = np.column_stack([radius * np.cos(angles[:, 0]), radius * np.sin(angles[:, 0])])
    x = np.column_stack([x, 0.2 * np.sin(angles[:, 1])])
    free = free_space(x, None, 5000, np.random.default_rng(1))
    assert set(np.unique(free.sides)) == {0, 1}
    assert torus(free.points[free.sides == 1]).min() > 0.05
    hole = np.linalg.norm(free.points, axis=1) < 0.3  # nothing says that it is outside
    assert (free.sides[hole] == 0).all()
    assert (free.sides == 1).mean() > 0.6
    part = free_space(x, None, 5000, np.random.default_rng(1), whole=False)
    beyond = np.linalg.norm(part.points, axis=1) > 1
    assert np.array_equal(part.sides == 1, beyond)


@pytest.mark.parametrize("points", [np.zeros((1, 3)), np.eye(3) / 2, np.zeros((20, 3))])
def test_points_without_a_hull_say_nothing(points):
    free = free_space(points, None, 500, np.random.default_rng(0))
    beyond = np.linalg.norm(free.points, axis=1) > 1
    assert np.array_equal(free.sides == 1, beyond)
