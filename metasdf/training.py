"""The outer loop: Adam on the query error after adaptation (MetaSDF, Algorithm 1).

The same loop trains the methods MetaSDF is compared with: see `Method.outer_loss`.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from metasdf.checkpoint import build_model, check_continues, load_checkpoint, save_checkpoint
from metasdf.data import SDFDataset, Task, check_shapes, read_split, to_device
from metasdf.errors import InputError
from metasdf.losses import misclassified_percentage
from metasdf.method import Method

TRAIN, VAL = 0, 1  # streams of random numbers


def meta_loss(model: Method, batch: Task) -> tuple[Tensor, Tensor]:
    """Adapt to the contexts; outer loss and misclassified percentage on the queries (scalars)."""
    loss, prediction = model.outer_loss(batch)
    with torch.no_grad():
        misclassified = misclassified_percentage(prediction, batch["query"][1])
    return loss, misclassified


def outer_step(
    model: Method, optimizer: torch.optim.Optimizer, batch: Task, gradient_clip: float
) -> tuple[float, float]:
    """One update of initialisation and step sizes; the batch's loss and misclassified share, %."""
    model.train()
    loss, misclassified = meta_loss(model, batch)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_value_(model.parameters(), gradient_clip)
    optimizer.step()
    return loss.item(), misclassified.item()


@torch.no_grad()
def validate(model: Method, data: SDFDataset, device: torch.device) -> tuple[float, float]:
    """Mean outer loss and misclassified share, %, over a data set: the same draw every time."""
    model.eval()
    totals, count = torch.zeros(2), 0
    for batch in data.batches(epoch=0):
        tasks = len(batch["query"][0])
        loss, misclassified = meta_loss(model, to_device(batch, device))
        totals += tasks * torch.tensor([loss.item(), misclassified.item()])
        count += tasks
    return tuple((totals / count).tolist())


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of what an epoch draws besides its data, dropout: the same in a resumed run."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])


def usable_split(curriculum: Mapping[str, Any], key: str) -> tuple[list, int]:
    """The usable shapes of a split; the others are reported by name on stderr and counted."""
    shapes = read_split(curriculum[key])
    samples, problems = check_shapes(curriculum["data_source"], shapes, curriculum["context_mode"])
    for name, problem in problems.items():
        print(f"left out: {name}: {problem}", file=sys.stderr)
    if problems:
        print(f"{key}: {len(problems)} of {len(shapes)} shapes left out", file=sys.stderr)
    return samples, len(problems)


def train(
    curriculum: Mapping[str, Any],
    device: torch.device,
    load: bool = False,
    overwrite: bool = False,
) -> int:
    """Train as a complete curriculum says, writing checkpoints and TensorBoard logs.

    `<output_dir>/checkpoints/latest.pth` after every epoch, `NNNN.pth` every checkpoint_every
    epochs, `<output_dir>/tensorboard`. With `load`, go on from latest.pth as if never stopped:
    the weights end up the same numbers. Without it, an output_dir that holds a checkpoint is an
    InputError unless `overwrite`.

    Returns how many shapes of the two splits could not be used.
    """
    checkpoints = Path(curriculum["output_dir"], "checkpoints")
    latest = checkpoints / "latest.pth"
    if latest.exists() and not (load or overwrite):
        raise InputError(
            f"{latest}: exists; go on with --load, start anew with --overwrite, "
            f"or choose another --output_dir"
        )
    state = load_checkpoint(latest) if load else None
    train_samples, left_out = usable_split(curriculum, "train_split")
    val_samples, val_left_out = usable_split(curriculum, "val_split")
    train_data = SDFDataset(train_samples, curriculum, TRAIN)
    val_data = SDFDataset(val_samples, curriculum, VAL)
    train_shapes = [str(samples.shape) for samples in train_samples]
    if state:
        check_continues(latest, state, curriculum, train_shapes)

    torch.manual_seed(curriculum["seed"])
    model = build_model(curriculum, len(train_shapes)).to(device)
    optimizer = torch.optim.Adam(model.parameter_groups(curriculum["lr"], curriculum["code_lr"]))
    scheduler = torch.optim.lr_scheduler.StepLR(
        optimizer, curriculum["lr_decay_epochs"], curriculum["lr_decay_factor"]
    )
    first_epoch = 0
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        scheduler.load_state_dict(state["scheduler"])
        first_epoch = state["epoch"]

    epochs = range(first_epoch, curriculum["num_epochs"])
    step = first_epoch * train_data.batches_per_epoch
    progress = tqdm(
        total=curriculum["num_epochs"] * train_data.batches_per_epoch,
        initial=step,
        desc="training",
        unit="step",
        disable=None,
    )
    log = SummaryWriter(Path(curriculum["output_dir"], "tensorboard"), purge_step=step)
    with log, progress:
        for epoch in epochs:
            torch.manual_seed(epoch_seed(curriculum["seed"], epoch))
            for batch in train_data.batches(epoch):
                loss, misclassified = outer_step(
                    model, optimizer, to_device(batch, device), curriculum["gradient_clip"]
                )
                log.add_scalar("Loss/Train", loss, step)
                log.add_scalar("Misclassified Percentage/Train", misclassified, step)
                step += 1
                progress.update()
                progress.set_postfix(epoch=epoch + 1, loss=f"{loss:.4g}", refresh=False)
            scheduler.step()
            done = epoch + 1
            if done % curriculum["validate_every"] == 0 or done == curriculum["num_epochs"]:
                loss, misclassified = validate(model, val_data, device)
                log.add_scalar("Loss/Val", loss, step)
                log.add_scalar("Misclassified Percentage/Val", misclassified, step)
                progress.write(
                    f"epoch {done}: validation loss {loss:.4g}, {misclassified:.2f} % misclassified"
                )
            state = {
                "curriculum": dict(curriculum),
                "train_shapes": train_shapes,
                "epoch": done,
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "scheduler": scheduler.state_dict(),
            }
            save_checkpoint(latest, state)
            if done % curriculum["checkpoint_every"] == 0:
                save_checkpoint(checkpoints / f"{done:04d}.pth", state)
    print(f"trained {curriculum['num_epochs']} epochs, {step} steps: {latest}")
    return left_out + val_left_out
