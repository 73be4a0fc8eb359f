"""The baselines that MetaSDF is compared with (MetaSDF sec. 4): auto-decoder and encoders.

Each represents a shape by a latent code. A decoder turns a code into a field in two steps:
`condition(code [T, L])` does, once per shape, all that does not depend on coordinates, and
`forward(x [T, N, d], conditioned)` evaluates the field. The auto-decoder finds a new shape's code
by optimisation, an encoder in one forward pass over the context.
"""

import math
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from metasdf.data.pixels import PixelFrame
from metasdf.errors import InputError
from metasdf.losses import CompositeLoss, DistanceLoss
from metasdf.method import Method
from metasdf.networks import Params, apply_per_task, meta_parameters

# DeepSDF, Park et al. 2019: sec. 4.2 and 5, values of its released program.
CODE_PENALTY = 1e-4  # 1 / sigma^2, weight of a code's sum of squares, eq. 9 and 10
CODE_PENALTY_EPOCHS = 100  # over which the weight rises to that in training
CODE_START_STD = 0.01  # of the code that the fit of a new shape starts from
CODE_STEP_SIZE = 5e-3  # of Adam in that fit, a tenth of it in the second half
HYPERNETWORK_SCALE = 0.1  # what a latent code changes at first, relative to the weights


class DeepSDFDecoder(nn.Module):
    """DeepSDF's network (Park et al. 2019, fig. 3 and supplementary material).

    hidden_layers + 1 weight-normalised ReLU layers of hidden_features, with dropout; code and
    coordinates enter the first layer and once more half way (layer 4 of 8), where the layer
    before is narrower by as much. The distance, the last channel, ends in a tanh.
    """

    def __init__(
        self,
        in_features: int = 3,
        out_features: int = 1,
        latent_features: int = 256,
        hidden_features: int = 512,
        hidden_layers: int = 7,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        injected = latent_features + in_features
        if hidden_features <= injected:
            raise InputError(
                f"hidden_features: {hidden_features} leaves no room for code and coordinates, "
                f"which enter again half way; use more than {injected}, or fewer latent_features"
            )
        if dropout >= 1:
            raise InputError(f"dropout: {dropout} drops everything; use less than 1")
        count = hidden_layers + 1
        self.injected_at = count // 2
        inputs = [injected] + [hidden_features] * (count - 1)
        outputs = [hidden_features] * count
        if self.injected_at > 0:
            outputs[self.injected_at - 1] -= injected
        self.layers = nn.ModuleList(
            weight_norm(nn.Linear(i, o)) for i, o in zip(inputs, outputs, strict=True)
        )
        self.last = nn.Linear(hidden_features, out_features)
        self.dropout = nn.Dropout(dropout)

    @staticmethod
    def condition(code: Tensor) -> Tensor:
        return code

    def forward(self, x: Tensor, code: Tensor) -> Tensor:
        given = torch.cat([code.unsqueeze(1).expand(-1, x.shape[1], -1), x], dim=-1)
        h = given
        for index, layer in enumerate(self.layers):
            if index == self.injected_at and index > 0:
                h = torch.cat([h, given], dim=-1)
            h = self.dropout(torch.relu(layer(h)))
        output = self.last(h)
        return torch.cat([output[..., :-1], torch.tanh(output[..., -1:])], dim=-1)


class ConditionedNetwork(nn.Module):
    """A coordinate network whose weights depend on a latent code, all of them or some.

    network: as for MetaSDF, x [N, d] -> [N, c]. The two subclasses below define `condition`.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def weights(self) -> dict[str, Tensor]:
        """The network's own weights, without a graph where gradients are disabled."""
        weights = meta_parameters(self.network)
        if torch.is_grad_enabled():
            return weights
        return OrderedDict((name, p.detach()) for name, p in weights.items())

    def condition(self, code: Tensor) -> Params:
        """Codes [T, L] -> weights of the network, with leading T."""
        raise NotImplementedError

    def forward(self, x: Tensor, params: Params) -> Tensor:
        return apply_per_task(self.network, x, params)


class Concatenation(ConditionedNetwork):
    """Conditioning by concatenation: the latent code is a further input beside the coordinates.

    A first layer on (x, code) computes W x + V code + b, where V code is the same at every x. So
    it is added to the bias once per shape: the same function for less work. With a positional
    encoding, only the coordinates are encoded. scale: initial scale of V relative to PyTorch's
    default, for encoders whose codes would dominate the coordinates at first.
    """

    def __init__(self, network: nn.Module, latent_features: int, scale: float = 1.0) -> None:
        super().__init__(network)
        self._bias = next(name for name in meta_parameters(network) if name.endswith("bias"))
        width = len(meta_parameters(network)[self._bias])
        self.first = nn.Linear(latent_features, width, bias=False)
        with torch.no_grad():
            self.first.weight *= scale

    def condition(self, code: Tensor) -> Params:
        params = OrderedDict(
            (name, p.expand(len(code), *p.shape)) for name, p in self.weights().items()
        )
        params[self._bias] = params[self._bias] + self.first(code)
        return params


class Hypernetwork(ConditionedNetwork):
    """Conditioning by a hypernetwork: every weight depends on the latent code (Ha et al. 2017).

    A multilayer perceptron maps the code to an offset for each of the network's own, learned
    weights. The weights start as the network was initialised, the offsets a tenth as large (and at
    zero for biases that are zero).
    """

    def __init__(self, network: nn.Module, latent_features: int) -> None:
        super().__init__(network)
        width = latent_features
        self.trunk = nn.Sequential(
            nn.Linear(latent_features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()
        )
        initialise_he(self.trunk)
        self.heads = nn.ModuleList()
        for weight in meta_parameters(network).values():
            head = nn.Linear(width, weight.numel(), bias=False)
            size = weight.detach().square().mean().sqrt().item()
            nn.init.normal_(head.weight, std=HYPERNETWORK_SCALE * size / math.sqrt(width))
            self.heads.append(head)

    def condition(self, code: Tensor) -> Params:
        features = self.trunk(code)
        return OrderedDict(
            (name, p + head(features).view(-1, *p.shape))
            for (name, p), head in zip(self.weights().items(), self.heads, strict=True)
        )


@torch.no_grad()
def initialise_he(module: nn.Module) -> None:
    """Initialise a ReLU network so that features keep their size (He et al. 2015, eq. 10).

    With PyTorch's default they shrink from layer to layer, and so do differences between shapes.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


class SetEncoder(nn.Module):
    """A set of points -> latent code, independent of their order (PointNet, Qi et al. 2017).

    One multilayer perceptron is applied to every context point with its value, (x, y); max pooling
    over the points and a linear layer give the code. values: number c of channels of y.
    """

    def __init__(
        self, in_features: int, latent_features: int, hidden_features: int, values: int = 1
    ) -> None:
        super().__init__()
        self.per_point = nn.Sequential(
            nn.Linear(in_features + values, hidden_features),
            nn.ReLU(),
            nn.Linear(hidden_features, hidden_features),
            nn.ReLU(),
            nn.Linear(hidden_features, hidden_features),
        )
        self.pooled = nn.Sequential(nn.ReLU(), nn.Linear(hidden_features, latent_features))
        self.latent_features = latent_features
        initialise_he(self)

    def forward(self, context: tuple[Tensor, Tensor]) -> Tensor:
        """(x [T, N, d], y [T, N, c]) -> codes [T, L]. On the surface alone, y is 0."""
        return self.pooled(self.per_point(torch.cat(context, dim=-1)).amax(dim=1))


class ConvolutionalEncoder(nn.Module):
    """A context in 2D -> latent code, by convolutions over its points as an image.

    The context's values are averaged within pixels. A further channel holds the number of points
    in each pixel, relative to the largest, so that contours can be encoded too, where every value
    is 0. Four convolutions with stride 2, then a linear layer.

    Args:
        frame: where the pixels stand.
        latent_features: length L of the codes.
        width: channels of the first convolution.
        values: channels c of the context's values.
        scale: typical size of the values; the network sees them divided by it.
    """

    def __init__(
        self,
        frame: PixelFrame,
        latent_features: int,
        width: int = 32,
        values: int = 1,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.frame = frame
        self.scale = scale
        self.latent_features = latent_features
        layers: list[nn.Module] = []
        channels, side = values + 1, frame.pixels
        for out_channels in (width, 2 * width, 4 * width, 8 * width):
            layers += [nn.Conv2d(channels, out_channels, 5, stride=2, padding=2), nn.ReLU()]
            channels, side = out_channels, -(-side // 2)
        self.net = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(channels * side * side, latent_features)
        )
        initialise_he(self)

    def image(self, context: tuple[Tensor, Tensor]) -> Tensor:
        """(x [T, N, 2], y [T, N, c]) -> mean values, then counts: [T, c + 1, pixels, pixels]."""
        x, y = context
        n = self.frame.pixels
        # Half way between pixels, as contours are, always the later one: to the nearest even one,
        # as round() goes, two contours could look the same.
        position = (x - self.frame.start) / self.frame.spacing + 0.5
        position = position.floor().long().clamp(0, n - 1)
        index = (position[..., 0] * n + position[..., 1]).unsqueeze(-1)
        given = torch.cat([y / self.scale, torch.ones_like(y[..., :1])], dim=-1)
        sums = given.new_zeros(len(x), n * n, given.shape[-1])
        sums.scatter_add_(1, index.expand_as(given), given)
        counts = sums[..., -1:]
        means = sums[..., :-1] / counts.clamp(min=1)
        share = counts / counts.amax(dim=1, keepdim=True)
        return torch.cat([means, share], dim=-1).transpose(1, 2).unflatten(2, (n, n))

    def forward(self, context: tuple[Tensor, Tensor]) -> Tensor:
        """(x [T, N, 2], y [T, N, c]) -> codes [T, L]."""
        return self.net(self.image(context))


class EncoderSDF(Method):
    """An encoder maps the context to a latent code, a decoder maps the code to a field.

    Encoding counts as one step: `adapt` with num_steps = 0 gives the field of the zero code, and
    further steps change nothing.
    """

    num_steps = 1

    def __init__(
        self, encoder: nn.Module, decoder: ConditionedNetwork, loss: CompositeLoss | DistanceLoss
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.loss = loss

    def adapt(self, context: tuple[Tensor, Tensor], num_steps: int | None = None) -> Params:
        """Encode each task's context: (x [T, N, d], y [T, N, 1]) -> weights with leading T.

        Differentiable in training mode, without a graph in evaluation mode.
        """
        with torch.set_grad_enabled(self.training and torch.is_grad_enabled()):
            if num_steps == 0:
                code = context[0].new_zeros(len(context[0]), self.encoder.latent_features)
            else:
                code = self.encoder(context)
            return self.decoder.condition(code)

    def predict(self, x: Tensor, fields: Params) -> Tensor:
        """The decoder's outputs at x [T, N, d]: [T, N, c]."""
        return self.decoder(x, fields)


class AutoDecoder(Method):
    """One learned latent code per training shape; optimisation of the code for a new one.

    DeepSDF, Park et al. 2019, sec. 4. decoder: see the head of this module. num_shapes: the
    number S of training shapes. num_steps: steps of Adam that fit the code of a new shape, each on
    num_points of its context points.
    """

    def __init__(
        self,
        decoder: nn.Module,
        loss: CompositeLoss | DistanceLoss,
        latent_features: int = 256,
        num_shapes: int = 0,
        num_steps: int = 800,
        num_points: int = 8000,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.loss = loss
        self.num_steps = num_steps
        self.num_points = num_points
        codes = torch.randn(num_shapes, latent_features) / math.sqrt(latent_features)
        self.codes = nn.Parameter(codes)
        # The same for every shape, so that no fit depends on which others are made.
        self.register_buffer("start", CODE_START_STD * torch.randn(latent_features))

    def adapt(self, context: tuple[Tensor, Tensor], num_steps: int | None = None) -> Any:
        """Optimise a code for each task's context: (x [T, N, d], y [T, N, 1]) -> T fields.

        The network is frozen and dropout off, in training mode too; the result has no graph. Of
        more than `num_points` context points, each step takes a random subset (the same every
        time).
        """
        x, y = context
        num_steps = self.num_steps if num_steps is None else num_steps
        code = self.start.expand(len(x), -1).clone().requires_grad_()
        optimizer = torch.optim.Adam([code], lr=CODE_STEP_SIZE)
        half = (num_steps + 1) // 2
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [half], gamma=0.1)
        draws = torch.Generator().manual_seed(0)
        training = self.training
        self.eval()
        for _ in range(num_steps):
            subset = slice(None)
            if x.shape[1] > self.num_points:
                subset = torch.randperm(x.shape[1], generator=draws)[: self.num_points].to(x.device)
            with torch.enable_grad():
                prediction = self.predict(x[:, subset], self.decoder.condition(code))
                # Summed over tasks, so no task's gradient depends on how many there are.
                loss = (self.loss.inner(prediction, y[:, subset]) + code_penalty(code)).sum()
                (code.grad,) = torch.autograd.grad(loss, [code])
            optimizer.step()
            schedule.step()
        self.train(training)
        with torch.no_grad():
            return self.decoder.condition(code.detach())

    def predict(self, x: Tensor, fields: Any) -> Tensor:
        """The decoder's outputs at x [T, N, d]: [T, N, c]."""
        return self.decoder(x, fields)

    def outer_loss(
        self, batch: Mapping[str, Any], whole: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """In training: the error of the shapes' own codes at the queries plus the codes' penalty.

        Besides the queries, the batch holds "index" [T], which training shapes these are, and
        "epoch", counted from 0. In evaluation mode codes are fitted to the contexts.
        """
        if not self.training:
            return super().outer_loss(batch, whole)
        query_x, query_y = batch["query"]
        code = self.codes[batch["index"]]
        prediction = self.predict(query_x, self.decoder.condition(code))
        ramp = min(1.0, (batch["epoch"] + 1) / CODE_PENALTY_EPOCHS)
        tasks = len(query_y if whole is None else whole)
        penalty = ramp * code_penalty(code).sum() / tasks
        return self.loss.outer(prediction, query_y, whole) + penalty, prediction

    def parameter_groups(self, lr: float, code_lr: float) -> list[dict[str, Any]]:
        """Codes learn with their own step size."""
        weights = [p for p in self.parameters() if p is not self.codes]
        return [{"params": weights, "lr": lr}, {"params": [self.codes], "lr": code_lr}]


def code_penalty(code: Tensor) -> Tensor:
    """CODE_PENALTY |code|^2 of each code [T, L]: [T], the prior of DeepSDF's eq. 9 and 10."""
    return CODE_PENALTY * code.square().sum(dim=-1)
