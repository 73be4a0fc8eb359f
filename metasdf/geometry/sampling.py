"""Signed distances to a mesh, and the points at which DeepSDF samples them."""

from collections.abc import Callable

import numpy as np
import trimesh

from metasdf.geometry.mesh import sample_surface

# DeepSDF's recipe (Park et al. 2019, supplementary material; values of its released program).
NEAR_SURFACE_SHARE = 47 / 50
VARIANCES = (0.005, 0.0005)  # of the Gaussian that moves a surface point, per coordinate
TEST_VARIANCES = (0.05, 0.0005)


def sample_points(
    mesh: trimesh.Trimesh, count: int, rng: np.random.Generator, test: bool = False
) -> np.ndarray:
    """The points of DeepSDF's recipe (`points_around`) for a mesh in the normalised frame."""
    return points_around(lambda number: sample_surface(mesh, number, rng)[0], count, rng, test)


def points_around(
    draw_surface: Callable[[int], np.ndarray],
    count: int,
    rng: np.random.Generator,
    test: bool = False,
) -> np.ndarray:
    """The points of DeepSDF's recipe for a surface in the normalised frame.

    47 of 50 lie near the surface: surface points, uniform by area, each moved twice by a Gaussian,
    once per variance in VARIANCES (`test`: TEST_VARIANCES). The rest is uniform in [-1, 1]^3.
    `draw_surface(n)` gives n surface points, (n, 3).

    Returns:
        (count, 3) float32.
    """
    num_surface = int(count * NEAR_SURFACE_SHARE) // 2
    surface = draw_surface(num_surface)
    near = [
        surface + rng.normal(scale=np.sqrt(variance), size=surface.shape)
        for variance in (TEST_VARIANCES if test else VARIANCES)
    ]
    uniform = rng.uniform(-1, 1, size=(count - 2 * num_surface, 3))
    return np.concatenate([*near, uniform]).astype(np.float32)
