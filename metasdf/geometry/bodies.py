"""What solid a mesh bounds, if any: tests for holes and sheets, and thickening."""

from dataclasses import dataclass, replace

import numpy as np
import trimesh

from metasdf.errors import InputError
from metasdf.geometry.mesh import closedness, without_duplicate_faces
from metasdf.geometry.sampling import sample_points
from metasdf.geometry.sdf import SurfaceTree
from metasdf.geometry.solids import (
    Solid,
    VisibleSolid,
    WindingSolid,
    drop_hidden_surface,
    surface_shares,
)

# A mesh with more of either does not bound a solid, and is rejected or thickened (OPEN_RULES).
# A tenth of the visible surface: fins and antennas may be sheets, a wing may not.
MAX_ZERO_THICKNESS = 0.10
# Of the samples: less on real meshes with small gaps, more on a teapot without a bottom or a scan
# with holes.
MAX_AMBIGUOUS = 0.06
OPEN_RULES = ("reject", "thicken")

# Half the thickness given to a surface (normalised frame): 2.5 voxels of a 256^3 grid in all.
HALF_THICKNESS = 0.01

# A watertight mesh with a larger share of zero thickness is partly inverted.
_MAX_CONFLICT = 0.001
_NUM_PROBES = 5000  # points from which the share of ambiguous samples is estimated


@dataclass(frozen=True)
class Quality:
    """How well a mesh bounds a solid; part of a shape's record in report.json.

    Attributes:
        method: how the signs are found, in words.
        watertight: whether the mesh without duplicate faces is closed and consistently oriented.
        zero_thickness, hidden: shares of the surface, see `solids.SurfaceShares`; zero_thickness is
            measured after hidden parts are removed.
        ambiguous: share of the samples whose side is ambiguous.
    """

    method: str
    watertight: bool
    zero_thickness: float
    hidden: float
    ambiguous: float


class NoSolidError(InputError):
    """A mesh does not bound a solid; `quality` holds the measurements."""

    def __init__(self, message: str, quality: Quality):
        super().__init__(message)
        self.quality = quality


@dataclass(frozen=True)
class Body:
    """The solid that a mesh in the normalised frame stands for, possibly thickened.

    Attributes:
        solid: tells which points are inside.
        quality: how well the mesh bounds it.
        offset: how far its surface lies outside that of `solid`; 0 unless thickened.
        shell: whether only the surface is thickened, all points counting as outside the mesh.
    """

    solid: Solid
    quality: Quality
    offset: float = 0.0
    shell: bool = False


def find_body(mesh: trimesh.Trimesh, open_rule: str = "reject") -> Body:
    """Determine which solid a mesh in the normalised frame bounds.

    If the mesh is watertight, duplicate faces aside, the winding number decides what is inside,
    unless part of the surface then has the outside on both sides, as where an inverted body
    overlaps another. Otherwise visibility from outside decides.

    A mesh bounds no solid if more than MAX_ZERO_THICKNESS of its surface has no thickness, or more
    than MAX_AMBIGUOUS of the samples are ambiguous. With `open_rule` "thicken" the body is then
    all points within HALF_THICKNESS of the solid in the first case, of the surface in the second.

    Args:
        mesh: in the normalised frame.
        open_rule: one of OPEN_RULES.

    Raises:
        NoSolidError: the mesh bounds no solid and `open_rule` is "reject".
    """
    mesh = without_duplicate_faces(mesh)
    defects = closedness(mesh)
    solid: Solid = WindingSolid(mesh) if defects.watertight else VisibleSolid(mesh)
    shares = surface_shares(solid)
    if defects.watertight and shares.zero_thickness > _MAX_CONFLICT:
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
    """Why the mesh bounds no solid, as part of a message; None if it bounds one."""
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
