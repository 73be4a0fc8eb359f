"""How good the reconstructions in a folder are: measures of every shape, and yardsticks.

The Chamfer distance is the original's: the sum of the two mean squared nearest distances between
30000 points sampled on the reconstruction and the 30000 ground-truth surface points, in the frame
of the original mesh. All other measures are taken in the normalised frame; `tables.DEFINITIONS`
says what they are. Yardsticks put the numbers into perspective: the sampling floor (ground truth
against a second sample of itself), the nearest training shape, and the initialisation.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from tqdm import tqdm

from metasdf.data.names import ShapeName, read_split
from metasdf.data.samples import Samples
from metasdf.errors import InputError
from metasdf.evaluation.measures import IOU_POINTS, SURFACE_POINTS, iou_at, match
from metasdf.evaluation.tables import summarise
from metasdf.evaluation.yardsticks import (
    NearestShape,
    f_score_ceiling,
    match_halves,
    sampling_floor,
)
from metasdf.files import read_json
from metasdf.geometry.mesh import face_normals, sample_surface
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.normalisation import Normalisation
from metasdf.geometry.sdf import SurfaceTree
from metasdf.preparation.discover import MeshSource
from metasdf.reconstruction.fitting import shape_rng
from metasdf.reconstruction.split import RECORD

log = logging.getLogger(__name__)


def evaluate(
    folder: str | os.PathLike, data_source: str | os.PathLike | None = None, nearest: bool = True
) -> dict[str, Any]:
    """Measure a folder of reconstructions, as `reconstruct_split` writes it, shape by shape.

    A shape without reconstruction or without ground truth counts as failed and is logged by name,
    as are yardsticks that are missing; the others are measured all the same.

    Args:
        folder: holds reconstructions.json, or only <dataset>/<class>/<instance>.ply meshes.
        data_source: the data folder of the ground truth; None: the one that the contexts came from.
        nearest: also measure the nearest training shape.

    Returns:
        `tables.summarise` of a row for each shape, failures included: "chamfer" and the other
        measures with mean, median and std, "num_failed", "shapes", ...

    Raises:
        InputError: the folder holds no reconstructions, its record is broken, or the ground truth
            is neither recorded nor given.
    """
    folder = Path(folder)
    record = read_record(folder, data_source)
    data_source = record["data_source"]
    initialisation = training_shapes = None
    try:
        if record["initialisation"]:
            initialisation = load_mesh((folder / record["initialisation"]).resolve())
        if nearest and record["train_split"]:
            training_shapes = NearestShape(data_source, read_split(record["train_split"]))
    except InputError as error:
        log.warning("a yardstick is missing: %s", error)
    rows = []
    for entry in tqdm(record["shapes"], desc="evaluating", unit="shape", disable=None):
        row = {**entry, "chamfer": None, "floor": None}
        rows.append(row)
        if row["error"]:
            row["error"] = f"not reconstructed: {row['error']}"
        else:
            try:
                row.update(measure(folder, data_source, entry, initialisation, training_shapes))
            except InputError as error:
                row["error"] = str(error)
        if row["error"]:
            log.warning("failed: %s: %s", row["shape"], row["error"])
    return summarise(rows)


def read_record(folder: Path, data_source: str | os.PathLike | None) -> dict[str, Any]:
    """What to measure: reconstructions.json or, without one, every mesh in the folder.

    Returns:
        "shapes" (each with shape, file and error), "initialisation", "data_source", "train_split".

    Raises:
        InputError: see `evaluate`.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: is not a folder; run_reconstruct.py makes one")
    if (folder / RECORD).exists():
        record = read_json(folder / RECORD)
        try:
            for entry in record["shapes"]:
                _ = ShapeName(*entry["shape"].split("/")), entry["file"], entry["error"]
            return {
                "shapes": record["shapes"],
                "initialisation": record["initialisation"],
                "data_source": data_source or record["curriculum"]["data_source"],
                "train_split": record["curriculum"]["train_split"],
            }
        except (AttributeError, KeyError, TypeError):
            raise InputError(
                f"{folder / RECORD}: lacks entries; run run_reconstruct.py again"
            ) from None
    files = sorted(file.relative_to(folder) for file in folder.glob("*/*/[!.]*.ply"))
    if not files:
        raise InputError(
            f"{folder}: holds neither {RECORD} nor <dataset>/<class>/<instance>.ply meshes"
        )
    if data_source is None:
        raise InputError(f"{folder}: has no {RECORD}; say where the truth lies: --data_source DIR")
    shapes = [
        {"shape": file.with_suffix("").as_posix(), "file": str(file), "error": None}
        for file in files
    ]
    return {
        "shapes": shapes,
        "initialisation": None,
        "data_source": data_source,
        "train_split": None,
    }


def measure(
    folder: Path,
    data_source: str | os.PathLike,
    entry: Mapping[str, Any],
    initialisation: trimesh.Trimesh | None,
    training_shapes: NearestShape | None,
) -> dict[str, Any]:
    """Every measure of one reconstructed shape.

    Args:
        folder: holds its mesh.
        data_source: the data folder of the ground truth.
        entry: of the shape in reconstructions.json.
        initialisation: mesh of the initialisation in the normalised frame, a yardstick.
        training_shapes: to find the nearest, a yardstick.

    Raises:
        InputError: the mesh or the ground truth is missing or broken.
    """
    shape = ShapeName(*entry["shape"].split("/"))
    samples = Samples(data_source, shape)
    normalisation = samples.normalisation
    truth = normalisation.invert(samples.surface())
    if len(truth) < 2:
        raise InputError(f"{shape}: a single surface point is no ground truth")
    rng = shape_rng(0, shape)
    mesh, surface = load_mesh(folder / entry["file"]), samples.surface()
    points, faces = sample_surface(mesh, SURFACE_POINTS, rng)
    matching, halves = match(points, surface), match_halves(surface)
    to_original = 1 / normalisation.scale**2  # of squared distances
    result = {
        "chamfer": matching.chamfer() * to_original,
        "floor": sampling_floor(halves) * to_original,
        "chamfer_l1": matching.chamfer_l1(),
        "f_score": matching.f_score(),
        "f_score_ceiling": f_score_ceiling(halves),
    }
    if (reference := true_mesh(data_source, shape)) is not None:
        normals = face_normals(mesh, faces)
        true_normals = face_normals(reference, SurfaceTree(reference).nearest_faces(surface))
        result["normal_consistency"] = matching.normal_consistency(normals, true_normals)
        cube = shape_rng(1, shape).uniform(-1, 1, size=(IOU_POINTS, 3))
        result["iou"] = iou_at(mesh, reference, cube)
    if initialisation is not None:
        result["initialisation_chamfer"] = mesh_chamfer(initialisation, normalisation, truth, rng)
    if training_shapes is not None:
        name, distance = training_shapes.find(truth, normalisation)
        result |= {"nearest_training_shape": name, "nearest_training_chamfer": distance}
    return result


def true_mesh(data_source: str | os.PathLike, shape: ShapeName) -> trimesh.Trimesh | None:
    """The original mesh in the normalised frame; None if `.datasources.json` leads to none."""
    try:
        folder = read_json(Path(data_source, ".datasources.json"))[shape.dataset]
        mesh = load_mesh(MeshSource(Path(folder), shape).find_file())
        vertices = Samples(data_source, shape).normalisation.apply(mesh.vertices)
    except (InputError, KeyError, TypeError):
        return None
    mesh.vertices = vertices.astype(np.float32)
    return mesh


def mesh_chamfer(
    mesh: trimesh.Trimesh,
    normalisation: Normalisation,
    truth: np.ndarray,
    rng: np.random.Generator,
) -> float:
    """Chamfer distance of a mesh in the normalised frame to truth (n, 3) in the original frame."""
    points, _ = sample_surface(mesh, SURFACE_POINTS, rng)
    return match(normalisation.invert(points), truth).chamfer()
