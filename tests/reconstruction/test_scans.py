"""`metasdf reconstruct SCAN`, and a folder of scans, with a model file and no curriculum."""

import json
import os
import sys

import numpy as np
import pytest
import torch
import trimesh

from conftest import MESHED, sphere_curriculum
from metasdf.api import train
from metasdf.commands import main as program
from metasdf.geometry.grid import NoSurfaceError
from metasdf.learning.model_files import export_model
from metasdf.losses import DistanceLoss
from metasdf.method import Method
from metasdf.reconstruction import one_shape
from metasdf.reconstruction.one_shape import reconstruct

CENTRE, RADIUS = np.array([10.0, -20.0, 30.0]), 4.0


@pytest.fixture(scope="module")
def model(spheres, tmp_path_factory):
    """A model file of one that has seen spheres, with adapted weights and latents."""
    folder = tmp_path_factory.mktemp("model")
    settings = sphere_curriculum(
        *(spheres, folder), context_mode="dense", num_epochs=60, lr=2e-3, validate_every=60,
        adapted="both", latent_grids="2", network="siren", w0=3.0,
    )  # fmt: skip
    train(settings, device=torch.device("cpu"))
    file = folder / "spheres.pt"
    export_model(folder / "checkpoints" / "latest.pth", file, keys={"resolution": 32})
    return file


def run(*arguments, monkeypatch, capsys):
    """Exit code and output of the program, in this process."""
    monkeypatch.setattr(sys, "argv", ["metasdf", "reconstruct", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        program.entry()
    return caught.value.code or 0, *capsys.readouterr()


def scan(count=3000):
    """Points on a sphere, without normals."""
    points = np.random.default_rng(0).normal(size=(count, 3))
    return CENTRE + RADIUS * points / np.linalg.norm(points, axis=1, keepdims=True)


def test_a_scan_without_normals_becomes_a_mesh_where_the_user_stands(
    model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    np.savetxt("scan.xyz", scan())
    code, out, _ = run("scan.xyz", "--model", model, monkeypatch=monkeypatch, capsys=capsys)
    assert code in MESHED
    assert "normals: estimated from neighbours" in out
    assert "scan.xyz: points, 3000 points" in out
    mesh = trimesh.load_mesh("scan_reconstruction.ply")
    assert mesh.bounds.mean(axis=0) == pytest.approx(CENTRE, abs=0.2 * RADIUS)
    assert mesh.extents == pytest.approx(2 * RADIUS, rel=0.2)
    record = json.loads((tmp_path / "scan_reconstruction.ply.json").read_text())
    assert (record["normals"], record["context_mode"]) == ("estimated", "dense")
    assert record["checkpoint"] == str(model)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        *("scan.xyz", "scan_reconstruction.ply", "scan_reconstruction.ply.json")
    ]


def test_python_takes_a_models_file_and_says_where_normals_come_from(model):
    points = scan()
    normals = (points - CENTRE) / RADIUS
    with_normals = reconstruct(model, (points, normals), resolution=24)
    assert with_normals.record["normals"] == "input"
    without = reconstruct(str(model), points, resolution=24)
    assert (without.record["normals"], without.record["kind"]) == ("estimated", "points")
    volumes = [result.mesh.volume for result in (with_normals, without)]
    assert volumes[1] == pytest.approx(volumes[0], rel=0.02)
    signs = np.sign(without.field([CENTRE, CENTRE + 1.5 * RADIUS]))
    assert signs.tolist() == [-1, 1]


def test_a_folder_is_done_file_by_file_and_not_twice(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.xyz", "b.xyz"):
        np.savetxt(folder / name, scan())
    trimesh.PointCloud(scan()).export(folder / "b.ply")
    (folder / "bad.xyz").write_text("no numbers\n")
    (folder / "notes.txt").write_text("not a scan\n")
    arguments = ("scans", "--model", model, "--output", "out")
    code, out, error = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert error.count("failed: scans/bad.xyz: is not a table of numbers") == 1
    assert "reconstructed 3 of 4 shapes: out" in out
    made = {p.name for p in (tmp_path / "out").iterdir()}
    assert made == {n + e for n in ("a", "b_ply", "b_xyz") for e in (".ply", ".ply.json")}
    (folder / "bad.xyz").unlink()
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.ply")}
    code, out, _ = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code in MESHED
    assert "3 of them in an earlier run" in out
    assert before == {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.ply")}
    # Another setting, another folder or a changed scan is another mesh.
    later = (folder / "a.xyz").stat().st_mtime + 10
    os.utime(folder / "a.xyz", (later, later))
    _, out, _ = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert "2 of them in an earlier run" in out
    (tmp_path / "others").mkdir()
    np.savetxt(tmp_path / "others" / "a.xyz", scan() * 2)
    _, out, _ = run("others", *arguments[1:], monkeypatch=monkeypatch, capsys=capsys)
    assert "reconstructed 1 of 1" in out
    assert "earlier" not in out
    assert trimesh.load_mesh("out/a.ply").extents == pytest.approx(4 * RADIUS, rel=0.2)
    _, out, _ = run(*arguments, "--resolution", 24, monkeypatch=monkeypatch, capsys=capsys)
    assert "earlier" not in out


def test_one_bad_file_never_ends_a_run_and_names_never_collide(
    model, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "scans"
    folder.mkdir()
    for name in ("a.xyz", "z.xyz"):
        np.savetxt(folder / name, scan(500))
    for name in ("a.npz", "a_xyz.npz"):
        np.savez(folder / name, points=scan(500))
    (folder / "broken.xyz").symlink_to(folder / "nowhere.xyz")
    (folder / "._a.xyz").write_bytes(b"\0\1 of a Mac")
    (folder / "dir.ply").mkdir()
    arguments = ("scans", "--model", model, "--resolution", 24, "--refine", 0)
    code, out, error = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
    assert code == 1
    assert "reconstructed 4 of 5 shapes: reconstructions" in out
    assert error.count("failed: ") == 1
    assert "broken.xyz" in error
    names = {p.name for p in (tmp_path / "reconstructions").glob("*.ply")}
    assert names == {"a.xyz.ply", "a_npz.ply", "a_xyz.npz.ply", "z.ply"}


def test_bad_calls_are_one_line_and_exit_code_2(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savetxt("scan.xyz", scan())
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        (("nowhere.ply",), "nowhere.ply: there is no such file or folder"),
        (("tables_tiny",), "tables_tiny: is a curriculum, and goes with --checkpoint"),
        (("tables_tiny", "--input", "scan.xyz"), "--input goes with a curriculum and --checkpoint"),
        (("empty", "--model", model, "--output", "scan.xyz"), "holds no file"),
        ((".", "--model", model, "--output", "scan.xyz"), "scan.xyz: cannot be made"),
        (("scan.xyz", "--model", "generl"), "generl: no such checkpoint or model"),
        (("scan.xyz", "--model", model, "--trajectories", 1), "--trajectories does not go with"),
        (("scan.xyz", "--model", model, "--w0", 7), "was trained with 3.0"),
        (("tables_tiny", "--checkpoint", "x", "--model", "y"), "--model goes without --checkpoint"),
        (("empty", "--model", model), "empty: holds no file that ends in"),
        ((".", "--model", model, "--output", "."), "is the folder of the inputs"),
        ((".", "--model", model, "--normalization", "n.npz"), "--normalization does not go with"),
    ):
        code, _, error = run(*arguments, monkeypatch=monkeypatch, capsys=capsys)
        assert (code, error.count("\n")) == (2, 1), error
        assert message in error
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "scan.xyz"]


def test_the_axis_that_points_up_is_taken_on_the_command_line(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.savetxt("scan.xyz", scan())
    call = ("scan.xyz", "--model", model, "--output", "out.ply", "--refine", 0)
    code, _, _ = run(*call, "--up", "-z", monkeypatch=monkeypatch, capsys=capsys)
    assert code in MESHED
    assert json.loads((tmp_path / "out.ply.json").read_text())["up"] == "-z"
    assert trimesh.load_mesh("out.ply").bounds.mean(axis=0) == pytest.approx(CENTRE, abs=1)
    code, _, err = run(*call, "--up", "w", monkeypatch=monkeypatch, capsys=capsys)
    assert code == 2
    assert "up: 'w' is unknown" in err


class Ball(Method):
    """A ball about the origin, of the context's mean radius times `times`."""

    num_steps, loss = 1, DistanceLoss()

    def __init__(self, times, mode, fallback=None):
        super().__init__()
        self.times, self.card = times, {"fallback": fallback} if fallback else {}
        self.curriculum = {"context_mode": mode}

    def adapt(self, context, num_steps=None):
        x, y = context
        return self.times * (x.norm(dim=-1, keepdim=True) - y).mean()

    def predict(self, x, fields):
        return x.norm(dim=-1, keepdim=True) - fields


@pytest.mark.parametrize(
    ("first", "second", "normals", "taken"),
    [
        (0.6, 1.0, False, True),
        (1.0, 1.0, False, False),  # to be trusted as it is
        (0.6, 1.0, True, False),  # the input's own normals are not what is wrong
        (0.6, 0.6, False, False),  # no better
    ],
)
def test_where_estimated_normals_are_not_to_be_trusted_points_alone_are_tried(
    first, second, normals, taken, monkeypatch
):
    loaded = []

    def load(name):
        loaded.append(name)
        return Ball(second, "levelset")

    monkeypatch.setattr(one_shape, "load_model", load)
    points = scan()
    outward = (points - CENTRE) / RADIUS
    shape = (points, outward) if normals else points
    result = reconstruct(Ball(first, "dense", "other"), shape, resolution=24)
    assert result.record.get("fallback") == ("other" if taken else None)
    assert loaded == (["other"] if first == 0.6 and not normals else [])
    attempt = result.record.get("first_attempt")
    assert (attempt is not None and attempt["context_mode"] == "dense") == taken
    times = second if taken else first
    assert result.mesh.extents == pytest.approx(2 * RADIUS * times, rel=0.05)
    assert result.record["context_mode"] == ("levelset" if taken else "dense")
    assert result.record["trusted"] is (times == 1.0)


def test_a_fallback_that_fails_costs_nothing_and_one_that_succeeds_saves(monkeypatch):
    monkeypatch.setattr(one_shape, "load_model", lambda name: Ball(9.0, "levelset"))
    kept = reconstruct(Ball(0.6, "dense", "no surface in the cube"), scan(), resolution=24)
    assert kept.record["trusted"] is False
    assert "fallback" not in kept.record
    monkeypatch.setattr(one_shape, "load_model", lambda name: Ball(1.0, "levelset"))
    saved = reconstruct(Ball(9.0, "dense", "other"), scan(), resolution=24)
    assert (saved.record["fallback"], saved.record["first_attempt"]) == ("other", None)
    monkeypatch.setattr(one_shape, "load_model", lambda name: Ball(9.0, "levelset"))
    with pytest.raises(NoSurfaceError):
        reconstruct(Ball(9.0, "dense", "other"), scan(), resolution=24)
