"""Measures between two shapes, given as surface points (n, 3) or as meshes, in the same frame.

`chamfer`, `chamfer_l1`, `f_score` and `normal_consistency` are ready to use. Where several are
taken of the same points, `match` finds the nearest neighbours once and the methods of `Matching`
measure.
"""

from typing import NamedTuple

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from metasdf.errors import InputError
from metasdf.geometry.mesh import face_areas, face_normals, sample_surface
from metasdf.geometry.sdf import signed_distance

SURFACE_POINTS = 30_000
IOU_POINTS = 100_000
F_SCORE_THRESHOLD = 0.01

Surface = np.ndarray | trimesh.Trimesh


class Matching(NamedTuple):
    """The nearest neighbours between two sets of points, a (n, 3) and b (m, 3).

    Attributes:
        a_to_b: distance from each point of a to the nearest of b, (n,).
        in_b: the index of that point, (n,).
        b_to_a, in_a: the same the other way round, (m,).
    """

    a_to_b: np.ndarray
    in_b: np.ndarray
    b_to_a: np.ndarray
    in_a: np.ndarray

    def chamfer(self) -> float:
        """See `chamfer`."""
        return float(np.mean(self.a_to_b**2) + np.mean(self.b_to_a**2))

    def chamfer_l1(self) -> float:
        """See `chamfer_l1`."""
        return float(np.mean(self.a_to_b) + np.mean(self.b_to_a)) / 2

    def f_score(self, threshold: float = F_SCORE_THRESHOLD) -> float:
        """See `f_score`."""
        precision = np.mean(self.a_to_b <= threshold)
        recall = np.mean(self.b_to_a <= threshold)
        if precision + recall == 0:
            return 0.0
        return float(2 * precision * recall / (precision + recall))

    def normal_consistency(self, a_normals: np.ndarray, b_normals: np.ndarray) -> float:
        """See `normal_consistency`; unit normals (n, 3) and (m, 3)."""
        a_to_b = np.abs(np.sum(a_normals * b_normals[self.in_b], axis=1)).mean()
        b_to_a = np.abs(np.sum(b_normals * a_normals[self.in_a], axis=1)).mean()
        return float(a_to_b + b_to_a) / 2


def match(a: np.ndarray, b: np.ndarray) -> Matching:
    """Find the nearest neighbours between points a (n, 3) and b (m, 3), both ways."""
    return Matching(*cKDTree(b).query(a, workers=-1), *cKDTree(a).query(b, workers=-1))


def chamfer(a: Surface, b: Surface, *, num_points: int = SURFACE_POINTS, seed: int = 0) -> float:
    """Chamfer distance: mean_a min_b |a - b|^2 + mean_b min_a |a - b|^2, in squared units.

    Args:
        a, b: surface points (n, 3), or meshes, of which `num_points` points are drawn by area.
        num_points: points drawn on a mesh.
        seed: of these points.

    Raises:
        InputError: the points are not finite numbers (n, 3), n >= 1, or a mesh has no area.
    """
    return _match_surfaces(a, b, num_points, seed).chamfer()


def chamfer_l1(a: Surface, b: Surface, *, num_points: int = SURFACE_POINTS, seed: int = 0) -> float:
    """Chamfer-L1 distance: half of mean_a min_b |a - b| + mean_b min_a |a - b|.

    As in Occupancy Networks (Mescheder et al. 2019). Arguments and errors: `chamfer`.
    """
    return _match_surfaces(a, b, num_points, seed).chamfer_l1()


def f_score(
    a: Surface,
    b: Surface,
    threshold: float = F_SCORE_THRESHOLD,
    *,
    num_points: int = SURFACE_POINTS,
    seed: int = 0,
) -> float:
    """F-score: harmonic mean of precision and recall, 0 to 1 (Knapitsch et al. 2017).

    Precision is the share of a within `threshold` of a point of b, recall the share of b within it
    of a point of a. Other arguments and errors: `chamfer`.
    """
    return _match_surfaces(a, b, num_points, seed).f_score(threshold)


def normal_consistency(
    a: Surface,
    b: Surface,
    a_normals: np.ndarray | None = None,
    b_normals: np.ndarray | None = None,
    *,
    num_points: int = SURFACE_POINTS,
    seed: int = 0,
) -> float:
    """Mean |cos| between the normals of nearest points, the mean of both directions, 0 to 1.

    As in Occupancy Networks (Mescheder et al. 2019).

    Args:
        a, b: surface points (n, 3) and (m, 3), or meshes, see `chamfer`.
        a_normals, b_normals: unit normals of the points; meshes have their faces'.
        num_points, seed: see `chamfer`.

    Raises:
        InputError: as for `chamfer`, or points come without normals.
    """
    rng = np.random.default_rng(seed)
    a, a_normals = _surface_points("a", a, num_points, rng, a_normals)
    b, b_normals = _surface_points("b", b, num_points, rng, b_normals)
    if a_normals is None or b_normals is None:
        raise InputError("normal_consistency: points need their normals; give a_normals, b_normals")
    return match(a, b).normal_consistency(a_normals, b_normals)


def iou(
    a: trimesh.Trimesh, b: trimesh.Trimesh, *, num_points: int = IOU_POINTS, seed: int = 0
) -> float | None:
    """Volume of the intersection of two solids over that of their union, 0 to 1.

    Estimated from `num_points` uniform points in the bounding box of both.

    Returns:
        None if a mesh is not watertight, or no point lies inside either.
    """
    if not (len(a.faces) and len(b.faces)):
        return None
    corners = np.concatenate([a.bounds, b.bounds])
    rng = np.random.default_rng(seed)
    points = rng.uniform(corners.min(axis=0), corners.max(axis=0), size=(num_points, 3))
    return iou_at(a, b, points)


def iou_at(a: trimesh.Trimesh, b: trimesh.Trimesh, points: np.ndarray) -> float | None:
    """`iou` estimated from given points (n, 3), uniform in a volume that contains both meshes."""
    try:
        in_a, in_b = (signed_distance(mesh, points) < 0 for mesh in (a, b))
    except InputError:
        return None
    union = np.count_nonzero(in_a | in_b)
    return np.count_nonzero(in_a & in_b) / union if union else None


def _match_surfaces(a: Surface, b: Surface, num_points: int, seed: int) -> Matching:
    rng = np.random.default_rng(seed)  # shared, so that equal meshes get different points
    a, _ = _surface_points("a", a, num_points, rng)
    b, _ = _surface_points("b", b, num_points, rng)
    return match(a, b)


def _surface_points(
    name: str,
    surface: Surface,
    num_points: int,
    rng: np.random.Generator,
    normals: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Points (n, 3) of a surface and their normals (n, 3), `normals` unless it is a mesh."""
    if isinstance(surface, trimesh.Trimesh):
        if not face_areas(surface).sum() > 0:
            raise InputError(f"{name}: the mesh has no area")
        points, faces = sample_surface(surface, num_points, rng)
        return points, face_normals(surface, faces)
    points = np.asarray(surface, np.float64)
    if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
        raise InputError(f"{name}: points are {list(points.shape)}, want [n, 3], n >= 1")
    if not np.isfinite(points).all():
        raise InputError(f"{name}: some points are not finite numbers")
    if normals is not None and np.shape(normals) != points.shape:
        raise InputError(
            f"{name}: normals are {list(np.shape(normals))}, want {list(points.shape)}"
        )
    return points, normals if normals is None else np.asarray(normals, np.float64)
