"""Signed distance field -> the mesh of its zero level set over [-1, 1]^3, by marching cubes.

Here the field is evaluated at every point of a regular grid; `sparse_grid` gives the same mesh from
some hundredth of the points at 256^3.
"""

from collections.abc import Callable

import numpy as np
import torch
import trimesh
from skimage.measure import marching_cubes
from torch import Tensor

POINTS_PER_CALL = 2**13  # small enough for the processor's caches

# The value outside the grid, over the largest on it: so large that a surface that reaches the
# border is cut off right there.
BORDER_FACTOR = 1e4


class NoSurfaceError(ValueError):
    """A field has no zero level set on the grid, so there is nothing to mesh."""


def grid_points(start: int, stop: int, resolution: int) -> Tensor:
    """Points start ... stop - 1 of the grid over [-1, 1]^3, (n, 3) float32; z varies fastest."""
    flat = torch.arange(start, stop)
    index = torch.stack(
        [
            torch.div(flat, resolution**2, rounding_mode="floor"),
            torch.div(flat, resolution, rounding_mode="floor") % resolution,
            flat % resolution,
        ],
        dim=1,
    )
    return grid_coordinates(index, resolution)


def grid_coordinates(index: Tensor, resolution: int) -> Tensor:
    """The grid points with integer indices (n, 3), (n, 3) float32.

    Point (i, j, k) is -1 + 2 (i, j, k) / (resolution - 1), rounded once.
    """
    return (index.double() * (2 / (resolution - 1)) - 1).float()


@torch.no_grad()
def evaluate_grid(
    field: Callable[[Tensor], Tensor], resolution: int, device: torch.device
) -> np.ndarray:
    """The values of a field (n, 3) -> (n,) on the whole grid, (resolution,) * 3 float32."""
    total = resolution**3
    values = np.empty(total, np.float32)
    for start in range(0, total, POINTS_PER_CALL):
        stop = min(start + POINTS_PER_CALL, total)
        points = grid_points(start, stop, resolution).to(device)
        values[start:stop] = field(points).float().cpu().numpy()
    return values.reshape(resolution, resolution, resolution)


def extract_mesh(
    field: Callable[[Tensor], Tensor], resolution: int = 256, device: torch.device | str = "cpu"
) -> trimesh.Trimesh:
    """The zero level set of a field over the cube [-1, 1]^3, by marching cubes on the whole grid.

        ball = extract_mesh(lambda x: x.norm(dim=1) - 0.5, resolution=64)

    Args:
        field: points (n, 3) float32 on `device` -> signed distances (n,), negative inside.
        resolution: grid points along each side.
        device: where the field is evaluated.

    Returns:
        A closed mesh with its faces oriented outward; see `mesh_from_grid`.

    Raises:
        NoSurfaceError: the values do not change sign, or are not all finite.
    """
    return mesh_from_grid(evaluate_grid(field, resolution, torch.device(device)))


def mesh_from_grid(grid: np.ndarray) -> trimesh.Trimesh:
    """The zero level set of signed distances on a grid over [-1, 1]^3, by marching cubes.

    Faces are oriented outward. A surface that reaches the border is closed there.

    Args:
        grid: (resolution,) * 3, from `evaluate_grid`.

    Raises:
        NoSurfaceError: the values do not change sign, or are not all finite.
    """
    check_finite(grid)
    if grid.min() >= 0 or grid.max() <= 0:
        raise no_crossing(grid.min() >= 0, len(grid))
    padded = np.pad(grid, 1, constant_values=BORDER_FACTOR * np.abs(grid).max())
    return grid_mesh(*march_cubes(padded), len(grid))


def check_finite(values: np.ndarray) -> None:
    """NoSurfaceError unless all values of a field are finite."""
    if not np.isfinite(values).all():
        raise NoSurfaceError("the field has values that are not finite")


def no_crossing(outside: bool, resolution: int) -> NoSurfaceError:
    """The error for a field without a change of sign: all outside, or all inside."""
    side = "outside" if outside else "inside"
    return NoSurfaceError(f"the field is {side} everywhere on a grid of {resolution}^3 points")


def march_cubes(
    volume: np.ndarray, mask: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Marching cubes at level 0: vertices (v, 3) float64, in indices, and faces (f, 3).

    volume: (a, b, c). mask: (a, b, c) bool, limits it to the cells whose last corner is True.
    """
    try:
        vertices, faces, _, _ = marching_cubes(volume, level=0.0, mask=mask)
    except RuntimeError:  # values so small that they give no vertex
        return np.empty((0, 3)), np.empty((0, 3), int)
    return vertices.astype(np.float64), faces


def grid_mesh(vertices: np.ndarray, faces: np.ndarray, resolution: int) -> trimesh.Trimesh:
    """The mesh over [-1, 1]^3 of vertices (v, 3) in indices, where 1 is the first of the grid.

    Raises:
        NoSurfaceError: there are no faces.
    """
    if not len(faces):
        raise NoSurfaceError("marching cubes find no surface")
    return trimesh.Trimesh((vertices - 1) * (2 / (resolution - 1)) - 1, faces, process=False)
