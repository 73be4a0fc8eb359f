"""How fast, in how much memory: speed.py [--quick] [--only SECTION ...]

Every row is a ratio of two things measured side by side in this run: ours, and the dense method,
the plain loop or what the machine can do at most. Sections:

    mesh     meshing the paper's network: whole grid / only where the surface can be
    step     one meta-training step: a plain second-order loop / ours; share of the machine's rate
    memory   one scene of planes_relu: keeping all graphs / recomputing inner steps
    data     batches of planes_relu: opening npz files anew / ours; start-up
    adapt    fitting a shape from 1,000 to 50,000 points: auto-decoder / MetaSDF
    growth   time and memory of a step against points, scenes, width and inner steps

Writes DOCS/performance.json with all figures, DOCS/performance.md with the tables, and
DOCS/growth.png. What has been measured before and is not asked for with --only is kept.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))

import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from timed import machine, write_docs
from torch.func import functional_call
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from metasdf.checkpoint import build_model
from metasdf.curriculum import CommandLine, load_curriculum
from metasdf.data import SDFDataset, ShapeName, check_shapes
from metasdf.errors import InputError, run_command
from metasdf.files import atomic_path, read_json
from metasdf.mesh import normalise
from metasdf.meshing import POINTS_PER_CALL, SparseLattice, lattice_points
from metasdf.method import Method
from metasdf.networks import CoordinateNetwork
from metasdf.sdf import find_body, sample_sdf
from metasdf.shapes import make_shape
from metasdf.training import losses

ROOT = Path(__file__).resolve().parents[1]
CURRICULUMS = ROOT / "3D" / "curriculums.py"
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


QUICK = Plan(1, (48,), 500, 32, 2, 400, 2000, 50, (200, 400), 2)

Row = dict[str, Any]


def row(what: str, theirs: float, ours: float, unit: str, **more: Any) -> Row:
    """One line of a table: what it took the other way and ours, and the ratio."""
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
    """Median seconds of each, taking turns, after one turn that is not counted."""
    times = [[seconds(work) for work in works] for _ in range(plan.repeats + 1)]
    return [statistics.median(of) for of in zip(*times[1:] or times, strict=True)]


def peak_of(work: Callable[[], Any]) -> tuple[Any, float]:
    """What `work` returns in a process of its own, and how many GiB this took at most."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_with_peak, work).result()


def _with_peak(work: Callable[[], Any]) -> tuple[Any, float]:
    result = work()
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

    lattice = SparseLattice(field, resolution, CPU)
    start = time.perf_counter()
    mesh = lattice.mesh()
    return {
        "seconds": time.perf_counter() - start,
        "points": len(lattice.keys),
        "vertices": len(mesh.vertices),
    }


def mesh(plan: Plan) -> list[Row]:
    network, rows = fitted_network(plan), []
    index = torch.randint(0, 256, (POINTS_PER_CALL, 3))

    def dense_call() -> float:
        with torch.no_grad():
            return seconds(lambda: network(lattice_points(index, 256)))

    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "network.pth"))
        torch.save(network.state_dict(), file)
        for n in plan.resolutions:
            calls = [dense_call() for _ in range(16 * plan.repeats)]
            ours, peak = peak_of(partial(meshed, file, plan, n))
            calls += [dense_call() for _ in range(16 * plan.repeats)]
            dense = statistics.median(calls) * n**3 / POINTS_PER_CALL
            rows.append(
                row(
                    f"mesh, {n}^3",
                    dense,
                    ours["seconds"],
                    "s",
                    note=f"{ours['points'] / n**3:.1%} of the points, {ours['vertices']:,} "
                    f"vertices, {peak:.2f} GiB; the dense time is that of {len(calls)} calls of "
                    f"{POINTS_PER_CALL} points, scaled up",
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
    return build_model(load_curriculum(CURRICULUMS, "planes_relu", keys)).train()


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


def step(plan: Plan) -> list[Row]:
    batch = scene(plan, 2, plan.samples // 4)
    model, width = paper_model(plan), plan.hidden_features
    points = torch.rand(batch["context"][0].shape[1], width)
    weight = torch.rand(width, width)

    def matmul() -> None:
        for _ in range(20):
            points @ weight

    def ours() -> None:
        model.zero_grad()
        losses(model, batch, None, backward=True)

    def plain() -> None:
        model.zero_grad()
        plain_loop(model, batch).backward()

    with FlopCounterMode(display=False) as counter:
        ours()
    flops = counter.get_total_flops()
    theirs, took, limit = in_turns(plan, plain, ours, matmul)
    rate = 20 * 2 * len(points) * width**2 / limit
    return [
        row("meta-training step, plain loop", theirs, took, "s"),
        row(
            "meta-training step, share of the machine's rate",
            flops / rate,
            took,
            "s",
            note=f"{flops / 1e9:.0f} GFLOP of matrix products at the {rate / 1e9:.0f} GFLOP/s of a "
            f"product of {len(points)} x {width} with {width} x {width}",
        ),
    ]


def one_step(plan: Plan, samples: int, tasks: int = 1, **keys: Any) -> float:
    """Seconds of a meta-training step, in this process."""
    model = paper_model(plan, **keys)
    batch = scene(plan, tasks, samples)
    return seconds(lambda: losses(model, batch, keys.get("scenes_per_microbatch"), backward=True))


def memory(plan: Plan) -> list[Row]:
    _, base = peak_of(partial(one_step, plan, 8))
    found = {}
    for recompute in (False, True):
        found[recompute] = peak_of(partial(one_step, plan, plan.samples, recompute_steps=recompute))
    (plain, kept), (slower, less) = found[False], found[True]
    return [
        row(
            f"one scene of {plan.samples} samples: inner steps recomputed",
            kept,
            less,
            "GiB",
            note=f"the program itself takes {base:.2f} GiB; {slower / plain:.2f} times the time",
        )
    ]


# Data


def write_files(folder: Path, plan: Plan, files: int) -> list[ShapeName]:
    """As many shapes as the plan says, of which `files` have files of their own."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (plan.rows, 4)).astype(np.float32)
    names = [ShapeName("made", "planes", f"{i:05d}") for i in range(plan.shapes)]
    for i, name in enumerate(names):
        path = name.file(folder, "SdfSamples", ".npz")
        if i < files:
            path.parent.mkdir(parents=True, exist_ok=True)
            np.savez(path, pos=np.abs(rows), neg=-np.abs(rows))
        else:
            path.symlink_to(names[i % files].file(folder, "SdfSamples", ".npz"))
    return names


def opened_anew(folder: Path, names: Sequence[ShapeName], count: int) -> dict[str, Any]:
    """A batch, every file opened and read whole for it."""
    contexts, queries = [], []
    for name in names:
        with np.load(name.file(folder, "SdfSamples", ".npz")) as file:
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
        curriculum = load_curriculum(CURRICULUMS, "planes_relu")
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
    models = {}
    for method in ("metasdf", "autodecoder"):
        torch.manual_seed(0)
        curriculum = load_curriculum(CURRICULUMS, f"compare_{method}")
        models[method] = build_model(curriculum).eval()
    few = 20  # of the auto-decoder's steps: all take the same time
    share = models["autodecoder"].num_steps / few
    rows = []
    for tasks in (1, plan.at_once):
        for count in plan.contexts:
            context = scene(plan, tasks, 2 * count)["context"]
            theirs, ours = in_turns(
                plan,
                lambda context=context: models["autodecoder"].adapt(context, few),
                lambda context=context: models["metasdf"].adapt(context),
            )
            shapes = "one shape" if tasks == 1 else f"{tasks} shapes at once"
            what = f"fit {shapes}, {count} points, a shape"
            rows.append(row(what, 1e3 * share * theirs / tasks, 1e3 * ours / tasks, "ms"))
    return rows


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
            work = partial(one_step, plan, samples, tasks, **keys)
            took, peak = peak_of(work)
            result[name]["seconds"].append(took)
            result[name]["gib"].append(peak)
    return result


def draw_growth(path: Path, found: Mapping[str, Any]) -> None:
    figure = Figure(figsize=(3.2 * len(found), 5), layout="constrained")
    FigureCanvasAgg(figure)
    for column, curve in enumerate(found.values()):
        for line, (key, label) in enumerate((("seconds", "s a step"), ("gib", "GiB at most"))):
            axes = figure.add_subplot(2, len(found), 1 + column + line * len(found))
            axes.plot(curve["values"], curve[key], "o-", color="#2f6690")
            axes.set_xlim(0)
            axes.set_ylim(0)
            axes.set_xlabel(curve["label"])
            if column == 0:
                axes.set_ylabel(label)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)


# The command

SECTIONS = {
    "mesh": mesh,
    "step": step,
    "memory": memory,
    "data": data,
    "adapt": adapt,
    "growth": growth,
}


def tables(found: Mapping[str, Any]) -> str:
    """The rows as Markdown."""
    lines = ["| what | the other way | ours | ratio | |", "|---|---|---|---|---|"]
    for name in SECTIONS:
        for line in found["sections"].get(name, []) if name != "growth" else []:
            lines.append(
                f"| {line['what']} | {line['theirs']:.3g} {line['unit']} | {line['ours']:.3g} "
                f"{line['unit']} | {line['ratio']:.3g} | {line.get('note', '')} |"
            )
    of = found["machine"]
    lines += ["", f"{of['processor']}, {of['cores']} cores, PyTorch {of['torch']}; no GPU."]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--docs", default=ROOT / "output" / "speed", type=Path)
    options = parser.parse()
    if unknown := set(options.only) - SECTIONS.keys():
        raise InputError(f"--only {' '.join(sorted(unknown))}: choose of {', '.join(SECTIONS)}")
    plan, docs = (QUICK if options.quick else Plan()), options.docs
    file = docs / "performance.json"
    known = read_json(file)["sections"] if file.exists() and not options.quick else {}
    for name in tqdm(options.only, desc="measuring", unit="section", disable=None):
        known[name] = SECTIONS[name](plan)
    found = {"machine": machine(), "sections": known}
    write_docs(docs, "performance", found, tables(found))
    if "growth" in known:
        draw_growth(docs / "growth.png", known["growth"])
    return 0


if __name__ == "__main__":
    run_command(main)
