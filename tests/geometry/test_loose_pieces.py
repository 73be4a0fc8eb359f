"""The pieces of a surface and which of them are kept."""

import numpy as np
import pytest
import trimesh

from metasdf.errors import InputError
from metasdf.geometry.grid import mesh_from_grid
from metasdf.geometry.loose_pieces import keep_pieces, piece_areas, without_specks


@pytest.fixture
def three_spheres():
    """Spheres of radius 1, 3 and 2, in that order, which share no vertex."""
    spheres = [trimesh.creation.icosphere(2, radius) for radius in (1, 3, 2)]
    for sphere, x in zip(spheres, (0, 10, 20), strict=True):
        sphere.apply_translation([x, 0, 0])
    return trimesh.util.concatenate(spheres)


def test_pieces_come_largest_first(three_spheres):
    areas, piece = piece_areas(three_spheres)
    assert areas == pytest.approx(4 * np.pi * np.array([9, 4, 1]), rel=0.03)
    assert np.bincount(piece).tolist() == [320, 320, 320]
    assert piece[[0, 320, 640]].tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("keep", "middles"),
    [("all", [0, 10, 20]), ("largest", [10]), (1, [10]), ("2", [10, 20]), (7, [0, 10, 20])],
)
def test_only_the_largest_pieces_are_kept(three_spheres, keep, middles):
    kept, count = keep_pieces(three_spheres, keep)
    assert count == 3
    assert kept.is_watertight
    assert len(kept.vertices) == 162 * len(middles)
    found = sorted(piece.centroid[0] for piece in kept.split())
    assert found == pytest.approx(middles, abs=1e-6)


def test_the_surface_of_a_hollow_is_a_piece():
    hollow = trimesh.creation.icosphere(2, 0.5)
    hollow.invert()
    shell = trimesh.util.concatenate([trimesh.creation.icosphere(2), hollow])
    kept, count = keep_pieces(shell, "largest")
    assert count == 2
    assert kept.volume > shell.volume


def test_what_surrounds_one_grid_point_is_a_speck():
    grid = np.linspace(-1, 1, 20)
    x, y, z = np.meshgrid(grid, grid, grid, indexing="ij")
    values = np.sqrt(x**2 + y**2 + z**2) - 0.5
    values[2, 3, 4] = -0.01  # one grid point inside
    values[10, 10, 10] = 0.01  # and one outside
    values[15:17, 15, 15] = -0.01  # two are no speck
    mesh = mesh_from_grid(values.astype(np.float32))
    kept, count = without_specks(mesh)
    assert count == 2
    assert len(mesh.faces) - len(kept.faces) == 16
    assert len(np.bincount(piece_areas(kept)[1])) == 2
    assert kept.is_watertight
    assert without_specks(kept)[1] == 0
    alone = np.full((8, 8, 8), 1.0, np.float32)
    alone[4, 4, 4] = -1
    assert without_specks(mesh_from_grid(alone))[1] == 0  # nothing would be left


@pytest.mark.parametrize("keep", ["none", "", 0, -1, "1.5", 2.5])
def test_what_is_no_number_of_pieces_is_refused(three_spheres, keep):
    with pytest.raises(InputError, match="none of all, largest, or a number"):
        keep_pieces(three_spheres, keep)
