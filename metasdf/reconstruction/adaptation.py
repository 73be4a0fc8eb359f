"""A context -> the best field that steps and seconds allow, its mesh, and what to think of it."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import trimesh
from torch import Tensor

from metasdf.geometry.loose_pieces import keep_pieces, without_specks
from metasdf.learning.device import synchronize
from metasdf.method import Method
from metasdf.reconstruction.fields import mesh_fitted
from metasdf.reconstruction.judging import HeldOut, Judge
from metasdf.reconstruction.refining import refine

AUTO = "auto"  # as many steps as do good
MOST_STEPS = 30
PATIENCE = 8  # steps without a gain after which AUTO stops
TRUSTED = 0.02  # the largest error of a mesh to be trusted, relative to the shape's radius
FAILED, UNTRUSTED = 1, 3  # exit codes

Progress = Callable[[str, float], None]  # from a stage and the share of it that is done


def no_progress(stage: str, share: float) -> None:
    """Tell nobody."""


def fit_and_mesh(
    model: Method,
    context: tuple[Tensor, Tensor],
    held_out: HeldOut,
    curriculum: Mapping[str, Any],
    device: torch.device,
    progress: Progress = no_progress,
) -> tuple[Any, trimesh.Trimesh, dict[str, Any]]:
    """Adapt to a context, refine and mesh the field as a complete curriculum of 3D says.

    Args:
        context: x [1, N, 3] and y [1, N, 1] on `device`.
        held_out: of the same shape.
        curriculum: reconstruction_steps, refine, resolution, dense_grid, surface and keep are used.

    Returns:
        The fields, the mesh in the normalised frame, and the record: steps; adapt_seconds,
        refine_seconds and mesh_seconds; refine_steps; surface; specks left out; keep, and of how
        many pieces;
        held_out_points; held_out_error, see `Judge.mesh_error`; trusted, whether that is at most
        TRUSTED. The last two are None where too few points were there to hold any out.

    Raises:
        NoSurfaceError: the field has no zero level set in the cube.
    """
    judge = Judge(model, held_out, device) if len(held_out.x) else None
    record: dict[str, Any] = {}
    with _timed(record, "adapt_seconds", device):
        fields, steps = adapt(model, context, curriculum["reconstruction_steps"], judge, progress)
    record |= {"steps": steps, "refine_seconds": 0.0, "refine_steps": 0}
    if curriculum["refine"] and judge is not None:
        with _timed(record, "refine_seconds", device):
            fields, record["refine_steps"] = refine(
                model,
                fields,
                context,
                judge,
                curriculum["refine"],
                lambda s: progress("refining", s),
            )
    progress("meshing", 0)
    with _timed(record, "mesh_seconds", device):
        mesh = mesh_fitted(model, fields, curriculum, device)
    record |= {"surface": curriculum["surface"], "keep": curriculum["keep"]}
    mesh, record["specks"] = without_specks(mesh)
    mesh, record["pieces"] = keep_pieces(mesh, curriculum["keep"])
    record |= _verdict(judge, fields, mesh)
    return fields, mesh, record


def adapt(
    model: Method,
    context: tuple[Tensor, Tensor],
    num_steps: int | str | None,
    judge: Judge | None = None,
    progress: Progress = no_progress,
) -> tuple[Any, int]:
    """`model.adapt` to a context: the fields, and the number of steps.

    num_steps: None: as many as in training. AUTO: on and on, to MOST_STEPS at the most, while the
    judge's error falls; the fields with the least error. Where there is no judge, or the method
    does not fit step by step, as many as in training.
    """
    fields, best, best_step, best_error = None, None, 0, math.inf
    automatic = num_steps == AUTO and judge is not None
    count = model.num_steps if num_steps in (None, AUTO) else num_steps
    if automatic and type(model).trajectory is not Method.trajectory:
        count = MOST_STEPS
    for step, fields in enumerate(model.trajectory(context, count)):
        progress("adapting", step / max(count, 1))
        if not automatic:
            continue
        error = judge.error(fields)
        if best is None or error < best_error:
            best, best_step, best_error = fields, step, error
        elif step >= best_step + PATIENCE:
            break
    return (best, best_step) if automatic else (fields, count)


def _verdict(judge: Judge | None, fields: Any, mesh: trimesh.Trimesh) -> dict[str, Any]:
    if judge is None:
        return {"held_out_points": 0, "held_out_error": None, "trusted": None}
    error = judge.mesh_error(fields, mesh)
    return {
        "held_out_points": len(judge.held_out.x),
        "held_out_error": error,
        "trusted": error <= TRUSTED,
    }


@contextmanager
def _timed(record: dict[str, Any], key: str, device: torch.device) -> Iterator[None]:
    """Add the seconds that something takes on `device` to a record."""
    synchronize(device)
    start = time.perf_counter()
    yield
    synchronize(device)
    record[key] = time.perf_counter() - start
