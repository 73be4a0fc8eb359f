"""Virtual depth scans: the part of a surface that one camera sees."""

import numpy as np

from metasdf.errors import InputError
from metasdf.geometry.bodies import Body
from metasdf.geometry.mesh import face_normals
from metasdf.geometry.rays import RayCaster
from metasdf.geometry.rendering import UNIT_BALL, Camera, turned_against
from metasdf.geometry.sdf import SurfaceTree

_COARSE_PIXELS = 64  # a side, of the picture that measures how large the shape appears
_MAX_PIXELS = 2048  # a side, of the picture whose pixels become points


def scan(body: Body, count: int, rng: np.random.Generator, noise: float = 0.0) -> np.ndarray:
    """Points that a depth camera at a random place around a body sees.

    The camera's position is uniform on a sphere; the unit ball fills its view (perspective, 28
    degrees). The grid of pixels is just fine enough, and `count` of the points hit are chosen at
    random. On a thickened body, points are moved outward to its surface.

    Args:
        body: from `bodies.find_body`.
        count: number of points.
        rng: source of randomness for the camera, the choice of points and the noise.
        noise: standard deviation of Gaussian noise along each ray, like the error of a depth
            sensor; in the normalised frame.

    Returns:
        (n, 3) float64 in the normalised frame; 1 <= n <= count, fewer only where the camera sees
        next to nothing of the surface.

    Raises:
        InputError: the camera sees nothing.
    """
    azimuth, elevation = rng.uniform(-180, 180), np.degrees(np.arcsin(rng.uniform(-1, 1)))
    camera = Camera.around(UNIT_BALL, azimuth, elevation, "y")
    mesh = body.solid.surface
    caster = RayCaster(mesh)

    def take(pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Directions, faces and depths of the rays that hit the surface."""
        rays = camera.rays(pixels)
        face, depth = caster.first_hit(np.broadcast_to(camera.position, rays.shape), rays)
        hit = face >= 0
        return rays[hit], face[hit], depth[hit]

    coarse_hits = max(len(take(_COARSE_PIXELS)[0]), 1)
    pixels = int(_COARSE_PIXELS * np.sqrt(1.2 * count / coarse_hits)) + 1
    rays, face, depth = take(min(pixels, _MAX_PIXELS))
    points = camera.position + rays * depth[:, None]
    if body.offset:
        points += body.offset * turned_against(face_normals(mesh, face), rays)
        on_surface = SurfaceTree(mesh).nearest(points)[0] > 0.99 * body.offset
        points, rays = points[on_surface], rays[on_surface]
    if len(points) == 0:
        raise InputError("a depth camera sees nothing of the surface; use another --seed")
    chosen = rng.permutation(len(points))[:count]
    return points[chosen] + rays[chosen] * rng.normal(scale=noise, size=(len(chosen), 1))
