"""experiments/photographs.py in miniature, on the embedded photographs."""

import json

import pytest

from experiments import photographs as program


@pytest.mark.slow
def test_settings_are_compared_and_pictured(tmp_path, capsys):
    keys = (("hidden_features", 16), ("images_per_epoch", 16), ("image_size", 8))
    plan = program.Plan(seconds=0.3, test_images=3, keys=keys)
    docs = tmp_path / "docs"
    assert program.compare(plan, tmp_path / "out", docs, "embedded") == 0
    summary = json.loads((docs / "photographs.json").read_text())
    assert list(summary["runs"]) == list(program.LABELS)
    for run in summary["runs"].values():
        assert len(run["psnr_by_step"]) == 4
        assert run["psnr_by_step"][-1] == pytest.approx(run["psnr"]["mean"])
        assert run["images"] == 3
        assert run["steps"] >= 3
    assert (
        summary["runs"]["cifar"]["psnr_by_step"][-1] > summary["runs"]["cifar"]["psnr_by_step"][0]
    )
    text = (docs / "photographs.md").read_text()
    assert text in capsys.readouterr().out
    assert "step 3" in text
    assert (docs / "photographs.png").stat().st_size > 1000
