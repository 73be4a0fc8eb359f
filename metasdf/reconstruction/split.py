"""Reconstruct every shape of a test split: meshes, a record, the steps of some adaptations."""

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metasdf.data.names import ShapeName, read_split
from metasdf.errors import InputError
from metasdf.files import write_json
from metasdf.geometry.grid import NoSurfaceError
from metasdf.geometry.mesh_files import write_mesh
from metasdf.method import Method
from metasdf.reconstruction.adaptation import AUTO, FAILED, TRUSTED, UNTRUSTED
from metasdf.reconstruction.fields import mesh_fitted
from metasdf.reconstruction.fitting import reconstruct_shape

log = logging.getLogger(__name__)

RECORD = "reconstructions.json"
INITIALISATION = "initialisation.ply"
SHOWN_STEPS = 10  # the most steps of a trajectory, besides the last


def reconstruct_split(
    model: Method,
    curriculum: Mapping[str, Any],
    device: torch.device,
    checkpoint: str = "",
    trajectories: int = 0,
) -> int:
    """Reconstruct the test split into reconstruction_output_dir and log a summary.

    Writes `<dataset>/<class>/<instance>.ply` and reconstructions.json, the record of all shapes.
    Into the folder beside it (`steps_folder`) go initialisation.ply and, after k inner steps,
    `<dataset>/<class>/<instance>_<k>.ply`: the original's evaluation takes every mesh in
    reconstruction_output_dir for a reconstruction.

    Args:
        curriculum: complete, of 3D.
        trajectories: number of shapes to mesh after each step, see `trajectory_steps`.
        checkpoint: the model's file, for the record.

    Returns:
        FAILED if some shapes failed; each is reported by name, and the run goes on. UNTRUSTED if
        all are meshed but some are not to be trusted; else 0.

    Raises:
        InputError: the split file or the data folder is missing.
    """
    # Resolved, so that `..` in the record leads to the folder beside it from a symbolic link, too.
    output = Path(curriculum["reconstruction_output_dir"]).resolve()
    shapes = read_split(curriculum["test_split"])
    if not Path(curriculum["data_source"]).is_dir():
        raise InputError(f"data_source: {curriculum['data_source']} is not a folder")
    (output / RECORD).unlink(missing_ok=True)  # it describes meshes that are replaced below
    model = model.to(device).eval()
    records = _reconstruct_shapes(model, curriculum, shapes, output, device)
    steps_dir = steps_folder(output)
    has_initialisation = write_initialisation(model, curriculum, steps_dir, device)
    done = [shape for shape, r in zip(shapes, records, strict=True) if not r["error"]]
    steps = trajectory_steps(model.num_steps, curriculum["reconstruction_steps"])
    for shape in done[:trajectories]:
        write_trajectory(model, curriculum, shape, steps, steps_dir, device)
    relative = f"../{steps_dir.name}"
    write_json(
        output / RECORD,
        {
            "checkpoint": str(checkpoint),
            "curriculum": dict(curriculum),
            "device": str(device),
            "initialisation": f"{relative}/{INITIALISATION}" if has_initialisation else None,
            "steps_folder": relative,
            "trajectories": [str(shape) for shape in done[:trajectories]],
            "trajectory_steps": steps,
            "shapes": records,
        },
    )
    log.info(summary(records, Path(curriculum["reconstruction_output_dir"])))
    if len(done) < len(shapes):
        return FAILED
    return UNTRUSTED if any(r["trusted"] is False for r in records) else 0


def _reconstruct_shapes(
    model: Method,
    curriculum: Mapping[str, Any],
    shapes: Sequence[ShapeName],
    output: Path,
    device: torch.device,
) -> list[dict[str, Any]]:
    """Write the mesh of each shape; their records: shape, file, error and `reconstruct_shape`'s."""
    records = []
    for shape in tqdm(shapes, desc="reconstructing", unit="shape", disable=None):
        record = {"shape": str(shape), "file": None, "error": None}
        records.append(record)
        file = f"{shape}.ply"
        try:
            mesh, measured = reconstruct_shape(model, curriculum, shape, device)
            write_mesh(output / file, mesh)
        except (InputError, NoSurfaceError) as error:
            (output / file).unlink(missing_ok=True)  # left by an earlier run
            record["error"] = str(error)
            log.warning("failed: %s: %s", shape, error)
            continue
        record.update(measured, file=file)
        if measured["trusted"] is False:
            log.warning(
                "do not trust %s: its error at points held out, %.4f of its radius, is above %g",
                *(shape, measured["held_out_error"], TRUSTED),
            )
    return records


def steps_folder(output: Path) -> Path:
    """The folder beside a folder of reconstructions for meshes that are none: `<output>_steps`."""
    return output.with_name(f"{output.name}_steps")


def trajectory_steps(training_steps: int, last: int | str | None) -> list[int]:
    """The steps of a trajectory: 0, 1, ... of training, at most SHOWN_STEPS of them, and the last.

    last: None or AUTO: that of training.
    """
    last = training_steps if last in (None, AUTO) else last
    stop = min(last, training_steps + 1)
    return [*range(0, stop, max(1, math.ceil(stop / SHOWN_STEPS))), last]


def write_initialisation(
    model: Method, curriculum: Mapping[str, Any], folder: Path, device: torch.device
) -> bool:
    """Mesh the learned initialisation, before any inner step; False if it has no surface."""
    no_context = torch.zeros(1, 1, 3, device=device), torch.zeros(1, 1, 1, device=device)
    try:
        fields = model.adapt(no_context, 0)
        mesh = mesh_fitted(model, fields, curriculum, device)
    except NoSurfaceError:
        (folder / INITIALISATION).unlink(missing_ok=True)  # left by an earlier run
        return False
    write_mesh(folder / INITIALISATION, mesh)
    return True


def write_trajectory(
    model: Method,
    curriculum: Mapping[str, Any],
    shape: ShapeName,
    steps: Sequence[int],
    folder: Path,
    device: torch.device,
) -> None:
    """Mesh a shape after each of `steps` inner steps; no file where the field has no surface."""
    keys = {**curriculum, "refine": 0.0}
    for k in steps:
        file = folder / f"{shape}_{k}.ply"
        file.unlink(missing_ok=True)  # left by an earlier run
        try:
            mesh, _ = reconstruct_shape(model, {**keys, "reconstruction_steps": k}, shape, device)
        except NoSurfaceError:
            continue
        write_mesh(file, mesh)


def summary(records: Sequence[Mapping[str, Any]], output: Path) -> str:
    """The records in a few lines."""
    done = [r for r in records if not r["error"]]
    lines = [f"reconstructed {len(done)} of {len(records)} shapes: {output}"]
    if done:

        def mean(key: str) -> float:
            return math.fsum(r[key] for r in done) / len(done)

        refined = f"refine {mean('refine_seconds'):.2f} s, " if mean("refine_seconds") else ""
        lines.append(
            f"per shape: {mean('steps'):.1f} steps in {mean('adapt_seconds'):.3f} s, {refined}mesh "
            f"{mean('mesh_seconds'):.2f} s; {mean('misclassified_percentage'):.2f} % of unseen "
            "samples misclassified"
        )
        if several := sum(r["pieces"] > 1 for r in done):
            lines.append(f"{several} of them in several pieces")
        if doubtful := sum(r["trusted"] is False for r in done):
            lines.append(f"{doubtful} of them not to be trusted")
    return "\n".join(lines)
