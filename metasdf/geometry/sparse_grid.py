"""Signed distance field -> the mesh of its zero level set over [-1, 1]^3, by marching cubes.

Two ways to the same mesh. Dense: the field is evaluated at every point of the lattice. Sparse
(`SparseLattice`): only where the surface can be, which is some hundredth of it at 256^3.
"""

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
import trimesh
from scipy.ndimage import maximum_filter
from torch import Tensor

from metasdf.geometry.grid import (
    BORDER_FACTOR,
    POINTS_PER_CALL,
    check_finite,
    lattice_points,
    march_cubes,
    no_crossing,
    placed_mesh,
)

GRADIENTS_PER_CALL = 2**11  # the same, with all that gradients need
COARSEST = 18  # blocks along a side at first, at least
LARGER = 4  # cells along a side of the blocks that the smallest, of 2, are parts of
MARGIN = 0.25  # by which what is found of gradients is widened, in shares of their range
LEAST_MARGIN = 0.1  # the same in shares of their size, on top of it
BLOCKS_AT_ONCE = 2**15  # so that little memory is needed
LAYERS_AT_ONCE = 64  # the same

# Sparse

Field = Callable[[Tensor], tuple[Tensor, Tensor]]
Changes = dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]

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

    Blocks of cells are looked at from large to small. One in which the function, from its value at
    the middle on, cannot reach zero is left out; the others are halved. How it can change is told
    by its gradients at the middles of a block and of those next to it (see `_bounds`). In what is
    left, single points whose sign follows from a value nearby are left out in the same way. Two
    things are made up for: where neighbouring values change as was thought impossible, the block
    and those around it are looked at anew with bounds so wide; and surface that is found is
    followed from cell to cell, so that no part of a component is lost.

    Blocks with a value of the other sign next to theirs are never left out. What can be lost is a
    whole component that is small, if no middle lies within it and the gradients at those around do
    not tell of it: of a function that is flat but for jumps.

    Meshes are those of all values but for rounding: where a value is as good as 0, its sign may be
    another when it is evaluated among other points.

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

    def evaluate_gradients(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The function's values at points (n,), and its gradients per spacing (n, 3)."""
        distances, values = (np.empty(len(keys), np.float32) for _ in range(2))
        gradients = np.empty((len(keys), 3), np.float32)
        for start in range(0, len(keys), GRADIENTS_PER_CALL):
            some = slice(start, start + GRADIENTS_PER_CALL)
            points = self.points(keys[some]).requires_grad_()
            with torch.enable_grad():
                both = self.field(points)
                (gradient,) = torch.autograd.grad(both[1].sum(), points)
            distances[some], values[some], gradients[some] = (
                of.detach().float().cpu().numpy() for of in (*both, gradient)
            )
        self._keep(keys, distances, values)
        return values, gradients * (2 / (self.resolution - 1))

    def points(self, keys: np.ndarray) -> Tensor:
        index = torch.from_numpy(self.index(keys) - 1)
        return lattice_points(index, self.resolution).to(self.device)

    def _keep(self, keys: np.ndarray, distances: np.ndarray, values: np.ndarray) -> None:
        check_finite(distances)
        check_finite(values)
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
            raise no_crossing(self.distances.min() >= 0, self.resolution)
        return self.march(cells)

    def candidates(self) -> tuple[np.ndarray, np.ndarray]:
        """First points (n, 3) of the blocks of 2 x 2 x 2 cells that may have surface.

        And their bounds (n, 7), see `_bounds`.
        """
        size, largest = 2, self.resolution / COARSEST
        if self.clamp is not None:  # a block's middle must tell of surface at its corners
            largest = min(largest, self.clamp * (self.resolution - 1) / math.sqrt(3))
        while 2 * size <= largest:
            size *= 2
        line = np.arange(0, self.resolution + 1, size)
        blocks = np.stack(np.meshgrid(line, line, line, indexing="ij"), axis=-1).reshape(-1, 3)
        bounds = np.empty((0, 7), np.float32)
        while len(blocks):
            near = self.middles(blocks, size)
            values, gradients = self.evaluate_gradients(self.key(near))
            bounds = _bounds(blocks // size, gradients)
            known = [near, values, bounds, _signs_differ(blocks // size, values)]
            kept = self.may_have_surface(blocks, size, *known)
            blocks, known = blocks[kept], [of[kept] for of in known]
            if size > 2:
                size //= 2
                blocks = (blocks[:, None] + size * CELLS).reshape(-1, 3)
                on_lattice = (blocks <= self.resolution).all(axis=1)
                blocks = blocks[on_lattice]
                known = [np.repeat(of, 8, axis=0)[on_lattice] for of in known]
                kept = self.may_have_surface(blocks, size, *known)
                blocks, known = blocks[kept], [of[kept] for of in known]
            bounds = known[2]
            if size == 2:
                break
        return blocks, bounds

    def middles(self, blocks: np.ndarray, size: int) -> np.ndarray:
        """The middle points (n, 3) of blocks, on the lattice at least."""
        return (blocks + size // 2).clip(1, self.resolution)

    def may_have_surface(
        self,
        blocks: np.ndarray,
        size: int,
        near: np.ndarray,
        values: np.ndarray,
        bounds: np.ndarray,
        mixed: np.ndarray,
    ) -> np.ndarray:
        """Of which blocks (n, 3) the values at points near them (n, 3) do not rule it out.

        mixed: which to keep whatever the bounds say.
        """
        first, last = (of.clip(1, self.resolution) - near for of in (blocks, blocks + size))
        least, largest = _changes(bounds, first, last)
        sure = (values + least > 0) | (values + largest < 0)
        at_border = ((blocks == 0) | (blocks + size > self.resolution)).any(axis=1)
        return ~sure | (at_border & (values <= 0)) | mixed

    def crossed(self, blocks: np.ndarray, bounds: np.ndarray) -> np.ndarray:
        """The cells (n, 3) that the surface crosses, all of their corners evaluated.

        blocks, bounds: as `candidates` gives them.
        """
        done = np.empty(0, np.int64)  # keys of blocks looked at, and the bounds with which
        done_with = np.empty((0, 7), np.float32)
        cells = [np.empty((0, 3), int)]
        while len(blocks):
            beyond, wider = [], []
            for start in range(0, len(blocks), BLOCKS_AT_ONCE):
                some = blocks[start : start + BLOCKS_AT_ONCE]
                bound = bounds[start : start + BLOCKS_AT_ONCE]
                found, seen = self._crossed_in(some, bound)
                cells.append(found)
                out = np.flatnonzero((_with_norm(seen) > bound).any(axis=1))
                around = (some[out, None] + 2 * AROUND).reshape(-1, 3)
                wide = np.maximum(bound[out], _widened(seen[out]))
                wide = np.repeat(wide, len(AROUND), axis=0)
                kept = ((around >= 0) & (around <= self.resolution)).all(axis=1)
                keys, wide = _merged(self.key(around[kept]), wide[kept])
                beyond.append(keys)
                wider.append(wide)
            done, done_with = _merged(
                np.concatenate([done, self.key(blocks)]), np.concatenate([done_with, bounds])
            )
            keys, bounds = _merged(np.concatenate(beyond), np.concatenate(wider))
            looked_at = np.isin(keys, done)
            before = np.full_like(bounds, -np.inf)
            before[looked_at] = done_with[np.searchsorted(done, keys[looked_at])]
            wanted = (bounds > before).any(axis=1)
            blocks, bounds = self.index(keys[wanted]), np.maximum(bounds, before)[wanted]
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

    def _crossed_in(self, blocks: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Crossed cells (n, 3) of blocks (m, 3), and the changes seen in each (m, 6).

        Changes are of the function's value from one point to the next along each axis: the largest
        fall, the largest rise.
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
        self._infer_from_middles(blocks, bounds, sign, place)
        changes = {tuple(step): _changes(bounds, step, step) for step in AROUND}
        for kind in KINDS:
            _infer(kind, value, sign, place, changes)
            of_kind = np.unique(place[:, kind])
            evaluate(of_kind[(sign[of_kind] == 0) & np.isnan(value[of_kind])])

        at_corners = sign[place][:, CORNERS]  # (blocks, cells, corners)
        block, cell = np.nonzero((at_corners.min(axis=2) <= 0) & (at_corners.max(axis=2) >= 0))
        corners = np.unique(place[block[:, None], CORNERS[cell]])
        evaluate(corners[on_lattice[corners] & np.isnan(value[corners])])

        local, seen = value[place], np.full((len(blocks), 6), -np.inf, np.float32)
        for axis in range(3):
            first = np.flatnonzero(POINTS[:, axis] < 2)
            change = local[:, first + STRIDES[axis]] - local[:, first]
            for column, of in ((axis, -change), (axis + 3, change)):
                seen[:, column] = np.nan_to_num(of, nan=-np.inf).max(axis=1)
        return blocks[block] + CELLS[cell], seen

    def _infer_from_middles(
        self, blocks: np.ndarray, bounds: np.ndarray, sign: np.ndarray, place: np.ndarray
    ) -> None:
        """Set signs as `_infer` does, from the middles of the larger blocks that these are in."""
        middles = self.middles(blocks // LARGER * LARGER, LARGER)
        keys, steps = self.key(middles), middles - blocks
        known = self.known(keys)
        for step in np.unique(steps[known], axis=0):
            of = np.flatnonzero(known & (steps == step).all(axis=1))
            values = self.values[np.searchsorted(self.keys, keys[of])]
            for point in range(len(POINTS)):
                changes = _changes(bounds[of], *2 * [POINTS[point] - step])
                _set_sure(sign, place[of, point], values, *changes)

    def march(self, cells: np.ndarray) -> trimesh.Trimesh:
        """Marching cubes on cells (n, 3) whose corners are all evaluated or around the lattice.

        Some layers at a time, for little memory, each time with the last one of before: its faces
        come once more in the same order, which tells what vertices are shared.
        """
        vertices, faces = np.empty((0, 3)), np.empty((0, 3), int)
        for start in range(0, self.side, LAYERS_AT_ONCE):
            before = cells[cells[:, 0] == start - 1]
            new = cells[(cells[:, 0] >= start) & (cells[:, 0] < start + LAYERS_AT_ONCE)]
            shared = len(self._march_layers(before)[1])
            some, some_faces = self._march_layers(np.concatenate([before, new]))
            number = np.full(len(some), -1)
            number[some_faces[:shared]] = faces[len(faces) - shared :]
            fresh = number < 0
            number[fresh] = len(vertices) + np.arange(fresh.sum())
            vertices = np.concatenate([vertices, some[fresh]])
            faces = np.concatenate([faces, number[some_faces[shared:]]])
        return placed_mesh(vertices, faces, self.resolution)

    def _march_layers(self, cells: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices (v, 3), in indices, and faces (f, 3) of such cells, layer by layer."""
        if not len(cells):
            return np.empty((0, 3)), np.empty((0, 3), int)
        first, last = cells[:, 0].min(), cells[:, 0].max()
        volume = np.zeros((last + 2 - first, self.side, self.side), np.float32)
        marked = np.zeros(volume.shape, bool)
        origin = first * self.side**2
        marked.reshape(-1)[self.key(cells + 1) - origin] = True  # a cell, at its last corner
        border = BORDER_FACTOR * np.abs(self.distances).max()
        for corner in CELLS:
            keys = self.key(cells + corner)
            values = np.full(len(keys), border)
            known = self.known(keys)
            values[known] = self.distances[np.searchsorted(self.keys, keys[known])]
            volume.reshape(-1)[keys - origin] = values
        vertices, faces = march_cubes(volume, marked)
        return vertices + np.array([first, 0, 0]), faces


def _bounds(index: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """What the gradient may be in blocks at places (n, 3), from those at their middles (n, 3).

    Along each axis anything between the least and the largest of a block's own and of those next
    to it, and no more than the largest norm, all with a margin: (n, 7), minus the least, the
    largest, and the norm.
    """
    norms = np.linalg.norm(gradients, axis=1, keepdims=True)
    found = np.concatenate([-gradients, gradients, norms], axis=1)
    largest = _largest_around(index, found)
    bounds = _widened(largest[:, :6])
    bounds[:, 6] = (1 + MARGIN) * largest[:, 6]
    return bounds


def _signs_differ(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """At which places (n, 3) there or next to it values (n,) of both signs are, or a zero."""
    largest = _largest_around(index, np.stack([-values, values], axis=1))
    return (largest >= 0).all(axis=1)


def _largest_around(index: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Of values (n, k) at places (n, 3) the largest of each there and next to it, (n, k)."""
    whole = np.full(index.max(axis=0) + 1, -np.inf, values.dtype)
    largest = np.empty_like(values)
    for column in range(values.shape[1]):
        whole[tuple(index.T)] = values[:, column]
        largest[:, column] = maximum_filter(whole, size=3)[tuple(index.T)]
    return largest


def _with_norm(changes: np.ndarray) -> np.ndarray:
    """Bounds (n, 7) of no more than the largest falls and rises along each axis (n, 6)."""
    largest = np.maximum(changes[:, :3], changes[:, 3:]).clip(0)
    return np.concatenate([changes, np.linalg.norm(largest, axis=1, keepdims=True)], axis=1)


def _widened(changes: np.ndarray) -> np.ndarray:
    """The same with a margin."""
    falls, rises, norm = np.split(_with_norm(changes), [3, 6], axis=1)
    margin = MARGIN / 2 * (falls + rises) + LEAST_MARGIN * norm
    return np.concatenate([falls + margin, rises + margin, (1 + MARGIN) * norm], axis=1)


def _changes(
    bounds: np.ndarray, first: np.ndarray, last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The least and the largest change (n,) of a function, with sign, over steps first to last.

    Each axis bounds it by its own slopes, all together by the norm. bounds: (n, 7), see `_bounds`;
    first, last: (n, 3) or (3,).
    """
    least = largest = np.float32(0)
    for fall, rise, *steps in zip(*np.split(bounds[:, :6].T, 2), first.T, last.T, strict=True):
        ends = [slope * step.astype(np.float32) for slope in (-fall, rise) for step in steps]
        least, largest = least + np.minimum.reduce(ends), largest + np.maximum.reduce(ends)
    farthest = np.linalg.norm(np.maximum(np.abs(first), np.abs(last)), axis=-1)
    by_norm = bounds[:, 6] * farthest.astype(np.float32)
    return np.maximum(least, -by_norm), np.minimum(largest, by_norm)


def _merged(keys: np.ndarray, bounds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each of the keys (n,) once, sorted, with the largest of each of its bounds (n, 7)."""
    unique, place = np.unique(keys, return_inverse=True)
    largest = np.full((len(unique), 7), -np.inf, bounds.dtype)
    np.maximum.at(largest, place, bounds)
    return unique, largest


def _infer(
    kind: np.ndarray, value: np.ndarray, sign: np.ndarray, place: np.ndarray, changes: Changes
) -> None:
    """Set the signs at one kind of a block's points that values nearby leave no choice of.

    value, sign: of points (p,), NaN and 0 where not known yet. place: the 27 points of each block
    (m, 27) among these. changes: `_changes` of blocks (m, 7), by step.
    """
    local = value[place]
    for point in kind:
        for near in np.flatnonzero(DISTANCES[point] < 2):
            if point != near:
                step = tuple(POINTS[point] - POINTS[near])
                _set_sure(sign, place[:, point], local[:, near], *changes[step])


def _set_sure(
    sign: np.ndarray, at: np.ndarray, values: np.ndarray, least: np.ndarray, largest: np.ndarray
) -> None:
    """Set signs (p,) at points (m,) that values, changed by so much, leave no choice of."""
    for sure, of in ((values + least > 0, 1), (values + largest < 0, -1)):
        sign[at[sure & (sign[at] == 0)]] = of
