"""DeepSDF's normalised frame, in which every shape lies inside the unit ball.

The centre of a shape's bounding box goes to the origin, then its farthest vertex to radius 1/1.03
(DeepSDF, supplementary material; `BoundingCubeNormalization` in its released program).
"""

from typing import NamedTuple

import numpy as np
import trimesh

from metasdf.errors import InputError
from metasdf.geometry.mesh import used_vertices

MARGIN = 1.03  # the unit ball's radius over that of a normalised shape
MAX_ROUNDING = 1e-4  # of a coordinate to float32, in the normalised frame


# Rotations by quarter turns that bring an axis to where y was, by the axis's name.
TURNS = {
    "x": np.array([[0, -1, 0], [1, 0, 0], [0, 0, 1]], np.float64),
    "y": np.eye(3),
    "z": np.array([[1, 0, 0], [0, 0, 1], [0, -1, 0]], np.float64),
    "-x": np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 1]], np.float64),
    "-y": np.diag([1.0, -1.0, -1.0]),
    "-z": np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]], np.float64),
}


class Normalisation(NamedTuple):
    """The map normalised = (original + offset) * scale, then turned so that `up` becomes y.

    Attributes:
        offset: (3,) float64, in original units.
        scale: in 1 / original unit.
        up: one of TURNS; "y" turns nothing.
    """

    offset: np.ndarray
    scale: float
    up: str = "y"

    @classmethod
    def of_mesh(cls, mesh: trimesh.Trimesh) -> "Normalisation":
        """The normalisation of a mesh; only vertices that faces use count. Errors: `of_points`."""
        return cls.of_points(mesh.vertices[used_vertices(mesh.vertices, mesh.faces)])

    @classmethod
    def of_points(cls, points: np.ndarray) -> "Normalisation":
        """The normalisation of a shape whose extent is that of points (n, 3).

        Offset and scale are rounded to float32, as they are stored, so that every user of the
        frame has the same numbers.

        Raises:
            InputError: the points are all the same, or float32 cannot hold their coordinates.
        """
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            offset = -(0.5 * points.min(axis=0) + 0.5 * points.max(axis=0)).astype(np.float32)
            radius = np.linalg.norm(points + offset.astype(np.float64), axis=1).max()
            scale = np.float32(1 / (MARGIN * radius))
            rounding = np.spacing(np.abs(points).max().astype(np.float32)) * scale
        if radius == 0:
            raise InputError(
                "all points are the same, at least in float32, so there is no size to scale to"
            )
        if not (np.isfinite(scale) and scale > 0 and rounding < MAX_ROUNDING):
            raise InputError(
                "the coordinates are too large, too small or too far from the origin for float32; "
                "move the shape to the origin and scale it to a size near 1"
            )
        return cls(np.asarray(offset, np.float64), float(scale))

    def apply(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) in the original frame -> in the normalised frame, float64."""
        with np.errstate(over="ignore"):
            return self.turn((points + self.offset) * self.scale)

    def invert(self, points: np.ndarray) -> np.ndarray:
        """Points (n, 3) in the normalised frame -> in the original frame, float64."""
        if self.up != "y":
            points = points @ TURNS[self.up]
        return points / self.scale - self.offset

    def turn(self, directions: np.ndarray) -> np.ndarray:
        """Directions (n, 3), as normals, in the original frame -> in the normalised frame."""
        return directions if self.up == "y" else directions @ TURNS[self.up].T


def normalise(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A copy of `mesh` in its normalised frame. Errors: `Normalisation.of_points`."""
    vertices = Normalisation.of_mesh(mesh).apply(mesh.vertices)
    return trimesh.Trimesh(vertices, mesh.faces, process=False)
