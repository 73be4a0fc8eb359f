"""The procedural classes: sound meshes, the same every time, varied, and safely written."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import trimesh

from conftest import ROOT
from experiments import compare_3d, scans
from metasdf.errors import InputError
from metasdf.preparation.general import MOST_PARTS
from metasdf.preparation.shapes import CLASSES, draw_shape, make_shape, write_shapes

COUNT = 160  # the command's default
SOME = slice(30)  # for the slow checks
of_furniture = pytest.mark.parametrize("class_name", ["tables", "chairs"], indirect=True)


@pytest.fixture(scope="module", params=CLASSES)
def class_name(request):
    return request.param


@pytest.fixture(scope="module")
def meshes(class_name):
    return [make_shape(class_name, 0, index) for index in range(COUNT)]


def command(*args):
    return subprocess.run(
        [sys.executable, "-m", "metasdf", "shapes", *map(str, args)],
        capture_output=True,
        text=True,
    )


def thickness(mesh, count=500):
    """How far the solid reaches behind points of the surface / its largest extent, (<= count,)."""
    points, faces = trimesh.sample.sample_surface(mesh, count, seed=0)
    inward = -mesh.face_normals[faces]
    start = points + 1e-5 * inward
    hits, rays, _ = mesh.ray.intersects_location(start, inward, multiple_hits=False)
    return np.linalg.norm(hits - start[rays], axis=1) / mesh.extents.max()


def test_every_mesh_is_one_outward_oriented_solid(meshes):
    for mesh in meshes:
        assert mesh.is_watertight
        assert mesh.is_winding_consistent
        assert mesh.volume > 0
        assert mesh.body_count == 1


def test_no_face_is_degenerate_and_no_vertex_is_loose(meshes):
    for mesh in meshes:
        assert mesh.nondegenerate_faces().all()
        assert len(np.unique(mesh.faces)) == len(mesh.vertices)


@of_furniture
def test_shapes_are_centred_and_about_a_metre_in_size(meshes):
    for mesh in meshes:
        assert mesh.bounds.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)
        assert 0.5 < mesh.extents.max() < 1.5
        assert mesh.extents.min() > 0.25


@of_furniture
def test_y_is_up_and_the_plate_is_at_its_height(class_name, meshes):
    for index, mesh in enumerate(meshes[SOME]):
        shape = draw_shape(class_name, 0, index)
        height = shape.height if class_name == "tables" else shape.seat_height
        surface = mesh.bounds[0, 1] + height
        around = [[0.0, surface - 0.01, 0.0], [0.0, surface + 0.01, 0.0]]
        assert mesh.contains(around).tolist() == [True, False]


@of_furniture
def test_pieces_are_thick_enough_for_a_small_network(meshes):
    # Near an edge any solid is thin, so a share of the points may be.
    for mesh in meshes[SOME]:
        assert np.quantile(thickness(mesh), 0.15) > 0.04


def test_a_shape_depends_on_class_seed_and_index_only(class_name):
    first = make_shape(class_name, 3, 5)
    make_shape(class_name, 3, 6)
    again = make_shape(class_name, 3, 5)
    np.testing.assert_array_equal(first.vertices, again.vertices)
    np.testing.assert_array_equal(first.faces, again.faces)


def test_another_process_makes_the_same_shapes(class_name, tmp_path):
    assert command(tmp_path, "--classes", class_name, "--count", 2, "--seed", 3).returncode == 0
    mesh = trimesh.load_mesh(tmp_path / class_name / f"{class_name}_0001.obj", process=False)
    np.testing.assert_array_equal(mesh.vertices, make_shape(class_name, 3, 1).vertices)


def test_another_seed_or_index_gives_another_shape(class_name):
    shapes = [draw_shape(class_name, seed, index) for seed in range(3) for index in range(20)]
    assert len({dataclasses.astuple(shape) for shape in shapes}) == 60


@of_furniture
def test_every_style_occurs_and_every_measure_varies(class_name):
    shapes = [draw_shape(class_name, 0, index) for index in range(100)]
    measures = 0
    for field in dataclasses.fields(CLASSES[class_name]):
        values = [getattr(shape, field.name) for shape in shapes]
        if "choices" in field.metadata:
            assert set(values) == set(field.metadata["choices"]), field.name
        else:
            measures += 1
            assert len(set(values)) == 100, field.name
    assert measures >= 8


@of_furniture
def test_each_style_is_another_solid(class_name):
    base = dataclasses.replace(draw_shape(class_name, 0, 0), legs="splayed")
    for field in dataclasses.fields(base):
        if field.type is str:
            styles = field.metadata["choices"]
            solids = [dataclasses.replace(base, **{field.name: style}).solid() for style in styles]
            assert len({round(solid.volume(), 7) for solid in solids}) == len(styles), field.name


def test_files_give_back_exactly_the_meshes(class_name, tmp_path):
    names = write_shapes(tmp_path, class_name, 3, seed=1)
    assert names == [f"{class_name}_000{index}" for index in range(3)]
    for index, name in enumerate(names):
        mesh = make_shape(class_name, 1, index)
        read = trimesh.load_mesh(tmp_path / class_name / f"{name}.obj", process=False)
        np.testing.assert_array_equal(read.vertices, mesh.vertices)
        np.testing.assert_array_equal(read.faces, mesh.faces)
        assert trimesh.load_mesh(tmp_path / class_name / f"{name}.obj").is_volume


def test_an_interrupted_call_can_be_repeated(class_name, tmp_path):
    write_shapes(tmp_path, class_name, 3)
    folder = tmp_path / class_name
    kept, lost = folder / f"{class_name}_0000.obj", folder / f"{class_name}_0001.obj"
    text = lost.read_text()
    kept.write_text("kept as it is")
    lost.unlink()
    write_shapes(tmp_path, class_name, 3)
    assert kept.read_text() == "kept as it is"
    assert lost.read_text() == text
    assert sorted(path.name for path in folder.iterdir()) == [
        f"{class_name}_000{index}.obj" for index in range(3)
    ]


@pytest.mark.parametrize("class_name", ["general"], indirect=True)
def test_general_shapes_are_of_every_kind_and_stand_in_no_particular_way(meshes):
    for mesh in meshes:
        assert mesh.bounds.mean(axis=0) == pytest.approx(np.zeros(3), abs=1e-6)
        assert 0.2 < mesh.extents.max() < 4
    filled = np.array([mesh.volume / mesh.bounding_box_oriented.volume for mesh in meshes[SOME]])
    assert filled.min() < 0.3  # thin or branched
    assert filled.max() > 0.7
    faces = [len(mesh.faces) for mesh in meshes]
    assert min(faces) < 50
    assert max(faces) > 3000
    # The largest face's normal is that of a plate or a box: anywhere on the sphere.
    normals = np.array([mesh.face_normals[mesh.area_faces.argmax()] for mesh in meshes])
    assert np.linalg.eigvalsh(normals.T @ normals / len(normals)) == pytest.approx(1 / 3, abs=0.1)


@pytest.mark.parametrize("class_name", ["general"], indirect=True)
def test_the_parts_of_general_shapes_vary(class_name):
    shapes = [draw_shape(class_name, 0, index) for index in range(100)]
    assert {shape.count for shape in shapes} == set(range(1, MOST_PARTS + 1))
    assert len({shape.seed for shape in shapes}) == 100
    mirrored = dataclasses.replace(shapes[1], symmetry="mirrored").solid()
    assert mirrored.volume() > dataclasses.replace(shapes[1], symmetry="none").solid().volume()


@pytest.mark.parametrize(("seed", "index"), [(7, 169), (0, 908), (23, 174)])
def test_a_part_without_volume_is_drawn_again(seed, index):
    assert make_shape("general", seed, index).volume > 1e-3


def test_an_unknown_class_is_an_error_that_names_the_known_ones():
    with pytest.raises(InputError, match=r"'sofas'.*tables, chairs"):
        make_shape("sofas", 0, 0)


def test_the_command_prints_one_line(tmp_path):
    result = command(tmp_path, "--count", 2)
    assert result.returncode == 0
    assert result.stdout == f"{tmp_path}: 2 shapes of each class: tables, chairs, general\n"
    assert result.stderr == ""
    assert len(list(tmp_path.rglob("*.obj"))) == 6


@pytest.mark.parametrize(
    "options", [["--classes", "tables", "sofas"], ["--count", "0"], ["--seed", "-1"]]
)
def test_bad_input_ends_the_command_with_code_2_one_line_and_no_file(tmp_path, options):
    result = command(tmp_path, *options)
    assert result.returncode == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_shipped_models_have_seen_no_shape_of_the_demo_or_of_a_comparison():
    """By their parameters, which say all about a shape; counts and seeds are the Makefile's."""
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    calls = re.findall(
        r"shapes \$\((\w+)\)/meshes --classes ([\w ]+?) --count (\d+)(?: --seed (\d+))?\n", recipe
    )
    assert {place for place, *_ in calls} == {"DEMO", "MODELS"}
    drawn = {"MODELS": set(), "others": set()}
    for place, classes, count, seed in calls:
        for name in classes.split():
            shapes = (draw_shape(name, int(seed or 0), i) for i in range(int(count)))
            drawn["MODELS" if place == "MODELS" else "others"].update(shapes)
    assert len(drawn["MODELS"]) == 816 + 2 * 416
    for name in scans.CLASSES:
        drawn["others"].update(draw_shape(name, scans.SEED, i) for i in range(100))
    for name in compare_3d.CLASSES:  # as `write_shapes` draws them, from seed 0
        drawn["others"].update(draw_shape(name, 0, i) for i in range(compare_3d.Plan().shapes))
    assert not drawn["MODELS"] & drawn["others"]
