"""The points at which DeepSDF samples signed distances.

Park et al. 2019, supplementary material; the numbers are those of its released program.
"""

from collections.abc import Callable

import numpy as np
import trimesh

from metasdf.geometry.mesh import sample_surface

NEAR_SURFACE_SHARE = 47 / 50
VARIANCES = (0.005, 0.0005)  # of the Gaussian that moves a surface point, per coordinate
TEST_VARIANCES = (0.05, 0.0005)


def sample_points(
    mesh: trimesh.Trimesh, count: int, rng: np.random.Generator, test: bool = False
) -> np.ndarray:
    """DeepSDF's sample points (count, 3) float32 for a mesh in the normalised frame.

    See `points_around`.
    """
    return points_around(lambda number: sample_surface(mesh, number, rng)[0], count, rng, test)


def points_around(
    draw_surface: Callable[[int], np.ndarray],
    count: int,
    rng: np.random.Generator,
    test: bool = False,
) -> np.ndarray:
    """DeepSDF's sample points for any surface in the normalised frame.

    47 of 50 lie near the surface: surface points, uniform by area, each displaced twice by Gaussian
    noise, once with each of VARIANCES. The rest is uniform in [-1, 1]^3.

    Args:
        draw_surface: n -> n surface points (n, 3).
        count: points in all.
        rng: source of randomness.
        test: use TEST_VARIANCES, DeepSDF's wider spread for test shapes.

    Returns:
        (count, 3) float32.
    """
    num_surface = int(count * NEAR_SURFACE_SHARE) // 2
    surface = draw_surface(num_surface)
    displaced = [
        surface + rng.normal(scale=np.sqrt(variance), size=surface.shape)
        for variance in (TEST_VARIANCES if test else VARIANCES)
    ]
    uniform = rng.uniform(-1, 1, size=(count - 2 * num_surface, 3))
    return np.concatenate([*displaced, uniform]).astype(np.float32)
