"""The comparison with Screened Poisson: scans, measures, tables and the picture.

pymeshlab is not installed with the project; the convex hull stands in for its surfaces.
"""

import sys
import types

import numpy as np
import pytest
import torch
import trimesh

from conftest import sphere_curriculum
from experiments import scans
from metasdf.api import train
from metasdf.files import read_json
from metasdf.learning.model_files import export_model


def test_points_lie_on_the_surface_but_for_their_noise():
    for noise in (0.0, 0.02):
        scan = scans.Scan("x", "chairs", 1, 800, noise, True)
        mesh, points, normals = scans.scan_points(scan)
        assert points.shape == normals.shape == (800, 3)
        distance = np.abs(trimesh.proximity.signed_distance(mesh, points))
        assert distance.mean() == pytest.approx(0.8 * noise, rel=0.2, abs=1e-6)
    given = scans.scan_points(scan._replace(noise=0.0))[2]
    estimated = scans.scan_points(scan._replace(noise=0.0, normals=False))[2]
    assert 0.55 < ((given * estimated).sum(axis=1) > 0).mean() < 1


def test_the_command_measures_every_cell_once(spheres, tmp_path, monkeypatch):
    settings = sphere_curriculum(spheres, tmp_path, context_mode="dense", num_epochs=2)
    train(settings, device=torch.device("cpu"))
    model = tmp_path / "model.pt"
    export_model(tmp_path / "checkpoints" / "latest.pth", model)
    monkeypatch.setitem(sys.modules, "pymeshlab", types.ModuleType("pymeshlab"))
    hull = lambda points, normals: trimesh.convex.convex_hull(points)  # noqa: E731
    monkeypatch.setattr(scans, "poisson", hull)
    monkeypatch.setattr(scans, "REFINE", 0.0)
    monkeypatch.setattr(  # in this process, where they are replaced
        *(scans, "side_by_side"), lambda work, jobs, _: ({n: work(j) for n, j in jobs.items()}, 0)
    )
    output, docs = tmp_path / "out", tmp_path / "docs"
    command = ["scans", "--quick", "--models", str(model), "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*command, "--docs", str(docs)])
    assert scans.main() == 0
    rows = read_json(docs / "scans.json")["rows"]
    assert len(rows) == 2 * len(scans.CLASSES) * len(scans.NOISES) * 2
    assert all(row["chamfer"] > 0 and row["shapes"] == 1 for row in rows)
    page = (docs / "scans.md").read_text()
    assert page.count("| tables | 500 |") == 4
    assert (docs / "scans.png").stat().st_size > 10_000
    times = {file: file.stat().st_mtime_ns for file in output.rglob("*.json")}
    assert scans.main() == 0
    assert times == {file: file.stat().st_mtime_ns for file in output.rglob("*.json")} != {}
