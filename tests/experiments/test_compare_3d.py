"""The comparison of all methods, in miniature."""

import json
from dataclasses import replace

import pytest
from PIL import Image
from test_princeton import write_benchmark

from experiments import compare_3d as program
from experiments.methods import LABELS, choose_methods
from metasdf.errors import InputError
from metasdf.evaluation.gallery import PIXELS

METHODS = ("metasdf", "autodecoder", "set_concat", "set_hyper")
OWN_METHOD = """
import torch
from torch import nn

from metasdf import Method


class Ball(Method):
    \"\"\"A ball around the origin whose radius is learned, whatever the context.\"\"\"

    def __init__(self, loss):
        super().__init__()
        self.loss, self.num_steps = loss, 1
        self.radius = nn.Parameter(torch.tensor(0.4))

    def adapt(self, context, num_steps=None):
        return None

    def predict(self, x, fields):
        return x.norm(dim=-1, keepdim=True) - self.radius
"""
OWN_CURRICULUMS = """
mine = {"method": "ball:Ball", "training_mode": "l1", "reconstruction_sdf_samples": 512}
"""


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of a few shapes for moments, run once: its plan, folder and summary."""
    benchmark = tmp_path_factory.mktemp("benchmark")
    write_benchmark(benchmark)
    output = tmp_path_factory.mktemp("compare")
    small = (("hidden_features", 16), ("hidden_layers", 1), ("latent_features", 4))
    plan = program.Plan(1.0, 1, 4, 1, 3000, resolution=16, code_steps=3, keys=small)
    failed = program.compare(
        plan, output, output / "docs", processes=2, sources={"princeton": benchmark}
    )
    return plan, output, json.loads((output / "docs" / "compare_3d.json").read_text()), failed


def test_every_method_is_measured_in_both_modes(compared):
    _, output, summary, failed = compared
    assert failed == 0
    assert list(summary["datasets"]) == ["procedural", "princeton"]
    for dataset in summary["datasets"].values():
        for mode in ("dense", "levelset"):
            assert tuple(dataset["modes"][mode]) == METHODS
            assert tuple(summary["fit_seconds"][mode]) == METHODS
        assert list(dataset["modes"]["partial"]) == ["metasdf", "autodecoder"]
    text = (output / "docs" / "compare_3d.md").read_text()
    assert all(LABELS[name] in text for name in METHODS)
    for picture in ("compare_3d_procedural.png", "compare_3d_princeton.png", "partial.png"):
        assert (output / "docs" / picture).stat().st_size > 10_000


def test_figures_are_those_of_the_evaluations(compared):
    _, output, summary, _ = compared
    row = summary["datasets"]["procedural"]["modes"]["levelset"]["autodecoder"]
    evaluation = output / "procedural" / "autodecoder_dense_0" / "levelset" / "evaluation.json"
    result = json.loads((output / "procedural" / "autodecoder_dense_0" / "result.json").read_text())
    assert row["measured"] + row["failed"] == 2
    assert row["parameters"] == result["parameters"]
    chamfers = [s["chamfer"] for s in result["modes"]["levelset"]["shapes"] if not s["error"]]
    if chamfers:
        assert row["chamfer_mean"]["mean"] == pytest.approx(sum(chamfers) / len(chamfers))
    else:  # how far moments of training get depends on the machine; this may be no surface at all
        assert row["chamfer_mean"] is None
        assert row["failed"] == 2
    assert not evaluation.exists()  # results are kept once, in result.json


def test_a_method_of_ones_own_gets_its_row_and_its_column(compared, tmp_path, monkeypatch):
    plan, output, _, _ = compared
    (tmp_path / "ball.py").write_text(OWN_METHOD)
    (tmp_path / "own.py").write_text(OWN_CURRICULUMS)
    monkeypatch.syspath_prepend(tmp_path)
    methods = choose_methods(["compare_metasdf", "mine"], tmp_path / "own.py")
    assert program.compare(plan, output, tmp_path, 2, methods=methods) == 0
    summary = json.loads((tmp_path / "compare_3d.json").read_text())
    modes = summary["datasets"]["procedural"]["modes"]
    assert list(modes) == ["dense", "levelset", "partial"]
    text = (tmp_path / "compare_3d.md").read_text()
    for mode, rows in modes.items():
        assert list(rows) == ["metasdf", "mine"]
        assert rows["mine"]["measured"] == 2  # a ball always has a surface
        assert rows["mine"]["parameters"] == 1
        assert (mode == "partial") or summary["fit_seconds"][mode]["mine"] > 0
        assert f"| mine | {1e3 * rows['mine']['chamfer_mean']['mean']:.2f} |" in text
    assert Image.open(tmp_path / "compare_3d_procedural.png").width == (1 + 2 * 2) * PIXELS
    assert Image.open(tmp_path / "partial.png").width == 4 * PIXELS


def test_methods_are_curriculums_of_3d_by_name(tmp_path):
    file = tmp_path / "own.py"
    file.write_text("metasdf = {}\nshort = {}\ncompare_set_concat = {'data_source': 'mine'}\n")
    methods = choose_methods(["compare_set_concat", "compare_metasdf", "planes_pe"], file)
    assert {name: method.label for name, method in methods.items()} == {
        "compare_set_concat": "compare_set_concat",  # that of the file
        "metasdf": "MetaSDF",
        "planes_pe": "planes_pe",
    }
    with pytest.raises(InputError, match="no curriculum 'shot'; did you mean short"):
        choose_methods(["shot"], file)
    with pytest.raises(InputError, match="cifar: is a curriculum of 2D"):
        choose_methods(["cifar"])
    with pytest.raises(InputError, match="another method is called metasdf"):
        choose_methods(["compare_metasdf", "metasdf"], file)


def sweep_and_run(plan, output, name):
    """The sweep over the default methods, and one of its runs."""
    methods = choose_methods(program.DEFAULT_METHODS)
    runs = program.all_runs(methods, ["procedural"], plan.seeds)
    sweep = program.comparison(plan, output, methods)
    return sweep, next(run for run in runs if run.name == name)


def test_what_is_finished_is_not_done_again_and_a_stopped_training_is(compared):
    plan, output, _, _ = compared
    sweep, run = sweep_and_run(plan, output, "procedural/metasdf_dense_0")
    folder = output / run.name
    checkpoint = folder / "checkpoints" / "latest.pth"
    before, weights = json.loads((folder / "result.json").read_text()), checkpoint.read_bytes()
    assert before["seconds"] >= plan.seconds
    assert sweep.result(run) == before
    (folder / "result.json").unlink()  # as if stopped while measuring: it is trained already
    assert sweep.result(run)["steps"] == before["steps"]
    assert checkpoint.read_bytes() == weights
    (folder / "result.json").unlink()
    (folder / "training.json").unlink()  # as if stopped while training
    checkpoint.write_bytes(b"of a training that was stopped")
    assert sweep.result(run)["steps"] > 0
    assert checkpoint.stat().st_size == len(weights)


def test_another_plan_starts_anew(compared):
    plan, output, _, _ = compared
    name = "procedural/set_concat_dense_0"
    sweep, run = sweep_and_run(replace(plan, resolution=12), output, name)
    before = (output / run.name / "result.json").read_text()
    assert sweep.result(run)["settings"]["curriculum"]["resolution"] == 12
    assert json.loads(before)["settings"]["curriculum"]["resolution"] == 16
