"""Signed distance field -> the mesh of its zero level set over [-1, 1]^3, by marching cubes.

Two ways to the same mesh. Dense: the field is evaluated at every point of the lattice. Sparse
(`SparseLattice`): only where the surface can be, which is some hundredth of it at 256^3.
"""

from collections.abc import Callable

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

POINTS_PER_CALL = 2**13  # small enough for the processor's caches
BORDER_FACTOR = 1e4  # values outside of the lattice, in largest values on it: it is cut off there


class NoSurfaceError(ValueError):
    """A field has one sign everywhere on the grid, so there is nothing to mesh."""


def grid_points(start: int, stop: int, resolution: int) -> Tensor:
    """Points start ... stop-1 of the lattice over [-1, 1]^3, (n, 3) float32; z runs fastest.

    Computed from integer indices: point (i, j, k) is exactly -1 + 2 (i, j, k) / (resolution - 1).
    """
    flat = torch.arange(start, stop)
    index = torch.stack(
        [
            torch.div(flat, resolution**2, rounding_mode="floor"),
            torch.div(flat, resolution, rounding_mode="floor") % resolution,
            flat % resolution,
        ],
        dim=1,
    )
    return lattice_points(index, resolution)


def lattice_points(index: Tensor, resolution: int) -> Tensor:
    """The lattice's points at integer indices (n, 3): (n, 3) float32."""
    return (index.double() * (2 / (resolution - 1)) - 1).float()


# Dense


@torch.no_grad()
def evaluate_grid(
    field: Callable[[Tensor], Tensor], resolution: int, device: torch.device
) -> np.ndarray:
    """Signed distances on the lattice, (resolution,)*3 float32. field: (n, 3) -> (n,)."""
    total = resolution**3
    values = np.empty(total, np.float32)
    for start in range(0, total, POINTS_PER_CALL):
        stop = min(start + POINTS_PER_CALL, total)
        points = grid_points(start, stop, resolution).to(device)
        values[start:stop] = field(points).float().cpu().numpy()
    return values.reshape(resolution, resolution, resolution)


def extract_mesh(grid: np.ndarray) -> trimesh.Trimesh:
    """The zero level set of signed distances on the lattice over [-1, 1]^3, by marching cubes.

    Faces are oriented outward. A surface that touches the lattice's border is closed there.
    NoSurfaceError if no sign change, or values that are not numbers, leave nothing to mesh.
    """
    check_finite(grid)
    if grid.min() >= 0 or grid.max() <= 0:
        raise no_crossing(grid.min() >= 0, len(grid))
    # One layer of outside, so far out that what touches the border is cut off right there.
    padded = np.pad(grid, 1, constant_values=BORDER_FACTOR * np.abs(grid).max())
    return placed_mesh(*march_cubes(padded), len(grid))


def check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise NoSurfaceError("the field has values that are not finite")


def no_crossing(outside: bool, resolution: int) -> NoSurfaceError:
    side = "outside" if outside else "inside"
    return NoSurfaceError(f"the field is {side} everywhere on a grid of {resolution}^3 points")


def march_cubes(
    volume: np.ndarray, marked: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes, if so on marked cells only: vertices (v, 3), in indices, and faces (f, 3)."""
    try:
        vertices, faces, _, _ = marching_cubes(volume, level=0.0, mask=marked)
    except RuntimeError:  # values so small that no vertex comes of them
        return np.empty((0, 3)), np.empty((0, 3), int)
    return vertices.astype(np.float64), faces


def placed_mesh(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> trimesh.Trimesh:
    """The mesh of vertices at indices, of which 1 is the lattice's first."""
    if not len(faces):
        raise NoSurfaceError("marching cubes find no surface")
    return trimesh.Trimesh((vertices - 1) * (2 / (resolution - 1)) - 1, faces, process=False)
