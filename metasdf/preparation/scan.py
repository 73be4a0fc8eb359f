"""Virtual depth scans: the part of a surface that one camera sees."""

import numpy as np

from metasdf.errors import InputError
from metasdf.geometry.bodies import Body
from metasdf.geometry.drawing import UNIT_BALL, Camera, toward
from metasdf.geometry.mesh import face_normals
from metasdf.geometry.rays import RayCaster
from metasdf.geometry.sdf import SurfaceTree

_FIRST_LOOK = 64  # pixels of the picture that tells how large the shape appears


def scan(body: Body, count: int, rng: np.random.Generator, noise: float = 0.0) -> np.ndarray:
    """Points that a depth camera at a random place around a body sees.

    The camera's view is filled by the unit ball (perspective, 28 degrees); its place is uniform on
    a sphere. A grid of pixels just fine enough is looked through, and `count` of the points met
    are kept at random. Of a thickened body the points are moved out to its surface.

    Args:
        body: as `sdf.find_body` returns it.
        count: points wanted.
        rng: decides the camera and the noise.
        noise: standard deviation of a Gaussian that moves each point along its ray, as the error
            of a depth sensor does; in the normalised frame, whose unit ball holds the shape.

    Returns:
        (n, 3) float64 in the normalised frame; 1 <= n <= count, less only where the camera sees
        next to nothing of the surface.

    Raises:
        InputError: it sees nothing.
    """
    azimuth, elevation = rng.uniform(-180, 180), np.degrees(np.arcsin(rng.uniform(-1, 1)))
    camera = Camera.around(UNIT_BALL, azimuth, elevation, "y")
    mesh = body.solid.surface
    caster = RayCaster(mesh)

    def look(pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rays = camera.rays(pixels)
        face, depth = caster.first_hit(np.broadcast_to(camera.position, rays.shape), rays)
        met = face >= 0
        return rays[met], face[met], depth[met]

    seen = max(len(look(_FIRST_LOOK)[0]), 1)
    rays, face, depth = look(min(int(_FIRST_LOOK * np.sqrt(1.2 * count / seen)) + 1, 2048))
    points = camera.position + rays * depth[:, None]
    if body.offset:
        points += body.offset * toward(face_normals(mesh, face), rays)
        out = SurfaceTree(mesh).nearest(points)[0] > 0.99 * body.offset
        points, rays = points[out], rays[out]
    if len(points) == 0:
        raise InputError("a depth camera sees nothing of the surface; use another --seed")
    chosen = rng.permutation(len(points))[:count]
    return points[chosen] + rays[chosen] * rng.normal(scale=noise, size=(len(chosen), 1))
