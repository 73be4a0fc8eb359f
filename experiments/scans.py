"""Compare with Screened Poisson on scans: python -m experiments.scans

Points on the surface of tables, chairs and other solids that no model was trained on: few to many,
with and without normals, with and without noise. Each is reconstructed by Screened Poisson surface
reconstruction (Kazhdan & Hoppe 2013, by pymeshlab: `pip install '.[compare]'`) and by the models
that are named, NAME or FILE (default: general). Where there are no normals, both are given the same
estimated ones. Writes DOCS/scans.md, .json and .png; what is finished in OUTPUT is not done again.
"""

import os

os.environ.update(IGL_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import functools
import itertools
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import trimesh
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.command import ComparisonCommand
from experiments.sweep import side_by_side
from experiments.tables import machine, markdown_table, number_cell, write_docs
from metasdf.commands.command_line import whole_number
from metasdf.commands.console import run_command
from metasdf.errors import InputError
from metasdf.evaluation.measures import chamfer, f_score
from metasdf.files import read_json, write_json
from metasdf.geometry.mesh import face_normals, sample_surface
from metasdf.geometry.normalisation import Normalisation
from metasdf.geometry.point_normals import oriented_normals
from metasdf.learning.model_files import load_model
from metasdf.preparation.shapes import make_shape
from metasdf.reconstruction.one_shape import reconstruct

POISSON = "Screened Poisson"
POISSON_DEPTH = 7  # of the octree: cells of 1/128 of the cube, as the models' grid
SEED = 500  # of the shapes; models are trained on other seeds
CLASSES = ("tables", "chairs", "general")
COUNTS = (128, 500, 2000, 10_000)
NOISES = (0.0, 0.01)  # standard deviation, relative to the bounding sphere's radius
REFINE = 2.0
FAILED = 1e3  # what counts as the Chamfer distance x 1000 where there is no mesh


class Scan(NamedTuple):
    """Points of one shape, and who reconstructs it."""

    method: str
    shape_class: str
    index: int
    count: int
    noise: float
    normals: bool


class Plan(NamedTuple):
    """How much is done: shapes of each class, and numbers of points."""

    shapes: int = 4
    counts: tuple[int, ...] = COUNTS


QUICK = Plan(shapes=1, counts=(500,))


def scan_points(scan: Scan) -> tuple[trimesh.Trimesh, np.ndarray, np.ndarray]:
    """The true mesh in its normalised frame, the scan's points (n, 3) and their normals (n, 3)."""
    mesh = make_shape(scan.shape_class, SEED, scan.index)
    frame = Normalisation.of_mesh(mesh)
    mesh.vertices = frame.apply(mesh.vertices)
    rng = np.random.default_rng([SEED, scan.index, scan.count])
    points, faces = sample_surface(mesh, scan.count, rng)
    normals = face_normals(mesh, faces)
    points = points + rng.normal(scale=scan.noise, size=points.shape)
    return mesh, points, normals if scan.normals else oriented_normals(points)


def poisson(points: np.ndarray, normals: np.ndarray) -> trimesh.Trimesh:
    """The surface by Screened Poisson surface reconstruction."""
    import pymeshlab

    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(vertex_matrix=points, v_normals_matrix=normals))
    meshes.generate_surface_reconstruction_screened_poisson(depth=POISSON_DEPTH, threads=1)
    result = meshes.current_mesh()
    return trimesh.Trimesh(result.vertex_matrix(), result.face_matrix(), process=False)


@functools.cache
def model(name: str) -> Any:
    """A model, loaded once in each process."""
    return load_model(name)


def measured(scan: Scan, output: Path) -> dict[str, Any]:
    """Chamfer distance x 1000 and F-score of one reconstruction."""
    name = "_".join(str(part).replace("/", "-") for part in scan)
    file = output / f"{name.replace(' ', '-')}.json"
    if file.exists():
        return read_json(file)
    truth, points, normals = scan_points(scan)
    try:
        if scan.method == POISSON:
            mesh = poisson(points, normals)
        else:
            shape = (points, normals)
            mesh = reconstruct(model(scan.method), shape, refine=REFINE, resolution=128).mesh
        result = {"chamfer": 1e3 * chamfer(mesh, truth), "f_score": f_score(mesh, truth)}
    except Exception as error:  # pymeshlab has errors of its own
        result = {"chamfer": FAILED, "f_score": 0.0, "error": str(error)}
    write_json(file, result)
    return result


def summarise(results: Mapping[Scan, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Medians over shapes, for each method, class, number of points, noise and with normals."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for scan, result in results.items():
        key = (scan.normals, scan.noise, scan.shape_class, scan.count, scan.method)
        groups.setdefault(key, []).append(result)
    names = ("normals", "noise", "shape_class", "count", "method")
    return [
        dict(zip(names, key, strict=True))
        | {m: statistics.median(r[m] for r in group) for m in ("chamfer", "f_score")}
        | {"shapes": len(group), "failed": sum("error" in r for r in group)}
        for key, group in groups.items()
    ]


def tables(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """A table for each of with and without normals and noise, as Markdown."""
    parts = []
    for normals, noise in itertools.product((True, False), NOISES):
        chosen = [r for r in rows if (r["normals"], r["noise"]) == (normals, noise)]
        cells = {(r["shape_class"], r["count"], r["method"]): r for r in chosen}
        places = dict.fromkeys((r["shape_class"], r["count"]) for r in chosen)
        headings = ["shapes", "points"]
        headings += [f"{m}, {what}" for what in ("Chamfer", "F") for m in methods]
        lines = []
        for place in places:
            both = [cells.get((*place, m), {}) for m in methods]
            lines.append(
                [place[0], str(place[1])]
                + [number_cell(r.get("chamfer"), ".2f") for r in both]
                + [number_cell(r.get("f_score"), ".2f") for r in both]
            )
        words = "normals" if normals else "no normals"
        if lines:
            title = f"## {words}, {f'noise of {noise:.0%} of the radius' if noise else 'no noise'}"
            parts.append(f"{title}\n\n{markdown_table(headings, lines)}")
    return "\n\n".join(parts)


def draw(path: Path, rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> None:
    """Chamfer distance over the number of points; a panel for each class and condition."""
    figure = Figure(figsize=(10, 10), layout="constrained")
    conditions = list(itertools.product((True, False), NOISES))
    axes = figure.subplots(len(conditions), len(CLASSES), sharex=True, sharey="col")
    for (normals, noise), line in zip(conditions, axes, strict=True):
        for shape_class, axis in zip(CLASSES, line, strict=True):
            for method in methods:
                chosen = [
                    (r["count"], r["chamfer"])
                    for r in rows
                    if (r["normals"], r["noise"]) == (normals, noise)
                    and (r["shape_class"], r["method"]) == (shape_class, method)
                ]
                axis.loglog(*zip(*sorted(chosen), strict=True), marker="o", label=method)
            words = f"{'normals' if normals else 'no normals'}, noise {noise:.0%}"
            axis.set_title(f"{shape_class}: {words}", fontsize=9)
            axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("Chamfer x 1000")
    for axis in axes[-1]:
        axis.set_xlabel("points")
    axes[0, 0].legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(path)


def page(summary: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    shapes = max(r["shapes"] for r in summary["rows"])
    return f"""# Compared with Screened Poisson

    pip install '.[compare]'
    python -m experiments.scans --shapes {shapes} --docs docs

Medians over {shapes} shapes of each class, in the normalised
frame, of shapes that no model was trained on; Chamfer x 1000. MetaSDF adapts as many steps as do
good and is refined for {REFINE:.0f} s of one core of {summary["machine"]["processor"]}; Screened
Poisson (pymeshlab, depth {POISSON_DEPTH}) takes a tenth of a second. Where there are none, both get
the normals of `metasdf.geometry.oriented_normals`.

![Chamfer distance over the number of points](scans.png)

{tables(summary["rows"], summary["methods"])}
"""


def main() -> int:
    """Run the command; the exit code."""
    parser = ComparisonCommand("scans", "scans", __doc__, "minutes, for tests")
    parser.add_argument("--models", nargs="+", default=["general"], metavar="NAME|FILE")
    parser.add_argument("--shapes", type=whole_number, help="of each class (default 4)")
    plan, output, docs, processes, options = parser.choices(Plan(), QUICK)
    plan = plan._replace(shapes=options.shapes or plan.shapes)
    try:
        import pymeshlab  # noqa: F401
    except ImportError as error:
        raise InputError(f"pymeshlab: {error}; pip install '.[compare]'") from error
    methods = (POISSON, *options.models)
    indices = range(plan.shapes)
    scans = [
        Scan(*values)
        for values in itertools.product(
            methods, CLASSES, indices, plan.counts, NOISES, (True, False)
        )
    ]
    jobs = {"_".join(map(str, scan)): scan for scan in scans}
    work = functools.partial(measured, output=output)
    results, failed = side_by_side(work, jobs, processes)
    rows = summarise({jobs[name]: results[name] for name in jobs if name in results})
    summary = {"methods": methods, "machine": machine(), "rows": rows}
    docs.mkdir(parents=True, exist_ok=True)
    draw(docs / "scans.png", rows, methods)
    write_docs(docs, "scans", summary, page(summary))
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
