"""From folders of meshes to DeepSDF's files, through the command line and the library."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import trimesh
from plyfile import PlyData

import metasdf
from conftest import ROOT, shared
from metasdf.data.formats import write_sdf_samples
from metasdf.data.names import ShapeName
from metasdf.data.samples import Samples
from metasdf.errors import InputError
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.normalisation import normalise
from metasdf.geometry.sdf import signed_distance
from metasdf.preparation import preprocessor as preprocess_module
from metasdf.preparation.discover import MeshSource, find_meshes, meshes_of_split
from metasdf.preparation.preprocessor import Record, Settings, preprocess_mesh, preprocess_meshes
from metasdf.preparation.splits import write_splits

COMMAND = [sys.executable, str(ROOT / "3D" / "scripts" / "preprocess.py")]
SMALL = Settings(num_samples=2000, num_surface=300)


def command(*arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=120
    )


def write_mesh(path, mesh=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    (mesh or trimesh.creation.box((1, 2, 3))).export(path)
    return path


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix in (".npz", ".ply")
    }


@pytest.fixture
def meshes(tmp_path):
    """Two classes: three good shapes and one with a hole."""
    root = tmp_path / "meshes"
    write_mesh(root / "balls" / "ball.ply", trimesh.creation.icosphere(3, 7.0))
    write_mesh(root / "boxes" / "box.obj").rename(root / "boxes" / "box.v1.obj")
    write_mesh(root / "boxes" / "schön.off", trimesh.creation.box((3, 1, 1)))
    broken = trimesh.creation.box()
    broken.update_faces(np.arange(12) > 0)
    write_mesh(root / "boxes" / "broken.stl", broken)
    return root


# Finding meshes.


def names(sources):
    return [str(source.name) for source in sources]


def test_each_layout_gives_dataset_class_instance(meshes):
    everything = [
        "meshes/balls/ball",
        "meshes/boxes/box.v1",
        "meshes/boxes/broken",
        "meshes/boxes/schön",
    ]
    assert names(find_meshes(meshes)) == everything
    assert names(find_meshes(meshes / "boxes")) == everything[1:]
    assert names(find_meshes(meshes / "boxes" / "box.v1.obj")) == everything[1:2]
    assert names(find_meshes(meshes, "other", ["balls"])) == ["other/balls/ball"]
    for source in find_meshes(meshes) + find_meshes(meshes / "boxes"):
        assert source.folder == meshes
        assert source.find_file().stem == source.name.instance


def test_shapenets_layout_is_found_from_each_level(tmp_path):
    root = tmp_path / "ShapeNetV2"
    file = write_mesh(root / "0269" / "abc" / "models" / "model_normalized.obj")
    write_mesh(root / "0269" / "abc" / "models" / "collision.obj")
    for given in (root, root / "0269", file):
        (source,) = find_meshes(given)
        assert source.name == ("ShapeNetV2", "0269", "abc")
        assert (source.folder, source.find_file()) == (root, file)


def test_a_link_that_leads_to_itself_does_no_harm(meshes):
    (meshes / "boxes" / "loop").symlink_to(meshes / "boxes", target_is_directory=True)
    (meshes / "round").symlink_to("round")
    (meshes / "boxes" / "dead.obj").symlink_to("nowhere")
    found = names(find_meshes(meshes))
    assert "meshes/balls/ball" in found
    assert len(found) < 10


def test_several_candidates_are_refused_by_name(tmp_path):
    for name in ("a.obj", "a.ply"):
        write_mesh(tmp_path / "d" / "c" / name)
    (source,) = find_meshes(tmp_path / "d")
    with pytest.raises(InputError, match="several meshes"):
        source.find_file()


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"other": {}}, "no dataset 'meshes' but other"),
        ([], "JSON object"),
        ({"meshes": ["boxes"]}, "JSON object"),
        ({"meshes": {"boxes": "box"}}, "not a list"),
        ({"meshes": {"boxes": ["../box"]}}, "cannot name a folder"),
        ({"meshes": {"boxes": [{}]}}, "cannot name a folder"),
    ],
)
def test_a_malformed_split_is_named(meshes, tmp_path, split, message):
    file = tmp_path / "split.json"
    file.write_text(json.dumps(split))
    with pytest.raises(InputError, match=message):
        meshes_of_split(meshes, None, file)


# What is written.


def test_the_files_are_deepsdfs(meshes, tmp_path):
    out = tmp_path / "out"
    (source,) = find_meshes(meshes / "balls" / "ball.ply")
    assert preprocess_mesh(source, out, SMALL).status == "sampled"

    with np.load(out / "SdfSamples/meshes/balls/ball.npz", allow_pickle=False) as data:
        assert sorted(data) == ["neg", "pos"]
        pos, neg = data["pos"], data["neg"]
    assert pos.dtype == neg.dtype == np.float32
    assert len(pos) + len(neg) == 2000
    assert np.isfinite(pos).all()
    with np.load(out / "NormalizationParameters/meshes/balls/ball.npz") as data:
        offset, scale = data["offset"], data["scale"]
    assert (offset.dtype, offset.shape) == (np.float32, (3,))
    assert (scale.dtype, scale.shape) == (np.float32, (1,))
    vertices = PlyData.read(out / "SurfaceSamples/meshes/balls/ball.ply")["vertex"]
    assert [p.name for p in vertices.properties] == ["x", "y", "z"]
    points = np.stack([vertices[axis] for axis in "xyz"], axis=1)
    assert points.dtype == np.float32
    assert points.shape == (300, 3)

    mesh = load_mesh(meshes / "balls" / "ball.ply")
    assert np.linalg.norm(points, axis=1).max() == pytest.approx(7, rel=0.01)  # the mesh's frame
    normalised = (points.astype(np.float64) + offset) * scale
    assert np.abs(signed_distance(normalise(mesh), normalised)).max() < 1e-6
    read = Samples(out, ShapeName("meshes", "balls", "ball"))
    assert np.allclose(read.surface(), normalised, atol=1e-6)


def test_the_command_samples_reports_and_goes_on(meshes, tmp_path):
    out = tmp_path / "out"
    options = ("--num_samples", 2000, "--num_surface", 300, "--num_test", 1)
    first = command(meshes, "--out", out, "--threads", 2, *options)
    assert first.returncode == 1
    assert "Traceback" not in first.stdout + first.stderr
    assert "3 sampled, 0 skipped, 1 rejected" in first.stdout
    assert "meshes/boxes/broken" in first.stdout
    report = json.loads((out / "report.json").read_text())["shapes"]
    assert {name: entry["status"] for name, entry in report.items()} == {
        "meshes/balls/ball": "sampled",
        "meshes/boxes/box.v1": "sampled",
        "meshes/boxes/broken": "rejected",
        "meshes/boxes/schön": "sampled",
    }
    assert "3 of 18 edges are open" in report["meshes/boxes/broken"]["reason"]
    assert report["meshes/boxes/broken"]["watertight"] is False
    assert report["meshes/boxes/broken"]["ambiguous"] > 0.06
    ball = report["meshes/balls/ball"]
    assert (ball["watertight"], ball["left_out"], ball["ambiguous"]) == (True, 0, 0)
    assert json.loads((out / ".datasources.json").read_text()) == {"meshes": str(meshes)}
    written = files(out)
    assert len(written) == 9

    splits = {file.name: json.loads(file.read_text()) for file in (out / "splits").iterdir()}
    boxes = [splits[f"boxes_{part}.json"]["meshes"]["boxes"] for part in ("train", "test")]
    assert sorted(boxes[0] + boxes[1]) == ["box.v1", "schön"]
    assert len(boxes[1]) == 1
    assert splits["balls_train.json"] == {"meshes": {"balls": ["ball"]}}

    # Run again: nothing is done twice; what is missing is made again, the same on one process.
    (out / "SdfSamples/meshes/balls/ball.npz").unlink()
    second = command(meshes, "--out", out, "--threads", 1, *options)
    assert "1 sampled, 2 skipped, 1 rejected" in second.stdout
    assert files(out) == written
    report = json.loads((out / "report.json").read_text())["shapes"]
    assert report["meshes/boxes/schön"]["status"] == "skipped"
    assert report["meshes/boxes/schön"]["method"] == "winding number"


def test_deepsdfs_flags_write_what_deepsdf_writes(meshes, tmp_path):
    out, split = tmp_path / "out", tmp_path / "split.json"
    split.write_text(json.dumps({"meshes": {"boxes": ["schön", "absent"], "balls": ["ball"]}}))
    flags = ["--data_dir", out, "--source", meshes, "--name", "meshes", "--split", split]
    first = command(*flags, "--num_samples", 2000)
    assert first.returncode == 1
    assert "meshes/boxes/absent" in first.stdout
    assert set(files(out)) == {
        "SdfSamples/meshes/balls/ball.npz",
        "SdfSamples/meshes/boxes/schön.npz",
    }
    second = command(*flags, "--surface", "--skip")
    assert "2 sampled, 0 skipped, 1 rejected" in second.stdout
    assert len(files(out)) == 6


def test_a_seed_and_a_name_fix_the_numbers_and_test_spreads_wider(meshes, tmp_path):
    (ball,) = find_meshes(meshes, classes=["balls"])
    twin = MeshSource(ball.folder, ball.name._replace(instance="twin"), ball.find_file())

    def rows(source, folder, **options):
        preprocess_mesh(source, tmp_path / folder, Settings(num_samples=2000, **options))
        with np.load(source.name.file(tmp_path / folder, "SdfSamples")) as data:
            return np.concatenate([data["pos"], data["neg"]])

    first = rows(ball, "a")
    assert np.array_equal(first, rows(ball, "b"))
    assert not np.array_equal(first, rows(ball, "c", seed=1))
    assert not np.array_equal(first, rows(twin, "d"))
    wider = rows(ball, "e", test=True)
    assert np.abs(wider[:, 3]).mean() > 1.5 * np.abs(first[:, 3]).mean()


def test_test_shapes_get_half_as_many_samples_unless_told_otherwise(meshes, tmp_path):
    assert Settings().num_samples == 500_000
    assert Settings(test=True).num_samples == 250_000
    assert Settings(test=True, num_samples=7000).num_samples == 7000

    def written(*options):
        arguments = [meshes / "balls", "--out", tmp_path / "out", "--no-skip", *options]
        assert command(*arguments).returncode == 0
        with np.load(tmp_path / "out/SdfSamples/meshes/balls/ball.npz") as data:
            return len(data["pos"]) + len(data["neg"])

    assert written("--test") == 250_000
    assert written("--test", "--num_samples", 3000) == 3000
    settings = json.loads((tmp_path / "out" / "report.json").read_text())["settings"]
    assert (settings["test"], settings["num_samples"]) == (True, 3000)


def test_rejections_are_logged_not_printed(meshes, tmp_path, capsys, caplog):
    with caplog.at_level("INFO", logger="metasdf"):
        records = preprocess_meshes(find_meshes(str(meshes)), tmp_path / "out", SMALL, threads=1)
    assert {name: record.status for name, record in records.items()} == {
        "meshes/balls/ball": "sampled",
        "meshes/boxes/box.v1": "sampled",
        "meshes/boxes/broken": "rejected",
        "meshes/boxes/schön": "sampled",
    }
    assert capsys.readouterr().out == ""
    (message,) = caplog.messages
    assert message.startswith("rejected meshes/boxes/broken: ")
    sources = find_meshes(meshes / "balls" / "ball.ply")
    assert list(preprocess_meshes(sources, tmp_path / "out", SMALL)) == ["meshes/balls/ball"]


def test_no_part_of_a_killed_run_is_taken_for_whole(tmp_path):
    for index in range(6):
        write_mesh(tmp_path / "d" / "c" / f"{index}.ply", trimesh.creation.icosphere(2))
    out = tmp_path / "out"
    arguments = [tmp_path / "d", "--out", out, "--num_samples", "30000", "--threads", "1"]
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], start_new_session=True, stdout=subprocess.DEVNULL
    )
    while process.poll() is None and not list(out.glob("SdfSamples/d/c/[0-9].npz")):
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    for file in out.glob("SdfSamples/d/c/[0-9].npz"):
        with np.load(file) as data:
            assert len(data["pos"]) + len(data["neg"]) == 30000
    assert command(*arguments).returncode == 0
    assert len([name for name in files(out) if "/." not in name]) == 18


def test_a_worker_that_dies_costs_one_shape(meshes, tmp_path, monkeypatch):
    (tmp_path / "deadly.py").write_text(
        "import os\n"
        "from metasdf.preparation.preprocessor import Record\n"
        "def deadly(source, out, settings):\n"
        "    return os._exit(1) if source.name.instance == 'ball' else Record('sampled')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(
        preprocess_module, "preprocess_mesh", importlib.import_module("deadly").deadly
    )
    records = preprocess_meshes(find_meshes(meshes), tmp_path / "out", SMALL, threads=2)
    statuses = {name.split("/")[2]: record.status for name, record in records.items()}
    assert statuses == {
        "ball": "rejected",
        "box.v1": "sampled",
        "broken": "sampled",
        "schön": "sampled",
    }
    assert "died" in records["meshes/balls/ball"].reason


def test_open_meshes_are_rejected_or_thickened_as_told(meshes, tmp_path):
    (source,) = find_meshes(meshes / "boxes" / "broken.stl")
    record = preprocess_mesh(source, tmp_path / "a", SMALL)
    assert (record.status, record.method) == ("rejected", "visibility")
    assert record.ambiguous > 0.06
    assert not (tmp_path / "a").exists()
    thick = Settings(num_samples=2000, num_surface=300, open="thicken")
    record = preprocess_mesh(source, tmp_path / "b", thick)
    assert (record.status, record.method) == ("sampled", "visibility, thickened shell")
    assert len(files(tmp_path / "b")) == 3
    (ball,) = find_meshes(meshes, classes=["balls"])
    assert preprocess_mesh(ball, tmp_path / "b", thick).method == "winding number"


def test_a_partial_scan_joins_what_is_there_already(meshes, tmp_path):
    out = tmp_path / "out"
    given = [meshes, "--out", out, "--classes", "balls", "--num_samples", 2000]
    assert command(*given).returncode == 0
    before = files(out)
    second = command(*given, "--partial", "--num_partial", 500)
    assert "1 sampled, 0 skipped" in second.stdout
    after = files(out)
    scanned = "PartialSamples/meshes/balls/ball.ply"
    assert set(after) == {*before, scanned}
    assert all(after[name] == content for name, content in before.items())
    entry = json.loads((out / "report.json").read_text())["shapes"]["meshes/balls/ball"]
    assert (entry["method"], entry["left_out"]) == ("winding number", 0)

    # In the mesh's own frame on disk, normalised when read; of one side only.
    samples = Samples(out, ShapeName("meshes", "balls", "ball"))
    points = samples.surface("PartialSamples")
    assert points.shape == (500, 3)
    assert np.allclose(np.linalg.norm(points, axis=1), 1 / 1.03, atol=0.01)
    assert np.linalg.norm(points.mean(axis=0)) > 0.4
    vertices = PlyData.read(out / scanned)["vertex"]
    assert np.linalg.norm([vertices[axis] for axis in "xyz"], axis=0).max() > 6.5


def test_deepsdfs_form_writes_scans_as_well_with_noise_that_is_seeded(meshes, tmp_path):
    split = tmp_path / "split.json"
    split.write_text(json.dumps({"meshes": {"balls": ["ball"]}}))

    def scanned(folder, *more):
        out = tmp_path / folder
        flags = ["--data_dir", out, "--source", meshes, "--split", split, "--partial", *more]
        assert command(*flags).returncode == 0
        return files(out), Samples(out, ShapeName("meshes", "balls", "ball"))

    clean, samples = scanned("a")
    assert set(clean) == {
        "PartialSamples/meshes/balls/ball.ply",
        "NormalizationParameters/meshes/balls/ball.npz",
    }
    noisy, with_noise = scanned("b", "--noise", 0.02)
    assert scanned("c", "--noise", 0.02)[0] == noisy
    difference = with_noise.surface("PartialSamples") - samples.surface("PartialSamples")
    assert np.sqrt((difference**2).sum(axis=1).mean()) == pytest.approx(0.02, rel=0.1)


def test_no_number_that_is_not_finite_is_written(tmp_path):
    rows = np.zeros((3, 4), np.float32)
    bad = rows.copy()
    bad[1, 3] = np.nan
    with pytest.raises(InputError, match="not finite"):
        write_sdf_samples(tmp_path / "a.npz", rows, bad)
    assert not list(tmp_path.iterdir())


# What is refused.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give MESH_OR_FOLDER and --out"),
        (["{meshes}"], "--out is missing"),
        (["nowhere", "--out", "{out}"], "no such file or folder"),
        (["{meshes}", "--out", "{out}", "--classes", "cats"], "no class 'cats'"),
        (["{meshes}", "--out", "{out}", "--threads", "0"], "--threads 0"),
        (["{meshes}", "--out", "{out}", "--num_samples", "-1"], "--num_samples -1"),
        (["{meshes}", "--out", "{out}", "--train_fraction", "2"], "--train_fraction 2"),
        (["{meshes}", "--out", "{out}", "--name", "a/b"], "cannot name a folder"),
        (["{meshes}", "--out", "{out}", "--surface"], "--surface goes without"),
        (["--data_dir", "{out}", "--source", "{meshes}"], "--split is missing"),
        (["{meshes}", "--out", "{out}", "--sed", "1"], "--sed"),
        (["{meshes}", "--out", "{out}", "--open", "close"], "--open"),
        (["{meshes}", "--out", "{out}", "--noise", "0.1"], "--noise goes with --partial"),
        (["{meshes}", "--out", "{out}", "--partial", "--noise", "-1"], "--noise -1"),
        (["{meshes}", "--out", "{out}", "--partial", "--noise", "nan"], "--noise nan"),
    ],
)
def test_bad_arguments_end_with_one_line_and_code_2(
    meshes, tmp_path, arguments, message, monkeypatch, capsys
):
    values = {"meshes": meshes, "out": tmp_path / "out"}
    monkeypatch.setattr(sys, "argv", ["preprocess.py", *(a.format(**values) for a in arguments)])
    script = {"__name__": "__main__", "__doc__": ""}
    with pytest.raises(SystemExit) as caught:
        exec(compile((ROOT / "3D/scripts/preprocess.py").read_text(), "script", "exec"), script)
    error = capsys.readouterr().err
    assert caught.value.code == 2
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out" / "SdfSamples").exists()


def test_a_dataset_has_one_source(meshes, tmp_path):
    sources = find_meshes(meshes, classes=["balls"])
    preprocess_meshes(sources, tmp_path / "out", SMALL, threads=1)
    other = MeshSource(tmp_path, sources[0].name)
    with pytest.raises(InputError, match="choose another --name"):
        preprocess_meshes([other], tmp_path / "out", SMALL)


def test_splits_are_stable(tmp_path):
    sources = [MeshSource(tmp_path, ShapeName("d", "c", str(index))) for index in range(10)]
    records = {name: Record("sampled") for name in names(sources)}

    def test_part(sources, **options):
        _, file = write_splits(sources, records, tmp_path, **options)
        return json.loads(file.read_text())["d"]["c"]

    chosen = test_part(sources)
    assert len(chosen) == 2
    assert test_part(sources[::-1]) == chosen
    assert test_part(sources, seed=1) != chosen
    assert len(test_part(sources, num_test=4)) == 4
    assert len(test_part(sources, num_test=40)) == 9
    assert test_part(sources, train_fraction=1.0) == []
    records["d/c/0"].status = "rejected"
    assert "0" not in test_part(sources, num_test=9)


def test_a_real_chair_takes_seconds(tmp_path):
    (source,) = find_meshes(shared("data", "meshes", "single", "chair.obj"))
    record = preprocess_mesh(source, tmp_path, Settings(num_samples=50_000))
    assert (record.status, record.watertight) == ("sampled", True)
    with np.load(source.name.file(tmp_path, "SdfSamples")) as data:
        assert 0.2 < len(data["neg"]) / 50_000 < 0.5


@pytest.mark.slow
def test_the_survey_of_the_documentation_runs_on_any_folder(meshes, tmp_path):
    results, picture = tmp_path / "results.json", tmp_path / "worst.png"
    script = [sys.executable, "-m", "benchmarks.preprocessing"]

    def benchmark(*arguments):
        done = subprocess.run(
            [*script, *map(str, arguments)], capture_output=True, text=True, check=True, cwd=ROOT
        )
        return done.stdout

    benchmark("survey", results, meshes / "boxes")
    entries = json.loads(results.read_text())
    assert sorted(entry["status"] for entry in entries.values()) == [
        "rejected",
        "sampled",
        "sampled",
    ]
    assert "| boxes | 3 | 2 | 0 | 0 | 1 | 0 | 0 |" in benchmark("tables", results)
    assert all(entry.get("agreement", 1) > 0.999 for entry in entries.values())
    benchmark("worst", results, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_one_call_makes_a_data_set_of_a_folder(meshes, tmp_path):
    records = metasdf.preprocess(meshes, tmp_path / "data", SMALL, num_test=1, threads=1)
    assert records["meshes/boxes/broken"].status == "rejected"
    assert records["meshes/balls/ball"].status == "sampled"
    splits = {f.stem: json.loads(f.read_text()) for f in (tmp_path / "data" / "splits").iterdir()}
    classes = ("balls", "boxes")
    assert splits.keys() == {f"{c}_{part}" for c in (*classes, "all") for part in ("train", "test")}
    for part in ("train", "test"):  # all of the classes together
        parts = [splits[f"{name}_{part}"]["meshes"] for name in classes]
        assert splits[f"all_{part}"] == {"meshes": parts[0] | parts[1]}
