"""Fields become meshes at the right place; a shape without surface is reported, never empty."""

import json

import numpy as np
import pytest
import torch
import trimesh

from conftest import sphere_curriculum
from metasdf.data.names import read_split
from metasdf.learning.models import build_model
from metasdf.reconstruction.fitting import reconstruct_shape
from metasdf.reconstruction.split import reconstruct_split

CPU = torch.device("cpu")


@pytest.fixture
def curriculum(spheres, tmp_path):
    return sphere_curriculum(spheres, tmp_path)


@pytest.fixture
def model(curriculum):
    """Untrained, but its initialisation is roughly a ball: enough to make meshes of."""
    return build_model({**curriculum, "training_mode": "l1"}).eval()


def test_a_split_is_reconstructed_and_failures_are_counted(model, curriculum, tmp_path, capsys):
    split = tmp_path / "test.json"
    split.write_text('{"made": {"spheres": ["e", "absent", "f"]}}')
    curriculum = {**curriculum, "test_split": str(split)}
    with torch.no_grad():
        model.network.net[-1].bias.fill_(-0.3)
    failed = reconstruct_split(model, curriculum, CPU, "some.pth", trajectories=1)
    assert failed == 1
    assert "failed: made/spheres/absent" in capsys.readouterr().err
    folder = tmp_path / "reconstructions"
    meshes = sorted(str(p.relative_to(folder)) for p in folder.rglob("*.ply"))
    assert meshes == [
        "initialisation.ply",
        "made/spheres/e.ply",
        "made/spheres/f.ply",
        *(f"steps/made/spheres/e_{k}.ply" for k in range(3)),
    ]
    record = json.loads((folder / "reconstructions.json").read_text())
    assert record["checkpoint"] == "some.pth"
    assert [bool(shape["error"]) for shape in record["shapes"]] == [False, True, False]
    assert record["shapes"][0]["adapt_seconds"] > 0
    last = trimesh.load_mesh(folder / "steps/made/spheres/e_2.ply")
    final = trimesh.load_mesh(folder / "made/spheres/e.ply")
    assert np.array_equal(last.vertices, final.vertices)


def test_a_shape_without_surface_leaves_no_file(model, curriculum, tmp_path, capsys):
    with torch.no_grad():
        model.network.net[-1].weight.zero_()
        model.network.net[-1].bias.fill_(5.0)
    assert reconstruct_split(model, curriculum, CPU) == 2
    assert "outside everywhere on a grid of" in capsys.readouterr().err
    assert not list((tmp_path / "reconstructions").rglob("*.ply"))


def test_a_shape_does_not_depend_on_its_neighbours(model, curriculum, tmp_path):
    with torch.no_grad():
        model.network.net[-1].bias.fill_(-0.3)
    shapes = read_split(curriculum["test_split"])
    alone, _ = reconstruct_shape(model, curriculum, shapes[1], CPU)
    reconstruct_split(model, curriculum, CPU)
    together = trimesh.load_mesh(tmp_path / "reconstructions" / f"{shapes[1]}.ply")
    assert np.allclose(alone.vertices, together.vertices, atol=1e-6)
