"""What steps, seconds and held-out points are worth: python -m experiments.adaptation RUN ...

Each RUN is a trained model on a test split: a name, a checkpoint, a context mode, a data folder and
a split file, `NAME=CHECKPOINT:MODE:DATA:SPLIT`; several of one NAME are seeds of the same. Measured
are

    steps    F-score and misclassified samples after 5, 8, 13, 20, 30 and `auto` steps
    refine   the same and more after 0, 1, 5 and 20 seconds of refinement, of the first run
    trust    how the error at held-out points ranks the reconstructions of all runs, against the
             true Chamfer distance, and which bad ones it names

on the first SHAPES shapes of each split. Writes DOCS/adaptation.md and .json; what is finished in
OUTPUT is not done again.
"""

import os

os.environ.update(IGL_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr

from experiments.command import ComparisonCommand
from experiments.sweep import CPU, side_by_side
from experiments.tables import machine, markdown_table, mean_and_spread, spread_cell, write_docs
from metasdf.commands.command_line import whole_number
from metasdf.commands.console import run_command
from metasdf.data.names import read_split, write_split
from metasdf.data.samples import Samples
from metasdf.errors import InputError
from metasdf.evaluation.folder import evaluate
from metasdf.files import read_json, write_json
from metasdf.learning.model_files import load_model
from metasdf.reconstruction.adaptation import AUTO, TRUSTED
from metasdf.reconstruction.split import reconstruct_split

STEPS = (5, 8, 13, 20, 30, AUTO)
SECONDS = (0, 1, 5, 20)
BAD = 1e-3  # Chamfer distance in the normalised frame from which a reconstruction is bad
MEASURES = ("chamfer", "f_score", "normal_consistency", "iou", "misclassified_percentage")


class ModelRun(NamedTuple):
    """A trained model on a test split; see the module's docstring."""

    name: str
    checkpoint: str
    context_mode: str
    data: str
    split: str

    @classmethod
    def parse(cls, text: str) -> "ModelRun":
        name, _, rest = text.partition("=")
        parts = rest.split(":")
        if len(parts) != 4:
            raise InputError(f"{text}: is not NAME=CHECKPOINT:MODE:DATA:SPLIT")
        return cls(name, *(str(Path(p).resolve()) if i != 1 else p for i, p in enumerate(parts)))


class Measuring(NamedTuple):
    """One model with one number of steps and seconds of refinement."""

    run: ModelRun
    steps: int | str
    seconds: float
    shapes: int
    folder: str


def measured(job: Measuring) -> dict[str, Any]:
    """Reconstruct and measure; kept in the job's folder."""
    file = Path(job.folder, "measured.json")
    if file.exists() and (kept := read_json(file)).get("job") == repr(job):
        return kept
    run, folder = job.run, Path(job.folder)
    write_split(folder / "split.json", read_split(run.split)[: job.shapes])
    model = load_model(run.checkpoint)
    curriculum = {
        **model.curriculum,
        "context_mode": run.context_mode,
        "data_source": run.data,
        "test_split": str(folder / "split.json"),
        "reconstruction_output_dir": str(folder / "meshes"),
        "reconstruction_steps": job.steps,
        "refine": float(job.seconds),
    }
    reconstruct_split(model, curriculum, CPU, run.checkpoint)
    result = evaluate(folder / "meshes", nearest=False)
    scales = {
        str(shape): Samples(run.data, shape).normalisation.scale
        for shape in read_split(folder / "split.json")
    }
    for row in result["shapes"]:
        if row["chamfer"] is not None:
            row["relative_chamfer"] = row["chamfer"] * scales[row["shape"]] ** 2
    kept = {"job": repr(job), "result": result}
    write_json(file, kept)
    return kept


def jobs_of(runs: Sequence[ModelRun], shapes: int, output: Path) -> dict[str, Measuring]:
    """Everything that is measured, by name."""
    jobs = {}
    for number, run in enumerate(runs):
        kinds = [(steps, 0.0) for steps in STEPS]
        if number == 0:
            kinds += [(8, float(seconds)) for seconds in SECONDS]
        for steps, seconds in dict.fromkeys(kinds):
            name = f"{number:02d}_{run.name}_{steps}_{seconds:g}"
            jobs[name] = Measuring(run, steps, seconds, shapes, str(output / name))
    return jobs


# Tables


def mean_of(result: Mapping[str, Any], measure: str) -> float | None:
    return result[measure] and result[measure]["mean"]


def steps_table(results: Mapping[Measuring, Mapping[str, Any]]) -> str:
    """F-score and misclassified samples by steps, means and spread over the seeds of a name."""
    rows = []
    for name in dict.fromkeys(job.run.name for job in results):
        for measure, form in (("f_score", ".3f"), ("misclassified_percentage", ".2f")):
            cells = []
            for steps in STEPS:
                chosen = [
                    mean_of(result, measure)
                    for job, result in results.items()
                    if (job.run.name, job.steps, job.seconds) == (name, steps, 0)
                ]
                cells.append(
                    spread_cell(mean_and_spread([v for v in chosen if v is not None]), form)
                )
            label = "F-score" if measure == "f_score" else "misclassified, %"
            rows.append([f"{name}, {label}", *cells])
    return markdown_table(["steps", *map(str, STEPS)], rows)


def refine_table(results: Mapping[Measuring, Mapping[str, Any]]) -> str:
    """The measures by seconds of refinement, of the first run."""
    first = next(iter(results)).run
    rows = []
    for seconds in SECONDS:
        result = next(
            r
            for job, r in results.items()
            if (job.run, job.steps, job.seconds) == (first, 8, seconds)
        )
        cells = []
        for measure in MEASURES:
            value, factor = mean_of(result, measure), 1e3 if measure == "chamfer" else 1
            cells.append("-" if value is None else f"{factor * value:.3f}")
        in_one = sum(row.get("pieces") == 1 for row in result["shapes"])
        rows.append([str(seconds), *cells, f"{in_one} of {len(result['shapes'])}"])
    headings = ["seconds", "Chamfer x 1000", "F-score", "normals", "IoU", "misclassified, %"]
    return markdown_table([*headings, "in one piece"], rows)


def trust_figures(results: Mapping[Measuring, Mapping[str, Any]]) -> dict[str, Any]:
    """How well the error at held-out points tells good reconstructions from bad ones."""
    rows = [row for result in results.values() for row in result["shapes"]]
    rows = [row for row in rows if row.get("relative_chamfer") is not None]
    error = np.array([row["held_out_error"] for row in rows])
    truth = np.array([row["relative_chamfer"] for row in rows])
    named, bad = error > TRUSTED, truth > BAD
    return {
        "reconstructions": len(rows),
        "rank_correlation": float(spearmanr(error, truth).statistic),
        "threshold": TRUSTED,
        "bad_from": BAD,
        "bad": int(bad.sum()),
        "bad_named": int((bad & named).sum()),
        "good": int((~bad).sum()),
        "good_named": int((~bad & named).sum()),
        "pairs": [[float(e), float(t)] for e, t in zip(error, truth, strict=True)],
    }


def page(summary: Mapping[str, Any], steps: str, refine: str, shapes: int) -> str:
    """The results as Markdown."""
    trust = summary["trust"]
    return f"""# What steps, seconds and held-out points are worth

Written by `python -m experiments.adaptation`; which models and data, below. Figures are means over
the first {shapes} test shapes; ± is the standard deviation over seeds.

## Steps

`auto` goes on while the error at points held out of the context falls, to 30 steps at most.

{steps}

## Refinement

`--refine SECONDS`, after 8 steps; one core of {summary["machine"]["processor"]}.

{refine}

## When not to trust

The error at held-out points, in the record of every reconstruction as `held_out_error`, against the
true Chamfer distance in the normalised frame, over {trust["reconstructions"]} reconstructions: rank
correlation {trust["rank_correlation"]:.2f}. A reconstruction whose error is above
{trust["threshold"]:g} is not to be trusted: of {trust["bad"]} with a Chamfer distance above
{trust["bad_from"]:g} that names {trust["bad_named"]}, and of {trust["good"]} others
{trust["good_named"]}.

## Models

{markdown_table(["name", "checkpoint", "context", "split"], summary["models"])}
"""


def main() -> int:
    """Run the command; the exit code."""
    parser = ComparisonCommand("adaptation", "adaptation", __doc__, "two shapes of each split")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="NAME=CHECKPOINT:MODE:DATA:SPLIT")
    parser.add_argument("--shapes", type=whole_number, help="of each split (default 16)")
    shapes, output, docs, processes, options = parser.choices(16, 2)
    shapes = options.shapes or shapes
    runs = [ModelRun.parse(text) for text in options.runs]
    jobs = jobs_of(runs, shapes, output)
    done, failed = side_by_side(measured, jobs, processes)
    results = {jobs[name]: done[name]["result"] for name in jobs if name in done}
    if failed:
        print(f"no tables: {failed} of {len(jobs)} failed; what is finished is kept")
        return 1
    unrefined = {job: result for job, result in results.items() if job.steps in (8, AUTO)}
    models = [[r.name, Path(r.checkpoint).name, r.context_mode, Path(r.split).name] for r in runs]
    summary = {
        "machine": machine(),
        "trust": trust_figures(unrefined),
        "models": models,
        "jobs": {name: {m: mean_of(results[jobs[name]], m) for m in MEASURES} for name in jobs},
    }
    text = page(summary, steps_table(results), refine_table(results), shapes)
    write_docs(docs, "adaptation", summary, text)
    return 0


if __name__ == "__main__":
    run_command(main)
