"""The pieces that a surface consists of, and how many of them to keep."""

import numpy as np
import trimesh
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from metasdf.errors import InputError
from metasdf.geometry.mesh import face_areas, used_vertices

KEEP = ("all", "largest")
SPECK_FACES = 8  # of the surface that marching cubes puts around a single grid point


def check_keep(keep: str | int) -> None:
    """InputError unless `keep` is one that `keep_pieces` takes."""
    if keep in KEEP or (str(keep).isdecimal() and int(keep) >= 1):
        return
    raise InputError(f"keep: {keep!r} is none of all, largest, or a number of pieces from 1")


def piece_areas(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.ndarray]:
    """A mesh's pieces, the largest first; a piece is what hangs together by shared vertices.

    The surface of a hollow inside a body is a piece of its own.

    Returns:
        The area of each piece (p,), and the piece that each face belongs to (m,).
    """
    faces = np.asarray(mesh.faces)
    ends = np.concatenate([faces[:, :2], faces[:, 1:]])
    count = len(mesh.vertices)
    graph = coo_matrix((np.ones(len(ends), bool), (ends[:, 0], ends[:, 1])), (count, count))
    labels = connected_components(graph, directed=False)[1][faces[:, 0]]
    _, labels = np.unique(labels, return_inverse=True)
    areas = np.bincount(labels, face_areas(mesh))
    order = np.argsort(-areas, kind="stable")
    return areas[order], np.argsort(order)[labels]


def keep_pieces(mesh: trimesh.Trimesh, keep: str | int = "all") -> tuple[trimesh.Trimesh, int]:
    """A mesh's largest pieces by area, and how many pieces it had.

    keep: "all", "largest", or a number of pieces, also as text.

    Raises:
        InputError: see `check_keep`.
    """
    check_keep(keep)
    areas, piece = piece_areas(mesh)
    limit = {"all": len(areas), "largest": 1}.get(keep) or int(keep)
    return _only(mesh, piece < limit), len(areas)


def without_specks(mesh: trimesh.Trimesh) -> tuple[trimesh.Trimesh, int]:
    """A mesh on a grid without its specks, and how many they were.

    A speck is a piece around a single grid point, too small for the grid to tell its shape. A mesh
    of nothing else stays as it is.
    """
    _, piece = piece_areas(mesh)
    is_speck = np.bincount(piece) <= SPECK_FACES
    if is_speck.all():
        return mesh, 0
    return _only(mesh, ~is_speck[piece]), int(is_speck.sum())


def _only(mesh: trimesh.Trimesh, chosen: np.ndarray) -> trimesh.Trimesh:
    """The mesh of some faces, chosen (m,) bool."""
    if chosen.all():
        return mesh
    faces = np.asarray(mesh.faces)[chosen]
    used = used_vertices(mesh.vertices, faces)
    new = np.cumsum(used) - 1
    return trimesh.Trimesh(np.asarray(mesh.vertices)[used], new[faces], process=False)
