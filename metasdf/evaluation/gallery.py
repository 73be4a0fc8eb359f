"""Pictures of an evaluated folder: truth beside reconstruction, and one adaptation step by step."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from metasdf.data.names import ShapeName
from metasdf.data.samples import Samples
from metasdf.errors import InputError
from metasdf.evaluation.evaluate import true_mesh
from metasdf.files import atomic_path, read_json
from metasdf.geometry.drawing import UNIT_BALL, render, render_points
from metasdf.geometry.mesh_files import load_mesh
from metasdf.reconstruction.split import RECORD

PIXELS = 320  # width and height of one picture
TRUTH_COLOUR = (0.62, 0.62, 0.60)
LABEL_PIXELS = 24  # height of the line above it
BLANK = np.full((PIXELS, PIXELS, 3), 255, np.uint8)


def truth_picture(data_source: str, shape: ShapeName) -> np.ndarray:
    """The true shape: its mesh where `.datasources.json` leads to it, else its surface points."""
    if (mesh := true_mesh(data_source, shape)) is not None:
        return render(mesh, PIXELS, frame=UNIT_BALL, colour=TRUTH_COLOUR)
    surface = Samples(data_source, shape).surface()
    return render_points(surface, PIXELS, frame=UNIT_BALL, colour=TRUTH_COLOUR)


def picture(mesh: trimesh.Trimesh) -> np.ndarray:
    return render(mesh, PIXELS, frame=UNIT_BALL)


def mesh_picture(file: Path) -> np.ndarray:
    """The mesh in a file; blank if there is none, as where a field had no surface."""
    return picture(load_mesh(file)) if file.exists() else BLANK


def short(shape: ShapeName) -> str:
    """The instance, cut to fit above a picture."""
    return shape.instance if len(shape.instance) <= 22 else shape.instance[:20] + "…"


def write_gallery(
    path: str | os.PathLike,
    folder: str | os.PathLike,
    data_source: str | None = None,
    num_shapes: int = 8,
) -> None:
    """Draw a folder that run_reconstruct.py wrote into a PNG file.

    First up to `num_shapes` shapes, truth beside reconstruction; then, for each trajectory on
    disk, a row: the learned initialisation, the mesh after each inner step, the truth.
    """
    folder = Path(folder)
    record = read_json(folder / RECORD)
    data_source = data_source or record["curriculum"]["data_source"]
    cells: list[tuple[str, np.ndarray]] = []
    done = [entry for entry in record["shapes"] if not entry["error"]]
    for entry in done[:num_shapes]:
        shape = ShapeName(*entry["shape"].split("/"))
        try:
            pair = truth_picture(data_source, shape), picture(load_mesh(folder / entry["file"]))
        except InputError as error:
            print(f"not drawn: {shape}: {error}", file=sys.stderr)
            continue
        cells += zip((f"{short(shape)}: truth", "reconstruction"), pair, strict=True)
    trajectories = [
        trajectory_row(folder, data_source, ShapeName(*name.split("/")), record["trajectory_steps"])
        for name in record["trajectories"]
    ]
    width = max([4, *(len(row) // 2 * 2 for row in trajectories)])  # whole pairs
    rows = [cells[i : i + width] for i in range(0, len(cells), width)] + trajectories
    if not rows:
        raise InputError(f"{folder}: holds no reconstruction to draw")
    write_grid(path, rows)


def trajectory_row(
    folder: Path, data_source: str, shape: ShapeName, steps: Sequence[int]
) -> list[tuple[str, np.ndarray]]:
    """Initialisation, the mesh after each of `steps`, truth; blank where there was no surface."""
    row = []
    for k in steps:
        label = f"{short(shape)}: initialisation" if k == 0 else f"after step {k}"
        file = folder / "steps" / f"{shape}_{k}.ply"
        row.append((label, mesh_picture(file)))
    return [*row, ("truth", truth_picture(data_source, shape))]


def write_grid(
    path: str | os.PathLike,
    rows: Sequence[Sequence[tuple[str, Any]]],
    page_width: int | None = None,
) -> None:
    """Labelled pictures (n, n, 3), all of one size, in rows, as PNG.

    page_width: for a page, which should load fast: the whole so many pixels wide, in 256 colours.
    """
    width = len(rows[0][0][1])
    columns, height = max(len(row) for row in rows), width + LABEL_PIXELS
    figure = Figure(figsize=(columns * width / 100, len(rows) * height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    for i, row in enumerate(rows):
        for j, (label, image) in enumerate(row):
            left, bottom = j / columns, 1 - (i + 1) / len(rows)
            size = 1 / columns, width / height / len(rows)
            axis = figure.add_axes((left, bottom, *size))
            axis.imshow(image)
            axis.axis("off")
            axis.text(12, -6, label, fontsize=11, va="bottom")
    canvas.draw()
    grid = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if page_width is not None:
        size = page_width, round(page_width * grid.height / grid.width)
        grid = grid.resize(size, Image.Resampling.LANCZOS).quantize(256)
    with atomic_path(path) as temporary:
        grid.save(temporary, format="PNG")
