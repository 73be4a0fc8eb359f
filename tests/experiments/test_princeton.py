"""The real data set for comparisons, on generated meshes laid out like the benchmark."""

import json
import subprocess
import sys

import numpy as np
import pytest
import trimesh
from scipy.spatial import cKDTree

from conftest import ROOT
from experiments import princeton
from metasdf.data.names import read_split
from metasdf.data.samples import Samples
from metasdf.errors import InputError
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.normalisation import normalise
from metasdf.preparation.shapes import make_shape

Z_UP = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # turns y to z
NOSE_TO_X = princeton.rotation_from((-1, 0, 0), (0, 1, 0))
ASKEW = trimesh.transformations.euler_matrix(0.4, 1.1, 0.7)[:3, :3]
UPSIDE_DOWN = np.diag([1, -1, -1])


def make_jet(span: float, sweep: float) -> trimesh.Trimesh:
    """A jet of boxes: y is up, the nose points along -z, the wings lie behind the middle."""
    boxes = [  # extent, centre
        ((0.2, 0.2, 2.0), (0, 0, 0)),
        ((span, 0.06, 0.4), (0, 0, sweep)),
        ((span / 2, 0.06, 0.25), (0, 0.02, 0.85)),
        ((0.06, 0.5, 0.3), (0, 0.3, 0.83)),
    ]
    parts = [trimesh.creation.box(extent).apply_translation(at) for extent, at in boxes]
    return trimesh.util.concatenate(parts)


def moved(mesh: trimesh.Trimesh, turn: np.ndarray, scale: float = 1.0) -> trimesh.Trimesh:
    return trimesh.Trimesh(scale * mesh.vertices @ turn.T + 3, mesh.faces, process=False)


def make_table(index: int) -> trimesh.Trimesh:
    return make_shape("tables", 0, index)


JETS = [make_jet(span, sweep) for span, sweep in [(1.0, 0.1), (1.4, 0.2), (1.7, 0.3), (1.2, 0.4)]]
SHEET = trimesh.Trimesh([(0, 0, 0), (0, 0, 1), (1, 0, 1), (1, 0, 0)], [(0, 1, 2), (0, 2, 3)])
MODELS = {  # number -> mesh; 1 to 9 jets, from 10 tables; the benchmark tests on even numbers
    1: JETS[0],
    2: moved(JETS[0], Z_UP, 2.0),  # twin of 1
    3: JETS[1],
    4: moved(JETS[2], NOSE_TO_X),
    6: moved(JETS[3], Z_UP @ NOSE_TO_X),
    11: make_table(0),
    12: moved(make_table(1), Z_UP),
    13: make_table(2),
    14: make_table(3),
    16: moved(make_table(4), UPSIDE_DOWN),
    18: SHEET,
}
MORE = {"twin": moved(make_table(3), ASKEW, 0.3), "other": moved(make_table(5), Z_UP)}


def cla(jets: list[int], tables: list[int]) -> str:
    lines = ["PSB 1", "5 0", "", "airplane 0 0", "", f"fighter_jet airplane {len(jets)}", *jets]
    lines += ["", "biplane airplane 1", "99", "", "table 0 0", "", f"round table {len(tables)}"]
    return "\n".join(map(str, [*lines, *tables, ""]))


def write_benchmark(folder):
    """Write the models as the benchmark's folder is laid out."""
    for group in ("plane", "table"):
        (folder / "psb" / group).mkdir(parents=True)
    for number, mesh in MODELS.items():
        mesh.export(folder / "psb" / ("plane" if number < 10 else "table") / f"m{number}.off")
    for part, odd in (("train", 1), ("test", 0)):
        numbers = [number for number in [*MODELS, 98] if number % 2 == odd]  # 98 is not there
        jets, tables = ([n for n in numbers if (n < 10) == jet] for jet in (True, False))
        (folder / "psb" / f"{part}.cla").write_text(cla(jets, tables))
    (folder / "infomr" / "RectangleTable").mkdir(parents=True)
    for name, mesh in MORE.items():
        mesh.export(folder / "infomr" / "RectangleTable" / f"{name}.obj")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("benchmark")
    write_benchmark(folder)
    return folder


@pytest.fixture(scope="module")
def prepared(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return out, princeton.prepare(folder, out, num_samples=200, threads=1)


def read_splits(out):
    return {
        file.stem: json.loads(file.read_text())["princeton"]
        for file in (out / "data" / "splits").iterdir()
    }


def turned(mesh, turn, class_name, folder):
    """What the program makes of a mesh that lies in its file as `turn` says."""
    file = folder / "mesh.off"
    moved(mesh, turn).export(file)
    return princeton.aligned(princeton.BenchmarkMesh(class_name, "some", file, "train"))


def same_place(a: trimesh.Trimesh, b: trimesh.Trimesh) -> bool:
    """Whether two meshes of the same part lie on each other."""
    distance, _ = cKDTree(a.vertices).query(b.vertices)
    return distance.max() < 1e-4


@pytest.mark.parametrize("turn", [np.eye(3), Z_UP, NOSE_TO_X, UPSIDE_DOWN, Z_UP @ NOSE_TO_X])
def test_a_jets_nose_points_along_minus_z_and_its_fin_up(turn, tmp_path):
    for jet in JETS:
        assert same_place(turned(jet, turn, "fighter_jets", tmp_path), normalise(jet))


@pytest.mark.parametrize("turn", [np.eye(3), Z_UP, UPSIDE_DOWN, ASKEW])
def test_a_tables_top_is_up_and_its_longer_side_along_x(turn, tmp_path):
    slab = trimesh.creation.box((1.4, 0.06, 0.8)).apply_translation((0, 0.5, 0))
    legs = [
        trimesh.creation.box((0.1, 0.5, 0.1)).apply_translation((x, 0.25, z))
        for x in (-0.6, 0.6)
        for z in (-0.3, 0.3)
    ]
    table = trimesh.util.concatenate([slab, *legs])
    made = turned(table, turn, "tables", tmp_path).vertices
    expected = normalise(table).vertices
    np.testing.assert_allclose(np.ptp(made, axis=0), np.ptp(expected, axis=0), atol=0.03)
    # All four corners of the top and none of the feet reach out to the sides.
    assert (made[np.abs(made[:, 0]) > 0.95 * made[:, 0].max(), 1] > 0.1).all()


def test_an_exception_overrules_the_rule(tmp_path, monkeypatch):
    monkeypatch.setitem(princeton.EXCEPTIONS, "some", ((0, 0, 1), (0, 1, 0)))
    back_to_front = princeton.rotation_from((0, 0, 1), (0, 1, 0))
    expected = normalise(moved(JETS[0], back_to_front))
    assert same_place(turned(JETS[0], np.eye(3), "fighter_jets", tmp_path), expected)


def test_twins_are_found_however_they_lie_and_whatever_their_size(prepared):
    _, summary = prepared
    assert summary["twins"] == [
        ["fighter_jets/psb_m1", "fighter_jets/psb_m2"],
        ["tables/psb_m14", "tables/infomr_twin"],
    ]


def test_twins_of_twins_are_one_group():
    pairs = [("c", "a", 0.0), ("b", "c", 0.009), ("b", "d", 0.011)]
    assert princeton.group_twins("abcd", pairs) == [["a", "b", "c"], ["d"]]


def test_the_splits_hold_each_shape_once_and_twins_on_one_side(prepared):
    out, _ = prepared
    splits = read_splits(out)
    jets, tables = (
        [splits[f"{name}_{part}"][name] for part in ("train", "test")] for name in princeton.CLASSES
    )
    # One of each group, never the open sheet; a jet with a twin for training is for training.
    assert sorted(jets[0] + jets[1]) == ["psb_m1", "psb_m3", "psb_m4", "psb_m6"]
    assert len(jets[1]) == 1
    assert set(jets[1]) < {"psb_m4", "psb_m6"}
    assert sorted(tables[0] + tables[1]) == [
        "infomr_other",
        *(f"psb_m{number}" for number in (11, 12, 13, 14, 16)),
    ]
    assert len(tables[1]) == 2
    assert set(tables[1]) < {"psb_m12", "psb_m14", "psb_m16"}
    for k, part in enumerate(("train", "test")):
        assert splits[f"all_{part}"] == {"fighter_jets": jets[k], "tables": tables[k]}


def test_of_twins_the_first_that_bounds_a_solid_is_kept():
    names = ["tables/a", "tables/b", "tables/c", "tables/d"]
    official = dict.fromkeys(names, "train") | {"tables/b": None}
    parts = princeton.split([names[:2], names[2:3], names[3:]], {*names[1:3]}, official)
    assert parts["tables"] == {"train": ["b", "c"], "test": []}


def test_all_that_training_needs_is_there_and_what_is_no_solid_is_listed(prepared):
    out, summary = prepared
    assert list(summary["rejected"]) == ["tables/psb_m18"]
    assert summary["files"] == {"fighter_jets": 5, "tables": 8}
    assert summary["shapes"] == {"fighter_jets": 4, "tables": 7}
    for shape in read_split(out / "data" / "splits" / "all_train.json"):
        samples = Samples(str(out / "data"), shape)
        assert np.linalg.norm(samples.surface(), axis=1).max() < 1
        assert shape.file(out / "data", "PartialSamples").is_file()
        mesh = load_mesh(out / "meshes" / shape.category / f"{shape.instance}.off")
        assert mesh.vertices.shape[1] == 3
    assert (out / "contact.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_run_leaves_finished_files_alone(folder, prepared):
    out, summary = prepared
    files = [*out.rglob("*.off"), *out.rglob("*.npz"), out / "twins.json", out / "contact.png"]
    before = {file: file.stat().st_mtime_ns for file in files}
    splits = read_splits(out)
    again = princeton.prepare(folder, out, num_samples=200, threads=1)
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert read_splits(out) == splits
    assert {**again, "seconds": 0} == {**summary, "seconds": 0}


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments.princeton", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


def test_a_bad_folder_is_one_line_and_exit_code_2(tmp_path):
    for place, reason in ((tmp_path / "none", "no such folder"), (tmp_path, "train.cla")):
        result = run(place, "--out", tmp_path / "out")
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert reason in result.stderr
    assert not (tmp_path / "out").exists()


def test_a_malformed_classification_is_named_with_its_line(tmp_path):
    file = tmp_path / "train.cla"
    file.write_text("PSB 1\n1 1\n\ntable 0 1\n12\nwhat is this thing\n")
    with pytest.raises(InputError, match=r"train\.cla, line 6"):
        princeton.read_classes(file)


def test_a_class_without_meshes_is_named(tmp_path):
    (tmp_path / "psb").mkdir()
    for part in ("train", "test"):
        (tmp_path / "psb" / f"{part}.cla").write_text(cla([1, 2], [11]))
    with pytest.raises(InputError, match="fewer than two meshes of the class fighter_jet"):
        princeton.find_benchmark_meshes(tmp_path)
