"""Prepare real shapes for comparisons: jets and tables of the Princeton Shape Benchmark.

    python -m experiments.princeton FOLDER --out OUT

FOLDER holds the benchmark (Shilane et al. 2004) in psb/: its classification files train.cla and
test.cla, and its meshes m<id>.off in any subfolders; optionally also more tables, of another
benchmark, as infomr/RectangleTable/*.obj. Written, in this order:

    OUT/meshes/<class>/<instance>.off      rotated: y is up, a jet's nose points along -z, a table
                                           is at least as long along x as along z
    OUT/contact.png                        all of them, to be looked at
    OUT/twins.json                         distances between shapes of similar extents
    OUT/data/                              as `metasdf preprocess --partial` writes it
    OUT/data/splits/<class>_{train,test}.json, and all_{train,test}.json with both classes
    OUT/princeton.json                     counts, seconds, what was left out and why

The split is by shape: shapes that are the same but for rotation, reflection or scale (twins) form a
group, of which the first that bounds a solid is kept. Test shapes are drawn from the groups whose
members all belong to the benchmark's test set; all others are training shapes.

Finished files are left alone; after a change of the rules below, choose another OUT.

Exit codes: 0 all shapes are there, 1 some were rejected (by name and reason), 2 bad arguments.
"""

import hashlib
import itertools
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import trimesh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from tqdm import tqdm

from experiments.tables import markdown_table
from metasdf.commands.command_line import CommandLine
from metasdf.commands.console import run_command
from metasdf.data.names import PARTIAL_SAMPLES, ShapeName, write_split
from metasdf.errors import InputError
from metasdf.evaluation.gallery import write_grid
from metasdf.files import atomic_path, read_json, write_json
from metasdf.geometry.mesh import face_normals, sample_surface
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.normalisation import normalise
from metasdf.geometry.rendering import UNIT_BALL, render
from metasdf.geometry.sdf import SurfaceTree
from metasdf.preparation.discover import find_meshes
from metasdf.preparation.preprocessor import USUAL_OUTPUTS, Record, Settings, preprocess_meshes

DATASET = "princeton"
CLASSES = {"fighter_jets": "fighter_jet", "tables": "table"}  # ours -> that of the .cla files
MORE_TABLES = Path("infomr", "RectangleTable")

# A table top: its largest thickness, and the smallest |cosine| between its normals and up.
TOP_THICKNESS, TOP_COSINE = 0.08, 0.99

# Shapes at smaller distances are twins. The distances of 48 pairs of tables are below 0.007, then
# none lies below 0.015. Jets show no such gap: pairs of the same mesh are below 0.001, followed by
# different models of the same aircraft, which count as twins only if they are as close as tables.
TWIN_DISTANCE = 0.01
TWIN_EXTENT = 0.1  # shapes whose sorted extents differ by more are not compared
TEST_FRACTION, MAX_TEST = 0.25, 20  # of each class

# Where the rules of `jet_rotation` and `table_rotation` fail: nose and up in the file's own axes;
# for a table the nose is any horizontal direction along one of its sides.
EXCEPTIONS: dict[str, tuple[Sequence[float], Sequence[float]]] = {
    "psb_m1182": ((-1, 1, 0), (0, 0, 1)),  # stands askew
    "psb_m1208": ((0, 0, 1), (0, 1, 0)),  # hangs more below the tail than the fin rises above it
    "psb_m1250": ((1, 0, 0), (0, 1, 0)),
    "psb_m1237": ((0, 0, -1), (0, 1, 0)),  # the wings are swept so far that the nose is wider
    "psb_m1248": ((-1, 0, 0), (0, 1, 0)),
    "psb_m902": ((1, 0, 0), (0, 1, 0)),  # its shelf is larger than its top
    "infomr_m902": ((1, 0, 0), (0, 1, 0)),
    "infomr_m764": ((1, 0, 0), (0, 1, 0)),  # a desk with a sloping top
}


# Finding the meshes


@dataclass(frozen=True)
class BenchmarkMesh:
    """One mesh file.

    Attributes:
        class_name, instance: its name here.
        file: where it is.
        part: "train" or "test", the benchmark's own split; None: of another benchmark.
    """

    class_name: str
    instance: str
    file: Path
    part: str | None

    @property
    def name(self) -> str:
        """class/instance"""
        return f"{self.class_name}/{self.instance}"


def read_classes(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Class -> (parent class, model numbers) of a .cla file.

    Raises:
        InputError: it cannot be read, or a line is malformed.
    """
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file}: cannot be read; FOLDER/psb must hold the benchmark's train.cla and test.cla"
        ) from error
    classes: dict[str, tuple[str, list[int]]] = {}
    numbers: list[int] = []
    for number, line in enumerate(lines[2:], start=3):  # after "PSB 1" and the counts
        words = line.split()
        if len(words) == 3:
            numbers = []
            classes[words[0]] = words[1], numbers
        elif len(words) == 1 and words[0].isdigit():
            numbers.append(int(words[0]))
        elif words:
            raise InputError(f"{file}, line {number}: {line[:40]!r} is neither class nor model")
    return classes


def model_numbers(classes: dict[str, tuple[str, list[int]]], name: str) -> list[int]:
    """The models of a class and of all of its subclasses, in file order."""
    numbers = list(classes[name][1]) if name in classes else []
    for child, (parent, _) in classes.items():
        if parent == name:
            numbers += model_numbers(classes, child)
    return numbers


def find_benchmark_meshes(folder: str | Path) -> list[BenchmarkMesh]:
    """The meshes of our CLASSES in a folder, the benchmark's first.

    Raises:
        InputError: the classification is missing or malformed, or a class has fewer than two
            meshes.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give the one that holds psb/")
    parts = {part: read_classes(folder / "psb" / f"{part}.cla") for part in ("train", "test")}
    files = {file.stem: file for file in sorted((folder / "psb").rglob("m*.off"))}
    meshes = [
        BenchmarkMesh(class_name, f"psb_m{number}", files[f"m{number}"], part)
        for class_name, name in CLASSES.items()
        for part, classes in parts.items()
        for number in model_numbers(classes, name)
        if f"m{number}" in files
    ]
    meshes += [
        BenchmarkMesh("tables", f"infomr_{file.stem}", file, None)
        for file in sorted((folder / MORE_TABLES).glob("*.obj"))
    ]
    counts = Counter(mesh.class_name for mesh in meshes)
    for class_name, name in CLASSES.items():
        if counts[class_name] < 2:
            raise InputError(f"{folder}: holds fewer than two meshes of the class {name}")
    return meshes


# Alignment. Points and directions are in the mesh's normalised frame; the rows of a rotation (3, 3)
# are the directions that become x, y and z.


def rotation_from(nose: Sequence[float], up: Sequence[float]) -> np.ndarray:
    """The rotation (3, 3) that maps nose to -z and up to y; they need not be of unit length."""
    nose, up = (np.asarray(v, float) / np.linalg.norm(v) for v in (nose, up))
    return np.stack([np.cross(nose, up), up, -nose])


def jet_rotation(points: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of a jet that is parallel to its file's axes.

    A jet is symmetric along the wings' axis, and longer than high. The nose is the end that is less
    wide; the fins rise above the rear.

    Args:
        points: surface samples (n, 3).
    """
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    points = points - middle
    extent = np.ptp(points, axis=0)
    tree = cKDTree(points)
    asymmetry = [tree.query(points * (1 - 2 * np.eye(3)[axis]))[0].mean() for axis in range(3)]
    side = int(np.argmin(asymmetry))
    length, height = sorted({0, 1, 2} - {side}, key=lambda axis: -extent[axis])
    position = points[:, length] / extent[length]
    widths = [np.abs(points[end, side]).mean() for end in (position < -0.3, position > 0.3)]
    nose = np.eye(3)[length] * (1 if widths[1] < widths[0] else -1)
    rear = points[points @ nose < -0.2 * extent[length], height]
    above, below = rear.max() - np.median(rear), np.median(rear) - rear.min()
    return rotation_from(nose, np.eye(3)[height] * (1 if above > below else -1))


def table_rotation(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The rotation (3, 3) of a table in any orientation.

    Up is the normal of the top: the slab of TOP_THICKNESS that holds the most surface with that
    normal. It points to the end that the top is closer to. Then the table is rotated about it into
    its tightest box, the longer side along x.

    Args:
        points, normals: surface samples (n, 3) with their unit normals (n, 3).
    """
    most, up = 0, np.eye(3)[1]
    for direction in np.concatenate([np.eye(3), normals[:: len(normals) // 100]]):
        height = points @ direction
        horizontal = np.sort(height[np.abs(normals @ direction) > TOP_COSINE])
        ends = np.searchsorted(horizontal, horizontal + TOP_THICKNESS)
        counts = ends - np.arange(len(horizontal))  # of the points in the slab above each
        if len(counts) and counts.max() > most * (1.02 if most else 1):  # the file's axes first
            most, low = counts.max(), horizontal[counts.argmax()]
            above = low + TOP_THICKNESS / 2 > (height.min() + height.max()) / 2
            up = direction if above else -direction
    return _align_sides(points, rotation_from(_horizontal(up), up))


def _horizontal(up: np.ndarray) -> np.ndarray:
    """A direction perpendicular to `up`, the closest to one of the file's axes."""
    axis = np.eye(3)[np.abs(up).argmin()]
    return axis - (axis @ up) * up


def _align_sides(points: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """A rotation with y up, followed by one about y into the tightest box, longer side along x."""
    x, _, z = rotation @ points.T
    angles = np.radians(np.arange(90))
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    width, depth = np.ptp(c * x + s * z, axis=1), np.ptp(c * z - s * x, axis=1)
    area = width * depth
    best = int(np.argmin(area))
    if area[best] > 0.95 * area[0]:  # it is aligned already, or round
        best = 0
    angle = angles[best] + (np.pi / 2 if depth[best] > 1.02 * width[best] else 0)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ rotation


def aligned(source: BenchmarkMesh) -> trimesh.Trimesh:
    """A benchmark mesh, normalised and aligned with our axes.

    Raises:
        InputError: the file cannot be read.
    """
    mesh = normalise(load_mesh(source.file))
    points, face = sample_surface(mesh, 4000, np.random.default_rng(0))
    if source.instance in EXCEPTIONS:
        rotation = rotation_from(*EXCEPTIONS[source.instance])
        if source.class_name == "tables":
            rotation = _align_sides(points, rotation)
    elif source.class_name == "tables":
        rotation = table_rotation(points, face_normals(mesh, face))
    else:
        rotation = jet_rotation(points)
    return normalise(trimesh.Trimesh(mesh.vertices @ rotation.T, mesh.faces, process=False))


def write_meshes(sources: Sequence[BenchmarkMesh], folder: Path) -> dict[str, str]:
    """Write the aligned meshes; returns name -> reason for those that cannot be read."""
    unreadable = {}
    for source in tqdm(sources, desc="aligning", disable=None):
        path = folder / f"{source.name}.off"
        if not path.exists():
            try:
                mesh = aligned(source)
            except InputError as error:
                unreadable[source.name] = str(error)
                continue
            with atomic_path(path) as temporary:
                mesh.export(temporary)
    return unreadable


def write_contact_sheet(
    meshes: dict[str, trimesh.Trimesh], path: Path, size: int = 160, columns: int = 16
) -> None:
    """Render all meshes, by name, into one PNG file; each class starts a new row.

    size: pixels of one picture. columns: pictures in a row.
    """
    cells = [
        (name, render(mesh, size, frame=UNIT_BALL))
        for name, mesh in tqdm(meshes.items(), desc="drawing", disable=None)
    ]
    rows = []
    for _, group in itertools.groupby(cells, key=lambda cell: cell[0].split("/")[0]):
        row = [(name.split("/")[1], picture) for name, picture in group]
        rows += [row[i : i + columns] for i in range(0, len(row), columns)]
    write_grid(path, rows)


# Twins

# The 48 rotations and reflections that map the axes onto each other, (48, 3, 3).
SYMMETRIES = np.array(
    [
        np.eye(3)[list(order)] * np.array(signs)[:, None]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
)


class MeshDescription:
    """What it takes to compare a mesh, in the normalised frame, with others.

    Attributes:
        extent: sorted sizes of the bounding box (3,).
        points: surface samples (count, 3).
        tree: for distances to the surface.
    """

    def __init__(self, mesh: trimesh.Trimesh, count: int = 300):
        self.extent = np.sort(np.ptp(mesh.vertices, axis=0))
        self.points = sample_surface(mesh, count, np.random.default_rng(0))[0]
        self.tree = SurfaceTree(mesh)


def twin_distance(a: MeshDescription, b: MeshDescription) -> float:
    """Mean distance from samples of each surface to the other, in the best of 48 orientations.

    Distances between the samples tell which few of the SYMMETRIES are worth an exact measurement.
    """
    rough = cKDTree(b.points).query((a.points @ SYMMETRIES).reshape(-1, 3))[0].reshape(48, -1)
    exact = [
        b.tree.nearest(a.points @ s)[0].mean() + a.tree.nearest(b.points @ s.T)[0].mean()
        for s in SYMMETRIES[np.argsort(rough.mean(axis=1))[:4]]
    ]
    return float(min(exact) / 2)


def pairwise_distances(meshes: dict[str, trimesh.Trimesh]) -> list[tuple[str, str, float]]:
    """Pairs of names of one class and of similar extents, with their `twin_distance`, sorted by it.

    meshes: by name, class/instance.
    """
    described = {name: MeshDescription(mesh) for name, mesh in meshes.items()}
    pairs = [
        (a, b)
        for a, b in itertools.combinations(meshes, 2)
        if a.split("/")[0] == b.split("/")[0]
        and np.abs(described[a].extent - described[b].extent).max() < TWIN_EXTENT
    ]
    distances = [
        (a, b, round(twin_distance(described[a], described[b]), 5))
        for a, b in tqdm(pairs, desc="comparing", disable=None)
    ]
    return sorted(distances, key=lambda pair: pair[2])


def group_twins(names: Sequence[str], pairs: Sequence[tuple[str, str, float]]) -> list[list[str]]:
    """Groups of names that twins connect, directly or through others; in the order of `names`.

    pairs: as `pairwise_distances` returns them.
    """
    index = {name: i for i, name in enumerate(names)}
    twins = [(index[a], index[b]) for a, b, distance in pairs if distance < TWIN_DISTANCE]
    rows, columns = np.array(twins, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(names)))
    _, labels = connected_components(graph, directed=False)
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(int(label), []).append(name)
    return list(groups.values())


# Splits


def split(
    groups: Sequence[Sequence[str]], usable: set[str], benchmark_parts: dict[str, str | None]
) -> dict[str, dict[str, list[str]]]:
    """One shape of each group: class -> {"train": instances, "test": instances}.

    Args:
        groups: of twins, names class/instance.
        usable: those that bound a solid; a group without any is left out.
        benchmark_parts: by name, see `BenchmarkMesh.part`.
    """
    kept: dict[str, list[str]] = {class_name: [] for class_name in CLASSES}
    testable = set()
    for group in groups:
        name = next((name for name in group if name in usable), None)
        if name is not None:
            kept[name.split("/")[0]].append(name)
            parts_of_group = {benchmark_parts[member] for member in group}
            if parts_of_group <= {"test", None} and benchmark_parts[group[0]]:
                testable.add(name)
    parts = {}
    for class_name, names in kept.items():
        shuffled = sorted(
            testable & set(names), key=lambda name: hashlib.sha256(name.encode()).digest()
        )
        test = set(shuffled[: min(round(TEST_FRACTION * len(names)), MAX_TEST)])
        parts[class_name] = {
            part: sorted(name.split("/")[1] for name in names if (name in test) == (part == "test"))
            for part in ("train", "test")
        }
    return parts


def write_splits(parts: dict[str, dict[str, list[str]]], folder: Path) -> None:
    """Write <class>_<part>.json for each class and all_<part>.json for all."""
    for part in ("train", "test"):
        shapes = {c: [ShapeName(DATASET, c, name) for name in parts[c][part]] for c in parts}
        for class_name, names in shapes.items():
            write_split(folder / f"{class_name}_{part}.json", names)
        write_split(folder / f"all_{part}.json", list(itertools.chain(*shapes.values())))


# The command


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    num_samples: int = 50_000,
    threads: int | None = None,
) -> dict:
    """Prepare the data set as the module's docstring says.

    Args:
        folder, out: FOLDER and OUT.
        num_samples: SDF samples per shape.
        threads: meshes preprocessed at once; None: as many as there are cores.

    Returns:
        What OUT/princeton.json holds.

    Raises:
        InputError: FOLDER is not laid out as it must be, or OUT cannot be written.
    """
    start = time.perf_counter()
    out = Path(out)
    sources = find_benchmark_meshes(folder)
    rejected = write_meshes(sources, out / "meshes")
    names = [source.name for source in sources if source.name not in rejected]
    contact, twins_file = out / "contact.png", out / "twins.json"
    if not (contact.exists() and twins_file.exists()):
        meshes = {name: load_mesh(out / "meshes" / f"{name}.off") for name in names}
        if not contact.exists():
            write_contact_sheet(meshes, contact)
        if not twins_file.exists():
            write_json(twins_file, pairwise_distances(meshes))
    groups = group_twins(names, read_json(twins_file))

    found = find_meshes(out / "meshes", DATASET, list(CLASSES))
    usable = [mesh for mesh in found if f"{mesh.name.category}/{mesh.name.instance}" in names]
    settings = Settings(outputs=(*USUAL_OUTPUTS, PARTIAL_SAMPLES), num_samples=num_samples)
    records = preprocess_meshes(usable, out / "data", settings, threads=threads)
    rejected |= _rejected(records)
    benchmark_parts = {source.name: source.part for source in sources}
    parts = split(groups, set(names) - set(rejected), benchmark_parts)
    write_splits(parts, out / "data" / "splits")

    summary = {
        "files": Counter(source.class_name for source in sources),
        "shapes": Counter(group[0].split("/")[0] for group in groups),
        "splits": {c: {part: len(parts[c][part]) for part in parts[c]} for c in parts},
        "twins": [group for group in groups if len(group) > 1],
        "rejected": rejected,
        "seconds": round(time.perf_counter() - start, 1),
    }
    write_json(out / "princeton.json", summary)
    return summary


def _rejected(records: dict[str, Record]) -> dict[str, str]:
    """class/instance -> reason, from the records of dataset/class/instance."""
    return {
        name.partition("/")[2]: record.reason
        for name, record in records.items()
        if record.status == "rejected"
    }


def main() -> int:
    """Run the command; the exit code."""
    parser = CommandLine(prog="python -m experiments.princeton", description=__doc__)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--out", required=True)
    parser.add_argument("--num_samples", type=int, default=50_000, help="SDF samples per shape")
    parser.add_argument("--threads", type=int, help="meshes at once (default: the number of cores)")
    options = parser.parse()
    summary = prepare(
        options.folder, options.out, num_samples=options.num_samples, threads=options.threads
    )
    lines = []
    for class_name, parts in summary["splits"].items():
        counts = summary["files"][class_name], summary["shapes"][class_name], *parts.values()
        lines.append([class_name, *map(str, counts)])
    print(markdown_table(["class", "files", "different shapes", "training", "test"], lines))
    print(f"{len(summary['rejected'])} files rejected; see {options.out}/princeton.json")
    return 1 if summary["rejected"] else 0


if __name__ == "__main__":
    run_command(main)
