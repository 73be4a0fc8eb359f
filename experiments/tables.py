"""What the comparisons' results are written with: statistics over seeds, Markdown tables, files."""

import contextlib
import os
import platform
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from metasdf.files import atomic_path, write_json

PAGE_WIDTH = 1300  # of pictures for a page, in pixels


def mean_and_spread(values: Sequence[float]) -> dict[str, float | None] | None:
    """Mean and standard deviation of one value per seed: {"mean", "spread"}.

    The spread of a single value is None, and so is the result for no values.
    """
    if not values:
        return None
    spread = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "spread": spread}


def training_figures(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What the trainings of one method took, over the results of all seeds."""
    return {
        "training_steps": statistics.median(result["steps"] for result in results),
        "training_seconds": statistics.fmean(result["seconds"] for result in results),
        "parameters": results[0]["parameters"],
    }


# Markdown


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, without a newline at its end."""
    lines = [f"| {' | '.join(cells)} |" for cells in (headings, *rows)]
    return "\n".join([lines[0], "|---" * len(headings) + "|", *lines[1:]])


def number_cell(value: float | None, form: str, factor: float = 1) -> str:
    """factor * value, formatted; a dash for None."""
    return "-" if value is None else format(factor * value, form)


def spread_cell(value: Mapping[str, float | None] | None, form: str, factor: float = 1) -> str:
    """`mean ± spread` of a `mean_and_spread`; the mean alone where there was one seed."""
    if value is None:
        return "-"
    numbers = [value["mean"], value["spread"]][: 1 if value["spread"] is None else 2]
    return " ± ".join(number_cell(number, form, factor) for number in numbers)


def count_of_seeds(rows: Iterable[Mapping[str, Any]]) -> str:
    """How many seeds the rows of a table have at the most, in words."""
    seeds = max(row["seeds"] for row in rows)
    return f"{seeds} seed{'s' if seeds > 1 else ''}"


def training_budget(summary: Mapping[str, Any]) -> str:
    """What each run was trained for and on, from a summary's plan and machine."""
    machine = summary["machine"]
    return (
        f"{summary['plan']['seconds']:.0f} s of one core of {machine['processor']}, PyTorch "
        f"{machine['torch']}"
    )


# Files


def write_docs(docs: Path, name: str, summary: Mapping[str, Any], text: str) -> None:
    """Print a comparison's tables; write them to docs/name.md and all figures to docs/name.json."""
    print(text)
    write_json(docs / f"{name}.json", summary)
    with atomic_path(docs / f"{name}.md") as path:
        path.write_text(text, encoding="utf-8")


def machine() -> dict[str, Any]:
    """The machine that was measured on, for the record."""
    result = {"processor": _processor(), "cores": os.cpu_count(), "torch": torch.__version__}
    if torch.cuda.is_available():
        result["gpu"] = torch.cuda.get_device_name()
    return result


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":")[1].strip()
    return platform.processor() or platform.machine()
