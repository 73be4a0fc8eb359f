"""The outer loop: Adam on the query error after adaptation (MetaSDF, Algorithm 1).

The same loop trains the methods MetaSDF is compared with: see `Method.outer_loss`.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from metasdf.data.names import read_split
from metasdf.data.tasks import SDFDataset, TaskDataset, check_shapes, to_device
from metasdf.errors import InputError
from metasdf.images.tasks import PlaneDataset, load_images, split_images
from metasdf.learning.checkpoints import check_continues, load_checkpoint, save_checkpoint
from metasdf.learning.curriculum import is_2d
from metasdf.learning.gradients import MetaGradients
from metasdf.learning.loop import DivergedError, begin_epoch, outer_step, validate
from metasdf.learning.models import build_model
from metasdf.maml import Method

TRAIN, VAL = 0, 1  # streams of random numbers


def usable_split(curriculum: Mapping[str, Any], key: str) -> tuple[list, int]:
    """The usable shapes of a split; the others are reported by name on stderr and counted."""
    shapes = read_split(curriculum[key])
    samples, problems = check_shapes(curriculum["data_source"], shapes, curriculum["context_mode"])
    for name, problem in problems.items():
        print(f"left out: {name}: {problem}", file=sys.stderr)
    if problems:
        print(f"{key}: {len(problems)} of {len(shapes)} shapes left out", file=sys.stderr)
    return samples, len(problems)


Data = tuple[TaskDataset, TaskDataset, list[str], int]


def shape_data(curriculum: Mapping[str, Any]) -> Data:
    """What to train on and to validate on, names of the former, and how many were left out."""
    train_samples, left_out = usable_split(curriculum, "train_split")
    val_samples, val_left_out = usable_split(curriculum, "val_split")
    return (
        SDFDataset(train_samples, curriculum, TRAIN),
        SDFDataset(val_samples, curriculum, VAL),
        [str(samples.shape) for samples in train_samples],
        left_out + val_left_out,
    )


def plane_data(curriculum: Mapping[str, Any]) -> Data:
    """The same of digits or photographs; the last `val_images` to train on are to validate on."""
    images, left_out = load_images(curriculum, "train")
    training, validation = split_images(curriculum, images)
    return (
        PlaneDataset(training, curriculum, TRAIN),
        PlaneDataset(validation, {**curriculum, "images_per_epoch": None}, VAL),
        [str(index) for index in range(len(training))],
        left_out,
    )


def task_data(curriculum: Mapping[str, Any]) -> Data:
    """`plane_data` or `shape_data`, as the curriculum is one of 2D or of 3D."""
    return (plane_data if is_2d(curriculum) else shape_data)(curriculum)


def untrained(
    curriculum: Mapping[str, Any], num_shapes: int, device: torch.device
) -> tuple[Method, torch.optim.Optimizer, list[float]]:
    """The model to train, its optimiser, and the step sizes that this starts with."""
    torch.manual_seed(curriculum["seed"])
    model = build_model(curriculum, num_shapes).to(device)
    optimizer = torch.optim.Adam(model.parameter_groups(curriculum["lr"], curriculum["code_lr"]))
    return model, optimizer, [group["lr"] for group in optimizer.param_groups]


def training_state(
    curriculum: Mapping[str, Any],
    train_shapes: Sequence[str],
    epoch: int,
    model: Method,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """What a checkpoint holds after so many epochs."""
    return {
        "curriculum": dict(curriculum),
        "train_shapes": train_shapes,
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


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

    Returns how many shapes, or images, could not be used.
    """
    checkpoints = Path(curriculum["output_dir"], "checkpoints")
    latest = checkpoints / "latest.pth"
    if latest.exists() and not (load or overwrite):
        raise InputError(
            f"{latest}: exists; go on with --load, start anew with --overwrite, "
            f"or choose another --output_dir"
        )
    state = load_checkpoint(latest) if load else None
    train_data, val_data, train_shapes, left_out = task_data(curriculum)
    if state:
        check_continues(latest, state, curriculum, train_shapes)

    model, optimizer, start_step_sizes = untrained(curriculum, len(train_shapes), device)
    first_epoch = 0
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_epoch = state["epoch"]

    clip, scenes = curriculum["gradient_clip"], curriculum["scenes_per_microbatch"]
    gradients = MetaGradients(curriculum["precision"], curriculum["compile"])
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
            begin_epoch(optimizer, start_step_sizes, curriculum, epoch)
            epoch_losses = []
            for batch in train_data.batches(epoch):
                batch = to_device(batch, device)
                loss, score = outer_step(model, optimizer, batch, clip, scenes, gradients)
                epoch_losses.append(loss)
                log.add_scalar("Loss/Train", loss, step)
                log.add_scalar(f"{model.loss.score.name}/Train", score, step)
                step += 1
                progress.update()
                progress.set_postfix(epoch=epoch + 1, loss=f"{loss:.4g}", refresh=False)
            done = epoch + 1
            if bad := sum(map(math.isnan, epoch_losses)):
                of = len(epoch_losses)
                message = f"epoch {done}: no finite meta-gradient in {bad} of {of} steps"
                if bad == of:
                    raise DivergedError(f"{message}; lower init_lr or lr (the last epoch is kept)")
                progress.write(f"{message}, which were left out", file=sys.stderr)
            if done % curriculum["validate_every"] == 0 or done == curriculum["num_epochs"]:
                loss, score = validate(model, val_data, device, scenes)
                # At the last step done: what is logged at `step` is purged when a run goes on.
                log.add_scalar("Loss/Val", loss, step - 1)
                log.add_scalar(f"{model.loss.score.name}/Val", score, step - 1)
                progress.write(
                    f"epoch {done}: validation loss {loss:.4g}, {score:.2f} {model.loss.score.unit}"
                )
            state = training_state(curriculum, train_shapes, done, model, optimizer)
            save_checkpoint(latest, state)
            if done % curriculum["checkpoint_every"] == 0:
                save_checkpoint(checkpoints / f"{done:04d}.pth", state)
    if not epochs:
        print(f"nothing to do, {first_epoch} epochs are trained already: {latest}")
    else:
        print(f"trained {curriculum['num_epochs']} epochs, {step} steps: {latest}")
    return left_out


def train_in_memory(
    curriculum: Mapping[str, Any], device: torch.device
) -> tuple[Method, list[float]]:
    """Train as `train` does, but write no files: the model, for evaluation, and each step's loss.

    For notebooks and trials. Prints how it goes, some ten lines.
    """
    data, _, shapes, _ = task_data(curriculum)
    model, optimizer, start_step_sizes = untrained(curriculum, len(shapes), device)
    clip, scenes = curriculum["gradient_clip"], curriculum["scenes_per_microbatch"]
    gradients = MetaGradients(curriculum["precision"], curriculum["compile"])
    step_losses: list[float] = []
    for epoch in range(curriculum["num_epochs"]):
        begin_epoch(optimizer, start_step_sizes, curriculum, epoch)
        for batch in data.batches(epoch):
            batch = to_device(batch, device)
            step_losses.append(outer_step(model, optimizer, batch, clip, scenes, gradients)[0])
        done, last = epoch + 1, curriculum["num_epochs"]
        if done % -(-last // 10) == 0 or done == last:
            mean = np.mean(step_losses[-data.batches_per_epoch :])
            step = len(step_losses)
            print(f"epoch {done} of {last}, step {step}: mean loss {mean:.4g}", flush=True)
    return model.eval(), step_losses
