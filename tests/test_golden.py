"""The method gives the numbers that the original program printed."""

import json
import shutil

import numpy as np
import pytest
import torch

from conftest import ROOT, image_curriculum, sphere_curriculum
from metasdf.api import train
from metasdf.learning.model_files import load_model
from metasdf.losses import build_loss
from metasdf.maml import MetaSDF
from metasdf.networks import CoordinateNetwork

GOLDEN = ROOT / "tests" / "golden"
NETWORKS = {"relu": ("composite", "l1", "l2"), "pe": ("composite", "l1")}
STEP_SIZE_TYPES = ("static", "global", "per_step", "per_parameter", "simple_per_parameter")
CASES = [
    f"maml_{network}_{kind}_{loss}"
    for network, losses in NETWORKS.items()
    for kind in STEP_SIZE_TYPES
    for loss in losses
]


def ours(name: str) -> str:
    """The original's name of a tensor in our words."""
    if name.startswith("lr"):
        return name.replace("lr", "step_sizes.values", 1)
    if name.startswith("sigma"):
        return "loss." + name
    return name.replace("hypo_module", "network", 1)


def assert_close(value, expected, what):
    expected = torch.as_tensor(expected)
    assert value.shape == expected.shape, what
    error = (value.detach() - expected).norm() / expected.norm().clamp(min=1e-12)
    assert error < 1e-5, f"{what}: relative error {error:.2e}"


def test_all_25_golden_files_are_covered():
    assert len(CASES) == 25
    assert sorted(CASES) == sorted(p.stem for p in GOLDEN.glob("*.npz"))


@pytest.mark.parametrize("case", CASES)
def test_matches_the_original(case):
    golden = dict(np.load(GOLDEN / f"{case}.npz", allow_pickle=False))
    network, rest = case.removeprefix("maml_").split("_", 1)
    kind, loss = rest.rsplit("_", 1)
    loss = build_loss("multitask" if loss == "composite" else loss)
    model = MetaSDF(
        CoordinateNetwork(network, 3, loss.out_features, hidden_features=16, hidden_layers=2),
        loss,
        step_size_type=kind,
        num_steps=3,
        initial_step_size=1.0,
    )
    expected = {k.partition("/")[0]: {} for k in golden if "/" in k}
    for key, value in golden.items():
        if "/" in key:
            part, name = key.split("/", 1)
            expected[part][name if part == "adapted" else ours(name)] = value
    if not hasattr(loss, "sigma"):  # the original keeps the pair unused in its other modes
        expected["state"] = {k: v for k, v in expected["state"].items() if "sigma" not in k}
    model.load_state_dict({k: torch.as_tensor(v) for k, v in expected["state"].items()})

    context = torch.as_tensor(golden["context_x"]), torch.as_tensor(golden["context_y"])
    adapted = model.adapt(context)
    prediction = model.predict(torch.as_tensor(golden["query_x"]), adapted)
    outer_loss = loss.outer(prediction, torch.as_tensor(golden["query_y"]))
    outer_loss.backward()

    assert_close(prediction, golden["prediction"], "prediction")
    assert_close(outer_loss, golden["outer_loss"], "outer loss")
    assert set(adapted) == set(expected["adapted"])
    for name, value in expected["adapted"].items():
        assert_close(adapted[name], value, f"adapted {name}")
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert set(gradients) == set(expected["grad"])
    for name, value in expected["grad"].items():
        assert_close(gradients[name], value, f"meta-gradient of {name}")


# What the program printed before its code was rearranged: tests/golden/training.json holds the
# losses of three small trainings, checkpoint.pth is what the second of them wrote.

SIREN = {"training_mode": "multitask", "network": "siren", "hidden_features": 16}


def golden_training(name):
    return json.loads((GOLDEN / "training.json").read_text())[name]


@pytest.mark.parametrize("name", ["l1", "multitask", "digits"])
def test_training_has_the_losses_that_it_always_had(name, spheres, tmp_path):
    if name == "digits":
        curriculum = image_curriculum(tmp_path)
    else:
        curriculum = sphere_curriculum(spheres, tmp_path, **(SIREN if name == "multitask" else {}))
    losses = train(curriculum, device="cpu", save=False).losses
    assert losses == pytest.approx(golden_training(name)["losses"], rel=1e-4)


def test_a_checkpoint_of_before_gives_the_same_field(spheres, tmp_path):
    model = load_model(GOLDEN / "checkpoint.pth")
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(1, 64, 3, generator=generator) * 2 - 1
    y = x.norm(dim=-1, keepdim=True) - 0.55
    prediction = model.predict(x, model.adapt((x, y)))
    expected = torch.tensor(golden_training("multitask")["prediction"])
    torch.testing.assert_close(prediction.flatten(), expected, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_of_before_is_continued(spheres, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    folder.mkdir(parents=True)
    shutil.copy(GOLDEN / "checkpoint.pth", folder / "latest.pth")
    longer = {**SIREN, "num_epochs": 6}
    train(sphere_curriculum(spheres, tmp_path / "run", **longer), load=True, device="cpu")
    train(sphere_curriculum(spheres, tmp_path / "straight", **longer), device="cpu")
    continued, straight = (
        load_model(tmp_path / name / "checkpoints" / "latest.pth").state_dict()
        for name in ("run", "straight")
    )
    for name, value in straight.items():
        torch.testing.assert_close(continued[name], value, rtol=1e-3, atol=1e-5, msg=name)
