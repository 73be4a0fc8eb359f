"""Measures between two shapes, given as surface points (n, 3) or as meshes, in one frame."""

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from metasdf.errors import InputError
from metasdf.sdf import signed_distance

IOU_POINTS = 100_000
F_SCORE_THRESHOLD = 0.01


def nearest(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each point of a (n, 3) its distance (n,) to the nearest of b (m, 3), and which (n,)."""
    return cKDTree(b).query(a, workers=-1)


def chamfer(a: np.ndarray, b: np.ndarray) -> float:
    """mean_a min_b |a - b|^2 + mean_b min_a |a - b|^2, for points (n, 3) and (m, 3)."""
    return float(np.mean(nearest(a, b)[0] ** 2) + np.mean(nearest(b, a)[0] ** 2))


def chamfer_l1(a: np.ndarray, b: np.ndarray) -> float:
    """Half of mean_a min_b |a - b| + mean_b min_a |a - b|, for points (n, 3) and (m, 3).

    The convention of Occupancy Networks (Mescheder et al. 2019): the mean of the two means.
    """
    return float(np.mean(nearest(a, b)[0]) + np.mean(nearest(b, a)[0])) / 2


def f_score(a: np.ndarray, b: np.ndarray, threshold: float = F_SCORE_THRESHOLD) -> float:
    """Harmonic mean of precision and recall (Knapitsch et al. 2017), 0 to 1.

    Precision is the share of a (n, 3) that lies within `threshold` of a point of b (m, 3), recall
    the share of b within it of a point of a.
    """
    precision = np.mean(nearest(a, b)[0] <= threshold)
    recall = np.mean(nearest(b, a)[0] <= threshold)
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


def normal_consistency(
    a: np.ndarray, a_normals: np.ndarray, b: np.ndarray, b_normals: np.ndarray
) -> float:
    """Mean |cos| between the unit normals of nearest points, the mean of both directions, 0 to 1.

    Occupancy Networks (Mescheder et al. 2019); points and normals (n, 3) and (m, 3).
    """
    _, in_b = nearest(a, b)
    _, in_a = nearest(b, a)
    a_to_b = np.abs(np.sum(a_normals * b_normals[in_b], axis=1)).mean()
    b_to_a = np.abs(np.sum(b_normals * a_normals[in_a], axis=1)).mean()
    return float(a_to_b + b_to_a) / 2


def iou(
    a: trimesh.Trimesh, b: trimesh.Trimesh, rng: np.random.Generator, count: int = IOU_POINTS
) -> float | None:
    """Volume of the intersection over that of the union, from `count` points in [-1, 1]^3.

    None if a mesh is not watertight or no point lies inside either.
    """
    points = rng.uniform(-1, 1, size=(count, 3))
    try:
        in_a, in_b = (signed_distance(mesh, points) < 0 for mesh in (a, b))
    except InputError:
        return None
    union = np.count_nonzero(in_a | in_b)
    return np.count_nonzero(in_a & in_b) / union if union else None
