"""Closest points and signed distances to a mesh."""

import igl
import numpy as np
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from metasdf.errors import InputError
from metasdf.geometry.mesh import closedness
from metasdf.geometry.solids import Solid, WindingSolid

_NUM_COMPARED = 8  # successors along the Z-curve; more give fewer patches but cost more


class SurfaceTree:
    """An AABB tree that finds the exact closest points of a mesh."""

    def __init__(self, mesh: trimesh.Trimesh):
        self._mesh = np.ascontiguousarray(mesh.vertices), np.ascontiguousarray(mesh.faces, np.int64)
        self._tree = igl.AABB()
        self._tree.init(*self._mesh)

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distances (n,) float64 of points (n, 3), and the closest surface points (n, 3)."""
        points = np.ascontiguousarray(points, np.float64)
        squared, _, nearest = self._tree.squared_distance(*self._mesh, points)
        return np.sqrt(squared), nearest

    def nearest_faces(self, points: np.ndarray) -> np.ndarray:
        """Indices (n,) of the faces closest to points (n, 3)."""
        points = np.ascontiguousarray(points, np.float64)
        return self._tree.squared_distance(*self._mesh, points)[1]


def signed_distance(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """Signed distance of points (n, 3) to a watertight mesh, in the mesh's units.

    The magnitude is the exact distance to the closest triangle; the sign is that of `WindingSolid`.

    Returns:
        (n,) float32; positive outside, negative inside.

    Raises:
        InputError: the mesh is not watertight (`closedness`).
    """
    defects = closedness(mesh)
    if not defects.watertight:
        raise InputError(f"the mesh is not watertight: {defects.describe()}; repair the mesh")
    distance, _, inside, _ = measure(WindingSolid(mesh), points)
    return np.where(inside, -distance, distance).astype(np.float32)


def measure(
    solid: Solid, points: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Distances to the surface of a solid, and on which side of it points lie.

    Args:
        solid: see `solids`.
        points: (n, 3).

    Returns:
        distance (n,) float64 without sign, closest surface point (n, 3), inside (n,) bool and
        ambiguous (n,) bool.
    """
    order = _z_curve_order(points)  # neighbours in space are near in memory: 1.5 times as fast
    back = np.argsort(order)
    points = np.ascontiguousarray(points, np.float64)[order]
    distance, nearest = SurfaceTree(solid.surface).nearest(points)
    patch, deepest = _one_sided_patches(points, distance)
    inside, ambiguous = solid.classify(points[deepest], distance[deepest])
    return distance[back], nearest[back], inside[patch][back], ambiguous[patch][back]


def _one_sided_patches(points: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group points that certainly lie on one side, so that one of each group needs to be tested.

    The ball around a point that just touches the surface does not contain any of it, so every point
    in that ball is on the same side. Each point is compared with its successors on the Z-curve;
    DeepSDF's sample points then form about one patch for eight points.

    Args:
        points: (n, 3), in the order of a Z-curve.
        distance: (n,), to the surface.

    Returns:
        patch (n,) of each point, and for each patch its point that is farthest from the surface.
    """
    links = []
    for step in range(1, _NUM_COMPARED + 1):
        gap = np.linalg.norm(points[step:] - points[:-step], axis=1)
        reach = 0.999 * np.maximum(distance[step:], distance[:-step])
        first = np.flatnonzero(gap < reach)
        links.append((first, first + step))
    rows, columns = np.concatenate(links, axis=1)
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(len(points),) * 2)
    count, patch = connected_components(graph, directed=False)
    order = np.argsort(distance)
    deepest = np.empty(count, np.int64)
    deepest[patch[order]] = order  # the last one written is the farthest
    return patch, deepest


def _z_curve_order(points: np.ndarray) -> np.ndarray:
    """The order (n,) of points (n, 3) along a Z-order (Morton) curve of 1024 cells a side."""
    low = points.min(axis=0)
    cells = (points - low) * (1023 / max(np.ptp(points, axis=0).max(), 1e-30))
    key = np.zeros(len(points), np.int64)
    for axis, bits in enumerate(cells.astype(np.int64).T):
        for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
            bits = (bits | bits << shift) & mask  # spread the ten bits to every third place
        key |= bits << axis
    return np.argsort(key)
