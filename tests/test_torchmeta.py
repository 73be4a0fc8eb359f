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
from metasdf.networks import BatchLinear, CoordinateNetwork, MetaModule, MetaSequential


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


# What torchmeta's own tests of MetaModule, MetaSequential, MetaLinear and get_subdict expect, of
# its classes and of ours.

OURS = types.SimpleNamespace(
    MetaModule=MetaModule, MetaSequential=MetaSequential, MetaLinear=BatchLinear
)


@pytest.fixture(params=["ours", "torchmeta's"])
def modules(request):
    return OURS if request.param == "ours" else request.getfixturevalue("torchmeta_modules")


def with_plain_features(modules):
    class Model(modules.MetaModule):
        """Plain layers inside a MetaSequential, then a MetaLinear."""

        def __init__(self):
            super().__init__()
            layers = {"a": torch.nn.Linear(2, 3), "relu": torch.nn.ReLU()}
            self.features = modules.MetaSequential(OrderedDict(layers))
            self.classifier = modules.MetaLinear(3, 7, bias=False)

        def forward(self, x, params=None):
            h = self.features(x, params=self.get_subdict(params, "features"))
            return self.classifier(h, params=self.get_subdict(params, "classifier"))

    return Model()


def test_only_parameters_of_meta_modules_are_listed(modules):
    model = with_plain_features(modules)
    assert [name for name, _ in model.meta_named_parameters()] == ["classifier.weight"]
    assert [p.shape for p in model.meta_parameters()] == [(7, 3)]
    assert list(dict(model.meta_named_parameters(prefix="net"))) == ["net.classifier.weight"]
    assert list(model.meta_named_parameters(recurse=False)) == []
    names = [name for name, _ in model.named_parameters()]
    assert names == ["features.a.weight", "features.a.bias", "classifier.weight"]


def test_a_submodule_without_entry_warns_and_uses_its_own_weights(modules):
    model, x = with_plain_features(modules), torch.randn(11, 2)
    params = OrderedDict([("classifier.weight", torch.randn(7, 3))])
    with pytest.warns(UserWarning, match="features"):
        y = model(x, params=params)
    expected = model.features(x) @ params["classifier.weight"].T
    torch.testing.assert_close(y, expected)


def test_an_entry_for_a_plain_layer_is_of_no_effect(modules):
    model, x = with_plain_features(modules), torch.randn(11, 2)
    params = OrderedDict(
        [("features.a.weight", torch.randn(3, 2)), ("classifier.weight", torch.randn(7, 3))]
    )
    y = model(x, params=params)
    torch.testing.assert_close(y, model.features(x) @ params["classifier.weight"].T)


def test_get_subdict_takes_what_is_below_a_key(modules):
    model = with_plain_features(modules)
    params = OrderedDict([("classifier.weight", 1), ("classifier.0.bias", 2), ("features.x", 3)])
    assert model.get_subdict(params, "classifier") == {"weight": 1, "0.bias": 2}
    assert model.get_subdict(None, "classifier") is None


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("given", [True, False])
def test_a_linear_layer_is_that_of_pytorch(modules, bias, given):
    ours, theirs = modules.MetaLinear(2, 3, bias=bias), torch.nn.Linear(2, 3, bias=bias)
    assert isinstance(ours, modules.MetaModule)
    assert isinstance(ours, torch.nn.Linear)
    params = OrderedDict((name, torch.randn_like(p)) for name, p in theirs.named_parameters())
    theirs.load_state_dict(params)
    if not given:
        ours.load_state_dict(params)
    x = torch.randn(5, 2)
    assert torch.equal(ours(x, params=params if given else None), theirs(x))


@pytest.mark.parametrize("given", [True, False])
def test_a_sequence_hands_params_to_its_meta_modules_alone(modules, given):
    ours = modules.MetaSequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), modules.MetaLinear(3, 5))
    assert isinstance(ours, modules.MetaModule)
    assert isinstance(ours, torch.nn.Sequential)
    assert set(dict(ours.meta_named_parameters())) == {"2.weight", "2.bias"}
    theirs = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 5))
    theirs.load_state_dict(ours.state_dict())
    params = None
    if given:
        params = OrderedDict([("2.weight", torch.randn(5, 3)), ("2.bias", torch.randn(5))])
        theirs[2].load_state_dict({"weight": params["2.weight"], "bias": params["2.bias"]})
    x = torch.randn(5, 2)
    assert torch.equal(ours(x, params=params), theirs(x))


def test_a_bias_that_params_do_not_name_is_the_layers_own():
    """A departure: torchmeta would leave it out. So a frozen bias still counts."""
    layer, x = BatchLinear(2, 3), torch.randn(5, 2)
    weight = torch.randn(3, 2)
    assert torch.equal(layer(x, params={"weight": weight}), x @ weight.T + layer.bias)


def test_a_layer_that_stands_twice_in_a_sequence_is_applied_twice():
    layer = BatchLinear(2, 2)
    x = torch.randn(5, 2)
    assert torch.equal(MetaSequential(layer, layer)(x), layer(layer(x)))
