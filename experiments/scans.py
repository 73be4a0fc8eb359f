"""Compare with Screened Poisson on scans: python -m experiments.scans

Points on the surface of tables, chairs and other solids that no model was trained on: few to many,
with and without normals and noise, from all sides or from one. Each is reconstructed by Screened
Poisson surface reconstruction (Kazhdan & Hoppe 2013, by pymeshlab: `pip install '.[compare]'`), by
the model `general`, by the model of its class, where there is one, and from points without normals
by `general_levelset`. Screened Poisson gets normals of `metasdf.geometry.oriented_normals`, which
the other models estimate for themselves. What is seen from one side goes with its true normals to
Screened Poisson, without any to `tables_partial`, in a frame that tells nothing of the rest. Writes
DOCS/scans.md, .json and .png; what is finished in OUTPUT is not done again.
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
from metasdf.geometry.bodies import find_body
from metasdf.geometry.mesh import face_normals, sample_surface
from metasdf.geometry.normalisation import Normalisation
from metasdf.geometry.point_normals import oriented_normals
from metasdf.learning.model_files import load_model, shipped_models
from metasdf.preparation.depth_camera import scan as depth_scan
from metasdf.preparation.shapes import make_shape
from metasdf.reconstruction.one_shape import reconstruct

POISSON = "Screened Poisson"
POISSON_DEPTH = 7  # of the octree: cells of 1/128 of the cube, as the models' grid
MODELS = ("general", "of its class", "general_levelset")
PARTIAL = "{}_partial"  # the model of one-sided scans
SEED = 501  # of the shapes; models are trained on other seeds
CLASSES = ("tables", "chairs", "general")
COUNTS = (128, 500, 2000, 10_000)
REFINE = 3.0
FAILED = 1e3  # what counts as the Chamfer distance x 1000 where there is no mesh


class Condition(NamedTuple):
    """How a scan is taken.

    Attributes:
        title: in words.
        normals: whether it has normals.
        noise: standard deviation, relative to the bounding sphere's radius.
        one_sided: whether it is what one depth camera sees.
    """

    title: str
    normals: bool = True
    noise: float = 0.0
    one_sided: bool = False

    @property
    def has_signs(self) -> bool:
        """Whether models get signed distances, not points alone."""
        return self.normals and not self.one_sided


CONDITIONS = (
    Condition("normals"),
    Condition("normals, 1 % noise", noise=0.01),
    Condition("normals, 2 % noise", noise=0.02),
    Condition("no normals", normals=False),
    Condition("no normals, 1 % noise", normals=False, noise=0.01),
    Condition("one side", one_sided=True),
)


class Scan(NamedTuple):
    """Points of one shape, and who reconstructs it."""

    method: str
    shape_class: str
    index: int
    count: int
    condition: Condition

    @property
    def model(self) -> str | None:
        """The name of the model that reconstructs it; None: there is none."""
        if self.method == POISSON or (self.method, self.shape_class) == ("of its class", "general"):
            return None
        if self.method == "general_levelset" and self.condition.has_signs:
            return None
        name = self.shape_class if self.method == "of its class" else self.method
        if self.condition.one_sided:
            name = PARTIAL.format(name)
        return name if name in shipped_models() else None


class Plan(NamedTuple):
    """How much is done: shapes of each class, and numbers of points."""

    shapes: int = 3
    counts: tuple[int, ...] = COUNTS


QUICK = Plan(shapes=1, counts=(500,))


def scan_points(scan: Scan) -> tuple[trimesh.Trimesh, np.ndarray, np.ndarray]:
    """The true mesh in its normalised frame, the scan's points (n, 3) and their normals (n, 3)."""
    mesh = make_shape(scan.shape_class, SEED, scan.index)
    frame = Normalisation.of_mesh(mesh)
    mesh.vertices = frame.apply(mesh.vertices)
    rng = np.random.default_rng([SEED, scan.index, scan.count])
    if scan.condition.one_sided:
        points = depth_scan(find_body(mesh), scan.count, rng)
        normals = face_normals(mesh, trimesh.proximity.closest_point(mesh, points)[2])
    else:
        points, faces = sample_surface(mesh, scan.count, rng)
        normals = face_normals(mesh, faces)
    points = points + rng.normal(scale=scan.condition.noise, size=points.shape)
    return mesh, points, normals if scan.condition.normals else oriented_normals(points)


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


def scan_name(scan: Scan) -> str:
    """A name for files."""
    parts = (*scan[:-1], scan.condition.title.replace("%", "percent").replace(",", ""))
    return "_".join(map(str, parts)).replace(" ", "-")


def measured(scan: Scan, output: Path) -> dict[str, Any]:
    """Chamfer distance x 1000 and F-score of one reconstruction."""
    file = output / f"{scan_name(scan)}.json"
    if file.exists():
        return read_json(file)
    truth, points, normals = scan_points(scan)
    try:
        if scan.method == POISSON:
            mesh = poisson(points, normals)
        else:
            shape = (points, normals) if scan.condition.has_signs else points
            mesh = reconstruct(model(scan.model), shape, refine=REFINE, resolution=128).mesh
        result = {"chamfer": 1e3 * chamfer(mesh, truth), "f_score": f_score(mesh, truth)}
    except Exception as error:  # pymeshlab has errors of its own
        result = {"chamfer": FAILED, "f_score": 0.0, "error": str(error)}
    write_json(file, result)
    return result


def summarise(results: Mapping[Scan, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Medians over shapes, for each condition, class, number of points and method."""
    groups: dict[tuple, list[Mapping[str, Any]]] = {}
    for scan, result in results.items():
        key = (scan.condition.title, scan.shape_class, scan.count, scan.method)
        groups.setdefault(key, []).append(result)
    names = ("condition", "shape_class", "count", "method")
    return [
        dict(zip(names, key, strict=True))
        | {m: statistics.median(r[m] for r in group) for m in ("chamfer", "f_score")}
        | {"shapes": len(group), "failed": sum("error" in r for r in group)}
        for key, group in groups.items()
    ]


def tables(rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> str:
    """A table for each condition, as Markdown."""
    parts = []
    for title in dict.fromkeys(r["condition"] for r in rows):
        chosen = [r for r in rows if r["condition"] == title]
        cells = {(r["shape_class"], r["count"], r["method"]): r for r in chosen}
        places = dict.fromkeys((r["shape_class"], r["count"]) for r in chosen)
        headings = ["shapes", "points"]
        headings += [f"{m}, {what}" for what in ("Chamfer", "F") for m in methods]
        lines = []
        for place in places:
            found = [cells.get((*place, m), {}) for m in methods]
            lines.append(
                [place[0], str(place[1])]
                + [number_cell(r.get("chamfer"), ".2f") for r in found]
                + [number_cell(r.get("f_score"), ".2f") for r in found]
            )
        parts.append(f"## {title}\n\n{markdown_table(headings, lines)}")
    return "\n\n".join(parts)


def draw(path: Path, rows: Sequence[Mapping[str, Any]], methods: Sequence[str]) -> None:
    """Chamfer distance over the number of points; a panel for each class and condition."""
    figure = Figure(figsize=(10, 2.6 * len(CONDITIONS)), layout="constrained")
    axes = figure.subplots(len(CONDITIONS), len(CLASSES), sharex=True, sharey="col")
    for condition, line in zip(CONDITIONS, axes, strict=True):
        for shape_class, axis in zip(CLASSES, line, strict=True):
            for method in methods:
                chosen = sorted(
                    (r["count"], r["chamfer"])
                    for r in rows
                    if (r["condition"], r["shape_class"]) == (condition.title, shape_class)
                    and r["method"] == method
                )
                if chosen:
                    axis.loglog(*zip(*chosen, strict=True), marker="o", label=method)
                else:
                    axis.plot([], [], marker="o", label=method)  # for its colour, and the legend
            axis.set_title(f"{shape_class}: {condition.title}", fontsize=9)
            axis.grid(alpha=0.3)
    for axis in axes[:, 0]:
        axis.set_ylabel("Chamfer x 1000")
    for axis in axes[-1]:
        axis.set_xlabel("points")
    axes[0, 0].legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(path)


def page(summary: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    shapes = [r["shapes"] for r in summary["rows"]]
    return f"""# Compared with Screened Poisson

    pip install '.[compare]'
    python -m experiments.scans --shapes {max(shapes)} --docs docs

Medians over {_range(shapes)} of each class that no model was trained on, in the normalised frame;
Chamfer x 1000. Noise is relative to the radius of the bounding sphere. The models that come with
the package adapt as many steps as do good and are refined for {REFINE:.0f} s of one core of
{summary["machine"]["processor"]}; Screened Poisson (pymeshlab, depth {POISSON_DEPTH}) takes a
tenth of a second. Points without normals go to the models as they are: `general` and those of a
class estimate normals (`metasdf.geometry.oriented_normals`, which Screened Poisson gets as well),
`general_levelset` does without. "One side" is what one depth camera sees: Screened Poisson gets the
true normals there, `tables_partial` the points alone, in a frame that tells nothing of the rest.

![Chamfer distance over the number of points](scans.png)

{tables(summary["rows"], summary["methods"])}
"""


def _range(shapes: Sequence[int]) -> str:
    """How many shapes there are to a row, in words."""
    low, high = min(shapes), max(shapes)
    return f"{high} shape{'s' * (high > 1)}" if low == high else f"{low} or {high} shapes"


def main() -> int:
    """Run the command; the exit code."""
    parser = ComparisonCommand("scans", "scans", __doc__, "minutes, for tests")
    parser.add_argument(
        "--shapes", type=whole_number, help=f"of each class (default {Plan().shapes})"
    )
    parser.add_argument("--kept", action="store_true", help="only write what is finished")
    plan, output, docs, processes, options = parser.choices(Plan(), QUICK)
    plan = plan._replace(shapes=options.shapes or plan.shapes)
    try:
        import pymeshlab  # noqa: F401
    except ImportError as error:
        raise InputError(f"pymeshlab: {error}; pip install '.[compare]'") from error
    methods = (POISSON, *MODELS)
    every = itertools.product(methods, CLASSES, range(plan.shapes), plan.counts, CONDITIONS)
    scans = [Scan(*values) for values in every]
    scans = [scan for scan in scans if scan.method == POISSON or scan.model]
    scans.sort(key=lambda scan: scan.index)  # cut short, it has all conditions of some shapes
    jobs = {scan_name(scan): scan for scan in scans}
    if options.kept:
        jobs = {name: scan for name, scan in jobs.items() if (output / f"{name}.json").exists()}
        if not jobs:
            raise InputError(f"{output}: nothing is finished there")
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
