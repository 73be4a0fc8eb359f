"""DeepSDF's files on disk -> tasks of (context, query).

    <data_source>/SdfSamples/<dataset>/<class>/<instance>.npz       pos, neg: float32 [n, 4]
    <data_source>/SurfaceSamples/<dataset>/<class>/<instance>.ply   points in the mesh's own frame
    <data_source>/PartialSamples/<dataset>/<class>/<instance>.ply   the same, of a partial scan
    <data_source>/NormalizationParameters/<dataset>/<class>/<instance>.npz   offset [3], scale [1]

Rows of pos and neg are x, y, z, signed distance, normalised: (original + offset) * scale.
SDF samples are memory-mapped where they lie, never read whole. Every random number follows from
(seed, epoch, shape), so neither order nor interruption changes what is drawn.
"""

import math
import os
import threading
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from plyfile import PlyData, PlyParseError

from metasdf.errors import InputError
from metasdf.files import read_json, write_json

Task = dict[str, Any]  # "context" and "query", each (x, y); see SDFDataset.batch

# What reading a damaged npz file raises: a flipped byte can look like a password or a long array.
DAMAGED = (
    *(OSError, ValueError, EOFError, OverflowError, MemoryError, RuntimeError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)

# NumPy parses a header as Python; in two threads at once that can fail in Python 3.11 (SystemError,
# "AST constructor recursion depth mismatch").
HEADER_LOCK = threading.Lock()

MAX_COORDINATE = 1e4  # far outside the unit ball; such samples would ruin the training of all

SURFACE_FOLDER = {"levelset": "SurfaceSamples", "partial": "PartialSamples"}


class ShapeName(NamedTuple):
    """Where a shape stands in a split file and on disk."""

    dataset: str
    category: str
    instance: str

    def __str__(self) -> str:
        return "/".join(self)

    def file(self, data_source: str | os.PathLike, folder: str, suffix: str) -> Path:
        return Path(data_source, folder, self.dataset, self.category, self.instance + suffix)


def read_split(path: str | os.PathLike) -> list[ShapeName]:
    """The shapes of a split file, {dataset: {class: [instance, ...]}}, in file order."""
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path}: split file not found; preprocess.py writes one for your own meshes, "
            f"DeepSDF's and MetaSDF's repositories hold those of ShapeNet"
        )
    split = read_json(path)
    try:
        shapes = [
            ShapeName(dataset, category, instance)
            for dataset, categories in split.items()
            for category, instances in categories.items()
            for instance in instances
        ]
        lists = [part for categories in split.values() for part in categories.values()]
        if not all(isinstance(part, list) for part in lists):
            raise TypeError
    except (AttributeError, TypeError):
        raise InputError(f"{path}: is not of the form {{dataset: {{class: [name]}}}}") from None
    for shape in shapes:
        if not all(isinstance(part, str) and part not in ("", ".", "..") for part in shape) or any(
            character in "/\\\0" or "\ud800" <= character <= "\udfff"
            for part in shape
            for character in part
        ):
            raise InputError(f"{path}: {list(shape)!r} cannot name a shape's file")
    if not shapes:
        raise InputError(f"{path}: names no shapes; give another split file")
    return list(dict.fromkeys(shapes))


def write_split(path: str | os.PathLike, shapes: Sequence[ShapeName]) -> None:
    """Write a split file that `read_split` reads."""
    split: dict[str, dict[str, list[str]]] = {}
    for dataset, category, instance in shapes:
        split.setdefault(dataset, {}).setdefault(category, []).append(instance)
    write_json(path, split)


def map_npz(path: Path, name: str) -> np.ndarray:
    """Array `name` of an npz file, memory-mapped if stored uncompressed, else read.

    InputError if the file is missing, truncated, no npz, or holds no such array of numbers.
    """
    member = name + ".npy"
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as stream:
            info = archive.getinfo(member)
            version = np.lib.format.read_magic(stream)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            with HEADER_LOCK:
                shape, fortran_order, dtype = read_header(stream)
            header_size = stream.tell()
            if dtype.hasobject:
                raise InputError(f"{path}: array {name!r} holds Python objects, not numbers")
            if header_size + math.prod(shape) * dtype.itemsize != info.file_size:
                raise InputError(f"{path}: array {name!r} is not as long as its header says")
            order = "F" if fortran_order else "C"
            if info.compress_type != zipfile.ZIP_STORED:
                return np.frombuffer(bytearray(stream.read()), dtype).reshape(shape, order=order)
        with open(path, "rb") as file:
            file.seek(info.header_offset + 26)
            name_length, extra_length = np.frombuffer(file.read(4), "<u2")
        start = info.header_offset + 30 + int(name_length) + int(extra_length) + header_size
        # Of torch, as NumPy's mappings keep their files open, and a split has thousands.
        whole = torch.from_file(str(path), size=path.stat().st_size, dtype=torch.uint8)
        return np.ndarray(shape, dtype, whole.numpy(), start, order=order)
    except KeyError:
        raise InputError(f"{path}: has no array {name!r}") from None
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except InputError:
        raise
    except DAMAGED as error:
        raise InputError(f"{path}: is damaged or no npz file ({error})") from error


def read_vertices(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The vertices of a PLY file, and their normals if it holds any: (n, 3) each, as they stand."""
    try:
        vertices = PlyData.read(path)["vertex"].data
        points = np.stack([vertices[axis] for axis in "xyz"], axis=1)
        axes = ("nx", "ny", "nz")
        if not set(axes) <= set(vertices.dtype.names):
            return points, None
        return points, np.stack([vertices[axis] for axis in axes], axis=1)
    except FileNotFoundError:
        raise InputError(f"{path}: file not found") from None
    except (PlyParseError, KeyError, ValueError, OSError, MemoryError) as error:
        raise InputError(f"{path}: is damaged or has no vertices ({error})") from error


def read_points(path: Path) -> np.ndarray:
    """The vertices of a PLY file, (n, 3) float32, n >= 1; rows that are not finite are dropped."""
    points = read_vertices(path)[0].astype(np.float32)
    points = points[np.isfinite(points).all(axis=1)]
    if len(points) == 0:
        raise InputError(f"{path}: holds no points")
    return points


class Normalisation(NamedTuple):
    """normalised = (original + offset) * scale; offset (3,) in mesh units, scale 1 / mesh unit."""

    offset: np.ndarray
    scale: float

    def apply(self, points: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            return ((points + self.offset) * self.scale).astype(np.float32)

    def invert(self, points: np.ndarray) -> np.ndarray:
        return points / self.scale - self.offset


def read_normalisation(path: str | os.PathLike) -> Normalisation:
    """One of DeepSDF's normalisation files: offset (3,) and scale (1,)."""
    offset, scale = (map_npz(Path(path), array).reshape(-1) for array in ("offset", "scale"))
    numbers = all(np.issubdtype(array.dtype, np.floating) for array in (offset, scale))
    if (
        not (numbers and offset.shape == (3,) and scale.shape == (1,))
        or not np.isfinite([*offset, *scale]).all()
        or scale[0] <= 0
    ):
        raise InputError(f"{path}: offset must have 3 numbers, scale one above 0")
    return Normalisation(offset.astype(np.float64), float(scale[0]))


class Samples:
    """One shape's data on disk, opened when first used.

    InputError, naming the file, where something is missing or broken.
    """

    def __init__(self, data_source: str | os.PathLike, shape: ShapeName) -> None:
        self.data_source = data_source
        self.shape = shape

    @cached_property
    def signed(self) -> tuple[np.ndarray, np.ndarray]:
        """pos and neg, each (n, 4) float32: x, y, z, signed distance; rows may hold NaN."""
        path = self.shape.file(self.data_source, "SdfSamples", ".npz")
        arrays = []
        for name in ("pos", "neg"):
            rows = map_npz(path, name)
            if rows.ndim != 2 or rows.shape[1] != 4 or not np.issubdtype(rows.dtype, np.floating):
                raise InputError(f"{path}: {name} is {rows.dtype} {list(rows.shape)}, want [n, 4]")
            # Looking at the start is enough for all but odd files, and quick for thousands.
            start = _finite(rows[:1024])
            if not start.any() and not _finite(rows).any():
                raise InputError(f"{path}: {name} has no finite rows")
            largest = np.abs(rows[:1024][start]).max(initial=0)
            if largest > MAX_COORDINATE:
                raise InputError(f"{path}: {name} is not normalised, it holds {largest:.3g}")
            arrays.append(rows)
        return arrays[0], arrays[1]

    @cached_property
    def normalisation(self) -> Normalisation:
        return read_normalisation(
            self.shape.file(self.data_source, "NormalizationParameters", ".npz")
        )

    def surface(self, folder: str = "SurfaceSamples") -> np.ndarray:
        """Points on the surface, (n, 3) float32, in the normalised frame."""
        if folder not in self._surfaces:
            path = self.shape.file(self.data_source, folder, ".ply")
            points = self.normalisation.apply(read_points(path))
            if not np.abs(points).max() <= MAX_COORDINATE:
                raise InputError(f"{path}: its points lie far outside the normalised frame")
            self._surfaces[folder] = points
        return self._surfaces[folder]

    @cached_property
    def _surfaces(self) -> dict[str, np.ndarray]:
        return {}

    def check(self, context_mode: str) -> None:
        """InputError if what a context mode needs is missing or broken."""
        _ = self.signed
        if context_mode in SURFACE_FOLDER:
            _ = self.surface(SURFACE_FOLDER[context_mode])

    def draw_signed(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Half of `count` rows from pos, half from neg, with replacement: (count, 4) float32."""
        pos, neg = self.signed
        half = count // 2
        return np.concatenate([_draw_rows(pos, count - half, rng), _draw_rows(neg, half, rng)])

    def draw_apart(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Two draws of count // 2 rows like `draw_signed`, no row of the file in both."""
        parts: tuple[list, list] = ([], [])
        quarter = count // 4
        for rows, number in zip(self.signed, (count // 2 - quarter, quarter), strict=True):
            order = rng.permutation(np.flatnonzero(_finite(rows)))
            for part, among in zip(parts, np.array_split(order, 2), strict=True):
                # A single row is in both; there is no other.
                among = among if len(among) else order
                part.append(rows[among[rng.integers(len(among), size=number)]].astype(np.float32))
        return np.concatenate(parts[0]), np.concatenate(parts[1])

    def draw_surface(self, count: int, rng: np.random.Generator, folder: str) -> np.ndarray:
        """`count` surface points, with replacement only where there are fewer: (count, 3)."""
        points = self.surface(folder)
        return points[rng.choice(len(points), count, replace=count > len(points))]


def _finite(rows: np.ndarray) -> np.ndarray:
    """Which rows are finite as float32: (n,) bool."""
    with np.errstate(over="ignore"):
        return np.isfinite(rows.astype(np.float32)).all(axis=1)


def _take(rows: np.ndarray, index: np.ndarray) -> np.ndarray:
    """rows[index] as float32, of rows (n, 4)."""
    if rows.dtype != np.float32 or not rows.flags.c_contiguous:
        return rows[index].astype(np.float32)
    # As blocks of bytes it is ten times as fast, even where the file's rows are not aligned.
    return rows.view("V16")[:, 0].take(index).view(np.float32).reshape(-1, 4)


def _draw_rows(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform among the rows without NaN or infinity: those drawn are drawn anew."""
    drawn = _take(rows, rng.integers(len(rows), size=count))
    if not np.isfinite(drawn).all():
        bad = ~_finite(drawn)
        good = np.flatnonzero(_finite(rows))
        drawn[bad] = rows[good[rng.integers(len(good), size=bad.sum())]]
    return drawn


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
        context = _take(queried, rng.permutation(len(queried))[: len(queried) // 2])
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
