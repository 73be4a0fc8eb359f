"""Networks made of the real torchmeta's modules drop in."""

import importlib.util
import sys
import types
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from metasdf.losses import build_loss
from metasdf.maml import MetaSDF
from metasdf.networks import CoordinateNetwork


@pytest.fixture
def torchmeta_modules(monkeypatch):
    """torchmeta.modules without torchmeta's own __init__, which wants torchvision."""
    spec = importlib.util.find_spec("torchmeta")
    assert spec, "torchmeta is not installed: pip install --no-deps torchmeta==1.8.0"
    package = types.ModuleType("torchmeta")
    package.__path__ = [str(Path(spec.origin).parent)]
    monkeypatch.setitem(sys.modules, "torchmeta", package)
    import torchmeta.modules as modules

    yield modules
    for name in [name for name in sys.modules if name.startswith("torchmeta.")]:
        del sys.modules[name]


def build_with(modules, batched):
    """A torchmeta network; `batched` with a linear layer of the original MetaSDF's kind."""
    linear = modules.MetaLinear
    if batched:

        class BatchLinear(torch.nn.Linear, modules.MetaModule):
            def forward(self, x, params=None):
                params = OrderedDict(self.named_parameters()) if params is None else params
                return x.matmul(params["weight"].mT) + params["bias"].unsqueeze(-2)

        linear = BatchLinear

    class Network(modules.MetaModule):
        def __init__(self):
            super().__init__()
            self.net = modules.MetaSequential(
                linear(3, 16), torch.nn.ReLU(), linear(16, 16), torch.nn.ReLU(), linear(16, 2)
            )

        def forward(self, x, params=None):
            return self.net(x, params=self.get_subdict(params, "net"))

    return Network()


@pytest.mark.parametrize("batched", [False, True])
def test_torchmeta_networks_give_the_same_adapted_weights(torchmeta_modules, batched):
    theirs = MetaSDF(build_with(torchmeta_modules, batched), build_loss("multitask"))
    ours = MetaSDF(
        CoordinateNetwork("relu", 3, 2, hidden_features=16, hidden_layers=1),
        build_loss("multitask"),
    )
    theirs.load_state_dict(ours.state_dict())
    x = torch.rand(4, 30, 3)
    y = x.norm(dim=-1, keepdim=True) - 0.5
    a, b = ours.adapt((x, y)), theirs.adapt((x, y))
    assert list(a) == list(b)
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-7)
    for model in (ours, theirs):
        model.loss.outer(model((x, y), x), y).backward()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-4, atol=1e-7, msg=name)
