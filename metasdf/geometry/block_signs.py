"""Which cells of small blocks a surface crosses, with as few evaluations of its field as possible.

A block is 2 x 2 x 2 cells with 27 points, a cell has 8 corners. Blocks and cells are named by the
index of their first point, the one with the smallest coordinates (see `EvaluatedPoints`).
"""

import itertools

import numpy as np

from metasdf.geometry.change_bounds import change_range
from metasdf.geometry.evaluated_points import EvaluatedPoints

# The 27 points of a block; and its centre, corners, face centres and edge centres among them.
BLOCK_POINTS = np.array(list(itertools.product(range(3), repeat=3)))
KINDS = [np.flatnonzero((BLOCK_POINTS == 1).sum(axis=1) == ones) for ones in (3, 0, 2, 1)]
DISTANCES = np.linalg.norm(BLOCK_POINTS[:, None] - BLOCK_POINTS, axis=-1)
STRIDES = np.array([9, 3, 1])  # from one of the 27 to the next along x, y, z

# The 8 cells of a block, which are also the 8 corners of a cell; and the corners of each cell
# among the 27 points.
CORNERS = np.array(list(itertools.product(range(2), repeat=3)))
CELL_POINTS = (CORNERS[:, None] + CORNERS) @ STRIDES

NEIGHBOURS = BLOCK_POINTS - 1  # from a block to itself and those that touch it, in block sizes
PARENT_SIZE = 4  # cells along a side of the next larger blocks

Ranges = dict[tuple[int, ...], tuple[np.ndarray, np.ndarray]]  # `change_range` of blocks, by step


def block_centres(blocks: np.ndarray, size: int, resolution: int) -> np.ndarray:
    """The centres (n, 3) of blocks (n, 3) of any size, moved onto the grid where outside."""
    return (blocks + size // 2).clip(1, resolution)


def crossed_cells(
    evaluated: EvaluatedPoints, blocks: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The cells that a surface crosses; their corners on the grid are all evaluated.

    Args:
        evaluated: the points evaluated so far; grows.
        blocks: (n, 3).
        bounds: (n, 7), of the function's changes in each block.

    Returns:
        cells (m, 3), and for each block the largest decreases and increases of the function seen
        between adjacent points along each axis (n, 6).
    """
    signs = _BlockSigns(evaluated, blocks)
    signs.infer_from_parents(bounds)
    ranges = {tuple(step): change_range(bounds, step, step) for step in NEIGHBOURS}
    for kind in KINDS:
        signs.infer(kind, ranges)
        signs.evaluate_undecided(kind)
    return signs.crossed(), signs.observed_changes()


class _BlockSigns:
    """The signs of a function at the 27 points of blocks, and its values where evaluated.

    Attributes:
        blocks: (n, 3).
        place: (n, 27), the position of each block's points in the arrays below.
        keys: (p,), all points of the blocks, once each.
        on_grid: (p,) bool; the points around the grid count as outside.
        sign: (p,) int8, 0 where not decided yet.
        value: (p,) float32, NaN where not evaluated.
    """

    def __init__(self, evaluated: EvaluatedPoints, blocks: np.ndarray) -> None:
        self.evaluated = evaluated
        self.blocks = blocks
        keys = evaluated.key(blocks)[:, None] + evaluated.key(BLOCK_POINTS)
        self.keys, place = np.unique(keys, return_inverse=True)
        self.place = place.reshape(keys.shape)
        self.on_grid = evaluated.on_grid(evaluated.index(self.keys))
        self.value = np.full(len(self.keys), np.nan, np.float32)
        self.sign = np.where(self.on_grid, 0, 1).astype(np.int8)
        self._evaluate(np.flatnonzero(evaluated.contains(self.keys)))

    def _evaluate(self, points: np.ndarray) -> None:
        """Set values and signs at these positions, evaluating what is not evaluated yet."""
        place = self.evaluated.evaluate(self.keys[points])
        self.value[points] = self.evaluated.values[place]
        self.sign[points] = np.sign(self.evaluated.distances[place])

    def evaluate_undecided(self, kind: np.ndarray) -> None:
        """Evaluate those of some of the 27 points whose signs are not decided."""
        points = np.unique(self.place[:, kind])
        self._evaluate(points[(self.sign[points] == 0) & np.isnan(self.value[points])])

    def infer_from_parents(self, bounds: np.ndarray) -> None:
        """Decide signs from the values at the centres of the next larger blocks.

        bounds: (n, 7).
        """
        evaluated = self.evaluated
        parents = self.blocks // PARENT_SIZE * PARENT_SIZE
        centres = block_centres(parents, PARENT_SIZE, evaluated.resolution)
        keys, steps = evaluated.key(centres), centres - self.blocks
        has_value = evaluated.contains(keys)
        for step in np.unique(steps[has_value], axis=0):
            blocks = np.flatnonzero(has_value & (steps == step).all(axis=1))
            values = evaluated.values[evaluated.locate(keys[blocks])]
            for point in range(len(BLOCK_POINTS)):
                change = BLOCK_POINTS[point] - step
                self._decide(
                    self.place[blocks, point], values, *change_range(bounds[blocks], change, change)
                )

    def infer(self, kind: np.ndarray, ranges: Ranges) -> None:
        """Decide signs at some of the 27 points from the values at the points adjacent to them."""
        values = self.value[self.place]
        for point, near in itertools.product(kind, range(len(BLOCK_POINTS))):
            if 0 < DISTANCES[point, near] < 2:
                step = tuple(BLOCK_POINTS[point] - BLOCK_POINTS[near])
                self._decide(self.place[:, point], values[:, near], *ranges[step])

    def _decide(
        self, points: np.ndarray, values: np.ndarray, least: np.ndarray, largest: np.ndarray
    ) -> None:
        """Set undecided signs at points (m,) that are values (m,) plus least ... largest change."""
        for certain, sign in ((values + least > 0, 1), (values + largest < 0, -1)):
            self.sign[points[certain & (self.sign[points] == 0)]] = sign

    def crossed(self) -> np.ndarray:
        """The cells (m, 3) whose corners have different signs, after evaluating all of these."""
        corners = self.sign[self.place][:, CELL_POINTS]  # (blocks, cells, corners)
        block, cell = np.nonzero((corners.min(axis=2) <= 0) & (corners.max(axis=2) >= 0))
        points = np.unique(self.place[block[:, None], CELL_POINTS[cell]])
        self._evaluate(points[self.on_grid[points] & np.isnan(self.value[points])])
        return self.blocks[block] + CORNERS[cell]

    def observed_changes(self) -> np.ndarray:
        """The largest decreases and increases between adjacent evaluated points: (n, 6)."""
        values = self.value[self.place]
        changes = np.full((len(self.blocks), 6), -np.inf, np.float32)
        for axis in range(3):
            first = np.flatnonzero(BLOCK_POINTS[:, axis] < 2)
            increase = values[:, first + STRIDES[axis]] - values[:, first]
            for column, change in ((axis, -increase), (axis + 3, increase)):
                changes[:, column] = np.nan_to_num(change, nan=-np.inf).max(axis=1)
        return changes
