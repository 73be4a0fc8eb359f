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

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from metasdf.data.samples import (
    NORMALISATION,
    SDF_SAMPLES,
    SURFACE_SAMPLES,
    write_normalisation,
    write_points,
    write_sdf_samples,
)
from metasdf.errors import InputError
from metasdf.files import read_json, write_json
from metasdf.geometry.bodies import (
    OPEN_RULES,
    Body,
    NoSolidError,
    Quality,
    find_body,
    sample_body_surface,
    sample_sdf,
)
from metasdf.geometry.mesh import normalisation, normalise
from metasdf.geometry.mesh_files import load_mesh
from metasdf.preparation.discover import Shape, json_object
from metasdf.preparation.scan import scan
from metasdf.preparation.workers import num_processes, run_jobs

USUAL_OUTPUTS = (SDF_SAMPLES, SURFACE_SAMPLES, NORMALISATION)


WORKER_DIED = "the worker process died (a crash, or too little memory)"


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
    threads = num_processes(threads)
    report_file = out / "report.json"
    report = json_object(read_json(report_file), report_file) if report_file.is_file() else {}
    earlier = json_object(report.get("shapes", {}), report_file)
    _register_sources(shapes, out)

    records: dict[str, Record] = {}
    todo = []
    for shape in shapes:
        missing = tuple(
            kind for kind in settings.outputs if not (skip and shape.output(out, kind).is_file())
        )
        if missing:
            todo.append((shape, out, replace(settings, outputs=missing)))
        else:
            known = {"status": "skipped", "seconds": 0.0, "reason": None}
            known = {**json_object(earlier.get(shape.name, {}), report_file), **known}
            names = {field.name for field in fields(Record)} & set(known)
            records[shape.name] = Record(**{name: known[name] for name in names})
    try:
        with tqdm(total=len(shapes), initial=len(records), unit="mesh", disable=None) as bar:
            for (shape, *_), record in run_jobs(preprocess_shape, todo, threads):
                record = record or Record("rejected", reason=WORKER_DIED)
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


def _register_sources(shapes: Sequence[Shape], out: Path) -> None:
    """Note in .datasources.json, as DeepSDF does, where the meshes of each dataset come from."""
    file = out / ".datasources.json"
    known = json_object(read_json(file), file) if file.is_file() else {}
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
