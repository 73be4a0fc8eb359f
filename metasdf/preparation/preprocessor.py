"""Meshes -> samples in a data folder, in parallel.

Written for each shape, in the formats of `data.formats`: SDF samples, surface samples and the
normalisation, optionally a virtual depth scan; and for all shapes together

    .datasources.json   dataset -> folder of the meshes
    report.json         the settings, and a `Record` of each shape

Every file appears complete or not at all, so an interrupted run is continued by repeating it.
"""

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from metasdf.data.formats import write_normalisation, write_points, write_sdf_samples
from metasdf.data.names import NORMALISATION, SDF_SAMPLES, SURFACE_SAMPLES, ShapeName
from metasdf.errors import InputError
from metasdf.files import read_json, write_json
from metasdf.geometry.bodies import OPEN_RULES, Body, NoSolidError, Quality, find_body
from metasdf.geometry.body_sampling import sample_body_surface, sample_sdf
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.normalisation import Normalisation, normalise
from metasdf.preparation.depth_camera import scan
from metasdf.preparation.discover import MeshSource, json_object
from metasdf.workers import num_processes, run_jobs

USUAL_OUTPUTS = (SDF_SAMPLES, SURFACE_SAMPLES, NORMALISATION)
NUM_SAMPLES = 500_000  # SDF samples of a shape, as DeepSDF draws them
NUM_TEST_SAMPLES = 250_000  # the same for test shapes

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What to write for each shape.

    Attributes:
        outputs: folders of the data folder to write to, keys of `data.names.SUFFIXES`.
        num_samples: SDF samples; None becomes NUM_TEST_SAMPLES if `test`, else NUM_SAMPLES.
        num_surface: surface samples.
        num_partial: points of a depth scan, at most.
        noise: standard deviation of the scan's error in depth, in the normalised frame.
        open: what becomes of a mesh that bounds no solid, one of OPEN_RULES (`bodies.find_body`).
        seed: each shape draws from its own source of randomness, made from this and its name.
        test: draw SDF samples with DeepSDF's wider spread for test shapes.

    Raises:
        InputError: a value is out of range.
    """

    outputs: tuple[str, ...] = USUAL_OUTPUTS
    num_samples: int | None = None
    num_surface: int = 30_000
    num_partial: int = 10_000
    noise: float = 0.0
    open: str = "reject"
    seed: int = 0
    test: bool = False

    def __post_init__(self) -> None:
        if self.num_samples is None:
            default = NUM_TEST_SAMPLES if self.test else NUM_SAMPLES
            object.__setattr__(self, "num_samples", default)
        lowest = {"num_samples": 100, "num_surface": 1, "num_partial": 1, "noise": 0, "seed": 0}
        for name, low in lowest.items():
            if not low <= getattr(self, name) < float("inf"):
                raise InputError(f"--{name} {getattr(self, name)}: must be at least {low}")
        if self.open not in OPEN_RULES:
            raise InputError(f"--open {self.open}: must be one of {', '.join(OPEN_RULES)}")

    def rng(self, name: ShapeName, folder: str) -> np.random.Generator:
        """The source of randomness for one output of a shape."""
        purpose = f"{folder}/test" if self.test and folder == SDF_SAMPLES else folder
        key = f"{self.seed}/{purpose}/{name}".encode()
        return np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:16], "big"))


@dataclass
class Record:
    """What became of a shape, as in report.json; shares are between 0 and 1.

    Attributes:
        status: "sampled", "rejected" or "skipped" (all its files existed already).
        method, watertight, zero_thickness, hidden, ambiguous: see `bodies.Quality`.
        left_out: share of the SDF samples that were not written because they are uncertain.
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

    def set_quality(self, quality: Quality) -> None:
        """Copy the measurements of a mesh."""
        for name, value in asdict(quality).items():
            setattr(self, name, value)


def preprocess_meshes(
    sources: Sequence[MeshSource],
    out: str | os.PathLike,
    settings: Settings | None = None,
    *,
    threads: int | None = None,
    skip: bool = True,
) -> dict[str, Record]:
    """Preprocess meshes in parallel and write `out`/report.json and `out`/.datasources.json.

    A shape that cannot be used is recorded as rejected, with the reason, and logged (level INFO);
    the run goes on. The numbers written depend neither on `threads` nor on the order.

    Args:
        sources: what `find_meshes` or `meshes_of_split` returned.
        out: the data folder.
        settings: what to write; None is the default of `Settings`.
        threads: number of meshes processed at a time, in a process each; None is the number of
            cores.
        skip: leave shapes alone whose files all exist. Whether these were written with the same
            `settings` is not checked.

    Returns:
        The record of each shape by its name dataset/class/instance, in the order of `sources`.

    Raises:
        InputError: `out` cannot be used, or it holds one of the datasets from
            another folder.
    """
    out = Path(out)
    settings = settings or Settings()
    processes = num_processes(threads)
    report_file = out / "report.json"
    report = json_object(read_json(report_file), report_file) if report_file.is_file() else {}
    earlier = json_object(report.get("shapes", {}), report_file)
    _register_folders(sources, out)

    jobs, records = [], {}
    for source in sources:
        missing = _missing_outputs(source.name, out, settings, skip)
        if missing:
            jobs.append((source, out, replace(settings, outputs=missing)))
        else:
            entry = json_object(earlier.get(str(source.name), {}), report_file)
            records[str(source.name)] = _skipped(entry)
    try:
        with tqdm(total=len(sources), initial=len(records), unit="mesh", disable=None) as bar:
            for name, record in _run(jobs, processes, earlier):
                records[name] = record
                bar.update()
    finally:  # also when interrupted
        done = {name: asdict(record) for name, record in records.items()}
        write_json(report_file, {"settings": asdict(settings), "shapes": {**earlier, **done}})
    return {str(source.name): records[str(source.name)] for source in sources}


def _register_folders(sources: Sequence[MeshSource], out: Path) -> None:
    """Write to .datasources.json, as DeepSDF does, where the meshes of each dataset are."""
    file = out / ".datasources.json"
    registered = json_object(read_json(file), file) if file.is_file() else {}
    folders = dict(registered)
    for source in sources:
        dataset, folder = source.name.dataset, str(source.folder)
        if folders.setdefault(dataset, folder) != folder:
            raise InputError(
                f"{file}: dataset {dataset!r} comes from {folders[dataset]}, not from "
                f"{folder}; choose another --name or another data folder"
            )
    if folders != registered or not file.is_file():
        write_json(file, folders)


def _missing_outputs(name: ShapeName, out: Path, settings: Settings, skip: bool) -> tuple[str, ...]:
    """The outputs of a shape to write: all, or if `skip` those whose files do not exist."""
    return tuple(
        folder for folder in settings.outputs if not (skip and name.file(out, folder).is_file())
    )


def _skipped(entry: Mapping[str, object]) -> Record:
    """The record of a shape that is skipped, with what an earlier report.json says of it."""
    values = {**entry, "status": "skipped", "seconds": 0.0, "reason": None}
    return Record(**{f.name: values[f.name] for f in fields(Record) if f.name in values})


def _run(
    jobs: Sequence[tuple[MeshSource, Path, Settings]],
    processes: int,
    earlier: Mapping[str, Mapping[str, object]],
) -> Iterator[tuple[str, Record]]:
    """Preprocess meshes in worker processes; the name and record of each as it is done.

    earlier: entries of the earlier report.json.
    """
    for (source, *_), record in run_jobs(preprocess_mesh, jobs, processes, import_main=False):
        name = str(source.name)
        if record is None:
            reason = "the worker process died (a crash, or too little memory)"
            record = Record("rejected", reason=reason)
        if record.reason:
            log.info("rejected %s: %s", name, record.reason)
        elif record.left_out is None:  # its SDF samples existed already
            record.left_out = earlier.get(name, {}).get("left_out")
        yield name, record


def preprocess_mesh(source: MeshSource, out: Path, settings: Settings) -> Record:
    """Write the outputs of one shape to the data folder `out`; errors go into the record."""
    start = time.perf_counter()
    record = Record("sampled")
    try:
        _sample(source, out, settings, record)
    except InputError as error:
        record.status, record.reason = "rejected", str(error)
    except MemoryError:
        record.status, record.reason = "rejected", "not enough memory; use fewer --threads"
    except Exception as error:  # one odd mesh must not end a run over thousands
        record.status = "rejected"
        record.reason = f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
    record.seconds = round(time.perf_counter() - start, 3)
    return record


def _sample(source: MeshSource, out: Path, settings: Settings, record: Record) -> None:
    """Write all outputs of one shape and note in `record` what was found out about its mesh."""
    file = source.find_file()
    mesh = load_mesh(file)
    try:
        normalisation = Normalisation.of_mesh(mesh)
        mesh = normalise(mesh)
        body = find_body(mesh, settings.open)
        record.set_quality(body.quality)
        for folder in settings.outputs:
            path, rng = source.name.file(out, folder), settings.rng(source.name, folder)
            if folder == SDF_SAMPLES:
                pos, neg = sample_sdf(body, settings.num_samples, rng, settings.test)
                record.left_out = round(1 - (len(pos) + len(neg)) / settings.num_samples, 4)
                write_sdf_samples(path, pos, neg)
            elif folder == NORMALISATION:
                write_normalisation(path, normalisation)
            else:
                points = _surface_points(body, folder, settings, rng)
                write_points(path, normalisation.invert(points))
    except InputError as error:
        if isinstance(error, NoSolidError):
            record.set_quality(error.quality)
        raise InputError(f"{file}: {error}") from error


def _surface_points(
    body: Body, folder: str, settings: Settings, rng: np.random.Generator
) -> np.ndarray:
    """Points (n, 3) for SurfaceSamples or PartialSamples, in the normalised frame."""
    if folder == SURFACE_SAMPLES:
        return sample_body_surface(body, settings.num_surface, rng)
    return scan(body, settings.num_partial, rng, settings.noise)
