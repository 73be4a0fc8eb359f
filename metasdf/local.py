"""Local fields: latents in space, which steer a coordinate network where they lie.

MetaSDF adapts all weights of a network, and each weight acts everywhere. A latent on a grid acts in
its own neighbourhood only, so what it learns of one place carries over to shapes of other kinds. A
single latent, a grid of one point, is Functa's modulation (Dupont et al. 2022); a finer grid whose
latents alone are adapted is that of Spatial Functa (Bauer et al. 2023). Latents may also lie at
points that move, among which a place chooses softly.

Latents are tensors like the weights: the inner loop of `metasdf.maml` adapts the ones, the others,
or both.
"""

import itertools
import math
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from metasdf.errors import InputError
from metasdf.networks import BatchLinear, CoordinateNetwork, MetaModule, Params

ADAPTED = ("weights", "latents", "both")
ENTRANCES = ("first", "every")
INITIAL_LATENTS = 0.01  # standard deviation
PROJECTED = 0.3  # initial size of what a latent of size 1 adds to a layer
_SHARED = {"weight": 2, "bias": 1}  # dimensions of tensors that all tasks share
UNSEEN = 0.5  # points that count as seen by every latent beside its own


class LatentGrids(MetaModule):
    """Latents on regular grids over [-1, 1]^d, several resolutions, interpolated linearly.

    Args:
        dimensions: d.
        resolutions: points along each side, of each grid; a grid of 1 has the same latent
            everywhere.
        channels: of each grid.
    """

    def __init__(self, dimensions: int, resolutions: Sequence[int], channels: int) -> None:
        super().__init__()
        self.dimensions, self.resolutions = dimensions, tuple(resolutions)
        self.features = channels * len(self.resolutions)
        for resolution in self.resolutions:
            latents = INITIAL_LATENTS * torch.randn(resolution**dimensions, channels)
            self.register_parameter(f"grid{resolution}", nn.Parameter(latents))

    def forward(self, x: Tensor, params: Params | None = None) -> Tensor:
        """Latents [..., features] at points x [..., d]; see `MetaModule` for params."""
        latents = {**self._parameters, **(params or {})}
        features = []
        for resolution in self.resolutions:
            grid = latents[f"grid{resolution}"]
            corners, shares = self._corners(x, resolution)
            if grid.dim() == 3:  # a grid for each task
                corners = corners + _first_rows(grid)
            values = grid.flatten(0, -2).index_select(0, corners.flatten())
            values = values.view(*corners.shape, grid.shape[-1])
            features.append((values * shares.unsqueeze(-1)).sum(-2))
        return torch.cat(features, dim=-1)

    @torch.no_grad()
    def points_seen(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """For each grid, how many of the points x [T, N, d] each latent sees, [T, latents, 1].

        A point counts for the latents around it by their shares in its interpolation.
        """
        seen = OrderedDict()
        for resolution in self.resolutions:
            corners, shares = self._corners(x, resolution)
            counts = x.new_zeros(len(x), resolution**self.dimensions, 1)
            rows = (corners + _first_rows(counts)).flatten()
            counts.view(-1).index_add_(0, rows, shares.flatten())
            seen[f"grid{resolution}"] = counts
        return seen

    def _corners(self, x: Tensor, resolution: int) -> tuple[Tensor, Tensor]:
        """Rows of the latents around points x [..., d], and their shares, each [..., 2^d]."""
        if resolution == 1:
            ones = torch.ones_like(x[..., :1])
            return torch.zeros_like(ones, dtype=torch.long), ones
        place = (x.nan_to_num().clamp(-1, 1) + 1) * ((resolution - 1) / 2)
        low = place.detach().floor().clamp(max=resolution - 2)
        high_share = place - low
        low_share = 1 - high_share
        low = low.long()
        rows, shares = [], []
        for corner in itertools.product((0, 1), repeat=self.dimensions):
            row, share = 0, 1.0
            for axis, high in enumerate(corner):
                row = row * resolution + low[..., axis] + high
                share = share * (high_share if high else low_share)[..., axis]
            rows.append(row)
            shares.append(share)
        return torch.stack(rows, dim=-1), torch.stack(shares, dim=-1)


def _first_rows(grid: Tensor) -> Tensor:
    """Where the rows of each task begin once the grids [T, latents, C] of all lie in one."""
    tasks, latents = grid.shape[:2]
    return torch.arange(0, tasks * latents, latents, device=grid.device).view(-1, 1, 1)


class LatentPoints(MetaModule):
    """Latents at points of [-1, 1]^d that are adapted along with them.

    A place has the mean of all latents, weighed by a softmax of -|x - p|^2 / (2 width^2): those of
    the points nearest to it. The points begin evenly spread, as the first of Sobol's sequence.

    Args:
        dimensions: d.
        count: of points.
        channels: of each latent.
    """

    def __init__(self, dimensions: int, count: int, channels: int) -> None:
        super().__init__()
        self.features = channels
        self.width = 0.5 * 2 / count ** (1 / dimensions)  # half the points' mean spacing
        spread = torch.quasirandom.SobolEngine(dimensions).draw(count + 1)[1:]
        self.places = nn.Parameter((2 * spread - 1) / self.width)  # in units of the width
        self.values = nn.Parameter(INITIAL_LATENTS * torch.randn(count, channels))

    def forward(self, x: Tensor, params: Params | None = None) -> Tensor:
        """Latents [..., features] at points x [..., d]; see `MetaModule` for params."""
        latents = {**self._parameters, **(params or {})}
        return self._shares(x, latents["places"]) @ latents["values"]

    @torch.no_grad()
    def points_seen(self, x: Tensor) -> "OrderedDict[str, Tensor]":
        """How many of the points x [T, N, d] each latent sees where it begins, [T, latents, 1].

        Not differentiated, although it depends on where latents begin.
        """
        seen = self._shares(x, self.places).sum(dim=-2).unsqueeze(-1)
        return OrderedDict(places=seen, values=seen)

    def _shares(self, x: Tensor, places: Tensor) -> Tensor:
        """The share of each latent at points x [..., d]: [..., latents]."""
        x = x / self.width
        # |x - p|^2 / 2, but for what is the same for all latents and so cancels.
        return (x @ places.mT - places.square().sum(dim=-1).unsqueeze(-2) / 2).softmax(dim=-1)


class LocalNetwork(CoordinateNetwork):
    """A coordinate network whose layers add what the latents at a point say.

    Args:
        kind: as of `CoordinateNetwork`, which also takes all of `network`.
        adapted: "latents", or "both" them and the weights: what `meta_named_parameters` lists.
            The maps from latents to layers are shared by all shapes in either case.
        resolutions, channels: of `LatentGrids`; channels also of `LatentPoints`.
        points: latents lie at so many points that move, see `LatentPoints`, instead of on grids.
        enter: "first": latents are added before the first activation; "every": before each.

    Raises:
        InputError: an argument is none of those named here.
    """

    def __init__(
        self,
        kind: str,
        adapted: str = "both",
        resolutions: Sequence[int] = (8, 32),
        channels: int = 4,
        points: int | None = None,
        enter: str = "every",
        **network: Any,
    ) -> None:
        super().__init__(kind, **network)
        if adapted not in ADAPTED[1:]:
            raise InputError(f"adapted: {adapted!r} is unknown; choose one of latents, both")
        if enter not in ENTRANCES:
            raise InputError(f"latents_enter: {enter!r} is unknown; choose one of first, every")
        self.adapts_weights = adapted == "both"
        dimensions = network.get("in_features", 3)
        if points is None:
            self.latents = LatentGrids(dimensions, resolutions, channels)
        else:
            self.latents = LatentPoints(dimensions, points, channels)
        hidden = [layer for layer in self.net if isinstance(layer, BatchLinear)][:-1]
        features = self.latents.features
        self.projections = nn.ModuleList(
            nn.Linear(features, layer.out_features, bias=False)
            for layer in (hidden[:1] if enter == "first" else hidden)
        )
        for projection in self.projections:
            nn.init.normal_(projection.weight, std=PROJECTED / math.sqrt(features))

    def meta_named_parameters(
        self, prefix: str = "", recurse: bool = True
    ) -> Iterator[tuple[str, nn.Parameter]]:
        """The latents, and the weights if these are adapted as well."""
        for name, p in super().meta_named_parameters(prefix, recurse):
            if self.adapts_weights or name.removeprefix(prefix).lstrip(".").startswith("latents."):
                yield name, p

    def forward(self, x: Tensor, params: Params | None = None) -> Tensor:
        latents = self.latents(x, self.get_subdict(params, "latents"))
        weights = self.get_subdict(params, "net") if self.adapts_weights else None
        projections = iter(self.projections)
        for name, layer in self.net.named_children():
            if not isinstance(layer, BatchLinear):
                x = layer(x)
                continue
            own = self.net.get_subdict(weights, name)
            projection = next(projections, None)
            x = (
                layer(x, own)
                if projection is None
                else _shifted(layer, own, x, projection, latents)
            )
        return x

    def step_scales(self, x: Tensor) -> dict[str, Tensor]:
        """What a step on the latents is multiplied by, given the context's points x [T, N, d].

        The loss is a mean over the context, so that a latent's gradient falls with the share of
        points that it sees. Here it becomes a mean over those: name -> [T, latents, 1].
        """
        return {
            f"latents.{name}": x.shape[1] / (seen + UNSEEN)
            for name, seen in self.latents.points_seen(x).items()
        }


def _shifted(
    layer: BatchLinear, params: Params | None, x: Tensor, projection: nn.Linear, latents: Tensor
) -> Tensor:
    """layer(x, params) + projection(latents), in as few passes over memory as can be."""
    tensors = params or {}
    if any(name not in tensors or tensors[name].dim() == dims for name, dims in _SHARED.items()):
        return layer(x, params) + projection(latents)
    shared = projection.weight.expand(len(x), -1, -1)
    shift = torch.baddbmm(tensors["bias"].unsqueeze(-1), shared, latents.transpose(-1, -2))
    return torch.baddbmm(shift, tensors["weight"], x.transpose(-1, -2)).transpose(-1, -2)


def latents_of(network: nn.Module) -> Mapping[str, Tensor]:
    """The latents that a network lets be adapted, by name; none, if it is not a local one."""
    if not isinstance(network, LocalNetwork):
        return {}
    named = network.latents.named_parameters()
    return {f"latents.{name}": p for name, p in named if p.requires_grad}


def parse_resolutions(text: str) -> tuple[int, ...]:
    """Resolutions of grids from a text as "8,32".

    Raises:
        InputError: it is none, or too large to be held.
    """
    try:
        resolutions = tuple(int(word) for word in text.split(","))
    except ValueError:
        resolutions = ()
    if not resolutions or min(resolutions) < 1 or max(resolutions) > 256:
        raise InputError(f"latent_grids: {text!r} is no list of whole numbers 1 to 256, as 8,32")
    if len(set(resolutions)) < len(resolutions):
        raise InputError(f"latent_grids: {text!r} names a resolution twice")
    return resolutions
