"""Adapted field -> SDF grid -> marching cubes -> mesh, for one shape and for a whole split."""

import time
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor

from metasdf.data.names import ShapeName
from metasdf.data.samples import Samples
from metasdf.data.tasks import Task, draw_task, stack, to_device
from metasdf.learning.device import synchronize
from metasdf.losses import misclassified_percentage
from metasdf.maml import Method
from metasdf.reconstruction.fields import mesh_field


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
