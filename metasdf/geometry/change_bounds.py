"""Bounds on how much a function changes between points of a grid, estimated from its gradients.

Bounds are rows of seven numbers per grid spacing: the largest decrease along x, y and z, the
largest increase along x, y and z, and the largest norm of the gradient.
"""

import numpy as np
from scipy.ndimage import maximum_filter

MARGIN = 0.25  # by which observed ranges of slopes are widened, as a share of the range
NORM_MARGIN = 0.1  # additional widening, as a share of the gradient's norm


def estimate_bounds(index: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Bounds in blocks, from the gradients at their centres and at those of adjacent blocks.

    Args:
        index: (n, 3) int, the positions of the blocks among blocks of their size.
        gradients: (n, 3), per grid spacing.

    Returns:
        (n, 7), with a margin.
    """
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    observed = np.concatenate([-gradients, gradients, norms], axis=1)
    largest = _largest_around(index, observed)
    bounds = widen(largest[:, :6])
    bounds[:, 6] = (1 + MARGIN) * largest[:, 6]
    return bounds


def signs_differ(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether a block and its adjacent blocks have values of both signs or a zero: (n,) bool.

    index: (n, 3), as for `estimate_bounds`. values: (n,), at the centres.
    """
    largest = _largest_around(index, np.stack([-values, values], axis=1))
    return (largest >= 0).all(axis=1)


def _largest_around(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The largest of values (n, k) at each position (n, 3) and the 26 around it: (n, k)."""
    volume = np.full(index.max(axis=0) + 1, -np.inf, values.dtype)
    largest = np.empty_like(values)
    for column in range(values.shape[1]):
        volume[tuple(index.T)] = values[:, column]
        largest[:, column] = maximum_filter(volume, size=3)[tuple(index.T)]
    return largest


def with_norm(changes: np.ndarray) -> np.ndarray:
    """Bounds (n, 7) of changes (n, 6), the largest decreases and increases along each axis."""
    largest = np.maximum(changes[:, :3], changes[:, 3:]).clip(0)
    return np.concatenate([changes, np.linalg.norm(largest, axis=1, keepdims=True)], axis=1)


def widen(changes: np.ndarray) -> np.ndarray:
    """Bounds (n, 7) of changes (n, 6), see `with_norm`, with a margin."""
    decreases, increases, norm = np.split(with_norm(changes), [3, 6], axis=1)
    margin = MARGIN / 2 * (decreases + increases) + NORM_MARGIN * norm
    return np.concatenate([decreases + margin, increases + margin, (1 + MARGIN) * norm], axis=1)


def change_range(
    bounds: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest signed change (n,) over any step between `first` and `last`.

    Both the sum of the changes along the axes and the norm limit it.

    Args:
        bounds: (n, 7).
        first, last: (n, 3) or (3,), opposite corners of a box of steps, in grid spacings.
    """
    least = largest = np.float32(0)
    per_axis = np.split(bounds[:, :6].T, 2)
    for decrease, increase, *steps in zip(*per_axis, first.T, last.T, strict=True):
        slopes = (-decrease, increase)
        ends = [slope * step.astype(np.float32) for slope in slopes for step in steps]
        least, largest = least + np.minimum.reduce(ends), largest + np.maximum.reduce(ends)
    farthest = np.linalg.norm(np.maximum(np.abs(first), np.abs(last)), axis=-1)
    by_norm = bounds[:, 6] * farthest.astype(np.float32)
    return np.maximum(least, -by_norm), np.minimum(largest, by_norm)


def merge_bounds(keys: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of keys (n,) once, sorted, with the largest of each of its bounds (n, 7)."""
    unique, place = np.unique(keys, return_inverse=True)
    largest = np.full((len(unique), 7), -np.inf, bounds.dtype)
    np.maximum.at(largest, place, bounds)
    return unique, largest
