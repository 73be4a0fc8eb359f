"""Pictures of reconstructions beside the ground truth, and of adaptations step by step."""

import logging
import os
from collections.abc import Mapping, Sequence
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
from metasdf.evaluation.folder import true_mesh
from metasdf.files import atomic_path, read_json
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.rendering import UNIT_BALL, render, render_points
from metasdf.reconstruction.split import RECORD

PIXELS = 320  # width and height of one picture
LABEL_PIXELS = 24  # height of the label above it
TRUTH_COLOUR = (0.62, 0.62, 0.60)
BLANK = np.full((PIXELS, PIXELS, 3), 255, np.uint8)
OLD_STEPS_FOLDER = "steps"  # in folders whose record names none
log = logging.getLogger(__name__)

Cell = tuple[str, np.ndarray]  # a label and a picture (n, n, 3)


def write_gallery(
    path: str | os.PathLike,
    folder: str | os.PathLike,
    data_source: str | None = None,
    num_shapes: int = 8,
) -> None:
    """Draw a folder of reconstructions, as `reconstruct_split` writes it, into a PNG file.

    First up to `num_shapes` shapes, truth beside reconstruction; then a row for each trajectory:
    the initialisation, the mesh after each inner step, the truth.

    Args:
        data_source: the data folder of the ground truth; None: the one that the contexts came from.

    Raises:
        InputError: there is nothing to draw.
    """
    folder = Path(folder)
    record = read_json(folder / RECORD)
    data_source = data_source or record["curriculum"]["data_source"]
    cells: list[Cell] = []
    done = [entry for entry in record["shapes"] if not entry["error"]]
    for entry in done[:num_shapes]:
        shape = ShapeName(*entry["shape"].split("/"))
        try:
            truth, mesh = truth_picture(data_source, shape), load_mesh(folder / entry["file"])
        except InputError as error:
            log.warning("not drawn: %s: %s", shape, error)
            continue
        cells += [(f"{short_name(shape)}: truth", truth), ("reconstruction", picture(mesh))]
    trajectories = trajectory_rows(folder, record, data_source)
    width = max([4, *(len(row) // 2 * 2 for row in trajectories)])  # truth beside reconstruction
    rows = [cells[i : i + width] for i in range(0, len(cells), width)] + trajectories
    if not rows:
        raise InputError(f"{folder}: holds no reconstruction to draw")
    write_grid(path, rows)


def trajectory_rows(
    folder: Path, record: Mapping[str, Any], data_source: str | os.PathLike
) -> list[list[Cell]]:
    """For each trajectory the initialisation, the mesh after each step, refined, and the truth.

    Where a step had no surface the picture is blank. A step is left out where there is one too many
    for an even number of columns, but not the last.
    """
    refined = {e["shape"]: e.get("refine_seconds") for e in record["shapes"]}
    steps_folder = (folder / record.get("steps_folder", OLD_STEPS_FOLDER)).resolve()
    rows = []
    for name in record["trajectories"]:
        shape, row = ShapeName(*name.split("/")), []
        for k in record["trajectory_steps"]:
            label = f"{short_name(shape)}: initialisation" if k == 0 else f"after step {k}"
            row.append((label, mesh_picture(steps_folder / f"{shape}_{k}.ply")))
        if refined.get(name):
            label = f"refined for {record['curriculum']['refine']:g} s"
            row.append((label, mesh_picture(folder / f"{shape}.ply")))
            if len(row) % 2 == 0:  # the truth comes last
                del row[-3]
        rows.append([*row, ("truth", truth_picture(data_source, shape))])
    return rows


# Pictures


def truth_picture(data_source: str | os.PathLike, shape: ShapeName) -> np.ndarray:
    """The original mesh where `.datasources.json` leads to it, else its surface points."""
    if (mesh := true_mesh(data_source, shape)) is not None:
        return render(mesh, PIXELS, frame=UNIT_BALL, colour=TRUTH_COLOUR)
    surface = Samples(data_source, shape).surface()
    return render_points(surface, PIXELS, frame=UNIT_BALL, colour=TRUTH_COLOUR)


def picture(mesh: trimesh.Trimesh) -> np.ndarray:
    """A mesh in the normalised frame, (PIXELS, PIXELS, 3) uint8."""
    return render(mesh, PIXELS, frame=UNIT_BALL)


def mesh_picture(file: Path) -> np.ndarray:
    """The mesh in a file; blank if there is none, as where a field had no surface."""
    return picture(load_mesh(file)) if file.exists() else BLANK


def short_name(shape: ShapeName) -> str:
    """The instance, cut to fit above a picture."""
    return shape.instance if len(shape.instance) <= 22 else shape.instance[:20] + "…"


def write_grid(
    path: str | os.PathLike, rows: Sequence[Sequence[Cell]], page_width: int | None = None
) -> None:
    """Write labelled pictures (n, n, 3), all of one size, in rows into a PNG file.

    page_width: shrink to this width in pixels and to 256 colours, for a page that loads fast.
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
