"""The paper's experiments on digits: reproduce_2d.py [--quick] [--data FOLDER]

Trains every method of the curriculums digits_* for the same time on the training digits of MNIST,
fits it to test digits, dense and levelset, and to digits unlike those of training (rotated, in
pairs, in threes), and writes

    DOCS/reproduce_2d.md               the tables
    DOCS/reproduce_2d.json             the same and every run, for programs
    DOCS/reproduce_2d_<mode>.png       every method's fields beside the truth
    DOCS/reproduce_2d_steps.png        MetaSDF's, step by step

Each run has a folder below OUTPUT. What is finished there is not done again, and what was stopped
goes on where it was. Time means processor time of one core, so that other work on the machine
does not count. Runs go side by side, one a core.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from timed import cell, kept, latest_checkpoint, machine, over_seeds
from tqdm import tqdm

from metasdf.checkpoint import load_model
from metasdf.curriculum import CONTEXT_MODES_2D, CommandLine, load_curriculum, whole_number
from metasdf.data import stack
from metasdf.errors import InputError, run_command
from metasdf.files import atomic_path, write_json
from metasdf.gallery import write_grid
from metasdf.images import EMBEDDED, find_digits
from metasdf.method import Method
from metasdf.plane import PARTS
from metasdf.plane_evaluation import (
    DEFINITIONS,
    adaptation_row,
    evaluate,
    field_values,
    picture,
    test_data,
    truth,
)
from metasdf.reconstruction import fit

ROOT = Path(__file__).resolve().parents[1]
CURRICULUMS = ROOT / "2D" / "curriculums.py"
CPU = torch.device("cpu")

METHODS = {
    "metasdf": "MetaSDF",
    "autodecoder_concat": "auto-decoder, concatenation",
    "autodecoder_hyper": "auto-decoder, hypernetwork",
    "cnn_concat": "CNN encoder, concatenation",
    "cnn_hyper": "CNN encoder, hypernetwork",
    "set_concat": "set encoder, concatenation",
    "set_hyper": "set encoder, hypernetwork",
}
MEASURES = {  # heading, factor, digits
    "absolute_error": ("error, pixels", 1, 3),
    "squared_error": ("squared error x 1e4", 1e4, 3),
    "iou": ("IoU", 1, 3),
    "misclassified_percentage": ("misclassified, %", 1, 2),
}
ONLY_MEASURING = ("test_images", "code_steps", "code_points")  # keys that training does not see
TIMED_IMAGES, TIMED_REPEATS = 5, 3
PICTURED = 2  # digits of each part


Models = dict[str, tuple[Method, dict[str, Any]]]  # by method or mode, with curriculums


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    seconds: float = 120.0  # of training, of one core, each method and seed
    seeds: int = 3
    test_images: int = 500  # of each part
    fitted_codes: int = 50  # of them for auto-decoders, which take seconds for each
    code_steps: int = 100
    keys: tuple[tuple[str, Any], ...] = ()  # further curriculum keys, for all methods


QUICK = Plan(seconds=10.0, seeds=1, test_images=48, fitted_codes=8, code_steps=50)


@dataclass(frozen=True)
class Run:
    """One training."""

    method: str
    context_mode: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.method}_{self.context_mode}_{self.seed}"

    @property
    def measured_modes(self) -> tuple[str, ...]:
        """An auto-decoder's training sees no context: one serves all modes."""
        by_code = self.method.startswith("autodecoder")
        return CONTEXT_MODES_2D if by_code else (self.context_mode,)


def run_of(method: str, mode: str, seed: int) -> Run:
    """The run that is measured with a mode."""
    return Run(method, "dense" if method.startswith("autodecoder") else mode, seed)


def runs(seeds: int) -> list[Run]:
    """Every run; a seed is finished with all methods before the next."""
    wanted = [
        run_of(method, mode, seed)
        for seed in range(seeds)
        for method in METHODS
        for mode in CONTEXT_MODES_2D
    ]
    return list(dict.fromkeys(wanted))


def curriculum_of(run: Run, plan: Plan, output: Path, source: str) -> dict[str, Any]:
    """The curriculum of a run, all but its number of epochs."""
    of_codes = run.method.startswith("autodecoder")
    keys = {
        "data_source": source,
        "context_mode": run.context_mode,
        "seed": run.seed,
        "output_dir": str(output / run.name),
        "test_images": plan.fitted_codes if of_codes else plan.test_images,
        "code_steps": plan.code_steps,
        "val_images": 16,
        "validate_every": 10**6,  # at the end of each stage only
        **dict(plan.keys),
    }
    return load_curriculum(CURRICULUMS, f"digits_{run.method}", keys)


def work(run: Run, plan: Plan, output: Path, source: str) -> dict[str, Any]:
    """Train and measure; what comes out is kept in the run's folder, and not redone."""
    torch.set_num_threads(1)
    curriculum = curriculum_of(run, plan, output, source)

    def measured() -> dict[str, Any]:
        model, _ = load_model(latest_checkpoint(curriculum))
        modes = {}
        for mode in run.measured_modes:
            result = evaluate(model, {**curriculum, "context_mode": mode}, CPU)
            del result["shapes"]  # thousands of rows
            modes[mode] = result
        return {"parameters": sum(p.numel() for p in model.parameters()), "modes": modes}

    return kept(curriculum, plan.seconds, ONLY_MEASURING, measured)


# Results


def figures(results: Sequence[Mapping[str, Any]], mode: str) -> dict[str, Any]:
    """One method's row: by part and measure, mean and spread over seeds of the images' mean."""
    evaluations = [result["modes"][mode] for result in results]
    return {
        "seeds": len(results),
        "parts": {
            part: {
                measure: over_seeds([e["parts"][part][measure]["mean"] for e in evaluations])
                for measure in MEASURES
            }
            for part in PARTS
        },
        "training_steps": statistics.median(result["steps"] for result in results),
        "training_seconds": statistics.fmean(result["seconds"] for result in results),
        "parameters": results[0]["parameters"],
    }


def fit_seconds(models: Mapping[str, Models]) -> dict[str, Any]:
    """Seconds to fit one digit: medians over digits and repeats, methods taking turns, one core."""
    result = {}
    for mode, of_mode in models.items():
        times: dict[str, list[float]] = {method: [] for method in of_mode}
        _, curriculum = next(iter(of_mode.values()))
        data, _ = test_data({**curriculum, "test_images": TIMED_IMAGES}, "test")
        for index in range(TIMED_IMAGES):
            context = stack([data.task(index, 0)])["context"]
            for _ in range(TIMED_REPEATS):
                for method, (model, _) in of_mode.items():
                    times[method].append(fit(model, context, None, CPU)[1])
        result[mode] = {method: statistics.median(values) for method, values in times.items()}
    return result


def summarise(results: Mapping[Run, Mapping[str, Any]], plan: Plan, source: str) -> dict[str, Any]:
    """All figures: mode -> method -> row, and every run."""
    modes: dict[str, Any] = {}
    for mode in CONTEXT_MODES_2D:
        for method in METHODS:
            of_method = [
                result
                for run, result in results.items()
                if run.method == method and mode in run.measured_modes
            ]
            if of_method:
                modes.setdefault(mode, {})[method] = figures(of_method, mode)
    return {
        "plan": asdict(plan),
        "data": "Embedded digits of scikit-learn" if source == EMBEDDED else "MNIST",
        "definitions": {name: DEFINITIONS[name] for name in MEASURES},
        "machine": machine(),
        "modes": modes,
        "runs": {
            run.name: {name: value for name, value in result.items() if name != "settings"}
            for run, result in results.items()
        },
    }


def tables(summary: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    plan, lines = summary["plan"], []
    for mode, rows in summary["modes"].items():
        seeds = max(row["seeds"] for row in rows.values())
        for measure, (heading, factor, digits) in MEASURES.items():
            lines += [
                f"**{mode}** contexts, {heading}, {seeds} seed{'s' if seeds > 1 else ''}",
                "",
                f"| method | {' | '.join(PARTS)} |",
                "|---" * (1 + len(PARTS)) + "|",
            ]
            for method, row in rows.items():
                cells = [cell(row["parts"][part][measure], factor, digits) for part in PARTS]
                lines.append(f"| {METHODS[method]} | {' | '.join(cells)} |")
            lines.append("")
    lines += [
        "| method | ms to fit, dense | levelset | parameters | steps trained |",
        "|---" * 5 + "|",
    ]
    fits = summary["fit_seconds"]
    for method, row in next(iter(summary["modes"].values())).items():
        times = [f"{1e3 * fits[mode][method]:.1f}" for mode in CONTEXT_MODES_2D]
        steps = [summary["modes"][m][method]["training_steps"] for m in CONTEXT_MODES_2D]
        lines.append(
            f"| {METHODS[method]} | {' | '.join(times)} | {row['parameters']:,} "
            f"| {' / '.join(f'{s:.0f}' for s in dict.fromkeys(steps))} |"
        )
    definitions = "; ".join(
        f"{MEASURES[name][0]}: {text}" for name, text in summary["definitions"].items()
    )
    lines += [
        "",
        f"{summary['data']}, {plan['test_images']} images of each part "
        f"({plan['fitted_codes']} for auto-decoders). {definitions}. Figures are means over seeds "
        "of what the images give, with the standard deviation over seeds. Each method was trained "
        f"for {plan['seconds']:.0f} s of one core of {summary['machine']['processor']}, PyTorch "
        f"{summary['machine']['torch']}.",
    ]
    return "\n".join(lines) + "\n"


# Pictures


def write_methods(path: Path, models: Models) -> None:
    """Rows of digits: the truth, then every method's field."""
    rows = []
    for part in PARTS:
        for index in range(PICTURED):
            row: list[tuple[str, np.ndarray]] = []
            for method, (model, curriculum) in models.items():
                data, _ = test_data({**curriculum, "test_images": PICTURED + 3}, part)
                if not row:
                    row.append((f"{part} {index}: truth", picture(truth(data, index))))
                fields = model.adapt(stack([data.task(index, 0)])["context"])
                label = METHODS[method].replace("concatenation", "concat.")
                label = label.replace("hypernetwork", "hypernet.")
                row.append((label, picture(field_values(model, data, fields, CPU))))
            rows.append(row)
    write_grid(path, rows)


def write_steps(path: Path, models: Models) -> None:
    """Rows of digits: MetaSDF's initialisation, each step, the truth; a row for each mode."""
    rows = []
    for part in PARTS:
        for mode, (model, curriculum) in models.items():
            data, _ = test_data({**curriculum, "test_images": PICTURED + 3}, part)
            rows.append(adaptation_row(model, data, 0, CPU, f"{part}, {mode}"))
    write_grid(path, rows)


# The command


def reproduce(
    plan: Plan, output: Path, docs: Path, source: str = "auto", processes: int | None = None
) -> int:
    """Do what is not done yet, and write tables and pictures; how many runs failed."""
    results, failed = {}, 0
    wanted = runs(plan.seeds)
    with (
        ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool,
        tqdm(total=len(wanted), desc="comparing", unit="run", disable=None) as progress,
    ):
        futures = {pool.submit(work, run, plan, output, source): run for run in wanted}
        for future in as_completed(futures):
            run = futures[future]
            try:
                results[run] = future.result()
                progress.write(f"done: {run.name}")
            except InputError as error:
                failed += 1
                progress.write(f"failed: {run.name}: {error}")
            progress.update()
    if failed:
        raise InputError(f"{failed} of {len(wanted)} runs failed")
    results = {run: results[run] for run in wanted}
    torch.set_num_threads(1)
    models: dict[str, Models] = {mode: {} for mode in CONTEXT_MODES_2D}
    for mode in CONTEXT_MODES_2D:
        for method in METHODS:
            run = run_of(method, mode, 0)
            curriculum = curriculum_of(run, plan, output, source)
            model, _ = load_model(latest_checkpoint(curriculum))
            models[mode][method] = model, {**curriculum, "context_mode": mode}
    summary = summarise(results, plan, source)
    summary["fit_seconds"] = fit_seconds(models)
    text = tables(summary)
    print(text)
    write_json(docs / "reproduce_2d.json", summary)
    with atomic_path(docs / "reproduce_2d.md") as path:
        path.write_text(text, encoding="utf-8")
    for mode, of_mode in models.items():
        write_methods(docs / f"reproduce_2d_{mode}.png", of_mode)
    write_steps(
        docs / "reproduce_2d_steps.png",
        {mode: of_mode["metasdf"] for mode, of_mode in models.items()},
    )
    return failed


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few digits, one seed, minutes")
    parser.add_argument(
        "--data", default="auto", help="folder of MNIST; embedded; or auto: downloaded, if possible"
    )
    parser.add_argument("--output", default=ROOT / "output" / "reproduce_2d", type=Path)
    parser.add_argument("--docs", default=None, type=Path, help="default: OUTPUT")
    parser.add_argument("--processes", type=whole_number, help="runs at once (default: cores)")
    options = parser.parse()
    source = find_digits(options.data, ROOT / "data")
    plan, output = (QUICK, options.output / "quick") if options.quick else (Plan(), options.output)
    source = source if source == EMBEDDED else os.path.abspath(source)
    reproduce(plan, output, options.docs or output, source, options.processes or None)
    return 0


if __name__ == "__main__":
    run_command(main)
