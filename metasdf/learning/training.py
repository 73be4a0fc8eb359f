"""Training as a curriculum says: the outer loop with checkpoints, logs and progress."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from metasdf.data.names import read_split
from metasdf.data.samples import Samples
from metasdf.data.tasks import SDFDataset, TaskDataset, check_shapes
from metasdf.errors import InputError
from metasdf.learning.checkpoints import check_continues, load_checkpoint, save_checkpoint
from metasdf.learning.loop import (
    DivergedError,
    StepRecord,
    optimizer_groups,
    outer_loop,
    validate,
)
from metasdf.learning.models import build_model
from metasdf.losses import Score
from metasdf.method import Method

TRAIN, VAL = 0, 1  # streams of random numbers
log = logging.getLogger(__name__)


class TrainingTasks(NamedTuple):
    """What to train on.

    Attributes:
        train, validation: the tasks.
        names: of the training shapes or images; an auto-decoder has a latent code for each.
        left_out: how many shapes or images could not be used.
    """

    train: TaskDataset
    validation: TaskDataset
    names: list[str]
    left_out: int


@dataclass
class TrainingResult:
    """What came of a training.

    Attributes:
        model: the trained model, in evaluation mode; its attribute `curriculum` is the curriculum.
        losses: the outer loss of each step taken now; NaN where a step was left out.
        steps: outer steps in all, also those of earlier runs that were continued.
        left_out: how many shapes or images could not be used.
        checkpoint: the file that holds the model; None if none was written.
    """

    model: Method
    losses: list[float]
    steps: int
    left_out: int
    checkpoint: Path | None


def usable_split(curriculum: Mapping[str, Any], key: str) -> tuple[list[Samples], int]:
    """The usable shapes of a split; the others are logged by name and counted."""
    shapes = read_split(curriculum[key])
    samples, problems = check_shapes(curriculum["data_source"], shapes, curriculum["context_mode"])
    for name, problem in problems.items():
        log.warning("left out: %s: %s", name, problem)
    if problems:
        log.warning("%s: %d of %d shapes left out", key, len(problems), len(shapes))
    return samples, len(problems)


def shape_tasks(curriculum: Mapping[str, Any]) -> TrainingTasks:
    """The tasks of a 3D curriculum: shapes on disk, in DeepSDF's format."""
    train_samples, left_out = usable_split(curriculum, "train_split")
    val_samples, val_left_out = usable_split(curriculum, "val_split")
    return TrainingTasks(
        SDFDataset(train_samples, curriculum, TRAIN),
        SDFDataset(val_samples, curriculum, VAL),
        [str(samples.shape) for samples in train_samples],
        left_out + val_left_out,
    )


def untrained(
    curriculum: Mapping[str, Any], num_shapes: int, device: torch.device
) -> tuple[Method, torch.optim.Optimizer]:
    """The model to train, as the curriculum's seed initialises it, and its optimiser."""
    torch.manual_seed(curriculum["seed"])
    model = build_model(curriculum, num_shapes).to(device)
    return model, torch.optim.Adam(optimizer_groups(model, curriculum))


def training_state(
    curriculum: Mapping[str, Any],
    names: Sequence[str],
    epoch: int,
    model: Method,
    optimizer: torch.optim.Optimizer,
) -> dict[str, Any]:
    """What a checkpoint holds after so many epochs; names: see `TrainingTasks`."""
    return {
        "curriculum": dict(curriculum),
        "train_shapes": names,
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }


class TrainingFiles:
    """What a training writes to output_dir: checkpoints and TensorBoard logs.

    first_step: of this run; what an earlier run logged from there on is purged.
    """

    def __init__(self, curriculum: Mapping[str, Any], names: Sequence[str], first_step: int):
        self.curriculum, self.names = curriculum, names
        self.checkpoints = Path(curriculum["output_dir"], "checkpoints")
        self.writer = SummaryWriter(Path(curriculum["output_dir"], "tensorboard"), None, first_step)

    def log(self, part: str, score: Score, loss: float, value: float, step: int) -> None:
        """Log a step's loss and score under the original's tags; part: "Train" or "Val"."""
        self.writer.add_scalar(f"Loss/{part}", loss, step)
        self.writer.add_scalar(f"{score.name}/{part}", value, step)

    def save(self, epoch: int, model: Method, optimizer: torch.optim.Optimizer) -> None:
        """Save the state after so many epochs."""
        state = training_state(self.curriculum, self.names, epoch, model, optimizer)
        save_checkpoint(self.checkpoints / "latest.pth", state)
        if epoch % self.curriculum["checkpoint_every"] == 0:
            save_checkpoint(self.checkpoints / f"{epoch:04d}.pth", state)


def train(
    curriculum: Mapping[str, Any],
    tasks: TrainingTasks | Callable[[], TrainingTasks],
    device: torch.device,
    load: bool = False,
    overwrite: bool = False,
    save: bool = True,
) -> TrainingResult:
    """Train as a complete curriculum says, writing checkpoints and TensorBoard logs.

    `<output_dir>/checkpoints/latest.pth` after every epoch, `NNNN.pth` every checkpoint_every
    epochs, `<output_dir>/tensorboard`.

    Args:
        curriculum: as `load_curriculum` returns it.
        tasks: what to train on, or a function that loads it once output_dir has been checked.
        device: where to train.
        load: go on from latest.pth as if never stopped: the weights end up the same numbers.
        overwrite: start anew where a checkpoint exists.
        save: False writes no files and validates nothing; the weights are the same.

    Raises:
        InputError: output_dir holds a checkpoint and neither `load` nor `overwrite` is given, or
            the checkpoint does not go with the curriculum.
        DivergedError: no step of an epoch had a finite meta-gradient.
    """
    latest = Path(curriculum["output_dir"], "checkpoints", "latest.pth")
    if save and latest.exists() and not (load or overwrite):
        raise InputError(
            f"{latest}: exists; go on with --load, start anew with --overwrite, "
            f"or choose another --output_dir"
        )
    state = load_checkpoint(latest) if load else None
    tasks = tasks if isinstance(tasks, TrainingTasks) else tasks()
    if state:
        check_continues(latest, state, curriculum, tasks.names)
    model, optimizer = untrained(curriculum, len(tasks.names), device)
    model.curriculum = dict(curriculum)  # as that of a model from `load_model`
    first_epoch = 0
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        first_epoch = state["epoch"]
    first_step = first_epoch * tasks.train.batches_per_epoch
    losses: list[float] = []
    if not save:
        for records in _epochs(model, optimizer, tasks.train, curriculum, first_epoch):
            losses += [record.loss.item() for record in records]
        return TrainingResult(model.eval(), losses, len(losses), tasks.left_out, None)
    files = TrainingFiles(curriculum, tasks.names, first_step)
    try:
        with files.writer:
            for records in _epochs(model, optimizer, tasks.train, curriculum, first_epoch):
                losses += _end_epoch(records, model, optimizer, tasks, files)
    except DivergedError as error:
        raise DivergedError(f"{error} (the last epoch is kept)") from error
    steps = first_step + len(losses)
    return TrainingResult(model.eval(), losses, steps, tasks.left_out, latest)


def _epochs(
    model: Method,
    optimizer: torch.optim.Optimizer,
    tasks: TaskDataset,
    curriculum: Mapping[str, Any],
    first_epoch: int,
) -> Iterator[list[StepRecord]]:
    """The outer loop behind a progress bar: the records of one epoch after the other."""
    num_epochs, per_epoch = curriculum["num_epochs"], tasks.batches_per_epoch
    steps = outer_loop(
        *(model, optimizer, tasks, curriculum), first_epoch=first_epoch, num_epochs=num_epochs
    )
    progress = tqdm(
        total=num_epochs * per_epoch,
        initial=first_epoch * per_epoch,
        desc="training",
        unit="step",
        disable=None,
    )
    records: list[StepRecord] = []
    with progress:
        for record in steps:
            records.append(record)
            if progress.update():  # shown now, so that it may be read
                loss = f"{record.loss.item():.4g}"
                progress.set_postfix(epoch=record.epoch + 1, loss=loss, refresh=False)
            if record.ends_epoch:
                if record.left_out:
                    log.warning(
                        "epoch %d: no finite meta-gradient in %d of %d steps, which were left out",
                        *(record.epoch + 1, record.left_out, per_epoch),
                    )
                yield records
                records = []


def _end_epoch(
    records: Sequence[StepRecord],
    model: Method,
    optimizer: torch.optim.Optimizer,
    tasks: TrainingTasks,
    files: TrainingFiles,
) -> list[float]:
    """Log an epoch's steps, validate and save as often as the curriculum says; its losses."""
    curriculum, score = files.curriculum, model.loss.score
    losses = torch.stack([record.loss for record in records]).tolist()
    scores = torch.stack([record.score for record in records]).tolist()
    for record, loss, value in zip(records, losses, scores, strict=True):
        files.log("Train", score, loss, value, record.step)
    done, last_step = records[-1].epoch + 1, records[-1].step
    if done % curriculum["validate_every"] == 0 or done == curriculum["num_epochs"]:
        device = records[-1].loss.device
        scenes = curriculum["scenes_per_microbatch"]
        loss, value = validate(model, tasks.validation, device, scenes)
        # At the last step taken: what is logged later than that is purged when a run goes on.
        files.log("Val", score, loss, value, last_step)
        log.info("epoch %d: validation loss %.4g, %.2f %s", done, loss, value, score.unit)
    files.save(done, model, optimizer)
    return losses
