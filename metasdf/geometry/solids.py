"""Which points a mesh has inside: by winding number if it is watertight, else by visibility.

Both kinds of solid have the same attributes and methods:

    exact             whether no point is ever ambiguous
    method            how the side of a point is found, in words
    surface           the mesh; after `drop_hidden_surface` only what has an outside
    outside(points)   (n,) bool
    classify(points, distance)   inside (n,) bool, ambiguous (n,) bool
"""

from dataclasses import dataclass

import igl
import numpy as np
import trimesh

from metasdf.geometry.mesh import closedness, face_normals, sample_surface
from metasdf.geometry.rays import RayCaster, spread_directions

# The fast winding number is an approximation in float32. Nearer to the surface than this share of
# the mesh's size, or farther from a whole number than that, the exact one is computed, which takes
# 50 ms a point on a million faces.
_NEAR = 2e-6
_DOUBTFUL = 0.25

# Rays from a point, evenly over the sphere. Each prefix is spread as well, for the early exit.
NUM_DIRECTIONS = 256
_DIRECTIONS = np.random.default_rng(0).permutation(spread_directions(NUM_DIRECTIONS))
_ROUND = 16  # rays cast between two looks at which points are done
_HOPELESS = 128  # rays after which, if none has escaped, five in a hundred are not expected to
_CHUNK = 200_000  # points at a time, which bounds the memory

# A point is outside when at least this share of its rays escapes. One escaping ray is not enough:
# it finds every hole. A right-angled corner of a room has 0.125, a wedge of 18 degrees 0.05, and a
# hole of radius r is seen through from a depth of 2.2 r at most.
MIN_OPENNESS = 0.05

# Beyond these, another sensible choice of MIN_OPENNESS would not change the side; between them the
# point is ambiguous: behind a gap, or deep in a hollow.
CERTAINLY_INSIDE, CERTAINLY_OUTSIDE = 0.01, 0.10

# Where no edge has but one face there is no gap, and whatever escapes proves the point outside;
# not the first ray, as one in millions slips through between two triangles.
_PROOF = 2

# Points tested beside the surface are this far from it (normalised frame): far more than rounding
# in float32, far less than any detail.
SKIN = 1e-4
_NUM_PROBES = 10_000  # points on the surface from which shares of it are estimated

# Faces are cut into pieces with edges of at most this length, unless there come to be too many, and
# a piece that cannot be seen at any of four points (weights of its corners) is hidden.
_PIECE = 0.12
_MAX_PIECES = 100_000
_PIECE_PROBES = np.array([[50, 50, 50], [148, 1, 1], [1, 148, 1], [1, 1, 148]]) / 150


class WindingSolid:
    """The inside of a watertight mesh: where the winding number is not 0.

    So overlapping bodies are their union, an inverted body is solid, and a void whose faces point
    into it is outside.
    """

    method = "winding number"
    exact = True

    def __init__(self, mesh: trimesh.Trimesh):
        self._vertices = np.ascontiguousarray(mesh.vertices, np.float64)
        self._faces = np.ascontiguousarray(mesh.faces, np.int64)
        self._near = _NEAR * np.ptp(self._vertices, axis=0).max()
        self.surface = mesh

    def outside(self, points: np.ndarray) -> np.ndarray:
        """Whether points (n, 3), not nearer to the surface than SKIN, are outside: (n,) bool."""
        return ~self.classify(points, np.full(len(points), np.inf))[0]

    def classify(self, points: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inside or not, and ambiguous or not (never), of points (n, 3): each (n,) bool.

        w is computed fast (Barill et al. 2018) and again exactly (Jacobson et al. 2013) where that
        is in doubt. `distance` (n,) is that to the surface.
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

    The openness of a point is the share of NUM_DIRECTIONS rays from it that meet no face. A point
    is outside when its openness is at least MIN_OPENNESS or, if no edge of the mesh is a border,
    when any ray escapes. Which way faces point plays no part, nor do faces on one another or
    hidden ones. (DeepSDF, supplementary material, decides by what 100 cameras see.)
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
        """Inside or not, and ambiguous or not, of points (n, 3): each (n,) bool."""
        if not self._has_border:
            return ~self.outside(points), np.zeros(len(points), bool)
        certain = int(np.ceil(CERTAINLY_OUTSIDE * NUM_DIRECTIONS))
        openness = self._count_escapes(points, certain) / NUM_DIRECTIONS
        ambiguous = (openness > CERTAINLY_INSIDE) & (openness < CERTAINLY_OUTSIDE)
        return openness < MIN_OPENNESS, ambiguous

    def _count_escapes(self, points: np.ndarray, enough: int) -> np.ndarray:
        """How many rays escape from points (n, 3), (n,) int; counting may stop at `enough`."""
        count = np.zeros(len(points), np.int64)
        for start in range(0, len(points), _CHUNK):
            active = np.arange(start, min(start + _CHUNK, len(points)))
            for first in range(0, NUM_DIRECTIONS, _ROUND):
                origins = points[active].astype(np.float32)
                for direction in _DIRECTIONS[first : first + _ROUND]:
                    rays = np.broadcast_to(direction, origins.shape)
                    count[active] += self._caster.escapes(origins, rays)
                unknown = count[active] < enough
                if self._has_border and first + _ROUND >= _HOPELESS:
                    unknown &= count[active] > 0
                active = active[unknown]
                if len(active) == 0:
                    break
        return count


Solid = WindingSolid | VisibleSolid


def drop_hidden_surface(solid: Solid) -> None:
    """Take from `solid.surface` what has the inside on both sides.

    Faces seen whole from outside stay as they are; of those seen in part, pieces stay.
    """
    mesh = solid.surface
    pieces, face = _cut(mesh.vertices[mesh.faces])
    normals = face_normals(mesh, face)
    seen = np.zeros(len(pieces), bool)
    for weights in _PIECE_PROBES:  # most pieces are seen at the first
        for step in (SKIN, -SKIN):
            unseen = np.flatnonzero(~seen)
            points = np.einsum("c,nci->ni", weights, pieces[unseen])
            seen[unseen] = solid.outside(points + step * normals[unseen])
    if not seen.any():
        return
    share = np.bincount(face, seen, len(mesh.faces)) / np.bincount(face)
    partly = pieces[seen & (share[face] < 1)]
    corners = np.concatenate([mesh.vertices, partly.reshape(-1, 3)])
    added = len(mesh.vertices) + np.arange(3 * len(partly)).reshape(-1, 3)
    faces = np.concatenate([mesh.faces[share == 1], added])
    solid.surface = trimesh.Trimesh(corners, faces, process=False)


def _cut(triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Halve triangles (n, 3, 3) along their longest edges until none is longer than _PIECE.

    `triangles` is overwritten.

    Returns:
        pieces (m, 3, 3) and the index of the triangle that each is part of, (m,).
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
    """How much of the surface of a solid is what a surface should not be.

    Attributes:
        zero_thickness: share of what is seen from outside that is seen on both sides: sheets, and
            the inner side of surfaces with large holes.
        hidden: share that has the inside on both sides.
    """

    zero_thickness: float
    hidden: float


def surface_shares(solid: Solid) -> SurfaceShares:
    """Estimate from _NUM_PROBES points on the surface, whose two sides are looked at."""
    points, face = sample_surface(solid.surface, _NUM_PROBES, np.random.default_rng(1))
    step = SKIN * face_normals(solid.surface, face)
    front, back = np.split(solid.outside(np.concatenate([points + step, points - step])), 2)
    seen = (front | back).sum()
    zero_thickness = (front & back).sum() / seen if seen else 1.0
    return SurfaceShares(float(zero_thickness), float(1 - seen / _NUM_PROBES))
