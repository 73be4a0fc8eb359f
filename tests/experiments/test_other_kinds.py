"""How models do on other kinds of shapes: holes capped, measures true, every cell in the tables."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import trimesh

from conftest import sphere_curriculum
from experiments import other_kinds
from metasdf.api import train
from metasdf.errors import InputError
from metasdf.files import read_json
from metasdf.geometry.mesh import closedness
from metasdf.learning.model_files import load_model


def test_each_hole_is_capped_and_nothing_else_changes():
    ball = trimesh.creation.icosphere(3)
    up = ball.triangles_center[:, 2]
    open_ball = trimesh.Trimesh(ball.vertices, ball.faces[np.abs(up) < 0.8], process=False)
    assert closedness(open_ball).open_edges > 0
    whole = other_kinds.capped(open_ball)
    assert closedness(whole).watertight
    assert 0.8 * ball.volume < whole.volume < ball.volume
    np.testing.assert_array_equal(whole.faces[: len(open_ball.faces)], open_ball.faces)
    assert len(other_kinds.capped(ball).faces) == len(ball.faces)


def test_a_scan_is_measured_in_shares_of_the_radius(monkeypatch):
    """Of a ball that comes back a hundredth too large, both ways, whatever its rotation."""
    mesh = other_kinds.normalise(trimesh.creation.icosphere(4))

    def larger(model, points, **_):
        result = trimesh.Trimesh(1.01 * mesh.vertices, mesh.faces, process=False)
        return SimpleNamespace(mesh=result, record={"trusted": True})

    monkeypatch.setattr(other_kinds, "model", lambda name: None)
    monkeypatch.setattr(other_kinds, "reconstruct", larger)
    way = other_kinds.Way("x", 500, rotation=3)
    measures = other_kinds.scan_measures(mesh, way)
    assert measures["truth_to_mesh"] == pytest.approx(1, abs=0.1)
    assert measures["mesh_to_truth"] == pytest.approx(1, abs=0.1)
    assert measures["pieces"] == 1


def test_the_command_fills_every_cell_once(spheres, tmp_path, monkeypatch):
    settings = sphere_curriculum(spheres, tmp_path, context_mode="dense", num_epochs=2)
    train(settings, device=torch.device("cpu"))
    trained = load_model(tmp_path / "checkpoints" / "latest.pth")
    monkeypatch.setattr(other_kinds, "model", lambda name: trained)
    monkeypatch.setattr(other_kinds, "RESOLUTION", 24)
    monkeypatch.setattr(other_kinds, "SURFACE_POINTS", 1000)
    monkeypatch.setattr(
        *(other_kinds, "side_by_side"),
        lambda work, jobs, _: ({name: work(job) for name, job in jobs.items()}, 0),
    )
    ball = trimesh.creation.icosphere(3)
    for name in other_kinds.SINGLE:
        (tmp_path / "single").mkdir(exist_ok=True)
        ball.export(tmp_path / "single" / f"{name}.obj")
    for kind, place in other_kinds.BENCHMARK.items():
        folder = tmp_path / "psb" / place
        folder.mkdir(parents=True)
        ball.export(folder / f"{kind}.off")
        trimesh.Trimesh(ball.vertices, ball.faces[1:]).export(folder / f"{kind}_open.off")
    ways = (other_kinds.Way("general", steps=2), other_kinds.Way("general", 300, 2, rotation=0))
    for name, chosen in (("DENSE", ways[:1]), ("POINTS", ways[1:]), ("ON_BENCHMARK", ways[:1])):
        monkeypatch.setattr(other_kinds, name, chosen)
    command = ["other_kinds", str(tmp_path), "--benchmark", "--output", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", [*command, "--docs", str(tmp_path / "docs")])
    assert other_kinds.main() == 0
    rows = read_json(tmp_path / "docs" / "other_kinds.json")["rows"]
    assert len(rows) == 3 * 2 + 3
    assert not any("error" in row for row in rows)
    assert {row["shape"] for row in rows} == {*other_kinds.SINGLE, *other_kinds.BENCHMARK}
    page = (tmp_path / "docs" / "other_kinds.md").read_text()
    assert page.count("| general | 2 |") == 4
    assert page.count("| 300 | general |") == 3
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*.json")}
    assert other_kinds.main() == 0
    assert files == {f: f.stat().st_mtime_ns for f in (tmp_path / "out").rglob("*.json")}


def test_a_folder_without_the_shapes_is_told(tmp_path):
    with pytest.raises(InputError, match=r"spot\.obj"):
        other_kinds.all_jobs(tmp_path, benchmark=False)
