"""SIRENs of photographs in three gradient steps: photographs.py [--quick] [--data FILE_OR_FOLDER]

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

from experiments.timed import PAGE_WIDTH, kept, latest_checkpoint, machine, side_by_side, write_docs
from metasdf.commands.arguments import CommandLine, whole_number
from metasdf.errors import run_command
from metasdf.evaluation.gallery import write_grid
from metasdf.images.evaluation import evaluate, test_data
from metasdf.images.pictures import adaptation_row
from metasdf.images.sources import EMBEDDED, find_photographs
from metasdf.learning.checkpoints import load_model
from metasdf.learning.curriculum import load_curriculum

ROOT = Path(__file__).resolve().parents[1]
CURRICULUMS = ROOT / "2D" / "curriculums.py"
CPU = torch.device("cpu")
SETTINGS = {
    "cifar": "SIREN, ours",
    "cifar_original": "SIREN, the original's settings",
    "cifar_pe": "positional encoding, the same step sizes",
    "cifar_relu": "ReLU, the same step sizes",
}
SHOWN = ("network", "lr", "init_lr", "ScenesPerBatch")
PICTURED = {"cifar": "ours", "cifar_original": "original's"}
PICTURES = 5  # photographs of each of these


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    seconds: float = 600.0  # of training, of one core
    test_images: int | None = None
    keys: tuple[tuple[str, Any], ...] = ()  # further curriculum keys


QUICK = Plan(seconds=30.0, test_images=64)


@dataclass(frozen=True)
class Run:
    """One training: of which of the SETTINGS."""

    name: str


def curriculum_of(name: str, plan: Plan, output: Path, source: str) -> dict[str, Any]:
    """The curriculum of a run."""
    keys = {
        "data_source": source,
        "output_dir": str(output / name),
        "test_images": plan.test_images,
        "images_per_epoch": 160,
        **dict(plan.keys),
    }
    return load_curriculum(CURRICULUMS, name, keys)


def work(run: Run, plan: Plan, output: Path, source: str) -> dict[str, Any]:
    """Train and measure; what comes out is kept in the run's folder, and not redone."""
    torch.set_num_threads(1)
    curriculum = curriculum_of(run.name, plan, output, source)

    def measured() -> dict[str, Any]:
        model, _ = load_model(latest_checkpoint(curriculum))
        result = evaluate(model, curriculum, CPU)
        psnr = {"psnr": result["parts"]["test"]["psnr"], "psnr_by_step": result["psnr_by_step"]}
        images = result["num_shapes"] - result["num_failed"]
        return {**psnr, "images": images, "fit_seconds": result["fit_seconds"]}

    return kept(curriculum, plan.seconds, ("test_images",), measured)


def table(summary: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    runs = summary["runs"]
    count = len(next(iter(runs.values()))["psnr_by_step"])
    steps = [f"step {k}" if k else "initialisation" for k in range(count)]
    lines = [
        "PSNR in dB, mean over photographs",
        "",
        f"| settings | {' | '.join(SHOWN)} | {' | '.join(steps)} | std | steps trained |",
        "|---" * (3 + len(SHOWN) + count) + "|",
    ]
    for name, run in runs.items():
        shown = [str(run["settings"]["shown"][key]) for key in SHOWN]
        psnr = [f"{value:.2f}" for value in run["psnr_by_step"]]
        cells = [SETTINGS[name], *shown, *psnr, f"{run['psnr']['std']:.2f}", str(run["steps"])]
        lines.append(f"| {' | '.join(cells)} |")
    run = next(iter(runs.values()))
    lines += [
        "",
        f"{run['images']} photographs ({summary['data']}) that training has not seen; all pixels "
        f"are context and measured. {run['fit_seconds']:.2f} s to fit one on one core. Each was "
        f"trained for {summary['plan']['seconds']:.0f} s of one core of "
        f"{summary['machine']['processor']}, PyTorch {summary['machine']['torch']}, with half of "
        "`lr` in the last fifth of the time.",
    ]
    return "\n".join(lines) + "\n"


def compare(plan: Plan, output: Path, docs: Path, source: str, processes: int | None = None) -> int:
    """Do what is not done yet, and write table and pictures, unless a run fails; how many did."""
    one = partial(work, plan=plan, output=output, source=source)
    results, failed = side_by_side(one, [Run(name) for name in SETTINGS], processes)
    if failed:
        print(f"no table: {failed} of {len(SETTINGS)} runs failed; what is finished is kept")
        return failed
    runs = {run.name: result for run, result in results.items()}
    rows = []
    for name, label in PICTURED.items():
        curriculum = curriculum_of(name, plan, output, source)
        model, _ = load_model(latest_checkpoint(curriculum))
        data, _ = test_data(curriculum, "test")
        index = range(min(PICTURES, data.length))
        rows += [adaptation_row(model, data, i, CPU, label) for i in index]
    write_grid(docs / "photographs.png", rows, PAGE_WIDTH)
    for name, run in runs.items():
        curriculum = curriculum_of(name, plan, output, source)
        run["settings"]["shown"] = {key: curriculum[key] for key in SHOWN}
    summary = {
        "plan": asdict(plan),
        "data": "photographs of scikit-image" if source == EMBEDDED else Path(source).name,
        "machine": machine(),
        "runs": runs,
    }
    write_docs(docs, "photographs", summary, table(summary))
    return failed


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few photographs, minutes")
    parser.add_argument(
        "--data",
        default="auto",
        help="npz file or folder of images; embedded; or auto: CIFAR-10, downloaded, if possible",
    )
    parser.add_argument("--output", default=ROOT / "output" / "photographs", type=Path)
    parser.add_argument("--docs", default=None, type=Path, help="default: OUTPUT")
    parser.add_argument("--processes", type=whole_number, help="runs at once (default: cores)")
    options = parser.parse()
    plan, output = (QUICK, options.output / "quick") if options.quick else (Plan(), options.output)
    source = find_photographs(options.data, ROOT / "data")
    source = source if source == EMBEDDED else os.path.abspath(source)
    failed = compare(plan, output, options.docs or output, source, options.processes or None)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
