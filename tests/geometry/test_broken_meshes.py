"""Broken mesh files: each has a clear outcome, and none stops a run or leaves half a file."""

import json
import os
import re
import struct
import time

import numpy as np
import pytest
import trimesh

from conftest import run_script, shared
from metasdf.data.formats import read_points
from metasdf.data.names import SUFFIXES
from metasdf.geometry.mesh_files import MESH_SUFFIXES
from metasdf.preparation.discover import find_meshes
from metasdf.preparation.preprocessor import Settings, preprocess_mesh

SMALL = Settings(outputs=tuple(SUFFIXES), num_samples=2000, num_surface=100, num_partial=100)

TETRAHEDRON = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 2 3\nf 1 4 2\nf 2 4 3\nf 3 4 1\n"


def export(mesh, kind):
    data = mesh.export(file_type=kind)
    return data.encode() if isinstance(data, str) else data


def binary_stl(count, triangles):
    return b"\0" * 80 + struct.pack("<I", count) + triangles


def scene():
    bodies = trimesh.Scene([trimesh.creation.box(), trimesh.creation.icosphere(1)])
    bodies.add_geometry(
        trimesh.creation.cylinder(0.2, 1),
        transform=trimesh.transformations.translation_matrix([3, 0, 0]),
    )
    return bodies.export(file_type="glb")


def scaled(factor, shift=0.0):
    box = trimesh.creation.box()
    lines = [f"v {x!r} {y!r} {z!r}" for x, y, z in (box.vertices * factor + shift).tolist()]
    lines += ["f {} {} {}".format(*face) for face in box.faces + 1]
    return "\n".join(lines)


BALL = trimesh.creation.icosphere(2)
CASES = {
    # name: (content, None where it is sampled or what the reason for rejection says)
    "empty.obj": (b"", "no faces|cannot be read"),
    "empty.ply": (b"", "cannot be read"),
    "empty.stl": (b"", "no faces|cannot be read"),
    "empty.off": (b"", "cannot be read"),
    "empty.glb": (b"", "cannot be read"),
    "nan.obj": (TETRAHEDRON.replace("v 1 0 0", "v nan 0 0"), "not finite"),
    "infinite.obj": (TETRAHEDRON.replace("v 1 0 0", "v 1e999 0 0"), "not finite"),
    "nan unused.obj": (TETRAHEDRON + "v nan nan nan\n", None),
    "degenerate faces.obj": (TETRAHEDRON + "v 0.5 0 0\nf 1 5 2\nf 1 1 2\nf 3 3 3\n", None),
    "only degenerate faces.obj": ("v 0 0 0\nv 1 1 1\nv 2 2 2\nf 1 2 3\n", "no area"),
    "several bodies.glb": (scene(), None),
    "point cloud.ply": (export(trimesh.PointCloud(np.eye(3)), "ply"), "no faces"),
    "points.obj": ("v 0 0 0\nv 1 0 0\nv 0 1 0\n", "no faces"),
    "huge.obj": (scaled(1e30), None),
    "too huge.obj": (scaled(1e200), "float32"),
    "tiny.obj": (scaled(1e-12), None),
    "too tiny.obj": (scaled(1e-200), "float32|no area"),
    "far away.obj": (scaled(1.0, 1e9), "float32"),
    "Ünï çödé 飛行機.obj": (TETRAHEDRON, None),
    "latin-1 names.obj": (b"# M\xfcller\ng K\xf6rper\n" + TETRAHEDRON.encode(), None),
    "truncated.stl": (export(BALL, "stl")[:2000], "cannot be read|is damaged"),
    "truncated.ply": (export(BALL, "ply")[:3000], "cannot be read|no faces|not there"),
    "truncated.glb": (export(BALL, "glb")[:2000], "cannot be read"),
    "truncated.off": (export(BALL, "off")[:2000], "cannot be read"),
    "false count.stl": (binary_stl(2**31, b"\0" * 50), "cannot be read|is damaged"),
    "missing vertex.obj": (TETRAHEDRON.replace("f 1 2 3", "f 1 2 9"), "not there|cannot be read"),
    "of another kind.ply": (TETRAHEDRON, "cannot be read"),
    "quadrilaterals.off": (
        "OFF\n8 6 0\n0 0 0\n1 0 0\n1 1 0\n0 1 0\n0 0 1\n1 0 1\n1 1 1\n0 1 1\n"
        "4 3 2 1 0\n4 4 5 6 7\n4 0 1 5 4\n4 1 2 6 5\n4 2 3 7 6\n4 3 0 4 7\n",
        None,
    ),
}


def whole_and_finite(out):
    """Whether every file under `out` can be read in full and holds finite numbers only."""
    for file in out.rglob("*"):
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as data:
                assert all(np.isfinite(data[name]).all() for name in data), file
        elif file.suffix == ".ply":
            assert np.isfinite(read_points(file)).all(), file
        assert file.is_dir() or not file.name.startswith("."), f"{file} was left behind"
    return True


@pytest.mark.parametrize("name", CASES)
def test_a_broken_file_is_sampled_or_rejected_with_the_reason(tmp_path, name):
    content, reason = CASES[name]
    file = tmp_path / "meshes" / name
    file.parent.mkdir()
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    (source,) = find_meshes(file)
    record = preprocess_mesh(source, tmp_path / "out", SMALL)
    if reason is None:
        assert (record.status, record.reason) == ("sampled", None)
        assert all(source.name.file(tmp_path / "out", folder).is_file() for folder in SUFFIXES)
        assert whole_and_finite(tmp_path / "out")
    else:
        assert record.status == "rejected"
        assert re.search(reason, record.reason)
        assert name in record.reason
        assert "\n" not in record.reason
        assert not (tmp_path / "out").exists()


def test_a_run_over_broken_files_and_looping_links_ends(tmp_path):
    meshes = tmp_path / "meshes" / "c"
    meshes.mkdir(parents=True)
    for name in ("empty.ply", "nan.obj", "degenerate faces.obj", "Ünï çödé 飛行機.obj"):
        (meshes / name).write_bytes(CASES[name][0].encode() if CASES[name][0] else b"")
    (meshes / "loop").symlink_to(meshes, target_is_directory=True)
    (meshes / "self.obj").symlink_to("self.obj")
    (meshes / "nowhere.obj").symlink_to("nothing.obj")
    (meshes / "folder.obj").mkdir()
    out = tmp_path / "out"
    options = ("--num_samples", 2000, "--num_surface", 100, "--threads", 1, "--partial")
    result = run_script("preprocess.py", meshes, "--out", out, *options, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stdout + result.stderr
    report = json.loads((out / "report.json").read_text())["shapes"]
    statuses = {name.split("/")[2]: entry["status"] for name, entry in report.items()}
    assert statuses.pop("degenerate faces") == statuses.pop("Ünï çödé 飛行機") == "sampled"
    assert set(statuses) >= {"empty", "nan", "self", "nowhere"}
    assert set(statuses.values()) == {"rejected"}
    assert all("no such" in report[f"meshes/c/{name}"]["reason"] for name in ("self", "nowhere"))


def mutated(data, rng):
    """A copy of a file with bytes changed, lost, repeated or cut off."""
    data = bytearray(data)
    start, length = int(rng.integers(len(data))), int(rng.integers(1, 64))
    match rng.integers(6):
        case 0:
            for place in rng.integers(len(data), size=rng.integers(1, 9)):
                data[place] = rng.integers(256)
        case 1:
            data[start : start + length] = b""
        case 2:
            data[start:start] = data[start : start + length]
        case 3:
            del data[start:]
        case 4:
            data[start : start + length] = rng.bytes(length)
        case 5:  # within the header, where the numbers of things are told
            place = int(rng.integers(min(200, len(data))))
            data[place] = rng.choice(list(b"0123456789 \n-.e"))
    return bytes(data)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", MESH_SUFFIXES)
def test_mutated_files_neither_crash_nor_hang_nor_leave_half_a_file(tmp_path, suffix):
    rng = np.random.default_rng(MESH_SUFFIXES.index(suffix))
    valid = export(trimesh.creation.icosphere(1), suffix[1:])
    statuses = []
    for index in range(40):
        file = tmp_path / "meshes" / f"{index}{suffix}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(mutated(valid, rng))
        (source,) = find_meshes(file)
        start = time.process_time()
        record = preprocess_mesh(source, tmp_path / "out", SMALL)
        assert time.process_time() - start < 10, file
        assert not (record.reason or "").startswith("unexpected"), record.reason
        written = [source.name.file(tmp_path / "out", folder).is_file() for folder in SUFFIXES]
        assert all(written) if record.status == "sampled" else record.reason
        statuses.append(record.status)
    assert whole_and_finite(tmp_path / "out")
    assert {"sampled", "rejected"} == set(statuses)


def test_the_broken_files_found_in_the_wild_all_end(tmp_path):
    folder = shared("data", "meshes", "broken")
    for name in sorted(os.listdir(folder)):
        (source,) = find_meshes(folder / name)
        record = preprocess_mesh(source, tmp_path, SMALL)
        assert record.status in ("sampled", "rejected")
        assert (record.status == "sampled") == (record.reason is None)
        assert not (record.reason or "").startswith("unexpected"), record.reason
    assert whole_and_finite(tmp_path)
