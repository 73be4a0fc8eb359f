"""Measure what each choice of the demo's training is worth: python -m experiments.training_choices

Every run changes something of the curriculum tables_tiny and is trained for the same processor time
of one core on the demo's training tables (`make tables`), of which every twelfth is kept back and
measured; no test table is seen. Writes DOCS/training_choices.md and .json. Finished runs are read
from output/training_choices; delete a run's folder to repeat it.
"""

import os

os.environ.update(IGL_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.ablations import measure_tasks
from experiments.command import ComparisonCommand
from experiments.sweep import CPU, Run, Sweep, latest_checkpoint
from experiments.tables import machine, markdown_table, number_cell, write_docs
from metasdf.commands.command_line import whole_number
from metasdf.commands.console import run_command
from metasdf.data.names import read_split, write_split
from metasdf.errors import InputError
from metasdf.evaluation.folder import evaluate
from metasdf.learning.curriculum import load_curriculum
from metasdf.method import Method
from metasdf.reconstruction.fitting import held_out_task
from metasdf.reconstruction.split import reconstruct_split

KEPT_BACK = slice(5, None, 12)  # of the training tables: to measure
STEPS = (5, 8, 13, 20, 30)  # after which the share of misclassified samples is measured
MESHED_STEPS = 20
MEASURING_KEYS = ("reconstruction_", "resolution", "refine", "keep")

# What each run changes, by the label of its row.
CHOICES: dict[str, dict[str, Any]] = {
    "the demo's": {},
    "hard sign targets, as in the paper": {"sharpness": None},
    "sharpness 50": {"sharpness": 50.0},
    "sharpness 200": {"sharpness": 200.0},
    "8 shapes a batch": {"ScenesPerBatch": 8},
    "2 shapes a batch": {"ScenesPerBatch": 2},
    "twice the points": {"SDFSamplesPerScene": 2048},
    "half the points": {"SDFSamplesPerScene": 512},
    "K = 3": {"num_meta_steps": 3},
    "inner step sizes from 1e-3": {"init_lr": 1e-3},
    "one step size a weight, all steps (Meta-SGD)": {"lr_type": "meta_sgd"},
    "lr 2e-3": {"lr": 2e-3},
    "lr constant, a fifth at the end": {"lr_schedule": "steps", "lr_decay_factor": 0.2},
    "neither warm-up nor a limit on the norm": {"warmup_steps": 0, "gradient_norm": None},
    "first order": {"first_order": True},
    "w0 = 20": {"w0": 20.0},
    "64 wide": {"hidden_features": 64},
}


@dataclass(frozen=True)
class Plan:
    """How much is done: processor seconds of each run, and which runs; None: all."""

    seconds: float = 60.0
    labels: tuple[str, ...] | None = None


QUICK = Plan(seconds=5.0, labels=("the demo's", "2 shapes a batch"))


def run_curriculum(
    run: Run, output: Path, keys: Mapping[str, Any], choices: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The complete curriculum of a run: `choices` of its label, and `keys` of all."""
    paths = {
        "train_split": str(output / "splits" / "train.json"),
        "val_split": str(output / "splits" / "kept_back.json"),
        "test_split": str(output / "splits" / "kept_back.json"),
        "output_dir": str(output / run.name),
        "reconstruction_output_dir": str(output / run.name / "reconstructions"),
    }
    own = {"refine": 0.0, "reconstruction_steps": MESHED_STEPS, **keys, **paths}
    return load_curriculum("tables_tiny", {**own, **choices[run.method]})


def measure_run(run: Run, model: Method, curriculum: Mapping[str, Any]) -> dict[str, Any]:
    """Misclassified samples after each of STEPS, and the measures of meshes."""
    tasks = [held_out_task(curriculum, s, CPU) for s in read_split(curriculum["test_split"])]
    by_steps = {k: measure_tasks(model, tasks, k)["misclassified"] for k in STEPS}
    reconstruct_split(model, curriculum, CPU, str(latest_checkpoint(curriculum)))
    measures = evaluate(curriculum["reconstruction_output_dir"], nearest=False)
    mean = {name: measures[name] and measures[name]["mean"] for name in MEASURES}
    in_one = sum(shape.get("pieces") == 1 for shape in measures["shapes"])
    return {
        "misclassified": {str(k): statistics.fmean(values) for k, values in by_steps.items()},
        **mean,
        "one_piece": in_one,
        "shapes": len(tasks),
    }


MEASURES = {"chamfer": "Chamfer", "f_score": "F", "normal_consistency": "normals", "iou": "IoU"}


def prepare(output: Path, keys: Mapping[str, Any]) -> None:
    """Split the demo's training tables in two."""
    shapes = read_split(load_curriculum("tables_tiny", keys)["train_split"])
    kept_back = shapes[KEPT_BACK]
    if not kept_back:
        raise InputError(f"{len(shapes)} training shapes are too few; `make tables` makes 192")
    write_split(output / "splits" / "train.json", [s for s in shapes if s not in kept_back])
    write_split(output / "splits" / "kept_back.json", kept_back)


def choices_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each run, as Markdown."""
    headings = ["choice", "outer steps", *MEASURES.values(), "in one piece"]
    headings += [f"misclassified, % after {STEPS[0]}", *map(str, STEPS[1:])]
    rows = [
        [
            label,
            str(r["steps"]),
            *(number_cell(r[m], ".3f", 1e3 if m == "chamfer" else 1) for m in MEASURES),
            f"{r['one_piece']} of {r['shapes']}",
            *(f"{r['misclassified'][str(k)]:.1f}" for k in STEPS),
        ]
        for label, r in results.items()
    ]
    return markdown_table(headings, rows)


def page(summary: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    return f"""# What each choice of the demo's training is worth

    make tables
    python -m experiments.training_choices --docs docs

Each row changes one thing of the demo's curriculum, `tables_tiny`, and was trained for
{summary["seconds"]:.0f} s of one core of {summary["machine"]["processor"]} (the demo itself trains
for longer, on two). Trained on 176 of the demo's training tables, measured on the 16 others; one
seed. The surface is meshed after {MESHED_STEPS} steps, without refinement. Chamfer x 1000.
Differences of less than .01 in Chamfer or F mean nothing.

{choices_table(summary["runs"])}
"""


def main() -> int:
    """Run the command; the exit code."""
    parser = ComparisonCommand(
        "training_choices", "training_choices", __doc__, "a minute, for tests"
    )
    parser.add_argument("--data", type=Path, help="another data folder, as `make tables` makes it")
    parser.add_argument("--seconds", type=whole_number, help="processor time of a run (default 60)")
    plan, output, docs, processes, options = parser.choices(Plan(), QUICK)
    seconds = float(options.seconds or plan.seconds)
    keys: dict[str, Any] = {}
    if options.data:
        data = options.data.absolute()
        keys = {
            "data_source": str(data),
            "train_split": str(data / "splits" / "tables_train.json"),
        }
    prepare(output, keys)
    labels = plan.labels or tuple(CHOICES)
    runs = [Run(f"run_{list(CHOICES).index(label):02d}", label) for label in labels]
    curriculum = partial(run_curriculum, output=output, keys=keys, choices=CHOICES)
    sweep = Sweep(seconds, curriculum, measure_run, MEASURING_KEYS)
    done, failed = sweep.results(runs, processes)
    summary = {"seconds": seconds, "machine": machine()}
    summary["runs"] = {run.method: result for run, result in done.items()}
    write_docs(docs, "training_choices", summary, page(summary))
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
