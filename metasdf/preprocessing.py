"""Folders of meshes -> the files that DeepSDF and MetaSDF train on.

Under the data folder, for each shape of each class of a dataset:

    SdfSamples/<dataset>/<class>/<instance>.npz               pos, neg (n, 4) float32, normalised
    SurfaceSamples/<dataset>/<class>/<instance>.ply           points in the mesh's own frame
    PartialSamples/<dataset>/<class>/<instance>.ply           the same, of a virtual depth scan
    NormalizationParameters/<dataset>/<class>/<instance>.npz  offset (3,), scale (1,) float32
    .datasources.json                                         dataset -> folder of the meshes
    report.json                                               how each shape fared

normalised = (original + offset) * scale. Each file appears whole or not at all, so a run that was
killed is continued by running it again.
"""

import contextlib
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement
from tqdm import tqdm

from metasdf.errors import InputError
from metasdf.files import atomic_path, read_json, write_json
from metasdf.mesh import MESH_SUFFIXES, load_mesh, normalisation, normalise
from metasdf.scan import scan
from metasdf.sdf import (
    OPEN_RULES,
    Body,
    NoSolidError,
    Quality,
    find_body,
    sample_body_surface,
    sample_sdf,
)

SDF_SAMPLES = "SdfSamples"
SURFACE_SAMPLES = "SurfaceSamples"
PARTIAL_SAMPLES = "PartialSamples"
NORMALISATION = "NormalizationParameters"
OUTPUTS = {
    SDF_SAMPLES: ".npz",
    SURFACE_SAMPLES: ".ply",
    PARTIAL_SAMPLES: ".ply",
    NORMALISATION: ".npz",
}
USUAL_OUTPUTS = (SDF_SAMPLES, SURFACE_SAMPLES, NORMALISATION)

# Libraries that start threads of their own read these; one process per mesh is enough.
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "IGL_NUM_THREADS",
)


@dataclass(frozen=True)
class Shape:
    """One shape, by the names it goes by on disk.

    Attributes:
        source: folder that holds the class folders.
        dataset, class_name, instance: names.
        file: the mesh, or None to look for it under `source` (`mesh_file`).
    """

    source: Path
    dataset: str
    class_name: str
    instance: str
    file: Path | None = None

    @property
    def name(self) -> str:
        """dataset/class/instance"""
        return f"{self.dataset}/{self.class_name}/{self.instance}"

    def output(self, out: Path, kind: str) -> Path:
        """Where an output of this kind, a key of OUTPUTS, lies in the data folder `out`."""
        # with_suffix would cut an instance such as "v1.2".
        file = self.instance + OUTPUTS[kind]
        return out / kind / self.dataset / self.class_name / file

    def mesh_file(self) -> Path:
        """The mesh: `file`, or <class>/<instance>.<suffix>, or the one mesh in <class>/<instance>/.

        Among several, ShapeNet's models/model_normalized.obj is meant.

        Raises:
            InputError: there is none, or one cannot tell which of several is meant.
        """
        if self.file is not None:
            return self.file
        folder = self.source / self.class_name
        normalized = folder / self.instance / "models" / "model_normalized.obj"
        if normalized.is_file():
            return normalized
        files = [file for file in _mesh_files(folder) if file.stem == self.instance]
        files += _mesh_files(folder / self.instance, deep=True)
        if not files:
            raise InputError(
                f"{folder / self.instance}: no mesh there; expected a folder with one, or a file "
                "ending in " + " ".join(MESH_SUFFIXES)
            )
        if len(files) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in files[:3])
            raise InputError(f"{folder / self.instance}: several meshes ({names}); keep one")
        return files[0]


def _mesh_files(folder: Path, deep: bool = False) -> list[Path]:
    """The mesh files in a folder, sorted; `deep`: in its subfolders as well."""
    files = []
    for root, folders, names in os.walk(folder):
        files += [Path(root, name) for name in names if _is_mesh(name)]
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
    return sorted(files)


def _is_mesh(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(MESH_SUFFIXES)


def _holds_meshes(folder: Path) -> bool:
    """Whether a mesh lies anywhere in a folder, looking no further than the first."""
    for _, folders, names in os.walk(folder):
        if any(map(_is_mesh, names)):
            return True
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return False


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def find_shapes(
    source: str | os.PathLike, name: str | None = None, classes: Sequence[str] | None = None
) -> list[Shape]:
    """Find the shapes of a mesh file or of a folder in one of these layouts.

        <dataset>/<class>/<instance>.obj                               (or ply, stl, off, glb)
        <dataset>/<class>/<instance>/.../<any name>.obj
        <dataset>/<class>/<instance>/models/model_normalized.obj       (ShapeNet)

    `source` may be the dataset folder, one class folder, or one mesh.

    Args:
        source: file or folder.
        name: the dataset's name on disk; None takes the dataset folder's own.
        classes: only these classes; None takes all.

    Raises:
        InputError: there is no mesh, or no such class.
    """
    source = Path(os.path.abspath(source))
    file = None
    if source.is_dir():
        if _is_class_folder(source):
            root, class_folders = source.parent, [source]
        else:
            root, class_folders = source, _subfolders(source)
        found = {folder.name: _instances(folder) for folder in class_folders}
        found = {class_name: instances for class_name, instances in found.items() if instances}
    elif source.is_file():
        if not _is_mesh(source.name):
            raise InputError(
                f"{source}: is not a mesh file of a known kind; convert it to one of "
                + " ".join(MESH_SUFFIXES)
            )
        instance = source.parent.parent if _is_shapenet(source) else source.with_suffix("")
        root = instance.parent.parent
        found, file = {instance.parent.name: [instance.name]}, source
    else:
        raise InputError(f"{source}: there is no such file or folder")
    if not found:
        raise InputError(f"{source}: holds no mesh ({' '.join(MESH_SUFFIXES)})")
    missing = [class_name for class_name in classes or () if class_name not in found]
    if missing:
        raise InputError(
            f"{source}: has no class {missing[0]!r}; its classes are {', '.join(sorted(found))}"
        )
    dataset = _file_name(name or root.name or "meshes", "--name")
    return [
        Shape(root, dataset, _file_name(class_name, str(source)), instance, file)
        for class_name, instances in found.items()
        if not classes or class_name in classes
        for instance in instances
    ]


def _is_shapenet(file: Path) -> bool:
    return file.parent.name == "models" and file.stem == "model_normalized"


def _is_class_folder(folder: Path) -> bool:
    """Whether a folder holds meshes itself, or instances as ShapeNet lays them out."""
    return bool(_mesh_files(folder)) or any(
        (child / "models" / "model_normalized.obj").is_file() for child in _subfolders(folder)
    )


def _instances(class_folder: Path) -> list[str]:
    files = {file.stem for file in _mesh_files(class_folder)}
    return sorted(
        files | {folder.name for folder in _subfolders(class_folder) if _holds_meshes(folder)}
    )


def _file_name(name: str, what: str) -> str:
    """Check a name that becomes a folder or file on disk."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InputError(f"{what}: {name!r} cannot name a folder; leave out slashes and dots")
    return name


def shapes_of_split(
    source: str | os.PathLike, name: str | None, split_file: str | os.PathLike
) -> list[Shape]:
    """The shapes that a split file {dataset: {class: [instance, ...]}} lists for one dataset.

    Args:
        source: folder that holds the class folders.
        name: the dataset; None takes the source folder's own name.

    Raises:
        InputError: the source or the dataset is missing, or the split file is malformed.
    """
    source = Path(os.path.abspath(source))
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder (--source)")
    split = _mapping(read_json(split_file), split_file)
    dataset = _file_name(name or source.name, "--name")
    if dataset not in split:
        raise InputError(
            f"{split_file}: has no dataset {dataset!r} but {', '.join(split) or 'nothing'}; give "
            "its name with --name"
        )
    shapes = []
    for class_name, instances in _mapping(split[dataset], split_file).items():
        if not isinstance(instances, list):
            raise InputError(f"{split_file}: class {class_name!r} is not a list of instances")
        _file_name(class_name, f"{split_file}, class")
        for instance in instances:
            _file_name(instance, f"{split_file}, class {class_name!r}")
        shapes += [Shape(source, dataset, class_name, name) for name in dict.fromkeys(instances)]
    return shapes


def _mapping(value: object, file: str | os.PathLike) -> dict:
    if not isinstance(value, dict):
        raise InputError(f"{file}: a JSON object {{...}} is expected where {value!r:.40} stands")
    return value


# Writing one shape.


def write_sdf_samples(path: str | os.PathLike, pos: np.ndarray, neg: np.ndarray) -> None:
    """Write SDF samples, pos (n, 4) and neg (m, 4) float32, rows x, y, z, signed distance.

    Raises:
        InputError: a number is not finite; nothing is written.
    """
    if not (np.isfinite(pos).all() and np.isfinite(neg).all()):
        raise InputError(f"{path}: some samples are not finite numbers; repair the mesh")
    with atomic_path(path) as temporary:
        np.savez(temporary, pos=pos.astype(np.float32), neg=neg.astype(np.float32))


def write_normalisation(path: str | os.PathLike, offset: np.ndarray, scale: float) -> None:
    """Write offset (3,) and scale as float32: normalised = (original + offset) * scale."""
    with atomic_path(path) as temporary:
        np.savez(temporary, offset=offset.astype(np.float32), scale=np.float32([scale]))


def write_points(path: str | os.PathLike, points: np.ndarray) -> None:
    """Write points (n, 3) as the vertices of a binary PLY file, float32."""
    vertices = np.ascontiguousarray(points, "<f4").view([(axis, "<f4") for axis in "xyz"])[:, 0]
    with atomic_path(path) as temporary:
        PlyData([PlyElement.describe(vertices, "vertex")], byte_order="<").write(str(temporary))


@dataclass(frozen=True)
class Settings:
    """What to write for each shape.

    Attributes:
        outputs: which of OUTPUTS.
        num_samples: SDF samples.
        num_surface: surface samples.
        num_partial: points of a depth scan, at most.
        noise: standard deviation of the scan's error in depth, in the normalised frame.
        open: what becomes of a mesh that bounds no solid, one of OPEN_RULES (`sdf.find_body`).
        seed: each shape draws from its own source of randomness, made of this and its name.
        test: SDF samples with DeepSDF's wider spread for test shapes.
    """

    outputs: tuple[str, ...] = USUAL_OUTPUTS
    num_samples: int = 500_000
    num_surface: int = 30_000
    num_partial: int = 10_000
    noise: float = 0.0
    open: str = "reject"
    seed: int = 0
    test: bool = False

    def __post_init__(self) -> None:
        lowest = {"num_samples": 100, "num_surface": 1, "num_partial": 1, "noise": 0, "seed": 0}
        for name, low in lowest.items():
            if not low <= getattr(self, name) < float("inf"):
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {low}")
        if self.open not in OPEN_RULES:
            raise InputError(f"--open {self.open}: must be one of {', '.join(OPEN_RULES)}")

    def rng(self, shape: Shape, kind: str) -> np.random.Generator:
        """A source of randomness that depends on nothing but the seed and what it is for."""
        key = f"{self.seed}/{kind}/{shape.name}".encode()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))


@dataclass
class Record:
    """How a shape fared, as in report.json; shares are of 1.

    Attributes:
        status: "sampled", "rejected" or "skipped" (all its files were there already).
        method, watertight, zero_thickness, hidden, ambiguous: see `sdf.Quality`.
        left_out: share of the SDF samples that were not written because they are not certain.
        seconds: time taken.
        reason: why it was rejected.
    """

    status: str
    method: str | None = None
    watertight: bool | None = None
    zero_thickness: float | None = None
    hidden: float | None = None
    ambiguous: float | None = None
    left_out: float | None = None
    seconds: float = 0.0
    reason: str | None = None

    def note(self, quality: Quality) -> None:
        """Take over what is known of the mesh."""
        for name, value in asdict(quality).items():
            setattr(self, name, value)


def preprocess_shape(shape: Shape, out: Path, settings: Settings) -> Record:
    """Write the outputs of one shape under `out`; what goes wrong is told in the record."""
    start = time.perf_counter()
    record = Record("sampled")
    try:
        _sample(shape, out, settings, record)
    except InputError as error:
        record.status, record.reason = "rejected", str(error)
    except MemoryError:
        record.status, record.reason = "rejected", "not enough memory; use fewer --threads"
    except Exception as error:  # one odd mesh must not end a run over thousands
        record.status = "rejected"
        record.reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    record.seconds = round(time.perf_counter() - start, 3)
    return record


def _sample(shape: Shape, out: Path, settings: Settings, record: Record) -> None:
    file = shape.mesh_file()
    mesh = load_mesh(file)
    try:
        offset, scale = normalisation(mesh)
        mesh = normalise(mesh)
        body = find_body(mesh, settings.open)
        record.note(body.quality)
        _write(body, offset, scale, shape, out, settings, record)
    except InputError as error:
        if isinstance(error, NoSolidError):
            record.note(error.quality)
        raise InputError(f"{file}: {error}") from error


def _write(
    body: Body,
    offset: np.ndarray,
    scale: np.float32,
    shape: Shape,
    out: Path,
    settings: Settings,
    record: Record,
) -> None:
    for kind in settings.outputs:
        path = shape.output(out, kind)
        wider = settings.test and kind == SDF_SAMPLES
        rng = settings.rng(shape, f"{kind}/test" if wider else kind)
        if kind == SDF_SAMPLES:
            pos, neg = sample_sdf(body, settings.num_samples, rng, settings.test)
            record.left_out = round(1 - (len(pos) + len(neg)) / settings.num_samples, 4)
            write_sdf_samples(path, pos, neg)
        elif kind == NORMALISATION:
            write_normalisation(path, offset, scale)
        else:
            if kind == SURFACE_SAMPLES:
                points = sample_body_surface(body, settings.num_surface, rng)
            else:
                points = scan(body, settings.num_partial, rng, settings.noise)
            write_points(path, points / np.float64(scale) - offset)


# Running over many shapes.


def preprocess(
    shapes: Sequence[Shape],
    out: str | os.PathLike,
    settings: Settings | None = None,
    *,
    threads: int | None = None,
    skip: bool = True,
) -> dict[str, Record]:
    """Preprocess shapes in parallel and write `out`/report.json and `out`/.datasources.json.

    A shape that cannot be used is recorded as rejected, with the reason, and the run goes on. The
    numbers written do not depend on `threads` or on the order. As worker processes are started
    afresh, a script that calls this needs the usual `if __name__ == "__main__":`.

    Args:
        shapes: as `find_shapes` or `shapes_of_split` return them.
        out: the data folder.
        settings: what to write; None is the default of `Settings`.
        threads: meshes worked on at once, each in one process; None is the number of cores.
        skip: leave shapes alone all of whose files are there. The files are not compared with
            `settings`.

    Returns:
        The record of each shape by its name dataset/class/instance, in the order of `shapes`.

    Raises:
        InputError: `out` cannot be used, or knows one of the datasets from another folder.
    """
    out = Path(out)
    settings = settings or Settings()
    threads = _num_processes(threads)
    report_file = out / "report.json"
    report = _mapping(read_json(report_file), report_file) if report_file.is_file() else {}
    earlier = _mapping(report.get("shapes", {}), report_file)
    _register_sources(shapes, out)

    records: dict[str, Record] = {}
    todo = []
    for shape in shapes:
        missing = tuple(
            kind for kind in settings.outputs if not (skip and shape.output(out, kind).is_file())
        )
        if missing:
            todo.append((shape, replace(settings, outputs=missing)))
        else:
            known = {"status": "skipped", "seconds": 0.0, "reason": None}
            known = {**_mapping(earlier.get(shape.name, {}), report_file), **known}
            names = {field.name for field in fields(Record)} & set(known)
            records[shape.name] = Record(**{name: known[name] for name in names})
    try:
        with tqdm(total=len(shapes), initial=len(records), unit="mesh", disable=None) as bar:
            for shape, record in _in_parallel(todo, out, threads):
                records[shape.name] = record
                if record.left_out is None and not record.reason:  # its SDF samples were there
                    record.left_out = earlier.get(shape.name, {}).get("left_out")
                if record.reason:
                    bar.write(f"rejected {shape.name}: {record.reason}")
                bar.update()
    finally:  # also when interrupted
        done = {name: asdict(record) for name, record in records.items()}
        write_json(report_file, {"settings": asdict(settings), "shapes": {**earlier, **done}})
    return {shape.name: records[shape.name] for shape in shapes}


def _num_processes(threads: int | None) -> int:
    if threads is None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux: the cores we may use
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if threads < 1:
        raise InputError(f"--threads {threads}: must be at least 1")
    return threads


def _register_sources(shapes: Sequence[Shape], out: Path) -> None:
    """Note in .datasources.json, as DeepSDF does, where the meshes of each dataset come from."""
    file = out / ".datasources.json"
    known = _mapping(read_json(file), file) if file.is_file() else {}
    sources = dict(known)
    for shape in shapes:
        source = str(shape.source)
        if sources.setdefault(shape.dataset, source) != source:
            raise InputError(
                f"{file}: dataset {shape.dataset!r} comes from {sources[shape.dataset]}, not from "
                f"{source}; choose another --name or another data folder"
            )
    if sources != known or not file.is_file():
        write_json(file, sources)


def _in_parallel(
    jobs: Sequence[tuple[Shape, Settings]], out: Path, threads: int
) -> Iterator[tuple[Shape, Record]]:
    """Yield each shape with its record as it is done.

    A worker that dies (a crash in a library, or killed for want of memory) takes its pool along;
    the shapes that were being worked on are tried again, each alone, to find the one to blame.
    """
    waiting, suspects = list(reversed(jobs)), []
    while waiting or suspects:
        alone = bool(suspects)
        batch = [suspects.pop()] if alone else waiting
        running: dict[Future, tuple[Shape, Settings]] = {}
        with _pool(1 if alone else min(threads, len(batch))) as pool:
            try:
                while batch or running:
                    while batch and len(running) < (1 if alone else threads):
                        # Removed from the batch only when handed over.
                        shape, settings = batch[-1]
                        future = pool.submit(preprocess_shape, shape, out, settings)
                        running[future] = batch.pop()
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        record = future.result()
                        yield running.pop(future)[0], record
            except BrokenProcessPool:
                if alone and running:
                    reason = "the worker process died (a crash, or too little memory)"
                    yield next(iter(running.values()))[0], Record("rejected", reason=reason)
                else:
                    suspects += [*running.values(), *(batch if alone else ())]


@contextlib.contextmanager
def _pool(threads: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, each limited to one thread, that end when this process does."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    os.environ.update(dict.fromkeys(_THREAD_VARIABLES, "1"))
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(threads, context, initializer=_start_worker)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides when to stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


# Splits.


def write_splits(
    shapes: Sequence[Shape],
    records: dict[str, Record],
    out: str | os.PathLike,
    *,
    train_fraction: float = 0.8,
    num_test: int | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write `out`/splits/<class>_train.json and <class>_test.json for the shapes not rejected.

    Which shapes are for testing depends on the seed and their names alone; a class of two or more
    has at least one for training and, unless told otherwise, one for testing.

    Args:
        shapes, records: as given to and returned by `preprocess`.
        train_fraction: share of each class for training, 0 to 1.
        num_test: number of test shapes of each class; None leaves it to `train_fraction`.

    Returns:
        The files written.
    """
    check_split(train_fraction, num_test)
    classes: dict[tuple[str, str], list[str]] = {}
    for shape in shapes:
        if records[shape.name].status != "rejected":
            classes.setdefault((shape.dataset, shape.class_name), []).append(shape.instance)
    written = []
    for (dataset, class_name), instances in classes.items():
        order = sorted(instances, key=_draw(f"{seed}/split/{dataset}/{class_name}"))
        if num_test is None:
            count = round(len(order) * (1 - train_fraction))
            count = max(count, 1) if train_fraction < 1 else count
        else:
            count = num_test
        count = min(count, len(order) - 1)
        for part, chosen in (("train", order[count:]), ("test", order[:count])):
            file = Path(out) / "splits" / f"{class_name}_{part}.json"
            write_json(file, {dataset: {class_name: sorted(chosen)}})
            written.append(file)
    return written


def check_split(train_fraction: float = 0.8, num_test: int | None = None) -> None:
    """Raise InputError unless the arguments of `write_splits` make sense."""
    if not 0 < train_fraction <= 1:
        raise InputError(f"--train_fraction {train_fraction}: must be above 0 and at most 1")
    if num_test is not None and num_test < 0:
        raise InputError(f"--num_test {num_test}: must not be negative")


def _draw(seed: str) -> Callable[[str], bytes]:
    """A sort key that shuffles names, each by itself, so that more names keep their order."""
    return lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()
