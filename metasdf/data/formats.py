"""DeepSDF's file formats, all in float32.

    SdfSamples                npz   pos, neg: (n, 4), rows x, y, z, signed distance, normalised
    SurfaceSamples            ply   points on the surface, in the mesh's own frame
    PartialSamples            ply   the same, of a depth scan
    NormalizationParameters   npz   offset (3,), scale (1,)

normalised = (original + offset) * scale.
"""

import os
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement, PlyParseError

from metasdf.data.npz import map_npz
from metasdf.errors import InputError
from metasdf.files import atomic_path
from metasdf.geometry.normalisation import Normalisation

MAX_COORDINATE = 1e4  # far outside the unit ball; such samples would spoil the whole training


def read_sdf_samples(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """pos and neg of a file of SDF samples, each (n, 4) of floats; single rows may hold NaN.

    They are memory-mapped where the file is uncompressed.

    Raises:
        InputError: the file is missing or damaged, or one of the arrays is of another shape, holds
            no finite row or is not normalised.
    """
    path, arrays = Path(path), []
    for name in ("pos", "neg"):
        rows = map_npz(path, name)
        if rows.ndim != 2 or rows.shape[1] != 4 or not np.issubdtype(rows.dtype, np.floating):
            raise InputError(f"{path}: {name} is {rows.dtype} {list(rows.shape)}, want [n, 4]")
        # The start tells enough of all but odd files, and is quick to read for thousands.
        finite = finite_rows(rows[:1024])
        if not finite.any() and not finite_rows(rows).any():
            raise InputError(f"{path}: {name} has no finite rows")
        largest = np.abs(rows[:1024][finite]).max(initial=0)
        if largest > MAX_COORDINATE:
            raise InputError(f"{path}: {name} is not normalised, it holds {largest:.3g}")
        arrays.append(rows)
    return arrays[0], arrays[1]


def finite_rows(rows: np.ndarray) -> np.ndarray:
    """Whether each row (n, k) is finite as float32: (n,) bool."""
    with np.errstate(over="ignore"):
        return np.isfinite(rows.astype(np.float32)).all(axis=1)


def write_sdf_samples(path: str | os.PathLike, pos: np.ndarray, neg: np.ndarray) -> None:
    """Write SDF samples, pos (n, 4) and neg (m, 4), rows x, y, z, signed distance.

    Raises:
        InputError: a number is not finite; nothing is written.
    """
    if not (np.isfinite(pos).all() and np.isfinite(neg).all()):
        raise InputError(f"{path}: some samples are not finite numbers; repair the mesh")
    with atomic_path(path) as temporary:
        np.savez(temporary, pos=pos.astype(np.float32), neg=neg.astype(np.float32))


def read_vertices(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The vertices (n, 3) of a PLY file and their normals (n, 3) if it has any, unchanged.

    Raises:
        InputError: the file is missing or damaged, or has no vertices.
    """
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
    """The finite vertices of a PLY file, (n, 3) float32, n >= 1. Errors: `read_vertices`."""
    points = read_vertices(path)[0].astype(np.float32)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) == 0:
        raise InputError(f"{path}: holds no points")
    return points


def write_points(path: str | os.PathLike, points: np.ndarray) -> None:
    """Write points (n, 3) as the vertices of a binary PLY file."""
    vertices = np.ascontiguousarray(points, "<f4").view([(axis, "<f4") for axis in "xyz"])[:, 0]
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(temporary))


def read_normalisation(path: str | os.PathLike) -> Normalisation:
    """Read a normalisation file.

    Raises:
        InputError: it is missing or damaged, or does not hold a finite offset and positive scale.
    """
    offset, scale = (map_npz(Path(path), array).reshape(-1) for array in ("offset", "scale"))
    are_floats = all(np.issubdtype(array.dtype, np.floating) for array in (offset, scale))
    if (
        not (are_floats and offset.shape == (3,) and scale.shape == (1,))
        or not np.isfinite([*offset, *scale]).all()
        or scale[0] <= 0
    ):
        raise InputError(f"{path}: offset must have 3 numbers, scale one above 0")
    return Normalisation(offset.astype(np.float64), float(scale[0]))


def write_normalisation(path: str | os.PathLike, normalisation: Normalisation) -> None:
    """Write a normalisation file."""
    offset, scale = normalisation.offset, normalisation.scale
    with atomic_path(path) as temporary:
        np.savez(temporary, offset=offset.astype(np.float32), scale=np.float32([scale]))
