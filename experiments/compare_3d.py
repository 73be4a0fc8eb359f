"""Compare MetaSDF with its baselines in 3D: compare_3d.py [--quick] [--data FOLDER]

Trains every method of the curriculums compare_* for the same time on procedural tables and chairs,
and with --data on fighter jets and tables of the Princeton Shape Benchmark (see princeton.py),
reconstructs and measures the test shapes from dense and from levelset contexts, and writes

    DOCS/compare_3d.md                the tables
    DOCS/compare_3d.json              the same and every run, for programs
    DOCS/compare_3d_<data set>.png    reconstructions of all methods beside the truth
    DOCS/partial.png                  reconstructions from what one depth camera sees

Each run has a folder below OUTPUT. What is finished there is not done again. Time means processor
time of one core, so that other work on the machine does not count. Runs go side by side, one a
core.
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

from experiments import princeton
from experiments.timed import (
    NAMES,
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
from metasdf.data.names import ShapeName, read_split, write_split
from metasdf.data.samples import PARTIAL_SAMPLES, Samples
from metasdf.errors import InputError, run_command
from metasdf.evaluation.evaluate import NearestShape, evaluate_folder
from metasdf.evaluation.gallery import (
    PIXELS,
    TRUTH_COLOUR,
    mesh_picture,
    short,
    truth_picture,
    write_grid,
)
from metasdf.evaluation.tables import CONVENTION, DEFINITIONS
from metasdf.files import read_json, write_json
from metasdf.geometry.drawing import UNIT_BALL, render_points
from metasdf.learning.checkpoints import load_model
from metasdf.learning.curriculum import load_curriculum
from metasdf.maml import Method
from metasdf.preparation.discover import find_shapes
from metasdf.preparation.preprocess import USUAL_OUTPUTS, Settings, preprocess
from metasdf.preparation.shapes import write_shapes
from metasdf.preparation.splits import write_splits
from metasdf.reconstruction.fitting import held_out_task
from metasdf.reconstruction.split import reconstruct_split

ROOT = Path(__file__).resolve().parents[1]
CURRICULUMS = ROOT / "3D" / "curriculums.py"
CPU = torch.device("cpu")

METHODS = {m: NAMES[m] for m in ("metasdf", "autodecoder", "set_concat", "set_hyper")}
DATASETS = {
    "procedural": "Procedural tables and chairs",
    "princeton": "Fighter jets and tables of the Princeton Shape Benchmark",
}
CLASSES = ("tables", "chairs")
MODES = ("dense", "levelset")
WITH_PARTIAL = ("metasdf", "autodecoder")  # from partial contexts too, with the first seed

RECONSTRUCTION_KEYS = (
    "reconstruction_",
    "code_steps",
    "code_points",
    "context_points",
    "context_noise",
    "resolution",
)
TIMED_SHAPES = 5
PICTURED = 3  # test shapes of each class


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    seconds: float = 240.0  # of training, of one core, each method and seed
    seeds: int = 3
    shapes: int = 120  # procedural shapes of each class
    num_test: int = 20  # of them to test
    num_samples: int = 50_000  # SDF samples a shape
    resolution: int = 72
    code_steps: int = 800
    keys: tuple[tuple[str, Any], ...] = ()  # further curriculum keys, for all methods


QUICK = Plan(seconds=30.0, seeds=1, shapes=48, num_test=8, resolution=48, code_steps=200)


@dataclass(frozen=True)
class Run:
    """One training and the context modes it is measured with."""

    dataset: str
    method: str
    context_mode: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.dataset}/{self.method}_{self.context_mode}_{self.seed}"

    @property
    def measured_modes(self) -> list[str]:
        modes = modes_of(self.method, self.seed)
        return [m for m in modes if run_of(self.dataset, self.method, m, self.seed) == self]


def modes_of(method: str, seed: int) -> tuple[str, ...]:
    """The context modes that a method is measured with."""
    return (*MODES, "partial") if method in WITH_PARTIAL and seed == 0 else MODES


def run_of(dataset: str, method: str, mode: str, seed: int) -> Run:
    """The run that is measured with a mode.

    An auto-decoder's training sees no context: one serves all modes.
    """
    return Run(dataset, method, "dense" if method == "autodecoder" else mode, seed)


def runs(datasets: Sequence[str], seeds: int) -> list[Run]:
    """Every run; a seed is finished with all methods before the next."""
    wanted = [
        run_of(dataset, method, mode, seed)
        for seed in range(seeds)
        for dataset in datasets
        for method in METHODS
        for mode in modes_of(method, seed)
    ]
    return list(dict.fromkeys(wanted))


# Data


def procedural(output: Path, plan: Plan) -> None:
    """Tables and chairs as meshes, samples and splits, below output/procedural."""
    folder = output / "procedural"
    for name in CLASSES:
        write_shapes(folder / "meshes", name, plan.shapes)
    shapes = find_shapes(folder / "meshes")
    outputs = (*USUAL_OUTPUTS, PARTIAL_SAMPLES)
    settings = Settings(num_samples=plan.num_samples, outputs=outputs)
    records = preprocess(shapes, folder / "data", settings, skip=True)
    write_splits(shapes, records, folder / "data", num_test=plan.num_test)
    splits = folder / "data" / "splits"
    for part in ("train", "test"):
        joint = [s for name in CLASSES for s in read_split(splits / f"{name}_{part}.json")]
        write_split(splits / f"all_{part}.json", joint)


def curriculum_of(run: Run, plan: Plan, output: Path) -> dict[str, Any]:
    """The curriculum of a run."""
    data, folder = output / run.dataset / "data", output / run.name
    keys = {
        "data_source": str(data),
        "train_split": str(data / "splits" / "all_train.json"),
        "val_split": str(output / run.dataset / "validation.json"),
        "test_split": str(data / "splits" / "all_test.json"),
        "context_mode": run.context_mode,
        "seed": run.seed,
        "output_dir": str(folder),
        "reconstruction_output_dir": str(folder / run.context_mode),
        "resolution": plan.resolution,
        "code_steps": plan.code_steps,
        **dict(plan.keys),
    }
    return load_curriculum(CURRICULUMS, f"compare_{run.method}", keys)


# One run


def work(run: Run, plan: Plan, output: Path) -> dict[str, Any]:
    """Train, reconstruct, measure; what comes out is kept in the run's folder, and not redone."""
    torch.set_num_threads(1)
    curriculum = curriculum_of(run, plan, output)

    def measured() -> dict[str, Any]:
        model, _ = load_model(latest_checkpoint(curriculum), curriculum)
        return {
            "parameters": sum(p.numel() for p in model.parameters()),
            "modes": {mode: measure(model, curriculum, mode) for mode in run.measured_modes},
        }

    return kept(curriculum, plan.seconds, RECONSTRUCTION_KEYS, measured)


def measure(model: Method, curriculum: Mapping[str, Any], mode: str) -> dict[str, Any]:
    """Reconstruct and measure the test shapes from contexts of one mode."""
    folder = str(Path(curriculum["output_dir"], mode))
    keys = {"context_mode": mode, "reconstruction_output_dir": folder}
    checkpoint = str(latest_checkpoint(curriculum))
    reconstruct_split(model, {**curriculum, **keys}, CPU, checkpoint)
    result, _ = evaluate_folder(folder, nearest=False)
    return result


# Yardsticks and times, with nothing else running


def nearest_training_shapes(dataset: str, plan: Plan, output: Path) -> dict[str, float]:
    """Chamfer distance of each test shape to the nearest training shape, by name."""
    file = output / dataset / "nearest.json"
    curriculum = curriculum_of(Run(dataset, "metasdf", "dense", 0), plan, output)
    shapes = read_split(curriculum["test_split"])
    if file.exists() and (known := read_json(file)).keys() == {str(shape) for shape in shapes}:
        return known
    training = NearestShape(curriculum["data_source"], read_split(curriculum["train_split"]))
    result = {}
    for shape in tqdm(shapes, desc="nearest training shapes", unit="shape", disable=None):
        samples = Samples(curriculum["data_source"], shape)
        truth = samples.normalisation.invert(samples.surface())
        result[str(shape)] = training.find(truth, samples.normalisation)[1]
    write_json(file, result)
    return result


def fit_seconds(plan: Plan, output: Path) -> dict[str, dict[str, float]]:
    """Seconds to fit one shape, of every method and mode, measured side by side.

    The medians over shapes and repeats, methods taking turns, on one core. They depend on the
    networks' sizes and the contexts', not on what was learned or on which shapes.
    """
    curriculums, models = {}, {}
    for method in METHODS:
        curriculums[method] = curriculum_of(Run("procedural", method, "dense", 0), plan, output)
        checkpoint = latest_checkpoint(curriculums[method])
        models[method], _ = load_model(checkpoint, curriculums[method])
    shapes = read_split(curriculums["metasdf"]["test_split"])[:TIMED_SHAPES]
    steps = {method: of["reconstruction_steps"] for method, of in curriculums.items()}
    result = {}
    for mode in MODES:
        # The contexts of all methods have the same keys and seed.
        keys = {**curriculums["metasdf"], "context_mode": mode}
        contexts = [held_out_task(keys, shape, CPU)["context"] for shape in shapes]
        result[mode] = fits_in_turns(models, contexts, steps)
    return result


# Results


def figures(runs_of: Sequence[Mapping[str, Any]], mode: str) -> dict[str, Any]:
    """One row of a table: mean and spread over the seeds of what each seed's test shapes give."""
    evaluations = [result["modes"][mode] for result in runs_of]

    def each(measure: str, statistic: str) -> dict[str, float] | None:
        return over_seeds([e[measure][statistic] for e in evaluations if e[measure]])

    return {
        "seeds": len(evaluations),
        "chamfer_mean": each("chamfer", "mean"),
        "chamfer_median": each("chamfer", "median"),
        "iou": each("iou", "mean"),
        "normal_consistency": each("normal_consistency", "mean"),
        "misclassified_percentage": each("misclassified_percentage", "mean"),
        "failed": sum(e["num_failed"] for e in evaluations),
        "measured": sum(e["num_shapes"] - e["num_failed"] for e in evaluations),
        "training_steps": statistics.median(result["steps"] for result in runs_of),
        "training_seconds": statistics.fmean(result["seconds"] for result in runs_of),
        "parameters": runs_of[0]["parameters"],
    }


def summarise(results: Mapping[Run, Mapping[str, Any]], plan: Plan, output: Path) -> dict[str, Any]:
    """All figures: dataset -> mode -> method -> row; fit seconds; yardsticks; and every run."""
    datasets: dict[str, Any] = {}
    for dataset in dict.fromkeys(run.dataset for run in results):
        modes: dict[str, Any] = {}
        for mode in (*MODES, "partial"):
            for method in METHODS:
                rows = [
                    result
                    for run, result in results.items()
                    if (run.dataset, run.method) == (dataset, method) and mode in run.measured_modes
                ]
                if rows:
                    modes.setdefault(mode, {})[method] = figures(rows, mode)
        nearest = list(nearest_training_shapes(dataset, plan, output).values())
        one = next(r for run, r in results.items() if run.dataset == dataset)
        floor = next(iter(one["modes"].values()))["floor"]
        datasets[dataset] = {
            "modes": modes,
            "test_shapes": len(nearest),
            "train_shapes": len(
                read_split(output / dataset / "data" / "splits" / "all_train.json")
            ),
            "floor": floor,
            "nearest_training_shape": {
                "mean": statistics.fmean(nearest),
                "median": statistics.median(nearest),
            },
        }
    done = {run.method for run in results if (run.dataset, run.seed) == ("procedural", 0)}
    return {
        "plan": asdict(plan),
        "convention": CONVENTION,
        "machine": machine(),
        "datasets": datasets,
        "fit_seconds": fit_seconds(plan, output) if done == set(METHODS) else None,
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


def tables(summary: Mapping[str, Any]) -> str:
    """The figures as Markdown."""
    plan = summary["plan"]
    lines = []
    for dataset, data in summary["datasets"].items():
        nearest, floor = data["nearest_training_shape"], data["floor"]
        lines += [
            f"### {DATASETS[dataset]}",
            "",
            f"{data['train_shapes']} shapes to train on, {data['test_shapes']} to test. Chamfer "
            f"x 1000: the sampling floor is {1e3 * floor['mean']:.3f} (median "
            f"{1e3 * floor['median']:.3f}), the nearest training shape scores "
            f"{1e3 * nearest['mean']:.2f} ({1e3 * nearest['median']:.2f}).",
            "",
        ]
        for mode, rows in data["modes"].items():
            seeds = max(row["seeds"] for row in rows.values())
            lines += [
                f"**{mode}** contexts, {seeds} seed{'s' if seeds > 1 else ''}",
                "",
                "| method | Chamfer mean | Chamfer median | IoU | misclassified, % "
                "| no surface | s to fit | parameters | steps trained |",
                "|---|---|---|---|---|---|---|---|---|",
            ]
            for method, row in rows.items():
                seconds = (summary["fit_seconds"] or {}).get(mode, {}).get(method)
                cells = [
                    METHODS[method],
                    cell(row["chamfer_mean"], 1e3, 2),
                    cell(row["chamfer_median"], 1e3, 2),
                    cell(row["iou"], 1, 3),
                    cell(row["misclassified_percentage"], 1, 1),
                    f"{row['failed']} of {row['failed'] + row['measured']}",
                    "-" if seconds is None else f"{seconds:.3g}",
                    f"{row['parameters']:,}",
                    f"{row['training_steps']:.0f}",
                ]
                lines.append(f"| {' | '.join(cells)} |")
            lines.append("")
    if fit := summary["fit_seconds"]:
        ratios = [f"{fit[m]['autodecoder'] / fit[m]['metasdf']:.0f} ({m})" for m in MODES]
        lines.append(
            f"MetaSDF fits a shape {' and '.join(ratios)} times as fast as the auto-decoder."
        )
    lines.append(
        f"{summary['convention']}. IoU: {DEFINITIONS['iou']}. Figures are means over seeds of what "
        "the test shapes give, with the standard deviation over seeds. Each method was trained for "
        f"{plan['seconds']:.0f} s of one core of {summary['machine']['processor']}, PyTorch "
        f"{summary['machine']['torch']}."
    )
    return "\n".join(lines) + "\n"


# Pictures


def test_shapes(data: Path) -> list[ShapeName]:
    """PICTURED test shapes of each class."""
    by_class: dict[str, list[ShapeName]] = {}
    for shape in read_split(data / "splits" / "all_test.json"):
        by_class.setdefault(shape.category, []).append(shape)
    return [shape for shapes in by_class.values() for shape in shapes[:PICTURED]]


def reconstruction(output: Path, dataset: str, method: str, mode: str, shape: ShapeName) -> Path:
    """The mesh that the first seed's run gave."""
    return output / run_of(dataset, method, mode, 0).name / mode / f"{shape}.ply"


def write_comparison(path: Path, dataset: str, output: Path) -> None:
    """Rows of shapes: the truth, then every method from dense and from levelset contexts."""
    data, rows = output / dataset / "data", []
    for shape in test_shapes(data):
        row = [(short(shape), truth_picture(data, shape))]
        for mode in MODES:
            for method, name in METHODS.items():
                file = reconstruction(output, dataset, method, mode, shape)
                row.append((f"{name.replace('set encoder, ', '')}, {mode}", mesh_picture(file)))
        rows.append(row)
    write_grid(path, rows)


def write_partial(path: Path, datasets: Sequence[str], plan: Plan, output: Path) -> None:
    """Rows of shapes: what a depth camera saw, reconstructions from it, the truth."""
    rows = []
    for dataset in datasets:
        data = output / dataset / "data"
        curriculum = curriculum_of(Run(dataset, "metasdf", "partial", 0), plan, output)
        for shape in test_shapes(data):
            seen = held_out_task(curriculum, shape, CPU)["context"][0][0].numpy()
            points = render_points(seen, PIXELS, frame=UNIT_BALL, colour=TRUTH_COLOUR)
            row = [(f"{short(shape)}: seen", points)]
            for method in WITH_PARTIAL:
                file = reconstruction(output, dataset, method, "partial", shape)
                row.append((METHODS[method], mesh_picture(file)))
            rows.append([*row, ("truth", truth_picture(data, shape))])
    write_grid(path, rows)


# The command


def compare(
    plan: Plan,
    output: Path,
    docs: Path,
    processes: int | None = None,
    benchmark: Path | None = None,
) -> int:
    """Do what is not done yet, and write tables and pictures; how many runs failed.

    benchmark: the folder that holds the Princeton Shape Benchmark; without it only procedural
    shapes are compared.
    """
    datasets = ["procedural"] if benchmark is None else list(DATASETS)
    if benchmark is not None:
        princeton.prepare(benchmark, output / "princeton", num_samples=plan.num_samples)
    procedural(output, plan)
    for dataset in datasets:  # training wants shapes to validate on; the comparison needs none
        test = read_split(output / dataset / "data" / "splits" / "all_test.json")
        write_split(output / dataset / "validation.json", test[:1])
    wanted = runs(datasets, plan.seeds)
    results, failed = side_by_side(partial(work, plan=plan, output=output), wanted, processes)
    if not results:
        raise InputError("every run failed")
    torch.set_num_threads(1)
    summary = summarise(results, plan, output)
    write_docs(docs, "compare_3d", summary, tables(summary))
    for dataset in datasets:
        write_comparison(docs / f"compare_3d_{dataset}.png", dataset, output)
    write_partial(docs / "partial.png", datasets, plan, output)
    return failed


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few shapes, one seed, minutes")
    parser.add_argument("--data", type=Path, help="folder of real shapes, as princeton.py wants it")
    parser.add_argument("--output", default=ROOT / "output" / "compare", type=Path)
    parser.add_argument("--docs", default=None, type=Path, help="default: OUTPUT")
    parser.add_argument("--processes", type=whole_number, help="runs at once (default: cores)")
    options = parser.parse()
    plan, output = (QUICK, options.output / "quick") if options.quick else (Plan(), options.output)
    failed = compare(plan, output, options.docs or output, options.processes or None, options.data)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
