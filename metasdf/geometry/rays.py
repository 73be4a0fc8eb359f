"""Casting rays at a mesh."""

import igl
import numpy as np
import trimesh

try:  # Embree casts rays about five times faster; it has no wheel on Linux aarch64.
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene
except ImportError:
    EmbreeScene = None


def spread_directions(count: int) -> np.ndarray:
    """Unit directions (count, 3), spread evenly over the sphere: a Fibonacci spiral."""
    height = 1 - (2 * np.arange(count) + 1) / count
    angle = np.pi * (1 + np.sqrt(5)) * np.arange(count)
    across = np.sqrt(1 - height**2)
    return np.stack([across * np.cos(angle), across * np.sin(angle), height], axis=1)


class RayCaster:
    """Casts rays at one mesh, with Embree where it is installed, else with libigl's AABB tree."""

    def __init__(self, mesh: trimesh.Trimesh):
        if EmbreeScene is not None:
            self._scene = EmbreeScene()
            TriangleMesh(self._scene, np.asarray(mesh.vertices, np.float32)[mesh.faces])
        else:
            self._scene = None
            self._vertices = np.ascontiguousarray(mesh.vertices, np.float64)
            self._faces = np.ascontiguousarray(mesh.faces, np.int64)
            self._tree = igl.AABB()
            self._tree.init(self._vertices, self._faces)

    def first_hit(
        self, origins: np.ndarray, directions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The first face that each ray hits.

        Args:
            origins, directions: (n, 3) float; directions of unit length.

        Returns:
            face (n,) int64, -1 where a ray hits none, and distance (n,) float64, infinity there.
        """
        if self._scene is not None:
            hits = self._scene.run(_float32(origins), _float32(directions), output=True)
            face, distance = hits["primID"].astype(np.int64), hits["tfar"].astype(np.float64)
        else:
            face, distance, _ = self._tree.intersect_ray_first(
                self._vertices, self._faces, _float64(origins), _float64(directions)
            )
        return face, np.where(face >= 0, distance, np.inf)

    def escapes(self, origins: np.ndarray, directions: np.ndarray) -> np.ndarray:
        """Whether each ray, as in `first_hit`, hits no face: (n,) bool."""
        if self._scene is not None:
            hits = self._scene.run(_float32(origins), _float32(directions), query="OCCLUDED")
            return hits == -1
        return self.first_hit(origins, directions)[0] == -1


def _float32(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float32)


def _float64(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, np.float64)
