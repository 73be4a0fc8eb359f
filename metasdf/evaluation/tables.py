"""The results of an evaluation: statistics, headline numbers, a table, JSON and CSV files."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from metasdf.evaluation.measures import F_SCORE_THRESHOLD, IOU_POINTS
from metasdf.files import atomic_path, write_json

CONVENTION = (
    "Chamfer: sum of both mean squared nearest distances, 30000 points each, original frame"
)
DEFINITIONS = {
    "chamfer_l1": "mean of both mean nearest distances, same points, normalised frame",
    "f_score": f"share of points within {F_SCORE_THRESHOLD} of the other surface's, harmonic mean "
    "of both directions, normalised frame",
    "f_score_ceiling": "what the truth scores against a second sample of itself",
    "normal_consistency": "mean |cos| of the normals of nearest points, mean of both directions; "
    "needs the true mesh",
    "iou": f"volume of intersection over union, from {IOU_POINTS} uniform points in [-1, 1]^3; "
    "needs the true mesh, and both watertight",
}
COLUMNS = {  # of the table: measure, then its heading and the factor that it is printed with
    "chamfer": ("Chamfer", 1e3),
    "floor": ("floor", 1e3),
    "nearest_training_chamfer": ("nearest", 1e3),
    "initialisation_chamfer": ("init", 1e3),
    "chamfer_l1": ("Chamfer-L1", 1e3),
    "f_score": ("F-score", 1),
    "f_score_ceiling": ("ceiling", 1),
    "normal_consistency": ("normals", 1),
    "iou": ("IoU", 1),
}
WORST = 5  # shapes named as the worst


def statistics(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, median and (population) standard deviation; None without values."""
    if not values:
        return None
    return {
        "mean": float(np.mean(values)),
        "median": float(np.median(values)),
        "std": float(np.std(values)),
    }


def worst_first(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The measured shapes by Chamfer distance, the largest first."""
    return sorted((row for row in rows if not row["error"]), key=lambda row: -row["chamfer"])


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Statistics of every measure over the shapes that have it, and the shapes themselves.

    rows: one for each shape: "shape", "error" (None if measured), "chamfer" and other measures.
    """
    measures = (
        "chamfer",
        "floor",
        "initialisation_chamfer",
        "nearest_training_chamfer",
        *DEFINITIONS,
        "misclassified_percentage",
        "adapt_seconds",
    )
    return {
        "convention": CONVENTION,
        "definitions": DEFINITIONS,
        "worst": [row["shape"] for row in worst_first(rows)[:WORST]],
        "num_shapes": len(rows),
        "num_failed": sum(1 for row in rows if row["error"]),
        **{m: statistics([r[m] for r in rows if r.get(m) is not None]) for m in measures},
        "shapes": list(rows),
    }


def metrics(result: Mapping[str, Any]) -> dict[str, Any]:
    """The headline numbers of `summarise`, as one flat object; None where nothing was measured."""

    def mean(measure: str) -> float | None:
        return result[measure] and result[measure]["mean"]

    return {
        "chamfer_mean": mean("chamfer"),
        "chamfer_median": result["chamfer"] and result["chamfer"]["median"],
        "chamfer_floor": mean("floor"),
        "chamfer_nearest_training_shape": mean("nearest_training_chamfer"),
        "chamfer_initialisation": mean("initialisation_chamfer"),
        **{measure: mean(measure) for measure in DEFINITIONS},
        "misclassified_percentage": mean("misclassified_percentage"),
        "adapt_seconds_per_shape": mean("adapt_seconds"),
        "num_shapes": result["num_shapes"],
        "num_failed": result["num_failed"],
        "convention": result["convention"],
    }


def table(result: Mapping[str, Any]) -> str:
    """The results as text: a line for each shape, the worst first, then the statistics."""
    rows = worst_first(result["shapes"])
    width = max([len(row["shape"]) for row in rows] + [len("standard deviation")])

    def line(name: str, values: Sequence[float | None]) -> str:
        cells = [
            "-" if value is None else f"{factor * value:.3f}"
            for value, (_, factor) in zip(values, COLUMNS.values(), strict=True)
        ]
        return f"{name:<{width}}" + "".join(f"{cell:>12}" for cell in cells)

    lines = [
        f"{result['convention']}; here x 1e3",
        f"{'shape':<{width}}" + "".join(f"{head:>12}" for head, _ in COLUMNS.values()),
    ]
    lines += [line(row["shape"], [row.get(c) for c in COLUMNS]) for row in rows]
    lines.append("-" * len(lines[1]))
    for label, key in (("mean", "mean"), ("median", "median"), ("standard deviation", "std")):
        lines.append(line(label, [result[c] and result[c][key] for c in COLUMNS]))
    lines += [f"{COLUMNS[name][0]}: {text}" for name, text in result["definitions"].items()]
    lines.append("Chamfer-L1 is printed x 1e3; the other measures but Chamfer lie between 0 and 1")
    if rows:
        lines.append(f"worst by Chamfer: {', '.join(result['worst'])}")
    lines.append(
        f"{len(rows)} of {result['num_shapes']} shapes measured, {result['num_failed']} failed"
    )
    return "\n".join(lines)


def write_results(folder: str | os.PathLike, result: Mapping[str, Any]) -> None:
    """Write evaluation.json, and evaluation.csv with a row for each shape, into `folder`."""
    folder = Path(folder)
    write_json(folder / "evaluation.json", result)
    columns = list(dict.fromkeys(key for row in result["shapes"] for key in row))
    with atomic_path(folder / "evaluation.csv") as path, open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(result["shapes"])
