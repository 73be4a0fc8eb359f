"""Which points are inside a mesh: by winding number if it is watertight, else by visibility.

Both kinds of solid have the same attributes and methods:

    exact             whether no point is ever ambiguous
    method            how inside and outside are told apart, in words
    surface           the mesh; after `drop_hidden_surface` only the parts next to the outside
    outside(points)   (n,) bool
    classify(points, distance)   inside (n,) bool, ambiguous (n,) bool
"""

from dataclasses import dataclass

import igl
import numpy as np
import trimesh

from metasdf.geometry.mesh import closedness, face_normals, sample_surface
from metasdf.geometry.rays import RayCaster, spread_directions

# The fast winding number is an approximation in float32. The exact one, which takes 50 ms a point
# on a million faces, is computed where a point is this near to the surface (as a share of the
# mesh's size) or the approximation this far from a whole number.
_NEAR = 2e-6
_DOUBTFUL = 0.25

# Rays from a point, evenly over the sphere. In random order, so that the first ones are spread too.
NUM_DIRECTIONS = 256
_DIRECTIONS = np.random.default_rng(0).permutation(spread_directions(NUM_DIRECTIONS))
_RAYS_PER_ROUND = 16  # after each round, points whose side is decided are left out
_MIN_RAYS = 128  # after which, if none has escaped, an openness of 0.05 is no longer expected
_POINTS_AT_ONCE = 200_000  # bounds the memory

# A point is outside when at least this share of its rays escapes. One escaping ray is not enough:
# it finds every hole. A right-angled corner of a room has 0.125, a wedge of 18 degrees 0.05, and a
# hole of radius r is seen through from a depth of 2.2 r at most.
MIN_OPENNESS = 0.05

# With an openness between these, the side depends on the choice of MIN_OPENNESS and is ambiguous:
# the point lies behind a gap, or deep in a hollow.
CERTAINLY_INSIDE, CERTAINLY_OUTSIDE = 0.01, 0.10

# If no edge has only one face, there are no gaps, and escaping rays prove that a point is outside.
# A single one does not: one in millions slips through between two triangles.
_PROOF = 2

# Distance from the surface of points that are tested beside it (normalised frame): far more than
# rounding in float32, far less than any detail.
SKIN = 1e-4
_NUM_PROBES = 10_000  # points on the surface from which shares of it are estimated

# Faces are cut into pieces with edges of at most this length, unless there would be too many. A
# piece that cannot be seen at any of four points (weights of its corners) is hidden.
_PIECE = 0.12
_MAX_PIECES = 100_000
_PIECE_PROBES = np.array([[50, 50, 50], [148, 1, 1], [1, 148, 1], [1, 1, 148]]) / 150


class WindingSolid:
    """The inside of a watertight mesh: where the winding number is not 0.

    Overlapping bodies thus form their union, an inverted body is solid, and a void whose faces
    point into it is outside.
    """

    method = "winding number"
    exact = True

    def __init__(self, mesh: trimesh.Trimesh):
        self._vertices = np.ascontiguousarray(mesh.vertices, np.float64)
        self._faces = np.ascontiguousarray(mesh.faces, np.int64)
        self._near = _NEAR * np.ptp(self._vertices, axis=0).max()
        self.surface = mesh

    def outside(self, points: np.ndarray) -> np.ndarray:
        """Whether points (n, 3), at least SKIN from the surface, are outside: (n,) bool."""
        return ~self.classify(points, np.full(len(points), np.inf))[0]

    def classify(self, points: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether points (n, 3) are inside, and whether that is ambiguous (never): (n,) bool each.

        The winding number is approximated (Barill et al. 2018) and, where that leaves doubt,
        computed exactly (Jacobson et al. 2013). `distance` (n,) is that to the surface.
        """
        points = np.ascontiguousarray(points, np.float64)
        winding = igl.fast_winding_number(self._vertices, self._faces, points)
        whole = np.abs(winding - np.round(winding)) < _DOUBTFUL
        doubtful = np.flatnonzero((distance < self._near) | ~whole)
        if len(doubtful):
            winding[doubtful] = igl.winding_number(self._vertices, self._faces, points[doubtful])
        return np.abs(winding) > 0.5, np.zeros(len(points), bool)


class VisibleSolid:
    """The inside of any mesh: what cannot be seen from outside.

    The openness of a point is the share of NUM_DIRECTIONS rays from it that hit no face. A point is
    outside if its openness is at least MIN_OPENNESS or, on a mesh without border edges, if at least
    _PROOF rays escape. The orientation of faces does not matter, nor do duplicate or hidden faces.
    (DeepSDF, supplementary material, decides by what 100 cameras see.)
    """

    def __init__(self, mesh: trimesh.Trimesh):
        self._caster = RayCaster(mesh)
        self._has_border = closedness(mesh).border_edges > 0
        self.exact = not self._has_border
        self.method = "visibility" if self._has_border else "visibility, no border"
        self.surface = mesh

    def outside(self, points: np.ndarray) -> np.ndarray:
        """Whether points (n, 3) are outside: (n,) bool."""
        enough = int(np.ceil(MIN_OPENNESS * NUM_DIRECTIONS)) if self._has_border else _PROOF
        return self._count_escapes(points, enough) >= enough

    def classify(self, points: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Whether points (n, 3) are inside, and whether that is ambiguous: (n,) bool each.

        `distance` is not used.
        """
        if not self._has_border:
            return ~self.outside(points), np.zeros(len(points), bool)
        certain = int(np.ceil(CERTAINLY_OUTSIDE * NUM_DIRECTIONS))
        openness = self._count_escapes(points, certain) / NUM_DIRECTIONS
        ambiguous = (openness > CERTAINLY_INSIDE) & (openness < CERTAINLY_OUTSIDE)
        return openness < MIN_OPENNESS, ambiguous

    def _count_escapes(self, points: np.ndarray, enough: int) -> np.ndarray:
        """The number of rays that escape from each point (n, 3), (n,) int.

        Counting may stop at `enough`, and where none of the first _MIN_RAYS escapes.
        """
        count = np.zeros(len(points), np.int64)
        for start in range(0, len(points), _POINTS_AT_ONCE):
            active = np.arange(start, min(start + _POINTS_AT_ONCE, len(points)))
            for first in range(0, NUM_DIRECTIONS, _RAYS_PER_ROUND):
                origins = points[active].astype(np.float32)
                for direction in _DIRECTIONS[first : first + _RAYS_PER_ROUND]:
                    rays = np.broadcast_to(direction, origins.shape)
                    count[active] += self._caster.escapes(origins, rays)
                undecided = count[active] < enough
                if self._has_border and first + _RAYS_PER_ROUND >= _MIN_RAYS:
                    undecided &= count[active] > 0
                active = active[undecided]
                if len(active) == 0:
                    break
        return count


Solid = WindingSolid | VisibleSolid


def drop_hidden_surface(solid: Solid) -> None:
    """Remove from `solid.surface` the parts that have the inside on both sides.

    Faces that are seen entirely from outside stay as they are; of those seen in part, the pieces
    that are seen stay.
    """
    mesh = solid.surface
    pieces, face = _subdivide(mesh.vertices[mesh.faces])
    normals = face_normals(mesh, face)
    visible = np.zeros(len(pieces), bool)
    for weights in _PIECE_PROBES:  # most pieces are seen at the first
        for step in (SKIN, -SKIN):
            rest = np.flatnonzero(~visible)
            points = np.einsum("c,nci->ni", weights, pieces[rest])
            visible[rest] = solid.outside(points + step * normals[rest])
    if not visible.any():
        return
    share = np.bincount(face, visible, len(mesh.faces)) / np.bincount(face)
    partly = pieces[visible & (share[face] < 1)]
    corners = np.concatenate([mesh.vertices, partly.reshape(-1, 3)])
    added = len(mesh.vertices) + np.arange(3 * len(partly)).reshape(-1, 3)
    faces = np.concatenate([mesh.faces[share == 1], added])
    solid.surface = trimesh.Trimesh(corners, faces, process=False)


def _subdivide(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bisect the longest edges of triangles (n, 3, 3) until none is longer than _PIECE.

    Stops earlier where there would be more than _MAX_PIECES. `triangles` is overwritten.

    Returns:
        pieces (m, 3, 3), and the index (m,) of the triangle that each is part of.
    """
    pieces, owner = triangles, np.arange(len(triangles))
    while True:
        edges = np.linalg.norm(pieces[:, [1, 2, 0]] - pieces, axis=2)
        large = np.flatnonzero(edges.max(axis=1) > _PIECE)
        if len(large) == 0 or len(pieces) + len(large) > max(_MAX_PIECES, len(triangles)):
            return pieces, owner
        first = edges[large].argmax(axis=1)
        a, b, c = (pieces[large, (first + k) % 3] for k in range(3))
        middle = (a + b) / 2
        pieces[large] = np.stack([a, middle, c], axis=1)
        pieces = np.concatenate([pieces, np.stack([middle, b, c], axis=1)])
        owner = np.concatenate([owner, owner[large]])


@dataclass(frozen=True)
class SurfaceShares:
    """The shares of a solid's surface that do not bound it.

    Attributes:
        zero_thickness: share of the visible surface that is seen on both sides: sheets, and
            surfaces whose inner side is seen through large holes.
        hidden: share of the whole surface that has the inside on both sides.
    """

    zero_thickness: float
    hidden: float


def surface_shares(solid: Solid) -> SurfaceShares:
    """Estimate the shares from both sides of _NUM_PROBES points on the surface."""
    points, face = sample_surface(solid.surface, _NUM_PROBES, np.random.default_rng(1))
    step = SKIN * face_normals(solid.surface, face)
    front, back = np.split(solid.outside(np.concatenate([points + step, points - step])), 2)
    visible = (front | back).sum()
    zero_thickness = (front & back).sum() / visible if visible else 1.0
    return SurfaceShares(float(zero_thickness), float(1 - visible / _NUM_PROBES))
