"""Signed distances to a mesh, and the points at which DeepSDF samples them."""

import igl
import numpy as np
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from metasdf.errors import InputError
from metasdf.geometry.mesh import closedness
from metasdf.geometry.solids import Solid, WindingSolid

_COMPARED = 8  # neighbours along the Z-curve; more find fewer patches but cost more


class SurfaceTree:
    """Finds the nearest points of a mesh, exactly."""

    def __init__(self, mesh: trimesh.Trimesh):
        self._mesh = np.ascontiguousarray(mesh.vertices), np.ascontiguousarray(mesh.faces, np.int64)
        self._tree = igl.AABB()
        self._tree.init(*self._mesh)

    def nearest(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distance (n,) float64 from points (n, 3) to the surface, and where it is least (n, 3)."""
        points = np.ascontiguousarray(points, np.float64)
        squared, _, nearest = self._tree.squared_distance(*self._mesh, points)
        return np.sqrt(squared), nearest

    def nearest_faces(self, points: np.ndarray) -> np.ndarray:
        """Index (n,) of the face that is nearest to each of points (n, 3)."""
        points = np.ascontiguousarray(points, np.float64)
        return self._tree.squared_distance(*self._mesh, points)[1]


def signed_distance(mesh: trimesh.Trimesh, points: np.ndarray) -> np.ndarray:
    """Signed distance of points (n, 3) to a watertight mesh, in the mesh's units.

    The magnitude is the exact distance to the nearest triangle, the sign that of `WindingSolid`.

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
    """Distance (n,), nearest surface point (n, 3), inside (n,), ambiguous (n,) of points (n, 3)."""
    order = _along_z_curve(points)  # neighbours in space, neighbours in memory: 1.5 times as fast
    back = np.argsort(order)
    points = np.ascontiguousarray(points, np.float64)[order]
    distance, nearest = SurfaceTree(solid.surface).nearest(points)
    patch, deepest = _one_sided_patches(points, distance)
    inside, ambiguous = solid.classify(points[deepest], distance[deepest])
    return distance[back], nearest[back], inside[patch][back], ambiguous[patch][back]


def _one_sided_patches(points: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group points that are sure to lie on one side, so that the side of one of each is needed.

    The surface does not enter the ball around a point that reaches to it, so every point in that
    ball is on the same side. Points (n, 3) in the order of a Z-curve are compared with their next
    few on it; that leaves about one patch for eight points of DeepSDF's recipe.

    Returns:
        patch (n,) of each point, and for each patch its point that is farthest from the surface.
    """
    links = []
    for step in range(1, _COMPARED + 1):
        gap = np.linalg.norm(points[step:] - points[:-step], axis=1)
        reach = 0.999 * np.maximum(distance[step:], distance[:-step])
        first = np.flatnonzero(gap < reach)
        links.append((first, first + step))
    rows, columns = np.concatenate(links, axis=1)
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(len(points),) * 2)
    count, patch = connected_components(graph, directed=False)
    order = np.argsort(distance)
    deepest = np.empty(count, np.int64)
    deepest[patch[order]] = order  # the last one written, the farthest, stays
    return patch, deepest


def _along_z_curve(points: np.ndarray) -> np.ndarray:
    """The order (n,) of points (n, 3) along a Z-order (Morton) curve of 1024 cells a side."""
    low = points.min(axis=0)
    cells = (points - low) * (1023 / max(np.ptp(points, axis=0).max(), 1e-30))
    key = np.zeros(len(points), np.int64)
    for axis, bits in enumerate(cells.astype(np.int64).T):
        for shift, mask in ((16, 0x030000FF), (8, 0x0300F00F), (4, 0x030C30C3), (2, 0x09249249)):
            bits = (bits | bits << shift) & mask  # spread the ten bits to every third place
        key |= bits << axis
    return np.argsort(key)
