"""Triangle meshes: defects, repairs, areas, normals, points on the surface.

A mesh is a `trimesh.Trimesh` with plain arrays: vertices (n, 3) float64, faces (m, 3) int64.
"""

from dataclasses import dataclass

import numpy as np
import trimesh


def used_vertices(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Whether a face uses each vertex, (n,) bool."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return used


@dataclass(frozen=True)
class Closedness:
    """What keeps a mesh from being the closed, consistently oriented boundary of a solid.

    Attributes:
        num_edges: undirected edges.
        open_edges: edges with an odd number of faces: holes, borders, odd junctions.
        inconsistent_edges: edges with an even number of faces that do not run along them equally
            often in both directions: neighbours that disagree about which side is outside.
        duplicate_faces: faces beyond the first on the same three vertices.
        border_edges: edges with one face: where the surface ends, and a ray may slip past it.
    """

    num_edges: int
    open_edges: int
    inconsistent_edges: int
    duplicate_faces: int
    border_edges: int

    @property
    def watertight(self) -> bool:
        """Whether the winding number of every point off the surface is a whole number."""
        return not (self.open_edges or self.inconsistent_edges or self.duplicate_faces)

    def describe(self) -> str:
        """One line for people, like "12 of 300 edges are open"."""
        defects = []
        if self.open_edges:
            defects.append(f"{self.open_edges} of {self.num_edges} edges are open")
        if self.inconsistent_edges:
            defects.append(
                f"faces disagree about the outside at {self.inconsistent_edges} of "
                f"{self.num_edges} edges"
            )
        if self.duplicate_faces:
            defects.append(f"{self.duplicate_faces} faces are doubled")
        return ", ".join(defects) or "closed and consistently oriented"


def closedness(mesh: trimesh.Trimesh) -> Closedness:
    """Count the defects of a mesh whose equal vertices are merged (as `load_mesh` returns it)."""
    faces = np.asarray(mesh.faces, np.int64)
    tail = faces.reshape(-1)
    head = np.roll(faces, -1, axis=1).reshape(-1)
    key = np.minimum(tail, head) * len(mesh.vertices) + np.maximum(tail, head)
    order = np.argsort(key)
    first = np.flatnonzero(np.diff(key[order], prepend=-1))
    direction = np.where(tail < head, 1, -1)[order]
    balance = np.add.reduceat(direction, first)
    num_faces = np.diff(first, append=len(key))
    is_open = num_faces % 2 == 1
    doubled = len(faces) - len(np.unique(np.sort(faces, axis=1), axis=0))
    return Closedness(
        num_edges=len(first),
        open_edges=int(is_open.sum()),
        inconsistent_edges=int(((balance != 0) & ~is_open).sum()),
        duplicate_faces=doubled,
        border_edges=int((num_faces == 1).sum()),
    )


def without_duplicate_faces(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh with only the first of several faces on the same three vertices."""
    _, first = np.unique(np.sort(mesh.faces, axis=1), axis=0, return_index=True)
    if len(first) == len(mesh.faces):
        return mesh
    return trimesh.Trimesh(mesh.vertices, mesh.faces[np.sort(first)], process=False)


def has_three_corners(faces: np.ndarray) -> np.ndarray:
    """Whether the three vertices of each face (m, 3) differ: (m,) bool."""
    a, b, c = faces.T
    return (a != b) & (b != c) & (c != a)


def weld(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh as float32 stores it, with one vertex for those that thereby coincide.

    Faces that lose a corner, pairs of faces that come to lie back to back, and vertices that no
    face uses any longer are dropped; the volume stays, and a closed mesh stays closed whether or
    not a reader merges equal vertices. Only where two sheets touch along an edge do four faces
    share it. Order is kept.

    Returns:
        Mesh with vertices (n, 3) that float32 holds exactly.
    """
    vertices = np.asarray(mesh.vertices, np.float32)
    order = np.lexsort(vertices.T)  # stable: of equal vertices the first comes first
    starts = np.ones(len(vertices), bool)
    starts[1:] = (np.diff(vertices[order], axis=0) != 0).any(axis=1)
    first = np.empty(len(vertices), np.int64)
    first[order] = order[starts][np.cumsum(starts) - 1]
    faces = first[mesh.faces]
    faces = faces[has_three_corners(faces)]
    faces = faces[~_back_to_back(faces)]
    used = used_vertices(vertices, faces)
    return trimesh.Trimesh(vertices[used], (np.cumsum(used) - 1)[faces], process=False)


def _back_to_back(faces: np.ndarray) -> np.ndarray:
    """Whether each face (m, 3) has exactly one other on its vertices, the other way round."""
    _, group, size = np.unique(
        np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    group = group.reshape(-1)
    a, b, c = faces.T
    is_even = ((a < b).astype(int) + (b < c) + (c < a)) == 2  # a rotation of the sorted vertices
    balance = np.bincount(group, np.where(is_even, 1, -1), len(size))
    return ((size == 2) & (balance == 0))[group]


# trimesh caches what it computes of all faces, hundreds of bytes a face; these cache nothing.


def face_areas(mesh: trimesh.Trimesh) -> np.ndarray:
    """The area of every face, (m,) float64."""
    a, b, c = (mesh.vertices[column] for column in mesh.faces.T)
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def face_normals(mesh: trimesh.Trimesh, face: np.ndarray) -> np.ndarray:
    """Unit normals (n, 3) of the faces with indices (n,); 0 where a face has no area."""
    a, b, c = (mesh.vertices[column] for column in mesh.faces[face].T)
    return unit_vectors(np.cross(b - a, c - a))


def sample_surface(
    mesh: trimesh.Trimesh, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` points on a mesh, uniformly by area.

    Returns:
        points (count, 3) float64 and the index of the face each lies on, (count,) int64.
    """
    cumulative = np.cumsum(face_areas(mesh))
    index = np.searchsorted(cumulative, rng.random(count) * cumulative[-1], side="right")
    index = np.minimum(index, len(cumulative) - 1)
    # The square root spreads the points evenly (Osada et al. 2002, equation 1).
    root, along = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
    a, b, c = (mesh.vertices[column] for column in mesh.faces[index].T)
    return (1 - root) * a + root * (1 - along) * b + root * along * c, index


def unit_vectors(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) scaled to length 1; zero vectors stay zero."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
