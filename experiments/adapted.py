"""Compare what is adapted: python -m experiments.adapted

The same SIREN for the same processor time, three seeds, dense and level-set contexts, while the
inner steps adapt its weights (MetaSDF), one latent that modulates it (Functa), latents on grids
(Spatial Functa), weights and grids together, or latents at points that move. Trained on the demo's
tables (`make tables`), measured on its test tables and on solids of every other kind (`make
general`). Writes DOCS/adapted.md and .json. Finished runs are read from output/adapted; delete a
run's folder to repeat it.
"""

import os

os.environ.update(IGL_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from experiments.command import ROOT, ComparisonCommand
from experiments.sweep import CPU, Run, Sweep, latest_checkpoint, runs_measured_with, runs_of_method
from experiments.tables import (
    count_of_seeds,
    machine,
    markdown_table,
    mean_and_spread,
    spread_cell,
    write_docs,
)
from metasdf.commands.command_line import whole_number
from metasdf.commands.console import run_command
from metasdf.data.names import read_split, write_split
from metasdf.errors import InputError
from metasdf.evaluation.folder import evaluate
from metasdf.images.evaluation import evaluate as evaluate_images
from metasdf.images.sources import EMBEDDED, find_photographs
from metasdf.learning.curriculum import load_curriculum
from metasdf.method import Method
from metasdf.reconstruction.split import reconstruct_split

CONTEXT_MODES = ("dense", "levelset")
METHODS: dict[str, dict[str, Any]] = {
    "weights": {},
    "modulation": {"adapted": "latents", "latent_grids": "1", "latent_channels": 256},
    "grids": {"adapted": "latents", "latent_grids": "8,32", "latent_channels": 8},
    "weights and grids": {"adapted": "both"},
    "points": {"adapted": "latents", "latent_points": 216, "latent_channels": 32},
}
# On photographs of 32 x 32 pixels; a grid of as many points as pixels would hold each by itself.
METHODS_2D: dict[str, dict[str, Any]] = {
    "weights": {},
    "modulation": METHODS["modulation"],
    "grids": {"adapted": "latents", "latent_grids": "8,16", "latent_channels": 8},
    "weights and grids": {"adapted": "both", "latent_grids": "8,16"},
    "points": {"adapted": "latents", "latent_points": 144, "latent_channels": 16},
}
PHOTOGRAPHS = "photographs"
BASES = {"dense": "tables_tiny", "levelset": "tables_levelset"}
MEASURES = {
    "chamfer": ("Chamfer x 1000", ".3f", 1e3),
    "f_score": ("F-score", ".3f", 1),
    "normal_consistency": ("normals", ".3f", 1),
    "iou": ("IoU", ".3f", 1),
}
MEASURING_KEYS = ("reconstruction_", "resolution", "refine", "keep", "test_split")


@dataclass(frozen=True)
class Plan:
    """How much is done: processor seconds of each run, its seeds, shapes of each kind, images."""

    seconds: float = 300.0
    seeds: int = 3
    shapes: int = 16
    images: int = 500


QUICK = Plan(seconds=10.0, seeds=1, shapes=2, images=8)


@dataclass(frozen=True)
class Data:
    """Data folders: that of the demo's tables, and that of general shapes."""

    tables: Path
    general: Path

    def test_split(self, kind: str) -> Path:
        return getattr(self, kind) / "splits" / f"{kind}_test.json"


def run_curriculum(run: Run, output: Path, data: Data) -> dict[str, Any]:
    """The complete curriculum of a run."""
    splits = data.tables / "splits"
    keys = {
        "data_source": str(data.tables),
        "train_split": str(splits / "tables_train.json"),
        "val_split": str(splits / "tables_test.json"),
        "test_split": str(splits / "tables_test.json"),
        "output_dir": str(output / run.name),
        "reconstruction_output_dir": str(output / run.name / "reconstructions"),
        "seed": run.seed,
        "reconstruction_steps": "auto",
        "refine": 0.0,
    }
    return load_curriculum(BASES[run.context_mode], {**keys, **METHODS[run.method]})


def measure_run(
    run: Run, model: Method, curriculum: Mapping[str, Any], data: Data, shapes: int
) -> dict[str, Any]:
    """The means of MEASURES by kind of shapes, and the medians of the Chamfer distance."""
    result = {}
    for kind in ("tables", "general"):
        folder = Path(curriculum["output_dir"], kind)
        split = folder.with_name(f"{kind}.json")
        write_split(split, read_split(data.test_split(kind))[:shapes])
        keys = {
            **curriculum,
            "data_source": str(getattr(data, kind)),
            "test_split": str(split),
            "reconstruction_output_dir": str(folder),
        }
        reconstruct_split(model, keys, CPU, str(latest_checkpoint(curriculum)))
        measures = evaluate(folder, nearest=False)
        result[kind] = {name: measures[name] and measures[name]["mean"] for name in MEASURES}
        result[kind]["shapes"] = sum(not shape["error"] for shape in measures["shapes"])
    return result


def photograph_curriculum(run: Run, output: Path, source: str) -> dict[str, Any]:
    """The complete curriculum of a run on photographs."""
    keys = {
        "data_source": source,
        "output_dir": str(output / run.name),
        "seed": run.seed,
        "images_per_epoch": 160,
    }
    return load_curriculum("cifar", {**keys, **METHODS_2D[run.method]})


def measure_photographs(
    run: Run, model: Method, curriculum: Mapping[str, Any], images: int
) -> dict[str, Any]:
    """PSNR in dB after each step, on the first test images."""
    result = evaluate_images(model, {**curriculum, "test_images": images}, CPU)
    return {"psnr_by_step": result["psnr_by_step"]}


def compare_photographs(
    plan: Plan, output: Path, source: str, processes: int | None
) -> tuple[list[dict[str, Any]], int]:
    """A row for each method on photographs, and how many runs failed."""
    curriculum = partial(photograph_curriculum, output=output, source=source)
    measure = partial(measure_photographs, images=plan.images)
    runs = [
        Run(f"{PHOTOGRAPHS}/{method}_{seed}", method, seed=seed)
        for seed in range(plan.seeds)
        for method in METHODS_2D
    ]
    done, failed = Sweep(plan.seconds, curriculum, measure, ()).results(runs, processes)
    rows = []
    for method in METHODS_2D:
        results = [done[run] for run in runs_measured_with(done, method, "dense")]
        if results:
            psnr = [
                mean_and_spread(step)
                for step in zip(*(r["psnr_by_step"] for r in results), strict=True)
            ]
            steps = [r["steps"] for r in results]
            rows.append({"method": method, "psnr": psnr, "seeds": len(results), "steps": steps})
    return rows, failed


def summarise(runs: Mapping[Run, Mapping[str, Any]], plan: Plan) -> dict[str, Any]:
    """Mean and spread over seeds, by context mode, kind of shapes and method."""
    rows = []
    for mode in CONTEXT_MODES:
        for kind in ("tables", "general"):
            for method in METHODS:
                results = [runs[run] for run in runs_measured_with(runs, method, mode)]
                if results:
                    measures = {
                        name: mean_and_spread(
                            [r[kind][name] for r in results if r[kind][name] is not None]
                        )
                        for name in MEASURES
                    }
                    rows.append({"mode": mode, "kind": kind, "method": method, **measures})
                    rows[-1]["seeds"] = len(results)
                    rows[-1]["steps"] = [r["steps"] for r in results]
    return {
        "seconds": plan.seconds,
        "shapes": plan.shapes,
        "images": plan.images,
        "machine": machine(),
        "rows": rows,
    }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows of one context mode and kind of shapes, as Markdown."""
    headings = ["adapted", "outer steps", *(heading for heading, *_ in MEASURES.values())]
    return markdown_table(
        headings,
        [
            [
                row["method"],
                str(round(sum(row["steps"]) / len(row["steps"]))),
                *(spread_cell(row[m], form, by) for m, (_, form, by) in MEASURES.items()),
            ]
            for row in rows
        ],
    )


def page(summary: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    rows = summary["rows"]
    points = ""
    if any(row["method"] == "points" for row in rows):
        points = (
            "; 216 latents of 32\nchannels at points that move, among which a place chooses softly"
        )
    parts = [
        f"""# What is adapted: weights, latents, or both

    make tables general
    python -m experiments.adapted --docs docs --photographs auto

A SIREN of three hidden layers of 128, trained on the demo's tables for {summary["seconds"]:.0f} s
of one core of {summary["machine"]["processor"]}, {count_of_seeds(rows)}. In the same five inner
steps are adapted: its weights (MetaSDF); one latent of 256 channels that is added before every sine
(a modulation, as of Functa); latents on grids of 8 and 32 points a side with 8 channels each, added
there as well (as of Spatial Functa); the weights and grids of 4 channels{points}. Measured on
{summary["shapes"]} test tables of the demo and on as many solids of other kinds, in any rotation,
after as many steps as do good by points held out of the context, without refinement; ± is the
standard deviation over seeds."""
    ]
    for mode in CONTEXT_MODES:
        for kind, words in (("tables", "test tables"), ("general", "solids of other kinds")):
            chosen = [row for row in rows if (row["mode"], row["kind"]) == (mode, kind)]
            if chosen:
                parts.append(f"## {mode}: {words}\n\n{table(chosen)}")
    if summary.get(PHOTOGRAPHS):
        parts.append(f"## photographs\n\n{photographs_page(summary)}")
    return "\n\n".join(parts) + "\n"


def photographs_page(summary: Mapping[str, Any]) -> str:
    """The results on photographs as Markdown."""
    rows = summary[PHOTOGRAPHS]
    steps = [f"step {k}" if k else "initialisation" for k in range(len(rows[0]["psnr"]))]
    lines = [
        [
            row["method"],
            str(round(sum(row["steps"]) / len(row["steps"]))),
            *(spread_cell(value, ".2f") for value in row["psnr"]),
        ]
        for row in rows
    ]
    return f"""The curriculum `cifar` in the same time, {count_of_seeds(rows)}; {summary["images"]}
photographs that it has not seen, PSNR in dB after each of three steps. Grids have 8 and 16 points
a side, of 8 channels alone and 4 beside weights; there are 144 points with 16 channels.

{markdown_table(["adapted", "outer steps", *steps], lines)}"""


def main() -> int:
    """Run the command; the exit code."""
    parser = ComparisonCommand("adapted", "adapted", __doc__, "minutes, for tests")
    parser.add_argument("--data", type=Path, help="the tables' data (default: the demo's)")
    parser.add_argument("--general", type=Path, help="the general shapes' data")
    parser.add_argument("--seconds", type=whole_number, help="processor time of a run")
    parser.add_argument("--seeds", type=whole_number, help="trainings of each kind")
    parser.add_argument("--modes", nargs="+", choices=CONTEXT_MODES, default=CONTEXT_MODES)
    parser.add_argument(
        "--photographs", metavar="FILE_OR_FOLDER", help="also on these; auto: CIFAR-10"
    )
    parser.add_argument("--kept", action="store_true", help="only write what is finished")
    plan, output, docs, processes, options = parser.choices(Plan(), QUICK)
    if options.kept and options.photographs:
        parser.error("--kept goes without --photographs")
    seconds, seeds = float(options.seconds or plan.seconds), options.seeds or plan.seeds
    plan = replace(plan, seconds=seconds, seeds=seeds)
    data = Data(
        (options.data or ROOT / "output" / "demo" / "data").absolute(),
        (options.general or ROOT / "output" / "models" / "data").absolute(),
    )
    for kind, command in (("tables", "make tables"), ("general", "make general")):
        if not data.test_split(kind).exists():
            raise InputError(
                f"{data.test_split(kind)}: there is no such file; `{command}` makes it"
            )
    runs = [
        run
        for seed in range(plan.seeds)
        for method in METHODS
        for run in runs_of_method(method, False, options.modes, seed)
    ]
    curriculum = partial(run_curriculum, output=output, data=data)
    measure = partial(measure_run, data=data, shapes=plan.shapes)
    sweep = Sweep(plan.seconds, curriculum, measure, MEASURING_KEYS)
    if options.kept:
        done, failed = {run: r for run in runs if (r := sweep.kept(run)) is not None}, 0
    else:
        done, failed = sweep.results(runs, processes)
    summary = summarise(done, plan)
    if options.photographs:
        source = find_photographs(options.photographs, ROOT / "data")
        source = source if source == EMBEDDED else os.path.abspath(source)
        summary[PHOTOGRAPHS], more = compare_photographs(plan, output, source, processes)
        failed += more
    write_docs(docs, "adapted", summary, page(summary))
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
