"""Adapted field -> SDF grid -> marching cubes -> mesh, for one shape and for a whole split."""

import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metasdf.data.names import ShapeName, read_split
from metasdf.errors import InputError
from metasdf.files import write_json
from metasdf.geometry.grid import NoSurfaceError
from metasdf.geometry.mesh_files import write_ply
from metasdf.maml import Method
from metasdf.reconstruction.fields import mesh_field
from metasdf.reconstruction.fitting import reconstruct_shape

RECORD = "reconstructions.json"
INITIALISATION = "initialisation.ply"
SHOWN_STEPS = 10  # of a trajectory, besides the last


def reconstruct_split(
    model: Method,
    curriculum: Mapping[str, Any],
    device: torch.device,
    checkpoint: str = "",
    trajectories: int = 0,
) -> int:
    """Reconstruct the test split below reconstruction_output_dir.

    Writes `<dataset>/<class>/<instance>.ply`, the un-adapted initialisation as a mesh, and
    reconstructions.json, the record of all. For the first `trajectories` shapes the mesh after
    each step of training (of many, at most SHOWN_STEPS) and after the last one is written too,
    below `steps/`. A shape that fails is reported by name and the run goes on. Returns how many
    failed.
    """
    output = Path(curriculum["reconstruction_output_dir"])
    shapes = read_split(curriculum["test_split"])
    if not Path(curriculum["data_source"]).is_dir():
        raise InputError(f"data_source: {curriculum['data_source']} is not a folder")
    (output / RECORD).unlink(missing_ok=True)  # it would speak of meshes that are replaced below
    records = []
    model = model.to(device).eval()
    progress = tqdm(shapes, desc="reconstructing", unit="shape", disable=None)
    for shape in progress:
        record = {"shape": str(shape), "file": None, "error": None}
        records.append(record)
        file = f"{shape}.ply"
        try:
            mesh, measured = reconstruct_shape(model, curriculum, shape, device)
            write_ply(output / file, mesh)
        except (InputError, NoSurfaceError) as error:
            (output / file).unlink(missing_ok=True)  # of an earlier run
            record["error"] = str(error)
            progress.write(f"failed: {shape}: {error}", file=sys.stderr)
            continue
        record.update(measured, file=file)
    has_initialisation = write_initialisation(model, curriculum, output, device)
    done = [shape for shape, r in zip(shapes, records, strict=True) if not r["error"]]
    last = curriculum["reconstruction_steps"]
    last = model.num_steps if last is None else last
    trained = min(last, model.num_steps + 1)
    every = max(1, math.ceil(trained / SHOWN_STEPS))
    steps = [*range(0, trained, every), last]
    for shape in done[:trajectories]:
        write_trajectory(model, curriculum, shape, steps, output, device)
    write_json(
        output / RECORD,
        {
            "checkpoint": str(checkpoint),
            "curriculum": dict(curriculum),
            "device": str(device),
            "initialisation": INITIALISATION if has_initialisation else None,
            "trajectories": [str(shape) for shape in done[:trajectories]],
            "trajectory_steps": steps,
            "shapes": records,
        },
    )
    print(summary(records, output))
    return len(shapes) - len(done)


def write_initialisation(
    model: Method, curriculum: Mapping[str, Any], output: Path, device: torch.device
) -> bool:
    """Mesh the learned initialisation as it is, before any step; False if it has no surface."""
    nothing = torch.zeros(1, 1, 3, device=device), torch.zeros(1, 1, 1, device=device)
    try:
        fields = model.adapt(nothing, 0)
        mesh = mesh_field(model, fields, curriculum["resolution"], device, curriculum["dense_grid"])
    except NoSurfaceError:
        (output / INITIALISATION).unlink(missing_ok=True)
        return False
    write_ply(output / INITIALISATION, mesh)
    return True


def write_trajectory(
    model: Method,
    curriculum: Mapping[str, Any],
    shape: ShapeName,
    steps: Sequence[int],
    output: Path,
    device: torch.device,
) -> None:
    """Mesh a shape after each of `steps` inner steps, below `steps/`; without surface, no file."""
    for k in steps:
        file = output / "steps" / f"{shape}_{k}.ply"
        file.unlink(missing_ok=True)  # of an earlier run
        try:
            mesh, _ = reconstruct_shape(
                model, {**curriculum, "reconstruction_steps": k}, shape, device
            )
        except NoSurfaceError:
            continue
        write_ply(file, mesh)


def summary(records: Sequence[Mapping[str, Any]], output: Path) -> str:
    """A few lines for people."""
    done = [r for r in records if not r["error"]]
    lines = [f"reconstructed {len(done)} of {len(records)} shapes: {output}"]
    if done:

        def mean(key: str) -> float:
            return math.fsum(r[key] for r in done) / len(done)

        lines.append(
            f"per shape: adapt {mean('adapt_seconds'):.3f} s, mesh {mean('mesh_seconds'):.2f} s; "
            f"{mean('misclassified_percentage'):.2f} % of unseen samples misclassified"
        )
    return "\n".join(lines)
