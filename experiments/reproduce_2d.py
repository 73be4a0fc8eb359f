"""Compare MetaSDF with its baselines in 2D, on MNIST's digits.

    python -m experiments.reproduce_2d [--quick] [--data FOLDER]

Trains every method of the curriculums digits_* for the same time on the training digits of MNIST,
fits it to test digits from dense and from levelset contexts, and to digits unlike those of training
(rotated, double, triple), and writes

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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from experiments.command import ROOT, ComparisonCommand
from experiments.methods import ComparedMethod, choose_methods
from experiments.sweep import (
    CPU,
    Run,
    Sweep,
    can_compile,
    fit_times,
    runs_measured_with,
    runs_of_method,
)
from experiments.tables import (
    PAGE_WIDTH,
    count_of_seeds,
    machine,
    markdown_table,
    mean_and_spread,
    spread_cell,
    training_budget,
    training_figures,
    write_docs,
)
from metasdf.commands.console import run_command
from metasdf.data.tasks import collate
from metasdf.evaluation.gallery import write_grid
from metasdf.images.evaluation import DEFINITIONS, evaluate, test_data
from metasdf.images.pictures import adaptation_row, field_values, picture, truth
from metasdf.images.sources import EMBEDDED, find_digits
from metasdf.images.tasks import PARTS, ImageDataset
from metasdf.learning.curriculum import CONTEXT_MODES_2D
from metasdf.method import Method

METHODS = (
    *("metasdf", "autodecoder_concat", "autodecoder_hyper"),
    *("cnn_concat", "cnn_hyper", "set_concat", "set_hyper"),
    *("metasdf_siren", "cnn_concat_siren", "set_concat_siren"),
)
SHOWN_STEP_BY_STEP = "metasdf_siren"
MEASURES = {  # heading, format, factor
    "absolute_error": ("error, pixels", ".3f", 1),
    "squared_error": ("squared error x 1e4", ".3f", 1e4),
    "iou": ("IoU", ".3f", 1),
    "misclassified_percentage": ("misclassified, %", ".2f", 1),
}
MEASURING_KEYS = ("test_images", "code_steps", "code_points")  # training does not depend on them
TIMED_IMAGES = 5
PICTURED_IMAGES = 2  # of each part
LOADED_IMAGES = PICTURED_IMAGES + 3  # double and triple digits are made of the next ones too

TrainedModels = dict[str, tuple[Method, dict[str, Any]]]  # by method or mode, with curriculums


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        seconds: of training, of one core, for each method and seed.
        seeds: trainings of each method.
        test_images: of each part.
        fitted_codes: the same for auto-decoders, which take a second for each.
        code_steps: key of the curriculums.
        compiled: whether the steps of all methods but auto-decoders are compiled.
        keys: further curriculum keys, for all methods.
    """

    seconds: float = 90.0
    seeds: int = 3
    test_images: int = 300
    fitted_codes: int = 32
    code_steps: int = 400
    compiled: bool = True
    keys: tuple[tuple[str, Any], ...] = ()


QUICK = Plan(seconds=10.0, seeds=1, test_images=48, fitted_codes=8, code_steps=50, compiled=False)


@cache
def compared_methods() -> dict[str, ComparedMethod]:
    """The methods by short name."""
    return choose_methods([f"digits_{method}" for method in METHODS], want_2d=True)


def all_runs(seeds: int) -> list[Run]:
    """Every run; a seed is finished with all methods before the next."""
    return [
        run
        for seed in range(seeds)
        for name, method in compared_methods().items()
        for run in runs_of_method(name, method.fits_codes, CONTEXT_MODES_2D, seed)
    ]


# One run


def run_curriculum(run: Run, plan: Plan, output: Path, source: str) -> dict[str, Any]:
    """The complete curriculum of a run."""
    method = compared_methods()[run.method]
    keys = {
        "data_source": source,
        "context_mode": run.context_mode,
        "seed": run.seed,
        "output_dir": str(output / run.name),
        "test_images": plan.fitted_codes if method.fits_codes else plan.test_images,
        "code_steps": plan.code_steps,
        "val_images": 16,
        "compile": plan.compiled and not method.fits_codes,
        **dict(plan.keys),
    }
    return method.complete_curriculum(keys)


def measure_run(
    run: Run, model: Method, curriculum: Mapping[str, Any], first_images: int
) -> dict[str, Any]:
    """Fit and measure the test images from contexts of each of the run's modes.

    first_images: see `first_errors`.
    """
    modes = {}
    for mode in run.measured_modes:
        result = evaluate(model, {**curriculum, "context_mode": mode}, CPU)
        rows = result.pop("shapes")  # thousands
        modes[mode] = {**result, "first": first_errors(rows, first_images)}
    return {"parameters": sum(p.numel() for p in model.parameters()), "modes": modes}


def first_errors(rows: Iterable[Mapping[str, Any]], count: int) -> dict[str, float]:
    """Mean absolute error of the first `count` images of each part.

    All methods are measured on these images, but for the last double and the last two triple ones:
    auto-decoders load no further digits, and complete them with the first ones.
    """
    by_part: dict[str, list[float]] = {part: [] for part in PARTS}
    for row in rows:
        by_part[row["part"]].append(row["absolute_error"])
    return {part: statistics.fmean(values[:count]) for part, values in by_part.items()}


def comparison(plan: Plan, output: Path, source: str) -> Sweep:
    """The sweep over all runs of the comparison."""
    curriculum = partial(run_curriculum, plan=plan, output=output, source=source)
    measure = partial(measure_run, first_images=plan.fitted_codes)
    return Sweep(plan.seconds, curriculum, measure, MEASURING_KEYS)


# Results


def method_figures(results: Sequence[Mapping[str, Any]], mode: str) -> dict[str, Any]:
    """One method's row: by part and measure, mean and spread over seeds of the images' mean."""
    evaluations = [result["modes"][mode] for result in results]
    return {
        "seeds": len(results),
        "parts": {
            part: {
                measure: mean_and_spread([e["parts"][part][measure]["mean"] for e in evaluations])
                for measure in MEASURES
            }
            | {"first": mean_and_spread([e["first"][part] for e in evaluations])}
            for part in PARTS
        },
        **training_figures(results),
    }


def trained_models(sweep: Sweep, runs: Sequence[Run]) -> dict[str, TrainedModels]:
    """The first seed's models and their curriculums, by mode and method."""
    models: dict[str, TrainedModels] = {}
    for mode in CONTEXT_MODES_2D:
        models[mode] = {}
        for method in METHODS:
            run = runs_measured_with(runs, method, mode)[0]
            model, curriculum = sweep.model(run)
            models[mode][method] = model, {**curriculum, "context_mode": mode}
    return models


def test_images(models: TrainedModels, part: str, count: int) -> ImageDataset:
    """The first `count` images of a part, which are the same for all methods of a mode."""
    _, curriculum = next(iter(models.values()))
    return test_data({**curriculum, "test_images": count}, part)[0]


def fit_seconds(models: Mapping[str, TrainedModels]) -> dict[str, dict[str, float]]:
    """Seconds to fit one test digit on one core, by mode and method; see `fit_times`."""
    result = {}
    for mode, trained in models.items():
        data = test_images(trained, "test", TIMED_IMAGES)
        contexts = [collate([data.task(i, 0)])["context"] for i in range(TIMED_IMAGES)]
        result[mode] = fit_times(
            {method: model for method, (model, _) in trained.items()},
            dict.fromkeys(trained, contexts),
            dict.fromkeys(trained),
        )
    return result


def summarise(results: Mapping[Run, Mapping[str, Any]], plan: Plan, source: str) -> dict[str, Any]:
    """All figures: mode -> method -> row, and every run."""
    return {
        "plan": asdict(plan),
        "methods": {name: method.label for name, method in compared_methods().items()},
        "data": "Embedded digits of scikit-learn" if source == EMBEDDED else "MNIST",
        "definitions": {name: DEFINITIONS[name] for name in MEASURES},
        "machine": machine(),
        "modes": {
            mode: {
                method: method_figures(
                    [results[run] for run in runs_measured_with(results, method, mode)], mode
                )
                for method in METHODS
            }
            for mode in CONTEXT_MODES_2D
        },
        "runs": {
            run.name: {name: value for name, value in result.items() if name != "settings"}
            for run, result in results.items()
        },
    }


# Tables


def tables(summary: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    plan, labels, paragraphs = summary["plan"], summary["methods"], []
    first = f"error, pixels, of the first {plan['fitted_codes']} images alone", ".3f", 1
    for mode, rows in summary["modes"].items():
        for measure, (heading, form, factor) in {**MEASURES, "first": first}.items():
            lines = [
                [labels[method]]
                + [spread_cell(row["parts"][part][measure], form, factor) for part in PARTS]
                for method, row in rows.items()
            ]
            paragraphs += [
                f"**{mode}** contexts, {heading}, {count_of_seeds(rows.values())}",
                markdown_table(["method", *PARTS], lines),
            ]
    return "\n\n".join([*paragraphs, cost_table(summary), closing_paragraph(summary)]) + "\n"


def cost_table(summary: Mapping[str, Any]) -> str:
    """Time to fit an image, number of parameters, steps trained."""
    modes, lines = summary["modes"], []
    for method, row in modes[CONTEXT_MODES_2D[0]].items():
        steps = [modes[mode][method]["training_steps"] for mode in CONTEXT_MODES_2D]
        lines.append(
            [
                summary["methods"][method],
                *(f"{1e3 * summary['fit_seconds'][mode][method]:.1f}" for mode in modes),
                f"{row['parameters']:,}",
                " / ".join(f"{s:.0f}" for s in dict.fromkeys(steps)),
            ]
        )
    headings = ["method", "ms to fit, dense", "levelset", "parameters", "steps trained"]
    return markdown_table(headings, lines)


def closing_paragraph(summary: Mapping[str, Any]) -> str:
    """What the measures are, and how the figures came about."""
    plan = summary["plan"]
    definitions = "; ".join(
        f"{MEASURES[name][0]}: {text}" for name, text in summary["definitions"].items()
    )
    return (
        f"{summary['data']}, {plan['test_images']} images of each part "
        f"(the first {plan['fitted_codes']} for auto-decoders, whose codes were fitted in "
        f"{plan['code_steps']} steps). {definitions}. Figures are means over seeds "
        "of what the images give, with the standard deviation over seeds. Each method was trained "
        f"for {training_budget(summary)}"
        f"{', steps compiled but for auto-decoders' if plan['compiled'] else ''}."
    )


# Pictures


def write_fields(path: Path, models: TrainedModels, labels: Mapping[str, str]) -> None:
    """Rows of digits: the truth, then every method's field."""
    rows = []
    for part in PARTS:
        data = test_images(models, part, LOADED_IMAGES)
        for index in range(PICTURED_IMAGES):
            row = [(f"{part} {index}: truth", picture(truth(data, index)))]
            context = collate([data.task(index, 0)])["context"]
            for method, (model, _) in models.items():
                label = labels[method].replace("concatenation", "concat.")
                label = label.replace("hypernetwork", "hypernet.")
                values = field_values(model, data, model.adapt(context), CPU)
                row.append((label, picture(values)))
            rows.append(row)
    write_grid(path, rows, PAGE_WIDTH)


def write_steps(path: Path, models: TrainedModels) -> None:
    """Rows of digits: a model's initialisation, each step, the truth; a row for each mode."""
    rows = []
    for part in PARTS:
        for mode, (model, curriculum) in models.items():
            data, _ = test_data({**curriculum, "test_images": LOADED_IMAGES}, part)
            rows.append(adaptation_row(model, data, 0, CPU, f"{part}, {mode}"))
    write_grid(path, rows, PAGE_WIDTH)


# The command


def compare(plan: Plan, output: Path, docs: Path, source: str, processes: int | None = None) -> int:
    """Do what is not done yet, and write tables and pictures; returns how many runs failed.

    Unless all runs succeed there are no tables, as they would compare different things.

    Args:
        plan: how much is done.
        output: an absolute path, the folder of the runs.
        docs: folder of tables and pictures.
        source: of the digits, as `find_digits` returns it.
        processes: runs at once; None: as many as there are cores.
    """
    runs, sweep = all_runs(plan.seeds), comparison(plan, output, source)
    results, failed = sweep.results(runs, processes)
    if failed:
        print(f"no tables: {failed} of {len(runs)} runs failed; what is finished is kept")
        return failed
    torch.set_num_threads(1)
    models = trained_models(sweep, runs)
    summary = {**summarise(results, plan, source), "fit_seconds": fit_seconds(models)}
    write_docs(docs, "reproduce_2d", summary, tables(summary))
    for mode, trained in models.items():
        write_fields(docs / f"reproduce_2d_{mode}.png", trained, summary["methods"])
    shown = {mode: trained[SHOWN_STEP_BY_STEP] for mode, trained in models.items()}
    write_steps(docs / "reproduce_2d_steps.png", shown)
    return failed


def main() -> int:
    """Run the command; the exit code."""
    quick = "few digits, one seed, minutes"
    parser = ComparisonCommand("reproduce_2d", "reproduce_2d", __doc__, quick)
    parser.add_argument(
        "--data", default="auto", help="folder of MNIST; embedded; or auto: downloaded, if possible"
    )
    plan, output, docs, processes, options = parser.choices(Plan(), QUICK)
    source = find_digits(options.data, ROOT / "data")
    if plan.compiled and not can_compile():
        print("there is no C++ compiler here: steps are not compiled, and fewer fit into the time")
        plan = replace(plan, compiled=False)
    source = source if source == EMBEDDED else os.path.abspath(source)
    return 1 if compare(plan, output, docs, source, processes) else 0


if __name__ == "__main__":
    run_command(main)
