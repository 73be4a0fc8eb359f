"""A trained model and one shape -> the shape's mesh and its signed distance function."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from metasdf.errors import InputError
from metasdf.geometry.bodies import OPEN_RULES
from metasdf.geometry.grid import NoSurfaceError
from metasdf.geometry.mesh import sample_surface
from metasdf.geometry.normalisation import MARGIN, Normalisation
from metasdf.geometry.sdf import SurfaceTree
from metasdf.learning.curriculum import KEYS, is_2d
from metasdf.learning.device import choose_device
from metasdf.learning.model_files import load_model
from metasdf.method import Method
from metasdf.reconstruction.adaptation import Progress, fit_and_mesh, no_progress
from metasdf.reconstruction.contexts import (
    draw_context,
    input_normalisation,
    normalise_input,
    outside_cube,
    with_body,
    with_normals,
    with_surface_points,
)
from metasdf.reconstruction.fields import FittedField
from metasdf.reconstruction.fitting import add_noise, context_size, shape_rng
from metasdf.reconstruction.inputs import ShapeInput, ShapeLike, as_shape_input
from metasdf.reconstruction.judging import HeldOut

SURFACE_POINTS = 30_000  # drawn on a mesh; also the most points at which residuals are measured
ATTEMPT = ("context_mode", "held_out_error", "adapt_seconds", "refine_seconds")  # kept of a first
INVENTED = 0.01  # back_relative_mean of a fallback's mesh from which on it is not taken
DEFAULTS = {name: key.default for name, key in KEYS.items()}


@dataclass(frozen=True)
class Reconstruction:
    """A reconstructed shape.

    Attributes:
        mesh: its surface, in the frame and units of the input.
        field: its signed distance function, points (n, 3) -> (n,), in the same frame and units.
        record: how it came about: kind and size of the input, normalisation, context, seconds, and
            how far mesh and input lie from each other (`residuals`).
    """

    mesh: trimesh.Trimesh
    field: FittedField
    record: dict[str, Any]


def reconstruct(
    model: Method | str | os.PathLike,
    shape: ShapeLike,
    *,
    context_mode: str | None = None,
    num_steps: int | str | None = None,
    refine: float | None = None,
    context_points: int | None = None,
    resolution: int | None = None,
    normalisation: Normalisation | None = None,
    open_rule: str = "reject",
    context_noise: float = 0.0,
    seed: int = 0,
    dense_grid: bool = False,
    surface: str | None = None,
    keep: str | int | None = None,
    up: str | None = None,
    device: torch.device | str | None = None,
    progress: Progress = no_progress,
) -> Reconstruction:
    """Adapt a trained model to one shape and mesh its zero level set.

    Points without normals get estimated ones where the model adapts to signed distances. If the
    result is not to be trusted and the model's card names a fallback, that is tried as well, on the
    points alone; "fallback" and "first_attempt" in the record say that its result is returned.

    Args:
        model: as from `load_model`, or what that takes; moved to `device`, in evaluation mode.
        shape: a mesh, surface points (n, 3), (points, outward normals), a path (obj ply stl off glb
            xyz npz) or a `ShapeInput`, in any frame and units; see `up`.
        context_mode: "dense": signed distances, "levelset" or "partial": surface points. None: as
            in the model's training; where unknown, dense if the shape gives signed distances.
        num_steps, refine, context_points, resolution, dense_grid, surface, keep, seed, up,
            context_noise: as the keys of a curriculum, num_steps as its reconstruction_steps; None:
            the model's curriculum's.
        normalisation: of the whole shape, where `shape` is a part of it; of DeepSDF's samples, that
            of the original mesh. None: the input's own.
        open_rule: "reject" or "thicken" a mesh that bounds no solid where dense mode needs one.
        progress: called with a stage, "adapting", "refining", "meshing", and its share done.
        device: None: where the model is.

    Raises:
        InputError: shape or arguments cannot be used (NoSolidError: see `open_rule`).
        NoSurfaceError: the fitted field has no zero level set in the cube.
    """
    model = model if isinstance(model, Method) else load_model(model)
    given = {"reconstruction_steps": num_steps, "refine": refine, "context_noise": context_noise}
    given |= {"resolution": resolution, "dense_grid": dense_grid, "surface": surface, "keep": keep}
    given |= {"context_mode": context_mode, "context_points": context_points, "seed": seed}
    keys = _complete_keys(model, {**given, "up": up})
    mode = context_mode or _training_mode(model)
    source = normalisation, open_rule
    arguments = (as_shape_input(shape), mode, keys, source, device, progress)
    return _or_from_points_alone(model, *arguments)


def _reconstruct(
    model: Method,
    shape: ShapeInput,
    mode: str | None,
    keys: Mapping[str, Any],
    source: tuple[Normalisation | None, str],
    device: torch.device | str | None,
    progress: Progress,
) -> Reconstruction:
    """`reconstruct` with complete keys; source: normalisation and open_rule."""
    device = _place(model, device)
    rng = shape_rng(keys["seed"], shape.source.name if shape.source else "")
    with _errors_naming(shape.source):
        drawn = prepare_context(shape, mode, keys, *source, rng)
    return _adapt_and_mesh(model, shape, drawn, keys, device, rng, progress)


def _or_from_points_alone(model: Method, shape: ShapeInput, *arguments: Any) -> Reconstruction:
    """`_reconstruct`; with the fallback of the model's card where estimated normals fail."""
    name = getattr(model, "card", {}).get("fallback")
    mode, *others = arguments
    bare = shape.mesh is None and not shape.has_signs
    if name is None or mode != "dense" or not bare:
        return _reconstruct(model, shape, *arguments)
    first, failed = None, None
    try:
        first = _reconstruct(model, shape, *arguments)
        if first.record["trusted"] is not False:
            return first
    except (InputError, NoSurfaceError) as error:
        failed = error
    try:
        alone = _reconstruct(load_model(name), shape, "levelset", *others)
        if alone.record["trusted"] and alone.record["distance"]["back_relative_mean"] < INVENTED:
            before = first and {part: first.record[part] for part in ATTEMPT}
            record = {**alone.record, "fallback": name, "first_attempt": before}
            return replace(alone, record=record)
    except (InputError, NoSurfaceError):
        pass
    if first is None:
        raise failed
    return first


class Context(NamedTuple):
    """The context that a model adapts to, and the shape that it was drawn from.

    Attributes:
        shape: in the normalised frame.
        normalisation: the map into that frame.
        mode: "dense", "levelset" or "partial".
        whole: whether the frame is the shape's own, so that it is no part of one.
        rows: x, y, z, signed distance (n, 4), float32.
        held_out: the same of points to judge the fit by (m, 4).
    """

    shape: ShapeInput
    normalisation: Normalisation
    mode: str
    whole: bool
    rows: np.ndarray
    held_out: np.ndarray


def prepare_context(
    shape: ShapeInput,
    mode: str | None,
    keys: Mapping[str, Any],
    normalisation: Normalisation | None,
    open_rule: str,
    rng: np.random.Generator,
) -> Context:
    """Normalise a shape and draw its context; arguments and errors as for `reconstruct`.

    keys: of a curriculum; they say how many points the context has, and how noisy they are.
    """
    if open_rule not in OPEN_RULES:
        raise InputError(f"open_rule: {open_rule!r} is unknown; choose {' or '.join(OPEN_RULES)}")
    whole = normalisation is None
    normalisation = (normalisation or input_normalisation(shape))._replace(up=keys["up"])
    shape = normalise_input(shape, normalisation)
    if shape.mesh is not None:
        shape = with_body(shape, open_rule, required=mode == "dense")
    mode = mode or ("dense" if shape.has_signs else "levelset")
    if mode == "dense" and not shape.has_signs:
        shape = with_normals(shape, rng)
    count = context_size({**keys, "context_mode": mode})
    if shape.mesh is not None:
        shape = with_surface_points(shape, max(SURFACE_POINTS, count), rng)
    parts = draw_context(shape, mode == "dense", count, rng)
    for rows in parts:
        rows[:, :3] = add_noise(rows[:, :3], keys["context_noise"], rng)
    return Context(shape, normalisation, mode, whole, *parts)


def _adapt_and_mesh(
    model: Method,
    shape: ShapeInput,
    context: Context,
    keys: Mapping[str, Any],
    device: torch.device,
    rng: np.random.Generator,
    progress: Progress,
) -> Reconstruction:
    """The second half of `reconstruct`; rng: for the residuals."""
    rows, held = (torch.from_numpy(part)[None].to(device) for part in context[-2:])
    points = rows[..., :3], rows[..., 3:]
    held_out = HeldOut.of((held[..., :3], held[..., 3:]), points, context.mode, context.whole)
    fields, mesh, measured = fit_and_mesh(model, points, held_out, keys, device, progress)
    normalised, normalisation = context.shape, context.normalisation
    record = {
        "input": None if shape.source is None else str(shape.source),
        "kind": shape.kind,
        "num_rows": len(shape.points),
        "left_out": shape.left_out,
        "outside_cube": int(outside_cube(normalised.extent()).sum()),
        "signs": normalised.body.quality.method if normalised.body else None,
        "normals": _normals_from(normalised),
        "normalisation": {
            "offset": np.asarray(normalisation.offset).tolist(),
            "scale": normalisation.scale,
        },
        "up": normalisation.up,
        "context_mode": context.mode,
        "context_points": len(context.rows),
        **measured,
        "distance": residuals(normalised, mesh, normalisation.scale, rng),
        "device": str(device),
    }
    mesh.vertices = normalisation.invert(mesh.vertices)
    return Reconstruction(mesh, FittedField(model, fields, normalisation, device), record)


def _normals_from(shape: ShapeInput) -> str | None:
    """Where the normals come from that gave the signed distances, if any did."""
    if shape.normals is None:
        return None
    return "estimated" if shape.normals_estimated else "input"


def residuals(
    shape: ShapeInput, mesh: trimesh.Trimesh, scale: float, rng: np.random.Generator
) -> dict[str, float | None]:
    """How far a shape and the mesh reconstructed from it lie from each other.

    Args:
        shape, mesh: in the normalised frame.
        scale: of the normalisation.

    Returns:
        Mean and median distance from the shape's points to the mesh (of SDF samples, between their
        absolute distance and the mesh's) in the units of the original frame, and relative to the
        radius of the shape's bounding sphere. For surface points also back_relative_mean: the mean
        distance from the mesh to the nearest point, less the points' mean distance from each other.
        It grows with surface that has no points: invented, or not seen by a scan.
    """
    chosen = rng.permutation(len(shape.points))[:SURFACE_POINTS]
    error, _ = SurfaceTree(mesh).nearest(shape.points[chosen])
    if shape.distances is not None:
        error = np.abs(error - np.abs(shape.distances[chosen]))
    mean, median = float(error.mean()), float(np.median(error))
    back = None
    if shape.distances is None:
        mesh_points, _ = sample_surface(mesh, SURFACE_POINTS, rng)
        tree = cKDTree(shape.points)
        spacing = tree.query(shape.points[chosen], k=2)[0][:, 1].mean()
        back = max(0.0, float(tree.query(mesh_points)[0].mean() - spacing)) * MARGIN
    return {
        "mean": mean / scale,
        "median": median / scale,
        "relative_mean": mean * MARGIN,
        "relative_median": median * MARGIN,
        "back_relative_mean": back,
    }


# Arguments


def _complete_keys(model: Method, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a curriculum: those given unless None, else the model's, else the defaults.

    Raises:
        InputError: a value is not one that its key may have; it names the argument.
    """
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        KEYS[name].check("num_steps" if name == "reconstruction_steps" else name, value)
    return {**DEFAULTS, **getattr(model, "curriculum", {}), **given}


def _place(model: Method, device: torch.device | str | None) -> torch.device:
    """Move the model to a device, None: where it is, and put it into evaluation mode."""
    if device is None:
        parameter = next(model.parameters(), None)
        device = torch.device("cpu") if parameter is None else parameter.device
    elif isinstance(device, str):
        device = choose_device(device)
    model.to(device).eval()
    return device


def _training_mode(model: Method) -> str | None:
    """The context mode of the curriculum that a model was trained with, if it has one."""
    curriculum = getattr(model, "curriculum", None)
    if curriculum is None:
        return None
    if is_2d(curriculum):
        raise InputError("the model was trained on images (2D); reconstruct needs one of shapes")
    return curriculum["context_mode"]


@contextmanager
def _errors_naming(source: Path | None) -> Iterator[None]:
    """Put the name of the input file, if any, before the message of an InputError."""
    try:
        yield
    except InputError as error:
        if source is not None:
            error.args = (f"{source}: {error}",)
        raise
