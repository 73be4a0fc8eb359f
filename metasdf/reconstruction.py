"""Adapted field -> SDF grid -> marching cubes -> mesh, for one shape and for a whole split."""

import math
import os
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor
from tqdm import tqdm

from metasdf.data import Samples, ShapeName, Task, draw_task, read_split, stack, to_device
from metasdf.device import synchronize
from metasdf.errors import InputError
from metasdf.files import atomic_path, write_json
from metasdf.losses import misclassified_percentage
from metasdf.meshing import NoSurfaceError, mesh_field
from metasdf.method import Method

RECORD = "reconstructions.json"
INITIALISATION = "initialisation.ply"
SHOWN_STEPS = 10  # of a trajectory, besides the last


def shape_rng(seed: int, shape: ShapeName | str) -> np.random.Generator:
    """Random numbers of one shape: they do not depend on which others are reconstructed."""
    return np.random.default_rng([seed, zlib.crc32(str(shape).encode())])


def context_size(curriculum: Mapping[str, Any]) -> int:
    """How many context points a reconstruction is to have."""
    if curriculum["context_points"] is not None:
        return curriculum["context_points"]
    if curriculum["context_mode"] == "dense":
        return curriculum["reconstruction_sdf_samples"] // 2
    return curriculum["reconstruction_levelset_samples"]


def add_noise(x: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Points (n, 3), each coordinate moved by a Gaussian of standard deviation `noise`."""
    return (x + rng.normal(scale=noise, size=x.shape)).astype(np.float32)


def draw_reconstruction_task(
    samples: Samples, curriculum: Mapping[str, Any]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The task that a shape of the test split is reconstructed from, as `draw_task` gives it.

    The context has `context_points` points, in dense mode half of them outside, half inside, and
    `context_noise` on their positions. The query has no noise, and is in dense mode not in the
    context.
    """
    dense = curriculum["context_mode"] == "dense"
    count = context_size(curriculum)
    sdf_samples = curriculum["reconstruction_sdf_samples"]
    rng = shape_rng(curriculum["seed"], samples.shape)
    task = draw_task(
        samples,
        curriculum["context_mode"],
        sdf_samples=max(sdf_samples, 2 * count) if dense else sdf_samples,
        surface_samples=count,
        query="held_out" if dense else "all",
        rng=rng,
    )
    x, y = task["context"]
    # Those outside come first: taken evenly, both halves shrink alike.
    kept = np.arange(count) * len(x) // count
    return {**task, "context": (add_noise(x[kept], curriculum["context_noise"], rng), y[kept])}


def fit(
    model: Method, context: tuple[Tensor, Tensor], num_steps: int | None, device: torch.device
) -> tuple[Any, float]:
    """`model.adapt` to a context on `device`: the fields, and the seconds that took."""
    synchronize(device)
    start = time.perf_counter()
    fields = model.adapt(context, num_steps)
    synchronize(device)
    return fields, time.perf_counter() - start


def held_out_task(curriculum: Mapping[str, Any], shape: ShapeName, device: torch.device) -> Task:
    """What a shape is adapted to and judged by: a batch of one task, see `SDFDataset.batch`.

    In dense mode no sample of the query is in the context. Half of the query is inside.
    """
    task = draw_reconstruction_task(Samples(curriculum["data_source"], shape), curriculum)
    return to_device(stack([task]), device)


def reconstruct_shape(
    model: Method, curriculum: Mapping[str, Any], shape: ShapeName, device: torch.device
) -> tuple[trimesh.Trimesh, dict[str, Any]]:
    """Adapt to one shape and mesh it; the mesh, in the normalised frame, and its record.

    The record holds adapt_seconds, mesh_seconds and misclassified_percentage on samples that
    were not in the context, half of them outside, half inside.
    """
    batch = held_out_task(curriculum, shape, device)
    fields, seconds = fit(model, batch["context"], curriculum["reconstruction_steps"], device)
    query_x, query_y = batch["query"]
    with torch.no_grad():
        misclassified = misclassified_percentage(model.predict(query_x, fields), query_y).item()
    before_mesh = time.perf_counter()
    mesh = mesh_field(model, fields, curriculum["resolution"], device, curriculum["dense_grid"])
    return mesh, {
        "adapt_seconds": seconds,
        "mesh_seconds": time.perf_counter() - before_mesh,
        "misclassified_percentage": misclassified,
    }


def write_ply(path: str | os.PathLike, mesh: trimesh.Trimesh) -> None:
    """Write a mesh as binary PLY, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(trimesh.exchange.ply.export_ply(mesh))


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
