"""Fields become meshes at the right place; a shape without surface is reported, never empty."""

import glob
import json

import numpy as np
import pytest
import torch
import trimesh

from conftest import MESHED, sphere_curriculum
from metasdf.data.names import read_split
from metasdf.evaluation.folder import evaluate
from metasdf.evaluation.gallery import write_gallery
from metasdf.learning.models import build_model
from metasdf.reconstruction.adaptation import FAILED
from metasdf.reconstruction.fitting import reconstruct_shape
from metasdf.reconstruction.split import reconstruct_split, trajectory_steps

CPU = torch.device("cpu")


@pytest.fixture
def curriculum(spheres, tmp_path):
    return sphere_curriculum(spheres, tmp_path)


@pytest.fixture
def model(curriculum):
    """Untrained, but its initialisation is roughly a ball: enough to make meshes of."""
    return build_model({**curriculum, "training_mode": "l1"}).eval()


def meshes_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*.ply"))


def test_a_split_is_reconstructed_and_failures_are_counted(model, curriculum, tmp_path, caplog):
    split = tmp_path / "test.json"
    split.write_text('{"made": {"spheres": ["e", "absent", "f"]}}')
    curriculum = {**curriculum, "test_split": str(split)}
    with torch.no_grad():
        model.network.net[-1].bias.fill_(-0.3)
    failed = reconstruct_split(model, curriculum, CPU, "some.pth", trajectories=1)
    assert failed == 1
    assert "failed: made/spheres/absent" in caplog.text
    folder = tmp_path / "reconstructions"
    assert meshes_below(folder) == ["made/spheres/e.ply", "made/spheres/f.ply"]
    assert meshes_below(tmp_path / "reconstructions_steps") == [
        "initialisation.ply",
        *(f"made/spheres/e_{k}.ply" for k in range(3)),
    ]
    record = json.loads((folder / "reconstructions.json").read_text())
    assert record["checkpoint"] == "some.pth"
    assert [bool(shape["error"]) for shape in record["shapes"]] == [False, True, False]
    assert record["shapes"][0]["adapt_seconds"] > 0
    assert record["steps_folder"] == "../reconstructions_steps"
    assert record["initialisation"] == "../reconstructions_steps/initialisation.ply"
    last = trimesh.load_mesh(folder / record["steps_folder"] / "made/spheres/e_2.ply")
    final = trimesh.load_mesh(folder / "made/spheres/e.ply")
    assert np.array_equal(last.vertices, final.vertices)


def test_a_shape_without_surface_leaves_no_file(model, curriculum, tmp_path, caplog):
    with torch.no_grad():
        model.network.net[-1].weight.zero_()
        model.network.net[-1].bias.fill_(5.0)
    assert reconstruct_split(model, curriculum, CPU) == FAILED
    assert "outside everywhere on a grid of" in caplog.text
    assert not list(tmp_path.rglob("*.ply"))


def test_the_originals_evaluation_finds_only_reconstructions(model, curriculum, spheres, tmp_path):
    with torch.no_grad():
        model.network.net[-1].bias.fill_(-0.3)
    # The folder may be a symbolic link, from which `..` leads elsewhere.
    (tmp_path / "disk" / "runs").mkdir(parents=True)
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "runs")
    folder = tmp_path / "out"
    curriculum["reconstruction_output_dir"] = str(folder)
    assert reconstruct_split(model, curriculum, CPU, trajectories=2) in MESHED
    found = set(glob.glob(f"{folder}/**/**/*.ply", recursive=True))
    assert len(found) == 2
    for file in found:
        dataset, category, instance = file.removesuffix(".ply").split("/")[-3:]
        assert (spheres / "SurfaceSamples" / dataset / category / f"{instance}.ply").is_file()
    result = evaluate(folder)
    assert result["num_failed"] == 0
    assert result["initialisation_chamfer"]["mean"] > 0
    write_gallery(tmp_path / "gallery.png", folder)
    assert (tmp_path / "gallery.png").is_file()


@pytest.mark.parametrize(
    ("last", "steps"),
    [
        (None, [0, 1, 2, 3, 4, 5]),
        (3, [0, 1, 2, 3]),
        (9, [0, 1, 2, 3, 4, 5, 9]),
        (0, [0]),
    ],
)
def test_a_trajectory_shows_the_steps_of_training_and_the_last(last, steps):
    assert trajectory_steps(5, last) == steps


def test_a_long_trajectory_is_thinned_out():
    assert trajectory_steps(800, None) == [*range(0, 800, 80), 800]


def test_a_shape_does_not_depend_on_its_neighbours(model, curriculum, tmp_path):
    with torch.no_grad():
        model.network.net[-1].bias.fill_(-0.3)
    shapes = read_split(curriculum["test_split"])
    alone, _ = reconstruct_shape(model, curriculum, shapes[1], CPU)
    reconstruct_split(model, curriculum, CPU)
    together = trimesh.load_mesh(tmp_path / "reconstructions" / f"{shapes[1]}.ply")
    assert np.allclose(alone.vertices, together.vertices, atol=1e-6)
