"""Mesh files: read obj, ply, stl, off and glb with checks; write all of these but off."""

import io
import os
from pathlib import Path

import numpy as np
import trimesh

from metasdf.errors import InputError, listed
from metasdf.files import atomic_path
from metasdf.geometry.mesh import face_areas, has_three_corners, used_vertices, weld

MESH_SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb")
WRITTEN_SUFFIXES = (".ply", ".obj", ".stl", ".glb")


def load_mesh(path: str | os.PathLike) -> trimesh.Trimesh:
    """Load a mesh file (obj, ply, stl, off, glb); the bodies of a scene become one mesh.

    Vertices at equal positions (to a millionth of the mesh's size) are merged, so that faces share
    their edges; faces that thereby lose a corner and vertices that no face uses are dropped.
    Materials and textures are not read.

    Returns:
        Mesh with vertices (n, 3) float64, in the file's coordinates and units, and faces (m, 3).

    Raises:
        InputError: the file is unreadable, of another kind, or holds no triangle or a coordinate
            that is not finite.
    """
    return checked_mesh(path, *read_geometry(path))


def read_geometry(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """The first half of `load_mesh`: vertices (n, 3) float64 and faces (m, 3) int64, unchecked.

    The bodies of a scene are placed in one frame; a point cloud has vertices but no faces.

    Raises:
        InputError: the file is unreadable or of another kind.
    """
    path = Path(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise unknown_kind(path)
    if not path.is_file():
        raise InputError(f"{path}: there is no such file")
    try:
        loaded = trimesh.load(
            _contents(path), file_type=path.suffix[1:].lower(), process=False, skip_materials=True
        )
        vertices, faces = _concatenate(loaded)
        if vertices.shape[1:] != (3,) or faces.shape[1:] != (3,):
            raise ValueError("its vertices do not have three coordinates each")
    except Exception as error:  # parsers of broken files raise nearly anything
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(
            f"{path}: cannot be read as a mesh ({reason}); export the file again"
        ) from error
    return vertices, faces


def is_mesh_name(name: str) -> bool:
    """Whether a file name is that of a mesh: not hidden, and with one of MESH_SUFFIXES."""
    return not name.startswith(".") and name.lower().endswith(MESH_SUFFIXES)


def unknown_kind(path: Path) -> InputError:
    """The error for a file that is no mesh by its name."""
    known = " ".join(MESH_SUFFIXES)
    return InputError(f"{path}: is not a mesh file of a known kind; convert it to one of {known}")


def checked_mesh(
    path: str | os.PathLike, vertices: np.ndarray, faces: np.ndarray
) -> trimesh.Trimesh:
    """The second half of `load_mesh`, for the vertices and faces that `read_geometry` returned.

    `path` is used in messages only. Errors: `load_mesh`.
    """
    if len(faces) == 0:
        raise InputError(f"{path}: has no faces: it is damaged, or holds only points or lines")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path}: a face names a vertex that is not there; export the file again")
    if not np.isfinite(vertices[used_vertices(vertices, faces)]).all():
        raise InputError(f"{path}: has vertices that are not finite numbers; repair the mesh")
    mesh = _merge_vertices(vertices, faces)
    with np.errstate(all="ignore"):
        has_area = face_areas(mesh).sum() > 0
    if not has_area:
        raise InputError(f"{path}: its faces have no area; repair the mesh")
    return mesh


def _contents(path: Path) -> io.BytesIO | str:
    """What to give to trimesh: the path, or a text file's bytes with what is not UTF-8 replaced."""
    if path.suffix.lower() in (".obj", ".off"):
        return io.BytesIO(path.read_bytes().decode("utf-8", "replace").encode())
    return str(path)


def _concatenate(loaded: trimesh.parent.Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, 3) and faces (m, 3) of a mesh, or of all bodies of a scene in its frame."""
    if isinstance(loaded, trimesh.Trimesh):
        faces = loaded.faces if len(loaded.faces) else np.zeros((0, 3))
        return np.asarray(loaded.vertices, np.float64), np.asarray(faces, np.int64)
    if isinstance(loaded, trimesh.PointCloud):
        return np.asarray(loaded.vertices, np.float64), np.zeros((0, 3), np.int64)
    vertices, faces, count = [np.zeros((0, 3))], [np.zeros((0, 3), np.int64)], 0
    for node in loaded.graph.nodes_geometry if isinstance(loaded, trimesh.Scene) else ():
        transform, name = loaded.graph[node]
        body = loaded.geometry[name]
        if isinstance(body, (trimesh.Trimesh, trimesh.PointCloud)):
            vertices.append(trimesh.transform_points(body.vertices, transform))
            if isinstance(body, trimesh.Trimesh):
                faces.append(np.asarray(body.faces, np.int64) + count)
            count += len(body.vertices)
    return np.concatenate(vertices), np.concatenate(faces)


def _merge_vertices(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    """Replace all vertices in the same cell of a grid of 2**20 cells a side by the first."""
    used, faces = np.unique(faces, return_inverse=True)
    vertices = vertices[used]
    unit = vertices / max(np.abs(vertices).max(), np.finfo(np.float64).tiny)
    unit -= unit.min(axis=0)
    # Round coordinates are common and fall on multiples of half a cell; the shift keeps them away
    # from the cells' borders, where a rounding error would separate them.
    cell = np.floor(unit * ((2**20 - 1) / (unit.max() or 1.0)) + 0.31).astype(np.int64)
    key = cell @ np.array([1 << 40, 1 << 20, 1])
    _, first, merged = np.unique(key, return_index=True, return_inverse=True)
    faces = merged[faces.reshape(-1, 3)]
    return trimesh.Trimesh(vertices[first], faces[has_three_corners(faces)], process=False)


def check_written_kind(path: str | os.PathLike) -> None:
    """InputError unless `write_mesh` can write a file of that name."""
    if Path(path).suffix.lower() not in WRITTEN_SUFFIXES:
        known = listed(WRITTEN_SUFFIXES)
        raise InputError(
            f"{path}: a mesh is written as one of {known}; choose one of these endings"
        )


def write_mesh(path: str | os.PathLike, mesh: trimesh.Trimesh) -> None:
    """Write a mesh, welded (see `weld`), as its file's ending says; atomically.

    ply and stl are binary, obj is text, glb is glTF 2.0; all but obj hold float32 coordinates.

    Raises:
        InputError: the ending is none of WRITTEN_SUFFIXES.
    """
    check_written_kind(path)
    contents = weld(mesh).export(file_type=Path(path).suffix[1:].lower())
    contents = contents.encode() if isinstance(contents, str) else contents
    with atomic_path(path) as temporary:
        temporary.write_bytes(contents)
