"""The program `metasdf`: commands for 2D and 3D, help with examples, output line by line."""

import json
import os
import subprocess
import sys

import pytest

import metasdf
from conftest import ROOT, image_arguments, sphere_arguments
from metasdf.commands import main as program
from metasdf.commands.main import COMMANDS
from metasdf.learning.model_files import shipped_models


def run(*arguments, monkeypatch, capsys):
    """Exit code and output of the program, in this process."""
    monkeypatch.setattr(sys, "argv", ["metasdf", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        program.entry()
    return caught.value.code, *capsys.readouterr()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(command, monkeypatch, capsys):
    code, out, _ = run(command, "--help", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert f"usage: metasdf {command}" in out
    assert f"    metasdf {command} " in out


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_without_a_command_it_lists_them(arguments, monkeypatch, capsys):
    code, out, _ = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 0
    assert all(f"\n  {command} " in out for command in COMMANDS)


def test_the_version_is_that_of_the_package(monkeypatch, capsys):
    _, out, _ = run("--version", monkeypatch=monkeypatch, capsys=capsys)
    assert out == f"metasdf {metasdf.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tran"], "no command 'tran'; did you mean train"),
        (["train", "tables_tinny"], "did you mean tables_tiny"),
        (["train", "tables_tiny", "--curriculums", "none.py"], "none.py"),
        (["train", "tables_tiny", "--curriculums"], "expected one argument"),
        (["reconstruct", "mnist", "--checkpoint", "x"], "mnist: is a curriculum of 2D"),
        (["evaluate", "tables_tiny", "--checkpoint", "x"], "tables_tiny: is a curriculum of 3D"),
        (["curriculums", "--show", "mnisst"], "did you mean mnist"),
        (["shapes", "out", "--classes", "lamps"], "lamps"),
        (["train", "mnist", "--SDFSamplesPerScene", "8"], "--SDFSamplesPerScene"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert message in error
    assert list(tmp_path.iterdir()) == []


def test_train_and_evaluate_serve_curriculums_of_2d(tmp_path, monkeypatch, capsys):
    options = {"monkeypatch": monkeypatch, "capsys": capsys}
    arguments = image_arguments(tmp_path, num_epochs=1)
    code, out, _ = run("train", "mnist", *arguments, **options)
    assert code == 0
    assert "trained 1 epochs, 4 steps" in out
    checkpoint = ("--checkpoint", tmp_path / "checkpoints" / "latest.pth")
    code, out, _ = run("evaluate", "mnist", *arguments, *checkpoint, **options)
    assert code == 0
    assert "images measured, 0 failed" in out


def test_a_finished_training_has_nothing_to_do(spheres, tmp_path, monkeypatch, capsys):
    options = {"monkeypatch": monkeypatch, "capsys": capsys}
    arguments = sphere_arguments(spheres, tmp_path, num_epochs=1)
    run("train", "tables_tiny", *arguments, **options)
    code, out, _ = run("train", "tables_tiny", *arguments, "--load", **options)
    assert code == 0
    assert "nothing to do, 1 epochs are trained already" in out


def test_curriculums_are_listed_and_shown_complete(monkeypatch, capsys):
    _, out, _ = run("curriculums", monkeypatch=monkeypatch, capsys=capsys)
    names = [line.split()[0] for line in out.splitlines()]
    assert {"planes_relu", "tables_tiny", "mnist", "cifar"} <= set(names)
    _, out, _ = run("curriculums", "--show", "mnist", monkeypatch=monkeypatch, capsys=capsys)
    assert json.loads(out) == metasdf.load_curriculum("mnist")


def test_models_are_listed_and_their_cards_shown(monkeypatch, capsys):
    _, out, _ = run("models", monkeypatch=monkeypatch, capsys=capsys)
    *lines, _, hint = out.splitlines()
    assert [line.split()[0] for line in lines] == shipped_models()
    assert "general (default)  signed distances or points  any" in out
    assert "--show NAME" in hint
    card = metasdf.load_model("general").card
    show = ("models", "--show", "general")
    _, out, _ = run(*show, "--json", monkeypatch=monkeypatch, capsys=capsys)
    assert json.loads(out) == card
    _, out, _ = run(*show, monkeypatch=monkeypatch, capsys=capsys)
    assert "".join(out.split()) == "".join(f"{w}:{t}" for w, t in card.items()).replace(" ", "")
    assert max(map(len, out.splitlines())) <= 90
    code, _, err = run("models", "--show", "generel", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "did you mean general" in err


def test_a_curriculum_file_of_ones_own_is_relative_to_itself(tmp_path, monkeypatch, capsys):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine.py").write_text(
        "import metasdf\n"
        "small = {**metasdf.load_curriculum('tables_tiny'), 'output_dir': 'runs/small'}\n"
    )
    monkeypatch.chdir(tmp_path)
    more = ("--show", "small", "--curriculums", "there/mine.py")
    _, out, _ = run("curriculums", *more, monkeypatch=monkeypatch, capsys=capsys)
    assert json.loads(out)["output_dir"] == str(tmp_path / "there" / "runs" / "small")


def test_output_reaches_a_pipe_line_by_line(spheres, tmp_path):
    """What was done is read while the training goes on."""
    arguments = sphere_arguments(spheres, tmp_path, num_epochs=100_000, validate_every=1)
    command = [sys.executable, "-m", "metasdf", "train", "tables_tiny", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONUNBUFFERED", None)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout.readline().startswith("epoch 1: validation loss")
        assert process.poll() is None
        process.kill()
