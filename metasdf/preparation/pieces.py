"""The solid pieces that procedural shapes are made of, built with manifold3d.

y is up. Outlines are polygons (n, 2), counterclockwise.
"""

from collections.abc import Sequence

import numpy as np
from manifold3d import CrossSection, Manifold, OpType

SEGMENTS = 32  # sides of a round piece


def union(pieces: Sequence[Manifold]) -> Manifold:
    """The union, simplified within 0.01 mm: a plain union sometimes has degenerate faces."""
    return Manifold.batch_boolean(pieces, OpType.Add).simplify(1e-5)


def box(low: Sequence[float], high: Sequence[float]) -> Manifold:
    """The box between two corners (x, y, z)."""
    return Manifold.cube(np.subtract(high, low)).translate(low)


def loft(low_ring: np.ndarray, low: float, high_ring: np.ndarray, high: float) -> Manifold:
    """The convex solid between two outlines, (n, 2) and (m, 2) of (x, z), at two heights."""
    rings = ((low_ring, low), (high_ring, high))
    points = [np.insert(ring, 1, height, axis=1) for ring, height in rings]
    return Manifold.hull_points(np.concatenate(points))


def rectangle(low_u: float, high_u: float, low_v: float, high_v: float) -> np.ndarray:
    """Corners (4, 2) of an axis-aligned rectangle, counterclockwise."""
    return np.array([[low_u, low_v], [high_u, low_v], [high_u, high_v], [low_u, high_v]])


def ellipse(half_u: float, half_v: float) -> np.ndarray:
    """Outline (SEGMENTS, 2) of an ellipse around the origin, counterclockwise."""
    angle = 2 * np.pi * np.arange(SEGMENTS) / SEGMENTS
    return np.stack([half_u * np.cos(angle), half_v * np.sin(angle)], axis=1)


def rounded_rectangle(half_u: float, half_v: float, radius: float) -> np.ndarray:
    """Outline (SEGMENTS + 4, 2) of a rectangle with round corners, counterclockwise."""
    quarter = np.linspace(0, np.pi / 2, SEGMENTS // 4 + 1)
    arcs = []
    for k, (sign_u, sign_v) in enumerate(((1, 1), (-1, 1), (-1, -1), (1, -1))):
        angle = quarter + k * np.pi / 2
        centre = (sign_u * (half_u - radius), sign_v * (half_v - radius))
        arcs.append(np.stack([np.cos(angle), np.sin(angle)], axis=1) * radius + centre)
    return np.concatenate(arcs)


def plate_outline(shape: str, half_x: float, half_z: float, corner: float) -> np.ndarray:
    """Outline (n, 2) of a top or seat; `corner` is a share of the shorter half side."""
    if shape == "rectangle":
        return rectangle(-half_x, half_x, -half_z, half_z)
    if shape == "rounded":
        return rounded_rectangle(half_x, half_z, corner * min(half_x, half_z))
    return ellipse(half_x, half_z)


def leg_room(shape: str, half_x: float, half_z: float, corner: float) -> tuple[float, float]:
    """Half sides (x, z) of a rectangle inside `plate_outline` with the same arguments."""
    if shape == "rectangle":
        return half_x, half_z
    if shape == "rounded":
        cut = 0.3 * corner * min(half_x, half_z)  # slightly more than 1 - sqrt(1/2) of the radius
        return half_x - cut, half_z - cut
    return 0.7 * half_x, 0.7 * half_z


def even_gaps(low: float, high: float, bars: int, thinnest: float) -> np.ndarray:
    """The gaps (n, 2) between equal bars in [low, high], each as wide as a bar.

    There are `bars` bars, or fewer, at least one, if they would be thinner than `thinnest`.
    """
    bars = max(1, min(bars, int(((high - low) / thinnest - 1) / 2)))
    return np.linspace(low, high, 2 * bars + 2).reshape(-1, 2)


def four_legs(
    section: np.ndarray, x: float, z: float, lean: float, taper: float, top: float
) -> list[Manifold]:
    """Legs from (±x, top, ±z) down to feet that stand `lean` further out in x and in z.

    `section` is the outline (n, 2) of a foot around the origin; the heads are larger by 1 + taper.
    """
    pieces = []
    for corner in np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]):
        head = (1 + taper) * section + corner * (x, z)
        foot = section + corner * (x + lean, z + lean)
        pieces.append(loft(foot, 0, head, top))
    return pieces


def bent_wall(front: CrossSection, bend: float, thickness: float) -> Manifold:
    """A wall around the surface z = bend x² that looks like `front` (x, y) from the front."""
    left, bottom, right, top = front.bounds()
    # Longer and higher than `front`, so that no face of the wall lies in a face of the cut.
    x = np.linspace(1.1 * left, 1.1 * right, SEGMENTS // 2)
    # Half the extent along z of a wall that has this thickness along its normal.
    half = thickness / 2 * np.hypot(1, 2 * bend * x)
    near, far = bend * x**2 + half, bend * x**2 - half
    plan = np.stack([np.append(x, x[::-1]), np.append(-near, -far[::-1])], axis=1)  # (x, -z)
    wall = CrossSection([plan]).extrude(2 * (top - bottom)).rotate((-90, 0, 0))
    reach = np.abs(plan[:, 1]).max()
    cut = front.extrude(3 * reach).translate((0, 0, -1.5 * reach))
    return wall.translate((0, bottom - (top - bottom) / 2, 0)) ^ cut


def stretcher(x: float, z: float, height: float, thickness: float, sides: bool) -> list[Manifold]:
    """A bar from side to side at x = ±x, and if `sides` one along z at each side: an H.

    The middle bar is slightly thinner than the sides: coplanar faces give degenerate triangles.
    """
    half, middle = thickness / 2, 0.45 * thickness
    pieces = [box((-x, height - middle, -middle), (x, height + middle, middle))]
    if sides:
        for side in (-x, x):
            pieces.append(box((side - half, height - half, -z), (side + half, height + half, z)))
    return pieces


def apron(x: float, z: float, low: float, high: float, thickness: float) -> list[Manifold]:
    """Four upright boards around the rectangle ±x, ±z."""
    half = thickness / 2
    pieces = [box((side - half, low, -z), (side + half, high, z)) for side in (-x, x)]
    return pieces + [box((-x, low, side - half), (x, high, side + half)) for side in (-z, z)]


def pedestal(
    low_radius: float, high_radius: float, top: float, base: float, thickness: float, feet: int
) -> list[Manifold]:
    """A column with a flare above its base: a disc of radius `base`, or a star of `feet`."""
    low, high = ellipse(low_radius, low_radius), ellipse(high_radius, high_radius)
    pieces = [loft(low, 0, high, top), loft(2 * low, thickness / 2, low, 2.5 * thickness)]
    if feet == 0:
        disc = ellipse(base, base)
        return [*pieces, loft(disc, 0, 0.9 * disc, thickness)]
    foot = box((0, 0, -0.6 * thickness), (base, 1.1 * thickness, 0.6 * thickness))
    return pieces + [foot.rotate((0, 90 + 360 * k / feet, 0)) for k in range(feet)]
