"""The tables, the plots and docs/ablations.md of what `experiments.ablations` has measured."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from experiments.tables import markdown_table, number_cell
from metasdf.errors import InputError
from metasdf.files import atomic_path, write_json


def sections(results: Mapping[str, Any]) -> dict[str, str]:
    """The generated parts of ablations.md, by the name of their mark."""
    first_columns = {
        "steps": "K",
        "step_sizes": "`lr_type`",
        "order": "meta-gradient",
        "networks": "network",
        "seeds": "base",
    }
    return {
        "setting": setting_text(results["setting"]),
        **{n: study_table(head, results["studies"][n]) for n, head in first_columns.items()},
        "test_steps": test_steps_table(results["test_steps"]),
    }


def setting_text(setting: Mapping[str, Any]) -> str:
    """The paragraph on data, base, training and test."""
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
        f"{base['reconstruction_sdf_samples'] // 2} samples to adapt to, as many held-out ones to "
        f"judge by; Chamfer distances are of the first {setting['chamfer_shapes']} test shapes, at "
        f"resolution {base['resolution']}. Seconds are the processor's, with reading the data and "
        f"a validation after each tenth. {setting['runs']} runs, "
        f"{setting['training_seconds'] / 60:.0f} minutes of training on one core, PyTorch "
        f"{setting['torch']}."
    )


def study_table(first_column: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """A study's rows; with a column for the candidates where a variant had several."""
    choice = any(len(row["tried"]) > 1 for row in rows)
    headings = [
        first_column,
        *(["`init_lr` (misclassified in validation, %)"] if choice else []),
        "outer steps",
        "training, s",
        "misclassified, %",
        "± (test shapes)",
        "distance error x 1000",
        "outer loss",
        "Chamfer x 1000",
    ]
    lines = []
    for row in rows:
        cells = [row["label"], *([candidates_text(row)] if choice else [])]
        if row["chosen"] is None:
            cells += ["diverged"] + ["-"] * (len(headings) - len(cells) - 1)
        else:
            cells += [
                str(row["outer_steps"]),
                f"{row['seconds']:.0f}",
                f"{row['misclassified']:.2f}",
                number_cell(row["standard_error"], ".2f"),
                number_cell(row["distance_error"], ".2f", 1e3),
                number_cell(row["outer_loss"], ".3f"),
                chamfer_text(row["chamfer_by_shape"]),
            ]
        lines.append(cells)
    return markdown_table(headings, lines)


def candidates_text(row: Mapping[str, Any]) -> str:
    """The candidates with their validation errors, the chosen one in bold; a dash for one."""
    if len(row["tried"]) == 1:
        return "-"
    cells = []
    for candidate in row["tried"]:
        validation = candidate["validation"]
        result = "diverged" if candidate["error"] else f"{validation['misclassified']:.2f}"
        text = f"{candidate['changes']['init_lr']:g} ({result})"
        cells.append(f"**{text}**" if candidate["changes"] == row["chosen"] else text)
    return ", ".join(cells)


def chamfer_text(distances: Sequence[float | None]) -> str:
    """Mean Chamfer distance x 1000 of the shapes that have a surface."""
    measured = [distance for distance in distances if distance is not None]
    if not measured:
        return "no surface"
    note = "" if len(measured) == len(distances) else f" ({len(measured)} of {len(distances)})"
    return f"{1e3 * np.mean(measured):.2f}{note}"


def test_steps_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The base's error by the number of steps at test time."""
    headings = ["steps at test time", *(str(row["steps"]) for row in rows)]
    errors = ["misclassified, %", *(f"{row['misclassified']:.1f}" for row in rows)]
    return markdown_table(headings, [errors])


SKELETON = """# Ablations

<!-- setting --><!-- end -->

## Inner steps

![Error by inner steps](ablations/steps.png)

<!-- steps --><!-- end -->

<!-- test_steps --><!-- end -->

## Step sizes

![Error by type of step sizes](ablations/step_sizes.png)

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
    """Put the generated parts between their marks; what is written around them stays.

    Raises:
        InputError: a mark is missing, or is there more than once.
    """
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


# Plots

BLUE, RED, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#888888"  # Okabe and Ito
ERROR_LABEL = "held-out samples misclassified, %"


def new_figure(width: float, height: float, columns: int = 1) -> tuple[Figure, Any]:
    """A figure of so many inches, and its axes side by side, with a shared y axis."""
    figure = Figure((width, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    for axis in axes:
        axis.grid(True, which="major", color="#dddddd", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def log_percent(axes: Any, which: str, values: Sequence[float]) -> None:
    """Make the axis `which`, "x" or "y", logarithmic around the values, with ticks in per cent."""
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
    """Write a figure as PNG."""
    with atomic_path(path) as temporary:
        figure.savefig(temporary)


def draw(folder: Path, results: Mapping[str, Any]) -> None:
    """Draw all four plots into a folder."""
    rows = {
        name: [row for row in study if row["chosen"] is not None]
        for name, study in results["studies"].items()
    }
    seeds = [row["misclassified"] for row in rows["seeds"]]
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
    """Error by inner steps: of models trained with so many, and of one tested with so many."""
    figure, (axis,) = new_figure(7, 4.2)
    axis.plot(
        [int(row["label"]) for row in rows],
        [row["misclassified"] for row in rows],
        "o-",
        color=BLUE,
        label="trained and tested with this many steps",
    )
    axis.plot(
        [row["steps"] for row in test_steps],
        [row["misclassified"] for row in test_steps],
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
            label=f"K = {trained}: {len(seeds)} seeds, best to worst",
        )
    log_percent(axis, "y", [row["misclassified"] for row in (*rows, *test_steps)] + seeds)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.set_xlabel("inner steps")
    axis.set_ylabel(ERROR_LABEL)
    axis.legend(frameon=False)
    save(path, figure)


def draw_dots(path: Path, rows: Sequence[Mapping[str, Any]], seeds: Sequence[float]) -> None:
    """A line for each variant: its test shapes, their mean, and the range of the base's seeds."""
    figure, (axis,) = new_figure(7, 1.3 + 0.42 * len(rows))
    if len(seeds) > 1:
        label = f"base, {len(seeds)} seeds: best to worst"
        axis.axvspan(min(seeds), max(seeds), color="#cccccc", label=label)
    for index, row in enumerate(rows):
        values, first = row["misclassified_by_shape"], index == 0
        axis.plot(
            *(values, [index] * len(values), "|"),
            color=GREY,
            markersize=9,
            label="one test shape" if first else None,
        )
        axis.plot(
            *(row["misclassified"], index, "o"),
            color=BLUE,
            label="mean" if first else None,
        )
        axis.annotate(
            f"{row['misclassified']:.1f}",
            (row["misclassified"], index),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            color=BLUE,
            fontsize=9,
        )
    labels = [
        f"{row['label']}\ninit_lr {row['chosen']['init_lr']:g}"
        if len(row["tried"]) > 1
        else row["label"]
        for row in rows
    ]
    axis.set_yticks(range(len(rows)), labels)
    axis.set_ylim(len(rows) - 0.4, -0.6)
    log_percent(axis, "x", [value for row in rows for value in row["misclassified_by_shape"]])
    axis.set_xlabel(ERROR_LABEL)
    figure.legend(loc="outside upper right", ncols=3, frameon=False, fontsize=9)
    save(path, figure)


def draw_order(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Error of each variant by outer steps, and by seconds."""
    figure, axes = new_figure(9, 4, columns=2)
    for row, style, color in zip(rows, ("o-", "s--", "^:"), (BLUE, RED, GREEN), strict=False):
        errors = [point["misclassified"] for point in row["curve"]]
        for axis, key in zip(axes, ("outer_steps", "seconds"), strict=True):
            label = row["label"] if axis is axes[0] else None
            axis.plot(
                [p[key] for p in row["curve"]],
                errors,
                style,
                color=color,
                markersize=4,
                label=label,
            )
    log_percent(axes[0], "y", [p["misclassified"] for row in rows for p in row["curve"]])
    axes[0].set_ylabel(ERROR_LABEL)
    axes[0].set_xlabel("outer steps")
    axes[1].set_xlabel("training, seconds of one core")
    for axis in axes:
        axis.set_xlim(left=0)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    save(path, figure)


def write_report(docs: Path, results: Mapping[str, Any]) -> None:
    """Write docs/ablations.md, and its plots and all figures to docs/ablations."""
    write_document(docs / "ablations.md", sections(results))
    write_json(docs / "ablations" / "ablations.json", results)
    draw(docs / "ablations", results)
