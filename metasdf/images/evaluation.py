"""How well 2D fields are fitted: digits, digits unlike those of training, photographs.

Each test image is fitted to its context and measured at its query. The query is the pixels outside
of the context or, of photographs, whose curriculums say `query: all`, all pixels.
"""

import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from metasdf.data.tasks import collate, to_device
from metasdf.evaluation.gallery import write_grid
from metasdf.evaluation.tables import statistics
from metasdf.images.pictures import adaptation_row, shown_steps
from metasdf.images.tasks import PARTS, ImageDataset, load_images
from metasdf.losses import psnr
from metasdf.method import Method
from metasdf.reconstruction.fitting import fit

TEST = 2  # stream of random numbers, after those of training and validation
IMAGES_AT_ONCE = 16
TIMED_IMAGES = 5
WORST = 5  # images named as the worst
COLUMNS = {  # of the table: measure, then its heading, factor and decimals
    "absolute_error": ("error, pixels", 1, 3),
    "squared_error": ("squared, x 1e4", 1e4, 3),
    "iou": ("IoU", 1, 4),
    "misclassified_percentage": ("misclassified, %", 1, 2),
    "psnr": ("PSNR, dB", 1, 2),
}
DEFINITIONS = {
    "absolute_error": "mean |f - s| at the query's pixels, in pixels",
    "squared_error": "mean (f - s)^2 there, in squared widths of the image",
    "iou": "area of intersection over union, at the query's pixels",
    "misclassified_percentage": "share of the query's pixels on the wrong side, %",
    "psnr": "10 log10(4 / mean squared error) of colours in [-1, 1], mean over images, dB",
}


def test_data(curriculum: Mapping[str, Any], part: str) -> tuple[ImageDataset, int]:
    """The test images of a part, with all of their pixels, and how many could not be used.

    part: "test" or, of digits, another of PARTS. Errors: `load_images`.
    """
    images, left_out = load_images(curriculum, part)
    whole = {**curriculum, "pixels": None, "query_pixels": None, "images_per_epoch": None}
    return ImageDataset(images, whole, TEST), left_out


Parts = Mapping[str, tuple[ImageDataset, int]]


def test_parts(curriculum: Mapping[str, Any]) -> Parts:
    """`test_data` of every part: the test images and, of digits, the other PARTS."""
    parts = PARTS if curriculum["data"] == "digits" else ("test",)
    return {part: test_data(curriculum, part) for part in parts}


def errors(
    model: Method, prediction: Tensor, target: Tensor, pixels: int
) -> dict[str, list[float]]:
    """Every measure of DEFINITIONS that applies, T numbers each.

    Args:
        prediction: network outputs at the query [T, N, c].
        target: distances [T, N, 1] or colours [T, N, 3] there.
        pixels: of an image, along a side.
    """
    if target.shape[-1] == 3:
        pairs = zip(prediction, target, strict=True)
        return {"psnr": [psnr(p[None], t[None]).item() for p, t in pairs]}
    distance = model.loss.signed_distance(prediction)
    difference = distance - target
    inside, truly_inside = distance < 0, target < 0
    intersection = (inside & truly_inside).sum((1, 2))
    union = (inside | truly_inside).sum((1, 2))
    return {
        "absolute_error": (pixels * difference.abs().mean((1, 2))).tolist(),
        "squared_error": difference.square().mean((1, 2)).tolist(),
        "iou": (intersection / union.clamp(min=1)).tolist(),
        "misclassified_percentage": (100 * (inside != truly_inside).float().mean((1, 2))).tolist(),
    }


def evaluate(
    model: Method,
    curriculum: Mapping[str, Any],
    device: torch.device,
    steps: int | None = None,
    test: Parts | None = None,
) -> dict[str, Any]:
    """Fit and measure the test images of a complete 2D curriculum.

    Args:
        steps: of each fit; None: as in training (an auto-decoder: code_steps).
        test: the images; None: `test_parts` loads them.

    Returns:
        "parts": statistics by part and measure; "shapes": a row for each image; "fit_seconds":
        median time to fit one image alone; "psnr_by_step": of photographs, the means; the
        "definitions" of the measures, "num_shapes", "num_failed" and "worst".

    Raises:
        InputError: the images cannot be loaded.
    """
    model.eval()
    rows: list[dict[str, Any]] = []
    parts: dict[str, Any] = {}
    num_failed = 0
    test = test or test_parts(curriculum)
    for part, (data, unusable) in test.items():
        num_failed += unusable
        part_rows = measure_part(model, data, device, steps, part)
        parts[part] = {
            name: statistics([row[name] for row in part_rows])
            for name in DEFINITIONS
            if name in part_rows[0]
        }
        rows += part_rows
    by_step = None
    if "psnr" in parts["test"]:
        worst = sorted(rows, key=lambda row: row["psnr"])
        before = psnr_before_last(model, test["test"][0], device, steps)
        by_step = [*before, parts["test"]["psnr"]["mean"]]
    else:
        worst = sorted(rows, key=lambda row: -row["absolute_error"])
    return {
        "definitions": {name: DEFINITIONS[name] for name in parts["test"]},
        "num_shapes": len(rows) + num_failed,
        "num_failed": num_failed,
        "parts": parts,
        "fit_seconds": time_fit(model, test["test"][0], device, steps),
        "psnr_by_step": by_step,
        "worst": [row["shape"] for row in worst[:WORST]],
        "shapes": rows,
    }


def measure_part(
    model: Method, data: ImageDataset, device: torch.device, steps: int | None, part: str
) -> list[dict[str, Any]]:
    """A row for every image of a part: "shape", "part" and its `errors`."""
    rows: list[dict[str, Any]] = []
    starts = range(0, data.length, IMAGES_AT_ONCE)
    with tqdm(total=data.length, desc=f"measuring: {part}", unit="image", disable=None) as progress:
        for start in starts:
            index = range(start, min(start + IMAGES_AT_ONCE, data.length))
            batch = to_device(collate([data.task(i, 0) for i in index]), device)
            query_x, query_y = batch["query"]
            with torch.no_grad():
                prediction = model.predict(query_x, model.adapt(batch["context"], steps))
                measured = errors(model, prediction, query_y, data.images.shape[1])
            for task, i in enumerate(index):
                values = {name: numbers[task] for name, numbers in measured.items()}
                rows.append({"shape": f"{part}/{i}", "part": part, **values})
            progress.update(len(index))
    return rows


def time_fit(model: Method, data: ImageDataset, device: torch.device, steps: int | None) -> float:
    """Median seconds to fit one image, over TIMED_IMAGES images after a warm-up."""
    seconds = []
    for i in [0, *range(min(TIMED_IMAGES, data.length))]:
        task = to_device(collate([data.task(i, 0)]), device)
        seconds.append(fit(model, task["context"], steps, device)[1])
    return float(np.median(seconds[1:]))


@torch.no_grad()
def psnr_before_last(
    model: Method, data: ImageDataset, device: torch.device, steps: int | None
) -> list[float]:
    """Mean PSNR of the images, in dB, after each of `shown_steps` but the last."""
    return [
        float(np.mean([row["psnr"] for row in measure_part(model, data, device, k, f"step {k}")]))
        for k in shown_steps(model, steps)[:-1]
    ]


def write_image_gallery(
    path: str | os.PathLike,
    model: Method,
    test: Parts,
    device: torch.device,
    steps: int | None = None,
    images: int = 3,
) -> None:
    """Draw the first `images` images of every part into a PNG file, see `adaptation_row`."""
    rows = []
    for part, (data, _) in test.items():
        index = range(min(images, data.length))
        rows += [adaptation_row(model, data, i, device, f"{part} {i}", steps) for i in index]
    write_grid(path, rows)


def table(result: Mapping[str, Any]) -> str:
    """The results as text: a line for each part."""
    measures = list(result["definitions"])
    lines = [
        f"{'':<12}" + "".join(f"{COLUMNS[m][0]:>26}" for m in measures),
        f"{'':<12}" + f"{'mean (median) ± std':>26}" * len(measures),
    ]
    for part, values in result["parts"].items():
        cells = []
        for m in measures:
            _, factor, digits = COLUMNS[m]
            mean, median, std = (factor * values[m][key] for key in ("mean", "median", "std"))
            cells.append(f"{mean:.{digits}f} ({median:.{digits}f}) ± {std:.{digits}f}")
        lines.append(f"{part:<12}" + "".join(f"{c:>26}" for c in cells))
    if by_step := result["psnr_by_step"]:
        lines.append("PSNR by step: " + ", ".join(f"{value:.2f}" for value in by_step) + " dB")
    lines += [f"{COLUMNS[name][0]}: {text}" for name, text in result["definitions"].items()]
    lines.append(f"{1e3 * result['fit_seconds']:.1f} ms to fit one image (median)")
    lines.append(f"worst: {', '.join(result['worst'])}")
    measured = result["num_shapes"] - result["num_failed"]
    lines.append(
        f"{measured} of {result['num_shapes']} images measured, {result['num_failed']} failed"
    )
    return "\n".join(lines)
