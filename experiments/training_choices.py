"""Measure what each choice of a training is worth: python -m experiments.training_choices

Every run changes something of a curriculum and is trained for the same processor time of one core
on its training shapes, of which some are kept back and measured; no test shape is seen.

    python -m experiments.training_choices                     tables_tiny, the demo (`make tables`)
    python -m experiments.training_choices --study local       general_local (`make general`)

Writes DOCS/training_choices.md or DOCS/local_choices.md, and .json. Finished runs are read from
output/training_choices or output/local_choices; delete a run's folder to repeat it.
"""

import os

os.environ.update(IGL_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import statistics
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiments.ablations import measure_tasks
from experiments.command import ROOT, ComparisonCommand
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

STEPS = (5, 8, 13, 20, 30)  # after which the share of misclassified samples is measured
MESHED_STEPS = 20
RESOLUTION = 96
MEASURING_KEYS = ("reconstruction_", "resolution", "refine", "keep")

# What each run changes, by the label of its row.
DEMO: dict[str, dict[str, Any]] = {
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
LOCAL: dict[str, dict[str, Any]] = {
    "weights and grids": {},
    "weights alone": {"adapted": "weights"},
    "grids alone, 8 channels": {"adapted": "latents", "latent_channels": 8},
    "latents before the first sine alone": {"latents_enter": "first"},
    "grids of 8, 16 and 32 points": {"latent_grids": "8,16,32"},
    "a grid of 16 points, 8 channels": {"latent_grids": "16", "latent_channels": 8},
    "8 channels": {"latent_channels": 8},
    "latents' step sizes from 1": {"latent_lr": 1.0},
    "2 shapes a batch": {"ScenesPerBatch": 2},
    "half the points": {"SDFSamplesPerScene": 512},
}


class Study(NamedTuple):
    """A curriculum, what each run changes of it, and how long each is trained.

    Attributes:
        curriculum: its name.
        choices: the keys that each run changes, by the label of its row.
        seconds: processor time of a run.
        kept_back: of the training shapes: to measure.
        data: the command that makes its data.
        about: what the page says the rows are.
    """

    curriculum: str
    choices: dict[str, dict[str, Any]]
    seconds: float
    kept_back: slice
    data: str
    about: str


STUDIES = {
    "training": Study(
        *("tables_tiny", DEMO, 60.0, slice(5, None, 12), "make tables"),
        "the demo's curriculum, `tables_tiny` (the demo itself trains for longer, on two cores)",
    ),
    "local": Study(
        *("general_local", LOCAL, 240.0, slice(25, None, 50), "make general"),
        "the curriculum `general_local`, which adapts weights and latents on grids of 8 and 32 "
        "points a side with 4 channels each, added before every sine",
    ),
}
QUICK_SECONDS, QUICK_RUNS = 5.0, slice(2)


def run_curriculum(run: Run, output: Path, keys: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """The complete curriculum of a run: the choices of its label, and `keys` of all."""
    paths = {
        "train_split": str(output / "splits" / "train.json"),
        "val_split": str(output / "splits" / "kept_back.json"),
        "test_split": str(output / "splits" / "kept_back.json"),
        "output_dir": str(output / run.name),
        "reconstruction_output_dir": str(output / run.name / "reconstructions"),
    }
    measuring = {"refine": 0.0, "reconstruction_steps": MESHED_STEPS, "resolution": RESOLUTION}
    own = {**measuring, **keys, **paths}
    return load_curriculum(study.curriculum, {**own, **study.choices[run.method]})


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


def prepare(output: Path, keys: Mapping[str, Any], study: Study) -> int:
    """Split the training shapes in two; how many are left to train on."""
    shapes = read_split(load_curriculum(study.curriculum, keys)["train_split"])
    kept_back = shapes[study.kept_back]
    if not kept_back:
        raise InputError(f"{len(shapes)} training shapes are too few; `{study.data}` makes more")
    training = [s for s in shapes if s not in kept_back]
    write_split(output / "splits" / "train.json", training)
    write_split(output / "splits" / "kept_back.json", kept_back)
    return len(training)


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


def page(summary: Mapping[str, Any], study: Study) -> str:
    """The results as Markdown."""
    kept_back = max(run["shapes"] for run in summary["runs"].values())
    command = "" if study.curriculum == "tables_tiny" else f" --study {summary['study']}"
    return f"""# What each choice of a training is worth

    {study.data}
    python -m experiments.training_choices{command} --docs docs

Each row changes one thing of {study.about}. Trained for {summary["seconds"]:.0f} s of one core of
{summary["machine"]["processor"]} on {summary["training_shapes"]} of its training shapes, measured
on {kept_back} others; one seed. The surface is meshed after {MESHED_STEPS} steps, without
refinement. Chamfer x 1000. Differences of less than .01 in Chamfer or F mean nothing.

{choices_table(summary["runs"])}
"""


def main() -> int:
    """Run the command; the exit code."""
    parser = ComparisonCommand("training_choices", "", __doc__, "a minute, for tests")
    parser.add_argument("--study", choices=STUDIES, default="training")
    parser.add_argument("--data", type=Path, help="another data folder of the same kind")
    parser.add_argument("--seconds", type=whole_number, help="processor time of a run")
    _, output, _, processes, options = parser.choices(None, None)
    study, name = STUDIES[options.study], f"{options.study}_choices"
    if options.output == parser.get_default("output"):
        output = ROOT / "output" / name / ("quick" if options.quick else "")
    seconds = float(options.seconds or (QUICK_SECONDS if options.quick else study.seconds))
    keys: dict[str, Any] = {}
    if options.data:
        data = options.data.absolute()
        split = Path(load_curriculum(study.curriculum)["train_split"]).name
        keys = {"data_source": str(data), "train_split": str(data / "splits" / split)}
    training_shapes = prepare(output, keys, study)
    labels = list(study.choices)[QUICK_RUNS if options.quick else slice(None)]
    runs = [Run(f"run_{list(study.choices).index(label):02d}", label) for label in labels]
    curriculum = partial(run_curriculum, output=output, keys=keys, study=study)
    sweep = Sweep(seconds, curriculum, measure_run, MEASURING_KEYS)
    done, failed = sweep.results(runs, processes)
    summary = {"study": options.study, "seconds": seconds, "machine": machine()}
    summary |= {"training_shapes": training_shapes}
    summary["runs"] = {run.method: result for run, result in done.items()}
    write_docs(options.docs or output, name, summary, page(summary, study))
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
