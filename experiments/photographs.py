"""Fit SIRENs to photographs in three gradient steps.

    python -m experiments.photographs [--quick] [--data FILE_OR_FOLDER]

Trains the curriculums cifar* for the same time, fits each to photographs that training has not
seen, and writes

    DOCS/photographs.md      PSNR after each step, a table
    DOCS/photographs.json    the same, for programs
    DOCS/photographs.png     initialisation, each step, truth

What is finished in OUTPUT is not done again. Time means processor time of one core.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.command import ROOT, ComparisonCommand
from experiments.sweep import CPU, Run, Sweep
from experiments.tables import PAGE_WIDTH, machine, markdown_table, training_budget, write_docs
from metasdf.commands.console import run_command
from metasdf.evaluation.gallery import write_grid
from metasdf.images.evaluation import evaluate, test_data
from metasdf.images.pictures import adaptation_row
from metasdf.images.sources import EMBEDDED, find_photographs
from metasdf.learning.curriculum import load_curriculum
from metasdf.method import Method

LABELS = {  # of the curriculums
    "cifar": "SIREN, ours",
    "cifar_original": "SIREN, the original's settings",
    "cifar_pe": "positional encoding, the same step sizes",
    "cifar_relu": "ReLU, the same step sizes",
}
SHOWN_KEYS = ("network", "lr", "init_lr", "ScenesPerBatch")
PICTURED = {"cifar": "ours", "cifar_original": "original's"}
PICTURED_IMAGES = 5  # for each of these


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        seconds: of training, of one core.
        test_images: photographs to test on; None: all.
        keys: further curriculum keys.
    """

    seconds: float = 600.0
    test_images: int | None = None
    keys: tuple[tuple[str, Any], ...] = ()


QUICK = Plan(seconds=30.0, test_images=64)


def run_curriculum(run: Run, plan: Plan, output: Path, source: str) -> dict[str, Any]:
    """The complete curriculum of a run."""
    keys = {
        "data_source": source,
        "output_dir": str(output / run.name),
        "test_images": plan.test_images,
        "images_per_epoch": 160,
        **dict(plan.keys),
    }
    return load_curriculum(run.method, keys)


def measure_run(run: Run, model: Method, curriculum: Mapping[str, Any]) -> dict[str, Any]:
    """Fit the test photographs; PSNR after each step."""
    result = evaluate(model, curriculum, CPU)
    return {
        "psnr": result["parts"]["test"]["psnr"],
        "psnr_by_step": result["psnr_by_step"],
        "images": result["num_shapes"] - result["num_failed"],
        "fit_seconds": result["fit_seconds"],
    }


def table(summary: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    results = summary["runs"]
    first = next(iter(results.values()))
    steps = [f"step {k}" if k else "initialisation" for k in range(len(first["psnr_by_step"]))]
    lines = [
        [
            LABELS[name],
            *(str(result["settings"]["shown"][key]) for key in SHOWN_KEYS),
            *(f"{value:.2f}" for value in result["psnr_by_step"]),
            f"{result['psnr']['std']:.2f}",
            str(result["steps"]),
        ]
        for name, result in results.items()
    ]
    paragraphs = [
        "PSNR in dB, mean over photographs",
        markdown_table(["settings", *SHOWN_KEYS, *steps, "std", "steps trained"], lines),
        f"{first['images']} photographs ({summary['data']}) that training has not seen; all pixels "
        f"are context and measured. {first['fit_seconds']:.2f} s to fit one on one core. Each was "
        f"trained for {training_budget(summary)}, with half of `lr` in the last fifth of the time.",
    ]
    return "\n\n".join(paragraphs) + "\n"


def write_pictures(path: Path, sweep: Sweep) -> None:
    """Rows of photographs: initialisation, each step, truth."""
    rows = []
    for name, label in PICTURED.items():
        model, curriculum = sweep.model(Run(name, name))
        data, _ = test_data(curriculum, "test")
        indices = range(min(PICTURED_IMAGES, data.length))
        rows += [adaptation_row(model, data, i, CPU, label) for i in indices]
    write_grid(path, rows, PAGE_WIDTH)


def compare(plan: Plan, output: Path, docs: Path, source: str, processes: int | None = None) -> int:
    """Do what is not done yet, and write table and pictures, unless a run fails; how many did.

    Args:
        plan: how much is done.
        output: an absolute path, the folder of the runs.
        docs: folder of table and pictures.
        source: of the photographs, as `find_photographs` returns it.
        processes: runs at once; None: as many as there are cores.
    """
    runs = [Run(name, name) for name in LABELS]
    curriculum = partial(run_curriculum, plan=plan, output=output, source=source)
    sweep = Sweep(plan.seconds, curriculum, measure_run, ("test_images",))
    results, failed = sweep.results(runs, processes)
    if failed:
        print(f"no table: {failed} of {len(runs)} runs failed; what is finished is kept")
        return failed
    torch.set_num_threads(1)
    write_pictures(docs / "photographs.png", sweep)
    for run, result in results.items():
        values = sweep.curriculum(run)
        result["settings"]["shown"] = {key: values[key] for key in SHOWN_KEYS}
    summary = {
        "plan": asdict(plan),
        "data": "photographs of scikit-image" if source == EMBEDDED else Path(source).name,
        "machine": machine(),
        "runs": {run.name: result for run, result in results.items()},
    }
    write_docs(docs, "photographs", summary, table(summary))
    return failed


def main() -> int:
    """Run the command; the exit code."""
    quick = "few photographs, minutes"
    parser = ComparisonCommand("photographs", "photographs", __doc__, quick)
    parser.add_argument(
        "--data",
        default="auto",
        help="npz file or folder of images; embedded; or auto: CIFAR-10, downloaded, if possible",
    )
    plan, output, docs, processes, options = parser.choices(Plan(), QUICK)
    source = find_photographs(options.data, ROOT / "data")
    source = source if source == EMBEDDED else os.path.abspath(source)
    return 1 if compare(plan, output, docs, source, processes) else 0


if __name__ == "__main__":
    run_command(main)
