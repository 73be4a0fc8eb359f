"""Pictures of meshes and point clouds, rendered without a display.

A frame is a pair (centre (3,), radius) that names the ball a picture shows. Every colour is
(red, green, blue) in [0, 1].
"""

from dataclasses import dataclass

import numpy as np
import trimesh

from metasdf.geometry.mesh import unit_vectors
from metasdf.geometry.point_normals import estimated_normals
from metasdf.geometry.rays import RayCaster, spread_directions

UNIT_BALL = ((0.0, 0.0, 0.0), 1.0)  # the frame that holds every normalised shape

_COLOUR = (0.42, 0.60, 0.80)
_FIELD_OF_VIEW = np.radians(28.0)
_SUPERSAMPLING = 2  # rays per pixel and axis
_LIGHTS_PER_RAY = 24  # shadow rays for each camera ray
_CREASE_COSINE = np.cos(np.radians(30.0))  # at sharper creases the shading is flat, else smooth


@dataclass(frozen=True)
class Camera:
    """A perspective camera that looks at the centre of a frame.

    Attributes:
        position: (3,).
        axes: (3, 3), rows right, up and backward.
        radius: of the frame.
    """

    position: np.ndarray
    axes: np.ndarray
    radius: float

    @staticmethod
    def around(
        frame: tuple[np.ndarray, float], azimuth: float, elevation: float, up: str
    ) -> "Camera":
        """A camera whose view is filled by the frame's ball; angles and `up` as in `render`."""
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
        """Unit directions (pixels^2, 3) through the pixel centres, row by row."""
        step = (np.arange(pixels) + 0.5) / pixels * 2 - 1
        slope = np.tan(_FIELD_OF_VIEW / 2) * step
        x, y = np.meshgrid(slope, -slope)
        local = np.stack([x, y, -np.ones_like(x)], axis=-1).reshape(-1, 3)
        return unit_vectors(local @ self.axes)

    def project(self, points: np.ndarray, pixels: int) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates (n, 2) as column, row, and depth (n,) along the view direction."""
        local = (points - self.position) @ self.axes.T
        depth = -local[:, 2]
        plane = local[:, :2] / (depth[:, None] * np.tan(_FIELD_OF_VIEW / 2))
        return (plane * [1, -1] + 1) / 2 * pixels, depth

    def lights(self) -> tuple[np.ndarray, np.ndarray]:
        """A soft light at the upper left and a bright sky: directions (k, 3), intensities (k,).

        Light k is tested by supersample k % 4 of a pixel only; the order gives each supersample
        the same share of both.
        """
        rays = _SUPERSAMPLING**2
        num_soft = _LIGHTS_PER_RAY // 3 * rays
        num_sky = _LIGHTS_PER_RAY * rays - num_soft
        key = unit_vectors(np.array([-0.55, 0.75, 0.62])[None] @ self.axes)[0]
        soft = unit_vectors(key + 0.22 * spread_directions(num_soft))
        sky = spread_directions(num_sky)
        brightness = 0.75 + 0.45 * sky @ self.axes[1]
        directions = np.concatenate([soft, sky])
        intensities = np.concatenate(
            [np.full(num_soft, 0.62 / num_soft), 2.4 * brightness / num_sky]
        )
        order = np.random.default_rng(0).permutation(num_sky) + num_soft
        order = np.concatenate([np.arange(num_soft), order])
        return directions[order], intensities[order]


def bounding_frame(points: np.ndarray) -> tuple[np.ndarray, float]:
    """The smallest frame around points (n, 3) whose centre is that of their bounding box."""
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
    """Render a mesh on white by ray casting, with a soft light, sky light and shadows.

    Both sides of a face are visible; creases below 30 degrees are shaded smoothly.

    Args:
        mesh: any triangle mesh, oriented or not.
        size: width and height in pixels.
        frame: (centre (3,), radius) of the ball that fills the picture; None fits the mesh. Use
            UNIT_BALL to compare normalised shapes.
        colour: of the surface.
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
    flat = turned_against(mesh.face_normals[face], rays)
    # A smooth normal may point away from the camera where that of the face does not.
    smooth = turned_against(_smooth_normals(mesh, face, points), -flat)
    light = _light(camera, caster, points, flat, smooth, _ray_in_pixel(hit, pixels))
    return _develop(light, hit, pixels, colour)


def turned_against(normals: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Normals (n, 3), flipped where needed so that they point against the rays (n, 3)."""
    return np.where((normals * rays).sum(axis=1, keepdims=True) > 0, -normals, normals)


def _ray_in_pixel(index: np.ndarray, pixels: int) -> np.ndarray:
    """Which supersample of its pixel each ray is: (n,), from 0 to _SUPERSAMPLING**2 - 1."""
    row, column = np.divmod(index, pixels)
    return row % _SUPERSAMPLING * _SUPERSAMPLING + column % _SUPERSAMPLING


def _smooth_normals(mesh: trimesh.Trimesh, face: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Shading normals (n, 3) at points (n, 3) on faces (n,), smooth except across creases."""
    weighted = mesh.face_normals * mesh.area_faces[:, None]
    vertex_normals = np.zeros((len(mesh.vertices), 3))
    for corner in range(3):
        for axis in range(3):
            vertex_normals[:, axis] += np.bincount(
                mesh.faces[:, corner], weighted[:, axis], len(mesh.vertices)
            )
    flat = mesh.face_normals[face][:, None]
    corners = unit_vectors(vertex_normals)[mesh.faces[face]]
    sharp = (corners * flat).sum(axis=2, keepdims=True) < _CREASE_COSINE
    corners = np.where(sharp, flat, corners)
    weights = trimesh.triangles.points_to_barycentric(mesh.triangles[face], points)
    weights = np.clip(np.nan_to_num(weights, nan=1 / 3), 0, 1)
    return unit_vectors((corners * weights[:, :, None]).sum(axis=1))


def _light(
    camera: Camera,
    caster: RayCaster,
    points: np.ndarray,
    flat: np.ndarray,
    smooth: np.ndarray,
    ray_in_pixel: np.ndarray,
) -> np.ndarray:
    """The light (n,) that reaches points (n, 3).

    flat, smooth: (n, 3), normals of their faces and for shading. ray_in_pixel: see there.
    """
    directions, intensities = camera.lights()
    rays = _SUPERSAMPLING**2
    start = points + flat * (1e-3 * camera.radius)
    light = np.zeros(len(points))
    for k, (direction, intensity) in enumerate(zip(directions, intensities, strict=True)):
        cosine = smooth @ direction
        lit = np.flatnonzero((ray_in_pixel == k % rays) & (cosine > 0) & (flat @ direction > 0))
        if len(lit):
            unshadowed = caster.escapes(start[lit], np.broadcast_to(direction, (len(lit), 3)))
            light[lit] += rays * intensity * cosine[lit] * unshadowed
    return light


def _develop(light: np.ndarray, index: np.ndarray, pixels: int, colour: tuple) -> np.ndarray:
    """The picture (size, size, 3) uint8 with light (n,) at supersamples `index` (n,)."""
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
    """Render a point cloud (n, 3) with the camera, light and arguments of `render`.

    Each point is a disc of radius `point_size`, a share of the frame's radius, shaded by a normal
    estimated from its neighbours. Points in front cover those behind.

    Returns:
        (size, size, 3) uint8.
    """
    points = np.asarray(points, np.float64)
    frame = bounding_frame(points) if frame is None else frame
    camera = Camera.around(frame, azimuth, elevation, up)
    pixels = size * _SUPERSAMPLING
    normals = turned_against(estimated_normals(points), points - camera.position)
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
