"""Pictures of an evaluated folder: truth beside reconstruction, and one adaptation step by step."""

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from metasdf.data import Samples, ShapeName
from metasdf.errors import InputError
from metasdf.files import atomic_path, read_json
from metasdf.mesh import UNIT_BALL, load_mesh, render, render_points
from metasdf.preprocessing import Shape
from metasdf.reconstruction import RECORD

PIXELS = 320  # width and height of one picture
TRUTH_COLOUR = (0.62, 0.62, 0.60)
BLANK = np.full((PIXELS, PIXELS, 3), 255, np.uint8)


def truth_picture(data_source: str, shape: ShapeName) -> np.ndarray:
    """The true shape: its mesh where `.datasources.json` leads to it, else its surface points."""
    samples = Samples(data_source, shape)
    sources = Path(data_source, ".datasources.json")
    if sources.exists() and shape.dataset in (folders := read_json(sources)):
        try:
            mesh = load_mesh(Shape(Path(folders[shape.dataset]), *shape).mesh_file())
        except InputError:
            pass  # moved since: the points tell as much
        else:
            mesh.vertices = samples.normalisation.apply(mesh.vertices)
            return render(mesh, PIXELS, frame=UNIT_BALL, colour=TRUTH_COLOUR)
    return render_points(samples.surface(), PIXELS, frame=UNIT_BALL, colour=TRUTH_COLOUR)


def picture(mesh: trimesh.Trimesh) -> np.ndarray:
    return render(mesh, PIXELS, frame=UNIT_BALL)


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
        cells += zip((f"{shape.instance}\ntruth", "reconstruction"), pair, strict=True)
    rows = [cells[i : i + 4] for i in range(0, len(cells), 4)]
    for name in record["trajectories"]:
        rows.append(trajectory_row(folder, data_source, ShapeName(*name.split("/"))))
    if not rows:
        raise InputError(f"{folder}: holds no reconstruction to draw")
    write_grid(path, rows)


def trajectory_row(
    folder: Path, data_source: str, shape: ShapeName
) -> list[tuple[str, np.ndarray]]:
    """Initialisation, each inner step, truth; blank where a step has no surface."""
    files = {
        int(step[1]): file
        for file in (folder / "steps" / shape.dataset / shape.category).glob("*.ply")
        if (step := re.fullmatch(re.escape(shape.instance) + r"_(\d+)", file.stem))
    }
    row = []
    for k in range(max(files, default=-1) + 1):
        label = "learned initialisation" if k == 0 else f"after step {k}"
        row.append((label, picture(load_mesh(files[k])) if k in files else BLANK))
    return [*row, (f"{shape.instance}\ntruth", truth_picture(data_source, shape))]


def write_grid(path: str | os.PathLike, rows: Sequence[Sequence[tuple[str, Any]]]) -> None:
    """Labelled pictures in rows, as PNG."""
    columns = max(len(row) for row in rows)
    inches = PIXELS / 100
    figure = Figure(figsize=(columns * inches, len(rows) * inches * 1.08), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(0, 0, 1, 1, 0, 0)
    for row_axes in axes:
        for axis in row_axes:
            axis.axis("off")
    for row, row_axes in zip(rows, axes, strict=True):
        for (label, image), axis in zip(row, row_axes, strict=False):
            axis.imshow(image)
            axis.text(12, 12, label, fontsize=11, va="top", linespacing=1.5)
    with atomic_path(path) as temporary:
        figure.savefig(temporary)
