"""What the comparisons in 2D and 3D share.

Training for a given time, runs side by side, times of fits taken in turns, tables and files.
"""

import contextlib
import math
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from metasdf.errors import InputError
from metasdf.files import atomic_path, read_json, write_json
from metasdf.learning.checkpoints import save_checkpoint
from metasdf.learning.curriculum import keys_of
from metasdf.learning.gradients import MetaGradients
from metasdf.learning.loop import DivergedError, cosine, epoch_seed, losses, outer_step
from metasdf.learning.training import task_data, training_state, untrained
from metasdf.maml import Method
from metasdf.reconstruction.fitting import fit

NAMES = {  # of the methods, for tables and pictures
    "metasdf": "MetaSDF",
    "autodecoder": "auto-decoder",
    "autodecoder_concat": "auto-decoder, concatenation",
    "autodecoder_hyper": "auto-decoder, hypernetwork",
    "cnn_concat": "CNN encoder, concatenation",
    "cnn_hyper": "CNN encoder, hypernetwork",
    "set_concat": "set encoder, concatenation",
    "set_hyper": "set encoder, hypernetwork",
    "metasdf_siren": "MetaSDF, SIREN",
    "cnn_concat_siren": "CNN encoder, concatenation, SIREN",
    "set_concat_siren": "set encoder, concatenation, SIREN",
}
TIMED_REPEATS = 3
PAGE_WIDTH = 1300  # of pictures, in pixels
DECAY_AT = 0.8  # lr_schedule steps: the share of the time after which lr_decay_factor holds


def train_for(curriculum: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """Train for that much processor time, lr falling as the time passes, see `decay_at`.

    The clock runs while data are drawn and steps are taken: loading and compiling do not count, and
    nothing is validated. Writes a checkpoint of the last epoch, which need not be complete.
    """
    data, _, shapes, _ = task_data(curriculum)
    model, optimizer, step_sizes = untrained(curriculum, len(shapes), torch.device("cpu"))
    clip, scenes = curriculum["gradient_clip"], curriculum["scenes_per_microbatch"]
    gradients = MetaGradients(curriculum["precision"], curriculum["compile"])
    if curriculum["compile"]:
        losses(model.train(), data.batch(0, 0), scenes, gradients)
    steps, epoch = 0, 0
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        torch.manual_seed(epoch_seed(curriculum["seed"], epoch))
        found = []
        for batch in data.batches(epoch):
            spent = time.process_time() - start
            if spent >= seconds:
                break
            factor = decay_at(spent / seconds, curriculum)
            for group, size in zip(optimizer.param_groups, step_sizes, strict=True):
                group["lr"] = factor * size
            found.append(outer_step(model, optimizer, batch, clip, scenes, gradients)[0])
        if not found:
            break
        steps, epoch = steps + len(found), epoch + 1
        if all(map(math.isnan, found)):
            raise DivergedError(f"epoch {epoch}: no finite meta-gradient; lower init_lr or lr")
        print(f"{spent:.0f} s: {steps} steps, loss {np.nanmean(found):.4g}", flush=True)
    state = training_state({**curriculum, "num_epochs": epoch}, shapes, epoch, model, optimizer)
    save_checkpoint(latest_checkpoint(curriculum), state)
    return {"seconds": spent, "epochs": epoch, "steps": steps}


def decay_at(share: float, curriculum: Mapping[str, Any]) -> float:
    """What lr is multiplied with when that share of the time has passed."""
    if curriculum["lr_schedule"] == "cosine":
        return cosine(share)
    return curriculum["lr_decay_factor"] if share >= DECAY_AT else 1.0


def can_compile() -> bool:
    """Whether `compile` works on this CPU: it needs a C++ compiler."""
    try:
        torch.compile(torch.sin)(torch.ones(4))
    except Exception:  # whatever keeps a compiler from working
        return False
    return True


def latest_checkpoint(curriculum: Mapping[str, Any]) -> Path:
    return Path(curriculum["output_dir"], "checkpoints", "latest.pth")


def kept(
    curriculum: Mapping[str, Any],
    seconds: float,
    only_measuring: tuple[str, ...],
    measure: Callable[[], dict[str, Any]],
) -> dict[str, Any]:
    """A run's result from its folder, output_dir; where there is none yet, train and `measure`.

    What is there is used if it came from the same time and keys. Keys that start with one of
    only_measuring do not matter to the training, which then is not repeated for them.
    """
    folder = Path(curriculum["output_dir"])
    file, trained = folder / "result.json", folder / "training.json"
    settings = _settings(curriculum, seconds)
    if file.exists() and (known := read_json(file))["settings"] == settings:
        return known
    chosen = settings["curriculum"].items()
    matters = {name: value for name, value in chosen if not name.startswith(only_measuring)}
    of_training = {**settings, "curriculum": matters}
    training = read_json(trained) if trained.exists() else {}
    if training.get("settings") != of_training and folder.exists():
        shutil.rmtree(folder)  # of another plan, or stopped
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "log.txt", "a") as log:
        with contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
            if not trained.exists():
                training = {"settings": of_training, **train_for(curriculum, seconds)}
                write_json(trained, training)
            result = {**training, "settings": settings, **measure()}
    write_json(file, result)
    return result


def _settings(curriculum: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    """What a result depends on: the time, and the keys that have not their default value."""
    keys = keys_of(curriculum)
    chosen = {name: v for name, v in curriculum.items() if v != keys[name].default}
    return {"seconds": seconds, "curriculum": chosen}


def side_by_side(
    work: Callable[[Any], dict[str, Any]], wanted: Sequence[Any], processes: int | None
) -> tuple[dict[Any, dict[str, Any]], int]:
    """What `work` gives for each of the wanted runs, in their order, and how many failed.

    Runs have a `name`. As many as `processes` (None: as there are cores) go at once; which are
    done is told as it happens, and one that fails is told and left out.
    """
    results, failed = {}, 0
    with (
        ProcessPoolExecutor(
            processes, mp_context=get_context("spawn"), initializer=_end_with_parent
        ) as pool,
        tqdm(total=len(wanted), desc="comparing", unit="run", disable=None) as progress,
    ):
        futures = {pool.submit(work, run): run for run in wanted}
        for future in as_completed(futures):
            run = futures[future]
            try:
                results[run] = future.result()
                progress.write(f"done: {run.name}")
            except Exception as error:
                failed += 1
                reason = str(error) if isinstance(error, InputError) else repr(error)
                progress.write(f"failed: {run.name}: {reason}")
            progress.update()
    return {run: results[run] for run in wanted if run in results}, failed


def _end_with_parent() -> None:
    """End this worker when its parent ends, however that happens; else it empties the queue."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def fits_in_turns(
    models: Mapping[str, Method],
    contexts: Iterable[tuple[Tensor, Tensor]],
    steps: Mapping[str, int | None],
) -> dict[str, float]:
    """Median seconds that each model takes to fit one of the contexts, models taking turns."""
    times: dict[str, list[float]] = {name: [] for name in models}
    for context in contexts:
        for _ in range(TIMED_REPEATS):
            for name, model in models.items():
                times[name].append(fit(model, context, steps[name], torch.device("cpu"))[1])
    return {name: statistics.median(values) for name, values in times.items()}


def write_docs(docs: Path, name: str, summary: Mapping[str, Any], text: str) -> None:
    """Print a comparison's tables, and write them to name.md and all figures to name.json."""
    print(text)
    write_json(docs / f"{name}.json", summary)
    with atomic_path(docs / f"{name}.md") as path:
        path.write_text(text, encoding="utf-8")


def over_seeds(values: Sequence[float]) -> dict[str, float | None] | None:
    """Mean and standard deviation of what each seed gave; None of nothing, no spread of one."""
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "spread": spread}


def cell(value: Mapping[str, float | None] | None, factor: float, digits: int) -> str:
    """Mean ± spread for a table; the mean alone where there was one seed."""
    if value is None:
        return "-"
    shown = [value["mean"], value["spread"]][: 1 if value["spread"] is None else 2]
    return " ± ".join(f"{factor * number:.{digits}f}" for number in shown)


def machine() -> dict[str, Any]:
    """What was measured on, for the record."""
    found = {"processor": _processor(), "cores": os.cpu_count(), "torch": torch.__version__}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
