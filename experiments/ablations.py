"""What each choice of the method is worth, measured: python -m experiments.ablations [--quick]

    steps        inner steps K in training, and steps at test time of one model
    step_sizes   the six kinds of learned step sizes
    order        second against first order, by outer steps and by seconds
    networks     ReLU, positional encoding, SIREN
    seeds        the same run with other seeds: the noise of all the above

Trains small models on one core and writes docs/ablations/*.png, docs/ablations/ablations.json
and the tables of docs/ablations.md, between its <!-- marks -->. Run again after an interruption,
it goes on; finished runs are read from output/ablations/*.json. Any curriculum key can be
overridden; the base is the curriculum tables_tiny with the keys below.
"""

import os

os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import contextlib
import dataclasses
import io
import math
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tqdm import tqdm

from experiments.ablations_report import write_report
from metasdf.commands.arguments import CommandLine
from metasdf.data.names import write_split
from metasdf.data.samples import Samples
from metasdf.data.tasks import Task
from metasdf.errors import InputError, run_command
from metasdf.evaluation.evaluate import mesh_chamfer
from metasdf.files import read_json, write_json
from metasdf.geometry.grid import NoSurfaceError
from metasdf.learning.checkpoints import load_model
from metasdf.learning.curriculum import load_curriculum
from metasdf.learning.loop import DivergedError
from metasdf.learning.training import train, usable_split
from metasdf.losses import misclassified_percentage
from metasdf.maml import Method
from metasdf.reconstruction.fitting import held_out_task, reconstruct_shape, shape_rng
from metasdf.step_sizes import STEP_SIZE_TYPES

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
VALIDATION_SHARE = 12  # one training shape of so many is kept back to choose init_lr by

Changes = dict[str, Any]  # the curriculum keys in which a run differs from the base


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is tried, on what budget."""

    keys: Mapping[str, Any]  # of the base, on top of tables_tiny
    inner_steps: Sequence[int]  # in training and at test time
    test_steps: Sequence[int]  # of the base, at test time
    static_lrs: Sequence[float]  # as "static" cannot learn its step size
    network_lrs: Mapping[str, Sequence[float]]
    seeds: Sequence[int]
    points: int  # of the error curves; an interrupted run goes on from the last
    chamfer_shapes: int  # the first so many test shapes are meshed


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
    """What is compared with what, by name of the study."""
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
    """Where a run lies below the work folder."""
    return ",".join(f"{key}={value}" for key, value in changes.items()) or "base"


# Runs.


class Bench:
    """Trains and measures runs, each once; a finished one is read from its file."""

    def __init__(self, base: Mapping[str, Any], plan: Plan, work: Path) -> None:
        if base["method"] != "metasdf":
            raise InputError(f"method: {base['method']!r} has no inner loop to vary; take metasdf")
        self.plan = plan
        self.work = work
        training, left_out = usable_split(base, "train_split")
        test, test_left_out = usable_split(base, "test_split")
        self.left_out = left_out + test_left_out
        self.chamfer_shapes = []
        for samples in test[: plan.chamfer_shapes]:
            try:
                samples.surface()
                self.chamfer_shapes.append(samples.shape)
            except InputError as error:
                print(f"no Chamfer distance: {error}", file=sys.stderr)
                self.left_out += 1
        names = [samples.shape for samples in training]
        self.validation_shapes = names[::VALIDATION_SHARE]
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
        self.runs = {  # each once, though it may stand in several studies
            run_name(changes): changes
            for changes in map(self.differing, self.candidates(*self.studies))
        }
        self.curved = {run_name(self.differing(c)) for c in self.candidates("order")}

    def candidates(self, *names: str) -> Iterator[Changes]:
        for name in names:
            for variant in self.studies[name]:
                yield from variant.candidates

    def differing(self, changes: Changes) -> Changes:
        return {key: value for key, value in changes.items() if self.base[key] != value}

    def outer_steps(self, changes: Changes, epochs: int) -> int:
        batch = {**self.base, **changes}["ScenesPerBatch"]
        return epochs * math.ceil(len(self.training_shapes) / batch)

    def inner_steps(self, changes: Changes, epochs: int) -> int:
        """What the progress bar counts: a run's time grows with it."""
        return self.outer_steps(changes, epochs) * {**self.base, **changes}["num_meta_steps"]

    def record(self, changes: Changes) -> dict[str, Any]:
        """A run's record as far as it has come, {"curriculum", "points"} at first."""
        file = self.work / f"{run_name(changes)}.json"
        curriculum = {**self.base, **changes, "output_dir": str(self.work / run_name(changes))}
        if not file.is_file():
            return {"curriculum": curriculum, "points": []}
        record = read_json(file)
        if not isinstance(record, dict) or record.get("curriculum") != curriculum:
            raise InputError(f"{file}: is of other settings; delete it or give another --work")
        return record

    def all(self) -> dict[str, dict[str, Any]]:
        """Every run's record, trained and measured where that was still to be done."""
        records = {name: self.record(changes) for name, changes in self.runs.items()}
        totals = {
            name: self.inner_steps(changes, records[name]["curriculum"]["num_epochs"])
            for name, changes in self.runs.items()
        }
        done = {
            name: totals[name]
            if "error" in records[name]
            else self.inner_steps(changes, last_epoch(records[name]))
            for name, changes in self.runs.items()
        }
        progress = tqdm(
            total=sum(totals.values()),
            initial=sum(done.values()),
            desc="ablations",
            unit="inner step",
            unit_scale=True,
            disable=None,
        )
        torch.optim.Adam([torch.zeros(1)])  # the first one loads half a second's worth of modules
        with progress:
            for name, changes in self.runs.items():
                progress.set_postfix_str(name)
                self.complete(changes, records[name], progress)
        return records

    def complete(self, changes: Changes, record: dict[str, Any], progress: tqdm) -> None:
        """Train and measure what a record lacks; it is saved after each point."""
        file = self.work / f"{run_name(changes)}.json"
        if "test" in record or "error" in record:
            return
        curriculum, points = record["curriculum"], record["points"]
        epochs = curriculum["num_epochs"]
        every = max(1, epochs // self.plan.points)
        if 0 < last_epoch(record) < epochs:  # what was trained since was not timed to its end
            shutil.copyfile(self.checkpoint(record, last_epoch(record), every), latest(record))
        for epoch in sorted({*range(every, epochs, every), epochs}):
            if epoch <= last_epoch(record):
                continue
            until = {**curriculum, "num_epochs": epoch, "checkpoint_every": every}
            before = self.inner_steps(changes, last_epoch(record))
            start = time.process_time()  # others may use the machine meanwhile
            try:
                messages = train_quietly(until, load=bool(points), overwrite=not points)
            except DivergedError as error:
                record["error"] = str(error)
                write_json(file, record)
                progress.write(f"{run_name(changes)}: {error}", file=sys.stderr)
                progress.update(self.inner_steps(changes, epochs) - before)
                return
            seconds = time.process_time() - start + (points[-1]["seconds"] if points else 0)
            if messages:
                progress.write(f"{run_name(changes)}: {messages}", file=sys.stderr)
            outer_steps = self.outer_steps(changes, epoch)
            points.append({"epoch": epoch, "outer_steps": outer_steps, "seconds": seconds})
            write_json(file, record)
            progress.update(self.inner_steps(changes, epoch) - before)
        model, _ = load_model(latest(record))
        record["validation"] = measure(model, self.validation)
        record["test"] = measure(model, self.test)
        record["chamfer"] = self.chamfers(model)
        if not changes:
            record["test_steps"] = {k: measure(model, self.test, k) for k in self.plan.test_steps}
        if run_name(changes) in self.curved:
            for point in points:
                model, _ = load_model(self.checkpoint(record, point["epoch"], every))
                point["test"] = measure(model, self.test)
        write_json(file, record)

    def checkpoint(self, record: Mapping[str, Any], epoch: int, every: int) -> Path:
        """The weights after an epoch at which there is a point."""
        return latest(record) if epoch % every else latest(record).with_name(f"{epoch:04d}.pth")

    def chamfers(self, model: Method) -> list[float | None]:
        """Chamfer distances of the first test shapes, None where the field has no surface."""
        distances = []
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


def latest(record: Mapping[str, Any]) -> Path:
    return Path(record["curriculum"]["output_dir"], "checkpoints", "latest.pth")


def last_epoch(record: Mapping[str, Any]) -> int:
    return record["points"][-1]["epoch"] if record["points"] else 0


def train_quietly(curriculum: Mapping[str, Any], load: bool, overwrite: bool) -> str:
    """Train without a bar of its own; what it said on stderr."""
    said = io.StringIO()
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        train(curriculum, CPU, load=load, overwrite=overwrite)
    return said.getvalue().strip()


@torch.no_grad()
def measure(model: Method, tasks: Sequence[Task], num_steps: int | None = None) -> dict[str, Any]:
    """Adapt to each task's context and judge on its query, which was not in the context.

    misclassified: share of samples on the wrong side, %, one number per task. distance_error:
    mean |difference| of signed distances, in the normalised frame; outer_loss: with the model's
    own learned weights of its terms. Both are means over the tasks, None if not finite.
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
    mean = float(np.mean(values))
    return mean if math.isfinite(mean) else None


# Results.


def collect(bench: Bench, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """All figures, as written to ablations.json."""
    base = bench.base
    keys = (
        *("network", "hidden_layers", "hidden_features", "num_meta_steps", "lr_type", "init_lr"),
        *("first_order", "training_mode", "context_mode", "SDFSamplesPerScene", "ScenesPerBatch"),
        *("lr", "num_epochs", "lr_decay_epochs", "lr_decay_factor", "seed"),
        *("reconstruction_sdf_samples", "resolution"),
    )
    return {
        "setting": {
            "base": {key: base[key] for key in keys},
            "training_shapes": len(bench.training_shapes),
            "validation_shapes": len(bench.validation_shapes),
            "test_shapes": len(bench.test_shapes),
            "chamfer_shapes": len(bench.chamfer_shapes),
            "left_out": bench.left_out,
            "outer_steps": bench.outer_steps({}, base["num_epochs"]),
            "runs": len(records),
            "training_seconds": sum(
                r["points"][-1]["seconds"] for r in records.values() if r["points"]
            ),
            "torch": torch.__version__,
        },
        "studies": {
            name: [row(bench, variant, records) for variant in variants]
            for name, variants in bench.studies.items()
        },
        "test_steps": [
            {"steps": int(k), **summary(measured)}
            for k, measured in records["base"].get("test_steps", {}).items()
        ],
    }


def row(bench: Bench, variant: Variant, records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One variant's figures: those of the candidate that is best on the validation shapes."""
    tried = []
    for changes in variant.candidates:
        record = records[run_name(bench.differing(changes))]
        failed = "error" in record
        tried.append(
            {
                "changes": changes,
                "error": record.get("error"),
                "validation": None if failed else summary(record["validation"]),
            }
        )
    usable = [t for t in tried if not t["error"]]
    result: dict[str, Any] = {"label": variant.label, "tried": tried, "chosen": None}
    if not usable:
        return result
    best = min(usable, key=lambda t: t["validation"]["misclassified"])
    record = records[run_name(bench.differing(best["changes"]))]
    last = record["points"][-1]
    result |= {
        "chosen": best["changes"],
        "outer_steps": last["outer_steps"],
        "seconds": last["seconds"],
        **summary(record["test"]),
        "misclassified_by_shape": record["test"]["misclassified"],
        "chamfer_by_shape": record["chamfer"],
        "curve": [
            {"outer_steps": p["outer_steps"], "seconds": p["seconds"], **summary(p["test"])}
            for p in record["points"]
            if "test" in p
        ],
    }
    return result


def summary(measured: Mapping[str, Any]) -> dict[str, float | None]:
    """Means over shapes, and the standard error of the misclassified share."""
    values = np.array(measured["misclassified"])
    return {
        "misclassified": float(values.mean()),
        "standard_error": float(values.std(ddof=1) / math.sqrt(len(values)))
        if len(values) > 1
        else None,
        "distance_error": measured["distance_error"],
        "outer_loss": measured["outer_loss"],
    }


# The command.


def ablate(base: Mapping[str, Any], plan: Plan, work: Path, docs: Path) -> int:
    """Train and measure what is not yet there, then write everything below `docs`.

    Returns how many shapes were left out and how many variants diverged.
    """
    bench = Bench(base, plan, work)
    results = collect(bench, bench.all())
    write_report(docs, results)
    print(f"{results['setting']['runs']} runs: {docs / 'ablations.md'}")
    rows = [r for study in results["studies"].values() for r in study]
    return bench.left_out + sum(r["chosen"] is None for r in rows)


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a minute or two: does it run?")
    parser.add_argument("--work", type=Path, help="folder for runs (output/ablations)")
    parser.add_argument("--docs", type=Path, help="folder for results (docs; --quick: WORK/docs)")
    parser.add_curriculum_keys()
    options = parser.parse()
    plan = QUICK if options.quick else FULL
    name = "ablations_quick" if options.quick else "ablations"
    work = (options.work or ROOT / "output" / name).resolve()
    docs = options.docs or (work / "docs" if options.quick else ROOT / "docs")
    torch.set_num_threads(1)
    curriculums = ROOT / "3D" / "curriculums.py"
    keys = {**plan.keys, **parser.overrides(options)}
    return 1 if ablate(load_curriculum(curriculums, "tables_tiny", keys), plan, work, docs) else 0


if __name__ == "__main__":
    run_command(main)
