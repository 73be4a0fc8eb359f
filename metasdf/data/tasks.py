"""Tasks (context and query) of the shapes of a split, and batches of them.

Every random number follows from (seed, stream, epoch, shape), so neither order nor interruption
changes what is drawn.
"""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from metasdf.data.names import ShapeName
from metasdf.data.samples import CONTEXT_FOLDERS, Samples, take_rows
from metasdf.errors import InputError
from metasdf.geometry.normalisation import Normalisation

UNKNOWN = -1.0  # a signed distance of which only the sign is known; losses.IGNORED_DISTANCE

Task = dict[str, Any]  # "context" and "query", each (x, y); see `TaskDataset.batch`


def draw_rows(
    samples: Samples,
    context_mode: str,
    sdf_samples: int,
    surface_samples: int,
    query: str,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Draw one task of a shape as rows x, y, z, signed distance.

    Args:
        samples: the shape's data.
        context_mode: "dense": the context is a random half of the drawn SDF samples. "levelset",
            "partial": it is surface points, with distance 0.
        sdf_samples: number of SDF samples.
        surface_samples: number of surface points.
        query: "all": the query is all drawn SDF samples. "held_out", with "dense" only: it is the
            half that is not the context, and no row of the file is in both.
        rng: source of randomness.

    Returns:
        "context" and "query", each (n, 4) float32.
    """
    if context_mode == "dense" and query == "held_out":
        context, query_rows = samples.draw_disjoint(sdf_samples, rng)
    elif context_mode == "dense":
        query_rows = samples.draw_signed(sdf_samples, rng)
        context = take_rows(query_rows, rng.permutation(len(query_rows))[: len(query_rows) // 2])
    else:
        query_rows = samples.draw_signed(sdf_samples, rng)
        points = samples.draw_surface(surface_samples, rng, CONTEXT_FOLDERS[context_mode])
        context = np.concatenate([points, np.zeros((len(points), 1), np.float32)], axis=1)
    return {"context": context, "query": query_rows}


def in_frame_of_context(rows: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A task as from `draw_rows`, of surface points, normalised by the extent of its context.

    So it comes to a model whose user has a scan of one side and does not know the whole.
    """
    frame = Normalisation.of_points(rows["context"][:, :3].astype(np.float64))
    moved = {}
    for part, array in rows.items():
        distances = array[:, 3:]
        scaled = np.where(distances == UNKNOWN, distances, distances * frame.scale)
        moved[part] = np.hstack([frame.apply(array[:, :3]), scaled]).astype(np.float32)
    return moved


def turned(rows: Mapping[str, np.ndarray], rotation: Rotation) -> dict[str, np.ndarray]:
    """A task as from `draw_rows`, turned about the origin."""
    matrix = rotation.as_matrix().astype(np.float32)
    return {part: np.hstack([a[:, :3] @ matrix.T, a[:, 3:]]) for part, a in rows.items()}


def draw_task(*arguments: Any, **options: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Draw one task, as `draw_rows` does: context and query, each (x (n, 3), y (n, 1)) float32."""
    return split_columns(draw_rows(*arguments, **options))


def split_columns(rows: Mapping[str, Any]) -> Task:
    """Rows (..., 4) of context and query, arrays or tensors, as (x (..., 3), y (..., 1))."""
    return {part: (array[..., :3], array[..., 3:]) for part, array in rows.items()}


def check_shapes(
    data_source: str | os.PathLike, shapes: Sequence[ShapeName], context_mode: str
) -> tuple[list[Samples], dict[str, str]]:
    """Open the data of every shape that a context mode needs.

    Returns:
        The usable shapes, and for each other one the problem, by its name.

    Raises:
        InputError: the data folder is missing, or no shape is usable.
    """
    if not Path(data_source).is_dir():
        raise InputError(
            f"data_source: {data_source} is not a folder; preprocess.py makes one (`make tables` "
            "that of tables_tiny, `make compare-3d` that of compare_*)"
        )
    usable, problems = [], {}

    def check(shape: ShapeName) -> tuple[Samples, str | None]:
        samples = Samples(data_source, shape)
        try:
            samples.check(context_mode)
        except InputError as error:
            return samples, str(error)
        return samples, None

    with ThreadPoolExecutor(8) as pool:
        for samples, problem in pool.map(check, shapes):
            if problem is None:
                usable.append(samples)
            else:
                problems[str(samples.shape)] = problem
    if not usable:
        first = next(iter(problems.values()))
        raise InputError(f"none of {len(shapes)} shapes can be used; the first: {first}")
    return usable, problems


class TaskDataset:
    """Tasks to train on, in batches. `batches(epoch)` gives the same numbers in every call.

    Args:
        length: number of tasks.
        curriculum: ScenesPerBatch and seed are used here.
        stream: makes datasets with the same seed draw different numbers (training 0, validation 1).
        per_epoch: number of tasks in an epoch; None is all.
    """

    def __init__(
        self,
        length: int,
        curriculum: Mapping[str, Any],
        stream: int = 0,
        per_epoch: int | None = None,
    ) -> None:
        self.length = length
        self.curriculum = curriculum
        self.stream = stream
        self.per_epoch = min(length, per_epoch or length)

    def task(self, index: int, epoch: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """One task: context and query, each (x (n, d), y (n, c)) float32."""
        raise NotImplementedError

    def draw_batch(self, index: Sequence[int], epoch: int) -> Task:
        """The tasks with these indices as one batch, see `collate`."""
        return collate([self.task(i, epoch) for i in index])

    @property
    def batches_per_epoch(self) -> int:
        """The number of batches in an epoch; the last may be smaller."""
        return -(-self.per_epoch // self.curriculum["ScenesPerBatch"])

    def batch(self, epoch: int, number: int) -> Task:
        """Batch `number` of an epoch.

        Returns:
            "context" and "query", each (x [T, N, d], y [T, N, c]) float32; "index" [T] of its
            tasks; and "epoch".
        """
        rng = np.random.default_rng([self.curriculum["seed"], self.stream, epoch, 0])
        order = rng.permutation(self.length)[: self.per_epoch]
        size = self.curriculum["ScenesPerBatch"]
        index = order[number * size : (number + 1) * size]
        return {**self.draw_batch(index, epoch), "index": torch.from_numpy(index), "epoch": epoch}

    def batches(self, epoch: int) -> Iterator[Task]:
        """The batches of one epoch; a thread draws each while the one before it is used."""
        with ThreadPoolExecutor(1) as pool:
            upcoming = pool.submit(self.batch, epoch, 0)
            for number in range(1, self.batches_per_epoch + 1):
                batch = upcoming.result()
                if number < self.batches_per_epoch:
                    upcoming = pool.submit(self.batch, epoch, number)
                yield batch


class SDFDataset(TaskDataset):
    """The tasks of a split, one for each shape.

    Args:
        samples: the usable shapes, see `check_shapes`.
        curriculum: context_mode, SDFSamplesPerScene, LevelsetSamplesPerScene and query are used as
            in `draw_rows`; the augment keys vary what is drawn.
        stream: see `TaskDataset`.
    """

    def __init__(
        self, samples: Sequence[Samples], curriculum: Mapping[str, Any], stream: int = 0
    ) -> None:
        super().__init__(len(samples), curriculum, stream)
        if curriculum.get("augment_frame") and curriculum["context_mode"] == "dense":
            raise InputError("augment_frame: goes with context_mode levelset or partial")
        if curriculum.get("augment_rotation") and curriculum.get("method") == "autodecoder":
            raise InputError("augment_rotation: does not go with method autodecoder")
        self.samples = list(samples)

    def task(self, index: int, epoch: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """One task: context and query, each (x (n, 3), y (n, 1)) float32."""
        return split_columns(self.rows(index, epoch))

    def rows(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        """One task, as rows (n, 4) of context and query."""
        name = zlib.crc32(str(self.samples[index].shape).encode())
        rng = np.random.default_rng([self.curriculum["seed"], self.stream, epoch, name, 1])
        rows = draw_rows(
            self.samples[index],
            self.curriculum["context_mode"],
            self.curriculum["SDFSamplesPerScene"],
            self.curriculum["LevelsetSamplesPerScene"],
            self.curriculum["query"],
            rng,
        )
        if self.curriculum.get("augment_rotation", False):
            rows = turned(rows, Rotation.random(random_state=rng))
        if rng.random() < self.curriculum.get("augment_frame", 0.0):
            rows = in_frame_of_context(rows)
        if noise := self.curriculum.get("augment_noise", 0.0):
            positions = rows["context"][:, :3]
            positions += rng.normal(scale=rng.uniform(0, noise), size=positions.shape)
        return rows

    def draw_batch(self, index: Sequence[int], epoch: int) -> Task:
        """The tasks with these indices as one batch; whole rows are copied, which is faster."""
        tasks = [self.rows(i, epoch) for i in index]
        return split_columns(
            {part: torch.from_numpy(np.stack([task[part] for task in tasks])) for part in tasks[0]}
        )


def collate(tasks: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Task:
    """Stack tasks of equal sizes into one batch of tensors with a leading task dimension."""
    return {
        part: tuple(torch.from_numpy(np.stack([task[part][i] for task in tasks])) for i in range(2))
        for part in tasks[0]
    }


def to_device(batch: Task, device: torch.device) -> Task:
    """The batch with its points and values on `device`."""

    # Not `non_blocking`: from unpinned memory it gains nothing, and on MPS it may read memory that
    # has been freed meanwhile.
    def moved(part: Any) -> Any:
        return tuple(t.to(device) for t in part) if isinstance(part, tuple) else part

    return {name: moved(part) for name, part in batch.items()}
