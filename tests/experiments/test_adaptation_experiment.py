"""What steps, seconds and held-out points are worth: tables and page."""

import sys

import pytest

from conftest import sphere_curriculum
from experiments import adaptation
from metasdf.api import train
from metasdf.errors import InputError
from metasdf.files import read_json


def test_steps_refinement_and_trust_are_measured(spheres, tmp_path, monkeypatch):
    keys = {"network": "siren", "w0": 5.0, "training_mode": "multitask", "num_epochs": 40}
    checkpoint = train(sphere_curriculum(spheres, tmp_path, **keys), device="cpu").checkpoint
    run = f"{checkpoint}:dense:{spheres}:{spheres / 'test.json'}"
    monkeypatch.setattr(adaptation, "SECONDS", (0, 0.5))
    monkeypatch.setattr(adaptation, "STEPS", (5, "auto"))
    arguments = (f"spheres={run}", f"spheres={run}", "--quick", "--processes", 1)
    arguments += ("--output", tmp_path / "out", "--docs", tmp_path / "docs")
    monkeypatch.setattr(sys, "argv", ["adaptation", *map(str, arguments)])
    assert adaptation.main() == 0
    figures = read_json(tmp_path / "docs" / "adaptation.json")
    assert figures["trust"]["reconstructions"] > 4
    assert -1 <= figures["trust"]["rank_correlation"] <= 1
    assert len(figures["jobs"]) == 2 * 2 + 2
    page = (tmp_path / "docs" / "adaptation.md").read_text()
    assert "| spheres, F-score |" in page
    assert "| 0.5 |" in page
    before = (tmp_path / "docs" / "adaptation.json").read_text()
    assert adaptation.main() == 0  # from what is kept
    assert (tmp_path / "docs" / "adaptation.json").read_text() == before


def test_a_run_that_is_no_run_is_refused():
    with pytest.raises(InputError, match="is not NAME=CHECKPOINT"):
        adaptation.ModelRun.parse("checkpoint.pth")
