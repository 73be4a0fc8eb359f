"""The paper's experiments on digits: reproduce_2d.py [--quick] [--data FOLDER]

Trains every method of the curriculums digits_* for the same time on the training digits of MNIST,
fits it to test digits, dense and levelset, and to digits unlike those of training (rotated, in
pairs, in threes), and writes

    DOCS/reproduce_2d.md               the tables
    DOCS/reproduce_2d.json             the same and every run, for programs
    DOCS/reproduce_2d_<mode>.png       every method's fields beside the truth
    DOCS/reproduce_2d_steps.png        MetaSDF's, step by step

Each run has a folder below OUTPUT. What is finished there is not done again. Time means processor
time of one core, so that other work on the machine does not count. Runs go side by side, one a
core.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from experiments.timed import (
    NAMES,
    PAGE_WIDTH,
    can_compile,
    cell,
    fits_in_turns,
    kept,
    latest_checkpoint,
    machine,
    over_seeds,
    side_by_side,
    write_docs,
)
from metasdf.commands.arguments import CommandLine, whole_number
from metasdf.data.tasks import stack
from metasdf.errors import run_command
from metasdf.evaluation.gallery import write_grid
from metasdf.images.evaluation import DEFINITIONS, evaluate, test_data
from metasdf.images.pictures import adaptation_row, field_values, picture, truth
from metasdf.images.sources import EMBEDDED, find_digits
from metasdf.images.tasks import PARTS, PlaneDataset
from metasdf.learning.checkpoints import load_model
from metasdf.learning.curriculum import CONTEXT_MODES_2D, load_curriculum
from metasdf.maml import Method

ROOT = Path(__file__).resolve().parents[1]
CURRICULUMS = ROOT / "2D" / "curriculums.py"
CPU = torch.device("cpu")

METHODS = {method: name for method, name in NAMES.items() if method != "autodecoder"}
MEASURES = {  # heading, factor, digits
    "absolute_error": ("error, pixels", 1, 3),
    "squared_error": ("squared error x 1e4", 1e4, 3),
    "iou": ("IoU", 1, 3),
    "misclassified_percentage": ("misclassified, %", 1, 2),
}
ONLY_MEASURING = ("test_images", "code_steps", "code_points")  # keys that training does not see
TIMED_IMAGES = 5
PICTURED = 2  # digits of each part
COMPOSED = PICTURED + 3  # digits that are loaded for that, as pairs and threes take the next ones


Models = dict[str, tuple[Method, dict[str, Any]]]  # by method or mode, with curriculums


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    seconds: float = 90.0  # of training, of one core, each method and seed
    seeds: int = 3
    test_images: int = 300  # of each part
    fitted_codes: int = 32  # of them for auto-decoders, which take a second for each
    code_steps: int = 400
    compiled: bool = True  # the steps of all methods but auto-decoders
    keys: tuple[tuple[str, Any], ...] = ()  # further curriculum keys, for all methods


QUICK = Plan(seconds=10.0, seeds=1, test_images=48, fitted_codes=8, code_steps=50, compiled=False)


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
        """The context modes it is measured with."""
        modes = CONTEXT_MODES_2D
        return tuple(m for m in modes if run_of(self.method, m, self.seed) == self)


def run_of(method: str, mode: str, seed: int) -> Run:
    """The run that is measured with a mode.

    An auto-decoder's training sees no context: one serves all modes.
    """
    return Run(method, "dense" if fits_codes(method) else mode, seed)


def fits_codes(method: str) -> bool:
    return method.startswith("autodecoder")


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
    """The curriculum of a run."""
    keys = {
        "data_source": source,
        "context_mode": run.context_mode,
        "seed": run.seed,
        "output_dir": str(output / run.name),
        "test_images": plan.fitted_codes if fits_codes(run.method) else plan.test_images,
        "code_steps": plan.code_steps,
        "val_images": 16,
        "compile": plan.compiled and not fits_codes(run.method),
        **dict(plan.keys),
    }
    return load_curriculum(CURRICULUMS, f"digits_{run.method}", keys)


def work(run: Run, plan: Plan, output: Path, source: str) -> dict[str, Any]:
    """Train and measure; what comes out is kept in the run's folder, and not redone."""
    torch.set_num_threads(1)
    curriculum = curriculum_of(run, plan, output, source)

    def measured() -> dict[str, Any]:
        model, _ = load_model(latest_checkpoint(curriculum), curriculum)
        modes = {}
        for mode in run.measured_modes:
            result = evaluate(model, {**curriculum, "context_mode": mode}, CPU)
            rows = result.pop("shapes")  # thousands
            modes[mode] = {**result, "first": first(rows, plan.fitted_codes)}
        return {"parameters": sum(p.numel() for p in model.parameters()), "modes": modes}

    return kept(curriculum, plan.seconds, ONLY_MEASURING, measured)


def first(rows: Sequence[Mapping[str, Any]], count: int) -> dict[str, float]:
    """Mean absolute error of the first `count` images of each part.

    Those every method has, but for the last in pairs and the last two in threes: auto-decoders,
    which load no more, complete these with the first digits.
    """
    by_part: dict[str, list[float]] = {part: [] for part in PARTS}
    for row in rows:
        by_part[row["part"]].append(row["absolute_error"])
    return {part: statistics.fmean(values[:count]) for part, values in by_part.items()}


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
            | {"first": over_seeds([e["first"][part] for e in evaluations])}
            for part in PARTS
        },
        "training_steps": statistics.median(result["steps"] for result in results),
        "training_seconds": statistics.fmean(result["seconds"] for result in results),
        "parameters": results[0]["parameters"],
    }


def fit_seconds(models: Mapping[str, Models]) -> dict[str, Any]:
    """Seconds to fit one digit, by mode and method, on one core."""
    result = {}
    for mode, of_mode in models.items():
        data = shared_data(of_mode, "test", TIMED_IMAGES)
        contexts = [stack([data.task(i, 0)])["context"] for i in range(TIMED_IMAGES)]
        fitted = {method: model for method, (model, _) in of_mode.items()}
        result[mode] = fits_in_turns(fitted, contexts, dict.fromkeys(fitted))
    return result


def shared_data(of_mode: Models, part: str, count: int) -> PlaneDataset:
    """The first `count` digits of a part, the same for all methods of a mode."""
    _, curriculum = next(iter(of_mode.values()))
    return test_data({**curriculum, "test_images": count}, part)[0]


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
        of_first = f"error, pixels, of the first {plan['fitted_codes']} images alone"
        for measure, (heading, factor, digits) in {**MEASURES, "first": (of_first, 1, 3)}.items():
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
        f"(the first {plan['fitted_codes']} for auto-decoders, whose codes were fitted in "
        f"{plan['code_steps']} steps). {definitions}. Figures are means over seeds "
        "of what the images give, with the standard deviation over seeds. Each method was trained "
        f"for {plan['seconds']:.0f} s of one core of {summary['machine']['processor']}, PyTorch "
        f"{summary['machine']['torch']}"
        f"{', steps compiled but for auto-decoders' if plan['compiled'] else ''}.",
    ]
    return "\n".join(lines) + "\n"


# Pictures


def write_methods(path: Path, models: Models) -> None:
    """Rows of digits: the truth, then every method's field."""
    rows = []
    for part in PARTS:
        data = shared_data(models, part, COMPOSED)
        for index in range(PICTURED):
            row = [(f"{part} {index}: truth", picture(truth(data, index)))]
            context = stack([data.task(index, 0)])["context"]
            for method, (model, _) in models.items():
                label = METHODS[method].replace("concatenation", "concat.")
                label = label.replace("hypernetwork", "hypernet.")
                values = field_values(model, data, model.adapt(context), CPU)
                row.append((label, picture(values)))
            rows.append(row)
    write_grid(path, rows, PAGE_WIDTH)


def write_steps(path: Path, models: Models) -> None:
    """Rows of digits: MetaSDF's initialisation, each step, the truth; a row for each mode."""
    rows = []
    for part in PARTS:
        for mode, (model, curriculum) in models.items():
            data, _ = test_data({**curriculum, "test_images": COMPOSED}, part)
            rows.append(adaptation_row(model, data, 0, CPU, f"{part}, {mode}"))
    write_grid(path, rows, PAGE_WIDTH)


# The command


def reproduce(
    plan: Plan, output: Path, docs: Path, source: str = "auto", processes: int | None = None
) -> int:
    """Do what is not done yet, and write tables and pictures; how many runs failed.

    Unless all runs succeed there are no tables, as they would compare different things.
    """
    wanted = runs(plan.seeds)
    one = partial(work, plan=plan, output=output, source=source)
    results, failed = side_by_side(one, wanted, processes)
    if failed:
        print(f"no tables: {failed} of {len(wanted)} runs failed; what is finished is kept")
        return failed
    torch.set_num_threads(1)
    models: dict[str, Models] = {mode: {} for mode in CONTEXT_MODES_2D}
    for mode in CONTEXT_MODES_2D:
        for method in METHODS:
            run = run_of(method, mode, 0)
            curriculum = curriculum_of(run, plan, output, source)
            model, _ = load_model(latest_checkpoint(curriculum), curriculum)
            models[mode][method] = model, {**curriculum, "context_mode": mode}
    summary = summarise(results, plan, source)
    summary["fit_seconds"] = fit_seconds(models)
    write_docs(docs, "reproduce_2d", summary, tables(summary))
    for mode, of_mode in models.items():
        write_methods(docs / f"reproduce_2d_{mode}.png", of_mode)
    write_steps(
        docs / "reproduce_2d_steps.png",
        {mode: of_mode["metasdf_siren"] for mode, of_mode in models.items()},
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
    if plan.compiled and not can_compile():
        print("there is no C++ compiler here: steps are not compiled, and fewer fit into the time")
        plan = replace(plan, compiled=False)
    source = source if source == EMBEDDED else os.path.abspath(source)
    failed = reproduce(plan, output, options.docs or output, source, options.processes or None)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
