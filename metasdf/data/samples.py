"""One shape's data on disk, and random draws from it."""

import os
from functools import cached_property

import numpy as np

from metasdf.data.formats import (
    MAX_COORDINATE,
    finite_rows,
    read_normalisation,
    read_points,
    read_sdf_samples,
)
from metasdf.data.names import (
    NORMALISATION,
    PARTIAL_SAMPLES,
    SDF_SAMPLES,
    SURFACE_SAMPLES,
    ShapeName,
)
from metasdf.errors import InputError
from metasdf.geometry.normalisation import Normalisation

# Which folder a context of surface points comes from.
CONTEXT_FOLDERS = {"levelset": SURFACE_SAMPLES, "partial": PARTIAL_SAMPLES}


class Samples:
    """One shape's data on disk, opened when first used.

    SDF samples are memory-mapped, never read whole. Everything raises InputError, naming the file,
    where data is missing or broken.
    """

    def __init__(self, data_source: str | os.PathLike, shape: ShapeName) -> None:
        self.data_source = data_source
        self.shape = shape
        self._surfaces: dict[str, np.ndarray] = {}

    @cached_property
    def signed(self) -> tuple[np.ndarray, np.ndarray]:
        """pos and neg, each (n, 4) of floats: x, y, z, signed distance; rows may hold NaN."""
        return read_sdf_samples(self.shape.file(self.data_source, SDF_SAMPLES))

    @cached_property
    def normalisation(self) -> Normalisation:
        """The map from the mesh's own frame to the normalised one."""
        return read_normalisation(self.shape.file(self.data_source, NORMALISATION))

    def surface(self, folder: str = SURFACE_SAMPLES) -> np.ndarray:
        """Points on the surface, (n, 3) float32, in the normalised frame."""
        if folder not in self._surfaces:
            path = self.shape.file(self.data_source, folder)
            with np.errstate(over="ignore"):
                points = self.normalisation.apply(read_points(path)).astype(np.float32)
            if not np.abs(points).max() <= MAX_COORDINATE:
                raise InputError(f"{path}: its points lie far outside the normalised frame")
            self._surfaces[folder] = points
        return self._surfaces[folder]

    def check(self, context_mode: str) -> None:
        """InputError if anything that a context mode needs is missing or broken."""
        _ = self.signed
        if context_mode in CONTEXT_FOLDERS:
            _ = self.surface(CONTEXT_FOLDERS[context_mode])

    def draw_signed(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Half of `count` rows from pos, half from neg, with replacement: (count, 4) float32."""
        pos, neg = self.signed
        half = count // 2
        return np.concatenate([_draw_rows(pos, count - half, rng), _draw_rows(neg, half, rng)])

    def draw_disjoint(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two draws like `draw_signed`, of count // 2 rows each, that share no row of the file.

        Only where pos or neg has a single row, both draws use it.
        """
        draws: tuple[list, list] = ([], [])
        quarter = count // 4
        for rows, number in zip(self.signed, (count // 2 - quarter, quarter), strict=True):
            shuffled = rng.permutation(np.flatnonzero(finite_rows(rows)))
            for draw, half in zip(draws, np.array_split(shuffled, 2), strict=True):
                pool = half if len(half) else shuffled
                draw.append(rows[pool[rng.integers(len(pool), size=number)]].astype(np.float32))
        return np.concatenate(draws[0]), np.concatenate(draws[1])

    def draw_surface(self, count: int, rng: np.random.Generator, folder: str) -> np.ndarray:
        """`count` surface points (count, 3); with replacement only where there are fewer."""
        points = self.surface(folder)
        return points[rng.choice(len(points), count, replace=count > len(points))]


def take_rows(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """rows[index] as float32, of rows (n, 4)."""
    if rows.dtype != np.float32 or not rows.flags.c_contiguous:
        return rows[index].astype(np.float32)
    # As blocks of bytes it is ten times as fast, even where the file's rows are not aligned.
    return rows.view("V16")[:, 0].take(index).view(np.float32).reshape(-1, 4)


def _draw_rows(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` rows (count, 4) drawn uniformly among the finite ones, with replacement."""
    drawn = take_rows(rows, rng.integers(len(rows), size=count))
    if not np.isfinite(drawn).all():
        rejected = ~finite_rows(drawn)
        finite = np.flatnonzero(finite_rows(rows))
        drawn[rejected] = rows[finite[rng.integers(len(finite), size=rejected.sum())]]
    return drawn
