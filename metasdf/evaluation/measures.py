"""Measures between two shapes, given as surface points (n, 3) or as meshes, in one frame."""

from typing import NamedTuple

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from metasdf.errors import InputError
from metasdf.geometry.sdf import signed_distance

IOU_POINTS = 100_000
F_SCORE_THRESHOLD = 0.01


class Matching(NamedTuple):
    """Nearest neighbours between points a (n, 3) and b (m, 3): what the measures are made of."""

    a_to_b: np.ndarray  # distance of each point of a to the nearest of b, (n,)
    in_b: np.ndarray  # which that is, (n,)
    b_to_a: np.ndarray  # (m,)
    in_a: np.ndarray  # (m,)


def match(a: np.ndarray, b: np.ndarray) -> Matching:
    """Find the nearest neighbours, both ways; a (n, 3) and b (m, 3)."""
    return Matching(*cKDTree(b).query(a, workers=-1), *cKDTree(a).query(b, workers=-1))


def chamfer(matching: Matching) -> float:
    """mean_a min_b |a - b|^2 + mean_b min_a |a - b|^2."""
    return float(np.mean(matching.a_to_b**2) + np.mean(matching.b_to_a**2))


def chamfer_l1(matching: Matching) -> float:
    """Half of mean_a min_b |a - b| + mean_b min_a |a - b|.

    The convention of Occupancy Networks (Mescheder et al. 2019): the mean of the two means.
    """
    return float(np.mean(matching.a_to_b) + np.mean(matching.b_to_a)) / 2


def f_score(matching: Matching, threshold: float = F_SCORE_THRESHOLD) -> float:
    """Harmonic mean of precision and recall (Knapitsch et al. 2017), 0 to 1.

    Precision is the share of a that lies within `threshold` of a point of b, recall the share of b
    within it of a point of a.
    """
    precision = np.mean(matching.a_to_b <= threshold)
    recall = np.mean(matching.b_to_a <= threshold)
    if precision + recall == 0:
        return 0.0
    return float(2 * precision * recall / (precision + recall))


def normal_consistency(matching: Matching, a_normals: np.ndarray, b_normals: np.ndarray) -> float:
    """Mean |cos| between the unit normals of nearest points, the mean of both directions, 0 to 1.

    Occupancy Networks (Mescheder et al. 2019); normals (n, 3) and (m, 3).
    """
    a_to_b = np.abs(np.sum(a_normals * b_normals[matching.in_b], axis=1)).mean()
    b_to_a = np.abs(np.sum(b_normals * a_normals[matching.in_a], axis=1)).mean()
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
