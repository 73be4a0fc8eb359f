"""One shape of the user's own: a mesh, points or SDF samples -> a mesh in the file's frame.

    obj, ply, stl, off, glb   a mesh, or points where there are no faces; ply with normals
    xyz                       text, a point a row: x y z, or x y z nx ny nz
    npz                       points (n, 3), perhaps with normals (n, 3) or sdf (n,)
    npz                       pos, neg (n, 4): DeepSDF's samples, which are normalised already

The shape goes into the normalised frame as `preprocessing` puts meshes there, the model adapts to
it there, and the result comes back.
"""

import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from metasdf.data.samples import read_normalisation
from metasdf.errors import InputError
from metasdf.files import write_json
from metasdf.geometry.grid import NoSurfaceError
from metasdf.geometry.mesh import MARGIN, sample_surface
from metasdf.geometry.mesh_files import write_ply
from metasdf.geometry.sdf import SurfaceTree
from metasdf.maml import Method
from metasdf.reconstruction.contexts import (
    draw_context,
    frame_of,
    into_frame,
    outside_cube,
    with_body,
)
from metasdf.reconstruction.fields import mesh_field
from metasdf.reconstruction.fitting import add_noise, context_size, fit, shape_rng
from metasdf.reconstruction.inputs import OwnShape, read_own_shape

FAR = 0.05  # of the bounding sphere's radius: so far from each other, something went wrong
SURFACE_POINTS = 30_000  # drawn on a mesh, and at most as many are measured


# The whole way.


def reconstruct_own_shape(
    model: Method,
    curriculum: Mapping[str, Any],
    device: torch.device,
    path: str | os.PathLike,
    output: str | os.PathLike | None = None,
    normalisation_file: str | os.PathLike | None = None,
    open_rule: str = "reject",
    checkpoint: str = "",
) -> int:
    """Reconstruct the shape in the file `path`, in its frame, as `output` (.ply).

    None: `<reconstruction_output_dir>/<name of the file>_reconstruction.ply`. Beside it
    `<output>.json` tells how. `normalisation_file` gives the frame of the whole shape,
    of which the file may hold a part; for DeepSDF's samples, which are in the normalised frame,
    the frame that the result is to go back to. Returns how many failed: 1 if the model's field
    has no surface, which is reported, else 0.
    """
    path = Path(path)
    folder = Path(curriculum["reconstruction_output_dir"])
    output = Path(output or folder / f"{path.stem}_reconstruction.ply")
    if output.suffix.lower() != ".ply":
        raise InputError(f"--output {output}: must end in .ply")
    if output.exists() and path.exists() and output.samefile(path):
        raise InputError(f"--output {output}: is the input itself; choose another name")
    shape = read_own_shape(path)
    given = None if normalisation_file is None else read_normalisation(normalisation_file)
    dense, count = curriculum["context_mode"] == "dense", context_size(curriculum)
    rng = shape_rng(curriculum["seed"], path.name)
    try:
        frame = given or frame_of(shape)
        local = into_frame(shape, frame)
        if shape.mesh is not None:
            local = with_body(local, dense, open_rule, max(SURFACE_POINTS, count), rng)
        x, y = draw_context(local, dense, count, rng)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    x = add_noise(x, curriculum["context_noise"], rng)
    context = torch.from_numpy(x)[None].to(device), torch.from_numpy(y)[None].to(device)
    model = model.to(device).eval()
    steps = curriculum["reconstruction_steps"]
    fields, adapt_seconds = fit(model, context, steps, device)
    start = time.perf_counter()
    record_file = output.with_name(output.name + ".json")
    try:
        resolution, dense_grid = curriculum["resolution"], curriculum["dense_grid"]
        mesh = mesh_field(model, fields, resolution, device, dense_grid)
    except NoSurfaceError as error:
        for file in (output, record_file):  # of an earlier run
            file.unlink(missing_ok=True)
        print(f"failed: {path}: {error}", file=sys.stderr)
        return 1
    record = {
        "input": str(path),
        "kind": shape.kind,
        "num_rows": len(shape.points),
        "left_out": shape.left_out,
        "outside_cube": int(outside_cube(local.extent()).sum()),
        "signs": local.body.quality.method if local.body else None,
        "normalisation": {"offset": frame.offset.tolist(), "scale": frame.scale},
        "context_points": len(x),
        "steps": model.num_steps if steps is None else steps,
        "adapt_seconds": adapt_seconds,
        "mesh_seconds": time.perf_counter() - start,
        "distance": surface_distance(local, mesh, frame.scale, rng),
        "file": str(output),
        "checkpoint": str(checkpoint),
        "device": str(device),
        "curriculum": dict(curriculum),
    }
    mesh.vertices = frame.invert(mesh.vertices)
    write_ply(output, mesh)
    write_json(record_file, record)
    print(summary(record))
    return 0


def surface_distance(
    local: OwnShape, mesh: trimesh.Trimesh, scale: float, rng: np.random.Generator
) -> dict[str, float]:
    """How far a shape's points lie from a mesh, both in the normalised frame, and vice versa.

    Of SDF samples: how far their distances to the mesh, without sign, are from what they should
    be. Mean and median in the units of the original frame, and relative to the radius of the
    shape's bounding sphere. Of points on a surface also back: how far points of the mesh lie from
    the nearest of them, less how far these lie from each other. That shows surface that was made
    up, but also what a scan has not seen.
    """
    chosen = rng.permutation(len(local.points))[:SURFACE_POINTS]
    error, _ = SurfaceTree(mesh).nearest(local.points[chosen])
    if local.distances is not None:
        error = np.abs(error - np.abs(local.distances[chosen]))
    mean, median = float(error.mean()), float(np.median(error))
    back = None
    if local.distances is None:
        points, _ = sample_surface(mesh, SURFACE_POINTS, rng)
        tree = cKDTree(local.points)
        apart = tree.query(local.points[chosen], k=2)[0][:, 1].mean()
        back = max(0.0, float(tree.query(points)[0].mean() - apart)) * MARGIN
    return {
        "mean": mean / scale,
        "median": median / scale,
        "relative_mean": mean * MARGIN,
        "relative_median": median * MARGIN,
        "back_relative_mean": back,
    }


def summary(record: Mapping[str, Any]) -> str:
    """A few lines for people."""
    distance, curriculum = record["distance"], record["curriculum"]
    unit = "vertices" if record["kind"] == "mesh" else "points"
    lines = [f"{record['input']}: {record['kind']}, {record['num_rows']} {unit}"]
    if record["left_out"]:
        lines.append(f"{record['left_out']} rows left out: not finite, or a normal of length 0")
    if record["outside_cube"]:
        lines.append(f"{record['outside_cube']} points lie outside of what is meshed")
    steps = record["steps"]
    lines += [
        f"context: {record['context_points']} points, {curriculum['context_mode']}; {steps} "
        f"step{'' if steps == 1 else 's'} in {record['adapt_seconds']:.3f} s on {record['device']}",
        f"input to surface: mean {distance['mean']:.4g}, median {distance['median']:.4g} in its "
        f"units; {distance['relative_mean']:.4f} and {distance['relative_median']:.4f} of its "
        "bounding sphere's radius",
        f"written: {record['file']} and {record['file']}.json",
    ]
    if (back := distance["back_relative_mean"]) is not None:
        lines.insert(-1, f"surface to input: mean {back:.4f} of that radius")
    if max(distance["relative_mean"], back or 0.0) > FAR:
        lines.append(
            "note: that is far; look at the result. Does the input stand as the shapes of training "
            "did (here: y up), is it of their kind, and are these enough points?"
        )
    return "\n".join(lines)
