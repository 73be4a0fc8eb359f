"""The points of a grid at which a field has been evaluated, and its values there."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from metasdf.geometry.grid import POINTS_PER_CALL, check_finite, grid_coordinates

GRADIENTS_PER_CALL = 2**11  # fewer, as gradients need more memory

# (n, 3) -> two tensors (n,): the signed distance, and a differentiable function of the same sign.
Field = Callable[[Tensor], tuple[Tensor, Tensor]]


class EvaluatedPoints:
    """A growing set of grid points with the values of a field.

    Points have integer indices (i, j, k), where (1, 1, 1) is the corner (-1, -1, -1) of the grid:
    a layer of points around it has indices as well. A key is the number of an index in row-major
    order.

    Attributes:
        keys: (n,) int64, sorted: the points evaluated.
        distances, values: (n,) float32, what `Field` returned there.
    """

    def __init__(self, field: Field, resolution: int, device: torch.device) -> None:
        self.field = field
        self.resolution = resolution
        self.device = device
        self.side = resolution + 4  # of the index space; blocks may reach beyond the grid
        self.keys = np.empty(0, np.int64)
        self.distances = np.empty(0, np.float32)
        self.values = np.empty(0, np.float32)

    def key(self, index: np.ndarray) -> np.ndarray:
        """The keys (...) of indices (..., 3)."""
        return (index[..., 0] * self.side + index[..., 1]) * self.side + index[..., 2]

    def index(self, keys: np.ndarray) -> np.ndarray:
        """The indices (..., 3) of keys (...)."""
        return np.stack(np.unravel_index(keys, (self.side,) * 3), axis=-1)

    def on_grid(self, index: np.ndarray) -> np.ndarray:
        """Whether indices (..., 3) are points of the grid, not around it: (...) bool."""
        return ((index >= 1) & (index <= self.resolution)).all(axis=-1)

    def coordinates(self, keys: np.ndarray) -> Tensor:
        """The points (n, 3) in [-1, 1]^3 of keys (n,)."""
        index = torch.from_numpy(self.index(keys) - 1)
        return grid_coordinates(index, self.resolution).to(self.device)

    def contains(self, keys: np.ndarray) -> np.ndarray:
        """Whether points are evaluated: bool, shaped like the keys."""
        if not len(self.keys):
            return np.zeros(np.shape(keys), bool)
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return self.keys[place] == keys

    def locate(self, keys: np.ndarray) -> np.ndarray:
        """The positions in `keys`, `distances` and `values` of points that are evaluated."""
        return np.searchsorted(self.keys, keys)

    def evaluate(self, keys: np.ndarray) -> np.ndarray:
        """Evaluate those of the points (n,) that are not evaluated yet; `locate` all of them."""
        new = np.unique(keys[~self.contains(keys)])
        distances, values = (np.empty(len(new), np.float32) for _ in range(2))
        for start in range(0, len(new), POINTS_PER_CALL):
            chunk = slice(start, start + POINTS_PER_CALL)
            with torch.no_grad():
                results = self.field(self.coordinates(new[chunk]))
            distances[chunk], values[chunk] = (r.float().cpu().numpy() for r in results)
        self._add(new, distances, values)
        return self.locate(keys)

    def evaluate_gradients(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate points (n,): the function's values (n,) and gradients per spacing (n, 3)."""
        distances, values = (np.empty(len(keys), np.float32) for _ in range(2))
        gradients = np.empty((len(keys), 3), np.float32)
        for start in range(0, len(keys), GRADIENTS_PER_CALL):
            chunk = slice(start, start + GRADIENTS_PER_CALL)
            points = self.coordinates(keys[chunk]).requires_grad_()
            with torch.enable_grad():
                distance, value = self.field(points)
                (gradient,) = torch.autograd.grad(value.sum(), points)
            distances[chunk], values[chunk], gradients[chunk] = (
                r.detach().float().cpu().numpy() for r in (distance, value, gradient)
            )
        self._add(keys, distances, values)
        return values, gradients * (2 / (self.resolution - 1))

    def _add(self, keys: np.ndarray, distances: np.ndarray, values: np.ndarray) -> None:
        """Insert points (n,), checked to be finite; of one that is there already, keep the old."""
        check_finite(distances)
        check_finite(values)
        self.keys, first = np.unique(np.concatenate([self.keys, keys]), return_index=True)
        self.distances = np.concatenate([self.distances, distances])[first]
        self.values = np.concatenate([self.values, values])[first]
