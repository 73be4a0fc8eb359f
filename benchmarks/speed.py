"""Speed and memory: python -m benchmarks.speed [--quick] [--only SECTION ...]

Every row compares two things measured side by side in one run: ours, and a baseline (the dense
method, a plain loop, a common library) or the limit of the machine. Sections:

    mesh     meshing the paper's network: whole grid / only where the surface can be
    step     one meta-training step: a plain second-order loop / ours; share of the machine's rate
    ideas    the same step: what could be gained by leaving something out
    memory   one scene of planes_relu: without / with gradient checkpointing of inner steps
    data     batches of planes_relu: opening npz files anew / ours; start-up
    adapt    fitting a shape from 1,000 to 50,000 points: auto-decoder / MetaSDF
    quality  validation error against time: the paper's recipe / ours, both of the demo's size
    gpu      a step of the paper's network on a GPU: fp32 / TF32, bf16, compiled; where there is one
    growth   time and memory of a step against points, scenes, width and inner steps

Writes all figures to RESULTS (benchmarks/results.json), and tables with text and pictures to
DOCS/performance.md. With --only, earlier measurements of the other sections are kept.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

import contextlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from experiments.tables import machine
from metasdf.api import training_tasks
from metasdf.commands.command_line import CommandLine
from metasdf.commands.console import run_command
from metasdf.data.names import SDF_SAMPLES, ShapeName
from metasdf.data.tasks import SDFDataset, check_shapes, to_device
from metasdf.errors import InputError
from metasdf.files import atomic_path, read_json, write_json
from metasdf.geometry.bodies import find_body
from metasdf.geometry.body_sampling import sample_sdf
from metasdf.geometry.grid import POINTS_PER_CALL, grid_coordinates
from metasdf.geometry.normalisation import normalise
from metasdf.geometry.sparse_grid import SparseGrid
from metasdf.learning.curriculum import load_curriculum
from metasdf.learning.device import keep_freed_memory, synchronize
from metasdf.learning.gradients import MetaGradients
from metasdf.learning.loop import accumulate, outer_loop, validate
from metasdf.learning.models import build_model
from metasdf.learning.training import untrained
from metasdf.method import Method
from metasdf.networks import CoordinateNetwork, Params, meta_parameters
from metasdf.preparation.shapes import make_shape

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Plan:
    """How much is done."""

    repeats: int = 3
    resolutions: tuple[int, ...] = (256, 512)
    fit_steps: int = 150  # of the network that is meshed
    hidden_features: int = 512
    hidden_layers: int = 8
    samples: int = 24_000  # of a scene
    rows: int = 250_000  # of a file, inside and outside each
    shapes: int = 4000
    contexts: tuple[int, ...] = (1000, 4000, 16_000, 50_000)
    at_once: int = 32
    learn_seconds: float = 160.0
    keys: tuple[tuple[str, Any], ...] = ()  # further curriculum keys of what is learned


QUICK = Plan(1, (48,), 500, 32, 2, 400, 2000, 50, (200, 400), 2, 1.0)

Row = dict[str, Any]


def row(what: str, theirs: float, ours: float, unit: str, **more: Any) -> Row:
    """One line of a table: the baseline's figure, ours, and the ratio."""
    return {
        "what": what,
        "theirs": theirs,
        "ours": ours,
        "unit": unit,
        "ratio": theirs / ours,
        **more,
    }


def seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def in_turns(plan: Plan, *works: Callable[[], Any]) -> list[float]:
    """Median seconds of each, taking turns, to and fro, after one turn that is not counted."""
    times = [[0.0] * len(works) for _ in range(plan.repeats + 1)]
    order = range(len(works))
    for turn, found in enumerate(times):
        for i in reversed(order) if turn % 2 else order:
            found[i] = seconds(works[i])
    return [statistics.median(of) for of in zip(*times[1:], strict=True)]


def processes(count: int | None = None) -> ProcessPoolExecutor:
    """Processes of their own (None: as many as cores) that use memory as the commands do."""
    return ProcessPoolExecutor(count, get_context("spawn"), initializer=keep_freed_memory)


def peak_of(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns in a process of its own, and how many GiB this took at most."""
    with processes(1) as pool:
        return pool.submit(_with_peak, work).result()


def _with_peak(work: Callable[[], Any]) -> tuple[Any, float]:
    result = work()
    with contextlib.suppress(OSError):  # Linux, where ru_maxrss is the parent's if that is more
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return result, int(line.split()[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return result, peak / (2**30 if sys.platform == "darwin" else 2**20)


# Meshing


def paper_network(plan: Plan) -> CoordinateNetwork:
    """The paper's network with positional encoding."""
    sizes = {"hidden_features": plan.hidden_features, "hidden_layers": plan.hidden_layers}
    return CoordinateNetwork("pe", **sizes)


def fitted_network(plan: Plan) -> CoordinateNetwork:
    """`paper_network`, fitted for a while to a procedural chair."""
    torch.manual_seed(0)
    network = paper_network(plan)
    samples = sample_sdf(find_body(normalise(make_shape("chairs", 0, 3))), 50_000)
    rows = torch.from_numpy(np.concatenate(samples))
    optimizer = torch.optim.Adam(network.parameters(), 2e-4)
    for _ in range(plan.fit_steps):
        x, y = rows[torch.randint(len(rows), (1024,))].split([3, 1], dim=1)
        optimizer.zero_grad()
        (network(x) - y).abs().mean().backward()
        optimizer.step()
    return network.requires_grad_(False)


def meshed(file: str, plan: Plan, resolution: int) -> dict[str, float]:
    """Seconds to mesh, points evaluated, and vertices; the network comes from a file."""
    network = paper_network(plan).requires_grad_(False)
    network.load_state_dict(torch.load(file, weights_only=True))

    def field(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = network(x)[:, 0]
        return values, values

    grid = SparseGrid(field, resolution, CPU)
    start = time.perf_counter()
    mesh = grid.mesh()
    return {
        "seconds": time.perf_counter() - start,
        "points": len(grid.evaluated.keys),
        "vertices": len(mesh.vertices),
    }


def mesh(plan: Plan) -> list[Row]:
    network, rows = fitted_network(plan), []
    index = torch.randint(0, 256, (POINTS_PER_CALL, 3))

    def dense_call() -> float:
        with torch.no_grad():
            return seconds(lambda: network(grid_coordinates(index, 256)))

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "network.pth"))
        torch.save(network.state_dict(), file)
        for n in plan.resolutions:
            calls = [dense_call() for _ in range(8 * plan.repeats)]
            ours, peak = peak_of(partial(meshed, file, plan, n))
            calls += [dense_call() for _ in range(8 * plan.repeats)]
            dense = statistics.median(calls) * n**3 / POINTS_PER_CALL
            rows.append(
                row(
                    f"mesh, {n}^3",
                    dense,
                    ours["seconds"],
                    "s",
                    note=f"{ours['points'] / n**3:.1%} of the points, {ours['vertices']:,} "
                    f"vertices, {peak:.2f} GiB; dense time extrapolated from {len(calls)} calls "
                    f"of {POINTS_PER_CALL} points",
                    peak_gib=peak,
                )
            )
    return rows


# A step of training


def scene(plan: Plan, tasks: int, samples: int) -> dict[str, Any]:
    """A batch as `planes_relu` has them: half of the samples are context."""
    generator = torch.Generator().manual_seed(0)
    x = 2 * torch.rand(tasks, samples, 3, generator=generator) - 1
    y = x.norm(dim=-1, keepdim=True) - 0.5
    half = samples // 2
    return {"context": (x[:, :half], y[:, :half]), "query": (x, y)}


def paper_model(plan: Plan, **keys: Any) -> Method:
    keys = {"hidden_features": plan.hidden_features, "hidden_layers": plan.hidden_layers, **keys}
    torch.manual_seed(0)
    return build_model(load_curriculum("planes_relu", keys)).train()


def plain_loop(model: Method, batch: Mapping[str, Any]) -> torch.Tensor:
    """Second-order MAML as one would write it down: scene by scene, step by step."""
    total = torch.zeros(())
    for task in range(len(batch["query"][0])):
        (x, y), (query_x, query_y) = (
            [t[task] for t in batch[part]] for part in ("context", "query")
        )
        params = dict(model.network.named_parameters())
        for sizes in model.step_sizes.steps(model.num_steps):
            loss = model.loss.inner(functional_call(model.network, params, (x,)), y)
            gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
            params = {
                name: p - sizes[name] * g
                for (name, p), g in zip(params.items(), gradients, strict=True)
            }
        prediction = functional_call(model.network, params, (query_x,))
        total = total + model.loss.outer(prediction[None], query_y[None], batch["query"][1])
    return total


def demo_curriculum(plan: Plan, **keys: Any) -> dict[str, Any]:
    return load_curriculum("tables_plain", {**dict(plan.keys), **keys})


def demo_model(plan: Plan, **keys: Any) -> Method:
    torch.manual_seed(0)
    return build_model(demo_curriculum(plan, **keys)).train()


def demo_scenes(plan: Plan) -> dict[str, Any]:
    curriculum = demo_curriculum(plan)
    return scene(plan, curriculum["ScenesPerBatch"], curriculum["SDFSamplesPerScene"])


def take_step(
    model: Method,
    batch: Mapping[str, Any],
    scenes_per_microbatch: int | None = None,
    gradients: MetaGradients | None = None,
) -> None:
    """One meta-training step of ours, but for the optimiser's."""
    model.zero_grad()
    accumulate(gradients or MetaGradients(model), batch, scenes_per_microbatch)


def step(plan: Plan) -> list[Row]:
    """Steps of the paper's network and of the demo's, which is small."""
    paper = paper_model(plan), scene(plan, 2, plan.samples // 4), plan.hidden_features
    small = demo_model(plan), demo_scenes(plan), demo_curriculum(plan)["hidden_features"]
    return steps_of(plan, "paper's network", *paper) + steps_of(plan, "demo's network", *small)


def steps_of(
    plan: Plan, what: str, model: Method, batch: Mapping[str, Any], width: int
) -> list[Row]:
    """One meta-training step in each way, beside what its matrix products take alone."""

    def plain() -> None:
        model.zero_grad()
        plain_loop(model, batch).backward()

    x = batch["context"][0]
    points, weight = torch.rand(len(x), x.shape[1], width), torch.rand(len(x), width, width)

    def products() -> None:
        for _ in range(20):
            points @ weight

    with FlopCounterMode(display=False) as counter:
        take_step(model, batch)
    flops = counter.get_total_flops()
    our_step = partial(take_step, model, batch)
    ways = (
        plain,
        our_step,
        partial(our_step, gradients=MetaGradients(model, compiled=True)),
        products,
    )
    loop, ours, compiled, limit = in_turns(plan, *ways)
    rate = 20 * 2 * points.numel() * width / limit
    share = f"{flops / 1e9:.0f} GFLOP of matrix products at the {rate / 1e9:.0f} GFLOP/s of "
    share += f"{len(x)} products of {x.shape[1]} x {width} with {width} x {width}"
    return [
        row(f"{what}: plain loop / all scenes at once", loop, ours, "s"),
        row(f"{what}: not compiled / compiled", ours, compiled, "s"),
        row(f"{what}: plain loop / compiled", loop, compiled, "s"),
        row(f"{what}: matrix products alone / compiled", flops / rate, compiled, "s", note=share),
    ]


def ideas(plan: Plan) -> list[Row]:
    paper = partial(paper_model, plan), scene(plan, 2, plan.samples // 12)
    small = partial(demo_model, plan), demo_scenes(plan)
    return ideas_of(plan, "paper's network", *paper) + ideas_of(plan, "demo's network", *small)


def ideas_of(
    plan: Plan, what: str, build: Callable[..., Method], batch: Mapping[str, Any]
) -> list[Row]:
    """A step with something more to do than ours, or with less than any could do without."""
    model, l1 = build(training_mode="multitask"), build(training_mode="l1")
    x, y = batch["context"]
    asking = {**batch, "context": (x.clone().requires_grad_(), y)}
    network, weights = model.network, meta_parameters(model.network)
    copies = {name: p.detach().expand(len(x), *p.shape).clone() for name, p in weights.items()}

    @torch.no_grad()
    def forward(params: Params | None) -> None:
        for _ in range(10):
            network(x if params else x.flatten(0, 1), params)

    coordinates, ours, simple, apart, together = in_turns(
        plan,
        partial(take_step, model, asking),
        partial(take_step, model, batch),
        partial(take_step, l1, batch),
        partial(forward, copies),
        partial(forward, None),
    )
    return [
        row(f"{what}: with / without gradients of coordinates", coordinates, ours, "s"),
        row(f"{what}: both loss terms / distance term only", ours, simple, "s"),
        row(
            f"{what}: forward pass, per-scene / shared weights",
            apart / 10,
            together / 10,
            "s",
            note=f"{together / 10 / ours:.1%} of a step",
        ),
    ]


def one_step(
    plan: Plan,
    samples: int,
    tasks: int = 1,
    repeats: int = 1,
    scenes_per_microbatch: int | None = None,
    **keys: Any,
) -> float:
    """Median seconds of a meta-training step, in this process; the first of several is left out."""
    model = paper_model(plan, **keys)
    batch = scene(plan, tasks, samples)
    take = partial(take_step, model, batch, scenes_per_microbatch)
    times = [seconds(take) for _ in range(repeats)]
    return statistics.median(times[1:] or times)


def memory(plan: Plan) -> list[Row]:
    _, base = peak_of(partial(one_step, plan, 8))
    found = {}
    for recompute in (False, True):
        work = partial(one_step, plan, plan.samples, repeats=2, recompute_steps=recompute)
        found[recompute] = peak_of(work)
    (plain, kept), (slower, less) = found[False], found[True]
    two = partial(one_step, plan, plan.samples, tasks=2, recompute_steps=True)
    (_, at_once), (_, in_parts) = peak_of(two), peak_of(partial(two, scenes_per_microbatch=1))
    return [
        row(
            f"one scene of {plan.samples} samples: gradient checkpointing off / on",
            kept,
            less,
            "GiB",
            note=f"{base:.2f} GiB for the program itself; {slower / plain:.2f} times the time",
        ),
        row(
            "two such scenes, checkpointed: full batch / micro-batches of one",
            at_once,
            in_parts,
            "GiB",
            note="a batch of 32 also holds one at a time",
        ),
    ]


# Data


def write_files(folder: Path, plan: Plan, files: int) -> list[ShapeName]:
    """As many shapes as the plan says, of which `files` have files of their own."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (plan.rows, 4)).astype(np.float32)
    names = [ShapeName("made", "planes", f"{i:05d}") for i in range(plan.shapes)]
    for i, name in enumerate(names):
        path = name.file(folder, SDF_SAMPLES)
        if i < files:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, pos=np.abs(rows), neg=-np.abs(rows))
        else:
            path.symlink_to(names[i % files].file(folder, SDF_SAMPLES))
    return names


def opened_anew(folder: Path, names: Sequence[ShapeName], count: int) -> dict[str, Any]:
    """A batch, every file opened and read whole for it."""
    contexts, queries = [], []
    for name in names:
        with np.load(name.file(folder, SDF_SAMPLES)) as file:
            halves = [file[part] for part in ("pos", "neg")]
        halves = [torch.from_numpy(rows[~np.isnan(rows).any(axis=1)]) for rows in halves]
        rows = torch.cat([h[torch.randint(len(h), (count // 2,))] for h in halves])
        contexts.append(rows[torch.randperm(len(rows))[: len(rows) // 2]])
        queries.append(rows)
    return {"context": torch.stack(contexts), "query": torch.stack(queries)}


def data(plan: Plan) -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        names = write_files(folder, plan, files=min(64, plan.shapes))
        curriculum = load_curriculum("planes_relu")
        size = curriculum["ScenesPerBatch"]
        count = curriculum["SDFSamplesPerScene"]
        start = seconds(lambda: check_shapes(folder, names, "dense"))
        start = min(start, seconds(lambda: check_shapes(folder, names, "dense")))
        few, _ = check_shapes(folder, names[:64], "dense")
        dataset = SDFDataset(few, curriculum)
        for epoch in range(3):  # every page is touched, as after the first epochs of a training
            dataset.batch(epoch, 0)
        numbers = iter(range(10**6))
        theirs, ours = in_turns(
            plan,
            lambda: opened_anew(folder, names[:size], count),
            lambda: dataset.batch(next(numbers), 0),
        )
        return [
            row(
                f"batch of {size} scenes, {count} samples each",
                theirs,
                ours,
                "s",
                note=f"start-up on {len(names)} shapes: {start:.1f} s",
                startup_seconds=start,
            )
        ]


# Fitting


def adapt(plan: Plan) -> list[Row]:
    with processes(1) as pool:  # which gives the memory back
        return pool.submit(fits, plan).result()


def fits(plan: Plan) -> list[Row]:
    models = {}
    for method in ("metasdf", "autodecoder"):
        torch.manual_seed(0)
        curriculum = load_curriculum(f"compare_{method}")
        models[method] = build_model(curriculum).eval()
    few = 10  # of the auto-decoder's steps: all take the same time
    share = models["autodecoder"].num_steps / few
    rows = []
    for tasks in (1, plan.at_once):
        for count in plan.contexts:
            context = scene(plan, tasks, 2 * count)["context"]
            theirs, ours = in_turns(
                plan if tasks == 1 else replace(plan, repeats=1),
                lambda context=context: models["autodecoder"].adapt(context, few),
                lambda context=context: models["metasdf"].adapt(context),
            )
            shapes = "one shape" if tasks == 1 else f"{tasks} shapes at once"
            what = f"fit {shapes}, {count} points per shape"
            rows.append(row(what, 1e3 * share * theirs / tasks, 1e3 * ours / tasks, "ms"))
    return rows


# Time to quality

RECIPES = {
    "tables_relu_small": "the paper's recipe, ReLU",
    "tables_pe_small": "the paper's recipe, positional encoding",
    "tables_plain": "the demo: SIREN",
    "tables_fast": "tables_fast",
}
FAST = "tables_fast"


def learned(name: str, plan: Plan) -> dict[str, list[float]]:
    """Validation error, in %, after so many processor seconds of training; validating is free."""
    torch.set_num_threads(1)
    curriculum = load_curriculum(name, dict(plan.keys))
    tasks = training_tasks(curriculum)
    model, optimizer = untrained(curriculum, len(tasks.names), CPU)
    times, errors, spent, start = [], [], 0.0, time.process_time()
    for record in outer_loop(
        *(model, optimizer, tasks.train, curriculum), num_epochs=curriculum["num_epochs"]
    ):
        if record.ends_epoch:
            spent += time.process_time() - start
            times.append(spent)
            errors.append(validate(model, tasks.validation, CPU)[1])
            if spent >= plan.learn_seconds:
                break
            start = time.process_time()
    return {"seconds": times, "error": errors}


def quality(plan: Plan) -> dict[str, Any]:
    """Every recipe's curve, and how long it and FAST take to the recipe's last error."""
    with processes() as pool:
        curves = dict(zip(RECIPES, pool.map(partial(learned, plan=plan), RECIPES), strict=True))
    smooth = {name: smoothed(curve["error"]) for name, curve in curves.items()}
    rows = []
    for name in RECIPES:
        if name == FAST:
            continue
        of_recipe, of_fast = smooth[name][-1], smooth[FAST][-1]
        error = max(of_recipe, of_fast)
        theirs, ours = (time_to(error, curves[n]["seconds"], smooth[n]) for n in (name, FAST))
        whose = "its" if error == of_recipe else f"{FAST}'s"
        what = f"{RECIPES[name]}: to {whose} last validation error, {error:.1f} %"
        note = "" if error == of_recipe else f"the recipe ends with less, {of_recipe:.1f} %"
        rows.append(row(what, theirs, ours, "s", note=note))
    return {"rows": rows, "curves": curves}


def smoothed(errors: Sequence[float], width: int = 5) -> list[float]:
    """The median of each error and the ones before it: one lucky validation does not count."""
    return [statistics.median(errors[max(0, i + 1 - width) : i + 1]) for i in range(len(errors))]


def time_to(error: float, times: Sequence[float], errors: Sequence[float]) -> float:
    """The first time at which the error is no larger than that."""
    return next(t for t, e in zip(times, errors, strict=True) if e <= error)


def draw_quality(path: Path, found: Mapping[str, Any]) -> None:
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, curve in found["curves"].items():
        axes.plot(curve["seconds"], curve["error"], label=RECIPES[name])
    axes.set_xlim(0)
    axes.set_ylim(0)
    axes.set_xlabel("seconds of training, one core")
    axes.set_ylabel("misclassified in validation, %")
    axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


# GPU

GPU_WAYS = {  # precision, compiled
    "float32": ("float32", False),
    "TF32": ("tf32", False),
    "bfloat16": ("bfloat16", False),
    "float32, compiled": ("float32", True),
    "TF32, compiled": ("tf32", True),
    "bfloat16, compiled": ("bfloat16", True),
}


def on_gpu(plan: Plan, device: torch.device) -> list[Row]:
    """Every way to compute the gradients of four scenes, beside float32; a whole batch's memory."""
    model = paper_model(plan).to(device)
    batch = to_device(scene(plan, 4, plan.samples), device)
    ways = {how: MetaGradients(model, *chosen) for how, chosen in GPU_WAYS.items()}
    found: dict[str, torch.Tensor] = {}

    def take(how: str) -> None:
        take_step(model, batch, gradients=ways[how])
        synchronize(device)
        found[how] = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    times = in_turns(plan, *[partial(take, how) for how in GPU_WAYS])
    exact = found["float32"]
    rows = []
    for (how, gradient), took in list(zip(found.items(), times, strict=True))[1:]:
        error = ((gradient - exact).norm() / exact.norm()).item()
        note = f"meta-gradient differs by {error:.1e} of its norm"
        rows.append(row(f"meta-training step, {how}", times[0], took, "s", note=note))
    return rows


def whole_batch(plan: Plan, device: torch.device) -> list[Row]:
    """Memory of a whole batch of planes_relu in parts, beside one scene with every step's graph."""
    peaks = []
    for scenes, recompute in ((1, False), (32, True)):
        torch.cuda.reset_peak_memory_stats(device)
        model = paper_model(plan, recompute_steps=recompute).to(device)
        batch = to_device(scene(plan, scenes, plan.samples), device)
        accumulate(MetaGradients(model), batch, 1)
        synchronize(device)
        peaks.append(torch.cuda.max_memory_allocated(device) / 2**30)
    what = "memory: one scene / batch of 32 in micro-batches of one, checkpointed"
    return [row(what, *peaks, "GiB")]


def gpu(plan: Plan) -> list[Row] | None:
    if not torch.cuda.is_available():
        print("gpu: there is none here; what was measured elsewhere is kept")
        return None
    device = torch.device("cuda")
    return on_gpu(plan, device) + whole_batch(plan, device)


# Growth

GROWTH = {
    "points": ("samples of a scene", (1000, 2000, 4000, 8000)),
    "tasks": ("scenes at once", (1, 2, 4, 8)),
    "width": ("width of the network", (64, 128, 256, 512)),
    "steps": ("inner steps", (1, 2, 4, 8)),
}


def growth(plan: Plan) -> dict[str, Any]:
    """Seconds and GiB of a step as one thing grows, the others staying as they are."""
    result: dict[str, Any] = {}
    scale = plan.samples / 24_000
    for name, (label, values) in GROWTH.items():
        result[name] = {"label": label, "values": list(values), "seconds": [], "gib": []}
        for value in values:
            keys = {"hidden_features": value if name == "width" else plan.hidden_features // 4}
            keys["num_meta_steps"] = value if name == "steps" else 3
            samples = round((value if name == "points" else 2000) * scale)
            tasks = value if name == "tasks" else 1
            work = partial(one_step, plan, samples, tasks, 1 + plan.repeats, **keys)
            took, peak = peak_of(work)
            result[name]["seconds"].append(took)
            result[name]["gib"].append(peak)
    return result


def draw_growth(path: Path, found: Mapping[str, Any]) -> None:
    curves = [found[name] for name in GROWTH]
    figure = Figure(figsize=(3.2 * len(curves), 5), layout="constrained")
    FigureCanvasAgg(figure)
    for column, curve in enumerate(curves):
        for line, (key, label) in enumerate((("seconds", "s a step"), ("gib", "GiB at most"))):
            axes = figure.add_subplot(2, len(curves), 1 + column + line * len(curves))
            axes.plot(curve["values"], curve[key], "o-", color="#2f6690")
            axes.set_xlim(0)
            axes.set_ylim(0)
            axes.set_xlabel(curve["label"])
            if column == 0:
                axes.set_ylabel(label)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


# The command


@dataclass(frozen=True)
class Section:
    """A section of the page: how it is measured, and its text."""

    measure: Callable[[Plan], Any]
    heading: str
    text: str
    picture: Callable[[Path, Any], None] | None = None
    columns: tuple[str, str] = ("baseline", "ours")


SECTIONS = {
    "mesh": Section(
        mesh,
        "Meshing",
        "The paper's network with positional encoding (8 x 512), briefly fitted to a procedural "
        "chair, is meshed by evaluating the whole grid, and by evaluating it only where the "
        "surface can be (`metasdf/geometry/sparse_grid.py`). Both give the same mesh, which tests "
        "check.",
    ),
    "step": Section(
        step,
        "Training step",
        "A meta-training step of `planes_relu` with two scenes of a quarter of its samples, and "
        "one of the demo, `tables_plain`, a SIREN of 128 x 3, in three versions: a plain "
        "second-order MAML loop, scene by scene; all scenes at once, as in `metasdf train`; and "
        "compiled (`--compile true`), which fuses the operations between the matrix products. None "
        "of them computes gradients with respect to coordinates. The last row of each network "
        "gives the share of the machine's speed that is reached: the time of the matrix products "
        "alone, at the rate of a product of the same size, over the time of the whole step.",
    ),
    "ideas": Section(
        ideas,
        "What could be left out",
        "What is or could be saved in such a step (for the paper's network: two scenes with a "
        "twelfth of its samples), each compared with the step without it. Gradients of "
        "coordinates: no step computes them. Both loss terms: fusing them could gain no more than "
        "leaving one out. Forward pass: in the first inner step all scenes still share their "
        "weights, which are copied per scene at present.",
        columns=("with", "without"),
    ),
    "memory": Section(
        memory,
        "Memory",
        "Peak memory of a process that takes one meta-training step on one whole scene of "
        "`planes_relu`, with gradient checkpointing (`recompute_steps`) off and on, and on two "
        "scenes with gradient accumulation (`scenes_per_microbatch` 1). The gradients are the "
        "same, which tests check.",
    ),
    "data": Section(
        data,
        "Data",
        "Batches of `planes_relu` from files of half a million samples: opening and reading each "
        "npz file for each batch, and ours, which reads only the rows it draws, in the background "
        "while the previous batch is used. For a GPU, a batch is a copy of 12 MB: keeping half a "
        "million samples per shape there would gain nothing.",
    ),
    "adapt": Section(
        adapt,
        "Fitting a new shape",
        "Milliseconds per shape, for `compare_autodecoder` with its 800 steps (of which 10 are "
        "timed) and `compare_metasdf` with 5. The auto-decoder uses 1024 of the points in each "
        "step, MetaSDF all of them, so MetaSDF's lead shrinks as the number of points grows.",
    ),
    "quality": Section(
        quality,
        "Time to quality",
        "Validation error against training time, on the demo's tables. The paper's recipes have "
        "the original values of `planes_relu` and `planes_pe`, but the demo's network of 128 x 3 "
        "and batches of 8 tables with 1024 samples. `tables_fast` is the demo with twice the step "
        "size, decaying along a cosine over 10 epochs instead of 52. Times are processor time on "
        "one core. The ratio is of the times to reach the recipe's final error or that of "
        "`tables_fast`, whichever is worse; errors are running medians of five validations. The "
        "paper's recipes are cut off long before their last epoch, the demo's before its step size "
        "drops.",
        draw_quality,
    ),
    "gpu": Section(
        gpu,
        "On a GPU",
        "A meta-training step of `planes_relu` with four whole scenes, at other precisions "
        "(`--precision`) and compiled (`--compile true`), compared with uncompiled float32; and "
        "the memory of the batch of 32 scenes with `--scenes_per_microbatch 1 "
        "--recompute_steps true`.",
    ),
    "growth": Section(
        growth,
        "Scaling",
        "Time and peak memory of a meta-training step of the paper's network, at a quarter of its "
        "width and with three inner steps, as one quantity grows at a time. Apart from the "
        "program's own memory, both are proportional to samples, scenes and inner steps; the time "
        "of the matrix products grows with the square of the width.",
        draw_growth,
    ),
}


def tables(found: Mapping[str, Any]) -> str:
    """What was measured as Markdown."""
    lines = [
        "# Speed and memory",
        "",
        "`make bench` measures everything on this page and writes it; each ratio compares two "
        "things measured side by side in one run. Times are medians of several rounds, except for "
        "meshing, whole scenes, 32 shapes at once and training, which take long and are measured "
        "once. All figures are in [results.json](../benchmarks/results.json).",
    ]
    for name, section in SECTIONS.items():
        lines += ["", f"## {section.heading}", "", f"    python -m benchmarks.speed --only {name}"]
        lines += ["", section.text, ""]
        if (of := found["sections"].get(name)) is None:
            lines.append("Not measured yet; the command adds the results.")
            continue
        if section.picture:
            lines += [f"![{section.heading}]({name}.png)", ""]
        if of.get("rows"):
            theirs, ours = section.columns
            lines += [f"| what | {theirs} | {ours} | ratio | |", "|---|---|---|---|---|"]
            lines += [table_row(row) for row in of["rows"]]
        where = of["machine"]
        cores, torch_version = where["cores"], where["torch"]
        gpu_name = f", {where['gpu']}" if "gpu" in where else ""
        lines += ["", f"{where['processor']}, {cores} cores{gpu_name}, PyTorch {torch_version}."]
    return "\n".join(lines) + "\n"


def table_row(row: Row) -> str:
    unit = row["unit"]
    return (
        f"| {row['what']} | {row['theirs']:.3g} {unit} | {row['ours']:.3g} {unit} "
        f"| {row['ratio']:.3g} | {row.get('note', '')} |"
    )


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--results", type=Path, help="default: benchmarks/results.json")
    parser.add_argument("--docs", type=Path, help="default: docs; --quick: both in output/speed")
    options = parser.parse()
    folders = ("output/speed", "output/speed") if options.quick else ("benchmarks", "docs")
    results = options.results or ROOT / folders[0] / "results.json"
    docs = options.docs or ROOT / folders[1]
    if unknown := set(options.only) - SECTIONS.keys():
        raise InputError(f"--only {' '.join(sorted(unknown))}: choose of {', '.join(SECTIONS)}")
    plan = QUICK if options.quick else Plan()
    keep_freed_memory()
    known = read_json(results)["sections"] if results.exists() else {}
    for name in tqdm(options.only, desc="measuring", unit="section", disable=None):
        if (measured := SECTIONS[name].measure(plan)) is None:
            continue
        of_name = {"rows": measured} if isinstance(measured, list) else measured
        known[name] = {**of_name, "machine": machine()}
        write_json(results, {"sections": known})
    found = {"sections": known}
    print(text := tables(found))
    with atomic_path(docs / "performance.md") as path:
        path.write_text(text, encoding="utf-8")
    for name, section in SECTIONS.items():
        if section.picture and name in known:
            section.picture(docs / f"{name}.png", known[name])
    return 0


if __name__ == "__main__":
    run_command(main)
