"""Shapes to reconstruct: a mesh, points on a surface or SDF samples, from a file or from memory.

obj, ply, stl, off, glb   a mesh, or points where there are no faces; ply with normals
xyz                       text, one point per row: x y z, or x y z nx ny nz
npz                       points (n, 3), optionally with normals (n, 3) or sdf (n,)
npz                       pos, neg (n, 4): DeepSDF's samples, which are normalised already
"""

import os
import re
import warnings
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import trimesh

from metasdf.data.formats import read_vertices
from metasdf.data.npz import DAMAGED, map_npz
from metasdf.errors import InputError
from metasdf.geometry.bodies import Body
from metasdf.geometry.mesh_files import MESH_SUFFIXES, checked_mesh, read_geometry

MIN_POINTS = 10
INPUT_SUFFIXES = (*MESH_SUFFIXES, ".xyz", ".npz")


@dataclass(frozen=True)
class ShapeInput:
    """What a shape is reconstructed from.

    Attributes:
        points: (n, 3) float64, on the surface unless `distances` says otherwise.
        normals: outward unit normals of the points (n, 3).
        distances: signed distances of the points (n,), negative inside.
        mesh: the surface.
        body: the solid that `mesh` bounds, where one was looked for and found.
        is_normalised: whether the points are in the normalised frame by definition.
        normals_estimated: whether the normals come from the points' neighbours, not from the input.
        left_out: number of rows dropped as not finite or with a normal of length 0.
        source: the file it was read from.
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    distances: np.ndarray | None = None
    mesh: trimesh.Trimesh | None = None
    body: Body | None = None
    is_normalised: bool = False
    normals_estimated: bool = False
    left_out: int = 0
    source: Path | None = None

    @property
    def kind(self) -> str:
        """The kind of input, in words."""
        if self.mesh is not None:
            return "mesh"
        if self.distances is not None:
            return "SDF samples"
        return "points with normals" if self.normals_given else "points"

    @property
    def normals_given(self) -> bool:
        """Whether the input came with normals."""
        return self.normals is not None and not self.normals_estimated

    @property
    def has_signs(self) -> bool:
        """Whether signed distances follow from it: given, by normals, or by the solid `body`."""
        return any(part is not None for part in (self.distances, self.normals, self.body))

    def extent(self) -> np.ndarray:
        """Points (n, 3) whose bounding box is that of the shape, as far as it is known.

        Of SDF samples, these bound the balls around the samples inside that reach to the surface.
        """
        if self.distances is None:
            return self.points
        inside = self.distances <= 0
        axes = np.concatenate([np.eye(3), -np.eye(3)])
        radii = -self.distances[inside, None, None] * axes
        return (self.points[inside, None] + radii).reshape(-1, 3)


ShapeLike = (
    trimesh.Trimesh | np.ndarray | tuple[np.ndarray, np.ndarray] | str | os.PathLike | ShapeInput
)


def as_shape_input(shape: ShapeLike) -> ShapeInput:
    """A mesh, surface points (n, 3), a tuple (points, normals) or a path as `ShapeInput`.

    Raises:
        InputError: it is of no such kind, or its numbers cannot be used; see `read_shape_input`.
    """
    if isinstance(shape, ShapeInput):
        return shape
    if isinstance(shape, str | os.PathLike):
        return read_shape_input(shape)
    if isinstance(shape, trimesh.Trimesh):
        vertices, faces = np.asarray(shape.vertices), np.asarray(shape.faces)
        mesh = checked_mesh("the mesh", vertices, faces)
        return ShapeInput(np.asarray(mesh.vertices), mesh=mesh)
    points, normals = shape if isinstance(shape, tuple) and len(shape) == 2 else (shape, None)
    points = _real_array("points", points, 3)
    if normals is not None:
        normals = _real_array("normals", normals, 3, len(points))
    return _usable_rows("points", ShapeInput(points, normals))


# Files


def read_shape_input(path: str | os.PathLike) -> ShapeInput:
    """Read a mesh, points or SDF samples, in the file's own frame.

    Raises:
        InputError: the file is missing, broken or of an unknown kind, or holds fewer than
            MIN_POINTS usable points.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        problem = "is a folder; name one file" if path.is_dir() else "there is no such file"
        raise InputError(f"{path}: {problem}")
    if suffix == ".npz":
        shape = _read_npz(path)
    elif suffix == ".xyz":
        shape = _read_xyz(path)
    elif suffix in MESH_SUFFIXES:
        shape = _read_mesh_file(path)
    else:
        supported = " ".join(INPUT_SUFFIXES)
        raise InputError(f"{path}: is of no known kind; convert it to one of {supported}")
    return replace(shape, source=path)


def _read_mesh_file(path: Path) -> ShapeInput:
    vertices, faces = read_geometry(path)
    if len(faces):
        mesh = checked_mesh(path, vertices, faces)
        return ShapeInput(np.asarray(mesh.vertices), mesh=mesh)
    is_ply = path.suffix.lower() == ".ply"
    return _usable_rows(path, ShapeInput(*read_vertices(path)) if is_ply else ShapeInput(vertices))


def _read_xyz(path: Path) -> ShapeInput:
    try:
        with open(path, encoding="utf-8") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about an empty file, an error below
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
    # Columns 4 to 6 may also hold colours.
    are_normals = rows.shape[1] == 6 and 0.9 < np.nanmedian(length) < 1.1
    return _usable_rows(path, ShapeInput(points, normals if are_normals else None))


def _read_npz(path: Path) -> ShapeInput:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except DAMAGED as error:
        raise InputError(f"{path}: is damaged or no npz file ({error})") from error

    def read(name: str, columns: int, num_rows: int | None = None) -> np.ndarray:
        return _real_array(f"{path}: {name}", map_npz(path, name), columns, num_rows)

    if {"pos", "neg"} <= names:
        rows = np.concatenate([read(name, 4) for name in ("pos", "neg")])
        samples = ShapeInput(rows[:, :3], distances=rows[:, 3], is_normalised=True)
        return _usable_rows(path, samples)
    if "points" not in names:
        contents = ", ".join(sorted(names)) or "nothing"
        raise InputError(
            f"{path}: holds {contents}; want pos and neg, or points, perhaps with normals or sdf"
        )
    points = read("points", 3)
    normals = read("normals", 3, len(points)) if "normals" in names else None
    distances = read("sdf", 1, len(points))[:, 0] if "sdf" in names else None
    return _usable_rows(path, ShapeInput(points, normals, distances))


# Arrays


def _real_array(name: str, values: Any, columns: int, num_rows: int | None = None) -> np.ndarray:
    """Real numbers as (n, columns) float64, n = `num_rows` if given; name: for the error."""
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of unequal lengths
        raise InputError(f"{name}: {error}") from error
    if columns == 1 and array.ndim == 1:
        array = array[:, None]
    is_real = np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)
    if not is_real or array.shape[1:] != (columns,) or num_rows not in (None, len(array)):
        expected = f"[{num_rows or 'n'}, {columns}]"
        raise InputError(f"{name} is {array.dtype} {list(array.shape)}, want {expected}")
    return np.asarray(array, np.float64)


def _usable_rows(name: str | Path, shape: ShapeInput) -> ShapeInput:
    """Drop rows that are not finite or whose normal has length 0; scale normals to length 1.

    name: for the error if fewer than MIN_POINTS rows are left.
    """
    points, normals, distances = shape.points.astype(np.float64), shape.normals, shape.distances
    usable = np.isfinite(points).all(axis=1)
    if distances is not None:
        usable &= np.isfinite(distances)
    if normals is not None and normals.any():  # all 0: they were never computed
        with np.errstate(all="ignore"):
            normals = normals / np.linalg.norm(normals.astype(np.float64), axis=1, keepdims=True)
        usable &= np.isfinite(normals).all(axis=1)
    else:
        normals = None
    if usable.sum() < MIN_POINTS:
        raise InputError(
            f"{name}: holds {usable.sum()} usable points of {len(usable)}; at least {MIN_POINTS} "
            "are needed"
        )
    return replace(
        shape,
        points=points[usable],
        normals=None if normals is None else normals[usable],
        distances=None if distances is None else distances[usable],
        left_out=int((~usable).sum()),
    )
