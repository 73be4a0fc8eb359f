"""The installed package does the whole job from an empty folder, without the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
import pytest
import trimesh

from conftest import MESHED, ROOT

ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def run(*command, **options):
    options.setdefault("env", ENVIRONMENT)
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, timeout=600, **options
    )
    assert done.returncode in MESHED, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def copied_source(folder):
    """What the package is built from, without anything that a checkout may hold besides."""
    folder.mkdir()
    for name in ("metasdf", "2D", "3D", "pyproject.toml", "README.md", "LICENSE"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, folder / name)
    return folder


def fresh_environment(folder):
    """The scripts' folder of a virtual environment that finds our dependencies, but not us.

    As a plain entry of the path: what is installed there in editable mode is not found.
    """
    run(sys.executable, "-m", "venv", "--without-pip", folder)
    scripts = folder / ("Scripts" if os.name == "nt" else "bin")
    python = next(scripts.glob("python*"))
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = run(python, "-c", where).strip()
    with open(os.path.join(packages, "dependencies.pth"), "w") as file:
        file.write(sysconfig.get_path("purelib") + "\n")
    return scripts


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A fresh virtual environment with our wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    source = copied_source(folder / "source")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    run(*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source)
    shutil.rmtree(source)
    scripts = fresh_environment(folder / "environment")
    (wheel,) = folder.glob("metasdf-*.whl")
    python = next(scripts.glob("python*"))
    run(*pip, "--python", python, "install", "--quiet", "--no-deps", wheel)
    return scripts


@pytest.mark.slow
def test_a_wheel_in_a_fresh_environment_goes_from_meshes_to_measures(installed, tmp_path):
    place = {"cwd": tmp_path, "env": {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}}
    where = run(installed / "python", "-c", "import metasdf; print(metasdf.__file__)", **place)
    assert where.startswith(str(installed.parent)), where

    def metasdf(*arguments):
        return run(installed / "metasdf", *arguments, **place)

    metasdf("shapes", "output/demo/meshes", "--classes", "tables", "--count", 6)
    metasdf(
        *("preprocess", "output/demo/meshes", "--out", "output/demo/data"),
        *("--num_samples", 4000, "--num_test", 2),
    )
    small = ("--hidden_features", 32, "--num_epochs", 30, "--warmup_steps", 0)
    metasdf("train", "tables_tiny", *small, "--SDFSamplesPerScene", 256)
    checkpoint = tmp_path / "output" / "demo" / "tables_tiny" / "checkpoints" / "latest.pth"
    fast = ("--reconstruction_sdf_samples", 2000, "--resolution", 32, "--refine", 0.5)
    metasdf("reconstruct", "tables_tiny", "--checkpoint", checkpoint, *fast)
    text = metasdf("evaluate", "output/demo/reconstructions", "--gallery", "gallery.png")
    assert "2 of 2 shapes measured" in text
    assert (tmp_path / "gallery.png").stat().st_size > 10_000
    mesh = next((tmp_path / "output" / "demo" / "meshes" / "tables").glob("*.obj"))
    metasdf(
        *("reconstruct", "tables_tiny", "--checkpoint", checkpoint, "--input", mesh),
        *("--output", "mine.ply", *fast),
    )
    assert (tmp_path / "mine.ply").is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("gallery.png", "mine.ply", "mine.ply.json", "output")
    ]


def test_a_wheel_turns_a_point_cloud_into_a_mesh_in_one_command(installed, tmp_path):
    """By the model that it carries, from points without normals in a frame of their own."""
    points = np.random.default_rng(0).normal(size=(4000, 3)) * (3, 1, 1)  # an ellipsoid
    points /= np.linalg.norm(points / (3, 1, 1), axis=1, keepdims=True)
    points += np.array([10.0, 0, 0])
    np.savetxt(tmp_path / "scan.xyz", points)
    place = {"cwd": tmp_path, "env": {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}}
    text = run(installed / "metasdf", "reconstruct", "scan.xyz", "--output", "mesh.glb", **place)
    assert "normals: estimated" in text
    mesh = trimesh.load_mesh(tmp_path / "mesh.glb")
    assert mesh.bounds.mean(axis=0) == pytest.approx([10, 0, 0], abs=0.05)
    assert mesh.extents == pytest.approx([6, 2, 2], rel=0.03)
    distance = np.abs(trimesh.proximity.signed_distance(mesh, points[:500]))
    assert distance.mean() < 0.01 * 3  # of the radius
    record = json.loads((tmp_path / "mesh.glb.json").read_text())
    assert (record["checkpoint"], record["trusted"]) == ("general", True)


def test_the_installed_curriculums_are_the_projects_and_mean_the_working_directory(
    installed, tmp_path
):
    program = """if True:
    import json, metasdf
    print(json.dumps({n: metasdf.load_curriculum(n) for n in ("planes8", "mnist")}))"""
    place = {"cwd": tmp_path}
    listed = run(installed / "metasdf", "curriculums", **place)
    assert listed.count("\n") > 30
    shown = run(installed / "python", "-c", program, **place)
    assert str(tmp_path / "output" / "planes8") in shown
    assert str(tmp_path / "output" / "2D" / "mnist") in shown
    assert "planes8_train.json" in shown
    text = run(installed / "metasdf", "curriculums", "--show", "planes_pe", **place)
    assert '"num_meta_steps": 3' in text


@pytest.mark.slow
def test_the_notebooks_first_cell_installs_the_library_where_it_is_missing(tmp_path):
    """As in Colab: the project is cloned from an address and installed with pip."""
    source = copied_source(tmp_path / "project")
    git = ("git", "-C", source, "-c", "user.name=x", "-c", "user.email=x@example.org")
    run(*git, "init", "--quiet")
    run(*git, "add", ".")
    run(*git, "commit", "--quiet", "-m", "x")
    cells = json.loads((ROOT / "MetaSDF.ipynb").read_text())["cells"]
    text = "".join(next(c for c in cells if c["cell_type"] == "code")["source"])
    assert 'REPOSITORY = ""' in text
    text = text.replace('REPOSITORY = ""', f"REPOSITORY = {source.as_uri()!r}")
    scripts = fresh_environment(tmp_path / "environment")
    environment = dict(ENVIRONMENT)
    # The build's own dependencies are there already: no index is asked.
    environment |= {
        "PIP_NO_BUILD_ISOLATION": "false",
        "PIP_NO_DEPS": "true",
        "PIP_NO_INDEX": "true",
    }
    place = {"cwd": tmp_path, "env": environment}
    python = next(scripts.glob("python*"))
    out = run(python, "-c", text + "\nprint(metasdf.__file__)", **place)
    assert out.strip().startswith(str(tmp_path / "environment"))
