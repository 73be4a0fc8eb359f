"""Solids of every kind, to learn shapes in general from: a few parts, joined, cut and repeated."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from manifold3d import CrossSection, Manifold
from scipy.spatial.transform import Rotation

from metasdf.preparation.furniture import one_of
from metasdf.preparation.pieces import union

MOST_PARTS = 6
LEAST_VOLUME = 1e-3
MOST_FACES = 60_000
ROUND = 40  # segments of a circle
CELLS = 26  # of the grid that soft parts are made on, along their longest side


@dataclass(frozen=True)
class General:
    """A solid of up to MOST_PARTS parts, in any orientation. Lengths are of the order of 1."""

    count: int = one_of(*range(1, MOST_PARTS + 1))
    symmetry: str = one_of("none", "none", "mirrored")
    seed: int = dataclasses.field(metadata={"draw": lambda rng: int(rng.integers(2**62))})

    def solid(self) -> Manifold:
        """The largest body of the solid, turned at random."""
        rng = np.random.default_rng(self.seed)
        body = Manifold()
        while body.volume() <= LEAST_VOLUME:
            body = _only_body(_turned(_part(rng), rng, share=0.5))
        for _ in range(self.count - 1):
            grown = _only_body(_with_another(body, rng))
            if grown.volume() > LEAST_VOLUME and grown.num_tri() < MOST_FACES:
                body = grown
        if self.symmetry == "mirrored":
            body = _only_body(union([body, body.mirror((1, 0, 0))]))
        return body.transform(_matrix(Rotation.random(random_state=rng)))


def _with_another(body: Manifold, rng: np.random.Generator) -> Manifold:
    """The body with one more part, or several alike, at random places of its surface."""
    vertices = body.to_mesh().vert_properties[:, :3]
    place = vertices[rng.integers(len(vertices))].astype(np.float64)
    part = _turned(_part(rng), rng, share=0.6).translate(place.tolist())
    kind = rng.random()
    if kind < 0.2:
        return (body - part).simplify(1e-5)
    if kind < 0.4:  # the same around an axis, as the legs of a table
        copies = int(rng.integers(2, 7))
        return union([body, *(part.rotate((0, 360 * k / copies, 0)) for k in range(copies))])
    return union([body, part])


def _only_body(solid: Manifold) -> Manifold:
    bodies = solid.decompose()
    return max(bodies, key=lambda b: b.volume()) if bodies else Manifold()


def _turned(solid: Manifold, rng: np.random.Generator, share: float) -> Manifold:
    """Turned at random, that share of the times."""
    if rng.random() >= share:
        return solid
    return solid.transform(_matrix(Rotation.random(random_state=rng)))


def _matrix(rotation: Rotation) -> np.ndarray:
    return np.hstack([rotation.as_matrix(), np.zeros((3, 1))])


def _part(rng: np.random.Generator) -> Manifold:
    kinds = list(PARTS)
    weights = np.array(list(PARTS.values()), float)
    return kinds[rng.choice(len(kinds), p=weights / weights.sum())](rng)


def _box(rng: np.random.Generator) -> Manifold:
    return Manifold.cube(rng.uniform(0.1, 1.0, 3).tolist(), True)


def _plate(rng: np.random.Generator) -> Manifold:
    size = rng.uniform(0.3, 1.1, 3)
    size[rng.integers(3)] = rng.uniform(0.03, 0.08)
    return Manifold.cube(size.tolist(), True)


def _ellipsoid(rng: np.random.Generator) -> Manifold:
    return Manifold.sphere(rng.uniform(0.12, 0.5), ROUND).scale(rng.uniform(0.4, 1.2, 3).tolist())


def _cone(rng: np.random.Generator) -> Manifold:
    low, high = rng.uniform(0.05, 0.4), rng.uniform(0.02, 0.4)
    return Manifold.cylinder(rng.uniform(0.1, 1.2), low, high, ROUND, True)


def _rod(rng: np.random.Generator) -> Manifold:
    return Manifold.cylinder(rng.uniform(0.4, 1.4), rng.uniform(0.02, 0.06), -1, 20, True)


def _torus(rng: np.random.Generator) -> Manifold:
    ring, tube = rng.uniform(0.2, 0.5), rng.uniform(0.03, 0.15)
    angles = np.linspace(0, 2 * np.pi, 25)[:-1]
    section = np.stack([ring + tube * np.cos(angles), tube * np.sin(angles)], axis=1)
    return CrossSection([section]).revolve(ROUND)


def _extruded(rng: np.random.Generator) -> Manifold:
    twist = rng.uniform(-90, 90) if rng.random() < 0.3 else 0.0
    height = rng.uniform(0.05, 1.0)
    return CrossSection([_outline(rng)]).extrude(height, 12, twist).translate((0, 0, -height / 2))


def _outline(rng: np.random.Generator) -> np.ndarray:
    """A closed curve in the plane: angular, or smooth with a few lobes."""
    if rng.random() < 0.5:
        count = int(rng.integers(3, 12))
        angles = np.sort(rng.uniform(0, 2 * np.pi, count))
        radii = rng.uniform(0.4, 1.0, count)
    else:
        angles = np.linspace(0, 2 * np.pi, 49)[:-1]
        lobes, depth, phase = rng.integers(1, 6), rng.uniform(0, 0.3), rng.uniform(0, 2 * np.pi)
        radii = 1 + depth * np.cos(lobes * angles + phase)
    size = rng.uniform(0.15, 0.6)
    return size * radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _revolved(rng: np.random.Generator) -> Manifold:
    heights, radii = _profile(rng)
    profile = np.stack([radii, heights], axis=1)
    return CrossSection([[*profile, (0, heights[-1]), (0, heights[0])]]).revolve(ROUND)


def _vessel(rng: np.random.Generator) -> Manifold:
    """A bowl, cup or vase: a revolved outline with a wall, open at its top."""
    heights, radii = _profile(rng)
    wall = rng.uniform(0.03, 0.08)
    outer = np.stack([radii, heights], axis=1)
    inner = np.stack([np.maximum(radii - wall, 0.02), heights], axis=1)[heights > heights[0] + wall]
    bottom = (0.0, heights[0] + wall)
    return CrossSection([[*outer, *inner[::-1], bottom, (0.0, heights[0])]]).revolve(ROUND)


def _profile(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Heights, and the radii of a surface of revolution there."""
    heights = rng.uniform(0.2, 1.2) * np.linspace(-0.5, 0.5, 16)
    waves = sum(rng.normal() / k * np.cos(k * np.linspace(0, np.pi, 16)) for k in range(1, 4))
    return heights, np.clip(rng.uniform(0.12, 0.4) + 0.12 * waves, 0.06, 0.6)


def _soft(rng: np.random.Generator) -> Manifold:
    """A level set of a few metaballs in a chain, as bodies of animals are."""
    count = int(rng.integers(3, 9))
    centres = np.cumsum(rng.normal(scale=0.22, size=(count, 3)), axis=0)
    centres -= centres.mean(axis=0)
    radii = rng.uniform(0.12, 0.35, count)
    balls = [(*map(float, c), 1 / float(r) ** 2) for c, r in zip(centres, radii, strict=True)]

    def excess(x: float, y: float, z: float) -> float:
        total = -0.5
        for a, b, c, sharpness in balls:
            total += math.exp(-sharpness * ((x - a) ** 2 + (y - b) ** 2 + (z - c) ** 2))
        return total

    margin = 1.5 * radii.max()
    low, high = centres.min(axis=0) - margin, centres.max(axis=0) + margin
    box = (*map(float, low), *map(float, high))
    return Manifold.level_set(excess, box, float((high - low).max()) / CELLS, 0.0)


PARTS: dict[Callable[[np.random.Generator], Manifold], float] = {  # how often, relatively
    _box: 2.0,
    _plate: 1.0,
    _ellipsoid: 1.5,
    _cone: 1.0,
    _rod: 1.0,
    _torus: 0.7,
    _extruded: 1.2,
    _revolved: 1.0,
    _vessel: 0.8,
    _soft: 1.5,
}
