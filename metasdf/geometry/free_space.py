"""Which side of a surface points lie on, as far as samples of its signed distance function tell.

A signed distance changes by at most the distance between two points. So around a sample with
distance s the ball of radius |s| lies on one side of the surface, whatever the shape.
"""

from typing import NamedTuple

import numpy as np
from scipy.spatial import ConvexHull, QhullError, cKDTree

NEIGHBOURS = 16  # samples whose balls are looked at, the nearest ones


class FreeSpace(NamedTuple):
    """Points, and what is known of their distance to a surface.

    Attributes:
        points: (n, 3) float32.
        sides: 1 outside, -1 inside, 0 unknown; (n,) float32.
        at_least, at_most: bounds of their distance to the surface (n,) float32.
    """

    points: np.ndarray
    sides: np.ndarray
    at_least: np.ndarray
    at_most: np.ndarray

    def known(self) -> "FreeSpace":
        """Those points whose side is known."""
        return FreeSpace(*(column[self.sides != 0] for column in self))


def free_space(
    points: np.ndarray,
    distances: np.ndarray | None,
    count: int,
    rng: np.random.Generator,
    whole: bool = True,
) -> FreeSpace:
    """Draw uniform points of the cube [-1, 1]^3 and find the sides that follow from samples.

    Args:
        points: (n, 3), in a frame in which the shape lies in the unit ball.
        distances: their signed distances (n,), negative inside; None: they lie on the surface.
        count: how many points to draw.
        rng: source of randomness.
        whole: surface points come from all sides, so that what is beyond their convex hull, by more
            than a tenth of its size, is outside.
    """
    drawn = rng.uniform(-1, 1, size=(count, 3))
    beyond = np.linalg.norm(drawn, axis=1) > 1
    to_sample, nearest = cKDTree(points).query(drawn, min(NEIGHBOURS, len(points)))
    to_sample, nearest = to_sample.reshape(count, -1), nearest.reshape(count, -1)
    if distances is None:
        sides = np.where(beyond | (_outside_hull(points, drawn) if whole else False), 1, 0)
        at_least, at_most = np.zeros(count), to_sample[:, 0]
    else:
        known = distances[nearest]
        room = np.abs(known) - to_sample  # > 0 inside of the ball around a sample
        best = room.argmax(axis=1)[:, None]
        at_least = np.take_along_axis(room, best, axis=1)[:, 0]
        sides = np.where(at_least > 0, np.sign(np.take_along_axis(known, best, axis=1)[:, 0]), 0)
        sides = np.where(beyond, 1, sides)
        at_least, at_most = np.maximum(at_least, 0), (np.abs(known) + to_sample).min(axis=1)
    columns = (drawn, sides, at_least, np.maximum(at_least, at_most))
    return FreeSpace(*(column.astype(np.float32) for column in columns))


def _outside_hull(points: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Whether queries (m, 3) lie clearly outside of the convex hull of points (n, 3): (m,) bool."""
    try:
        planes = ConvexHull(points).equations
    except QhullError:  # flat, or too few
        return np.zeros(len(queries), bool)
    margin = 0.1 * np.ptp(points, axis=0).max()
    return (queries @ planes[:, :3].T + planes[:, 3]).max(axis=1) > margin
