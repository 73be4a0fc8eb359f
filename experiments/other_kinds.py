"""How the models of solids of every kind that come with the package do on other shapes.

    python -m experiments.other_kinds FOLDER [--benchmark]

FOLDER holds single/spot.obj, chair.obj and stanford-bunny.obj, whose five holes are capped here.
Each is reconstructed from 10,000 signed distances, after some numbers of steps and refined; and,
turned at random, from points without normals: by `general`, for which normals are estimated, and by
`general_levelset`, which needs none. With --benchmark also all closed meshes among the birds, fish
and containers of the Princeton Shape Benchmark in FOLDER/psb/bird_flying, fish_shark_dolphin and
container. Writes DOCS/other_kinds.md and .json; what is finished in OUTPUT is not done again.
"""

import os

os.environ.update(IGL_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import functools
import itertools
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh
from scipy.spatial.transform import Rotation

from experiments.command import ComparisonCommand
from experiments.sweep import side_by_side
from experiments.tables import machine, markdown_table, number_cell, write_docs
from metasdf.commands.console import run_command
from metasdf.errors import InputError
from metasdf.evaluation.measures import f_score, iou, normal_consistency
from metasdf.files import read_json, write_json
from metasdf.geometry.grid import NoSurfaceError
from metasdf.geometry.loose_pieces import piece_areas
from metasdf.geometry.mesh import closedness, sample_surface
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.normalisation import MARGIN, normalise
from metasdf.geometry.sdf import SurfaceTree
from metasdf.learning.model_files import load_model
from metasdf.reconstruction.one_shape import reconstruct

SINGLE = ("spot", "chair", "stanford-bunny")
BENCHMARK = {"birds": "bird_flying", "fish": "fish_shark_dolphin", "containers": "container"}
SURFACE_POINTS = 30_000
RESOLUTION = 128
MEASURES = {"f_score": "F-score", "normals": "normals", "iou": "IoU"}


class Way(NamedTuple):
    """How a shape is reconstructed.

    Attributes:
        model: its name.
        points: of the context.
        steps: inner steps.
        refine: seconds.
        rotation: None: dense contexts, upright; else from points without normals, turned at random
            with this seed.
    """

    model: str
    points: int = 10_000
    steps: int | str = "auto"
    refine: float = 0.0
    rotation: int | None = None

    @property
    def label(self) -> str:
        """In words."""
        return f"{self.steps}{f', then {self.refine:.0f} s of refinement' if self.refine else ''}"


DENSE = (
    *(Way("general_local", steps=steps) for steps in (5, 13, 25, "auto")),
    *(Way("general", steps=steps) for steps in (5, 25)),
    Way("general", refine=3.0),
)
POINTS = tuple(
    Way(model, count, refine=3.0, rotation=seed)
    for model, count, seed in itertools.product(
        ("general", "general_levelset"), (10_000, 2_000), (0, 1)
    )
)
ON_BENCHMARK = (Way("general_local", steps=25), Way("general", refine=3.0))


class Job(NamedTuple):
    """A shape and how it is reconstructed."""

    kind: str
    file: Path
    way: Way

    @property
    def name(self) -> str:
        """Unique, for a file."""
        return "_".join(map(str, (self.kind, self.file.stem, *self.way)))


def capped(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """A mesh whose holes are each closed by a fan around the middle of its border."""
    corners = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    edges = set(map(tuple, corners.tolist()))
    following = {b: a for a, b in edges if (b, a) not in edges}
    vertices, faces = [mesh.vertices], [mesh.faces]
    count = len(mesh.vertices)
    while following:
        loop = [next(iter(following))]
        while (after := following.pop(loop[-1])) in following:
            loop.append(after)
        vertices.append(mesh.vertices[loop].mean(axis=0, keepdims=True))
        faces.append([[a, b, count] for a, b in zip(loop, loop[1:] + loop[:1], strict=True)])
        count += 1
    return trimesh.Trimesh(np.concatenate(vertices), np.concatenate(faces), process=False)


@functools.cache
def model(name: str) -> Any:
    """A model, loaded once in each process."""
    return load_model(name)


@functools.cache
def truth(file: Path) -> trimesh.Trimesh:
    """The closed mesh of a file in its normalised frame."""
    return normalise(capped(load_mesh(file)))


def measured(job: Job, output: Path) -> dict[str, Any]:
    """Measures of one reconstruction; see `dense_measures` and `scan_measures`."""
    file = output / f"{job.name}.json"
    if not file.exists():
        mesh = truth(job.file)
        try:
            measure = dense_measures if job.way.rotation is None else scan_measures
            result = measure(mesh, job.way)
        except (InputError, NoSurfaceError) as error:
            result = {"error": str(error)}
        write_json(file, result)
    return read_json(file)


def dense_measures(mesh: trimesh.Trimesh, way: Way) -> dict[str, Any]:
    """F-score, normal consistency and IoU from signed distances."""
    result = reconstruct(
        *(model(way.model), mesh),
        context_points=way.points,
        num_steps=way.steps,
        refine=way.refine,
        resolution=RESOLUTION,
    )
    return {
        "f_score": f_score(result.mesh, mesh),
        "normals": normal_consistency(result.mesh, mesh),
        "iou": iou(result.mesh, mesh),
        "trusted": result.record["trusted"],
    }


def scan_measures(mesh: trimesh.Trimesh, way: Way) -> dict[str, Any]:
    """Mean distances between truth and result, in % of the radius, and the result's pieces."""
    turn = Rotation.random(random_state=np.random.default_rng(way.rotation)).as_matrix()
    turned = trimesh.Trimesh(mesh.vertices @ turn.T, mesh.faces, process=False)
    rng = np.random.default_rng([way.rotation, way.points])
    points, _ = sample_surface(turned, way.points, rng)
    keys = {"num_steps": way.steps, "refine": way.refine, "resolution": RESOLUTION}
    result = reconstruct(model(way.model), points, **keys)
    there, back = (
        100 * MARGIN * SurfaceTree(to).nearest(sample_surface(start, SURFACE_POINTS, rng)[0])[0]
        for start, to in ((turned, result.mesh), (result.mesh, turned))
    )
    return {
        "truth_to_mesh": float(there.mean()),
        "mesh_to_truth": float(back.mean()),
        "pieces": len(piece_areas(result.mesh)[0]),
        "fallback": result.record.get("fallback"),
        "trusted": result.record["trusted"],
    }


def dense_table(results: Mapping[Job, Mapping[str, Any]], kind: str) -> str:
    """A row for each way: means over the shapes of a kind, as Markdown."""
    groups: dict[Way, list[Mapping[str, Any]]] = {}
    for job, result in results.items():
        if job.kind == kind and job.way.rotation is None:
            groups.setdefault(job.way, []).append(result)
    lines = []
    for way, group in groups.items():
        done = [result for result in group if "error" not in result]
        columns = [[r[key] for r in done if r[key] is not None] for key in MEASURES]
        cells = [number_cell(statistics.fmean(c) if c else None, ".3f") for c in columns]
        cells.append(f"{len(done)} of {len(group)}")
        cells.append(str(sum(r["trusted"] is not False for r in done)))
        lines.append([way.model, way.label, *cells])
    headings = ["model", "steps", *MEASURES.values(), "meshed", "trusted"]
    return markdown_table(headings, lines)


def scan_table(results: Mapping[Job, Mapping[str, Any]]) -> str:
    """A row for each shape, model and number of points, as Markdown."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for job, result in results.items():
        if job.way.rotation is not None:
            key = (job.file.stem, str(job.way.points), job.way.model)
            groups.setdefault(key, []).append(result)
    lines = []
    for key, group in groups.items():
        cells = [
            "no surface"
            if "error" in r
            else f"{r['truth_to_mesh']:.2f} and {r['mesh_to_truth']:.2f} %, {r['pieces']}"
            f"{' *' if r['fallback'] else ''}"
            for r in group
        ]
        lines.append([*key, "; ".join(cells)])
    headings = ["shape", "points", "model", "truth to mesh and back, pieces; for each rotation"]
    return markdown_table(headings, lines)


def page(summary: Mapping[str, Any], results: Mapping[Job, Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    benchmark = dict.fromkeys(job.kind for job in results if job.kind in BENCHMARK)
    parts = [
        f"""# Shapes of other kinds

    python -m experiments.other_kinds FOLDER{" --benchmark" if benchmark else ""} --docs docs

The models that come with the package, on one core of {summary["machine"]["processor"]}; meshes of
128^3. F-score at 1 % of the normalised frame.

## Spot, a chair and the Stanford bunny, from 10,000 signed distances

Means over the three; the bunny's holes are capped.

{dense_table(results, "single")}

## The same from points without normals, turned at random

Mean distance, point to surface, in % of the bounding sphere's radius. `general` adapts to signed
distances that follow from estimated normals; where the result is not to be trusted, it gives the
points to its fallback, `general_levelset`, which adapts to them alone (*).

{scan_table(results)}"""
    ]
    for kind in benchmark:
        parts.append(
            f"## The benchmark's {kind}, from 10,000 signed distances\n\n"
            f"All closed meshes.\n\n{dense_table(results, kind)}"
        )
    return "\n\n".join(parts) + "\n"


def all_jobs(folder: Path, benchmark: bool) -> list[Job]:
    """Everything that is to be done.

    Raises:
        InputError: a shape or a class is missing.
    """
    jobs = []
    for name in SINGLE:
        file = folder / "single" / f"{name}.obj"
        if not file.is_file():
            raise InputError(f"{file}: there is no such file")
        jobs += [Job("single", file, way) for way in (*DENSE, *POINTS)]
    for kind, place in BENCHMARK.items() if benchmark else ():
        files = sorted((folder / "psb" / place).rglob("*.off"))
        if not files:
            raise InputError(f"{folder / 'psb' / place}: holds no .off file")
        closed = [file for file in files if closedness(load_mesh(file)).watertight]
        jobs += [Job(kind, file, way) for file in closed for way in ON_BENCHMARK]
    return jobs


def main() -> int:
    """Run the command; the exit code."""
    parser = ComparisonCommand("other_kinds", "other_kinds", __doc__, "two ways, for tests")
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--benchmark", action="store_true", help="also birds, fish, containers")
    chosen, output, docs, processes, options = parser.choices(None, (DENSE[0], POINTS[-1]))
    jobs = all_jobs(options.folder, options.benchmark)
    jobs = [job for job in jobs if chosen is None or job.way in chosen]
    work = functools.partial(measured, output=output)
    done, failed = side_by_side(work, {job.name: job for job in jobs}, processes)
    results = {job: done[job.name] for job in jobs if job.name in done}
    rows = [
        {"kind": job.kind, "shape": job.file.stem, **job.way._asdict(), **result}
        for job, result in results.items()
    ]
    summary = {"machine": machine(), "rows": rows}
    write_docs(docs, "other_kinds", summary, page(summary, results))
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
