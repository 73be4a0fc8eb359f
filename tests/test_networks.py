"""Networks keep torchmeta's contract and their published initialisations."""

import math
from collections import OrderedDict

import pytest
import torch

from metasdf.errors import InputError
from metasdf.networks import (
    NETWORKS,
    BatchLinear,
    CoordinateNetwork,
    apply_per_task,
    meta_parameters,
)


def per_task(network, tasks=3, spread=0.1):
    return OrderedDict(
        (name, p.detach() + spread * torch.randn(tasks, *p.shape))
        for name, p in meta_parameters(network).items()
    )


@pytest.mark.parametrize("kind", NETWORKS)
def test_without_params_uses_its_own_weights(kind):
    network = CoordinateNetwork(kind, hidden_features=16, hidden_layers=2)
    x = torch.randn(5, 3)
    own = OrderedDict(network.meta_named_parameters())
    torch.testing.assert_close(network(x, params=own), network(x))


@pytest.mark.parametrize("kind", NETWORKS)
def test_every_task_has_its_own_weights(kind):
    network = CoordinateNetwork(kind, hidden_features=16, hidden_layers=2).double()
    params, x = per_task(network), torch.randn(3, 5, 3).double()
    together = network(x, params=params)
    for t in range(3):
        alone = network(x[t], params=OrderedDict((n, p[t]) for n, p in params.items()))
        torch.testing.assert_close(together[t], alone)


@pytest.mark.parametrize("bias", [True, False])
def test_layers_per_task_have_the_derivatives_of_their_formula(bias):
    layer = BatchLinear(3, 4, bias=bias).double()
    params = {n: p.detach().repeat(2, *[1] * p.dim()) for n, p in layer.named_parameters()}
    inputs = [torch.randn(2, 5, 3).double(), *(p + torch.randn_like(p) for p in params.values())]
    inputs = [t.requires_grad_() for t in inputs]

    def of(x, *tensors):
        return layer(x, params=dict(zip(params, tensors, strict=True)))

    y = torch.einsum("tni,toi->tno", *inputs[:2]) + (inputs[2].unsqueeze(1) if bias else 0)
    torch.testing.assert_close(of(*inputs), y)

    def slope(*tensors):  # itself of second order in the inputs, so its own second is a third
        (gradient,) = torch.autograd.grad(of(*tensors).pow(3).sum(), tensors[1], create_graph=True)
        return gradient

    assert torch.autograd.gradcheck(of, inputs)
    assert torch.autograd.gradgradcheck(of, inputs)
    assert torch.autograd.gradgradcheck(slope, inputs)


def test_gradients_of_weights_lie_in_memory_as_the_weights_do():
    network = CoordinateNetwork("siren", hidden_features=16, hidden_layers=1)
    params = OrderedDict((n, p.requires_grad_()) for n, p in per_task(network).items())
    loss = network(torch.randn(3, 50, 3), params=params).square().mean()
    gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
    assert all(gradient.is_contiguous() for gradient in gradients)


def test_a_plain_module_gives_what_a_meta_module_gives():
    network = CoordinateNetwork("relu", hidden_features=16, hidden_layers=1)
    plain = torch.nn.Sequential(
        torch.nn.Linear(3, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 16),
        torch.nn.ReLU(),
        torch.nn.Linear(16, 1),
    )
    params, x = per_task(network), torch.randn(3, 5, 3)
    renamed = OrderedDict((name.removeprefix("net."), p) for name, p in params.items())
    torch.testing.assert_close(apply_per_task(plain, x, renamed), network(x, params=params))


def test_get_subdict_strips_the_prefix():
    network = CoordinateNetwork("relu", hidden_features=4, hidden_layers=0)
    params = OrderedDict(network.meta_named_parameters())
    assert list(network.get_subdict(params, "net.0")) == ["weight", "bias"]
    assert network.get_subdict(None, "net") is None


def test_hidden_layers_count_width_to_width_layers():
    network = CoordinateNetwork("relu", hidden_features=512, hidden_layers=8)
    shapes = [tuple(p.shape) for n, p in network.named_parameters() if n.endswith("weight")]
    assert shapes == [(512, 3), *[(512, 512)] * 8, (1, 512)]


@pytest.mark.parametrize(("features", "expected"), [(3, 33), (2, 22)])
def test_positional_encoding_has_the_published_width(features, expected):
    network = CoordinateNetwork("pe", in_features=features, hidden_features=8)
    encoded = network.net[0](torch.randn(7, features))
    assert encoded.shape == (7, expected)
    assert network.net[1].in_features == expected


def test_sal_initialisation_has_the_published_scale():
    network = CoordinateNetwork("relu", hidden_features=512, hidden_layers=1)
    hidden, last = network.net[2], network.net[4]
    assert hidden.weight.std().item() == pytest.approx(math.sqrt(2 / 512), rel=0.02)
    assert torch.equal(last.weight, torch.full_like(last.weight, math.sqrt(math.pi / 512)))
    assert hidden.bias.abs().max() == last.bias.abs().max() == 0


def test_sal_initialisation_grows_outward_like_a_distance():
    network = CoordinateNetwork("relu", hidden_features=512, hidden_layers=4)
    x = torch.nn.functional.normalize(torch.randn(500, 3), dim=1)
    with torch.no_grad():
        near, far = network(0.5 * x), network(x)
    torch.testing.assert_close(far, 2 * near)
    assert far.mean().item() == pytest.approx(1.0, abs=0.2)


def test_siren_initialisation_keeps_activations_in_the_sines_range():
    network = CoordinateNetwork("siren", hidden_features=256, hidden_layers=3, w0=30.0)
    first, hidden = network.net[0].weight, network.net[4].weight
    assert first.abs().max() <= 1 / 3
    assert first.abs().max() > 0.9 / 3
    bound = math.sqrt(6 / 256) / 30
    assert 0.9 * bound < hidden.abs().max() <= bound
    before = 30 * network.net[:6](torch.rand(2000, 3) * 2 - 1) @ network.net[6].weight.T
    assert before.std().item() == pytest.approx(1.0, abs=0.2)


def test_an_unknown_kind_is_an_input_error():
    with pytest.raises(InputError, match="choose one of relu, pe, siren"):
        CoordinateNetwork("rellu")
