"""Loading, checking, normalising and drawing meshes."""

import numpy as np
import pytest
import trimesh

from metasdf.errors import InputError
from metasdf.geometry import rays
from metasdf.geometry.grid import extract_mesh
from metasdf.geometry.mesh import (
    closedness,
    sample_surface,
    weld,
    without_duplicate_faces,
)
from metasdf.geometry.mesh_files import load_mesh, write_mesh
from metasdf.geometry.normalisation import Normalisation, normalise
from metasdf.geometry.rays import RayCaster
from metasdf.geometry.rendering import UNIT_BALL, render, render_points


@pytest.mark.parametrize("suffix", ["obj", "ply", "stl", "off", "glb"])
def test_every_format_loads_closed_whatever_it_repeats(tmp_path, suffix):
    file = tmp_path / f"box ü.{suffix}"
    trimesh.creation.box((1, 2, 3)).export(file)
    mesh = load_mesh(file)
    assert (len(mesh.vertices), len(mesh.faces)) == (8, 12)
    assert closedness(mesh).watertight
    assert mesh.volume == pytest.approx(6, rel=1e-6)


def test_bodies_of_a_scene_are_loaded_where_they_stand(tmp_path):
    scene = trimesh.Scene(trimesh.creation.box())
    shift = trimesh.transformations.translation_matrix([5, 0, 0])
    scene.add_geometry(trimesh.creation.icosphere(1), transform=shift)
    scene.export(tmp_path / "scene.glb")
    mesh = load_mesh(tmp_path / "scene.glb")
    assert len(mesh.faces) == 12 + 80
    assert mesh.bounds[:, 0] == pytest.approx([-0.5, 6])


def test_corners_that_differ_by_rounding_are_one_vertex(tmp_path):
    box = trimesh.creation.box()
    corners = box.triangles.reshape(-1, 3)
    corners = corners + np.random.default_rng(0).normal(scale=1e-12, size=corners.shape)
    soup = trimesh.Trimesh(corners, np.arange(36).reshape(-1, 3), process=False)
    soup.export(tmp_path / "soup.obj", digits=17)
    assert closedness(load_mesh(tmp_path / "soup.obj")).watertight


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.obj", "", "no faces|cannot be read"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces"),
        ("a.off", "OFF\n3 1 0\n0 0 0\n1 0 0\n", "cannot be read"),
        ("a.ply", "ply\nformat ascii 1.0\nelement vert", "cannot be read|no faces"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 nan 0\nf 1 2 3\n", "not finite|cannot be read"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n", "no area"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 2 1 0\nf 1 2 9\n", "not there|cannot be read"),
        ("a.txt", "hello", "known kind"),
        ("b.obj", None, "no such file"),
    ],
)
def test_an_unusable_file_is_named_with_the_reason(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        load_mesh(tmp_path / name)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def torus(x):
    return ((x[:, :2].norm(dim=1) - 0.5) ** 2 + x[:, 2] ** 2).sqrt() - 0.25


def slanted_wall(x):
    return x[:, 0] - x[:, 1]


@pytest.mark.parametrize("field", [torus, slanted_wall])
def test_a_written_mesh_is_closed_whether_or_not_a_reader_merges_vertices(tmp_path, field):
    mesh = extract_mesh(field, 65)
    assert mesh.is_watertight
    as_float32 = mesh.vertices.astype(np.float32)
    assert len(np.unique(as_float32, axis=0)) < len(mesh.vertices)  # zeros fall on grid points

    write_mesh(tmp_path / "mesh.ply", mesh)
    for process in (True, False):
        read = trimesh.load(tmp_path / "mesh.ply", process=process)
        assert read.is_watertight
        assert read.is_winding_consistent
        assert len(np.unique(read.vertices, axis=0)) == len(read.vertices)
        assert (read.area_faces > 0).all()
        assert read.volume == pytest.approx(mesh.volume, rel=1e-6)


def test_a_mesh_without_coincident_vertices_is_written_unchanged(tmp_path):
    mesh = trimesh.creation.icosphere(2)
    write_mesh(tmp_path / "mesh.ply", mesh)
    read = trimesh.load(tmp_path / "mesh.ply", process=False)
    assert np.array_equal(read.vertices, mesh.vertices.astype(np.float32))
    assert np.array_equal(read.faces, mesh.faces)


@pytest.mark.parametrize("ending", [".ply", ".obj", ".stl", ".glb", ".OBJ"])
def test_a_mesh_is_written_as_its_ending_says(tmp_path, ending):
    mesh = trimesh.creation.torus(1.0, 0.3)
    file = tmp_path / f"mesh{ending}"
    write_mesh(file, mesh)
    read = load_mesh(file)
    assert read.is_watertight
    assert len(read.faces) == len(mesh.faces)
    assert read.volume == pytest.approx(mesh.volume, rel=1e-5)
    assert read.bounds == pytest.approx(mesh.bounds, abs=1e-6)
    starts = {".ply": b"ply\n", ".glb": b"glTF"}
    assert file.read_bytes().startswith(starts.get(ending, b""))


@pytest.mark.parametrize("name", ["mesh.off", "mesh", "mesh.ply.txt"])
def test_a_mesh_of_another_ending_is_not_written(tmp_path, name):
    with pytest.raises(InputError, match="written as one of"):
        write_mesh(tmp_path / name, trimesh.creation.box())
    assert not list(tmp_path.iterdir())


def test_welding_drops_a_fin_that_collapses_and_keeps_the_solid_closed():
    box = trimesh.creation.box()
    tip = np.array([[0, 0, 2.0], [0, 0, 2 + 1e-12]])  # coincide in float32
    vertices = np.concatenate([box.vertices, tip, [[0, 1, 2.0]]])
    fin = np.array([[8, 9, 10], [9, 8, 10]])  # collapses into lines
    flap = np.array([[0, 8, 10], [0, 10, 9]])  # comes to lie back to back
    faces = np.concatenate([box.faces, fin, flap])
    welded = weld(trimesh.Trimesh(vertices, faces, process=False))
    assert np.array_equal(welded.faces, box.faces)
    assert np.array_equal(welded.vertices, box.vertices)


def test_each_defect_is_counted():
    box = trimesh.creation.box()

    def defects(faces):
        return closedness(trimesh.Trimesh(box.vertices, faces, process=False))

    assert defects(box.faces).watertight
    assert defects(box.faces).num_edges == 18
    assert defects(box.faces[:, ::-1]).watertight  # inverted, but of one mind
    assert defects(box.faces[1:]).open_edges == defects(box.faces[1:]).border_edges == 3
    flipped = box.faces.copy()
    flipped[0] = flipped[0, ::-1]
    assert defects(flipped).inconsistent_edges == 3
    doubled = defects(np.concatenate([box.faces, box.faces[:, ::-1]]))
    assert doubled.duplicate_faces == 12
    assert not doubled.watertight
    assert "12 faces are doubled" in doubled.describe()


def test_of_duplicate_faces_the_first_stays():
    box = trimesh.creation.box()
    faces = np.concatenate([box.faces, np.roll(box.faces[::-1], 1, axis=1)[:, ::-1]])
    single = without_duplicate_faces(trimesh.Trimesh(box.vertices, faces, process=False))
    assert np.array_equal(single.faces, box.faces)


def test_normalisation_centres_the_box_and_puts_the_farthest_vertex_at_1_over_1_03():
    mesh = trimesh.creation.cone(2, 5)
    mesh.apply_translation([10, -3, 0.5])
    unused = np.array([[1000.0, 0, 0]])
    mesh = trimesh.Trimesh(np.concatenate([mesh.vertices, unused]), mesh.faces, process=False)
    offset, scale, _ = Normalisation.of_mesh(mesh)
    assert (offset.shape, scale) == ((3,), np.float32(scale))
    assert np.array_equal(offset, offset.astype(np.float32))
    used = normalise(mesh).vertices[np.unique(mesh.faces)]
    assert np.allclose(used.min(axis=0) + used.max(axis=0), 0, atol=1e-6)
    assert np.linalg.norm(used, axis=1).max() == pytest.approx(1 / 1.03, rel=1e-6)


@pytest.mark.parametrize(("factor", "shift"), [(1e-30, 1e9), (1e60, 0), (1e-60, 0), (1, 1e7)])
def test_coordinates_beyond_float32_are_refused(factor, shift):
    box = trimesh.creation.box()
    mesh = trimesh.Trimesh(box.vertices * factor + shift, box.faces, process=False)
    with pytest.raises(InputError, match="float32"):
        Normalisation.of_mesh(mesh)


def test_surface_samples_are_uniform_by_area_on_the_surface_and_seeded():
    box = trimesh.creation.box((1, 2, 4))
    points, face = sample_surface(box, 40_000, np.random.default_rng(3))
    share = np.bincount(face, minlength=12) / 40_000
    assert np.allclose(share, box.area_faces / box.area, atol=0.01)
    normals = box.face_normals[face]
    assert np.allclose(((points - box.triangles[face, 0]) * normals).sum(axis=1), 0, atol=1e-12)
    side = points[face == face[0]]
    assert np.allclose(side.mean(axis=0), box.triangles_center[face[0]], atol=0.05)
    again, _ = sample_surface(box, 40_000, np.random.default_rng(3))
    assert np.array_equal(points, again)


def test_rays_are_the_same_with_and_without_embree(monkeypatch):
    mesh = trimesh.creation.icosphere(3)
    rng = np.random.default_rng(0)
    origins = rng.normal(size=(500, 3)) * 2
    directions = rng.normal(size=(500, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    results = []
    for scene in (rays.EmbreeScene, None):
        monkeypatch.setattr(rays, "EmbreeScene", scene)
        caster = RayCaster(mesh)
        face, distance = caster.first_hit(origins, directions)
        assert np.array_equal(caster.escapes(origins, directions), face == -1)
        results.append((face, distance))
    assert np.mean(results[0][0] == results[1][0]) > 0.99
    assert np.allclose(results[0][1], results[1][1], atol=1e-4)
    hit = results[1][0] >= 0
    ends = origins[hit] + directions[hit] * results[1][1][hit, None]
    assert np.allclose(np.linalg.norm(ends, axis=1), 1, atol=0.02)


def test_a_picture_shows_the_ball_its_frame_says():
    ball = trimesh.creation.icosphere(3, radius=0.5)
    cloud, _ = sample_surface(ball, 20_000, np.random.default_rng(0))
    for picture in (
        render(ball, 64, frame=UNIT_BALL),
        render_points(cloud, 64, frame=UNIT_BALL),
    ):
        assert picture.shape == (64, 64, 3)
        assert picture.dtype == np.uint8
        drawn = (picture < 250).any(axis=2)
        assert (picture[~drawn] >= 250).all()
        rows, columns = np.nonzero(drawn)
        assert abs(rows.mean() - 31.5) < 1
        assert abs(columns.mean() - 31.5) < 1
        assert np.sqrt(drawn.sum() / np.pi) == pytest.approx(16, abs=2)
    top, bottom = render(ball, 64)[12, 32].mean(), render(ball, 64)[52, 32].mean()
    assert top > bottom + 20  # light comes from above


def test_up_can_be_z():
    mesh = trimesh.creation.box((1, 2, 3))
    turned = mesh.copy()
    turned.vertices = mesh.vertices[:, [0, 2, 1]] * [1, -1, 1]  # y up -> z up
    difference = np.abs(render(mesh, 64).astype(int) - render(turned, 64, up="z"))
    assert difference.mean() < 1
