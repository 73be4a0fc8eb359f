"""Shape input -> the context that a model adapts to, in the normalised frame."""

from dataclasses import replace

import numpy as np
import trimesh
from scipy.spatial import cKDTree

from metasdf.data.formats import MAX_COORDINATE
from metasdf.errors import InputError
from metasdf.geometry.bodies import NoSolidError, find_body
from metasdf.geometry.body_sampling import sample_body_surface, sample_sdf
from metasdf.geometry.mesh import sample_surface
from metasdf.geometry.normalisation import Normalisation
from metasdf.geometry.point_normals import disc_radii, oriented_normals, winding_numbers
from metasdf.geometry.sampling import points_around
from metasdf.reconstruction.inputs import ShapeInput
from metasdf.reconstruction.judging import held_out_count

MIN_SDF_SAMPLES = 20_000  # the least number of SDF samples that a dense context is drawn from
MAX_CLOUD_POINTS = 100_000  # oriented points used for signed distances: 7 s; a million take 100 s
MAX_ORIENTED = 30_000  # points whose normals are estimated: 5 s
AVERAGED = 16  # nearest points whose planes tell a distance, where points are noisy
AGREEING = 0.5  # cosine between normals from which on planes are of the same part
WIDEST = 0.03  # Gaussian that weighs them, in the normalised frame
NEIGHBOURS = 8  # nearest neighbours whose distance tells the local sampling density


# Normalised frame


def input_normalisation(shape: ShapeInput) -> Normalisation:
    """The normalisation that preprocessing would give the shape.

    Raises:
        InputError: all points are the same, float32 cannot hold the coordinates, or no SDF sample
            lies inside.
    """
    if shape.is_normalised:
        return Normalisation(np.zeros(3), 1.0)
    if shape.mesh is not None:
        return Normalisation.of_mesh(shape.mesh)
    if len(shape.extent()) == 0:
        raise InputError("no sample lies inside; distances must be negative there")
    return Normalisation.of_points(shape.extent())


def normalise_input(shape: ShapeInput, normalisation: Normalisation) -> ShapeInput:
    """The shape in the normalised frame.

    Raises:
        InputError: most of it lies outside of the cube [-1, 1]^3 there, so the normalisation is
            that of another shape.
    """
    if shape.is_normalised:
        shape = replace(shape, points=normalisation.turn(shape.points))
    else:
        points, mesh = normalisation.apply(shape.points), shape.mesh
        normals, distances = shape.normals, shape.distances
        if mesh is not None:
            mesh = trimesh.Trimesh(points, mesh.faces, process=False)
        if normals is not None:
            normals = normalisation.turn(normals)
        if distances is not None:
            distances = distances * normalisation.scale
        shape = replace(shape, points=points, mesh=mesh, normals=normals, distances=distances)
    outside = outside_cube(shape.extent())
    if not np.abs(shape.points).max() <= MAX_COORDINATE or outside.sum() > len(outside) / 2:
        raise InputError(
            "it lies outside of the cube [-1, 1]^3 once normalised, and only what is inside is "
            "meshed; give the --normalization that goes with it"
        )
    return shape


def outside_cube(points: np.ndarray) -> np.ndarray:
    """Whether each of points (n, 3) lies outside of the cube [-1, 1]^3: (n,) bool."""
    return np.abs(points).max(axis=1) > 1


# Meshes


def with_body(shape: ShapeInput, open_rule: str, required: bool) -> ShapeInput:
    """A normalised mesh with the solid that it bounds, if any, as its `body`.

    Raises:
        NoSolidError: the mesh bounds no solid, and one is required.
    """
    try:
        return replace(shape, body=find_body(shape.mesh, open_rule))
    except NoSolidError:
        if required:
            raise
        return shape


def with_surface_points(shape: ShapeInput, count: int, rng: np.random.Generator) -> ShapeInput:
    """A normalised mesh with `count` random points on its surface, uniform by area, as `points`.

    Of a mesh with a `body` they lie on what is visible of that, else on all faces.
    """
    if shape.body is None:
        return replace(shape, points=sample_surface(shape.mesh, count, rng)[0])
    return replace(shape, points=sample_body_surface(shape.body, count, rng))


# Points


def with_normals(shape: ShapeInput, rng: np.random.Generator) -> ShapeInput:
    """Points that came without normals with estimated ones; of more than MAX_ORIENTED, so many."""
    chosen = rng.permutation(len(shape.points))[:MAX_ORIENTED]
    points = shape.points[chosen]
    return replace(shape, points=points, normals=oriented_normals(points), normals_estimated=True)


# Contexts


def draw_context(
    shape: ShapeInput, dense: bool, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The context of a shape in the normalised frame, and what is held out: rows x, y, z, distance.

    Dense: signed distances at points of DeepSDF's recipe, half of them outside, half inside.
    Otherwise surface points with distance 0; n < count where there are fewer.

    Returns:
        (n, 4) and (m, 4), float32; m = `held_out_count(n)`.

    Raises:
        InputError: the shape gives no signed distances, or no surface points.
    """
    extra = held_out_count(count)
    if dense:
        outside, inside = _sdf_samples(shape, max(MIN_SDF_SAMPLES, 2 * count), rng)
        outside, outside_held = _split_rows(outside, count - count // 2, extra - extra // 2, rng)
        inside, inside_held = _split_rows(inside, count // 2, extra // 2, rng)
        rows = np.concatenate([outside, inside])
        held_out = np.concatenate([outside_held, inside_held])
    elif shape.distances is not None:
        raise InputError(
            "holds SDF samples, no surface points; use a model trained with --context_mode dense"
        )
    else:
        points = np.column_stack([shape.points, np.zeros(len(shape.points))])
        if len(points) < count + extra:
            extra = held_out_count(len(points))
            count = len(points) - extra
        rows, held_out = _split_rows(points, count, extra, rng)
    return rows.astype(np.float32), held_out.astype(np.float32)


def _split_rows(
    rows: np.ndarray, count: int, extra: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` rows, and `extra` others; with replacement only where there are too few."""
    order = rng.permutation(len(rows))
    extra = min(extra, len(rows) // 2)
    held_out, rest = order[:extra], order[extra:]
    chosen = rest[:count] if count <= len(rest) else rng.choice(rest, count)
    return rows[chosen], rows[held_out]


def _draw_rows(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw `count` rows, with replacement only where there are fewer."""
    return rows[rng.choice(len(rows), count, replace=count > len(rows))]


def _sdf_samples(
    shape: ShapeInput, count: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows x, y, z, signed distance outside (n, 4) and inside (m, 4); neither is empty."""
    if shape.body is not None:
        return sample_sdf(shape.body, count, rng)
    points, distances = shape.points, shape.distances
    if distances is None:
        chosen = rng.permutation(len(points))[:MAX_CLOUD_POINTS]
        surface, normals = points[chosen], shape.normals[chosen]
        points = points_around(lambda n: _draw_rows(surface, n, rng), count, rng)
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
    """Signed distances (m,) of queries (m, 3) to the surface sampled by an oriented point cloud.

    The magnitude is the distance to the tangent plane of the nearest point (Hoppe et al. 1992,
    sec. 3.3), limited to a disc around that point: where the surface ends or bends away, its plane
    says nothing. Of noisy points it is the mean over some of the nearest ones, weighed by a
    Gaussian (as of Kolluri 2005) that is the wider, the more points lie off their neighbours'
    planes. The sign is that of the winding number of all points (Barill et al. 2018); the side of
    the nearest tangent plane is wrong twice as often on noisy points. Both close holes from their
    surroundings. Within the width of the Gaussian the sign is that of the mean.

    Args:
        points: (n, 3); points at equal positions count once.
        normals: their outward unit normals (n, 3).

    Raises:
        InputError: the normals point inward.
    """
    points, first = np.unique(points, axis=0, return_index=True)
    normals = np.ascontiguousarray(normals[first])
    queries = np.ascontiguousarray(queries, np.float64)
    radius = disc_radii(points, NEIGHBOURS)
    tree = cKDTree(points)
    to_point, nearest = tree.query(queries, k=min(AVERAGED, len(points)))
    width = _smoothing(points, normals, radius, tree) * radius[nearest[:, 0]]
    width = np.minimum(width, WIDEST)
    shares = np.exp((to_point[:, :1] ** 2 - to_point**2) / (2 * width[:, None] ** 2))
    # Planes that face another way are of another part of the surface.
    shares *= (normals[nearest] * normals[nearest[:, :1]]).sum(axis=2) > AGREEING
    shares /= shares.sum(axis=1, keepdims=True)
    to_plane = ((queries[:, None] - points[nearest]) * normals[nearest]).sum(axis=2)
    along_plane = np.sqrt(np.maximum(to_point**2 - to_plane**2, 0))
    beyond = (shares * np.maximum(along_plane - 2 * radius[nearest], 0)).sum(axis=1)
    to_plane = (shares * to_plane).sum(axis=1)
    distance = np.hypot(to_plane, beyond)
    winding = winding_numbers(points, normals, radius, queries)
    # Next to a point the winding number may be anything, so a few of the wrong sign say nothing.
    if (winding < -0.5).sum() > 2 * (winding > 0.5).sum():
        raise InputError("its normals point inward; turn them round")
    inside = np.where(to_point[:, 0] < width, to_plane < 0, winding > 0.5)
    return np.where(inside, -distance, distance)


def _smoothing(points: np.ndarray, normals: np.ndarray, radius: np.ndarray, tree: cKDTree) -> float:
    """How wide to smooth, in radii of the points' discs; next to nothing for clean points.

    It rises from 0 to 2 as the median distance of a point's neighbours from its plane rises from
    0.2 to 0.7 of the median radius.
    """
    _, around = tree.query(points, k=min(NEIGHBOURS + 1, len(points)))
    off = np.abs(((points[around] - points[:, None]) * normals[:, None]).sum(axis=2))
    agreeing = (normals[around] * normals[:, None]).sum(axis=2) > AGREEING
    agreeing[:, 0] = False  # the point itself
    noise = np.median(off[agreeing]) / np.median(radius) if agreeing.any() else 0.0
    return float(np.clip(4 * (noise - 0.2), 1e-3, 2))
