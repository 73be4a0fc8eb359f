"""Compare MetaSDF with its baselines, and with methods of your own, in 3D.

    python -m experiments.compare_3d [--quick] [--data FOLDER] [--partnet FOLDER]
    python -m experiments.compare_3d --curriculums FILE --methods compare_metasdf my_curriculum

Trains every method for the same time on procedural tables and chairs, with --data on fighter jets
and tables of the Princeton Shape Benchmark (see experiments.princeton), and with --partnet on
PartNet's tables and chairs (see experiments.partnet). Reconstructs and measures the test shapes
from dense and from levelset contexts, and writes

    DOCS/compare_3d.md                the tables
    DOCS/compare_3d.json              the same and every run, for programs
    DOCS/compare_3d_<data set>.png    reconstructions of all methods beside the truth
    DOCS/partial.png                  reconstructions from what one depth camera sees

A method is a curriculum: those of 3D/curriculums.py, or of FILE, whose `method`, `network` and
`training_mode` may be classes of your own ("package.module:Class"). Data, context mode, seed,
resolution and code_steps are the comparison's.

Each run has a folder below OUTPUT. What is finished there is not done again; after a change of your
own code, delete its runs. Time means processor time of one core, so that other work on the machine
does not count. Runs go side by side, one a core.
"""

import os

os.environ.update(IGL_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments import partnet, princeton
from experiments.command import ComparisonCommand
from experiments.methods import ComparedMethod, choose_methods
from experiments.sweep import (
    CPU,
    Run,
    Sweep,
    fit_times,
    latest_checkpoint,
    runs_measured_with,
    runs_of_method,
)
from experiments.tables import (
    count_of_seeds,
    machine,
    markdown_table,
    mean_and_spread,
    number_cell,
    spread_cell,
    training_budget,
    training_figures,
    write_docs,
)
from metasdf.commands.console import run_command
from metasdf.data.names import PARTIAL_SAMPLES, ShapeName, read_split, write_split
from metasdf.data.samples import Samples
from metasdf.errors import InputError, listed
from metasdf.evaluation.folder import evaluate
from metasdf.evaluation.gallery import (
    PIXELS,
    TRUTH_COLOUR,
    mesh_picture,
    short_name,
    truth_picture,
    write_grid,
)
from metasdf.evaluation.tables import CONVENTION, DEFINITIONS
from metasdf.evaluation.yardsticks import NearestShape
from metasdf.files import read_json, write_json
from metasdf.geometry.rendering import UNIT_BALL, render_points
from metasdf.method import Method
from metasdf.preparation.discover import find_meshes
from metasdf.preparation.preprocessor import USUAL_OUTPUTS, Settings, preprocess_meshes
from metasdf.preparation.shapes import write_shapes
from metasdf.preparation.splits import write_splits
from metasdf.reconstruction.adaptation import AUTO, MOST_STEPS
from metasdf.reconstruction.fitting import held_out_task
from metasdf.reconstruction.split import reconstruct_split

DEFAULT_METHODS = (
    "compare_metasdf",
    "compare_autodecoder",
    "compare_set_concat",
    "compare_set_hyper",
)
DATASETS = {
    "procedural": "Procedural tables and chairs",
    "princeton": "Fighter jets and tables of the Princeton Shape Benchmark",
    "partnet": "PartNet's tables and chairs, as unions of cuboids",
}
CLASSES = ("tables", "chairs")
MODES = ("dense", "levelset")
WITHOUT_PARTIAL = ("set_concat", "set_hyper")  # all others also from partial contexts, first seed

RECONSTRUCTION_KEYS = (  # prefixes of the keys that training does not depend on
    "reconstruction_",
    "code_steps",
    "code_points",
    "context_points",
    "context_noise",
    "resolution",
    "refine",
    "keep",
)
TIMED_SHAPES = 5
PICTURED_SHAPES = 3  # test shapes of each class

Methods = Mapping[str, ComparedMethod]


@dataclass(frozen=True)
class Plan:
    """How much is done.

    Attributes:
        seconds: of training, of one core, for each method and seed.
        seeds: trainings of each method.
        shapes: procedural shapes of each class.
        num_test: how many of them are test shapes.
        num_samples: SDF samples per shape.
        resolution, code_steps: keys of the curriculums.
        partnet_train: PartNet's shapes of each class to train on, beside num_test to test.
        keys: further curriculum keys, for all methods.
    """

    seconds: float = 240.0
    seeds: int = 3
    shapes: int = 120
    num_test: int = 20
    num_samples: int = 50_000
    resolution: int = 72
    code_steps: int = 800
    partnet_train: int = 400
    keys: tuple[tuple[str, Any], ...] = ()


QUICK = Plan(30.0, 1, 48, 8, resolution=48, code_steps=200, partnet_train=24)


def context_modes(method: str, seed: int) -> tuple[str, ...]:
    """The context modes that a method is measured with."""
    return (*MODES, "partial") if seed == 0 and method not in WITHOUT_PARTIAL else MODES


def all_runs(methods: Methods, datasets: Sequence[str], seeds: int) -> list[Run]:
    """Every run; a seed is finished with all methods before the next."""
    return [
        run
        for seed in range(seeds)
        for dataset in datasets
        for name, method in methods.items()
        for run in runs_of_method(name, method.fits_codes, context_modes(name, seed), seed, dataset)
    ]


# Data


def prepare_procedural(output: Path, plan: Plan) -> None:
    """Tables and chairs as meshes, samples and splits, below output/procedural."""
    folder = output / "procedural"
    for name in CLASSES:
        write_shapes(folder / "meshes", name, plan.shapes)
    meshes = find_meshes(folder / "meshes")
    outputs = (*USUAL_OUTPUTS, PARTIAL_SAMPLES)
    settings = Settings(num_samples=plan.num_samples, outputs=outputs)
    records = preprocess_meshes(meshes, folder / "data", settings, skip=True)
    write_splits(meshes, records, folder / "data", num_test=plan.num_test)
    splits = folder / "data" / "splits"
    for part in ("train", "test"):
        joint = [s for name in CLASSES for s in read_split(splits / f"{name}_{part}.json")]
        write_split(splits / f"all_{part}.json", joint)


def prepare_data(
    plan: Plan,
    output: Path,
    sources: Mapping[str, Path | None],
    wanted: Sequence[str] | None = None,
) -> list[str]:
    """Prepare the data sets below `output`; their names. Other arguments: see `compare`."""
    known = [name for name in DATASETS if name == "procedural" or sources.get(name)]
    for name in wanted or ():
        if name not in known:
            raise InputError(f"--datasets: there is no {name!r}, only {listed(known)}")
    datasets = list(wanted or known)
    if "princeton" in datasets:
        princeton.prepare(sources["princeton"], output / "princeton", num_samples=plan.num_samples)
    if "partnet" in datasets:
        partnet.prepare(
            *(sources["partnet"], output / "partnet"),
            classes=CLASSES,
            train=plan.partnet_train,
            test=plan.num_test,
            num_samples=plan.num_samples,
        )
    if "procedural" in datasets:
        prepare_procedural(output, plan)
    for dataset in datasets:  # training needs shapes to validate on; the comparison does not
        keys = data_keys(dataset, output)
        write_split(keys["val_split"], read_split(keys["test_split"])[:1])
    return datasets


def data_keys(dataset: str, output: Path) -> dict[str, str]:
    """The curriculum keys that name a data set."""
    data = output / dataset / "data"
    return {
        "data_source": str(data),
        "train_split": str(data / "splits" / "all_train.json"),
        "val_split": str(output / dataset / "validation.json"),
        "test_split": str(data / "splits" / "all_test.json"),
    }


# One run


def run_curriculum(run: Run, plan: Plan, output: Path, methods: Methods) -> dict[str, Any]:
    """The complete curriculum of a run."""
    folder = output / run.name
    keys = {
        **data_keys(run.dataset, output),
        "context_mode": run.context_mode,
        "seed": run.seed,
        "output_dir": str(folder),
        "reconstruction_output_dir": str(folder / run.context_mode),
        "resolution": plan.resolution,
        "code_steps": plan.code_steps,
        **dict(plan.keys),
    }
    return methods[run.method].complete_curriculum(keys)


def measure_run(run: Run, model: Method, curriculum: Mapping[str, Any]) -> dict[str, Any]:
    """Reconstruct and measure the test shapes from contexts of each of the run's modes."""
    modes = {}
    for mode in run.measured_modes:
        folder = str(Path(curriculum["output_dir"], mode))
        keys = {"context_mode": mode, "reconstruction_output_dir": folder}
        checkpoint = str(latest_checkpoint(curriculum))
        reconstruct_split(model, {**curriculum, **keys}, CPU, checkpoint)
        modes[mode] = evaluate(folder, nearest=False)
    return {"parameters": sum(p.numel() for p in model.parameters()), "modes": modes}


def comparison(plan: Plan, output: Path, methods: Methods) -> Sweep:
    """The sweep over all runs of the comparison."""
    curriculum = partial(run_curriculum, plan=plan, output=output, methods=methods)
    return Sweep(plan.seconds, curriculum, measure_run, RECONSTRUCTION_KEYS)


# Yardsticks and times, with nothing else running


def nearest_training_shapes(dataset: str, output: Path) -> dict[str, float]:
    """Chamfer distance of each test shape to the nearest training shape, by name.

    Kept in output/<dataset>/nearest.json.
    """
    file, keys = output / dataset / "nearest.json", data_keys(dataset, output)
    shapes = read_split(keys["test_split"])
    if file.exists() and (kept := read_json(file)).keys() == {str(shape) for shape in shapes}:
        return kept
    training = NearestShape(keys["data_source"], read_split(keys["train_split"]))
    result = {}
    for shape in tqdm(shapes, desc="nearest training shapes", unit="shape", disable=None):
        samples = Samples(keys["data_source"], shape)
        truth = samples.normalisation.invert(samples.surface())
        result[str(shape)] = training.find(truth, samples.normalisation)[1]
    write_json(file, result)
    return result


def fit_seconds(sweep: Sweep, runs: Sequence[Run]) -> dict[str, dict[str, float]]:
    """Seconds to fit one shape of the first data set on one core, by context mode and method.

    Medians over shapes and repeats, see `fit_times`; of automatic steps the most. They depend on
    the sizes of networks and contexts, not on what was learned or on which shapes.
    """
    first = [run for run in runs if (run.dataset, run.seed) == (runs[0].dataset, 0)]
    result = {}
    for mode in MODES:
        models, contexts, steps = {}, {}, {}
        for run in first:
            if mode not in run.measured_modes:
                continue
            models[run.method], curriculum = sweep.model(run)
            steps[run.method] = curriculum["reconstruction_steps"]
            if steps[run.method] == AUTO:
                steps[run.method] = MOST_STEPS
            shapes = read_split(curriculum["test_split"])[:TIMED_SHAPES]
            keys = {**curriculum, "context_mode": mode}
            contexts[run.method] = [held_out_task(keys, shape, CPU)["context"] for shape in shapes]
        result[mode] = fit_times(models, contexts, steps)
    return result


# Results


def method_figures(results: Sequence[Mapping[str, Any]], mode: str) -> dict[str, Any]:
    """One row of a table: mean and spread over the seeds of what each seed's test shapes give."""
    evaluations = [result["modes"][mode] for result in results]

    def over_seeds(measure: str, statistic: str) -> dict[str, float | None] | None:
        return mean_and_spread([e[measure][statistic] for e in evaluations if e[measure]])

    return {
        "seeds": len(evaluations),
        "chamfer_mean": over_seeds("chamfer", "mean"),
        "chamfer_median": over_seeds("chamfer", "median"),
        "iou": over_seeds("iou", "mean"),
        "normal_consistency": over_seeds("normal_consistency", "mean"),
        "misclassified_percentage": over_seeds("misclassified_percentage", "mean"),
        "failed": sum(e["num_failed"] for e in evaluations),
        "measured": sum(e["num_shapes"] - e["num_failed"] for e in evaluations),
        **training_figures(results),
    }


def dataset_figures(
    dataset: str, results: Mapping[Run, Mapping[str, Any]], methods: Methods, output: Path
) -> dict[str, Any]:
    """All figures of a data set: mode -> method -> row, and the yardsticks."""
    modes: dict[str, Any] = {}
    for mode in (*MODES, "partial"):
        for method in methods:
            runs = runs_measured_with(results, method, mode, dataset)
            if runs:
                rows = modes.setdefault(mode, {})
                rows[method] = method_figures([results[run] for run in runs], mode)
    nearest = list(nearest_training_shapes(dataset, output).values())
    any_result = next(result for run, result in results.items() if run.dataset == dataset)
    return {
        "modes": modes,
        "test_shapes": len(nearest),
        "train_shapes": len(read_split(data_keys(dataset, output)["train_split"])),
        "floor": next(iter(any_result["modes"].values()))["floor"],
        "nearest_training_shape": {
            "mean": statistics.fmean(nearest),
            "median": statistics.median(nearest),
        },
    }


def summarise(
    results: Mapping[Run, Mapping[str, Any]],
    plan: Plan,
    output: Path,
    methods: Methods,
    times: Mapping[str, Mapping[str, float]],
) -> dict[str, Any]:
    """All figures: dataset -> mode -> method -> row; times of a fit; yardsticks; and every run."""
    return {
        "plan": asdict(plan),
        "methods": {name: method.label for name, method in methods.items()},
        "convention": CONVENTION,
        "machine": machine(),
        "datasets": {
            dataset: dataset_figures(dataset, results, methods, output)
            for dataset in dict.fromkeys(run.dataset for run in results)
        },
        "fit_seconds": times,
        "runs": {run.name: _brief(result) for run, result in results.items()},
    }


def _brief(result: Mapping[str, Any]) -> dict[str, Any]:
    """A run's record, of each shape only what tells how good it is."""
    keep = ("error", "chamfer", "iou", "misclassified_percentage")
    modes = {
        mode: {row["shape"]: {k: row.get(k) for k in keep} for row in evaluation["shapes"]}
        for mode, evaluation in result["modes"].items()
    }
    return {k: result[k] for k in ("seconds", "steps", "parameters")} | {"shapes": modes}


# Tables


def tables(summary: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    paragraphs = []
    for dataset, data in summary["datasets"].items():
        nearest, floor = data["nearest_training_shape"], data["floor"]
        paragraphs += [
            f"### {DATASETS[dataset]}",
            f"{data['train_shapes']} shapes to train on, {data['test_shapes']} to test. Chamfer "
            f"x 1000: the sampling floor is {1e3 * floor['mean']:.3f} (median "
            f"{1e3 * floor['median']:.3f}), the nearest training shape scores "
            f"{1e3 * nearest['mean']:.2f} ({1e3 * nearest['median']:.2f}).",
        ]
        for mode, rows in data["modes"].items():
            fits = summary["fit_seconds"].get(mode, {})
            paragraphs += [
                f"**{mode}** contexts, {count_of_seeds(rows.values())}",
                mode_table(rows, summary["methods"], fits),
            ]
    paragraphs.append(closing_paragraph(summary))
    return "\n\n".join(paragraphs) + "\n"


def mode_table(
    rows: Mapping[str, Mapping[str, Any]], labels: Mapping[str, str], fits: Mapping[str, float]
) -> str:
    """The methods' rows for one context mode; fits: seconds by method, as far as measured."""
    headings = (
        *("method", "Chamfer mean", "Chamfer median", "IoU", "misclassified, %", "no surface"),
        *("s to fit", "parameters", "steps trained"),
    )
    lines = [
        [
            labels[method],
            spread_cell(row["chamfer_mean"], ".2f", 1e3),
            spread_cell(row["chamfer_median"], ".2f", 1e3),
            spread_cell(row["iou"], ".3f"),
            spread_cell(row["misclassified_percentage"], ".1f"),
            f"{row['failed']} of {row['failed'] + row['measured']}",
            number_cell(fits.get(method), ".3g"),
            f"{row['parameters']:,}",
            f"{row['training_steps']:.0f}",
        ]
        for method, row in rows.items()
    ]
    return markdown_table(headings, lines)


def closing_paragraph(summary: Mapping[str, Any]) -> str:
    """What the columns mean, and how the figures came about."""
    fits = [(mode, times) for mode, times in summary["fit_seconds"].items()]
    ratios = [
        f"{times['autodecoder'] / times['metasdf']:.0f} ({mode})"
        for mode, times in fits
        if {"autodecoder", "metasdf"} <= times.keys()
    ]
    faster = f"MetaSDF fits a shape {' and '.join(ratios)} times as fast as the auto-decoder.\n"
    return (faster if ratios else "") + (
        f"{summary['convention']}. IoU: {DEFINITIONS['iou']}. Figures are means over seeds of what "
        "the test shapes give, with the standard deviation over seeds. Each method was trained for "
        f"{training_budget(summary)}."
    )


# Pictures


def pictured_shapes(data: Path) -> list[ShapeName]:
    """The first PICTURED_SHAPES test shapes of each class."""
    by_class: dict[str, list[ShapeName]] = {}
    for shape in read_split(data / "splits" / "all_test.json"):
        by_class.setdefault(shape.category, []).append(shape)
    return [shape for shapes in by_class.values() for shape in shapes[:PICTURED_SHAPES]]


def reconstruction_picture(output: Path, run: Run, mode: str, shape: ShapeName) -> Any:
    """The mesh that a run reconstructed; blank if there is none."""
    return mesh_picture(output / run.name / mode / f"{shape}.ply")


def write_comparison(
    path: Path, dataset: str, runs: Sequence[Run], methods: Methods, output: Path
) -> None:
    """Rows of shapes: the truth, then every method from dense and from levelset contexts."""
    data, rows = output / dataset / "data", []
    for shape in pictured_shapes(data):
        row = [(short_name(shape), truth_picture(data, shape))]
        for mode in MODES:
            for name, method in methods.items():
                run = runs_measured_with(runs, name, mode, dataset)[0]  # of the first seed
                label = f"{method.label.replace('set encoder, ', '')}, {mode}"
                row.append((label, reconstruction_picture(output, run, mode, shape)))
        rows.append(row)
    write_grid(path, rows)


def write_partial(
    path: Path, sweep: Sweep, runs: Sequence[Run], methods: Methods, output: Path
) -> None:
    """Rows of shapes: what a depth camera saw, reconstructions from it, the truth."""
    rows = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        data = output / dataset / "data"
        measured = [
            run
            for method in methods
            for run in runs_measured_with(runs, method, "partial", dataset)
        ]
        if not measured:
            continue
        curriculum = {**sweep.curriculum(measured[0]), "context_mode": "partial"}
        for shape in pictured_shapes(data):
            scan = held_out_task(curriculum, shape, CPU)["context"][0][0].numpy()
            points = render_points(scan, PIXELS, frame=UNIT_BALL, colour=TRUTH_COLOUR)
            reconstructions = [
                (methods[run.method].label, reconstruction_picture(output, run, "partial", shape))
                for run in measured
            ]
            truth = truth_picture(data, shape)
            rows.append(
                [(f"{short_name(shape)}: seen", points), *reconstructions, ("truth", truth)]
            )
    if rows:
        write_grid(path, rows)


# The command


def compare(
    plan: Plan,
    output: Path,
    docs: Path,
    processes: int | None = None,
    sources: Mapping[str, Path | None] | None = None,
    methods: Methods | None = None,
    datasets: Sequence[str] | None = None,
) -> int:
    """Do what is not done yet, and write tables and pictures; returns how many runs failed.

    Args:
        plan: how much is done.
        output: an absolute path, the folder of data and runs.
        docs: folder of tables and pictures.
        processes: runs at once; None: as many as there are cores.
        sources: the folders that hold "princeton" and "partnet", as far as there are any.
        methods: as `choose_methods` returns them; None: DEFAULT_METHODS.
        datasets: those to compare on; None: all there are.

    Raises:
        InputError: a data set is unknown or there is no data for it, or every run failed.
    """
    methods = choose_methods(DEFAULT_METHODS) if methods is None else methods
    datasets = prepare_data(plan, output, sources or {}, datasets)
    runs = all_runs(methods, datasets, plan.seeds)
    sweep = comparison(plan, output, methods)
    results, failed = sweep.results(runs, processes)
    if not results:
        raise InputError("every run failed")
    torch.set_num_threads(1)
    times = fit_seconds(sweep, list(results))
    summary = summarise(results, plan, output, methods, times)
    write_docs(docs, "compare_3d", summary, tables(summary))
    for dataset in datasets:
        path = docs / f"compare_3d_{dataset}.png"
        write_comparison(path, dataset, runs, methods, output)
    write_partial(docs / "partial.png", sweep, runs, methods, output)
    return failed


def main() -> int:
    """Run the command; the exit code."""
    quick = "few shapes, one seed, minutes"
    parser = ComparisonCommand("compare_3d", "compare", __doc__, quick)
    parser.add_argument(
        "--data", type=Path, help="folder of real shapes, as experiments.princeton wants it"
    )
    parser.add_argument(
        "--partnet", type=Path, help="folder of cuboids, as experiments.partnet wants it"
    )
    parser.add_argument(
        "--curriculums", metavar="FILE", help="a Python file of your own curriculums"
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        default=DEFAULT_METHODS,
        metavar="CURRICULUM",
        help=f"what is compared (default: {' '.join(DEFAULT_METHODS)})",
    )
    parser.add_argument(
        "--datasets", nargs="+", help=f"only some of {' '.join(DATASETS)} (default: all with data)"
    )
    chosen = parser.choices(Plan(), QUICK)
    methods = choose_methods(chosen.options.methods, chosen.options.curriculums)
    sources = {"princeton": chosen.options.data, "partnet": chosen.options.partnet}
    failed = compare(*chosen[:4], sources, methods, chosen.options.datasets)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
