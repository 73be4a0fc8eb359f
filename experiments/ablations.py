"""Measure what each choice of the method is worth: python -m experiments.ablations [--quick]

    steps        inner steps K in training, and steps at test time of one model
    step_sizes   the six kinds of learned step sizes
    order        second against first order, by outer steps and by seconds
    networks     ReLU, positional encoding, SIREN
    seeds        the same run with other seeds: the noise of all the above

Trains small models, one a core, and writes docs/ablations/*.png, docs/ablations/ablations.json and
the tables of docs/ablations.md, between its <!-- marks -->. Finished runs are read from
output/ablations/*.json, and an interrupted one is continued. Any curriculum key can be overridden;
the base is the curriculum tables_plain with the keys below.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import dataclasses
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from experiments.ablations_report import write_report
from experiments.command import ROOT
from experiments.sweep import CPU, latest_checkpoint, logged, side_by_side
from metasdf.api import train
from metasdf.commands.arguments import CurriculumCommandLine
from metasdf.commands.command_line import whole_number
from metasdf.commands.console import run_command
from metasdf.data.names import write_split
from metasdf.data.samples import Samples
from metasdf.data.tasks import Task
from metasdf.errors import InputError
from metasdf.evaluation.folder import mesh_chamfer
from metasdf.files import read_json, write_json
from metasdf.geometry.grid import NoSurfaceError
from metasdf.learning.curriculum import load_curriculum
from metasdf.learning.loop import DivergedError
from metasdf.learning.model_files import load_model
from metasdf.learning.training import usable_split
from metasdf.losses import misclassified_percentage
from metasdf.method import Method
from metasdf.reconstruction.fitting import held_out_task, reconstruct_shape, shape_rng
from metasdf.step_sizes import STEP_SIZE_TYPES

VALIDATION_EVERY = 12  # every so many-th training shape is kept back to choose init_lr by

Changes = dict[str, Any]  # the curriculum keys in which a run differs from the base


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is varied, and how much is done.

    Attributes:
        keys: of the base, on top of tables_plain.
        inner_steps: numbers of inner steps K, in training and at test time.
        test_steps: numbers of steps at test time, for the base.
        static_lrs: candidates of init_lr for "static" step sizes, which are not learned.
        network_lrs: candidates of init_lr for each kind of network.
        seeds: of the base.
        points: of the error curves; an interrupted run goes on from the last one.
        chamfer_shapes: how many test shapes are meshed, the first ones.
    """

    keys: Mapping[str, Any]
    inner_steps: Sequence[int]
    test_steps: Sequence[int]
    static_lrs: Sequence[float]
    network_lrs: Mapping[str, Sequence[float]]
    seeds: Sequence[int]
    points: int
    chamfer_shapes: int


FULL = Plan(
    keys={
        "hidden_features": 64,
        "ScenesPerBatch": 4,
        "SDFSamplesPerScene": 512,
        "num_epochs": 20,
        "lr_decay_epochs": 15,
        "reconstruction_sdf_samples": 8000,
        "resolution": 64,
    },
    inner_steps=range(1, 11),
    test_steps=range(21),
    static_lrs=(1e-3, 3e-3, 1e-2),
    network_lrs={"relu": (2e-2, 8e-2, 0.3), "pe": (2e-2, 8e-2, 0.3), "siren": (3e-4, 1e-3, 3e-3)},
    seeds=(0, 1, 2),
    points=10,
    chamfer_shapes=4,
)
QUICK = dataclasses.replace(
    FULL,
    keys={**FULL.keys, "num_epochs": 2, "lr_decay_epochs": 2, "resolution": 32},
    inner_steps=(1, 3, 5, 8),
    test_steps=(0, 1, 2, 5, 10),
    static_lrs=(3e-3,),
    network_lrs={"relu": (5e-3,), "pe": (5e-3,), "siren": (1e-3,)},
    seeds=(0, 1),
    points=2,
    chamfer_shapes=1,
)


class Variant(NamedTuple):
    """One row of a table. Of several candidates the best on the validation shapes is shown."""

    label: str
    candidates: list[Changes]


def studies(base: Mapping[str, Any], plan: Plan) -> dict[str, list[Variant]]:
    """The variants that each study compares, by its name."""
    twice = {key: 2 * base[key] for key in ("num_epochs", "lr_decay_epochs")}
    step_size_lrs = {"static": [{"init_lr": lr} for lr in plan.static_lrs]}
    return {
        "steps": [Variant(str(k), [{"num_meta_steps": k}]) for k in plan.inner_steps],
        "step_sizes": [
            Variant(kind, [{"lr_type": kind, **lr} for lr in step_size_lrs.get(kind, [{}])])
            for kind in STEP_SIZE_TYPES
        ],
        "order": [
            Variant("second order", [{}]),
            Variant("first order", [{"first_order": True}]),
            Variant("first order, twice the outer steps", [{"first_order": True, **twice}]),
        ],
        "networks": [
            Variant(network, [{"network": network, "init_lr": lr} for lr in lrs])
            for network, lrs in plan.network_lrs.items()
        ],
        "seeds": [Variant(f"seed {seed}", [{"seed": seed}]) for seed in plan.seeds],
    }


def run_name(changes: Changes) -> str:
    """A run's name and its folder below the work folder."""
    return ",".join(f"{key}={value}" for key, value in changes.items()) or "base"


# Runs


class Ablations:
    """All runs of a plan, each trained and measured once; finished ones are read from their files.

    Args:
        base: the complete curriculum that every run differs from in a few keys.
        plan: what is varied.
        work: an absolute path, the folder of the runs.

    Raises:
        InputError: the base's method has no inner loop, or there are too few shapes.
    """

    def __init__(self, base: Mapping[str, Any], plan: Plan, work: Path) -> None:
        if base["method"] != "metasdf":
            raise InputError(f"method: {base['method']!r} has no inner loop to vary; take metasdf")
        self.plan, self.work = plan, work
        training, left_out = usable_split(base, "train_split")
        test, test_left_out = usable_split(base, "test_split")
        self.chamfer_shapes = shapes_with_surface(test[: plan.chamfer_shapes])
        missing = min(plan.chamfer_shapes, len(test)) - len(self.chamfer_shapes)
        self.left_out = left_out + test_left_out + missing
        names = [samples.shape for samples in training]
        self.validation_shapes = names[::VALIDATION_EVERY]
        self.training_shapes = [name for name in names if name not in self.validation_shapes]
        self.test_shapes = [samples.shape for samples in test]
        if not self.training_shapes:
            raise InputError(f"{base['train_split']}: one shape is too few, give two or more")
        self.base = {
            **base,
            "train_split": str(work / "splits" / "train.json"),
            "val_split": str(work / "splits" / "validation.json"),
            "validate_every": base["num_epochs"],
            "reconstruction_steps": None,  # as many as in training
        }
        write_split(self.base["train_split"], self.training_shapes)
        write_split(self.base["val_split"], self.validation_shapes)
        self.validation = [held_out_task(self.base, s, CPU) for s in self.validation_shapes]
        self.test = [held_out_task(self.base, s, CPU) for s in self.test_shapes]

        self.studies = studies(self.base, plan)
        self.runs = {  # each once, though several studies may share it
            run_name(changes): changes
            for changes in map(self.differing, self.candidates(*self.studies))
        }
        self.with_curve = {run_name(self.differing(c)) for c in self.candidates("order")}

    def candidates(self, *names: str) -> Iterator[Changes]:
        """Every candidate of the named studies."""
        for name in names:
            for variant in self.studies[name]:
                yield from variant.candidates

    def differing(self, changes: Changes) -> Changes:
        """The changes without those that leave the base as it is."""
        return {key: value for key, value in changes.items() if self.base[key] != value}

    def outer_steps(self, changes: Changes, epochs: int) -> int:
        """The outer steps of so many epochs."""
        batch = {**self.base, **changes}["ScenesPerBatch"]
        return epochs * math.ceil(len(self.training_shapes) / batch)

    def record(self, changes: Changes) -> dict[str, Any]:
        """A run's record as far as it has come: {"curriculum", "points"} at first."""
        file = self.record_file(changes)
        folder = self.work / run_name(changes)
        curriculum = {**self.base, **changes, "output_dir": str(folder)}
        if not file.is_file():
            return {"curriculum": curriculum, "points": []}
        record = read_json(file)
        if not isinstance(record, dict) or record.get("curriculum") != curriculum:
            raise InputError(f"{file}: is of other settings; delete it or give another --work")
        return record

    def record_file(self, changes: Changes) -> Path:
        """The file of a run's record."""
        return self.work / f"{run_name(changes)}.json"

    def complete_all(self, processes: int | None) -> tuple[dict[str, dict[str, Any]], int]:
        """Every run's record by name, and how many runs failed; what is missing is done now."""
        records = {name: self.record(changes) for name, changes in self.runs.items()}
        missing = {name: self.runs[name] for name in records if not is_finished(records[name])}
        done, failed = side_by_side(self.complete, missing, processes)
        return {**records, **done}, failed

    def complete(self, changes: Changes) -> dict[str, Any]:
        """Train and measure what a run's record lacks; it is saved after each point."""
        record = self.record(changes)
        if is_finished(record):
            return record
        torch.optim.Adam([torch.zeros(1)])  # the first one loads half a second's worth of modules
        try:
            with logged(self.work / run_name(changes)):
                self.train(changes, record)
        except DivergedError as error:
            record["error"] = str(error)
            print(f"{run_name(changes)}: {error}", file=sys.stderr)
        else:
            self.measure(changes, record)
        write_json(self.record_file(changes), record)
        return record

    def train(self, changes: Changes, record: dict[str, Any]) -> None:
        """Train from the last point of a record to the end, adding points.

        Raises:
            DivergedError: no step of an epoch had a finite meta-gradient.
        """
        curriculum, points = record["curriculum"], record["points"]
        epochs, every = curriculum["num_epochs"], self.epochs_between_points(record)
        checkpoint = latest_checkpoint(curriculum)
        if 0 < last_epoch(record) < epochs:  # training since then was interrupted, and not timed
            shutil.copyfile(self.checkpoint(record, last_epoch(record)), checkpoint)
        for epoch in sorted({*range(every, epochs, every), epochs}):
            if epoch <= last_epoch(record):
                continue
            until = {**curriculum, "num_epochs": epoch, "checkpoint_every": every}
            start = time.process_time()  # of this process, as others may use the machine meanwhile
            train(until, device=CPU, load=bool(points), overwrite=not points)
            seconds = time.process_time() - start + (points[-1]["seconds"] if points else 0)
            outer_steps = self.outer_steps(changes, epoch)
            points.append({"epoch": epoch, "outer_steps": outer_steps, "seconds": seconds})
            write_json(self.record_file(changes), record)

    def measure(self, changes: Changes, record: dict[str, Any]) -> None:
        """Add a trained run's errors to its record."""
        model = load_model(latest_checkpoint(record["curriculum"]))
        record["validation"] = measure_tasks(model, self.validation)
        record["test"] = measure_tasks(model, self.test)
        record["chamfer"] = self.chamfer_distances(model)
        if not changes:
            steps = self.plan.test_steps
            record["test_steps"] = {str(k): measure_tasks(model, self.test, k) for k in steps}
        if run_name(changes) in self.with_curve:
            for point in record["points"]:
                model = load_model(self.checkpoint(record, point["epoch"]))
                point["test"] = measure_tasks(model, self.test)

    def epochs_between_points(self, record: Mapping[str, Any]) -> int:
        """How many epochs lie between the points of a run's curve."""
        return max(1, record["curriculum"]["num_epochs"] // self.plan.points)

    def checkpoint(self, record: Mapping[str, Any], epoch: int) -> Path:
        """The checkpoint after an epoch at which there is a point."""
        latest = latest_checkpoint(record["curriculum"])
        numbered = epoch % self.epochs_between_points(record) == 0
        return latest.with_name(f"{epoch:04d}.pth") if numbered else latest

    def chamfer_distances(self, model: Method) -> list[float | None]:
        """Chamfer distances of the first test shapes, None where the field has no surface."""
        distances: list[float | None] = []
        for shape in self.chamfer_shapes:
            try:
                mesh, _ = reconstruct_shape(model, self.base, shape, CPU)
            except NoSurfaceError:
                distances.append(None)
                continue
            samples = Samples(self.base["data_source"], shape)
            normalisation = samples.normalisation
            truth = normalisation.invert(samples.surface())
            distances.append(mesh_chamfer(mesh, normalisation, truth, shape_rng(0, shape)))
        return distances


def shapes_with_surface(test: Sequence[Samples]) -> list[Any]:
    """The names of those shapes that have surface samples; the others are reported."""
    shapes = []
    for samples in test:
        try:
            samples.surface()
            shapes.append(samples.shape)
        except InputError as error:
            print(f"no Chamfer distance: {error}", file=sys.stderr)
    return shapes


def is_finished(record: Mapping[str, Any]) -> bool:
    """Whether a run has been measured, or has diverged."""
    return "test" in record or "error" in record


def last_epoch(record: Mapping[str, Any]) -> int:
    """The epoch of a record's last point; 0 if it has none."""
    return record["points"][-1]["epoch"] if record["points"] else 0


@torch.no_grad()
def measure_tasks(
    model: Method, tasks: Sequence[Task], num_steps: int | None = None
) -> dict[str, Any]:
    """Adapt to each task's context and measure the error at its query, which is held out.

    Returns:
        "misclassified": percentage of query points on the wrong side, one number per task.
        "distance_error": mean absolute error of signed distances, in the normalised frame.
        "outer_loss": with the model's own learned weights of its terms. The last two are means
        over the tasks, None if not finite.
    """
    misclassified, distance_error, outer_loss = [], [], []
    for task in tasks:
        x, y = task["query"]
        prediction = model.predict(x, model.adapt(task["context"], num_steps))
        misclassified.append(misclassified_percentage(prediction, y).item())
        distance_error.append((model.loss.signed_distance(prediction) - y).abs().mean().item())
        outer_loss.append(model.loss.outer(prediction, y).item())
    return {
        "misclassified": misclassified,
        "distance_error": finite_mean(distance_error),
        "outer_loss": finite_mean(outer_loss),
    }


def finite_mean(values: Sequence[float]) -> float | None:
    """The mean; None if it is not finite, as JSON has no such numbers."""
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else None


# Results

SHOWN_KEYS = (  # of the base
    *("network", "hidden_layers", "hidden_features", "num_meta_steps", "lr_type", "init_lr"),
    *("first_order", "training_mode", "context_mode", "SDFSamplesPerScene", "ScenesPerBatch"),
    *("lr", "num_epochs", "lr_decay_epochs", "lr_decay_factor", "seed"),
    *("reconstruction_sdf_samples", "resolution"),
)


def summarise(ablations: Ablations, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All figures, as written to ablations.json."""
    base = ablations.base
    seconds = [r["points"][-1]["seconds"] for r in records.values() if r["points"]]
    return {
        "setting": {
            "base": {key: base[key] for key in SHOWN_KEYS},
            "training_shapes": len(ablations.training_shapes),
            "validation_shapes": len(ablations.validation_shapes),
            "test_shapes": len(ablations.test_shapes),
            "chamfer_shapes": len(ablations.chamfer_shapes),
            "left_out": ablations.left_out,
            "outer_steps": ablations.outer_steps({}, base["num_epochs"]),
            "runs": len(records),
            "training_seconds": sum(seconds),
            "torch": torch.__version__,
        },
        "studies": {
            name: [variant_figures(ablations, variant, records) for variant in variants]
            for name, variants in ablations.studies.items()
        },
        "test_steps": [
            {"steps": int(k), **mean_errors(measured)}
            for k, measured in records["base"].get("test_steps", {}).items()
        ],
    }


def variant_figures(
    ablations: Ablations, variant: Variant, records: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """A row's figures: those of the candidate that is best on the validation shapes."""
    tried = []
    for changes in variant.candidates:
        record = records[run_name(ablations.differing(changes))]
        error = record.get("error")
        validation = None if error else mean_errors(record["validation"])
        tried.append({"changes": changes, "error": error, "validation": validation})
    row: dict[str, Any] = {"label": variant.label, "tried": tried, "chosen": None}
    converged = [t for t in tried if not t["error"]]
    if not converged:
        return row
    best = min(converged, key=lambda t: t["validation"]["misclassified"])
    record = records[run_name(ablations.differing(best["changes"]))]
    last = record["points"][-1]
    return row | {
        "chosen": best["changes"],
        "outer_steps": last["outer_steps"],
        "seconds": last["seconds"],
        **mean_errors(record["test"]),
        "misclassified_by_shape": record["test"]["misclassified"],
        "chamfer_by_shape": record["chamfer"],
        "curve": [
            {"outer_steps": p["outer_steps"], "seconds": p["seconds"], **mean_errors(p["test"])}
            for p in record["points"]
            if "test" in p
        ],
    }


def mean_errors(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """Means over shapes, and the standard error of the misclassified percentage."""
    values = np.array(measured["misclassified"])
    several = len(values) > 1
    return {
        "misclassified": float(values.mean()),
        "standard_error": float(values.std(ddof=1) / math.sqrt(len(values))) if several else None,
        "distance_error": measured["distance_error"],
        "outer_loss": measured["outer_loss"],
    }


# The command


def ablate(
    base: Mapping[str, Any], plan: Plan, work: Path, docs: Path, processes: int | None = None
) -> int:
    """Train and measure what is not done yet, then write everything below `docs`.

    Args:
        base: a complete curriculum.
        plan: what is varied.
        work: an absolute path, the folder of the runs.
        docs: folder of ablations.md and of ablations/.
        processes: runs at once; None: as many as there are cores.

    Returns:
        How many shapes were left out, runs failed and variants diverged. Nothing is written if a
        run failed.

    Raises:
        InputError: see `Ablations`; or a record in `work` is of other settings.
    """
    ablations = Ablations(base, plan, work)
    records, failed = ablations.complete_all(processes)
    if failed:
        print(f"no tables: {failed} of {len(records)} runs failed; what is finished is kept")
        return failed
    results = summarise(ablations, records)
    write_report(docs, results)
    print(f"{results['setting']['runs']} runs: {docs / 'ablations.md'}")
    rows = [r for study in results["studies"].values() for r in study]
    return ablations.left_out + sum(r["chosen"] is None for r in rows)


def main() -> int:
    """Run the command; the exit code."""
    parser = CurriculumCommandLine(prog="python -m experiments.ablations", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute or two: does it run?")
    parser.add_argument("--work", type=Path, help="folder for runs (output/ablations)")
    parser.add_argument("--docs", type=Path, help="folder for results (docs; --quick: WORK/docs)")
    parser.add_argument("--processes", type=whole_number, help="runs at once (default: cores)")
    parser.add_curriculum_keys()
    options = parser.parse()
    plan = QUICK if options.quick else FULL
    name = "ablations_quick" if options.quick else "ablations"
    work = (options.work or ROOT / "output" / name).resolve()
    docs = options.docs or (work / "docs" if options.quick else ROOT / "docs")
    torch.set_num_threads(1)
    keys = {**plan.keys, **parser.overrides(options)}
    base = load_curriculum("tables_plain", keys)
    return 1 if ablate(base, plan, work, docs, options.processes or None) else 0


if __name__ == "__main__":
    run_command(main)
