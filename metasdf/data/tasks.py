"""DeepSDF's files on disk -> tasks of (context, query).

    <data_source>/SdfSamples/<dataset>/<class>/<instance>.npz       pos, neg: float32 [n, 4]
    <data_source>/SurfaceSamples/<dataset>/<class>/<instance>.ply   points in the mesh's own frame
    <data_source>/PartialSamples/<dataset>/<class>/<instance>.ply   the same, of a partial scan
    <data_source>/NormalizationParameters/<dataset>/<class>/<instance>.npz   offset [3], scale [1]

Rows of pos and neg are x, y, z, signed distance, normalised: (original + offset) * scale.
SDF samples are memory-mapped where they lie, never read whole. Every random number follows from
(seed, epoch, shape), so neither order nor interruption changes what is drawn.
"""

import os
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from metasdf.data.names import ShapeName
from metasdf.data.samples import SURFACE_FOLDER, Samples, take_rows
from metasdf.errors import InputError

Task = dict[str, Any]  # "context" and "query", each (x, y); see SDFDataset.batch


def draw_rows(
    samples: Samples,
    context_mode: str,
    sdf_samples: int,
    surface_samples: int,
    query: str,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """One task: context and query, each rows (n, 4) float32 of x, y, z, signed distance.

    "dense": a random half of the SDF samples is context, and query is all of them, or with
    query = "held_out" as many that are not in the context. "levelset", "partial": surface points
    with distance 0 are context, all SDF samples are query.
    """
    if context_mode == "dense" and query == "held_out":
        context, queried = samples.draw_apart(sdf_samples, rng)
    elif context_mode == "dense":
        queried = samples.draw_signed(sdf_samples, rng)
        context = take_rows(queried, rng.permutation(len(queried))[: len(queried) // 2])
    else:
        queried = samples.draw_signed(sdf_samples, rng)
        points = samples.draw_surface(surface_samples, rng, SURFACE_FOLDER[context_mode])
        context = np.concatenate([points, np.zeros((len(points), 1), np.float32)], axis=1)
    return {"context": context, "query": queried}


def draw_task(*arguments: Any, **options: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """`draw_rows` as points and distances: context and query, each (x (n, 3), y (n, 1))."""
    return points_and_distances(draw_rows(*arguments, **options))


def points_and_distances(rows: Mapping[str, Any]) -> Task:
    """Rows (..., 4) of context and query, arrays or tensors, as (x (..., 3), y (..., 1))."""
    return {part: (of[..., :3], of[..., 3:]) for part, of in rows.items()}


def check_shapes(
    data_source: str | os.PathLike, shapes: Sequence[ShapeName], context_mode: str
) -> tuple[list[Samples], dict[str, str]]:
    """Open every shape's data: the usable ones, and the reason for each that is not, by name.

    InputError if the data folder is missing or no shape is usable.
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
    """Tasks to train on. `batches(epoch)` gives the same numbers whenever it is called.

    length: how many tasks there are. curriculum: ScenesPerBatch and seed are used here. stream: a
    number that sets apart datasets that share a seed (training 0, validation 1). per_epoch: how
    many of them an epoch takes (None: all).
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

    def stacked(self, index: Sequence[int], epoch: int) -> Task:
        """These tasks as one batch."""
        return stack([self.task(i, epoch) for i in index])

    @property
    def batches_per_epoch(self) -> int:
        return -(-self.per_epoch // self.curriculum["ScenesPerBatch"])

    def batch(self, epoch: int, number: int) -> Task:
        """Batch `number` of an epoch: context and query as (x [T, N, d], y [T, N, c]).

        It also says which tasks it holds, "index" [T], and its "epoch".
        """
        shuffled = np.random.default_rng([self.curriculum["seed"], self.stream, epoch, 0])
        order = shuffled.permutation(self.length)[: self.per_epoch]
        size = self.curriculum["ScenesPerBatch"]
        index = order[number * size : (number + 1) * size]
        return {**self.stacked(index, epoch), "index": torch.from_numpy(index), "epoch": epoch}

    def batches(self, epoch: int) -> Iterator[Task]:
        """The batches of one epoch, each drawn in the background while the last is used."""
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(self.batch, epoch, 0)
            for number in range(1, self.batches_per_epoch + 1):
                batch = ahead.result()
                if number < self.batches_per_epoch:
                    ahead = pool.submit(self.batch, epoch, number)
                yield batch


class SDFDataset(TaskDataset):
    """The tasks of one split of shapes.

    samples: the usable shapes. curriculum: context_mode, SDFSamplesPerScene,
    LevelsetSamplesPerScene, and query are used.
    """

    def __init__(
        self, samples: Sequence[Samples], curriculum: Mapping[str, Any], stream: int = 0
    ) -> None:
        super().__init__(len(samples), curriculum, stream)
        self.samples = list(samples)

    def task(self, index: int, epoch: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        return points_and_distances(self.rows(index, epoch))

    def rows(self, index: int, epoch: int) -> dict[str, np.ndarray]:
        """A task as `draw_rows` gives it."""
        name = zlib.crc32(str(self.samples[index].shape).encode())
        rng = np.random.default_rng([self.curriculum["seed"], self.stream, epoch, name, 1])
        return draw_rows(
            self.samples[index],
            self.curriculum["context_mode"],
            self.curriculum["SDFSamplesPerScene"],
            self.curriculum["LevelsetSamplesPerScene"],
            self.curriculum["query"],
            rng,
        )

    def stacked(self, index: Sequence[int], epoch: int) -> Task:
        tasks = [self.rows(i, epoch) for i in index]
        return points_and_distances(
            {part: torch.from_numpy(np.stack([task[part] for task in tasks])) for part in tasks[0]}
        )


def stack(tasks: Sequence[Mapping[str, tuple[np.ndarray, np.ndarray]]]) -> Task:
    """Tasks of equal sizes -> one batch with a leading task dimension T."""
    return {
        part: tuple(torch.from_numpy(np.stack([task[part][i] for task in tasks])) for i in range(2))
        for part in ("context", "query")
    }


def to_device(batch: Task, device: torch.device) -> Task:
    """The batch with context and query on `device`."""
    # Not `non_blocking`: from memory that is not pinned it gains nothing, and on MPS it may read
    # what has been freed meanwhile.
    moved = {part: tuple(t.to(device) for t in batch[part]) for part in ("context", "query")}
    return {**batch, **moved}
