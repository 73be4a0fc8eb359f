"""What needs several rooms at once: training on the data that a curriculum names."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch

from metasdf.images.tasks import image_tasks
from metasdf.learning.curriculum import is_2d
from metasdf.learning.device import choose_device
from metasdf.learning.training import TrainingResult, TrainingTasks, shape_tasks
from metasdf.learning.training import train as train_on


def training_tasks(curriculum: Mapping[str, Any]) -> TrainingTasks:
    """What a complete curriculum trains on: shapes on disk (3D) or images (2D)."""
    return image_tasks(curriculum) if is_2d(curriculum) else shape_tasks(curriculum)


def train(
    curriculum: Mapping[str, Any],
    *,
    device: str | torch.device = "auto",
    load: bool = False,
    overwrite: bool = False,
    save: bool = True,
) -> TrainingResult:
    """Meta-train what a curriculum describes, on the data that it names.

    Writes `<output_dir>/checkpoints/latest.pth` after every epoch, numbered checkpoints and
    TensorBoard logs. Shapes that cannot be used are left out, logged by name and counted.

    Args:
        curriculum: as `load_curriculum` returns it.
        device: "auto", "cpu", "cuda" or "mps".
        load: go on from latest.pth as if never stopped.
        overwrite: start anew where a checkpoint exists.
        save: False writes no files and validates nothing.

    Returns:
        The trained model and its losses; see `TrainingResult`.

    Raises:
        InputError: data or curriculum cannot be used, or output_dir holds a checkpoint and neither
            `load` nor `overwrite` is given.
        DivergedError: no step of an epoch had a finite meta-gradient.
    """
    chosen = choose_device(device) if isinstance(device, str) else device
    return train_on(curriculum, partial(training_tasks, curriculum), chosen, load, overwrite, save)
