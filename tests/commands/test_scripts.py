"""The commands, as a user types them."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from conftest import ROOT, ends_with_one_line, run_here, run_script, sphere_arguments

SCRIPTS = ("run_train.py", "run_reconstruct.py", "run_eval.py", "preprocess.py")


def test_meshes_to_measured_reconstructions_from_any_folder(spheres, tmp_path):
    arguments = [
        "tables_tiny",
        *sphere_arguments(spheres, tmp_path / "out", num_epochs=80, lr=2e-3),
    ]
    trained = run_script("run_train.py", *arguments, cwd=tmp_path)
    assert "trained 80 epochs" in trained.stdout
    assert trained.stderr == ""  # no progress bar where nobody watches

    checkpoint = "out/checkpoints/latest.pth"  # relative to where the user stands
    run_script("run_reconstruct.py", *arguments, "--checkpoint", checkpoint, cwd=tmp_path)
    folder = tmp_path / "out" / "reconstructions"
    evaluated = run_script(
        "run_eval.py",
        "out/reconstructions",
        *("--metrics", "metrics.json", "--gallery", "gallery.png"),
        cwd=tmp_path,
    )
    assert "2 of 2 shapes measured, 0 failed" in evaluated.stdout
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["num_shapes"] == 2
    assert 0 < metrics["chamfer_floor"] < metrics["chamfer_mean"]
    assert metrics["chamfer_mean"] < 0.5 * metrics["chamfer_initialisation"]
    assert json.loads((folder / "evaluation.json").read_text())["num_failed"] == 0
    assert (folder / "evaluation.csv").read_text().count("\n") == 3
    assert (tmp_path / "gallery.png").stat().st_size > 1000


def test_a_missing_truth_is_told_by_the_exit_code(spheres, tmp_path):
    folder = tmp_path / "reconstructions" / "made" / "spheres"
    folder.mkdir(parents=True)
    (folder / "nowhere.off").write_text("")
    (folder / "absent.ply").write_bytes(b"ply\n")
    result = run_script(
        "run_eval.py", tmp_path / "reconstructions", "--data_source", spheres, check=False
    )
    assert result.returncode == 1
    assert "failed: made/spheres/absent" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("run_train.py", ["table_tiny"], "did you mean tables_tiny"),
        ("run_train.py", ["tables_tiny", "--load", "--overwrite"], "give one of them"),
        (
            "run_reconstruct.py",
            ["tables_tiny", "--checkpoint", "a", "--resolution", "9999"],
            "too large; the most",
        ),
        ("run_eval.py", [".", "--data_source", "nowhere"], "nowhere: is not a folder"),
        ("run_train.py", ["tables_tiny", "--SDFSamplesPerScen", "8"], "SDFSamplesPerScene"),
        ("run_train.py", ["tables_tiny", "--num_epochs", "few"], "--num_epochs: 'few' is not"),
        ("run_train.py", ["tables_tiny", "--device", "abacus"], "--device abacus: not available"),
        ("run_train.py", ["planes_relu", "--data_source", "nowhere"], "planes_train.json"),
        ("run_reconstruct.py", ["tables_tiny", "--checkpoint", "no.pth"], "no such checkpoint"),
        ("run_reconstruct.py", ["tables_tiny"], "--checkpoint"),
        ("run_eval.py", ["nowhere"], "nowhere"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(
    script, arguments, message, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    error = ends_with_one_line(script, *arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert message in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_there_and_scripts_stay_thin(script, monkeypatch, capsys):
    assert run_here(script, "--help", monkeypatch=monkeypatch) == 0
    assert "usage" in capsys.readouterr().out
    assert len((ROOT / "3D" / "scripts" / script).read_text().splitlines()) <= 120


def test_the_scripts_of_a_checkout_take_its_own_curriculums(tmp_path):
    """Also where another copy of the package is installed."""
    shutil.copytree(ROOT / "3D", tmp_path / "3D")
    file = tmp_path / "3D" / "curriculums.py"
    file.write_text(file.read_text() + '\nadded = {**tables_tiny, "data_source": "nowhere"}\n')
    for script, more in (("run_train.py", ()), ("run_reconstruct.py", ("--checkpoint", "none"))):
        result = subprocess.run(
            [sys.executable, tmp_path / "3D" / "scripts" / script, "added", *more],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert result.returncode == 2
        assert "no curriculum" not in result.stderr
        assert str(tmp_path) in result.stderr or "none: no such checkpoint" in result.stderr
