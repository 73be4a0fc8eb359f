"""DeepSDF's files on disk -> tasks of (context, query).

    <data_source>/SdfSamples/<dataset>/<class>/<instance>.npz       pos, neg: float32 [n, 4]
    <data_source>/SurfaceSamples/<dataset>/<class>/<instance>.ply   points in the mesh's own frame
    <data_source>/PartialSamples/<dataset>/<class>/<instance>.ply   the same, of a partial scan
    <data_source>/NormalizationParameters/<dataset>/<class>/<instance>.npz   offset [3], scale [1]

Rows of pos and neg are x, y, z, signed distance, normalised: (original + offset) * scale.
SDF samples are memory-mapped where they lie, never read whole. Every random number follows from
(seed, epoch, shape), so neither order nor interruption changes what is drawn.
"""

import os
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from metasdf.data.arrays import map_npz
from metasdf.data.names import ShapeName
from metasdf.errors import InputError
from metasdf.files import atomic_path

MAX_COORDINATE = 1e4  # far outside the unit ball; such samples would ruin the training of all
SURFACE_FOLDER = {"levelset": "SurfaceSamples", "partial": "PartialSamples"}


def read_vertices(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The vertices of a PLY file, and their normals if it holds any: (n, 3) each, as they stand."""
    try:
        vertices = PlyData.read(path)["vertex"].data
        points = np.stack([vertices[axis] for axis in "xyz"], axis=1)
        axes = ("nx", "ny", "nz")
        if not set(axes) <= set(vertices.dtype.names):
            return points, None
        return points, np.stack([vertices[axis] for axis in axes], axis=1)
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except (PlyParseError, KeyError, ValueError, OSError, MemoryError) as error:
        raise InputError(f"{path}: is damaged or has no vertices ({error})") from error


def read_points(path: Path) -> np.ndarray:
    """The vertices of a PLY file, (n, 3) float32, n >= 1; rows that are not finite are dropped."""
    points = read_vertices(path)[0].astype(np.float32)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) == 0:
        raise InputError(f"{path}: holds no points")
    return points


class Normalisation(NamedTuple):
    """normalised = (original + offset) * scale; offset (3,) in mesh units, scale 1 / mesh unit."""

    offset: np.ndarray
    scale: float

    def apply(self, points: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return ((points + self.offset) * self.scale).astype(np.float32)

    def invert(self, points: np.ndarray) -> np.ndarray:
        return points / self.scale - self.offset


def read_normalisation(path: str | os.PathLike) -> Normalisation:
    """One of DeepSDF's normalisation files: offset (3,) and scale (1,)."""
    offset, scale = (map_npz(Path(path), array).reshape(-1) for array in ("offset", "scale"))
    numbers = all(np.issubdtype(array.dtype, np.floating) for array in (offset, scale))
    if (
        not (numbers and offset.shape == (3,) and scale.shape == (1,))
        or not np.isfinite([*offset, *scale]).all()
        or scale[0] <= 0
    ):
        raise InputError(f"{path}: offset must have 3 numbers, scale one above 0")
    return Normalisation(offset.astype(np.float64), float(scale[0]))


class Samples:
    """One shape's data on disk, opened when first used.

    InputError, naming the file, where something is missing or broken.
    """

    def __init__(self, data_source: str | os.PathLike, shape: ShapeName) -> None:
        self.data_source = data_source
        self.shape = shape

    @cached_property
    def signed(self) -> tuple[np.ndarray, np.ndarray]:
        """pos and neg, each (n, 4) float32: x, y, z, signed distance; rows may hold NaN."""
        path = self.shape.file(self.data_source, "SdfSamples", ".npz")
        arrays = []
        for name in ("pos", "neg"):
            rows = map_npz(path, name)
            if rows.ndim != 2 or rows.shape[1] != 4 or not np.issubdtype(rows.dtype, np.floating):
                raise InputError(f"{path}: {name} is {rows.dtype} {list(rows.shape)}, want [n, 4]")
            # Looking at the start is enough for all but odd files, and quick for thousands.
            start = _finite(rows[:1024])
            if not start.any() and not _finite(rows).any():
                raise InputError(f"{path}: {name} has no finite rows")
            largest = np.abs(rows[:1024][start]).max(initial=0)
            if largest > MAX_COORDINATE:
                raise InputError(f"{path}: {name} is not normalised, it holds {largest:.3g}")
            arrays.append(rows)
        return arrays[0], arrays[1]

    @cached_property
    def normalisation(self) -> Normalisation:
        return read_normalisation(
            self.shape.file(self.data_source, "NormalizationParameters", ".npz")
        )

    def surface(self, folder: str = "SurfaceSamples") -> np.ndarray:
        """Points on the surface, (n, 3) float32, in the normalised frame."""
        if folder not in self._surfaces:
            path = self.shape.file(self.data_source, folder, ".ply")
            points = self.normalisation.apply(read_points(path))
            if not np.abs(points).max() <= MAX_COORDINATE:
                raise InputError(f"{path}: its points lie far outside the normalised frame")
            self._surfaces[folder] = points
        return self._surfaces[folder]

    @cached_property
    def _surfaces(self) -> dict[str, np.ndarray]:
        return {}

    def check(self, context_mode: str) -> None:
        """InputError if what a context mode needs is missing or broken."""
        _ = self.signed
        if context_mode in SURFACE_FOLDER:
            _ = self.surface(SURFACE_FOLDER[context_mode])

    def draw_signed(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Half of `count` rows from pos, half from neg, with replacement: (count, 4) float32."""
        pos, neg = self.signed
        half = count // 2
        return np.concatenate([_draw_rows(pos, count - half, rng), _draw_rows(neg, half, rng)])

    def draw_apart(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two draws of count // 2 rows like `draw_signed`, no row of the file in both."""
        parts: tuple[list, list] = ([], [])
        quarter = count // 4
        for rows, number in zip(self.signed, (count // 2 - quarter, quarter), strict=True):
            order = rng.permutation(np.flatnonzero(_finite(rows)))
            for part, among in zip(parts, np.array_split(order, 2), strict=True):
                # A single row is in both; there is no other.
                among = among if len(among) else order
                part.append(rows[among[rng.integers(len(among), size=number)]].astype(np.float32))
        return np.concatenate(parts[0]), np.concatenate(parts[1])

    def draw_surface(self, count: int, rng: np.random.Generator, folder: str) -> np.ndarray:
        """`count` surface points, with replacement only where there are fewer: (count, 3)."""
        points = self.surface(folder)
        return points[rng.choice(len(points), count, replace=count > len(points))]


def _finite(rows: np.ndarray) -> np.ndarray:
    """Which rows are finite as float32: (n,) bool."""
    with np.errstate(over="ignore"):
        return np.isfinite(rows.astype(np.float32)).all(axis=1)


def take_rows(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """rows[index] as float32, of rows (n, 4)."""
    if rows.dtype != np.float32 or not rows.flags.c_contiguous:
        return rows[index].astype(np.float32)
    # As blocks of bytes it is ten times as fast, even where the file's rows are not aligned.
    return rows.view("V16")[:, 0].take(index).view(np.float32).reshape(-1, 4)


def _draw_rows(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform among the rows without NaN or infinity: those drawn are drawn anew."""
    drawn = take_rows(rows, rng.integers(len(rows), size=count))
    if not np.isfinite(drawn).all():
        bad = ~_finite(drawn)
        good = np.flatnonzero(_finite(rows))
        drawn[bad] = rows[good[rng.integers(len(good), size=bad.sum())]]
    return drawn


SDF_SAMPLES = "SdfSamples"
SURFACE_SAMPLES = "SurfaceSamples"
PARTIAL_SAMPLES = "PartialSamples"
NORMALISATION = "NormalizationParameters"
OUTPUTS = {
    SDF_SAMPLES: ".npz",
    SURFACE_SAMPLES: ".ply",
    PARTIAL_SAMPLES: ".ply",
    NORMALISATION: ".npz",
}


# Writing one shape.


def write_sdf_samples(path: str | os.PathLike, pos: np.ndarray, neg: np.ndarray) -> None:
    """Write SDF samples, pos (n, 4) and neg (m, 4) float32, rows x, y, z, signed distance.

    Raises:
        InputError: a number is not finite; nothing is written.
    """
    if not (np.isfinite(pos).all() and np.isfinite(neg).all()):
        raise InputError(f"{path}: some samples are not finite numbers; repair the mesh")
    with atomic_path(path) as temporary:
        np.savez(temporary, pos=pos.astype(np.float32), neg=neg.astype(np.float32))


def write_normalisation(path: str | os.PathLike, offset: np.ndarray, scale: float) -> None:
    """Write offset (3,) and scale as float32: normalised = (original + offset) * scale."""
    with atomic_path(path) as temporary:
        np.savez(temporary, offset=offset.astype(np.float32), scale=np.float32([scale]))


def write_points(path: str | os.PathLike, points: np.ndarray) -> None:
    """Write points (n, 3) as the vertices of a binary PLY file, float32."""
    vertices = np.ascontiguousarray(points, "<f4").view([(axis, "<f4") for axis in "xyz"])[:, 0]
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(temporary))
