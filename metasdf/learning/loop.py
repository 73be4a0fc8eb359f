"""The outer loop: Adam on the query error after adaptation (MetaSDF, Algorithm 1).

One generator, `outer_loop`, trains every method on every kind of task. It yields a record after
each step; checkpoints, logs, progress bars and stop conditions are the business of its callers.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasdf.data.tasks import Task, TaskDataset, to_device
from metasdf.errors import InputError
from metasdf.learning.gradients import MetaGradients, meta_loss
from metasdf.method import Method


class DivergedError(InputError):
    """No step of an epoch had a finite meta-gradient."""


@dataclass(frozen=True)
class StepRecord:
    """One outer step.

    Attributes:
        epoch: which epoch, counted from 0.
        step: which step of the whole training, counted from 0.
        loss: outer loss of the batch, a detached scalar; NaN where the step was left out. Reading
            it makes the host wait for the device, so read it only where it is shown.
        score: the loss's score for people, a detached scalar.
        left_out: steps of this epoch so far that changed nothing, as their meta-gradient was not
            finite.
        ends_epoch: whether it is the last step of its epoch.
    """

    epoch: int
    step: int
    loss: Tensor
    score: Tensor
    left_out: int
    ends_epoch: bool


def outer_loop(
    model: Method,
    optimizer: torch.optim.Optimizer,
    tasks: TaskDataset,
    curriculum: Mapping[str, Any],
    *,
    first_epoch: int = 0,
    num_epochs: int | None = None,
    lr_factor: Callable[[int], float] | None = None,
    stop: Callable[[], bool] | None = None,
    gradients: MetaGradients | None = None,
) -> Iterator[StepRecord]:
    """Take outer steps, epoch after epoch, and yield a record of each.

    Random state and step sizes are set per epoch, so a resumed run takes the same steps.

    Args:
        model, optimizer: as `untrained` makes them; both change.
        tasks: what to train on.
        curriculum: a complete one.
        first_epoch: where to start, counted from 0.
        num_epochs: where to end; None: never, `stop` decides.
        lr_factor: what Adam's step sizes are multiplied by, from the epoch, asked before each step;
            None: as the curriculum's lr_schedule says. They are also warmed up (`warmup`).
        stop: asked before each step; True ends the loop.
        gradients: the model's; None: as the curriculum says.

    Raises:
        DivergedError: no step of an epoch had a finite meta-gradient.
    """
    device = next(model.parameters()).device
    gradients = gradients or meta_gradients(model, curriculum)
    rates = [group["lr"] for group in optimizer_groups(model, curriculum)]
    factor_of = lr_factor or (lambda epoch: decay(curriculum, epoch))
    step = first_epoch * tasks.batches_per_epoch
    epochs = itertools.count(first_epoch) if num_epochs is None else range(first_epoch, num_epochs)
    for epoch in epochs:
        torch.manual_seed(epoch_seed(curriculum["seed"], epoch))
        taken = left_out = 0
        for batch in tasks.batches(epoch):
            if stop is not None and stop():
                _check_diverged(epoch, taken, left_out)
                return
            factor = factor_of(epoch) * warmup(curriculum, step)
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            loss, score, finite = outer_step(
                *(gradients, optimizer, to_device(batch, device)),
                curriculum["gradient_clip"],
                curriculum["scenes_per_microbatch"],
                curriculum["gradient_norm"],
            )
            taken, left_out = taken + 1, left_out + (not finite)
            ends_epoch = taken == tasks.batches_per_epoch
            if ends_epoch:
                _check_diverged(epoch, taken, left_out)
            loss = loss if finite else torch.full_like(loss, math.nan)
            yield StepRecord(epoch, step, loss, score, left_out, ends_epoch)
            step += 1


def _check_diverged(epoch: int, taken: int, left_out: int) -> None:
    if taken and left_out == taken:
        raise DivergedError(
            f"epoch {epoch + 1}: no finite meta-gradient in {left_out} of {taken} steps; "
            "lower init_lr or lr"
        )


def outer_step(
    gradients: MetaGradients,
    optimizer: torch.optim.Optimizer,
    batch: Task,
    gradient_clip: float,
    scenes_per_microbatch: int | None = None,
    gradient_norm: float | None = None,
) -> tuple[Tensor, Tensor, bool]:
    """One update of the initialisation and the step sizes.

    Args:
        gradients: of the model.
        optimizer: of its parameters.
        batch: as `TaskDataset.batch` gives it, on the model's device.
        gradient_clip: largest absolute value in the meta-gradient.
        scenes_per_microbatch: see `accumulate`.
        gradient_norm: largest norm of the meta-gradient; None: any.

    Returns:
        The batch's loss and score, detached scalars, and whether the meta-gradient was finite.
        Where it is not, nothing is updated: one such step would ruin every weight.
    """
    model = gradients.model.train()
    optimizer.zero_grad(set_to_none=True)
    loss, score = accumulate(gradients, batch, scenes_per_microbatch)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    finite = bool(torch.stack([gradient.isfinite().all() for gradient in grads]).all())
    if finite:
        torch.nn.utils.clip_grad_value_(model.parameters(), gradient_clip)
        if gradient_norm is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), gradient_norm)
        optimizer.step()
    return loss, score, finite


def accumulate(
    evaluate: Callable[[Task, Tensor], tuple[Tensor, Tensor]],
    batch: Task,
    scenes_per_microbatch: int | None,
) -> tuple[Tensor, Tensor]:
    """Evaluate a batch micro-batch by micro-batch; the full batch's loss and score.

    With `MetaGradients` this is gradient accumulation: the gradients of all micro-batches sum to
    those of the full batch, and the graph of only one is held at a time. (With dropout the masks
    depend on the size of the micro-batches.)

    Args:
        evaluate: from a micro-batch and the query targets of the full batch to loss and score.
        batch: as `TaskDataset.batch` gives it.
        scenes_per_microbatch: tasks in each micro-batch; None: all.
    """
    whole = batch["query"][1]
    total, total_score = whole.new_zeros(()), whole.new_zeros(())
    for part in microbatches(batch, scenes_per_microbatch):
        loss, score = evaluate(part, whole)
        total = total + loss
        total_score = total_score + score * (len(part["query"][1]) / len(whole))
    return total, total_score


def microbatches(batch: Task, scenes: int | None) -> Iterator[Task]:
    """Split a batch into micro-batches of `scenes` tasks, the last perhaps smaller; None: one."""
    count = len(batch["query"][0])
    scenes = scenes or count
    for start in range(0, count, scenes):
        part = {
            name: tuple(t[start : start + scenes] for t in batch[name])
            for name in ("context", "query")
        }
        if "index" in batch:
            part["index"] = batch["index"][start : start + scenes]
        yield {**batch, **part}


@torch.no_grad()
def validate(
    model: Method,
    tasks: TaskDataset,
    device: torch.device,
    scenes_per_microbatch: int | None = None,
) -> tuple[float, float]:
    """Mean outer loss and score over a data set, which draws the same points every time."""
    model.eval()
    totals, count = torch.zeros(2, device=device), 0

    def evaluate(part: Task, whole: Tensor) -> tuple[Tensor, Tensor]:
        return meta_loss(model, part, whole)

    for batch in tasks.batches(epoch=0):
        size = len(batch["query"][0])
        batch = to_device(batch, device)
        totals += size * torch.stack(accumulate(evaluate, batch, scenes_per_microbatch))
        count += size
    return tuple((totals / count).tolist())


def optimizer_groups(model: Method, curriculum: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The model's parameter groups, with the step sizes that the curriculum starts with."""
    return model.parameter_groups(curriculum["lr"], curriculum["code_lr"])


def meta_gradients(model: Method, curriculum: Mapping[str, Any]) -> MetaGradients:
    """The model's meta-gradients, computed as the curriculum says."""
    return MetaGradients(model, curriculum["precision"], curriculum["compile"])


def cosine(share: float) -> float:
    """Falls from 1 to 0 as the share of the training that is done rises from 0 to 1."""
    return (1 + math.cos(math.pi * share)) / 2


def decay(curriculum: Mapping[str, Any], epoch: int) -> float:
    """What Adam's step sizes are multiplied by in an epoch, counted from 0 (lr_schedule)."""
    if curriculum["lr_schedule"] == "cosine":
        return cosine(epoch / curriculum["num_epochs"])
    return curriculum["lr_decay_factor"] ** (epoch // curriculum["lr_decay_epochs"])


def warmup(curriculum: Mapping[str, Any], step: int) -> float:
    """What Adam's step sizes are further multiplied by in a step, counted from 0 (warmup_steps)."""
    return min(1.0, (step + 1) / max(1, curriculum["warmup_steps"]))


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of what an epoch draws besides its data, such as dropout: the same in a resumed run."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
