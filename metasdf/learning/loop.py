"""The outer loop: Adam on the query error after adaptation (MetaSDF, Algorithm 1).

The same loop trains the methods MetaSDF is compared with: see `Method.outer_loss`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metasdf.data.tasks import Task, TaskDataset, to_device
from metasdf.errors import InputError
from metasdf.learning.gradients import MetaGradients, meta_loss
from metasdf.maml import Method


class DivergedError(InputError):
    """No step of an epoch had a finite meta-gradient."""


def microbatches(batch: Task, scenes: int | None) -> Iterator[Task]:
    """The batch in parts of so many tasks; None: whole."""
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


def losses(
    model: Method,
    batch: Task,
    scenes_per_microbatch: int | None,
    evaluate: Callable[[Method, Task, Tensor], tuple[Tensor, Tensor]] = meta_loss,
) -> tuple[float, float]:
    """A batch's outer loss and score, one part after the other.

    evaluate: what gives a part's; `MetaGradients` adds up gradients as well, which sum to the whole
    batch's, whatever the parts: only one part's graph is held. (But for dropout, of which parts
    draw other masks.)
    """
    whole = batch["query"][1]
    total, total_score = 0.0, 0.0
    for part in microbatches(batch, scenes_per_microbatch):
        loss, score = evaluate(model, part, whole)
        total += loss.item()
        total_score += score.item() * len(part["query"][1]) / len(whole)
    return total, total_score


def outer_step(
    model: Method,
    optimizer: torch.optim.Optimizer,
    batch: Task,
    gradient_clip: float,
    scenes_per_microbatch: int | None = None,
    gradients: MetaGradients | None = None,
) -> tuple[float, float]:
    """One update of initialisation and step sizes; the batch's loss and score.

    gradients: how they are computed; None: in float32, not compiled. Where the meta-gradient is not
    finite nothing is updated, and the loss returned is NaN.
    """
    model.train()
    optimizer.zero_grad(set_to_none=True)
    loss, score = losses(model, batch, scenes_per_microbatch, gradients or MetaGradients())
    found = [p.grad for p in model.parameters() if p.grad is not None]
    if not all(gradient.isfinite().all() for gradient in found):
        return math.nan, score  # one such step would ruin every weight
    torch.nn.utils.clip_grad_value_(model.parameters(), gradient_clip)
    optimizer.step()
    return loss, score


def cosine(share: float) -> float:
    """Falls from 1 to 0 as the share of the training that is done rises from 0 to 1."""
    return (1 + math.cos(math.pi * share)) / 2


def decay(curriculum: Mapping[str, Any], epoch: int) -> float:
    """What the outer optimiser's step sizes are multiplied with in an epoch (counted from 0)."""
    if curriculum["lr_schedule"] == "cosine":
        return cosine(epoch / curriculum["num_epochs"])
    return curriculum["lr_decay_factor"] ** (epoch // curriculum["lr_decay_epochs"])


@torch.no_grad()
def validate(
    model: Method,
    data: TaskDataset,
    device: torch.device,
    scenes_per_microbatch: int | None = None,
) -> tuple[float, float]:
    """Mean outer loss and score over a data set: the same draw every time."""
    model.eval()
    totals, count = torch.zeros(2), 0
    for batch in data.batches(epoch=0):
        tasks = len(batch["query"][0])
        batch = to_device(batch, device)
        totals += tasks * torch.tensor(losses(model, batch, scenes_per_microbatch))
        count += tasks
    return tuple((totals / count).tolist())


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of what an epoch draws besides its data, dropout: the same in a resumed run."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def begin_epoch(
    optimizer: torch.optim.Optimizer,
    start_step_sizes: Sequence[float],
    curriculum: Mapping[str, Any],
    epoch: int,
) -> None:
    """Set random state and step sizes, so that an epoch is the same in a resumed run."""
    torch.manual_seed(epoch_seed(curriculum["seed"], epoch))
    for group, start in zip(optimizer.param_groups, start_step_sizes, strict=True):
        group["lr"] = start * decay(curriculum, epoch)
