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
from metasdf.learning.model_files import export_model, load_model


def test_points_lie_on_the_surface_but_for_their_noise():
    for condition in scans.CONDITIONS[:3]:
        scan = scans.Scan("x", "chairs", 1, 800, condition)
        mesh, points, normals = scans.scan_points(scan)
        assert points.shape == normals.shape == (800, 3)
        distance = np.abs(trimesh.proximity.signed_distance(mesh, points))
        assert distance.mean() == pytest.approx(0.8 * condition.noise, rel=0.2, abs=1e-6)
    scan = scans.Scan("x", "chairs", 1, 800, scans.Condition("normals"))
    given = scans.scan_points(scan)[2]
    estimated = scans.scan_points(scan._replace(condition=scans.Condition("no", normals=False)))[2]
    assert 0.55 < ((given * estimated).sum(axis=1) > 0).mean() < 1


def test_what_is_seen_from_one_side_lies_on_it_and_its_normals_face_it():
    scan = scans.Scan("x", "tables", 2, 600, scans.Condition("one side", one_sided=True))
    mesh, points, normals = scans.scan_points(scan)
    assert np.abs(trimesh.proximity.signed_distance(mesh, points)).max() < 1e-6
    towards = normals.mean(axis=0)
    assert np.linalg.norm(towards) > 0.3
    assert ((normals @ towards) > -0.2).mean() > 0.9


def test_each_scan_has_the_model_that_is_meant(monkeypatch):
    names = ["general", "tables", "tables_partial"]
    monkeypatch.setattr(scans, "shipped_models", lambda: names)
    whole, seen = scans.CONDITIONS[0], scans.CONDITIONS[-1]

    def model(method, shape_class, condition):
        return scans.Scan(method, shape_class, 0, 500, condition).model

    assert model(scans.POISSON, "tables", whole) is None
    assert model("general", "tables", whole) == "general"
    assert model("general", "chairs", seen) is None
    assert model("of its class", "tables", whole) == "tables"
    assert model("of its class", "tables", seen) == "tables_partial"
    assert model("general_levelset", "chairs", whole) is None
    assert model("of its class", "general", whole) is None


def test_the_command_measures_every_cell_once(spheres, tmp_path, monkeypatch):
    settings = sphere_curriculum(spheres, tmp_path, context_mode="dense", num_epochs=2)
    train(settings, device=torch.device("cpu"))
    model = tmp_path / "model.pt"
    export_model(tmp_path / "checkpoints" / "latest.pth", model)
    monkeypatch.setitem(sys.modules, "pymeshlab", types.ModuleType("pymeshlab"))
    hull = lambda points, normals: trimesh.convex.convex_hull(points)  # noqa: E731
    monkeypatch.setattr(scans, "poisson", hull)
    monkeypatch.setattr(scans, "REFINE", 0.0)
    monkeypatch.setattr(scans, "shipped_models", lambda: ["general", "tables", "tables_partial"])
    monkeypatch.setattr(scans, "model", lambda name: load_model(model))
    monkeypatch.setattr(  # in this process, where they are replaced
        *(scans, "side_by_side"), lambda work, jobs, _: ({n: work(j) for n, j in jobs.items()}, 0)
    )
    output, docs = tmp_path / "out", tmp_path / "docs"
    command = ["scans", "--quick", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*command, "--docs", str(docs)])
    assert scans.main() == 0
    rows = read_json(docs / "scans.json")["rows"]
    classes, conditions = len(scans.CLASSES), len(scans.CONDITIONS)
    assert len(rows) == classes * conditions + classes * (conditions - 1) + conditions
    assert all(row["chamfer"] > 0 and row["shapes"] == 1 for row in rows)
    page = (docs / "scans.md").read_text()
    assert page.count("| tables | 500 |") == len(scans.CONDITIONS)
    assert (docs / "scans.png").stat().st_size > 10_000
    (next(output.rglob("*_general_*.json"))).unlink()
    monkeypatch.setattr(sys, "argv", [*command, "--docs", str(tmp_path / "fewer"), "--kept"])
    assert scans.main() == 0
    assert len(read_json(tmp_path / "fewer" / "scans.json")["rows"]) == len(rows) - 1
    monkeypatch.setattr(sys, "argv", [*command, "--docs", str(docs)])
    assert scans.main() == 0
    times = {file: file.stat().st_mtime_ns for file in output.rglob("*.json")}
    assert scans.main() == 0
    assert times == {file: file.stat().st_mtime_ns for file in output.rglob("*.json")} != {}
