"""Prepare PartNet's tables, chairs and cabinets, as unions of cuboids, for comparisons.

    python -m experiments.partnet FOLDER --out OUT [--train N] [--test N]

FOLDER holds, for each of table, chair and storage, <kind>_cuboids.npz and splits/<kind>_train.txt
and <kind>_val.txt, a list of ids each. Of a shape's cuboids, rows offsets[s] to offsets[s + 1] of
"cuboids" hold extents, centre and three unit axes; "ids" are the shapes' names. Written:

    OUT/meshes/<class>/<id>.off        the exact union; tables, chairs, cabinets; y is up
    OUT/data/                          as `metasdf preprocess --partial` writes it
    OUT/data/splits/<class>_{train,test}.json, and all_{train,test}.json with all classes
    OUT/partnet.json                   counts, seconds, what was left out and why

Training shapes are the first N of the lists to train on, test shapes of those to validate; by
default all of them. Finished files are left alone. The shapes' licence forbids commercial use.

Exit codes: 0 all shapes are there, 1 some were rejected (by name and reason), 2 bad arguments.
"""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from manifold3d import Manifold
from tqdm import tqdm

from experiments.tables import markdown_table
from metasdf.commands.command_line import CommandLine, whole_number
from metasdf.commands.console import run_command
from metasdf.data.names import PARTIAL_SAMPLES, ShapeName, write_split
from metasdf.data.npz import DAMAGED
from metasdf.errors import InputError
from metasdf.files import atomic_path, write_json
from metasdf.preparation.discover import find_meshes
from metasdf.preparation.pieces import union
from metasdf.preparation.preprocessor import USUAL_OUTPUTS, Settings, preprocess_meshes

DATASET = "partnet"
CLASSES = {"tables": "table", "chairs": "chair", "cabinets": "storage"}  # ours -> the files' names
PARTS = {"train": "train", "test": "val"}
THINNEST = 0.01  # extent of a cuboid; some are thinner, or 0


class Cuboids:
    """The shapes of one file as rows of cuboids, by id.

    Raises:
        InputError: the file is missing, or does not hold what it must.
    """

    def __init__(self, path: Path) -> None:
        try:
            with np.load(path, allow_pickle=False) as data:
                self.rows, offsets, ids = (data[key] for key in ("cuboids", "offsets", "ids"))
        except FileNotFoundError as error:
            raise InputError(f"{path}: there is no such file; is it the right folder?") from error
        except (KeyError, ValueError, *DAMAGED) as error:
            raise InputError(f"{path}: holds no cuboids, offsets and ids ({error})") from error
        kinds = (self.rows.dtype.kind, offsets.dtype.kind)
        shapes = self.rows.shape[1:] == (15,) and offsets.shape == (ids.size + 1,) and ids.ndim == 1
        if kinds not in (("f", "i"), ("f", "u")) or not shapes:
            raise InputError(f"{path}: its arrays are not numbers [C, 15], [S + 1] and names [S]")
        if offsets[0] != 0 or offsets[-1] != len(self.rows) or (np.diff(offsets) < 0).any():
            raise InputError(f"{path}: its offsets do not rise from 0 to the number of cuboids")
        self.path = path
        self.places = {str(name): slice(*offsets[i : i + 2]) for i, name in enumerate(ids)}

    def solid(self, name: str) -> Manifold:
        """The union of a shape's cuboids.

        Raises:
            InputError: there is no such shape, or its numbers are not finite.
        """
        if name not in self.places:
            raise InputError(f"{self.path}: holds no shape {name}")
        cuboids = self.rows[self.places[name]].astype(np.float64)
        if not len(cuboids) or not np.isfinite(cuboids).all():
            raise InputError(f"{self.path}: shape {name} has no cuboids, or some are not finite")
        return union([_cuboid(*np.split(row, [3, 6])) for row in cuboids])


def _cuboid(extents: np.ndarray, centre: np.ndarray, axes: np.ndarray) -> Manifold:
    turn = np.column_stack([axes.reshape(3, 3).T, centre])
    return Manifold.cube(np.maximum(extents, THINNEST).tolist(), True).transform(turn)


def read_list(path: Path, count: int | None) -> list[str]:
    """The first `count` ids of a list; None: all. Raises InputError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8").split()[:count]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read; is it the right folder?") from error


def write_meshes(folder: Path, out: Path, ids: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Write a mesh for each id of each class; those that cannot be made, and why, by name."""
    rejected = {}
    for category, names in ids.items():
        cuboids = Cuboids(folder / f"{CLASSES[category]}_cuboids.npz")
        for name in tqdm(names, desc=category, unit="mesh", disable=None):
            path = out / category / f"{name}.off"
            if path.exists():
                continue
            try:
                solid = cuboids.solid(name).to_mesh64()
            except InputError as error:
                rejected[f"{category}/{name}"] = str(error)
                continue
            mesh = trimesh.Trimesh(solid.vert_properties[:, :3], solid.tri_verts, process=False)
            with atomic_path(path) as temporary:
                mesh.export(temporary, file_type="off", digits=9)
    return rejected


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    classes: Sequence[str] = tuple(CLASSES),
    train: int | None = None,
    test: int | None = None,
    num_samples: int = 50_000,
    threads: int | None = None,
) -> dict[str, Any]:
    """Prepare the data set as the module's docstring says.

    Args:
        folder, out: FOLDER and OUT.
        classes: of CLASSES.
        train, test: the most shapes of each class; None: all.
        num_samples: SDF samples per shape.
        threads: meshes preprocessed at once; None: as many as there are cores.

    Returns:
        What OUT/partnet.json holds.

    Raises:
        InputError: a file of FOLDER is missing or broken, or OUT cannot be written.
    """
    start = time.perf_counter()
    folder, out = Path(folder), Path(out)
    counts = {"train": train, "test": test}
    ids = {
        category: {
            part: read_list(folder / "splits" / f"{CLASSES[category]}_{theirs}.txt", counts[part])
            for part, theirs in PARTS.items()
        }
        for category in classes
    }
    wanted = {category: [*parts["train"], *parts["test"]] for category, parts in ids.items()}
    names = {category: set(listed) for category, listed in wanted.items()}
    for category, listed in wanted.items():
        if len(names[category]) < len(listed):
            raise InputError(f"{folder / 'splits'}: lists some {category} twice, or in both lists")
    rejected = write_meshes(folder, out / "meshes", wanted)
    meshes = [
        mesh
        for mesh in find_meshes(out / "meshes", DATASET, list(classes))
        if mesh.name.instance in names[mesh.name.category]
    ]
    settings = Settings(outputs=(*USUAL_OUTPUTS, PARTIAL_SAMPLES), num_samples=num_samples)
    records = preprocess_meshes(meshes, out / "data", settings, threads=threads)
    usable = {name for name, record in records.items() if record.status != "rejected"}
    rejected |= {name: records[name].reason or "" for name in records if name not in usable}
    splits = _write_splits(ids, usable, out / "data" / "splits")
    summary = {
        "splits": splits,
        "rejected": rejected,
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_json(out / "partnet.json", summary)
    return summary


def _write_splits(
    ids: Mapping[str, Mapping[str, Sequence[str]]], usable: set[str], folder: Path
) -> dict[str, dict[str, int]]:
    """A split file for each class and part, and one of all classes; how many shapes each has."""
    counts: dict[str, dict[str, int]] = {category: {} for category in ids}
    for part in PARTS:
        joint = []
        for category, parts in ids.items():
            shapes = [ShapeName(DATASET, category, name) for name in sorted(parts[part])]
            shapes = [shape for shape in shapes if str(shape) in usable]
            write_split(folder / f"{category}_{part}.json", shapes)
            counts[category][part] = len(shapes)
            joint += shapes
        write_split(folder / f"all_{part}.json", joint)
    return counts


def main() -> int:
    """Run the command; the exit code."""
    parser = CommandLine(prog="python -m experiments.partnet", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--classes", nargs="+", choices=CLASSES, default=list(CLASSES))
    parser.add_argument("--train", type=whole_number, help="shapes of each class (default: all)")
    parser.add_argument("--test", type=whole_number, help="shapes of each class (default: all)")
    options = parser.parse()
    counts = {"train": options.train, "test": options.test}
    summary = prepare(options.folder, options.out, classes=options.classes, **counts)
    rows = [[c, str(n["train"]), str(n["test"])] for c, n in summary["splits"].items()]
    print(markdown_table(["class", "training", "test"], rows))
    for name, reason in summary["rejected"].items():
        print(f"rejected: {name}: {reason}")
    return 1 if summary["rejected"] else 0


if __name__ == "__main__":
    run_command(main)
