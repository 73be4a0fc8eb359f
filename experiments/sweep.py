"""Sweeps: many trainings, side by side, each for the same processor time, with results kept.

Every comparison is a `Sweep` of `Run`s. What a run gives is written to its folder, together with
the settings that it depends on, and read from there the next time.
"""

import contextlib
import shutil
import signal
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from metasdf.api import training_tasks
from metasdf.errors import InputError
from metasdf.files import read_json, write_json
from metasdf.learning.checkpoints import save_checkpoint
from metasdf.learning.curriculum import keys_of
from metasdf.learning.loop import accumulate, cosine, meta_gradients, outer_loop
from metasdf.learning.model_files import load_model
from metasdf.learning.training import training_state, untrained
from metasdf.method import Method
from metasdf.reconstruction.fitting import fit
from metasdf.workers import num_processes, run_jobs

CPU = torch.device("cpu")
TIMED_REPEATS = 3
DECAY_AT = 0.8  # lr_schedule steps: the fraction of the time after which lr_decay_factor holds
WORKER_DIED = "the worker process died (a crash, or too little memory)"


@dataclass(frozen=True)
class Run:
    """One training and the context modes that its model is measured with.

    Attributes:
        name: unique in its sweep; also the run's folder below the output folder.
        method: the short name of what is trained.
        context_mode: the mode that it is trained with.
        seed: of the training.
        measured_modes: the modes that it is measured with.
        dataset: what it is trained on; "" where there is only one data set.
    """

    name: str
    method: str
    context_mode: str = "dense"
    seed: int = 0
    measured_modes: tuple[str, ...] = ("dense",)
    dataset: str = ""


def runs_of_method(
    method: str, fits_codes: bool, modes: Sequence[str], seed: int, dataset: str = ""
) -> list[Run]:
    """The runs that measure a method with each of the context modes, for one seed and data set.

    An auto-decoder (fits_codes) sees no context in training, so that one run serves all modes.
    """
    trainings = {"dense": tuple(modes)} if fits_codes else {mode: (mode,) for mode in modes}
    folder = f"{dataset}/" if dataset else ""
    return [
        Run(f"{folder}{method}_{mode}_{seed}", method, mode, seed, measured, dataset)
        for mode, measured in trainings.items()
    ]


def runs_measured_with(runs: Iterable[Run], method: str, mode: str, dataset: str = "") -> list[Run]:
    """The runs, one for each seed, that measure a method with a context mode."""
    return [
        run
        for run in runs
        if (run.method, run.dataset) == (method, dataset) and mode in run.measured_modes
    ]


@dataclass(frozen=True)
class Sweep:
    """What is done with every run of a comparison. All functions must be picklable.

    Attributes:
        seconds: processor time of one core that each run is trained for.
        curriculum: the complete curriculum of a run; its output_dir is the run's folder.
        measure: from a run, its trained model and its curriculum to what is kept, as for JSON.
        measuring_keys: prefixes of the curriculum keys that only `measure` depends on: a training
            is not repeated for them.
    """

    seconds: float
    curriculum: Callable[[Run], dict[str, Any]]
    measure: Callable[[Run, Method, dict[str, Any]], dict[str, Any]]
    measuring_keys: tuple[str, ...]

    def results(
        self, runs: Sequence[Run], processes: int | None = None
    ) -> tuple[dict[Run, dict[str, Any]], int]:
        """The results of all runs, in their order, and how many runs failed.

        What is not kept yet is done in worker processes; see `side_by_side`.
        """
        kept = {run.name: result for run in runs if (result := self.kept(run)) is not None}
        missing = {run.name: run for run in runs if run.name not in kept}
        done, failed = side_by_side(self.result, missing, processes)
        results = kept | done
        return {run: results[run.name] for run in runs if run.name in results}, failed

    def result(self, run: Run) -> dict[str, Any]:
        """A run's result: read from its folder, or else trained, measured and written there."""
        if (kept := self.kept(run)) is not None:
            return kept
        curriculum = self.curriculum(run)
        folder, settings = Path(curriculum["output_dir"]), self._settings(curriculum)
        training_file = folder / "training.json"
        of_training = {**settings, "curriculum": self._training_keys(settings["curriculum"])}
        training = read_json(training_file) if training_file.exists() else {}
        if training.get("settings") != of_training and folder.exists():
            shutil.rmtree(folder)  # of other settings, or interrupted
        with logged(folder):
            if not training_file.exists():
                training = {"settings": of_training, **train_for(curriculum, self.seconds)}
                write_json(training_file, training)
            measured = self.measure(run, *self.model(run))
        result = {**training, "settings": settings, **measured}
        write_json(folder / "result.json", result)
        return result

    def kept(self, run: Run) -> dict[str, Any] | None:
        """The result in a run's folder, if it came from the same settings."""
        curriculum = self.curriculum(run)
        file = Path(curriculum["output_dir"], "result.json")
        result = read_json(file) if file.exists() else {}
        return result if result.get("settings") == self._settings(curriculum) else None

    def model(self, run: Run) -> tuple[Method, dict[str, Any]]:
        """A finished run's trained model, in evaluation mode, and its curriculum."""
        curriculum = self.curriculum(run)
        return load_model(latest_checkpoint(curriculum), curriculum), curriculum

    def _settings(self, curriculum: Mapping[str, Any]) -> dict[str, Any]:
        """What a result depends on: the time, and the keys that differ from their defaults."""
        keys = keys_of(curriculum)
        chosen = {name: v for name, v in curriculum.items() if v != keys[name].default}
        return {"seconds": self.seconds, "curriculum": chosen}

    def _training_keys(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        return {name: v for name, v in chosen.items() if not name.startswith(self.measuring_keys)}


# Training


def train_for(curriculum: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Train for that much processor time, while lr falls with the time; see `decay_at`.

    The clock runs while data are drawn and steps are taken: loading and compiling do not count, and
    nothing is validated. Writes a checkpoint of the last epoch, which need not be complete.

    Returns:
        The "seconds" spent, and the "epochs" and outer "steps" taken.

    Raises:
        DivergedError: no step of an epoch had a finite meta-gradient.
    """
    tasks = training_tasks(curriculum)
    model, optimizer = untrained(curriculum, len(tasks.names), CPU)
    gradients = meta_gradients(model.train(), curriculum)
    if curriculum["compile"]:
        accumulate(gradients, tasks.train.batch(0, 0), curriculum["scenes_per_microbatch"])
    start = time.process_time()

    def spent() -> float:
        return time.process_time() - start

    epochs, losses = 0, []
    for record in outer_loop(
        *(model, optimizer, tasks.train, curriculum),
        lr_factor=lambda _: decay_at(spent() / seconds, curriculum),
        stop=lambda: spent() >= seconds,
        gradients=gradients,
    ):
        epochs = record.epoch + 1
        losses.append(record.loss.item())
        if record.ends_epoch:
            mean = np.nanmean(losses[-tasks.train.batches_per_epoch :])
            print(f"{spent():.0f} s: {len(losses)} steps, loss {mean:.4g}", flush=True)
    state = training_state(
        {**curriculum, "num_epochs": epochs}, tasks.names, epochs, model, optimizer
    )
    save_checkpoint(latest_checkpoint(curriculum), state)
    return {"seconds": spent(), "epochs": epochs, "steps": len(losses)}


def decay_at(fraction: float, curriculum: Mapping[str, Any]) -> float:
    """What lr is multiplied by when that fraction of the time has passed."""
    if curriculum["lr_schedule"] == "cosine":
        return cosine(fraction)
    return curriculum["lr_decay_factor"] if fraction >= DECAY_AT else 1.0


def can_compile() -> bool:
    """Whether `compile` works on this CPU: it needs a C++ compiler."""
    try:
        torch.compile(torch.sin)(torch.ones(4))
    except Exception:  # whatever keeps a compiler from working
        return False
    return True


def latest_checkpoint(curriculum: Mapping[str, Any]) -> Path:
    """The checkpoint that a training writes last."""
    return Path(curriculum["output_dir"], "checkpoints", "latest.pth")


@contextlib.contextmanager
def logged(folder: Path) -> Iterator[None]:
    """Append what is printed meanwhile to folder/log.txt instead."""
    folder.mkdir(parents=True, exist_ok=True)
    with (
        open(folder / "log.txt", "a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        yield


# Worker processes


def side_by_side(
    work: Callable[[Any], Any], jobs: Mapping[str, Any], processes: int | None
) -> tuple[dict[str, Any], int]:
    """Call `work` with each job in worker processes; the results by name, and how many failed.

    As many as `processes` (None: as there are cores) go at once. Progress is told as it happens;
    a job that fails is told with its reason and left out. The workers end with this process.
    """
    results, failed = {}, 0
    attempts = [(work, name, job) for name, job in jobs.items()]
    with tqdm(total=len(jobs), desc="running", unit="run", disable=None) as progress:
        for (_, name, _), outcome in run_jobs(_attempt, attempts, num_processes(processes)):
            result, reason = outcome or (None, WORKER_DIED)
            if reason is None:
                results[name] = result
                progress.write(f"done: {name}")
            else:
                failed += 1
                progress.write(f"failed: {name}: {reason}")
            progress.update()
    return results, failed


def _attempt(work: Callable[[Any], Any], name: str, job: Any) -> tuple[Any, str | None]:
    """A job's result and None; or None and the reason why there is no result."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends at once: what is finished is on disk
    torch.set_num_threads(1)
    try:
        return work(job), None
    except InputError as error:
        return None, str(error)
    except Exception as error:  # also the user's own method may raise anything
        return None, repr(error)


# Timing


def fit_times(
    models: Mapping[str, Method],
    contexts: Mapping[str, Sequence[tuple[Tensor, Tensor]]],
    steps: Mapping[str, int | None],
) -> dict[str, float]:
    """Median seconds that each model takes to fit a single task.

    The models take turns, so that whatever else the machine does meanwhile slows all of them.

    Args:
        models: by name, on the CPU.
        contexts: by name, for each model the same number of contexts, x [1, N, d] and y [1, N, c].
        steps: by name, steps of a fit; None: as many as in training.
    """
    times: dict[str, list[float]] = {name: [] for name in models}
    for turn in zip(*(contexts[name] for name in models), strict=True):
        for _ in range(TIMED_REPEATS):
            for (name, model), context in zip(models.items(), turn, strict=True):
                times[name].append(fit(model, context, steps[name], CPU)[1])
    return {name: statistics.median(values) for name, values in times.items()}
