"""Random samples of a body: signed distances, and points on its surface."""

import numpy as np

from metasdf.errors import InputError
from metasdf.geometry.bodies import Body
from metasdf.geometry.mesh import face_normals, sample_surface
from metasdf.geometry.sampling import sample_points
from metasdf.geometry.sdf import SurfaceTree, measure
from metasdf.geometry.solids import SKIN, Solid

_MAX_DRAWS = 20  # rounds of drawing surface points until enough of them are visible


def sample_sdf(
    body: Body,
    count: int = 500_000,
    rng: np.random.Generator | None = None,
    test: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Signed distances of a body at DeepSDF's sample points.

    Samples whose value is uncertain are left out: those whose side is ambiguous, and those inside
    whose closest surface is hidden and so does not bound the solid.

    Args:
        body: from `bodies.find_body`.
        count: samples drawn, before some are left out.
        rng: source of randomness; None is seed 0.
        test: use DeepSDF's wider spread for test shapes.

    Returns:
        pos (n, 4) and neg (m, 4) float32, n + m <= count, rows x, y, z, signed distance; pos holds
        the points outside, neg those inside or exactly on the surface.

    Raises:
        InputError: no sample lies inside.
    """
    points = sample_points(body.solid.surface, count, rng or np.random.default_rng(0), test)
    if body.shell:
        distance, _ = SurfaceTree(body.solid.surface).nearest(points)
        certain = np.ones(len(points), bool)
    else:
        distance, nearest, inside, ambiguous = measure(body.solid, points)
        certain = ~ambiguous
        if body.quality.hidden > 0:
            index = np.flatnonzero(inside & certain)
            certain[index] = _faces_outside(
                body.solid, points[index], distance[index], nearest[index]
            )
        distance = np.where(inside, -distance, distance)
    samples = np.column_stack([points, (distance - body.offset).astype(np.float32)])[certain]
    outside = samples[:, 3] > 0
    pos, neg = samples[outside], samples[~outside]
    if not (neg[:, 3] < 0).any():
        raise InputError("no sample lies inside the mesh: it encloses no volume; give it thickness")
    return pos, neg


def _faces_outside(
    solid: Solid, points: np.ndarray, distance: np.ndarray, nearest: np.ndarray
) -> np.ndarray:
    """Whether the outside lies behind the surface closest to inner points (n, 3): (n,) bool.

    distance (n,), nearest (n, 3): of the closest surface points.
    """
    # Nearer points give no reliable direction, and their value is 0 up to rounding.
    far = np.flatnonzero(distance > 1e-6)
    direction = (nearest[far] - points[far]) / distance[far, None]
    result = np.ones(len(points), bool)
    result[far] = solid.outside(nearest[far] + SKIN * direction)
    return result


def sample_body_surface(body: Body, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points on the visible part of a body's zero level set.

    They are uniform by area; on a thickened body only approximately, as points are moved from the
    mesh's surface outward.

    Args:
        body: from `bodies.find_body`.
        count: number of points.
        rng: source of randomness.

    Returns:
        (count, 3) float64, in the normalised frame.

    Raises:
        InputError: next to nothing of the surface can be seen.
    """
    mesh, drawn, missing = body.solid.surface, [], count
    tree = SurfaceTree(mesh) if body.offset else None
    for _ in range(_MAX_DRAWS):
        points, face = sample_surface(mesh, missing + 100, rng)
        if body.offset:
            points = _move_outward(points, body.offset, tree, rng)
            visible = np.ones(len(points), bool) if body.shell else body.solid.outside(points)
        elif body.quality.hidden > 0:
            step = SKIN * face_normals(mesh, face)
            visible = body.solid.outside(points + step)
            rest = np.flatnonzero(~visible)
            visible[rest] = body.solid.outside(points[rest] - step[rest])
        else:
            visible = np.ones(len(points), bool)
        drawn.append(points[visible][:missing])
        missing -= len(drawn[-1])
        if missing == 0:
            return np.concatenate(drawn)
    raise InputError("next to nothing of its surface can be seen from outside; repair the mesh")


def _move_outward(
    points: np.ndarray, offset: float, tree: SurfaceTree, rng: np.random.Generator
) -> np.ndarray:
    """Points (m, 3) at distance `offset` from a surface, found from points (n, 3) on it, m <= n.

    Each point is moved away in a random direction, then toward the closest surface point until it
    is at that distance; those that come nearer right away are left out.
    """
    direction = rng.normal(size=points.shape)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    points = points + 3 * offset * direction
    distance, nearest = tree.nearest(points)
    far = distance > offset
    return nearest[far] + (points - nearest)[far] * (offset / distance[far, None])
