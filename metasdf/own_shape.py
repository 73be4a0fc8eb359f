"""One shape of the user's own: a mesh, points or SDF samples -> a mesh in the file's frame.

    obj, ply, stl, off, glb   a mesh, or points where there are no faces; ply with normals
    xyz                       text, a point a row: x y z, or x y z nx ny nz
    npz                       points (n, 3), perhaps with normals (n, 3) or sdf (n,)
    npz                       pos, neg (n, 4): DeepSDF's samples, which are normalised already

The shape goes into the normalised frame as `preprocessing` puts meshes there, the model adapts to
it there, and the result comes back.
"""

import os
import re
import sys
import time
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import igl
import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree

from metasdf.data import (
    DAMAGED,
    MAX_COORDINATE,
    Normalisation,
    map_npz,
    read_normalisation,
    read_vertices,
)
from metasdf.errors import InputError
from metasdf.files import write_json
from metasdf.mesh import (
    MARGIN,
    MESH_SUFFIXES,
    checked_mesh,
    normalisation,
    points_normalisation,
    read_geometry,
    sample_surface,
)
from metasdf.meshing import NoSurfaceError, mesh_field
from metasdf.method import Method
from metasdf.reconstruction import add_noise, context_size, fit, shape_rng, write_ply
from metasdf.sdf import (
    Body,
    NoSolidError,
    SurfaceTree,
    find_body,
    points_around,
    sample_body_surface,
    sample_sdf,
)

MIN_POINTS = 10
FAR = 0.05  # of the bounding sphere's radius: so far from each other, something went wrong
SURFACE_POINTS = 30_000  # drawn on a mesh, and at most as many are measured
MIN_CANDIDATES = 20_000  # SDF samples from which a dense context is drawn, at least
MAX_CLOUD = 100_000  # oriented points used for signed distances, 7 s; a million take 100 s
NEIGHBOURS = 8  # of a point, whose distance tells how densely the surface was sampled


@dataclass(frozen=True)
class OwnShape:
    """What is known of a shape.

    Attributes:
        points: (n, 3) float64, on the surface unless `distances` says otherwise.
        normals: their unit normals (n, 3), outward.
        distances: their signed distances (n,), inside negative.
        mesh: the surface as read from the file.
        body: the solid that `mesh` bounds, if that has been looked into and it bounds one.
        is_normalised: whether the file is in the normalised frame by definition.
        left_out: rows of the file that were not finite or had a normal of no length.
    """

    points: np.ndarray
    normals: np.ndarray | None = None
    distances: np.ndarray | None = None
    mesh: trimesh.Trimesh | None = None
    body: Body | None = None
    is_normalised: bool = False
    left_out: int = 0

    @property
    def kind(self) -> str:
        if self.mesh is not None:
            return "mesh"
        if self.distances is not None:
            return "SDF samples"
        return "points" if self.normals is None else "points with normals"

    def extent(self) -> np.ndarray:
        """Points (n, 3) with the same bounding box as the shape, as far as that is known.

        Around a sample inside, a ball that reaches to the surface is inside as well.
        """
        if self.distances is None:
            return self.points
        inside = self.distances <= 0
        axes = np.concatenate([np.eye(3), -np.eye(3)])
        reach = -self.distances[inside, None, None] * axes
        return (self.points[inside, None] + reach).reshape(-1, 3)


# Reading.


def read_own_shape(path: str | os.PathLike) -> OwnShape:
    """Read a mesh, points or SDF samples, in the file's own frame.

    Raises:
        InputError: the file is missing, broken or of an unknown kind, or holds fewer than
            MIN_POINTS usable points.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if not path.is_file():
        what = "is a folder; name one file" if path.is_dir() else "there is no such file"
        raise InputError(f"{path}: {what}")
    if suffix == ".npz":
        return _read_npz(path)
    if suffix == ".xyz":
        return _read_xyz(path)
    if suffix not in MESH_SUFFIXES:
        known = " ".join((*MESH_SUFFIXES, ".xyz", ".npz"))
        raise InputError(f"{path}: is of no known kind; convert it to one of {known}")
    vertices, faces = read_geometry(path)
    if len(faces):
        mesh = checked_mesh(path, vertices, faces)
        return OwnShape(np.asarray(mesh.vertices), mesh=mesh)
    points = OwnShape(*read_vertices(path)) if suffix == ".ply" else OwnShape(vertices)
    return _usable(path, points)


def _read_xyz(path: Path) -> OwnShape:
    try:
        with open(path, encoding="utf-8") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of an empty file; told below
            rows = np.loadtxt(file, ndmin=2)
    except ValueError as error:
        row = re.search(r"row (\d+)", str(error))
        where = f" (row {row.group(1)}, counted from 0)" if row else ""
        raise InputError(
            f"{path}: is not a table of numbers{where}; want 3 or 6 in every row, blanks "
            "between, and no row that counts them"
        ) from error
    if rows.size == 0:
        raise InputError(f"{path}: holds no points")
    if rows.shape[1] not in (3, 6):
        raise InputError(f"{path}: has {rows.shape[1]} columns; want x y z, or x y z nx ny nz")
    points, normals = rows[:, :3], rows[:, 3:]
    with np.errstate(over="ignore"):
        length = np.linalg.norm(normals, axis=1)
    # Others keep colours there.
    is_unit = rows.shape[1] == 6 and 0.9 < np.nanmedian(length) < 1.1
    return _usable(path, OwnShape(points, normals if is_unit else None))


def _read_npz(path: Path) -> OwnShape:
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist()}
    except DAMAGED as error:
        raise InputError(f"{path}: is damaged or no npz file ({error})") from error
    if {"pos", "neg"} <= names:
        rows = np.concatenate([_numbers(path, name, 4) for name in ("pos", "neg")])
        return _usable(path, OwnShape(rows[:, :3], distances=rows[:, 3], is_normalised=True))
    if "points" not in names:
        held = ", ".join(sorted(names)) or "nothing"
        raise InputError(
            f"{path}: holds {held}; want pos and neg, or points, perhaps with normals or sdf"
        )
    points = _numbers(path, "points", 3)
    normals = _numbers(path, "normals", 3, len(points)) if "normals" in names else None
    distances = _numbers(path, "sdf", 1, len(points))[:, 0] if "sdf" in names else None
    return _usable(path, OwnShape(points, normals, distances))


def _numbers(path: Path, name: str, columns: int, rows: int | None = None) -> np.ndarray:
    """An array of an npz file as (n, columns) float64, n = `rows` if given."""
    array = map_npz(path, name)
    if columns == 1 and array.ndim == 1:
        array = array[:, None]
    is_real = np.issubdtype(array.dtype, np.floating) or np.issubdtype(array.dtype, np.integer)
    if not is_real or array.shape[1:] != (columns,) or rows not in (None, len(array)):
        want = f"[{rows or 'n'}, {columns}]"
        raise InputError(f"{path}: {name} is {array.dtype} {list(array.shape)}, want {want}")
    return np.asarray(array, np.float64)


def _usable(path: Path, shape: OwnShape) -> OwnShape:
    """The rows that are finite and whose normals, then made unit, have a length."""
    points, normals, distances = shape.points.astype(np.float64), shape.normals, shape.distances
    kept = np.isfinite(points).all(axis=1)
    if distances is not None:
        kept &= np.isfinite(distances)
    if normals is not None and normals.any():  # all 0: they were never computed
        with np.errstate(all="ignore"):
            normals = normals / np.linalg.norm(normals.astype(np.float64), axis=1, keepdims=True)
        kept &= np.isfinite(normals).all(axis=1)
    else:
        normals = None
    if kept.sum() < MIN_POINTS:
        raise InputError(
            f"{path}: holds {kept.sum()} usable points of {len(kept)}; at least {MIN_POINTS} are "
            "needed"
        )
    return replace(
        shape,
        points=points[kept],
        normals=None if normals is None else normals[kept],
        distances=None if distances is None else distances[kept],
        left_out=int((~kept).sum()),
    )


# Into the normalised frame.


def frame_of(shape: OwnShape) -> Normalisation:
    """The normalisation that `preprocessing` would give the shape.

    Raises:
        InputError: the shape is a point, or float32 cannot hold its coordinates.
    """
    if shape.is_normalised:
        return Normalisation(np.zeros(3), 1.0)
    if shape.mesh is not None:
        offset, scale = normalisation(shape.mesh)
    else:
        if len(shape.extent()) == 0:
            raise InputError("no sample lies inside; distances must be negative there")
        offset, scale = points_normalisation(shape.extent())
    return Normalisation(offset.astype(np.float64), float(scale))


def into_frame(shape: OwnShape, frame: Normalisation) -> OwnShape:
    """The shape in the normalised frame.

    Raises:
        InputError: the frame is not that of the shape.
    """
    if not shape.is_normalised:
        with np.errstate(over="ignore"):
            points = (shape.points + frame.offset) * frame.scale
        distances = None if shape.distances is None else shape.distances * frame.scale
        shape = replace(shape, points=points, distances=distances)
    outside = outside_cube(shape.extent())
    if not np.abs(shape.points).max() <= MAX_COORDINATE or outside.sum() > len(outside) / 2:
        raise InputError(
            "it lies outside of the cube [-1, 1]^3 once normalised, and only what is inside is "
            "meshed; give the --normalization that goes with it"
        )
    return shape


def with_body(
    shape: OwnShape, dense: bool, open_rule: str, num_points: int, rng: np.random.Generator
) -> OwnShape:
    """A normalised mesh with its `body`, and `num_points` points drawn on what is seen of that.

    If the mesh bounds no solid and the context is not `dense`, they are drawn on all faces.

    Raises:
        NoSolidError: the mesh bounds no solid, and a dense context needs one.
    """
    mesh = trimesh.Trimesh(shape.points, shape.mesh.faces, process=False)
    try:
        body = find_body(mesh, open_rule)
    except NoSolidError:
        if dense:
            raise
        return replace(shape, points=sample_surface(mesh, num_points, rng)[0])
    return replace(shape, body=body, points=sample_body_surface(body, num_points, rng))


def outside_cube(points: np.ndarray) -> np.ndarray:
    """Which of points (n, 3) lie outside [-1, 1]^3: (n,) bool."""
    return np.abs(points).max(axis=1) > 1


# The context.


def draw_context(
    shape: OwnShape, dense: bool, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """What the model sees of a shape in the normalised frame: x (n, 3), y (n, 1), float32.

    Dense: signed distances at points of DeepSDF's recipe, half outside, half inside. Otherwise
    surface points with distance 0; n < count where there are fewer.

    Raises:
        InputError: what is known of the shape does not tell this.
    """
    if dense:
        outside, inside = _signed_samples(shape, max(MIN_CANDIDATES, 2 * count), rng)
        half = count // 2
        rows = np.concatenate([_draw(outside, count - half, rng), _draw(inside, half, rng)])
    elif shape.distances is not None:
        raise InputError(
            "holds SDF samples, no surface points; use a model trained with --context_mode dense"
        )
    else:
        points = _draw(shape.points, min(count, len(shape.points)), rng)
        rows = np.column_stack([points, np.zeros(len(points))])
    rows = rows.astype(np.float32)
    return rows[:, :3], rows[:, 3:]


def _draw(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return rows[rng.choice(len(rows), count, replace=count > len(rows))]


def _signed_samples(
    shape: OwnShape, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows x, y, z, signed distance, outside and inside; (n, 4) and (m, 4), neither empty."""
    if shape.body is not None:
        return sample_sdf(shape.body, count, rng)
    points, distances = shape.points, shape.distances
    if distances is None:
        if shape.normals is None:
            raise InputError(
                "holds points without unit normals or distances, and a dense context needs one or "
                "the other; give them, or use a model trained with --context_mode levelset (with "
                "an auto-decoder, say --context_mode levelset)"
            )
        chosen = rng.permutation(len(points))[:MAX_CLOUD]
        surface, normals = points[chosen], shape.normals[chosen]
        points = points_around(lambda n: _draw(surface, n, rng), count, rng)
        distances = cloud_signed_distance(surface, normals, points)
    rows = np.column_stack([points, distances])
    outside, inside = rows[distances > 0], rows[distances <= 0]
    if len(outside) == 0 or len(inside) == 0:
        side = "outside" if len(outside) == 0 else "inside"
        raise InputError(
            f"no sample lies {side}; distances must be negative inside and positive outside"
        )
    return outside, inside


def cloud_signed_distance(
    points: np.ndarray, normals: np.ndarray, queries: np.ndarray
) -> np.ndarray:
    """Signed distances (m,) of queries (m, 3) to the surface that oriented points sample.

    The magnitude is the distance to the tangent plane of the nearest point (Hoppe et al. 1992,
    sec. 3.3), of which only a disc about the point counts: beyond it, where the surface ends or
    bends away, the plane says nothing. The sign is that of the winding number of all points
    (Barill et al. 2018): the side of a single tangent plane is wrong twice as often where
    the points are noisy. Both see a hole as closed by what is around it.

    Args:
        points: (n, 3); points at equal places count once.
        normals: their outward unit normals (n, 3).

    Raises:
        InputError: the normals point inward.
    """
    points, first = np.unique(points, axis=0, return_index=True)
    normals = np.ascontiguousarray(normals[first])
    queries = np.ascontiguousarray(queries, np.float64)
    tree = cKDTree(points)
    count = min(NEIGHBOURS, len(points) - 1)
    # A disc with the share of the area that is the point's own.
    radius = tree.query(points, [count + 1])[0][:, 0] / np.sqrt(count)
    gap, nearest = tree.query(queries)
    height = ((queries - points[nearest]) * normals[nearest]).sum(axis=1)
    aside = np.sqrt(np.maximum(gap**2 - height**2, 0))
    distance = np.hypot(height, np.maximum(aside - 2 * radius[nearest], 0))
    winding = igl.fast_winding_number(points, normals, np.pi * radius**2, queries)
    # Next to a point the winding number may be anything, so a few of the wrong sign say nothing.
    if (winding < -0.5).sum() > 2 * (winding > 0.5).sum():
        raise InputError("its normals point inward; turn them round")
    return np.where(winding > 0.5, -distance, distance)


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
