"""Signed distance field -> mesh, as `grid` does, evaluating the field only near its surface.

`evaluated_points` keeps the values, `change_bounds` limits how they can change, `block_signs` looks
for the surface in small blocks. Blocks and cells are named by the index of their first point.
"""

import itertools
import math
from typing import NamedTuple

import numpy as np
import torch
import trimesh

from metasdf.geometry.block_signs import (
    CORNERS,
    NEIGHBOURS,
    block_centres,
    crossed_cells,
)
from metasdf.geometry.change_bounds import (
    change_range,
    estimate_bounds,
    merge_bounds,
    signs_differ,
    widen,
    with_norm,
)
from metasdf.geometry.evaluated_points import EvaluatedPoints, Field
from metasdf.geometry.grid import BORDER_FACTOR, grid_mesh, march_cubes, no_crossing

MIN_BLOCKS = 18  # along a side, at the coarsest level
BLOCKS_AT_ONCE = 2**15  # bounds the memory
LAYERS_AT_ONCE = 64  # bounds the memory


class _Probes(NamedTuple):
    """What is known of the function in blocks, a row for each.

    Attributes:
        points: (n, 3), indices of grid points in or near the blocks.
        values: (n,), the function there.
        bounds: (n, 7), of its changes.
        has_both_signs: (n,) bool, whether values of both signs are near.
    """

    points: np.ndarray
    values: np.ndarray
    bounds: np.ndarray
    has_both_signs: np.ndarray

    def rows(self, index: np.ndarray) -> "_Probes":
        """Some of the rows, by a mask or by indices."""
        return _Probes(*(array[index] for array in self))


class SparseGrid:
    """The values of a field near its surface, on a grid over [-1, 1]^3.

    The search goes from large blocks of cells to small ones. A block is left out if the function,
    starting from its value at the block's centre, cannot reach zero within it; the others are
    divided. How much it can change is estimated from the gradients at the centres of the block and
    of those that touch it. In the smallest blocks, points whose sign follows from a value nearby
    are not evaluated either. Two corrections follow:

    - Where values change more than estimated, the block and those that touch it are examined again
      with wider bounds.
    - Surface that is found is followed from cell to cell, so that its component is complete.

    Blocks next to a value of the other sign are never left out. A small component can be lost only
    if no centre lies inside it and the gradients at the centres around it do not reveal it: if the
    function is constant except for jumps.

    The mesh is that of `grid.mesh_from_grid` up to rounding: a value of nearly 0 may have another
    sign when it is evaluated in another batch. Points around the grid count as outside; a block at
    the border is left out only if it is outside.

    Args:
        field: (n, 3) -> the signed distance (n,), and a differentiable function (n,) without jumps
            of the same sign: the logit of a composite network, else the distance itself.
        resolution: points along a side.
        device: of the points that the field is given.
        clamp: the absolute value above which the function may be constant, if there is one.
    """

    def __init__(
        self, field: Field, resolution: int, device: torch.device, clamp: float | None = None
    ) -> None:
        self.evaluated = EvaluatedPoints(field, resolution, device)
        self.resolution = resolution
        self.clamp = clamp

    def mesh(self) -> trimesh.Trimesh:
        """The zero level set, see `grid.mesh_from_grid`.

        Raises:
            NoSurfaceError: the values do not change sign, or are not all finite.
        """
        cells = self.connected_cells(self.crossed_cells(*self.candidates()))
        distances = self.evaluated.distances
        if distances.min() >= 0 or distances.max() <= 0:
            raise no_crossing(distances.min() >= 0, self.resolution)
        return march_cells(self.evaluated, cells)

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """The blocks (n, 3) of 2 x 2 x 2 cells that may contain surface, and bounds (n, 7)."""
        size = self._coarsest_size()
        line = np.arange(0, self.resolution + 1, size)
        blocks = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
        while True:
            probes = self._probe(blocks, size)
            kept = self._may_contain_surface(blocks, size, probes)
            blocks, probes = blocks[kept], probes.rows(kept)
            if size > 2:
                size //= 2
                parents = np.repeat(np.arange(len(blocks)), len(CORNERS))
                blocks = (blocks[:, None] + size * CORNERS).reshape(-1, 3)
                kept = (blocks <= self.resolution).all(axis=1)
                blocks, probes = blocks[kept], probes.rows(parents[kept])
                kept = self._may_contain_surface(blocks, size, probes)
                blocks, probes = blocks[kept], probes.rows(kept)
            if size == 2 or not len(blocks):
                return blocks, probes.bounds

    def _coarsest_size(self) -> int:
        """Cells along a side of the first blocks: a power of two, at least 2."""
        largest = self.resolution / MIN_BLOCKS
        if self.clamp is not None:  # surface at a corner must be within the clamp of the centre
            largest = min(largest, self.clamp * (self.resolution - 1) / math.sqrt(3))
        size = 2
        while 2 * size <= largest:
            size *= 2
        return size

    def _probe(self, blocks: np.ndarray, size: int) -> _Probes:
        """Evaluate the function at the centres of blocks (n, 3)."""
        centres = block_centres(blocks, size, self.resolution)
        values, gradients = self.evaluated.evaluate_gradients(self.evaluated.key(centres))
        position = blocks // size
        bounds, has_both = estimate_bounds(position, gradients), signs_differ(position, values)
        return _Probes(centres, values, bounds, has_both)

    def _may_contain_surface(self, blocks: np.ndarray, size: int, probes: _Probes) -> np.ndarray:
        """Which blocks (n, 3) to keep: (n,) bool."""
        points, values, bounds, has_both_signs = probes
        first = blocks.clip(1, self.resolution) - points
        last = (blocks + size).clip(1, self.resolution) - points
        least, largest = change_range(bounds, first, last)
        is_one_sided = (values + least > 0) | (values + largest < 0)
        at_border = ((blocks == 0) | (blocks + size > self.resolution)).any(axis=1)
        return ~is_one_sided | (at_border & (values <= 0)) | has_both_signs

    def crossed_cells(self, blocks: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """The cells (m, 3) that the surface crosses in blocks (n, 3), and in more where needed.

        Their corners on the grid are all evaluated.
        """
        evaluated, cells = self.evaluated, [np.empty((0, 3), int)]
        done_keys, done_bounds = np.empty(0, np.int64), np.empty((0, 7), np.float32)
        while len(blocks):
            new_cells, keys, wider_bounds = self._examine(blocks, bounds)
            cells += new_cells
            done_keys, done_bounds = merge_bounds(
                np.concatenate([done_keys, evaluated.key(blocks)]),
                np.concatenate([done_bounds, bounds]),
            )
            is_done = np.isin(keys, done_keys)
            earlier = np.full_like(wider_bounds, -np.inf)
            earlier[is_done] = done_bounds[np.searchsorted(done_keys, keys[is_done])]
            again = (wider_bounds > earlier).any(axis=1)
            blocks, bounds = evaluated.index(keys[again]), np.maximum(wider_bounds, earlier)[again]
        return np.concatenate(cells)

    def _examine(
        self, blocks: np.ndarray, bounds: np.ndarray
    ) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
        """Look for surface in blocks (n, 3) with bounds (n, 7).

        Returns:
            The crossed cells, arrays (m, 3); the keys (k,) of blocks in which the function may
            change more than their bounds say, sorted; and wider bounds (k, 7) for these.
        """
        cells, keys, wider_bounds = [], [], []
        for start in range(0, len(blocks), BLOCKS_AT_ONCE):
            chunk = slice(start, start + BLOCKS_AT_ONCE)
            chunk_blocks, chunk_bounds = blocks[chunk], bounds[chunk]
            new_cells, changes = crossed_cells(self.evaluated, chunk_blocks, chunk_bounds)
            cells.append(new_cells)
            exceeded = np.flatnonzero((with_norm(changes) > chunk_bounds).any(axis=1))
            around = (chunk_blocks[exceeded, None] + 2 * NEIGHBOURS).reshape(-1, 3)
            wider = np.maximum(chunk_bounds[exceeded], widen(changes[exceeded]))
            wider = np.repeat(wider, len(NEIGHBOURS), axis=0)
            kept = ((around >= 0) & (around <= self.resolution)).all(axis=1)
            around_keys, wider = merge_bounds(self.evaluated.key(around[kept]), wider[kept])
            keys.append(around_keys)
            wider_bounds.append(wider)
        return cells, *merge_bounds(np.concatenate(keys), np.concatenate(wider_bounds))

    def connected_cells(self, cells: np.ndarray) -> np.ndarray:
        """Cells (n, 3) and all to which the surface leads through their faces: (m, 3), once each.

        The corners of `cells` must be evaluated; those of all others will be.
        """
        evaluated = self.evaluated
        new = reached = np.unique(evaluated.key(cells))
        while len(new):
            cells = evaluated.index(new)
            corners = evaluated.key(cells[:, None] + CORNERS)
            sign = np.ones(corners.shape, np.int8)
            has_value = evaluated.contains(corners)
            sign[has_value] = np.sign(evaluated.distances[evaluated.locate(corners[has_value])])
            through = []
            for axis, side in itertools.product(range(3), (0, 1)):
                on_face = sign[:, CORNERS[:, axis] == side]
                crossed = (on_face.min(axis=1) <= 0) & (on_face.max(axis=1) >= 0)
                step = (2 * side - 1) * np.eye(3, dtype=int)[axis]
                through.append(evaluated.key(cells[crossed] + step))
            new = np.setdiff1d(np.concatenate(through), reached)
            corners = np.unique(evaluated.key(evaluated.index(new)[:, None] + CORNERS))
            evaluated.evaluate(corners[evaluated.on_grid(evaluated.index(corners))])
            reached = np.union1d(reached, new)
        return evaluated.index(reached)


def march_cells(evaluated: EvaluatedPoints, cells: np.ndarray) -> trimesh.Trimesh:
    """Marching cubes on cells (n, 3), sorted, whose corners on the grid are all evaluated.

    To save memory, it takes some layers at a time, each time with the last layer of before. Its
    faces then come first and in the same order, which shows which vertices are shared.

    Raises:
        NoSurfaceError: there are no faces.
    """
    vertices, faces = np.empty((0, 3)), np.empty((0, 3), int)
    for start in range(0, evaluated.side, LAYERS_AT_ONCE):
        overlap = cells[cells[:, 0] == start - 1]
        layers = cells[(cells[:, 0] >= start) & (cells[:, 0] < start + LAYERS_AT_ONCE)]
        num_shared = len(_march_layers(evaluated, overlap)[1])
        new_vertices, new_faces = _march_layers(evaluated, np.concatenate([overlap, layers]))
        number = np.full(len(new_vertices), -1)
        number[new_faces[:num_shared]] = faces[len(faces) - num_shared :]
        is_new = number < 0
        number[is_new] = len(vertices) + np.arange(is_new.sum())
        vertices = np.concatenate([vertices, new_vertices[is_new]])
        faces = np.concatenate([faces, number[new_faces[num_shared:]]])
    return grid_mesh(vertices, faces, evaluated.resolution)


def _march_layers(evaluated: EvaluatedPoints, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (v, 3), in indices, and faces (f, 3) of cells (n, 3) in successive layers."""
    if not len(cells):
        return np.empty((0, 3)), np.empty((0, 3), int)
    side, first, last = evaluated.side, cells[:, 0].min(), cells[:, 0].max()
    volume = np.zeros((last + 2 - first, side, side), np.float32)
    mask = np.zeros(volume.shape, bool)
    origin = first * side**2
    mask.reshape(-1)[evaluated.key(cells + 1) - origin] = True  # a cell is named by its last corner
    border = BORDER_FACTOR * np.abs(evaluated.distances).max()
    for corner in CORNERS:
        keys = evaluated.key(cells + corner)
        values = np.full(len(keys), border)
        has_value = evaluated.contains(keys)
        values[has_value] = evaluated.distances[evaluated.locate(keys[has_value])]
        volume.reshape(-1)[keys - origin] = values
    vertices, faces = march_cubes(volume, mask)
    return vertices + np.array([first, 0, 0]), faces
