"""Fitting a model to the shapes of a data folder: context, adapted field, mesh and its record."""

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
from metasdf.data.tasks import Task, collate, draw_task, to_device
from metasdf.learning.device import synchronize
from metasdf.losses import misclassified_percentage
from metasdf.method import Method
from metasdf.reconstruction.adaptation import fit_and_mesh
from metasdf.reconstruction.judging import HeldOut, held_out_count


def shape_rng(seed: int, shape: ShapeName | str) -> np.random.Generator:
    """A shape's own random numbers, the same whichever other shapes are reconstructed."""
    return np.random.default_rng([seed, zlib.crc32(str(shape).encode())])


def context_size(curriculum: Mapping[str, Any]) -> int:
    """The number of context points of a reconstruction."""
    if curriculum["context_points"] is not None:
        return curriculum["context_points"]
    if curriculum["context_mode"] == "dense":
        return curriculum["reconstruction_sdf_samples"] // 2
    return curriculum["reconstruction_levelset_samples"]


def add_noise(x: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Points (n, 3) with Gaussian noise of standard deviation `noise` on each coordinate."""
    return (x + rng.normal(scale=noise, size=x.shape)).astype(np.float32)


def fit(
    model: Method, context: tuple[Tensor, Tensor], num_steps: int | None, device: torch.device
) -> tuple[Any, float]:
    """`model.adapt` to a context on `device`: the fields, and the seconds it took."""
    synchronize(device)
    start = time.perf_counter()
    fields = model.adapt(context, num_steps)
    synchronize(device)
    return fields, time.perf_counter() - start


def draw_reconstruction_task(
    samples: Samples, curriculum: Mapping[str, Any]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The task that a shape of a data folder is reconstructed from.

    Returns:
        "context", "query" and "held_out", each (x (n, 3), y (n, 1)) float32. The context has
        `context_points` points, in dense mode half of them outside and half inside, with noise
        `context_noise` on their positions. The query has no noise; in dense mode it is disjoint
        from the context. What is held out is like the context, with other points; see
        `held_out_count`.
    """
    dense = curriculum["context_mode"] == "dense"
    count, noise = context_size(curriculum), curriculum["context_noise"]
    extra = held_out_count(count)
    sdf_samples = curriculum["reconstruction_sdf_samples"]
    rng = shape_rng(curriculum["seed"], samples.shape)
    task = draw_task(
        samples,
        curriculum["context_mode"],
        sdf_samples=max(sdf_samples, 2 * count) if dense else sdf_samples,
        surface_samples=count if dense else count + extra,
        query="held_out" if dense else "all",
        rng=rng,
    )
    x, y = task["context"]
    query_x, query_y = task["query"]
    if dense:
        # Samples outside come first, so evenly spaced rows keep as many of either side.
        chosen = np.arange(count) * len(x) // count
        # What is asked does not depend on what is known, so as many rows are set apart in any case.
        reserve = held_out_count(len(query_x))
        apart = np.zeros(len(query_x), bool)
        apart[np.arange(reserve) * len(query_x) // max(reserve, 1)] = True
        used = np.flatnonzero(apart)[np.arange(extra) * reserve // max(extra, 1)]
        held_out = query_x[used], query_y[used]
        query_x, query_y = query_x[~apart], query_y[~apart]
    else:
        chosen = np.arange(count)
        held_out = x[count:], y[count:]
        if len(np.unique(x, axis=0)) < len(x):  # drawn with replacement
            chosen = np.flatnonzero(~(x[:count, None] == held_out[0]).all(axis=2).any(axis=1))
    return {
        "context": (add_noise(x[chosen], noise, rng), y[chosen]),
        "query": (query_x, query_y),
        "held_out": (add_noise(held_out[0], noise, rng), held_out[1]),
    }


def held_out_task(curriculum: Mapping[str, Any], shape: ShapeName, device: torch.device) -> Task:
    """`draw_reconstruction_task` of a shape as a batch of one task on `device`."""
    task = draw_reconstruction_task(Samples(curriculum["data_source"], shape), curriculum)
    return to_device(collate([task]), device)


def reconstruct_shape(
    model: Method, curriculum: Mapping[str, Any], shape: ShapeName, device: torch.device
) -> tuple[trimesh.Trimesh, dict[str, Any]]:
    """Adapt to one shape of a data folder and mesh it.

    Returns:
        The mesh, in the normalised frame, and its record: misclassified_percentage, at query
        samples of which half are outside and half inside, and what `fit_and_mesh` tells.

    Raises:
        InputError: the shape's data is missing or broken.
        NoSurfaceError: the field has no zero level set in the cube.
    """
    batch = held_out_task(curriculum, shape, device)
    held_out = HeldOut.of(batch["held_out"], batch["context"], curriculum["context_mode"])
    fields, mesh, record = fit_and_mesh(model, batch["context"], held_out, curriculum, device)
    query_x, query_y = batch["query"]
    with torch.no_grad():
        misclassified = misclassified_percentage(model.predict(query_x, fields), query_y).item()
    return mesh, {**record, "misclassified_percentage": misclassified}
