"""Losses between a network's output [T, N, c] and signed distances [T, N, 1], inside negative.

Each loss gives `inner` per task [T], averaged over a task's points, so that what one task
learns from its context does not depend on the others; and `outer`, one number for a batch. For a
micro-batch, `outer` also takes the targets of the full batch, `whole`: the losses of all
micro-batches then sum to the loss of the full batch.
"""

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from metasdf.errors import InputError

SURFACES = ("composite", "logit")  # of a composite network, see `CompositeLoss.surface`
IGNORED_DISTANCE = -1.0  # a query target of exactly this has a known sign, an unknown distance


class Score(NamedTuple):
    """How good predictions are, for people: what it is called, its unit, and the function."""

    name: str
    unit: str
    of: Callable[[Tensor, Tensor], Tensor]


def misclassified_percentage(prediction: Tensor, target: Tensor) -> Tensor:
    """Share of points, in %, on the wrong side: sign(channel 0) != sign(signed distance).

    Channel 0 is the sign logit of a composite network and the distance of any other.
    """
    wrong = torch.sign(prediction[..., 0]) != torch.sign(target[..., 0])
    return 100 * wrong.float().mean()


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of colours in [-1, 1], the mean over tasks: [T, N, c] -> ().

    Predictions are clamped to [-1, 1] first, as for showing them.
    """
    error = (prediction.clamp(-1, 1) - target).square().mean(dim=(-2, -1))
    return (10 * torch.log10(4 / error.clamp(min=1e-12))).mean()


MISCLASSIFIED = Score("Misclassified Percentage", "% misclassified", misclassified_percentage)


class DistanceLoss(nn.Module):
    """Mean |f - s| or (f - s)^2 over points, for networks with one output, the distance f.

    inner, outer: "l1" or "l2". clamp: both f and s are first clamped to [-clamp, clamp], so that
    only what is near the surface counts (DeepSDF, Park et al. 2019, eq. 4); None: they are not.
    """

    out_features = 1
    score = MISCLASSIFIED
    _distances: ClassVar = {"l1": torch.abs, "l2": torch.square}

    def __init__(self, inner: str = "l1", outer: str = "l1", clamp: float | None = None) -> None:
        super().__init__()
        self.clamp = clamp
        self._inner = self._distances[inner]
        self._outer = self._distances[outer]

    def inner(self, prediction: Tensor, target: Tensor) -> Tensor:
        return self._inner(self._difference(prediction, target)).mean(dim=(-2, -1))

    def outer(self, prediction: Tensor, target: Tensor, whole: Tensor | None = None) -> Tensor:
        count = target.numel() if whole is None else whole.numel()
        return self._outer(self._difference(prediction, target)).sum() / count

    def surface_error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The error of the distance at each point [T, N]."""
        return self._inner(self._difference(prediction, target))[..., 0]

    @staticmethod
    def side_error(prediction: Tensor, side: Tensor) -> Tensor:
        """How far a point is on the wrong side; side: 1 outside or -1 inside, [T, N]."""
        return F.relu(-side * prediction[..., 0])

    def _difference(self, prediction: Tensor, target: Tensor) -> Tensor:
        if self.clamp is not None:
            prediction = prediction.clamp(-self.clamp, self.clamp)
            target = target.clamp(-self.clamp, self.clamp)
        return prediction - target

    @staticmethod
    def signed_distance(prediction: Tensor) -> Tensor:
        return prediction[..., :1]

    @staticmethod
    def surface(prediction: Tensor, kind: str = "composite") -> Tensor:
        """What is zero on the surface, [..., 1]: the distance, whatever the kind."""
        return prediction[..., :1]


class ColourLoss(DistanceLoss):
    """The same of colours in [-1, 1], averaged over points and channels (SIREN, sec. 4.1)."""

    out_features = 3
    score = Score("PSNR", "dB PSNR", psnr)


class CompositeLoss(nn.Module):
    """Sign and distance as two tasks weighed by learned uncertainties (MetaSDF sec. 4.1).

    BCE / (2 s0^2) + L1 / (2 s1^2) + log(s0 s1), where channel 0 of the network is the logit of
    "outside", channel 1 the signed distance, and s = (s0, s1) starts at 1. The inner and the
    outer loss each learn their own pair (Kendall et al. 2018). In the outer L1 term, queries whose
    target is exactly -1 count as 0, and the mean is over all queries, as in the original.

    Args:
        sharpness: None: the cross-entropy's targets are 0 inside and 1 outside, as in the original.
            A number k > 0, in inverse units of the distance s: they are sigmoid(k s), and the
            entropy of the targets, the least that the cross-entropy can be, is subtracted. The
            best logit is then k s. So near the surface, within a few 1/k, points say by their
            distance where it is, and points on the surface ask for a logit of 0, where the
            original counts them as inside.
    """

    out_features = 2
    score = MISCLASSIFIED

    def __init__(self, sharpness: float | None = None) -> None:
        super().__init__()
        self.sharpness = sharpness
        self.sigma = nn.Parameter(torch.ones(2))
        self.sigma_outer = nn.Parameter(torch.ones(2))

    def inner(self, prediction: Tensor, target: Tensor) -> Tensor:
        bce, l1 = self._terms(prediction, target)
        return self._weigh(bce.mean(dim=-1), l1.mean(dim=-1), self.sigma)

    def outer(self, prediction: Tensor, target: Tensor, whole: Tensor | None = None) -> Tensor:
        share = 1.0 if whole is None else target.numel() / whole.numel()
        bce, l1 = self._terms(prediction, target)
        l1 = l1 * (target[..., 0] != IGNORED_DISTANCE)
        return self._weigh(bce.mean() * share, l1.mean() * share, self.sigma_outer, share)

    def surface_error(self, prediction: Tensor, target: Tensor) -> Tensor:
        """The cross-entropy at each point [T, N]: the error of what says where the surface is."""
        logit, target = prediction[..., 0], target[..., 0]
        if self.sharpness is None:
            outside = (target > 0).to(prediction.dtype)
            return F.binary_cross_entropy_with_logits(logit, outside, reduction="none")
        best = self.sharpness * target
        outside = torch.sigmoid(best)
        # F.softplus(z) - outside * z is the cross-entropy of the logit z.
        return F.softplus(logit) - F.softplus(best) - outside * (logit - best)

    @staticmethod
    def side_error(prediction: Tensor, side: Tensor) -> Tensor:
        """The cross-entropy where only the side, 1 outside or -1 inside, is known: [T, N]."""
        return F.softplus(-side * prediction[..., 0])

    def _terms(self, prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        error = self.surface_error(prediction, target)
        return error, (prediction[..., 1] - target[..., 0]).abs()

    @staticmethod
    def _weigh(bce: Tensor, l1: Tensor, sigma: Tensor, share: float = 1.0) -> Tensor:
        terms = bce / (2 * sigma[0] ** 2) + l1 / (2 * sigma[1] ** 2)
        return terms + share * torch.log(sigma.prod())

    @staticmethod
    def signed_distance(prediction: Tensor) -> Tensor:
        """sign(channel 0) |channel 1|, [..., 1]."""
        return torch.sign(prediction[..., :1]) * prediction[..., 1:2].abs()

    @classmethod
    def surface(cls, prediction: Tensor, kind: str = "composite") -> Tensor:
        """What is zero on the surface, [..., 1]; kind: one of SURFACES.

        "composite" is the signed distance, as in the original. It jumps where the sign changes, so
        that marching cubes makes a staircase of it. "logit" is channel 0: smooth, with the same
        signs, but no distance.
        """
        return prediction[..., :1] if kind == "logit" else cls.signed_distance(prediction)


TRAINING_MODES = ("multitask", "l1", "l2")


def build_loss(
    training_mode: str,
    clamp: float | None = None,
    outer: str = "l1",
    sharpness: float | None = None,
) -> DistanceLoss | CompositeLoss:
    """ "multitask": composite inside and outside. "l1", "l2": that loss inside, `outer` outside.

    clamp: see `DistanceLoss`; an InputError with "multitask", which knows no clamping.
    sharpness: see `CompositeLoss`; an InputError with the others, which have no logit.
    """
    if training_mode == "multitask":
        if clamp is not None:
            raise InputError("clamp: goes with training_mode l1 or l2; set it to none")
        return CompositeLoss(sharpness)
    if sharpness is not None:
        raise InputError("sharpness: goes with training_mode multitask; set it to none")
    if training_mode in ("l1", "l2"):
        return DistanceLoss(inner=training_mode, outer=outer, clamp=clamp)
    choices = ", ".join(TRAINING_MODES)
    raise InputError(f"training_mode: {training_mode!r} is unknown; choose one of {choices}")
