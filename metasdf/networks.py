"""Coordinate networks whose weights can be handed in from outside, one set per task.

The contract is torchmeta's: `forward(x, params=None)`, `meta_named_parameters()`,
`meta_parameters()` and `get_subdict(params, key)`. Beyond it, tensors in `params` may carry a
leading task dimension T: coordinates [T, N, d] then pass through T different networks in one call.
torchmeta's other layers are not repeated here; its own drop in.
"""

import math
import warnings
from collections import OrderedDict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from metasdf.errors import InputError

Params = Mapping[str, Tensor]


class MetaModule(nn.Module):
    """A module whose `forward` accepts its weights as `params`, a mapping name -> tensor."""

    def meta_named_parameters(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and tensors that `params` may replace: the parameters of MetaModules alone.

        A plain layer inside a MetaModule knows nothing of `params`, so its weights are not listed.
        """
        seen: set[int] = set()
        modules = self.named_modules(prefix=prefix) if recurse else [(prefix, self)]
        for name, module in modules:
            if isinstance(module, MetaModule):
                for full_name, p in module.named_parameters(prefix=name, recurse=False):
                    if id(p) not in seen:
                        seen.add(id(p))
                        yield full_name, p

    def meta_parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The tensors of `meta_named_parameters`."""
        for _, p in self.meta_named_parameters(recurse=recurse):
            yield p

    def get_subdict(self, params: Params | None, key: str | None = None) -> Params | None:
        """The entries of `params` for the submodule `key`, without that prefix; all if None.

        Returns None, for the submodule's own weights, where `params` is None or has no entry for
        it. The latter comes with a warning, unless all weights of the submodule are frozen.
        """
        if params is None or key is None:
            return params
        start = key + "."
        below = OrderedDict((n[len(start) :], p) for n, p in params.items() if n.startswith(start))
        if below:
            return below
        weights = list(self.get_submodule(key).parameters())
        if not weights or any(p.requires_grad for p in weights):
            warnings.warn(
                f"{type(self).__name__}: params has no entry for the submodule {key!r}, which uses "
                f"its own weights; params holds {', '.join(params)}",
                stacklevel=2,
            )
        return None


class BatchLinear(nn.Linear, MetaModule):
    """A linear layer that can apply one weight matrix per task.

    Without `params` it is `nn.Linear`. With weights [T, out, in] and biases [T, out] it maps
    x [T, N, in] to [T, N, out]; without a leading T it is torchmeta's MetaLinear. A weight or bias
    that `params` does not name is the layer's own (torchmeta would leave the bias out).
    """

    def forward(self, x: Tensor, params: Params | None = None) -> Tensor:
        if params is None:
            return super().forward(x)
        weight, bias = params.get("weight", self.weight), params.get("bias", self.bias)
        if weight.dim() == 2:
            if bias is None or bias.dim() == 1:
                return nn.functional.linear(x, weight, bias)
            return nn.functional.linear(x, weight) + bias.unsqueeze(-2)
        # W x' rather than x W': its gradient lies in memory as the weight does.
        x = x.transpose(-1, -2)
        if bias is None:
            return torch.bmm(weight, x).transpose(-1, -2)
        return torch.baddbmm(bias.unsqueeze(-1), weight, x).transpose(-1, -2)


class MetaSequential(nn.Sequential, MetaModule):
    """`nn.Sequential` that hands `params` to the MetaModules among its layers."""

    def forward(self, x: Tensor, params: Params | None = None) -> Tensor:
        for name, layer in self._modules.items():  # unlike named_children, with repeats
            if isinstance(layer, MetaModule):
                x = layer(x, params=self.get_subdict(params, name))
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

    Args:
        kind: "relu", "pe" (positional encoding before a ReLU network) or "siren".
        in_features, out_features: d and c.
        hidden_features: width.
        hidden_layers: number of width -> width layers between the input and the output layer.
        frequencies: octaves of the positional encoding.
        w0: frequency factor of SIREN.
        output_bias: where the biases of the output layer start; None: as the kind has it.
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
        output_bias: float | None = None,
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
        if output_bias is not None:
            nn.init.constant_(self.net[-1].bias, output_bias)

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
    """The weights that an inner loop adapts, by name.

    `meta_named_parameters()` where the network has it, else all parameters; in either case without
    those that are frozen (`requires_grad=False`).
    """
    named = getattr(network, "meta_named_parameters", network.named_parameters)
    return OrderedDict((name, p) for name, p in named() if p.requires_grad)


def apply_per_task(network: nn.Module, x: Tensor, params: Params) -> Tensor:
    """Evaluate one network per task: x [T, N, d], params with leading T -> [T, N, c].

    Our `MetaModule` does this itself. A torchmeta module and a plain `nn.Module` know nothing of
    tasks: they are mapped over them with `torch.func.vmap`. Dropout draws a mask for each task.
    """
    if isinstance(network, MetaModule):
        return network(x, params=params)
    if hasattr(network, "meta_named_parameters"):
        forward = lambda p, x: network(x, params=p)  # noqa: E731
        return vmap(forward, randomness="different")(OrderedDict(params), x)
    places = _places(network, params)
    # With all places of a tied weight filled from here, `functional_call` must not tie them itself:
    # it would leave tensors of the vmap behind in the module (PyTorch issue 164759).
    forward = lambda p, x: functional_call(network, p, (x,), tie_weights=False)  # noqa: E731
    return vmap(forward, randomness="different")(places, x)


def _places(network: nn.Module, params: Params) -> dict[str, Tensor]:
    """What each parameter's place in a network is filled with; tied weights have several.

    A submodule that is registered under two names counts once, as it is one module.
    """
    names = {id(p): name for name, p in network.named_parameters()}
    return {
        f"{prefix}.{local}" if prefix else local: params[names[id(p)]]
        for prefix, module in network.named_modules()
        for local, p in module._parameters.items()
        if p is not None and names[id(p)] in params
    }
