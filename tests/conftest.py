"""Paths and data shared by the tests."""

import gzip
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from metasdf.commands.arguments import CurriculumCommandLine
from metasdf.data.formats import write_normalisation, write_points, write_sdf_samples
from metasdf.geometry.normalisation import Normalisation
from metasdf.learning.curriculum import KEYS_2D, load_curriculum
from metasdf.reconstruction.adaptation import UNTRUSTED

ROOT = Path(__file__).resolve().parent.parent
MESHED = (0, UNTRUSTED)  # exit codes
SHARED = Path(os.environ.get("METASDF_SHARED", ROOT.parent / "shared"))


def shared(*parts: str) -> Path:
    """A path to real data outside the project; the test is skipped, saying so, where absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"real data is absent: {path} (set METASDF_SHARED to its folder)")
    return path


def run_script(
    script: str,
    *arguments: object,
    cwd: Path | None = None,
    check: bool = True,
    experiments: str = "3D",
):
    """Run a script of 3D/scripts or 2D/scripts as a user would; its output as text."""
    result = subprocess.run(
        [sys.executable, str(ROOT / experiments / "scripts" / script), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if check:  # what comes of trainings as short as here is not to be trusted
        assert result.returncode in MESHED, result.stdout + result.stderr
    return result


def run_here(script: str, *arguments: object, monkeypatch, experiments: str = "3D") -> int:
    """Run a script in this process, which saves the seconds that importing torch takes."""
    monkeypatch.setattr(sys, "argv", [script, *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(ROOT / experiments / "scripts" / script), run_name="__main__")
    return caught.value.code or 0


def ends_with_one_line(
    script: str, *arguments: object, monkeypatch, capsys, experiments: str = "3D"
) -> str:
    """Run a script in this process on bad input: code 2 and one line, which is returned."""
    code = run_here(script, *arguments, monkeypatch=monkeypatch, experiments=experiments)
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


@pytest.fixture(autouse=True)
def _one_thread_and_seed():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def write_sphere(folder: Path, name: str, radius: float, count: int = 4000) -> None:
    """An ideal shape in DeepSDF's format: a sphere around (1, 2, 3), normalised by scale 2."""
    rng = np.random.default_rng(int(radius * 1000))
    x = rng.uniform(-1, 1, (count, 3))
    distance = np.linalg.norm(x, axis=1, keepdims=True) - radius
    rows = np.concatenate([x, distance], axis=1).astype(np.float32)
    path = f"made/spheres/{name}"
    write_sdf_samples(
        folder / "SdfSamples" / f"{path}.npz", rows[rows[:, 3] > 0], rows[rows[:, 3] <= 0]
    )
    frame = Normalisation(np.array([-1.0, -2.0, -3.0]), 2.0)
    write_normalisation(folder / "NormalizationParameters" / f"{path}.npz", frame)
    direction = rng.normal(size=(30_000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    surface = frame.invert(radius * direction)
    write_points(folder / "SurfaceSamples" / f"{path}.ply", surface)


@pytest.fixture(scope="session")
def spheres(tmp_path_factory) -> Path:
    """A data folder with six spheres, four to train on, and a curriculum file for them."""
    folder = tmp_path_factory.mktemp("spheres")
    radii = {"a": 0.4, "b": 0.5, "c": 0.6, "d": 0.7, "e": 0.45, "f": 0.65}
    for name, radius in radii.items():
        write_sphere(folder, name, radius)
    for split, names in (("train", "abcd"), ("test", "ef")):
        (folder / f"{split}.json").write_text(json.dumps({"made": {"spheres": list(names)}}))
    return folder


def sphere_arguments(spheres: Path, output: Path, **overrides: object) -> list[str]:
    """Command-line overrides that make any curriculum a tiny one on the spheres."""
    keys = {
        "data_source": spheres,
        "train_split": spheres / "train.json",
        "val_split": spheres / "test.json",
        "test_split": spheres / "test.json",
        "output_dir": output,
        "reconstruction_output_dir": output / "reconstructions",
        "network": "relu",
        "hidden_layers": 1,
        "hidden_features": 32,
        "latent_features": 8,
        "num_meta_steps": 2,
        "init_lr": 1e-3,
        "extra_step_factor": 1.0,
        "SDFSamplesPerScene": 256,
        "LevelsetSamplesPerScene": 128,
        "ScenesPerBatch": 2,
        "num_epochs": 4,
        "training_mode": "l1",
        "sharpness": "none",
        "query": "all",
        "lr": 1e-3,
        "lr_schedule": "steps",
        "warmup_steps": 0,
        "gradient_norm": "none",
        "lr_decay_epochs": 350,
        "lr_decay_factor": 0.5,
        "reconstruction_sdf_samples": 2000,
        "reconstruction_steps": "none",
        "refine": 0,
        "resolution": 24,
        **overrides,
    }
    return [text for key, value in keys.items() for text in (f"--{key}", str(value))]


def sphere_curriculum(spheres: Path, output: Path, **overrides: object) -> dict:
    """The complete curriculum of `sphere_arguments`."""
    parser = CurriculumCommandLine()
    parser.add_curriculum_keys()
    options = parser.parse(sphere_arguments(spheres, output, **overrides))
    return load_curriculum("tables_tiny", parser.overrides(options))


def icosphere(radius: float) -> trimesh.Trimesh:
    return trimesh.creation.icosphere(subdivisions=4, radius=radius)


def write_idx(path: Path, images: np.ndarray) -> None:
    """Images (n, height, width) uint8 in MNIST's format, gzipped if the name says so."""
    content = b"\0\0\x08\x03" + np.array(images.shape, ">u4").tobytes() + images.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def image_arguments(output: Path, **overrides: object) -> list[str]:
    """Command-line overrides that make any curriculum of 2D a tiny one on embedded images."""
    keys = {
        "data_source": "embedded",
        "cache": output / "cache",
        "output_dir": output,
        "network": "relu",
        "hidden_layers": 1,
        "hidden_features": 32,
        "latent_features": 8,
        "lr_type": "per_parameter",
        "init_lr": 1e-2,
        "lr": 1e-3,
        "num_meta_steps": 3,
        "pixels": 256,
        "contour_points": 64,
        "train_images": 64,
        "val_images": 4,
        "test_images": 8,
        "images_per_epoch": 32,
        "ScenesPerBatch": 8,
        "num_epochs": 2,
        "code_steps": 20,
        "code_points": 128,
        **overrides,
    }
    return [text for key, value in keys.items() for text in (f"--{key}", str(value))]


def image_curriculum(output: Path, name: str = "mnist", **overrides: object) -> dict:
    """The complete curriculum of `image_arguments`."""
    parser = CurriculumCommandLine()
    parser.add_curriculum_keys(KEYS_2D)
    options = parser.parse(image_arguments(output, **overrides))
    return load_curriculum(name, parser.overrides(options))
