"""The comparison of all methods, in miniature."""

import json
from dataclasses import replace

import compare_3d as program
import pytest
from test_princeton import write_benchmark


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A comparison of a few shapes for moments, run once: its plan, folder and summary."""
    benchmark = tmp_path_factory.mktemp("benchmark")
    write_benchmark(benchmark)
    output = tmp_path_factory.mktemp("compare")
    small = (("hidden_features", 16), ("hidden_layers", 1), ("latent_features", 4))
    plan = program.Plan(1.0, 1, 4, 1, 3000, resolution=16, code_steps=3, keys=small)
    failed = program.compare(plan, output, output / "docs", processes=2, benchmark=benchmark)
    return plan, output, json.loads((output / "docs" / "compare_3d.json").read_text()), failed


def test_every_method_is_measured_in_both_modes(compared):
    _, output, summary, failed = compared
    assert failed == 0
    assert list(summary["datasets"]) == ["procedural", "princeton"]
    for dataset in summary["datasets"].values():
        for mode in ("dense", "levelset"):
            assert list(dataset["modes"][mode]) == list(program.METHODS)
            assert summary["fit_seconds"][mode].keys() == program.METHODS.keys()
        assert list(dataset["modes"]["partial"]) == ["metasdf", "autodecoder"]
    text = (output / "docs" / "compare_3d.md").read_text()
    assert all(name in text for name in program.METHODS.values())
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


def test_what_is_finished_is_not_done_again_and_a_stopped_training_is(compared):
    plan, output, _, _ = compared
    run = program.Run("procedural", "metasdf", "dense", 0)
    folder = output / run.name
    checkpoint = folder / "checkpoints" / "latest.pth"
    before, weights = json.loads((folder / "result.json").read_text()), checkpoint.read_bytes()
    assert before["seconds"] >= plan.seconds
    assert program.work(run, plan, output) == before
    (folder / "result.json").unlink()  # as if stopped while measuring: it is trained already
    assert program.work(run, plan, output)["steps"] == before["steps"]
    assert checkpoint.read_bytes() == weights
    (folder / "result.json").unlink()
    (folder / "training.json").unlink()  # as if stopped while training
    checkpoint.write_bytes(b"of a training that was stopped")
    assert program.work(run, plan, output)["steps"] > 0
    assert checkpoint.stat().st_size == len(weights)


def test_another_plan_starts_anew(compared):
    plan, output, _, _ = compared
    run = program.Run("procedural", "set_concat", "dense", 0)
    before = (output / run.name / "result.json").read_text()
    other = replace(plan, resolution=12)
    assert program.work(run, other, output)["settings"]["curriculum"]["resolution"] == 12
    assert json.loads(before)["settings"]["curriculum"]["resolution"] == 16
