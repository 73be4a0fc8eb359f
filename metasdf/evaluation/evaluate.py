"""How good reconstructions are: Chamfer distance and other measures, with yardsticks beside them.

The Chamfer distance is the original's: the SUM of the two mean SQUARED nearest distances between
30000 points sampled on the reconstruction and the 30000 ground-truth surface points, in the
frame of the original mesh. Yardsticks say what a number means: the sampling floor (truth against
a second sample of the truth), the nearest training shape, and the un-adapted initialisation. All
other measures are taken in the normalised frame; DEFINITIONS says what they are.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from tqdm import tqdm

from metasdf.data.names import ShapeName, read_split
from metasdf.data.samples import Normalisation, Samples
from metasdf.errors import InputError
from metasdf.evaluation.measures import (
    F_SCORE_THRESHOLD,
    Matching,
    chamfer,
    chamfer_l1,
    f_score,
    iou,
    match,
    normal_consistency,
)
from metasdf.evaluation.tables import summarise
from metasdf.files import read_json
from metasdf.geometry.mesh import face_normals, sample_surface
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.sdf import SurfaceTree
from metasdf.preparation.discover import Shape
from metasdf.reconstruction.fitting import shape_rng
from metasdf.reconstruction.split import RECORD

SURFACE_POINTS = 30_000
SCREENING_POINTS = 1000
SCREENED = 5


def match_halves(truth: np.ndarray) -> Matching:
    """A random half of the truth (n, 3) against the other: a second sample is not on disk."""
    order = np.random.default_rng(0).permutation(len(truth))
    half = len(truth) // 2
    return match(truth[order[:half]], truth[order[half : 2 * half]])


def sampling_floor(halves: Matching) -> float:
    """Chamfer of a perfect reconstruction, truth against a second sample, from `match_halves`.

    Squared nearest distances on a surface fall as 1 / n, hence the half for n against n points.
    """
    return chamfer(halves) / 2


def f_score_ceiling(halves: Matching) -> float:
    """F-score of a perfect reconstruction, truth against a second sample, from `match_halves`.

    Half as many points lie sqrt(2) times as far apart, hence that threshold.
    """
    return f_score(halves, F_SCORE_THRESHOLD * np.sqrt(2))


def true_mesh(data_source: str | os.PathLike, shape: ShapeName) -> trimesh.Trimesh | None:
    """The true mesh in the normalised frame; None if `.datasources.json` leads to none."""
    try:
        folder = read_json(Path(data_source, ".datasources.json"))[shape.dataset]
        mesh = load_mesh(Shape(Path(folder), *shape).mesh_file())
        mesh.vertices = Samples(data_source, shape).normalisation.apply(mesh.vertices)
    except (InputError, KeyError, TypeError):
        return None
    return mesh


def mesh_chamfer(
    mesh: trimesh.Trimesh,
    normalisation: Normalisation,
    truth: np.ndarray,
    rng: np.random.Generator,
) -> float:
    """Chamfer of a mesh in the normalised frame against truth (n, 3) in the original frame."""
    points, _ = sample_surface(mesh, SURFACE_POINTS, rng)
    return chamfer(match(normalisation.invert(points), truth))


class NearestShape:
    """Finds the shape of a set that is closest to another in Chamfer distance.

    The set is screened with few points; the most promising are measured with all of theirs.
    """

    def __init__(self, data_source: str | os.PathLike, shapes: Sequence[ShapeName]) -> None:
        self.names, self.surfaces = [], []
        for shape in shapes:
            try:
                self.surfaces.append(Samples(data_source, shape).surface())
                self.names.append(str(shape))
            except InputError as error:
                print(f"left out: {shape}: {error}", file=sys.stderr)
        if not self.surfaces:
            raise InputError(f"{data_source}: no training shape has surface samples")

    def find(self, truth: np.ndarray, normalisation: Normalisation) -> tuple[str, float]:
        """Name and Chamfer of the nearest shape, laid over truth (n, 3) in its own frame."""
        few = truth[:SCREENING_POINTS]
        rough = [
            chamfer(match(normalisation.invert(surface[:SCREENING_POINTS]), few))
            for surface in self.surfaces
        ]
        distance, best = min(
            (chamfer(match(normalisation.invert(self.surfaces[i]), truth)), i)
            for i in np.argsort(rough)[:SCREENED]
        )
        return self.names[best], distance


def evaluate_folder(
    folder: str | os.PathLike, data_source: str | None = None, nearest: bool = True
) -> tuple[dict[str, Any], int]:
    """Measure a folder that run_reconstruct.py wrote: its results, and how many shapes failed.

    data_source: where the ground truth lies, if not where the reconstruction took its context.
    nearest: also measure the nearest training shape. A shape without reconstruction or without
    ground truth is reported and counted as failed; the others are measured all the same.
    """
    folder = Path(folder)
    record = read_record(folder, data_source)
    data_source = record["data_source"]
    initialisation = training = None
    try:  # yardsticks: without them the shapes are measured all the same
        if record["initialisation"]:
            initialisation = load_mesh(folder / record["initialisation"])
        if nearest and record["train_split"]:
            training = NearestShape(data_source, read_split(record["train_split"]))
    except InputError as error:
        print(f"a yardstick is missing: {error}", file=sys.stderr)
    rows = []
    progress = tqdm(record["shapes"], desc="evaluating", unit="shape", disable=None)
    for entry in progress:
        row = {**entry, "chamfer": None, "floor": None}
        rows.append(row)
        if row["error"]:
            row["error"] = f"not reconstructed: {row['error']}"
        else:
            try:
                row.update(measure(folder, data_source, entry, initialisation, training))
            except InputError as error:
                row["error"] = str(error)
        if row["error"]:
            progress.write(f"failed: {row['shape']}: {row['error']}", file=sys.stderr)
    return summarise(rows), sum(1 for row in rows if row["error"])


def measure(
    folder: Path,
    data_source: str,
    entry: Mapping[str, Any],
    initialisation: trimesh.Trimesh | None,
    training: NearestShape | None,
) -> dict[str, Any]:
    """All distances of one reconstructed shape."""
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
        "chamfer": chamfer(matching) * to_original,
        "floor": sampling_floor(halves) * to_original,
        "chamfer_l1": chamfer_l1(matching),
        "f_score": f_score(matching),
        "f_score_ceiling": f_score_ceiling(halves),
    }
    if (true := true_mesh(data_source, shape)) is not None:
        ours = face_normals(mesh, faces)
        theirs = face_normals(true, SurfaceTree(true).nearest_faces(surface))
        result["normal_consistency"] = normal_consistency(matching, ours, theirs)
        result["iou"] = iou(mesh, true, shape_rng(1, shape))
    if initialisation is not None:
        result["initialisation_chamfer"] = mesh_chamfer(initialisation, normalisation, truth, rng)
    if training is not None:
        name, distance = training.find(truth, normalisation)
        result |= {"nearest_training_shape": name, "nearest_training_chamfer": distance}
    return result


def read_record(folder: Path, data_source: str | None) -> dict[str, Any]:
    """What to measure: reconstructions.json, or, without one, every mesh in the folder."""
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
