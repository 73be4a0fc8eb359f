"""Signed distance field -> the mesh of its zero level set over [-1, 1]^3, by marching cubes.

Two ways to the same mesh. Dense: the field is evaluated at every point of the lattice. Sparse
(`SparseLattice`): only where the surface can be, which is some hundredth of it at 256^3.
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import trimesh
from scipy.ndimage import maximum_filter
from skimage.measure import marching_cubes
from torch import Tensor

from metasdf.method import Method

POINTS_PER_CALL = 2**13  # small enough for the processor's caches
BORDER_FACTOR = 1e4  # values outside of the lattice, in largest values on it: it is cut off there
COARSEST = 18  # blocks along a side at first, at least
SLOPE_MARGIN = 1.25  # by which the largest slope found is multiplied
BLOCKS_AT_ONCE = 2**15  # so that little memory is needed


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
    _check_finite(grid)
    if grid.min() >= 0 or grid.max() <= 0:
        raise _no_crossing(grid.min() >= 0, len(grid))
    # One layer of outside, so far out that what touches the border is cut off right there.
    return _march(np.pad(grid, 1, constant_values=BORDER_FACTOR * np.abs(grid).max()))


def _check_finite(values: np.ndarray) -> None:
    if not np.isfinite(values).all():
        raise NoSurfaceError("the field has values that are not finite")


def _no_crossing(outside: bool, resolution: int) -> NoSurfaceError:
    side = "outside" if outside else "inside"
    return NoSurfaceError(f"the field is {side} everywhere on a grid of {resolution}^3 points")


def _march(volume: np.ndarray, marked: np.ndarray | None = None) -> trimesh.Trimesh:
    """Marching cubes on a lattice with one layer around it, and if so, on marked cells only."""
    try:
        vertices, faces, _, _ = marching_cubes(volume, level=0.0, mask=marked)
    except RuntimeError as error:  # values so small that no vertex comes of them
        raise NoSurfaceError(f"marching cubes: {error}") from error
    spacing = 2 / (len(volume) - 3)
    vertices = (vertices.astype(np.float64) - 1) * spacing - 1
    return trimesh.Trimesh(vertices, faces, process=False)


# Sparse

Field = Callable[[Tensor], tuple[Tensor, Tensor]]

# The 27 points of a block of 2 x 2 x 2 cells, and which are its middle, its corners, the middles
# of its faces and of its edges.
POINTS = np.array(list(itertools.product(range(3), repeat=3)))
KINDS = [np.flatnonzero((POINTS == 1).sum(axis=1) == ones) for ones in (3, 0, 2, 1)]
DISTANCES = np.linalg.norm(POINTS[:, None] - POINTS, axis=-1)
# Its 8 cells, of each the 8 corners among the 27.
CELLS = np.array(list(itertools.product(range(2), repeat=3)))
STRIDES = np.array([9, 3, 1])  # from one of the 27 to the next along x, y, z
CORNERS = (CELLS[:, None] + CELLS) @ STRIDES
AROUND = POINTS - 1  # a block and those that touch it


class SparseLattice:
    """The values of a field where its surface is, on a lattice over [-1, 1]^3.

    field: (n, 3) -> two tensors (n,), differentiable: the signed distance, and a function that has
    the same sign and no jumps (of a composite network the logit; else the distance itself).
    clamp: from which value on the function may be constant, and tell nothing of how far surface is.

    Blocks of cells are looked at from large to small. One whose middle has a value so large that
    the function, at the steepest slope around there, cannot reach zero within the block, is left
    out; the others are halved. The slope is the largest gradient of the function at the middles of
    a block and of those next to it, with a margin. Two things are made up for: where neighbouring
    values are steeper than was thought, the block and those around it are looked at anew with that
    slope; and surface that is found is followed from cell to cell, so that no part of a component
    is lost.

    What can be lost is a whole component, if it is smaller than the first blocks (a twentieth of a
    side) and neither the function nor its gradient tell of it at their middles: of a function that
    is flat but for jumps.

    Indices have one layer of points around the lattice, which counts as outside: the point (1, 1,
    1) is the corner (-1, -1, -1). A block at the border is left out only if it is outside.
    """

    def __init__(
        self, field: Field, resolution: int, device: torch.device, clamp: float | None = None
    ) -> None:
        self.field = field
        self.resolution = resolution
        self.device = device
        self.clamp = clamp
        self.side = resolution + 4  # of the index space, with all that blocks reach beyond
        self.keys = np.empty(0, np.int64)  # sorted: the points evaluated
        self.distances = np.empty(0, np.float32)
        self.values = np.empty(0, np.float32)  # of the function with the same sign

    def key(self, index: np.ndarray) -> np.ndarray:
        """Indices (..., 3) as single numbers."""
        return (index[..., 0] * self.side + index[..., 1]) * self.side + index[..., 2]

    def index(self, key: np.ndarray) -> np.ndarray:
        return np.stack(np.unravel_index(key, (self.side,) * 3), axis=-1)

    def within(self, index: np.ndarray) -> np.ndarray:
        """Which of the indices (..., 3) are on the lattice, rather than around it."""
        return ((index >= 1) & (index <= self.resolution)).all(axis=-1)

    def evaluate(self, keys: np.ndarray) -> np.ndarray:
        """Evaluate those points (n,) that are not evaluated yet; where each stands in `keys`."""
        new = np.unique(keys[~self.known(keys)])
        distances, values = (np.empty(len(new), np.float32) for _ in range(2))
        for start in range(0, len(new), POINTS_PER_CALL):
            some = slice(start, start + POINTS_PER_CALL)
            with torch.no_grad():
                both = self.field(self.points(new[some]))
            distances[some], values[some] = (of.float().cpu().numpy() for of in both)
        self._keep(new, distances, values)
        return np.searchsorted(self.keys, keys)

    def evaluate_slopes(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The function's values at points (n,), and its slopes (n, 4), see `_slopes`."""
        distances, values = (np.empty(len(keys), np.float32) for _ in range(2))
        gradients = np.empty((len(keys), 3), np.float32)
        for start in range(0, len(keys), POINTS_PER_CALL):
            some = slice(start, start + POINTS_PER_CALL)
            points = self.points(keys[some]).requires_grad_()
            with torch.enable_grad():
                both = self.field(points)
                (gradient,) = torch.autograd.grad(both[1].sum(), points)
            distances[some], values[some], gradients[some] = (
                of.detach().float().cpu().numpy() for of in (*both, gradient)
            )
        self._keep(keys, distances, values)
        return values, _slopes(gradients * (2 / (self.resolution - 1)))

    def points(self, keys: np.ndarray) -> Tensor:
        index = torch.from_numpy(self.index(keys) - 1)
        return lattice_points(index, self.resolution).to(self.device)

    def _keep(self, keys: np.ndarray, distances: np.ndarray, values: np.ndarray) -> None:
        _check_finite(distances)
        _check_finite(values)
        self.keys, one = np.unique(np.concatenate([self.keys, keys]), return_index=True)
        self.distances = np.concatenate([self.distances, distances])[one]
        self.values = np.concatenate([self.values, values])[one]

    def known(self, keys: np.ndarray) -> np.ndarray:
        """Which points are evaluated."""
        if not len(self.keys):
            return np.zeros(len(keys), bool)
        place = np.searchsorted(self.keys, keys).clip(max=len(self.keys) - 1)
        return self.keys[place] == keys

    def mesh(self) -> trimesh.Trimesh:
        """What `extract_mesh` gives of all values."""
        cells = self.crossed(*self.candidates())
        if self.distances.min() >= 0 or self.distances.max() <= 0:
            raise _no_crossing(self.distances.min() >= 0, self.resolution)
        return self.march(cells)

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """First points (n, 3) of the blocks of 2 x 2 x 2 cells that may have surface.

        And their slopes (n, 4), see `_slopes`.
        """
        size, largest = 2, self.resolution / COARSEST
        if self.clamp is not None:  # a block's middle must tell of surface at its corners
            largest = min(largest, self.clamp * (self.resolution - 1) / math.sqrt(3))
        while 2 * size <= largest:
            size *= 2
        line = np.arange(0, self.resolution + 1, size)
        blocks = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
        slopes = None
        while True:
            middles = self.key((blocks + size // 2).clip(1, self.resolution))
            if slopes is None or size > 2:
                values, slopes = self.evaluate_slopes(middles)
                slopes = SLOPE_MARGIN * self._largest_around(blocks // size, slopes)
            else:
                at = self.evaluate(middles)
                values = self.values[at]
            at_border = ((blocks == 0) | (blocks + size > self.resolution)).any(axis=1)
            kept = ~(np.abs(values) > _largest_change(slopes, np.full(3, size / 2)))
            kept |= at_border & (values <= 0)
            blocks, slopes = blocks[kept], slopes[kept]
            if size == 2 or not len(blocks):
                return blocks, slopes
            size //= 2
            blocks = (blocks[:, None] + size * CELLS).reshape(-1, 3)
            on_lattice = (blocks <= self.resolution).all(axis=1)
            blocks, slopes = blocks[on_lattice], np.repeat(slopes, 8, axis=0)[on_lattice]

    @staticmethod
    def _largest_around(index: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Of each place (n, 3) with values (n, 4) the largest of each there and next to it."""
        whole = np.zeros(index.max(axis=0) + 1, values.dtype)
        largest = np.empty_like(values)
        for column in range(values.shape[1]):
            whole[tuple(index.T)] = values[:, column]
            largest[:, column] = maximum_filter(whole, size=3)[tuple(index.T)]
        return largest

    def crossed(self, blocks: np.ndarray, slopes: np.ndarray) -> np.ndarray:
        """The cells (n, 3) that the surface crosses, all of their corners evaluated.

        blocks, slopes: as `candidates` gives them.
        """
        done = np.empty(0, np.int64)  # keys of blocks looked at, and the slopes with which
        done_with = np.empty((0, 4), np.float32)
        cells = [np.empty((0, 3), int)]
        while len(blocks):
            steep_blocks, steeper = [], []
            for start in range(0, len(blocks), BLOCKS_AT_ONCE):
                some = blocks[start : start + BLOCKS_AT_ONCE]
                slope = slopes[start : start + BLOCKS_AT_ONCE]
                found, seen = self._crossed_in(some, slope)
                cells.append(found)
                steep = np.flatnonzero((seen > slope[:, :3]).any(axis=1))
                around = some[steep, None] + 2 * AROUND
                steep_blocks.append(around.reshape(-1, 3))
                steeper.append(np.repeat(_slopes(SLOPE_MARGIN * seen[steep]), len(AROUND), axis=0))
            done, done_with = _merged(
                np.concatenate([done, self.key(blocks)]), np.concatenate([done_with, slopes])
            )
            blocks, steeper = np.concatenate(steep_blocks), np.concatenate(steeper)
            on_lattice = ((blocks >= 0) & (blocks <= self.resolution)).all(axis=1)
            keys, slopes = _merged(self.key(blocks[on_lattice]), steeper[on_lattice])
            looked_at = np.isin(keys, done)
            before = np.zeros_like(slopes)
            before[looked_at] = done_with[np.searchsorted(done, keys[looked_at])]
            wanted = (slopes > before).any(axis=1)
            blocks, slopes = self.index(keys[wanted]), np.maximum(slopes, before)[wanted]
        return self.followed(np.concatenate(cells))

    def followed(self, cells: np.ndarray) -> np.ndarray:
        """Cells (n, 3) with surface, and those to which it leads through their faces, once each.

        All corners of the cells are evaluated, and of those that are found.
        """
        new = known = np.unique(self.key(cells))
        while len(new):
            cells = self.index(new)
            corners = self.key(cells[:, None] + CELLS)
            sign = np.ones(corners.shape, np.int8)
            evaluated = self.known(corners)
            place = np.searchsorted(self.keys, corners[evaluated])
            sign[evaluated] = np.sign(self.distances[place])
            through = []
            for axis, side in itertools.product(range(3), (0, 1)):
                on_face = sign[:, CELLS[:, axis] == side]
                leads = (on_face.min(axis=1) <= 0) & (on_face.max(axis=1) >= 0)
                through.append(self.key(cells[leads] + (2 * side - 1) * np.eye(3, dtype=int)[axis]))
            new = np.setdiff1d(np.concatenate(through), known)
            corners = np.unique(self.key(self.index(new)[:, None] + CELLS))
            self.evaluate(corners[self.within(self.index(corners))])
            known = np.union1d(known, new)
        return self.index(known)

    def _crossed_in(self, blocks: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Crossed cells (n, 3) of blocks (m, 3), and the largest changes seen in each (m, 3).

        Changes are of the function's value from one point to the next along each axis.
        """
        keys = self.key(blocks)[:, None] + self.key(POINTS)
        points, place = np.unique(keys, return_inverse=True)
        place = place.reshape(keys.shape)
        on_lattice = self.within(self.index(points))
        value = np.full(len(points), np.nan, np.float32)
        sign = np.where(on_lattice, 0, 1).astype(np.int8)

        def evaluate(which: np.ndarray) -> None:
            at = self.evaluate(points[which])
            value[which] = self.values[at]
            sign[which] = np.sign(self.distances[at])

        evaluate(np.flatnonzero(self.known(points)))
        for kind in KINDS:
            _infer(kind, value, sign, place, slopes)
            of_kind = np.unique(place[:, kind])
            evaluate(of_kind[(sign[of_kind] == 0) & np.isnan(value[of_kind])])

        at_corners = sign[place][:, CORNERS]  # (blocks, cells, corners)
        block, cell = np.nonzero((at_corners.min(axis=2) <= 0) & (at_corners.max(axis=2) >= 0))
        corners = np.unique(place[block[:, None], CORNERS[cell]])
        evaluate(corners[on_lattice[corners] & np.isnan(value[corners])])

        local, seen = value[place], np.zeros((len(blocks), 3), np.float32)
        for axis in range(3):
            first = np.flatnonzero(POINTS[:, axis] < 2)
            change = np.abs(local[:, first + STRIDES[axis]] - local[:, first])
            seen[:, axis] = np.nan_to_num(change, nan=0.0).max(axis=1)
        return blocks[block] + CELLS[cell], seen

    def march(self, cells: np.ndarray) -> trimesh.Trimesh:
        """Marching cubes on cells (n, 3) whose corners are all evaluated or around the lattice."""
        # Of zeros memory is taken only where they are written over; what is not marked is not read.
        volume = np.zeros((self.resolution + 2,) * 3, np.float32)
        marked = np.zeros(volume.shape, bool)
        marked[tuple((cells + 1).T)] = True  # a cell is marked at its last corner
        corners = np.unique(self.key(cells)[:, None] + self.key(CELLS))
        volume[tuple(self.index(corners).T)] = BORDER_FACTOR * np.abs(self.distances).max()
        corners = corners[self.known(corners)]
        volume[tuple(self.index(corners).T)] = self.distances[np.searchsorted(self.keys, corners)]
        return _march(volume, marked)


def _slopes(gradients: np.ndarray) -> np.ndarray:
    """Of gradients (n, 3) per spacing their absolute values along each axis, and norms: (n, 4)."""
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    return np.concatenate([np.abs(gradients), norms], axis=1)


def _largest_change(slopes: np.ndarray, step: np.ndarray) -> np.ndarray:
    """By how much a function with slopes of at most (n, 4) can change over a step (3,) >= 0: (n,).

    Each axis bounds it by its own slope, all together by the norm.
    """
    return np.minimum(slopes[:, :3] @ step, slopes[:, 3] * np.linalg.norm(step))


def _merged(keys: np.ndarray, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of the keys (n,) once, sorted, with the largest of each of its slopes (n, 4)."""
    unique, place = np.unique(keys, return_inverse=True)
    largest = np.zeros((len(unique), 4), slopes.dtype)
    np.maximum.at(largest, place, slopes)
    return unique, largest


def _infer(
    kind: np.ndarray, value: np.ndarray, sign: np.ndarray, place: np.ndarray, slopes: np.ndarray
) -> None:
    """Set the signs at one kind of a block's points that values nearby leave no choice of.

    value, sign: of points (p,), NaN and 0 where not known yet. place: the 27 points of each block
    (m, 27) among these. slopes: of blocks (m, 4).
    """
    local = value[place]
    for point in kind:
        for near in np.flatnonzero(DISTANCES[point] < 2):
            if point != near:
                change = _largest_change(slopes, np.abs(POINTS[point] - POINTS[near]))
                sure = np.abs(local[:, near]) > change
                sure &= sign[place[:, point]] == 0
                sign[place[sure, point]] = np.sign(local[sure, near])


def mesh_field(
    model: Method, fields: Any, resolution: int, device: torch.device, dense: bool = False
) -> trimesh.Trimesh:
    """Mesh one fitted field (`fields` from `model.adapt`, of a single task).

    dense: evaluate the whole lattice; the mesh is the same, see `SparseLattice` for what may not
    be. A field that gives no gradients is always meshed so.
    """

    def field(x: Tensor) -> tuple[Tensor, Tensor]:
        prediction = model.predict(x.unsqueeze(0), fields)[0]
        return model.loss.signed_distance(prediction)[:, 0], prediction[:, 0]

    def has_slopes() -> bool:
        with torch.enable_grad():
            return field(torch.zeros(1, 3, device=device, requires_grad=True))[1].requires_grad

    if dense or not has_slopes():
        return extract_mesh(evaluate_grid(lambda x: field(x)[0], resolution, device))
    clamp = getattr(model.loss, "clamp", None)
    return SparseLattice(field, resolution, device, clamp).mesh()
