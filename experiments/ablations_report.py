"""Tables, plots and docs/ablations.md of what ablations.py has measured."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from metasdf.errors import InputError
from metasdf.files import atomic_path, write_json


def sections(results: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts of ablations.md, by the name of their mark."""
    heads = {
        "steps": "K",
        "step_sizes": "`lr_type`",
        "order": "meta-gradient",
        "networks": "network",
        "seeds": "base",
    }
    return {
        "setting": setting_text(results["setting"]),
        **{name: table(head, results["studies"][name]) for name, head in heads.items()},
        "test_steps": test_steps_table(results["test_steps"]),
    }


def setting_text(setting: Mapping[str, Any]) -> str:
    base = setting["base"]
    return (
        f"{setting['training_shapes']} shapes to train on, {setting['validation_shapes']} of the "
        f"training split kept back to choose `init_lr` by, {setting['test_shapes']} test shapes. "
        f"Base: {base['network']}, {base['hidden_layers']} hidden layers of "
        f"{base['hidden_features']}, K = {base['num_meta_steps']}, `{base['lr_type']}` from "
        f"`init_lr` {base['init_lr']:g}, {'first' if base['first_order'] else 'second'} order, "
        f"`{base['training_mode']}` loss. Training: {setting['outer_steps']} outer steps of "
        f"{base['ScenesPerBatch']} shapes with {base['SDFSamplesPerScene']} samples, Adam with "
        f"`lr` {base['lr']:g}, times {base['lr_decay_factor']:g} after epoch "
        f"{base['lr_decay_epochs']} of {base['num_epochs']}. Test: "
        f"{base['reconstruction_sdf_samples'] // 2} samples to adapt to, as many unseen ones to "
        f"judge by; Chamfer distances are of the first {setting['chamfer_shapes']} test shapes, at "
        f"resolution {base['resolution']}. Seconds are the processor's, with reading the data and "
        f"a validation after each tenth. {setting['runs']} runs, "
        f"{setting['training_seconds'] / 60:.0f} minutes of training on one core, PyTorch "
        f"{setting['torch']}."
    )


def table(head: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table; with a column for what was tried where there was a choice."""
    choice = any(len(r["tried"]) > 1 for r in rows)
    columns = [
        head,
        *(["`init_lr` (misclassified in validation, %)"] if choice else []),
        "outer steps",
        "training, s",
        "misclassified, %",
        "± (test shapes)",
        "distance error x 1000",
        "outer loss",
        "Chamfer x 1000",
    ]
    lines = [columns, ["---"] * len(columns)]
    for r in rows:
        cells = [r["label"], *([tried_text(r)] if choice else [])]
        if r["chosen"] is None:
            cells += ["diverged"] + ["-"] * (len(columns) - len(cells) - 1)
        else:
            cells += [
                str(r["outer_steps"]),
                f"{r['seconds']:.0f}",
                f"{r['misclassified']:.2f}",
                number(r["standard_error"], ".2f"),
                number(r["distance_error"], ".2f", 1e3),
                number(r["outer_loss"], ".3f"),
                chamfer_text(r["chamfer_by_shape"]),
            ]
        lines.append(cells)
    return markdown(lines)


def tried_text(r: Mapping[str, Any]) -> str:
    """What was tried, the chosen one in bold."""
    if len(r["tried"]) == 1:
        return "-"
    cells = []
    for t in r["tried"]:
        result = "diverged" if t["error"] else f"{t['validation']['misclassified']:.2f}"
        text = f"{t['changes']['init_lr']:g} ({result})"
        cells.append(f"**{text}**" if t["changes"] == r["chosen"] else text)
    return ", ".join(cells)


def chamfer_text(distances: Sequence[float | None]) -> str:
    found = [d for d in distances if d is not None]
    if not found:
        return "no surface"
    note = "" if len(found) == len(distances) else f" ({len(found)} of {len(distances)})"
    return f"{1e3 * np.mean(found):.2f}{note}"


def test_steps_table(rows: Sequence[Mapping[str, Any]]) -> str:
    return markdown(
        [
            ["steps at test time", *(str(r["steps"]) for r in rows)],
            ["---"] * (len(rows) + 1),
            ["misclassified, %", *(f"{r['misclassified']:.1f}" for r in rows)],
        ]
    )


def number(value: float | None, form: str, factor: float = 1) -> str:
    return "-" if value is None else format(factor * value, form)


def markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


SKELETON = """# What each choice is worth

<!-- setting --><!-- end -->

## Inner steps

![Error by inner steps](ablations/steps.png)

<!-- steps --><!-- end -->

<!-- test_steps --><!-- end -->

## Step sizes

![Error by kind of step sizes](ablations/step_sizes.png)

<!-- step_sizes --><!-- end -->

## First and second order

![Error by outer steps and by seconds](ablations/order.png)

<!-- order --><!-- end -->

## Networks

![Error by network](ablations/networks.png)

<!-- networks --><!-- end -->

## Noise

<!-- seeds --><!-- end -->
"""


def write_document(path: Path, parts: Mapping[str, str]) -> None:
    """Put the generated parts between their marks; what is written around them stays."""
    text = path.read_text(encoding="utf-8") if path.is_file() else SKELETON
    for name, part in parts.items():
        text, count = re.subn(
            rf"(<!-- {name} -->).*?(<!-- end -->)",
            lambda match, part=part: f"{match[1]}\n{part}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
        if count != 1:
            raise InputError(
                f"{path}: wants <!-- {name} --> ... <!-- end --> once; mend or delete the file"
            )
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


# Plots.

BLUE, RED, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#888888"  # Okabe and Ito
ERROR = "unseen samples misclassified, %"


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    figure = Figure((width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for axis in axes:
        axis.grid(True, which="major", color="#dddddd", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def log_percent(axes: Any, which: str, values: Sequence[float]) -> None:
    """Make axis "x" or "y" logarithmic, with plain numbers of per cent, around the values."""
    positive = [value for value in values if value > 0] or [1.0]
    ticks = [1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100]
    axes.set(
        **{f"{which}scale": "log", f"{which}lim": (min(positive) / 1.15, max(positive) * 1.15)}
    )
    axis = getattr(axes, f"{which}axis")
    axis.set_ticks([tick for tick in ticks if min(positive) / 1.15 <= tick <= max(positive) * 1.15])
    axis.set_ticks([], minor=True)
    axis.set_major_formatter(ScalarFormatter())


def save(path: Path, figure: Figure) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def draw(folder: Path, results: Mapping[str, Any]) -> None:
    """All four plots."""
    rows = {
        name: [r for r in study if r["chosen"] is not None]
        for name, study in results["studies"].items()
    }
    seeds = [r["misclassified"] for r in rows["seeds"]]
    trained = results["setting"]["base"]["num_meta_steps"]
    draw_steps(folder / "steps.png", rows["steps"], results["test_steps"], trained, seeds)
    draw_dots(folder / "step_sizes.png", rows["step_sizes"], seeds)
    draw_order(folder / "order.png", rows["order"])
    draw_dots(folder / "networks.png", rows["networks"], seeds)


def draw_steps(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    test_steps: Sequence[Mapping[str, Any]],
    trained: int,
    seeds: Sequence[float],
) -> None:
    figure, (axis,) = new_figure(7, 4.2)
    axis.plot(
        [int(r["label"]) for r in rows],
        [r["misclassified"] for r in rows],
        "o-",
        color=BLUE,
        label="trained and tested with this many steps",
    )
    axis.plot(
        [r["steps"] for r in test_steps],
        [r["misclassified"] for r in test_steps],
        "s--",
        color=RED,
        markersize=4,
        label=f"trained with K = {trained}, tested with this many",
    )
    if len(seeds) > 1:
        axis.plot(
            [trained, trained],
            [min(seeds), max(seeds)],
            "_-",
            color="black",
            markersize=10,
            label=f"K = {trained}: {len(seeds)} seeds, least to most",
        )
    log_percent(axis, "y", [r["misclassified"] for r in (*rows, *test_steps)] + seeds)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("inner steps")
    axis.set_ylabel(ERROR)
    axis.legend(frameon=False)
    save(path, figure)


def draw_dots(path: Path, rows: Sequence[Mapping[str, Any]], seeds: Sequence[float]) -> None:
    """A line per variant: its test shapes, their mean, and the band of the base's seeds."""
    figure, (axis,) = new_figure(7, 1.3 + 0.42 * len(rows))
    if len(seeds) > 1:
        label = f"base, mean of {len(seeds)} seeds: least to most"
        axis.axvspan(min(seeds), max(seeds), color="#cccccc", label=label)
    for index, r in enumerate(rows):
        values, first = r["misclassified_by_shape"], index == 0
        axis.plot(
            *(values, [index] * len(values), "|"),
            color=GREY,
            markersize=9,
            label="one test shape" if first else None,
        )
        axis.plot(
            *(r["misclassified"], index, "o"),
            color=BLUE,
            label="mean" if first else None,
        )
        axis.annotate(
            f"{r['misclassified']:.1f}",
            (r["misclassified"], index),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            color=BLUE,
            fontsize=9,
        )
    labels = [
        f"{r['label']}\ninit_lr {r['chosen']['init_lr']:g}" if len(r["tried"]) > 1 else r["label"]
        for r in rows
    ]
    axis.set_yticks(range(len(rows)), labels)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    log_percent(axis, "x", [value for r in rows for value in r["misclassified_by_shape"]])
    axis.set_xlabel(ERROR)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    save(path, figure)


def draw_order(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    figure, axes = new_figure(9, 4, columns=2)
    for r, style, color in zip(rows, ("o-", "s--", "^:"), (BLUE, RED, GREEN), strict=False):
        errors = [point["misclassified"] for point in r["curve"]]
        for axis, key in zip(axes, ("outer_steps", "seconds"), strict=True):
            label = r["label"] if axis is axes[0] else None
            axis.plot(
                [p[key] for p in r["curve"]], errors, style, color=color, markersize=4, label=label
            )
    log_percent(axes[0], "y", [p["misclassified"] for r in rows for p in r["curve"]])
    axes[0].set_ylabel(ERROR)
    axes[0].set_xlabel("outer steps")
    axes[1].set_xlabel("training, seconds of one core")
    for axis in axes:
        axis.set_xlim(left=0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    save(path, figure)


def write_report(docs: Path, results: Mapping[str, Any]) -> None:
    """`docs`/ablations.md, and its plots and all figures in `docs`/ablations."""
    write_document(docs / "ablations.md", sections(results))
    write_json(docs / "ablations" / "ablations.json", results)
    draw(docs / "ablations", results)
