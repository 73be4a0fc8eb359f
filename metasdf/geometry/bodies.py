"""Signed distances to a mesh, and the points at which DeepSDF samples them."""

from dataclasses import dataclass, replace

import numpy as np
import trimesh

from metasdf.errors import InputError
from metasdf.geometry.mesh import closedness, face_normals, sample_surface, without_doubles
from metasdf.geometry.sampling import sample_points
from metasdf.geometry.sdf import SurfaceTree, measure
from metasdf.geometry.solids import (
    SKIN,
    Solid,
    VisibleSolid,
    WindingSolid,
    drop_hidden_surface,
    surface_shares,
)

# A mesh with more of either is no boundary of a solid and is rejected or thickened.
# A tenth: fins and antennas may be sheets, a wing may not.
MAX_ZERO_THICKNESS = 0.10  # of the surface seen from outside

# Real meshes with small gaps stay below; a teapot without a bottom or a holed scan is above.
MAX_AMBIGUOUS = 0.06  # of the samples

# A watertight mesh with more zero thickness than this is inverted in part.
_CONFLICT = 0.001
OPEN_RULES = ("reject", "thicken")

# Half the thickness given to a surface (normalised frame): 2.5 voxels of a 256^3 grid in all.
HALF_THICKNESS = 0.01
_MAX_DRAWS = 20  # rounds of drawing surface points until enough of them are visible
_NUM_PROBES = 5000  # samples from which the share of ambiguous ones is estimated


@dataclass(frozen=True)
class Quality:
    """How well a mesh bounds a solid, as report.json tells it.

    Attributes:
        method: how the signs are found.
        watertight: whether the mesh, doubled faces aside, is closed and consistently oriented.
        zero_thickness, hidden: shares of the surface, as in `solid.SurfaceShares`; zero_thickness
            of what remains when hidden parts are dropped.
        ambiguous: share of the samples whose side is not certain.
    """

    method: str
    watertight: bool
    zero_thickness: float
    hidden: float
    ambiguous: float


class NoSolidError(InputError):
    """The mesh does not bound a solid; `quality` tells why."""

    def __init__(self, message: str, quality: Quality):
        super().__init__(message)
        self.quality = quality


@dataclass(frozen=True)
class Body:
    """What a mesh in the normalised frame stands for: a solid, perhaps thickened.

    Attributes:
        solid: which points are inside.
        quality: see there.
        offset: the surface is moved outward by this; 0 unless thickened.
        shell: whether all points count as outside the mesh, whose surface alone is thickened.
    """

    solid: Solid
    quality: Quality
    offset: float = 0.0
    shell: bool = False


def find_body(mesh: trimesh.Trimesh, open_rule: str = "reject") -> Body:
    """Find out what solid a mesh in the normalised frame bounds.

    Watertight (but for doubled faces): the winding number tells, unless it says that part of the
    surface has the outside on both sides, as where an inverted body overlaps another. Else
    visibility from outside tells.

    A mesh of which more than MAX_ZERO_THICKNESS is sheets or more than MAX_AMBIGUOUS of the
    samples are ambiguous bounds none. `open_rule` "thicken" then takes all points within
    HALF_THICKNESS of the solid in the first case, of the surface alone in the second.

    Raises:
        NoSolidError: the mesh bounds no solid and `open_rule` is "reject".
    """
    mesh = without_doubles(mesh)
    defects = closedness(mesh)
    solid: Solid = WindingSolid(mesh) if defects.watertight else VisibleSolid(mesh)
    shares = surface_shares(solid)
    if defects.watertight and shares.zero_thickness > _CONFLICT:
        solid = VisibleSolid(mesh)
        shares = surface_shares(solid)
    hidden = shares.hidden
    if hidden > 0:
        drop_hidden_surface(solid)
        shares = surface_shares(solid)
    ambiguous = 0.0
    if not solid.exact:
        points = sample_points(solid.surface, _NUM_PROBES, np.random.default_rng(2))
        distance, _ = SurfaceTree(solid.surface).nearest(points)
        ambiguous = float(solid.classify(points, distance)[1].mean())
    quality = Quality(
        solid.method,
        defects.watertight,
        round(shares.zero_thickness, 4),
        round(hidden, 4),
        round(ambiguous, 4),
    )
    problem = _problem(quality)
    if problem is None:
        return Body(solid, quality)
    if open_rule == "reject":
        advice = "close the surface or use --open thicken"
        raise NoSolidError(f"{problem} ({defects.describe()}); {advice}", quality)
    shell = quality.ambiguous > MAX_AMBIGUOUS
    method = quality.method + (", thickened shell" if shell else ", thickened")
    return Body(solid, replace(quality, method=method), HALF_THICKNESS, shell)


def _problem(quality: Quality) -> str | None:
    """Why the mesh bounds no solid, in words for people; None if it does."""
    if quality.ambiguous > MAX_AMBIGUOUS:
        return (
            f"the surface is open: it has holes so large that {quality.ambiguous:.1%} of the "
            f"samples, more than {MAX_AMBIGUOUS:.0%}, are neither clearly inside nor outside"
        )
    if quality.zero_thickness > MAX_ZERO_THICKNESS:
        return (
            f"{quality.zero_thickness:.1%} of the visible surface, more than "
            f"{MAX_ZERO_THICKNESS:.0%}, has no thickness: both of its sides are outside"
        )
    return None


def sample_sdf(
    body: Body,
    count: int = 500_000,
    rng: np.random.Generator | None = None,
    test: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Signed-distance samples of a body (`find_body`).

    Samples whose value is not certain are left out: those that are ambiguous, and those inside
    that are nearest to a hidden part of the surface, which does not bound the solid.

    Args:
        body: as `find_body` returns it.
        count: samples in all, before some are left out.
        rng: source of randomness; None is seed 0.
        test: use DeepSDF's wider spread for test shapes.

    Returns:
        pos (n, 4) and neg (m, 4) float32, n + m <= count, rows x, y, z, signed distance; pos holds
        the points outside, neg those inside (and any exactly on the surface).

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
            check = np.flatnonzero(inside & certain)
            certain[check] = _bounds(body.solid, points[check], distance[check], nearest[check])
        distance = np.where(inside, -distance, distance)
    samples = np.column_stack([points, (distance - body.offset).astype(np.float32)])[certain]
    outside = samples[:, 3] > 0
    pos, neg = samples[outside], samples[~outside]
    if not (neg[:, 3] < 0).any():
        raise InputError("no sample lies inside the mesh: it encloses no volume; give it thickness")
    return pos, neg


def _bounds(
    solid: Solid, points: np.ndarray, distance: np.ndarray, nearest: np.ndarray
) -> np.ndarray:
    """Whether the surface nearest to points (n, 3) inside has the outside behind it: (n,) bool."""
    # Points this near have no direction to speak of, and their value is 0 but for rounding.
    far = np.flatnonzero(distance > 1e-6)
    ahead = (nearest[far] - points[far]) / distance[far, None]
    result = np.ones(len(points), bool)
    result[far] = solid.outside(nearest[far] + SKIN * ahead)
    return result


def sample_body_surface(body: Body, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw points from where a body's signed distance is 0, as far as that is seen from outside.

    Uniform by area; of a thickened body only about so, as they are found by going outward.

    Returns:
        (count, 3) float64, in the normalised frame.

    Raises:
        InputError: next to nothing of the surface can be seen.
    """
    mesh, kept, missing = body.solid.surface, [], count
    tree = SurfaceTree(mesh) if body.offset else None
    for _ in range(_MAX_DRAWS):
        points, face = sample_surface(mesh, missing + 100, rng)
        if body.offset:
            direction = rng.normal(size=points.shape)
            direction /= np.linalg.norm(direction, axis=1, keepdims=True)
            points += 3 * body.offset * direction
            distance, nearest = tree.nearest(points)
            away = distance > body.offset
            points = nearest[away] + (points - nearest)[away] * (body.offset / distance[away, None])
            seen = np.ones(len(points), bool) if body.shell else body.solid.outside(points)
        elif body.quality.hidden > 0:
            step = SKIN * face_normals(mesh, face)
            seen = body.solid.outside(points + step)
            unseen = np.flatnonzero(~seen)
            seen[unseen] = body.solid.outside(points[unseen] - step[unseen])
        else:
            seen = np.ones(len(points), bool)
        kept.append(points[seen][:missing])
        missing -= len(kept[-1])
        if missing == 0:
            return np.concatenate(kept)
    raise InputError("next to nothing of its surface can be seen from outside; repair the mesh")
