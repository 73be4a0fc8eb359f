"""One shape of the user's own: a mesh, points or SDF samples -> a mesh in the file's frame.

    obj, ply, stl, off, glb   a mesh, or points where there are no faces; ply with normals
    xyz                       text, a point a row: x y z, or x y z nx ny nz
    npz                       points (n, 3), perhaps with normals (n, 3) or sdf (n,)
    npz                       pos, neg (n, 4): DeepSDF's samples, which are normalised already

The shape goes into the normalised frame as `preprocessing` puts meshes there, the model adapts to
it there, and the result comes back.
"""

from dataclasses import replace

import igl
import numpy as np
import trimesh
from scipy.spatial import cKDTree

from metasdf.data.samples import MAX_COORDINATE, Normalisation
from metasdf.errors import InputError
from metasdf.geometry.bodies import NoSolidError, find_body, sample_body_surface, sample_sdf
from metasdf.geometry.mesh import normalisation, points_normalisation, sample_surface
from metasdf.geometry.sampling import points_around
from metasdf.reconstruction.inputs import OwnShape

MIN_CANDIDATES = 20_000  # SDF samples from which a dense context is drawn, at least
MAX_CLOUD = 100_000  # oriented points used for signed distances, 7 s; a million take 100 s
NEIGHBOURS = 8  # of a point, whose distance tells how densely the surface was sampled


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
