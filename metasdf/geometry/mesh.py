"""Triangle meshes: load, check, normalise, sample the surface, cast rays, draw a picture.

A mesh is a `trimesh.Trimesh` with plain arrays: vertices (n, 3) float64, faces (m, 3) int64.
"""

from dataclasses import dataclass

import numpy as np
import trimesh

from metasdf.errors import InputError

MARGIN = 1.03  # the unit sphere's radius over that of a normalised shape


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
        doubled_faces: faces beyond the first on the same three vertices.
        border_edges: edges with one face: where the surface ends, and a ray may slip past it.
    """

    num_edges: int
    open_edges: int
    inconsistent_edges: int
    doubled_faces: int
    border_edges: int

    @property
    def watertight(self) -> bool:
        """Whether the winding number of every point off the surface is a whole number."""
        return not (self.open_edges or self.inconsistent_edges or self.doubled_faces)

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
        if self.doubled_faces:
            defects.append(f"{self.doubled_faces} faces are doubled")
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
        doubled_faces=doubled,
        border_edges=int((num_faces == 1).sum()),
    )


def without_doubles(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """The mesh with one face, the first, of those that share their three vertices."""
    _, first = np.unique(np.sort(mesh.faces, axis=1), axis=0, return_index=True)
    if len(first) == len(mesh.faces):
        return mesh
    return trimesh.Trimesh(mesh.vertices, mesh.faces[np.sort(first)], process=False)


def normalisation(mesh: trimesh.Trimesh) -> tuple[np.ndarray, np.float32]:
    """Offset and scale of DeepSDF's normalised frame: normalised = (original + offset) * scale.

    The centre of the bounding box goes to the origin, then the farthest vertex to radius 1/1.03;
    only vertices that faces use count (DeepSDF, supplementary material; `BoundingCubeNormalization`
    in its released program).

    Returns:
        offset (3,) float32 in the mesh's units, and scale, float32. They are rounded to float32
        here, because that is how they are stored: every user of the frame has the same numbers.

    Raises:
        InputError: the mesh is a point, or float32 cannot hold its coordinates.
    """
    return points_normalisation(mesh.vertices[used_vertices(mesh.vertices, mesh.faces)])


def points_normalisation(vertices: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """`normalisation` of a shape whose surface or extent is known at points (n, 3)."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        offset = -(0.5 * vertices.min(axis=0) + 0.5 * vertices.max(axis=0)).astype(np.float32)
        radius = np.linalg.norm(vertices + offset.astype(np.float64), axis=1).max()
        scale = np.float32(1 / (MARGIN * radius))
        # What rounding a vertex to float32 costs, in the normalised frame.
        resolution = np.spacing(np.abs(vertices).max().astype(np.float32)) * scale
    if radius == 0:
        raise InputError(
            "all points are the same, at least in float32, so there is no size to scale to"
        )
    if not (np.isfinite(scale) and scale > 0 and resolution < 1e-4):
        raise InputError(
            "the coordinates are too large, too small or too far from the origin for float32; "
            "move the shape to the origin and scale it to a size near 1"
        )
    return offset, scale


def normalise(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A copy of `mesh` in the normalised frame (see `normalisation`)."""
    offset, scale = normalisation(mesh)
    vertices = (mesh.vertices + offset.astype(np.float64)) * np.float64(scale)
    return trimesh.Trimesh(vertices, mesh.faces, process=False)


# trimesh keeps what it once computed of all faces, hundreds of bytes a face; these keep nothing.


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
    """Draw points uniformly by area.

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
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)
