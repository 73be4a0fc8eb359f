"""A slow, plain reference for signs by visibility; it shares no code with metasdf.

Rule: a point is outside when at least 5 % of 2000 rays from it, in directions drawn uniformly at
random, meet no triangle of the mesh. Every point is asked in every direction: no patches, no early
exit, no winding number. Rays are cast by trimesh (Embree where it is installed).
"""

import numpy as np
import trimesh

NUM_DIRECTIONS = 2000
MIN_SHARE = 0.05


def outside(mesh: trimesh.Trimesh, points: np.ndarray, seed: int = 12345) -> np.ndarray:
    """Whether points (n, 3) are outside a mesh: (n,) bool."""
    directions = np.random.default_rng(seed).normal(size=(NUM_DIRECTIONS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    escapes = np.zeros(len(points), int)
    for direction in directions:
        escapes += ~mesh.ray.intersects_any(points, np.tile(direction, (len(points), 1)))
    return escapes >= MIN_SHARE * NUM_DIRECTIONS
