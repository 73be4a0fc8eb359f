"""The program that measures speed measures, and its page says what it measured."""

import json
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch

from benchmarks import speed
from conftest import sphere_curriculum
from metasdf.errors import InputError

CPU = torch.device("cpu")
SECTIONS = ("mesh", "step", "ideas", "memory", "data", "adapt", "growth")
KEYS = (
    *("data_source", "train_split", "val_split", "SDFSamplesPerScene", "ScenesPerBatch"),
    *("hidden_layers", "hidden_features"),
)


def run(monkeypatch, folder, *arguments):
    options = ["--quick", "--results", str(folder / "results.json"), "--docs", str(folder)]
    monkeypatch.setattr(sys, "argv", ["speed.py", *options, *arguments])
    assert speed.main() == 0
    return json.loads((folder / "results.json").read_text())["sections"]


def test_every_section_gives_rows_and_a_page(monkeypatch, tmp_path):
    short = {name: (label, values[:2]) for name, (label, values) in speed.GROWTH.items()}
    monkeypatch.setattr(speed, "GROWTH", short)
    small = {"hidden_features": 8, "hidden_layers": 1, "num_meta_steps": 1}
    monkeypatch.setattr(speed, "QUICK", replace(speed.QUICK, keys=tuple(small.items())))
    found = run(monkeypatch, tmp_path, "--only", *SECTIONS)
    assert found.keys() == set(SECTIONS)
    for name in SECTIONS[:-1]:
        for row in found[name]["rows"]:
            assert row["ratio"] == pytest.approx(row["theirs"] / row["ours"])
            assert row["theirs"] > 0
    page = (tmp_path / "performance.md").read_text()
    for text in ("## Meshing", "mesh, 48^3", "Not measured yet"):
        assert text in page
    for name in speed.GROWTH:
        assert len(found["growth"][name]["seconds"]) == len(speed.GROWTH[name][1])
    assert (tmp_path / "growth.png").stat().st_size > 10_000


def test_what_was_measured_before_is_kept(monkeypatch, tmp_path):
    first = run(monkeypatch, tmp_path, "--only", "data")
    then = run(monkeypatch, tmp_path, "--only", "adapt", "gpu")
    assert then["data"] == first["data"]
    assert "adapt" in then
    page = (tmp_path / "performance.md").read_text()
    assert "batch of 32 scenes" in page
    assert "fit one shape" in page


def test_the_plain_loop_computes_the_same():
    """What a step is timed against must do the same work."""
    plan = replace(speed.QUICK, samples=80)
    batch, model = speed.scene(plan, 2, plan.samples), speed.paper_model(plan)
    gradients = []
    for take in (
        lambda: speed.accumulate(speed.MetaGradients(model), batch, None),
        lambda: speed.plain_loop(model, batch).backward(),
    ):
        model.zero_grad()
        take()
        gradients.append(torch.cat([p.grad.flatten() for p in model.step_sizes.parameters()]))
    assert torch.allclose(*gradients, rtol=1e-3, atol=1e-6)


def test_curves_of_learning_are_of_training_time_and_compared(monkeypatch, spheres, tmp_path):
    tiny = sphere_curriculum(spheres, tmp_path)
    plan = replace(speed.QUICK, keys=tuple((key, tiny[key]) for key in KEYS))
    found = speed.quality(plan)
    assert found["curves"].keys() == speed.RECIPES.keys()
    for curve in found["curves"].values():
        assert curve["seconds"] == sorted(curve["seconds"])
        assert len(curve["seconds"]) == len(curve["error"]) > 0
    speed.draw_quality(tmp_path / "quality.png", found)
    assert (tmp_path / "quality.png").stat().st_size > 10_000


def test_the_time_to_quality_is_when_each_first_stays_as_good(monkeypatch):
    curves = {
        "fast": {"seconds": [1, 2, 3, 4], "error": [9, 2, 5, 5]},  # the 2 is luck
        "slow": {"seconds": [10, 20, 30, 40], "error": [9, 7, 7, 7]},
        "better": {"seconds": [10, 20, 30, 40], "error": [1, 1, 1, 1]},
    }
    monkeypatch.setattr(speed, "FAST", "fast")
    monkeypatch.setattr(speed, "RECIPES", {name: name for name in curves})
    monkeypatch.setattr(speed, "processes", OneProcess)
    monkeypatch.setattr(speed, "learned", lambda name, plan: curves[name])
    slow, better = speed.quality(speed.QUICK)["rows"]
    assert (slow["theirs"], slow["ours"]) == (30, 2)
    assert slow["ratio"] == 15
    assert (better["theirs"], better["ours"]) == (10, 3)  # what fast ends with
    assert "the recipe ends with less, 1.0 %" in speed.table_row(better)


class OneProcess:
    def __enter__(self):
        return self

    def __exit__(self, *_): ...

    map = staticmethod(map)


def allocate(megabytes):
    return float(torch.ones(megabytes * 2**18).sum())


def test_peaks_are_of_the_work_alone():
    allocate(1000)
    _, small = speed.peak_of(partial(allocate, 1))
    _, large = speed.peak_of(partial(allocate, 600))
    assert large - small == pytest.approx(0.6, abs=0.15)


def test_the_rows_of_a_gpu_compare_gradients(monkeypatch):
    """On the CPU, as there it is the same program."""
    plan = replace(speed.QUICK, hidden_features=16, hidden_layers=1, samples=64)
    ways = {how: speed.GPU_WAYS[how] for how in ("float32", "bfloat16")}
    monkeypatch.setattr(speed, "GPU_WAYS", ways)
    (row,) = speed.on_gpu(plan, CPU)
    assert "bfloat16" in row["what"]
    assert "differs by" in row["note"]


def test_an_unknown_section_is_an_error(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["speed.py", "--only", "meshing"])
    with pytest.raises(InputError, match="--only meshing: choose of mesh, step"):
        speed.main()
