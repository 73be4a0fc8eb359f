"""Procedural shapes: the project's default data, which needs no download.

Tables and chairs, y up, about a metre in size; and "general" solids of every kind, in any rotation.
Each is made of solid pieces, so every mesh is watertight, oriented outward and a single body. A
shape depends only on (class, seed, index).

    metasdf shapes OUT_DIR --classes tables chairs --count 160 --seed 0
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
import trimesh
from tqdm import tqdm

from metasdf.errors import InputError
from metasdf.files import atomic_path
from metasdf.preparation.furniture import Chair, Table
from metasdf.preparation.general import General

DECIMALS = 7  # of coordinates, in memory and in files, so that a file holds exactly the mesh

Shape = Table | Chair | General
CLASSES: dict[str, type[Shape]] = {"tables": Table, "chairs": Chair, "general": General}


def shape_class(class_name: str) -> type[Shape]:
    """The class of shapes with that name. Raises InputError for an unknown one."""
    if class_name not in CLASSES:
        known = ", ".join(CLASSES)
        raise InputError(f"no class of shapes is called {class_name!r}; choose from: {known}")
    return CLASSES[class_name]


def draw_shape(class_name: str, seed: int, index: int) -> Shape:
    """Draw the parameters of one shape, which depend on the three arguments only.

    Args:
        class_name: a key of CLASSES.
        seed, index: not negative.

    Raises:
        InputError: the class is unknown.
    """
    kind = shape_class(class_name)
    rng = np.random.default_rng([*class_name.encode(), seed, index])
    return kind(**{f.name: f.metadata["draw"](rng) for f in dataclasses.fields(kind)})


def make_shape(class_name: str, seed: int, index: int) -> trimesh.Trimesh:
    """One shape as a watertight mesh, its bounding box centred at the origin.

    Coordinates are rounded to DECIMALS. Arguments and errors: `draw_shape`.
    """
    mesh = draw_shape(class_name, seed, index).solid().to_mesh64()
    vertices = mesh.vert_properties[:, :3]
    vertices = vertices - (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    vertices, faces = _without_short_edges(vertices.round(DECIMALS), mesh.tri_verts)
    return trimesh.Trimesh(vertices, faces, process=False)


def _without_short_edges(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices at equal positions become one; faces that thereby lose their area or volume go."""
    positions, numbers = np.unique(vertices, axis=0, return_inverse=True)
    if len(positions) == len(vertices):
        return vertices, faces
    faces = numbers.reshape(-1)[faces]
    faces = faces[(faces != np.roll(faces, 1, axis=1)).all(axis=1)]
    _, same, times = np.unique(
        np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True
    )
    faces = faces[times[same.reshape(-1)] == 1]  # two back to back enclose nothing
    used, numbers = np.unique(faces, return_inverse=True)
    return positions[used], numbers.reshape(-1, 3)


def write_shapes(
    folder: str | os.PathLike, class_name: str, count: int, seed: int = 0
) -> list[str]:
    """Write shapes 0 .. count - 1 as `<folder>/<class_name>/<class_name>_<index:04d>.obj`.

    Existing files are kept, so an interrupted call can be repeated; use another folder for another
    seed.

    Returns:
        The instance names (file names without suffix).

    Raises:
        InputError: the class is unknown, or the folder cannot be written.
    """
    names = [f"{class_name}_{index:04d}" for index in range(count)]
    for index, name in enumerate(tqdm(names, desc=class_name, disable=None)):
        path = Path(folder) / class_name / f"{name}.obj"
        if not path.exists():
            mesh = make_shape(class_name, seed, index)
            with atomic_path(path) as temporary:
                mesh.export(temporary, digits=DECIMALS, header=None, include_normals=False)
    return names
