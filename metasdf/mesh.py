"""Triangle meshes: load, check, normalise, sample the surface, cast rays, draw a picture.

A mesh is a `trimesh.Trimesh` with plain arrays: vertices (n, 3) float64, faces (m, 3) int64.
"""

import io
import os
from dataclasses import dataclass
from pathlib import Path

import igl
import numpy as np
import trimesh
from scipy.spatial import cKDTree

from metasdf.errors import InputError

try:  # Embree casts rays about five times faster; it has no wheel on Linux aarch64.
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene
except ImportError:
    EmbreeScene = None

MESH_SUFFIXES = (".obj", ".ply", ".stl", ".off", ".glb")

MARGIN = 1.03  # the unit sphere's radius over that of a normalised shape

UNIT_BALL = ((0.0, 0.0, 0.0), 1.0)  # frame (centre, radius) that holds every normalised shape


def load_mesh(path: str | os.PathLike) -> trimesh.Trimesh:
    """Load a mesh file (obj, ply, stl, off, glb); the bodies of a scene become one mesh.

    Vertices at equal positions (to a millionth of the mesh's size) are merged, so that an edge
    that two faces share is known as shared; faces that thereby lose a corner and vertices that no
    face uses are dropped. Materials and textures are not read.

    Returns:
        Mesh with vertices (n, 3) float64, in the file's coordinates and units, and faces (m, 3).

    Raises:
        InputError: the file is unreadable, of another kind, or holds no triangle or a coordinate
            that is not finite.
    """
    return checked_mesh(path, *read_geometry(path))


def read_geometry(path: str | os.PathLike) -> tuple[np.ndarray, np.ndarray]:
    """What a mesh file holds, unchecked: vertices (n, 3) float64 and faces (m, 3) int64.

    The bodies of a scene stand in one frame; point clouds are vertices without faces.

    Raises:
        InputError: the file is unreadable or of another kind.
    """
    path = Path(path)
    if path.suffix.lower() not in MESH_SUFFIXES:
        raise InputError(
            f"{path}: is not a mesh file of a known kind; convert it to one of "
            + " ".join(MESH_SUFFIXES)
        )
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


def checked_mesh(
    path: str | os.PathLike, vertices: np.ndarray, faces: np.ndarray
) -> trimesh.Trimesh:
    """What `load_mesh` makes of the geometry of the file `path`."""
    if len(faces) == 0:
        raise InputError(f"{path}: has no faces: it is damaged, or holds only points or lines")
    if faces.min() < 0 or faces.max() >= len(vertices):
        raise InputError(f"{path}: a face names a vertex that is not there; export the file again")
    if not np.isfinite(vertices[_used(vertices, faces)]).all():
        raise InputError(f"{path}: has vertices that are not finite numbers; repair the mesh")
    mesh = _merge_vertices(vertices, faces)
    with np.errstate(all="ignore"):
        has_area = face_areas(mesh).sum() > 0
    if not has_area:
        raise InputError(f"{path}: its faces have no area; repair the mesh")
    return mesh


def _contents(path: Path) -> io.BytesIO | str:
    """What trimesh should read: of a text file its bytes, made UTF-8, as names may be otherwise."""
    if path.suffix.lower() in (".obj", ".off"):
        return io.BytesIO(path.read_bytes().decode("utf-8", "replace").encode())
    return str(path)


def _concatenate(loaded: trimesh.parent.Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Vertices (n, 3) and faces (m, 3) of a mesh, or of all bodies of a scene where they stand."""
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


def _used(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Whether a face uses each vertex, (n,) bool."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    return used


def _merge_vertices(vertices: np.ndarray, faces: np.ndarray) -> trimesh.Trimesh:
    """One vertex for all that lie in the same cell of a lattice of 2**20 cells a side."""
    used, faces = np.unique(faces, return_inverse=True)
    vertices = vertices[used]
    unit = vertices / max(np.abs(vertices).max(), np.finfo(np.float64).tiny)
    unit -= unit.min(axis=0)
    # Round coordinates are common and fall on halves of the lattice; the shift keeps them, give or
    # take a rounding error, away from the cells' borders.
    cell = np.floor(unit * ((2**20 - 1) / (unit.max() or 1.0)) + 0.31).astype(np.int64)
    key = cell @ np.array([1 << 40, 1 << 20, 1])
    _, first, merged = np.unique(key, return_index=True, return_inverse=True)
    faces = merged[faces.reshape(-1, 3)]
    a, b, c = faces.T
    return trimesh.Trimesh(vertices[first], faces[(a != b) & (b != c) & (c != a)], process=False)


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
    return points_normalisation(mesh.vertices[_used(mesh.vertices, mesh.faces)])


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
    return _unit(np.cross(b - a, c - a))


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


def spread_directions(count: int) -> np.ndarray:
    """`count` well-spread unit directions (count, 3): a Fibonacci spiral."""
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + np.sqrt(5)) * np.arange(count)
    across = np.sqrt(1 - height**2)
    return np.stack([across * np.cos(angle), across * np.sin(angle), height], axis=1)


class RayCaster:
    """Casts rays at one mesh, with Embree where it is installed, else with libigl's tree."""

    def __init__(self, mesh: trimesh.Trimesh):
        if EmbreeScene is not None:
            self._scene = EmbreeScene()
            TriangleMesh(self._scene, np.asarray(mesh.vertices, np.float32)[mesh.faces])
        else:
            self._scene = None
            self._vertices = np.ascontiguousarray(mesh.vertices, np.float64)
            self._faces = np.ascontiguousarray(mesh.faces, np.int64)
            self._tree = igl.AABB()
            self._tree.init(self._vertices, self._faces)

    def first_hit(
        self, origins: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first face that each ray meets.

        Args:
            origins, directions: (n, 3) float; directions of unit length.

        Returns:
            face (n,) int64, -1 where the ray escapes, and distance (n,) float64, infinity there.
        """
        if self._scene is not None:
            hits = self._scene.run(_float32(origins), _float32(directions), output=True)
            face, distance = hits["primID"].astype(np.int64), hits["tfar"].astype(np.float64)
        else:
            face, distance, _ = self._tree.intersect_ray_first(
                self._vertices, self._faces, _float64(origins), _float64(directions)
            )
        return face, np.where(face >= 0, distance, np.inf)

    def escapes(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Whether each ray, as in `first_hit`, meets no face at all: (n,) bool."""
        if self._scene is not None:
            hits = self._scene.run(_float32(origins), _float32(directions), query="OCCLUDED")
            return hits == -1
        return self.first_hit(origins, directions)[0] == -1


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _float64(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float64)


# Pictures. Every colour is (red, green, blue) in [0, 1].

_COLOUR = (0.42, 0.60, 0.80)
_FIELD_OF_VIEW = np.radians(28.0)
_SUPERSAMPLING = 2  # rays per pixel and axis
_LIGHTS_PER_RAY = 24  # directions in which each ray looks for light
_CREASE_COSINE = np.cos(np.radians(30.0))  # sharper edges are drawn sharp, others smooth


@dataclass(frozen=True)
class Camera:
    """A perspective camera that looks at `centre`; the axes are right, up and backward."""

    position: np.ndarray
    axes: np.ndarray
    radius: float

    @staticmethod
    def around(
        frame: tuple[np.ndarray, float], azimuth: float, elevation: float, up: str
    ) -> "Camera":
        a, e = np.radians(azimuth), np.radians(elevation)
        axes = np.array(
            [
                [np.cos(a), 0.0, -np.sin(a)],
                [-np.sin(e) * np.sin(a), np.cos(e), -np.sin(e) * np.cos(a)],
                [np.cos(e) * np.sin(a), np.sin(e), np.cos(e) * np.cos(a)],
            ]
        )
        if up == "z":  # x stays, what was y becomes z
            axes = axes[:, [0, 2, 1]] * [1, -1, 1]
        centre, radius = np.asarray(frame[0], np.float64), float(frame[1])
        return Camera(centre + axes[2] * radius / np.sin(_FIELD_OF_VIEW / 2), axes, radius)

    def rays(self, pixels: int) -> np.ndarray:
        """Unit directions (pixels * pixels, 3) through the pixel centres, row by row."""
        step = (np.arange(pixels) + 0.5) / pixels * 2 - 1
        slope = np.tan(_FIELD_OF_VIEW / 2) * step
        x, y = np.meshgrid(slope, -slope)
        local = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
        return _unit(local @ self.axes)

    def project(self, points: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates (n, 2) as column, row, and depth (n,) along the view direction."""
        local = (points - self.position) @ self.axes.T
        depth = -local[:, 2]
        plane = local[:, :2] / (depth[:, None] * np.tan(_FIELD_OF_VIEW / 2))
        return (plane * [1, -1] + 1) / 2 * pixels, depth

    def lights(self) -> tuple[np.ndarray, np.ndarray]:
        """A soft light at the upper left and a bright sky: directions (k, 3), intensities (k,).

        Light k belongs to ray k % 4 of a pixel (its supersamples share the work), each of which
        so gets the same share of both.
        """
        rays = _SUPERSAMPLING**2
        num_soft = _LIGHTS_PER_RAY // 3 * rays
        num_sky = _LIGHTS_PER_RAY * rays - num_soft
        key = _unit(np.array([-0.55, 0.75, 0.62])[None] @ self.axes)[0]
        soft = _unit(key + 0.22 * spread_directions(num_soft))
        sky = spread_directions(num_sky)
        brightness = 0.75 + 0.45 * sky @ self.axes[1]
        directions = np.concatenate([soft, sky])
        intensities = np.concatenate(
            [np.full(num_soft, 0.62 / num_soft), 2.4 * brightness / num_sky]
        )
        order = np.random.default_rng(0).permutation(num_sky) + num_soft
        order = np.concatenate([np.arange(num_soft), order])
        return directions[order], intensities[order]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-30)


def bounding_frame(points: np.ndarray) -> tuple[np.ndarray, float]:
    """The frame (centre (3,), radius) of the ball around the bounding box centre of (n, 3)."""
    centre = 0.5 * (points.min(axis=0) + points.max(axis=0))
    return centre, float(np.linalg.norm(points - centre, axis=1).max()) or 1.0


def render(
    mesh: trimesh.Trimesh,
    size: int = 256,
    *,
    frame: tuple[np.ndarray, float] | None = None,
    colour: tuple[float, float, float] = _COLOUR,
    azimuth: float = 35.0,
    elevation: float = 25.0,
    up: str = "y",
) -> np.ndarray:
    """Draw a mesh on white, headless: ray casting with a soft light, sky light and their shadows.

    Both sides of a face are drawn; creases below 30 degrees are drawn smooth.

    Args:
        mesh: any triangle mesh, oriented or not.
        size: width and height in pixels.
        frame: (centre (3,), radius) of the ball that fills the picture; None fits the mesh. Give
            UNIT_BALL to pictures of normalised shapes that stand side by side.
        colour: of the surface, each of red, green, blue in [0, 1].
        azimuth, elevation: of the camera, degrees; azimuth 0 looks along the negative z axis.
        up: "y" or "z".

    Returns:
        (size, size, 3) uint8.
    """
    frame = bounding_frame(mesh.vertices[np.unique(mesh.faces)]) if frame is None else frame
    camera = Camera.around(frame, azimuth, elevation, up)
    caster = RayCaster(mesh)
    pixels = size * _SUPERSAMPLING
    rays = camera.rays(pixels)
    face, distance = caster.first_hit(np.broadcast_to(camera.position, rays.shape), rays)
    hit = np.flatnonzero(face >= 0)
    rays, face = rays[hit], face[hit]
    points = camera.position + rays * distance[hit, None]
    flat = toward(mesh.face_normals[face], rays)
    # A smooth normal may lean away from the eye where its face does not.
    smooth = toward(_smooth_normals(mesh, face, points), -flat)
    light = _light(camera, caster, points, flat, smooth, _ray_in_pixel(hit, pixels))
    return _develop(light, hit, pixels, colour)


def toward(normals: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Normals (n, 3) turned to the side that the rays (n, 3) come from."""
    return np.where((normals * rays).sum(axis=1, keepdims=True) > 0, -normals, normals)


def _ray_in_pixel(index: np.ndarray, pixels: int) -> np.ndarray:
    """Which of its pixel's supersamples each ray is: (n,) in 0 ... _SUPERSAMPLING**2 - 1."""
    row, column = np.divmod(index, pixels)
    return row % _SUPERSAMPLING * _SUPERSAMPLING + column % _SUPERSAMPLING


def _smooth_normals(mesh: trimesh.Trimesh, face: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Normals (n, 3) at points (n, 3) on faces (n,), smooth except across creases."""
    weighted = mesh.face_normals * mesh.area_faces[:, None]
    vertex_normals = np.zeros((len(mesh.vertices), 3))
    for corner in range(3):
        for axis in range(3):
            vertex_normals[:, axis] += np.bincount(
                mesh.faces[:, corner], weighted[:, axis], len(mesh.vertices)
            )
    flat = mesh.face_normals[face][:, None]
    corners = _unit(vertex_normals)[mesh.faces[face]]
    sharp = (corners * flat).sum(axis=2, keepdims=True) < _CREASE_COSINE
    corners = np.where(sharp, flat, corners)
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[face], points)
    weights = np.clip(np.nan_to_num(weights, nan=1 / 3), 0, 1)
    return _unit((corners * weights[:, :, None]).sum(axis=1))


def _light(
    camera: Camera,
    caster: RayCaster,
    points: np.ndarray,
    flat: np.ndarray,
    smooth: np.ndarray,
    ray_in_pixel: np.ndarray,
) -> np.ndarray:
    """Light (n,) that reaches points (n, 3); `flat` and `smooth` are their normals (n, 3)."""
    directions, intensities = camera.lights()
    rays = _SUPERSAMPLING**2
    start = points + flat * (1e-3 * camera.radius)
    light = np.zeros(len(points))
    for k, (direction, intensity) in enumerate(zip(directions, intensities, strict=True)):
        cosine = smooth @ direction
        lit = np.flatnonzero((ray_in_pixel == k % rays) & (cosine > 0) & (flat @ direction > 0))
        if len(lit):
            free = caster.escapes(start[lit], np.broadcast_to(direction, (len(lit), 3)))
            light[lit] += rays * intensity * cosine[lit] * free
    return light


def _develop(light: np.ndarray, index: np.ndarray, pixels: int, colour: tuple) -> np.ndarray:
    """A picture (size, size, 3) uint8 from the light at the supersamples `index`."""
    picture = np.ones((pixels * pixels, 3))
    picture[index] = np.clip(light[:, None] * np.asarray(colour), 0, 1)
    size = pixels // _SUPERSAMPLING
    picture = picture.reshape(size, _SUPERSAMPLING, size, _SUPERSAMPLING, 3).mean(axis=(1, 3))
    return np.round(255 * picture).astype(np.uint8)


def render_points(
    points: np.ndarray,
    size: int = 256,
    *,
    frame: tuple[np.ndarray, float] | None = None,
    colour: tuple[float, float, float] = _COLOUR,
    point_size: float = 0.016,
    azimuth: float = 35.0,
    elevation: float = 25.0,
    up: str = "y",
) -> np.ndarray:
    """Draw a point cloud (n, 3) with the camera, light and arguments of `render`.

    Each point is a disc of radius `point_size` (a share of the frame's radius), shaded by a normal
    estimated from its neighbours; near points cover far ones.

    Returns:
        (size, size, 3) uint8.
    """
    points = np.asarray(points, np.float64)
    frame = bounding_frame(points) if frame is None else frame
    camera = Camera.around(frame, azimuth, elevation, up)
    pixels = size * _SUPERSAMPLING
    normals = toward(_estimated_normals(points), points - camera.position)
    directions, intensities = camera.lights()
    shade = np.maximum(normals @ directions.T, 0) @ intensities
    place, depth = camera.project(points, pixels)
    shade *= 1 - 0.25 * np.clip((depth - depth.min()) / (2 * camera.radius), 0, 1)
    radius = max(0.75, point_size * pixels / 2)
    reach = np.arange(-int(np.ceil(radius)), int(np.ceil(radius)) + 1)
    disc = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    disc = disc[np.linalg.norm(disc, axis=1) <= radius]
    cell = np.floor(place).astype(np.int64)[:, None] + disc
    inside = ((cell >= 0) & (cell < pixels)).all(axis=2)
    index = (cell[..., 1] * pixels + cell[..., 0])[inside]
    owner = np.broadcast_to(np.arange(len(points))[:, None], inside.shape)[inside]
    order = np.argsort(depth[owner])
    index, first = np.unique(index[order], return_index=True)
    return _develop(shade[owner[order[first]]], index, pixels, colour)


def _estimated_normals(points: np.ndarray, neighbours: int = 16) -> np.ndarray:
    """Unit normals (n, 3), signs arbitrary: the least direction of spread among neighbours."""
    _, index = cKDTree(points).query(points, k=min(neighbours, len(points)))
    around = points[index.reshape(len(points), -1)]
    around = around - around.mean(axis=1, keepdims=True)
    _, vectors = np.linalg.eigh(np.einsum("nki,nkj->nij", around, around))
    return vectors[:, :, 0]
