"""Coordinate networks whose weights can be handed in from outside, one set per task.

The contract is torchmeta's: `forward(x, params=None)`, `meta_named_parameters()` and
`get_subdict(params, key)`. Here `params` may carry a leading task dimension T: coordinates
[T, N, d] then pass through T different networks in one call.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import Function
from torch.func import functional_call, vmap

from metasdf.errors import InputError

Params = Mapping[str, Tensor]


class MetaModule(nn.Module):
    """A module whose `forward` accepts its own weights as `params`, a dict name -> tensor."""

    def meta_named_parameters(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors of the weights that `params` replaces."""
        return self.named_parameters(prefix=prefix, recurse=recurse)

    def get_subdict(self, params: Params | None, key: str) -> Params | None:
        """The entries of `params` below the submodule `key`, with that prefix removed."""
        if params is None:
            return None
        start = key + "."
        return OrderedDict(
            (name[len(start) :], value) for name, value in params.items() if name.startswith(start)
        )


class _Product(Function):
    """Products of T pairs of matrices, a [T, ., .] with b [T, ., .], plus a bias [T, .] a row.

    form: "ab", "ab'" or "a'b", which of them is transposed. The derivatives of each form are
    products of the other two, and lie in memory as what they are derivatives of, so that they are
    quick to add up, in any order of differentiation. Those of `torch.bmm` are transposed.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(form: str, a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
        if form == "ab'":
            return torch.bmm(a, b.transpose(-1, -2))
        if form == "a'b":
            return torch.bmm(a.transpose(-1, -2), b)
        return torch.bmm(a, b) if bias is None else torch.baddbmm(bias.unsqueeze(-1), a, b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.form, *tensors = inputs
        ctx.save_for_backward(*tensors[:2])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        a, b = ctx.saved_tensors
        for_a, for_b = {
            "ab": (("ab'", gradient, b), ("a'b", a, gradient)),
            "ab'": (("ab", gradient, b), ("a'b", gradient, a)),
            "a'b": (("ab'", b, gradient), ("ab", a, gradient)),
        }[ctx.form]
        _, needs_a, needs_b, *needs_bias = ctx.needs_input_grad
        return (
            None,
            _Product.apply(*for_a) if needs_a else None,
            _Product.apply(*for_b) if needs_b else None,
            *(gradient.sum(dim=-1) if needed else None for needed in needs_bias),
        )


class BatchLinear(nn.Linear, MetaModule):
    """A linear layer that applies one weight matrix per task.

    Without `params` it is `nn.Linear`. With weights [T, out, in] and biases [T, out] it maps
    x [T, N, in] to [T, N, out].
    """

    def forward(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None:
            return super().forward(x)
        weight, bias = params["weight"], params.get("bias")
        if weight.dim() == 2:
            return nn.functional.linear(x, weight, bias)
        return _Product.apply("ab", weight, x.transpose(-1, -2), bias).transpose(-1, -2)


class MetaSequential(nn.Sequential, MetaModule):
    """`nn.Sequential` that routes `params` to those of its layers that take them."""

    def forward(self, x: Tensor, params: Params | None = None) -> Tensor:
        for name, layer in self.named_children():
            if isinstance(layer, MetaModule):
                x = layer(x, params=self.get_subdict(params, name))
            elif params is not None and any(True for _ in layer.parameters()):
                raise TypeError(f"{type(layer).__name__} ignores `params`; take a MetaModule")
            else:
                x = layer(x)
        return x


class Sine(nn.Module):
    """sin(w0 x), the activation of SIREN (Sitzmann et al. 2020, eq. 5 and sec. 3.2)."""

    def __init__(self, w0: float = 30.0) -> None:
        super().__init__()
        self.w0 = w0

    def forward(self, x: Tensor) -> Tensor:
        return torch.sin(self.w0 * x)


class PositionalEncoding(nn.Module):
    """x [..., d] -> x, sin(2^k x), cos(2^k x) for k = 0 .. frequencies-1, [..., d (2f + 1)]."""

    def __init__(self, frequencies: int = 5) -> None:
        super().__init__()
        self.frequencies = frequencies

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for k in range(self.frequencies):
            features += [torch.sin(2**k * x), torch.cos(2**k * x)]
        return torch.cat(features, dim=-1)


NETWORKS = ("relu", "pe", "siren")


class CoordinateNetwork(MetaModule):
    """A multilayer perceptron from coordinates to field values: x [..., d] -> [..., c].

    kind: "relu", "pe" (positional encoding before a ReLU network) or "siren".
    hidden_layers counts the width -> width layers between the input and the output layer.
    """

    def __init__(
        self,
        kind: str,
        in_features: int = 3,
        out_features: int = 1,
        hidden_features: int = 512,
        hidden_layers: int = 8,
        frequencies: int = 5,
        w0: float = 30.0,
    ) -> None:
        super().__init__()
        if kind not in NETWORKS:
            raise InputError(f"network: {kind!r} is unknown; choose one of {', '.join(NETWORKS)}")
        layers: list[nn.Module] = []
        features = in_features
        if kind == "pe":
            layers.append(PositionalEncoding(frequencies))
            features = in_features * (2 * frequencies + 1)
        for _ in range(hidden_layers + 1):
            layers.append(BatchLinear(features, hidden_features))
            layers.append(Sine(w0) if kind == "siren" else nn.ReLU())
            features = hidden_features
        layers.append(BatchLinear(features, out_features))
        self.net = MetaSequential(*layers)
        if kind == "siren":
            initialise_siren(self, w0)
        else:
            initialise_sal(self)

    def forward(self, x: Tensor, params: Params | None = None) -> Tensor:
        return self.net(x, params=self.get_subdict(params, "net"))


@torch.no_grad()
def initialise_sal(network: nn.Module) -> None:
    """Start as roughly the distance to a sphere (geometric init of SAL, Atzmon & Lipman 2020).

    Weights N(0, sqrt(2 / fan_out)) and zero biases; constant sqrt(pi / fan_in) in the last layer.
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for layer in linear[:-1]:
        nn.init.normal_(layer.weight, std=math.sqrt(2 / layer.out_features))
        nn.init.zeros_(layer.bias)
    nn.init.constant_(linear[-1].weight, math.sqrt(math.pi / linear[-1].in_features))
    nn.init.zeros_(linear[-1].bias)


@torch.no_grad()
def initialise_siren(network: nn.Module, w0: float) -> None:
    """SIREN's initialisation (Sitzmann et al. 2020, sec. 3.2).

    First layer U(-1/fan_in, 1/fan_in), the others U(-sqrt(6/fan_in)/w0, sqrt(6/fan_in)/w0).
    """
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    for index, layer in enumerate(linear):
        fan_in = layer.in_features
        bound = 1 / fan_in if index == 0 else math.sqrt(6 / fan_in) / w0
        nn.init.uniform_(layer.weight, -bound, bound)


def meta_parameters(network: nn.Module) -> "OrderedDict[str, nn.Parameter]":
    """The weights an inner loop adapts: `meta_named_parameters()` if there, else all weights."""
    named = getattr(network, "meta_named_parameters", network.named_parameters)
    return OrderedDict(named())


def apply_per_task(network: nn.Module, x: Tensor, params: Params) -> Tensor:
    """Evaluate one network per task: x [T, N, d], params with leading T -> [T, N, c].

    A `MetaModule` of ours does this itself. A torchmeta module and a plain `nn.Module` know
    nothing of tasks: they are mapped over them with `torch.func.vmap`.
    """
    if isinstance(network, MetaModule):
        return network(x, params=params)
    if hasattr(network, "meta_named_parameters"):
        return vmap(lambda p, x: network(x, params=p))(OrderedDict(params), x)
    return vmap(lambda p, x: functional_call(network, p, (x,)))(dict(params), x)
