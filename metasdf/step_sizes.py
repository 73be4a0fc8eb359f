"""The six kinds of inner step sizes, learned along with the initialisation (MetaSDF sec. 3)."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from metasdf.errors import InputError

STEP_SIZE_TYPES = (
    "static",  # one number, not learned
    "global",  # one learned number
    "per_step",  # one number per step
    "simple_per_parameter",  # one number per weight tensor
    "meta_sgd",  # one number per weight (Meta-SGD, Li et al. 2017)
    "per_parameter",  # one number per weight and step
)


class StepSizes(nn.Module):
    """Step sizes for each weight tensor and inner step.

    Steps beyond the trained K repeat the sizes of the last one, or smaller and smaller ones.

    Args:
        kind: one of STEP_SIZE_TYPES.
        weights: name -> tensor, the weights that the steps are taken on.
        num_steps: number K of inner steps in training.
        initial: where every step size starts.
        original_extra_steps: the rule of the original program instead: more than K steps of
            "per_parameter" take 1e-2 everywhere.
        extra_factor: what the sizes are multiplied by in step K + 1, again in step K + 2, and so
            on. Below 1, all extra steps together can go only so far.

    Raises:
        InputError: the kind is unknown.
    """

    def __init__(
        self,
        kind: str,
        weights: Mapping[str, Tensor],
        num_steps: int,
        initial: float,
        original_extra_steps: bool = False,
        extra_factor: float = 1.0,
    ) -> None:
        super().__init__()
        if kind not in STEP_SIZE_TYPES:
            choices = ", ".join(STEP_SIZE_TYPES)
            raise InputError(f"lr_type: {kind!r} is unknown; choose one of {choices}")
        self.kind = kind
        self.names = list(weights)
        self.num_steps = num_steps
        self.original_extra_steps = original_extra_steps
        self.extra_factor = extra_factor

        def full(shape: Iterable[int]) -> nn.Parameter:
            return nn.Parameter(torch.full(tuple(shape), float(initial)))

        if kind == "static":
            self.register_buffer("values", torch.full((1,), float(initial)))
        elif kind == "global":
            self.values = full((1,))
        elif kind == "per_step":
            self.values = nn.ParameterList(full((1,)) for _ in range(num_steps))
        elif kind == "simple_per_parameter":
            self.values = nn.ParameterList(full((1,)) for _ in weights)
        elif kind == "meta_sgd":
            self.values = nn.ParameterList(full(w.shape) for w in weights.values())
        else:
            self.values = nn.ModuleList(
                nn.ParameterList(full(w.shape) for _ in range(num_steps)) for w in weights.values()
            )

    def steps(self, count: int) -> list[dict[str, Tensor]]:
        """Step sizes by weight name, for each of `count` steps."""
        trained = [self._step(k, count) for k in range(min(count, self.num_steps))]
        extra = [self._extra_step(n, count) for n in range(1, count - len(trained) + 1)]
        return trained + extra

    def _extra_step(self, number: int, count: int) -> dict[str, Tensor]:
        sizes, factor = self._step(self.num_steps - 1, count), self.extra_factor**number
        return sizes if factor == 1 else {name: factor * size for name, size in sizes.items()}

    def _step(self, k: int, count: int) -> dict[str, Tensor]:
        if self.kind in ("static", "global"):
            return dict.fromkeys(self.names, self.values)
        if self.kind == "per_step":
            return dict.fromkeys(self.names, self.values[k])
        if self.kind in ("simple_per_parameter", "meta_sgd"):
            return dict(zip(self.names, self.values, strict=True))
        if self.original_extra_steps and count > self.num_steps:
            return dict.fromkeys(self.names, self.values[0][0].new_tensor([1e-2]))
        return {name: sizes[k] for name, sizes in zip(self.names, self.values, strict=True)}
