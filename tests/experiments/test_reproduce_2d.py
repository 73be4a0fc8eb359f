"""experiments/reproduce_2d.py in miniature, on the embedded digits."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments import reproduce_2d

PLAN = reproduce_2d.Plan(
    seconds=0.8,  # enough for four steps of a CNN encoder, on a busy machine too
    seeds=1,
    test_images=6,
    fitted_codes=3,
    code_steps=3,
    compiled=False,
    keys=(("hidden_features", 16), ("latent_features", 8), ("images_per_epoch", 16)),
)


@pytest.mark.slow
def test_every_method_is_trained_measured_and_pictured(tmp_path, capsys):
    assert reproduce_2d.compare(PLAN, tmp_path / "out", tmp_path / "docs", "embedded") == 0
    summary = json.loads((tmp_path / "docs" / "reproduce_2d.json").read_text())
    for mode in ("dense", "levelset"):
        assert list(summary["modes"][mode]) == list(reproduce_2d.METHODS)
        for row in summary["modes"][mode].values():
            assert row["training_steps"] > 3
            for part in ("test", "rotated", "double", "triple"):
                # Moments of training: not yet a good field, but one with distances.
                assert 0 < row["parts"][part]["absolute_error"]["mean"] < 640
    for name in ("dense", "levelset", "steps"):
        picture = Image.open(tmp_path / "docs" / f"reproduce_2d_{name}.png")
        assert picture.width == reproduce_2d.PAGE_WIDTH
        assert np.std(np.asarray(picture.convert("RGB"))) > 10
    fits = summary["fit_seconds"]["dense"]
    assert set(fits) == set(reproduce_2d.METHODS)
    assert (tmp_path / "docs" / "reproduce_2d.md").read_text() in capsys.readouterr().out

    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.json")}
    assert len(before) == 2 * len(reproduce_2d.all_runs(seeds=1))
    reproduce_2d.compare(PLAN, tmp_path / "out", tmp_path / "docs", "embedded")
    assert before == {file: file.stat().st_mtime_ns for file in before}


def test_an_auto_decoder_is_trained_once_for_both_modes():
    runs = {run.name: run for run in reproduce_2d.all_runs(seeds=1)}
    assert len(runs) == len(reproduce_2d.all_runs(seeds=1)) == 2 * len(reproduce_2d.METHODS) - 2
    assert "autodecoder_hyper_levelset_0" not in runs
    assert runs["autodecoder_hyper_dense_0"].measured_modes == ("dense", "levelset")
    assert runs["metasdf_levelset_0"].measured_modes == ("levelset",)
