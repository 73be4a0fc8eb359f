"""Sweeps: training for a given time, and runs side by side."""

import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from conftest import ROOT
from experiments import sweep
from metasdf.errors import InputError
from metasdf.learning import loop
from metasdf.learning.checkpoints import load_checkpoint
from metasdf.learning.curriculum import load_curriculum
from metasdf.learning.gradients import MetaGradients
from metasdf.learning.loop import DivergedError
from metasdf.learning.model_files import load_model
from metasdf.learning.training import untrained
from metasdf.maml import MetaSDF


@pytest.fixture
def digits(tmp_path):
    """A curriculum of small networks on a few embedded digits."""
    keys = {
        "data_source": "embedded",
        "train_images": 24,
        "images_per_epoch": 12,
        "ScenesPerBatch": 4,
        "hidden_features": 8,
        "latent_features": 4,
        "output_dir": str(tmp_path),
    }
    return load_curriculum("digits_metasdf", keys)


def steps_taken(monkeypatch, tick):
    """Every step takes `tick` seconds of the clock, and drawing none; its lr is written down."""
    clock, seen = [0.0], []
    outer_step = loop.outer_step

    def step(gradients, optimizer, batch, *rest):
        clock[0] += tick
        seen.append(optimizer.param_groups[0]["lr"])
        return outer_step(gradients, optimizer, batch, *rest)

    monkeypatch.setattr(loop, "outer_step", step)
    monkeypatch.setattr(sweep.time, "process_time", lambda: clock[0])
    return seen


def test_lr_falls_after_four_fifths_of_the_time(digits, monkeypatch):
    seen = steps_taken(monkeypatch, 0.5)
    digits |= {"lr_schedule": "steps", "lr_decay_factor": 0.2}
    done = sweep.train_for(digits, 10.0)
    lr, late = digits["lr"], digits["lr"] * digits["lr_decay_factor"]
    assert seen == [lr] * 16 + [late] * 4
    assert done == {"seconds": 10.0, "epochs": 7, "steps": 20}


def test_lr_falls_along_a_cosine_of_the_time(digits, monkeypatch):
    seen = steps_taken(monkeypatch, 1.0)
    sweep.train_for({**digits, "lr_schedule": "cosine"}, 4.0)
    half = 0.5**0.5
    assert [lr / digits["lr"] for lr in seen] == pytest.approx(
        [1.0, (1 + half) / 2, 0.5, (1 - half) / 2]
    )


def test_compiling_takes_no_time_of_the_training_and_changes_nothing(digits, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    compiled = []
    gradients = MetaGradients._compiled

    def counted(self, *arguments):
        compiled.append(len(seen))
        if self._program is None:
            clock = sweep.time.process_time
            monkeypatch.setattr(sweep.time, "process_time", lambda: clock() + 100.0)
        return gradients(self, *arguments)

    monkeypatch.setattr(MetaGradients, "_compiled", counted)
    weights = []
    for compile_ in (False, True):
        seen = steps_taken(monkeypatch, 1.0)
        done = sweep.train_for({**digits, "compile": compile_}, 2.0)
        assert done["steps"] == len(seen) == 2
        model = load_model(sweep.latest_checkpoint(digits))
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert compiled == [0, 1, 2]  # first before the clock runs
    assert torch.allclose(*weights, rtol=0, atol=1e-5)


def test_nothing_is_fitted_but_for_the_steps(digits, monkeypatch):
    adapt, modes = MetaSDF.adapt, []

    def counted(self, *arguments):
        modes.append(self.training)
        return adapt(self, *arguments)

    monkeypatch.setattr(MetaSDF, "adapt", counted)
    steps_taken(monkeypatch, 1.0)
    sweep.train_for(digits, 2.0)
    assert modes == [True, True]


def test_the_checkpoint_holds_what_was_trained(digits, monkeypatch):
    steps_taken(monkeypatch, 1.0)
    sweep.train_for(digits, 4.0)
    file = sweep.latest_checkpoint(digits)
    state = load_checkpoint(file)
    assert state["epoch"] == state["curriculum"]["num_epochs"] == 2
    torch.manual_seed(digits["seed"])
    initial = untrained(digits, 24, torch.device("cpu"))[0]
    trained = load_model(file)
    assert any(
        not torch.equal(a, b)
        for a, b in zip(trained.parameters(), initial.parameters(), strict=True)
    )


def test_a_diverged_training_says_so(digits, monkeypatch):
    diverged = torch.tensor(math.nan), torch.tensor(0.0), False
    monkeypatch.setattr(loop, "outer_step", lambda *_: diverged)
    with pytest.raises(DivergedError, match="lower init_lr or lr"):
        sweep.train_for(digits, 5.0)


PARENT = """
import os, sys, time
from pathlib import Path
from experiments import sweep

def work(run):
    Path(sys.argv[1], str(run)).write_text(str(os.getpid()))
    time.sleep(600)

if __name__ == "__main__":
    sweep.side_by_side(work, {"first": 0, "second": 1}, 1)
"""


def test_runs_end_with_the_program_that_started_them(tmp_path):
    script, first = tmp_path / "parent.py", tmp_path / "0"
    script.write_text(PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, script, tmp_path], env=environment) as parent:
        wait_until(lambda: first.exists() and first.read_text())
        parent.kill()
    worker = int(first.read_text())
    wait_until(lambda: not is_running(worker))
    assert not (tmp_path / "1").exists()


def job(name):
    """A job of a sweep: one gives a result, one raises, one takes its process down."""
    if name == "raises":
        raise ValueError("no good")
    if name == "is refused":
        raise InputError("another key, please")
    if name == "dies":
        os._exit(1)
    return name.upper()


def test_failures_are_told_and_counted_and_the_other_results_kept(capsys):
    names = ["dies", "raises", "works", "is refused"]
    results, failed = sweep.side_by_side(job, {name: name for name in names}, 2)
    assert results == {"works": "WORKS"}
    assert failed == 3
    lines = set(capsys.readouterr().out.splitlines())
    assert lines == {
        "done: works",
        "failed: raises: ValueError('no good')",
        "failed: is refused: another key, please",
        f"failed: dies: {sweep.WORKER_DIED}",
    }


def is_running(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # Ended, but with nobody to take note of it.
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def wait_until(met):
    deadline = time.monotonic() + 120
    while not met():
        assert time.monotonic() < deadline
        time.sleep(0.05)
