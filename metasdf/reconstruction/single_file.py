"""Reconstruct the shape in one file: the mesh beside a record of how it came about."""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from metasdf.data.formats import read_normalisation
from metasdf.errors import InputError
from metasdf.files import write_json
from metasdf.geometry.grid import NoSurfaceError
from metasdf.geometry.mesh_files import check_written_kind, write_mesh
from metasdf.method import Method
from metasdf.reconstruction.adaptation import FAILED, TRUSTED, UNTRUSTED, Progress, no_progress
from metasdf.reconstruction.fitting import context_size
from metasdf.reconstruction.inputs import read_shape_input
from metasdf.reconstruction.one_shape import reconstruct

log = logging.getLogger(__name__)

PASSED_ON = (  # curriculum keys that are arguments of `reconstruct`
    *("context_mode", "context_noise", "seed", "refine"),
    *("resolution", "dense_grid", "surface", "keep", "up"),
)


def reconstruct_file(
    model: Method,
    curriculum: Mapping[str, Any],
    device: torch.device,
    path: str | os.PathLike,
    output: str | os.PathLike | None = None,
    normalisation_file: str | os.PathLike | None = None,
    open_rule: str = "reject",
    checkpoint: str = "",
    progress: Progress = no_progress,
) -> int:
    """Reconstruct the shape in the file `path`, in its frame, and log a summary.

    Args:
        curriculum: complete, of 3D; it says what context is drawn and how it is meshed.
        output: a file whose ending is one of WRITTEN_SUFFIXES; None:
            `<reconstruction_output_dir>/<name of path>_reconstruction.ply`. `<output>.json` is the
            record.
        normalisation_file, open_rule: see `reconstruct`.
        checkpoint: the model's file, for the record.
        progress: see `reconstruct`.

    Returns:
        FAILED if the field has no surface, which is reported; UNTRUSTED if the mesh is written but
        not to be trusted; else 0.

    Raises:
        InputError: the file or an argument cannot be used.
    """
    path, output = Path(path), _output_file(curriculum, Path(path), output)
    record_file = output.with_name(output.name + ".json")
    shape = read_shape_input(path)
    frame = None if normalisation_file is None else read_normalisation(normalisation_file)
    steps = curriculum["reconstruction_steps"]
    try:
        result = reconstruct(
            model,
            shape,
            **{name: curriculum[name] for name in PASSED_ON},
            num_steps=model.num_steps if steps is None else steps,
            context_points=context_size(curriculum),
            normalisation=frame,
            open_rule=open_rule,
            device=device,
            progress=progress,
        )
    except NoSurfaceError as error:
        for file in (output, record_file):  # left by an earlier run
            file.unlink(missing_ok=True)
        log.warning("failed: %s: %s", path, error)
        return FAILED
    record = {**result.record, "file": str(output), "checkpoint": str(checkpoint)}
    record["curriculum"] = dict(curriculum)
    write_mesh(output, result.mesh)
    write_json(record_file, record)
    log.info(summary(record))
    if record["trusted"] is False:
        log.warning("%s", distrust(record))
        return UNTRUSTED
    return 0


def _output_file(
    curriculum: Mapping[str, Any], path: Path, output: str | os.PathLike | None
) -> Path:
    folder = Path(curriculum["reconstruction_output_dir"])
    output = Path(output or folder / f"{path.stem}_reconstruction.ply")
    check_written_kind(output)
    if output.exists() and path.exists() and output.samefile(path):
        raise InputError(f"--output {output}: is the input itself; choose another name")
    return output


def summary(record: Mapping[str, Any]) -> str:
    """A record in a few lines."""
    distance, steps = record["distance"], record["steps"]
    unit = "vertices" if record["kind"] == "mesh" else "points"
    lines = [f"{record['input']}: {record['kind']}, {record['num_rows']} {unit}"]
    if record["normals"] == "estimated":
        lines.append("normals: estimated from neighbours, as it has none")
    if name := record.get("fallback"):
        lines.append(f"with estimated normals it was not to be trusted: done by {name} without any")
    if record["left_out"]:
        lines.append(f"{record['left_out']} rows left out: not finite, or a normal of length 0")
    if record["outside_cube"]:
        lines.append(f"{record['outside_cube']} points lie outside of what is meshed")
    lines.append(
        f"context: {record['context_points']} points, {record['context_mode']}; {steps} "
        f"step{'' if steps == 1 else 's'} in {record['adapt_seconds']:.3f} s on {record['device']}"
    )
    if record["refine_steps"]:
        lines.append(f"refined: {record['refine_steps']} steps in {record['refine_seconds']:.1f} s")
    lines += [
        f"input to surface: mean {distance['mean']:.4g}, median {distance['median']:.4g} in its "
        f"units; {distance['relative_mean']:.4f} and {distance['relative_median']:.4f} of its "
        "bounding sphere's radius",
    ]
    if (back := distance["back_relative_mean"]) is not None:
        lines.append(f"surface to input: mean {back:.4f} of that radius")
    if record["held_out_error"] is not None:
        lines.append(
            f"error at {record['held_out_points']} points held out: "
            f"{record['held_out_error']:.4f} of that radius"
        )
    if specks := record["specks"]:
        lines.append(f"left out: {specks} speck{'s' if specks > 1 else ''} of one grid point")
    pieces = record["pieces"]
    if pieces > 1:
        kept = {"all": pieces, "largest": 1}.get(record["keep"]) or min(pieces, record["keep"])
        lines.append(f"the surface has {pieces} pieces; {kept} kept (--keep largest)")
    return "\n".join([*lines, f"written: {record['file']} and {record['file']}.json"])


def distrust(record: Mapping[str, Any]) -> str:
    """Why not to trust the mesh of a record, in one line."""
    return (
        f"do not trust this one: its error, {record['held_out_error']:.4f} of its radius, is above "
        f"{TRUSTED}. Does the input stand as the model expects (--up), is it of the kind that it "
        "knows, and are these enough points?"
    )
