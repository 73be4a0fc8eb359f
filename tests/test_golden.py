"""The method gives the numbers that the original program printed."""

import numpy as np
import pytest
import torch

from conftest import shared
from metasdf.losses import build_loss
from metasdf.maml import MetaSDF
from metasdf.networks import CoordinateNetwork

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
    assert sorted(CASES) == sorted(p.stem for p in shared("golden").glob("*.npz"))


@pytest.mark.parametrize("case", CASES)
def test_matches_the_original(case):
    golden = dict(np.load(shared("golden", f"{case}.npz"), allow_pickle=False))
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
