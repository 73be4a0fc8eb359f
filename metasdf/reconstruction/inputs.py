"""One shape of the user's own: a mesh, points or SDF samples -> a mesh in the file's frame.

    obj, ply, stl, off, glb   a mesh, or points where there are no faces; ply with normals
    xyz                       text, a point a row: x y z, or x y z nx ny nz
    npz                       points (n, 3), perhaps with normals (n, 3) or sdf (n,)
    npz                       pos, neg (n, 4): DeepSDF's samples, which are normalised already

The shape goes into the normalised frame as `preprocessing` puts meshes there, the model adapts to
it there, and the result comes back.
"""

import os
import re
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import trimesh

from metasdf.data.arrays import DAMAGED, map_npz
from metasdf.data.samples import read_vertices
from metasdf.errors import InputError
from metasdf.geometry.bodies import Body
from metasdf.geometry.mesh_files import MESH_SUFFIXES, checked_mesh, read_geometry

MIN_POINTS = 10


@dataclass(frozen=True)
class OwnShape:
    """What is known of a shape.

    Attributes:
        points: (n, 3) float64, on the surface unless `distances` says otherwise.
        normals: their unit normals (n, 3), outward.
        distances: their signed distances (n,), inside negative.
        mesh: the surface as read from the file.
        body: the solid that `mesh` bounds, if that has been looked into and it bounds one.
        is_normalised: whether the file is in the normalised frame by definition.
        left_out: rows of the file that were not finite or had a normal of no length.
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    distances: np.ndarray | None = None
    mesh: trimesh.Trimesh | None = None
    body: Body | None = None
    is_normalised: bool = False
    left_out: int = 0

    @property
    def kind(self) -> str:
        if self.mesh is not None:
            return "mesh"
        if self.distances is not None:
            return "SDF samples"
        return "points" if self.normals is None else "points with normals"

    def extent(self) -> np.ndarray:
        """Points (n, 3) with the same bounding box as the shape, as far as that is known.

        Around a sample inside, a ball that reaches to the surface is inside as well.
        """
        if self.distances is None:
            return self.points
        inside = self.distances <= 0
        axes = np.concatenate([np.eye(3), -np.eye(3)])
        reach = -self.distances[inside, None, None] * axes
        return (self.points[inside, None] + reach).reshape(-1, 3)


# Reading.


def read_own_shape(path: str | os.PathLike) -> OwnShape:
    """Read a mesh, points or SDF samples, in the file's own frame.

    Raises:
        InputError: the file is missing, broken or of an unknown kind, or holds fewer than
            MIN_POINTS usable points.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        what = "is a folder; name one file" if path.is_dir() else "there is no such file"
        raise InputError(f"{path}: {what}")
    if suffix == ".npz":
        return _read_npz(path)
    if suffix == ".xyz":
        return _read_xyz(path)
    if suffix not in MESH_SUFFIXES:
        known = " ".join((*MESH_SUFFIXES, ".xyz", ".npz"))
        raise InputError(f"{path}: is of no known kind; convert it to one of {known}")
    vertices, faces = read_geometry(path)
    if len(faces):
        mesh = checked_mesh(path, vertices, faces)
        return OwnShape(np.asarray(mesh.vertices), mesh=mesh)
    points = OwnShape(*read_vertices(path)) if suffix == ".ply" else OwnShape(vertices)
    return _usable(path, points)


def _read_xyz(path: Path) -> OwnShape:
    try:
        with open(path, encoding="utf-8") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file; told below
            rows = np.loadtxt(file, ndmin=2)
    except ValueError as error:
        row = re.search(r"row (\d+)", str(error))
        where = f" (row {row.group(1)}, counted from 0)" if row else ""
        raise InputError(
            f"{path}: is not a table of numbers{where}; want 3 or 6 in every row, blanks "
            "between, and no row that counts them"
        ) from error
    if rows.size == 0:
        raise InputError(f"{path}: holds no points")
    if rows.shape[1] not in (3, 6):
        raise InputError(f"{path}: has {rows.shape[1]} columns; want x y z, or x y z nx ny nz")
    points, normals = rows[:, :3], rows[:, 3:]
    with np.errstate(over="ignore"):
        length = np.linalg.norm(normals, axis=1)
    # Others keep colours there.
    is_unit = rows.shape[1] == 6 and 0.9 < np.nanmedian(length) < 1.1
    return _usable(path, OwnShape(points, normals if is_unit else None))


def _read_npz(path: Path) -> OwnShape:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except DAMAGED as error:
        raise InputError(f"{path}: is damaged or no npz file ({error})") from error
    if {"pos", "neg"} <= names:
        rows = np.concatenate([_numbers(path, name, 4) for name in ("pos", "neg")])
        return _usable(path, OwnShape(rows[:, :3], distances=rows[:, 3], is_normalised=True))
    if "points" not in names:
        held = ", ".join(sorted(names)) or "nothing"
        raise InputError(
            f"{path}: holds {held}; want pos and neg, or points, perhaps with normals or sdf"
        )
    points = _numbers(path, "points", 3)
    normals = _numbers(path, "normals", 3, len(points)) if "normals" in names else None
    distances = _numbers(path, "sdf", 1, len(points))[:, 0] if "sdf" in names else None
    return _usable(path, OwnShape(points, normals, distances))


def _numbers(path: Path, name: str, columns: int, rows: int | None = None) -> np.ndarray:
    """An array of an npz file as (n, columns) float64, n = `rows` if given."""
    array = map_npz(path, name)
    if columns == 1 and array.ndim == 1:
        array = array[:, None]
    is_real = np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)
    if not is_real or array.shape[1:] != (columns,) or rows not in (None, len(array)):
        want = f"[{rows or 'n'}, {columns}]"
        raise InputError(f"{path}: {name} is {array.dtype} {list(array.shape)}, want {want}")
    return np.asarray(array, np.float64)


def _usable(path: Path, shape: OwnShape) -> OwnShape:
    """The rows that are finite and whose normals, then made unit, have a length."""
    points, normals, distances = shape.points.astype(np.float64), shape.normals, shape.distances
    kept = np.isfinite(points).all(axis=1)
    if distances is not None:
        kept &= np.isfinite(distances)
    if normals is not None and normals.any():  # all 0: they were never computed
        with np.errstate(all="ignore"):
            normals = normals / np.linalg.norm(normals.astype(np.float64), axis=1, keepdims=True)
        kept &= np.isfinite(normals).all(axis=1)
    else:
        normals = None
    if kept.sum() < MIN_POINTS:
        raise InputError(
            f"{path}: holds {kept.sum()} usable points of {len(kept)}; at least {MIN_POINTS} are "
            "needed"
        )
    return replace(
        shape,
        points=points[kept],
        normals=None if normals is None else normals[kept],
        distances=None if distances is None else distances[kept],
        left_out=int((~kept).sum()),
    )
