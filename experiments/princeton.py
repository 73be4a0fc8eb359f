"""Prepare real shapes to compare methods on: jets and tables of the Princeton Shape Benchmark.

    princeton.py FOLDER --out OUT

FOLDER holds the benchmark (Shilane et al. 2004) in psb/: its classification files train.cla and
test.cla, and its meshes m<id>.off in any subfolders; and, where at hand, more tables of another
benchmark as infomr/RectangleTable/*.obj. Written, in this order:

    OUT/meshes/<class>/<instance>.off      turned: y is up, a jet's nose points along -z, a table
                                           is at least as long along x as along z
    OUT/contact.png                        all of them; look at it
    OUT/twins.json                         how far shapes of like size are from each other
    OUT/data/                              as 3D/scripts/preprocess.py --partial writes it
    OUT/data/splits/<class>_{train,test}.json, and all_{train,test}.json with both classes
    OUT/princeton.json                     counts, seconds, what was left out and why

The split is by shape: shapes that are the same but for a turn, a mirror or their size (twins) form
a group, of which the first that bounds a solid is kept. Test shapes are drawn from the groups of
which the benchmark holds all members for testing; all others are for training.

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

from metasdf.commands.arguments import CommandLine
from metasdf.data.names import ShapeName, write_split
from metasdf.data.samples import PARTIAL_SAMPLES
from metasdf.errors import InputError, run_command
from metasdf.evaluation.gallery import write_grid
from metasdf.files import atomic_path, read_json, write_json
from metasdf.geometry.drawing import UNIT_BALL, render
from metasdf.geometry.mesh import face_normals, normalise, sample_surface
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.sdf import SurfaceTree
from metasdf.preparation.discover import find_shapes
from metasdf.preparation.preprocess import USUAL_OUTPUTS, Record, Settings, preprocess

DATASET = "princeton"
CLASSES = {"fighter_jets": "fighter_jet", "tables": "table"}  # ours -> that of the .cla files
MORE_TABLES = Path("infomr", "RectangleTable")

SLAB, LEVEL = 0.08, 0.99  # a table top: its height, and the least cosine of its normals

# Twins are nearer. Of the pairs of tables, 48 are nearer than 0.007, none lies between there and
# 0.015. Jets show no such gap: pairs of the same mesh are below 0.001, then come models of the same
# aircraft by different hands, which count as twins only where they are as near as tables are.
TWIN_DISTANCE = 0.01
TWIN_EXTENT = 0.1  # shapes whose sorted extents differ by more are not compared
TEST_SHARE, MAX_TEST = 0.25, 20  # of each class

# Where the rules of `jet_axes` and `table_axes` fail: nose and up in the file's own axes; for a
# table the nose is any level direction along a side of it.
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


# Finding the meshes.


@dataclass(frozen=True)
class Source:
    """One mesh file: its class and instance here, and the benchmark's own split or None."""

    class_name: str
    instance: str
    file: Path
    official: str | None

    @property
    def name(self) -> str:
        return f"{self.class_name}/{self.instance}"


def read_classes(file: Path) -> dict[str, tuple[str, list[int]]]:
    """Class -> (parent class, model numbers) of a .cla file."""
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


def models_of(classes: dict[str, tuple[str, list[int]]], name: str) -> list[int]:
    """The models of a class and of all classes below it, in file order."""
    found = list(classes[name][1]) if name in classes else []
    for child, (parent, _) in classes.items():
        if parent == name:
            found += models_of(classes, child)
    return found


def find_sources(folder: str | Path) -> list[Source]:
    """The meshes of our classes that are there; the benchmark's come first.

    Raises:
        InputError: the classification is missing or malformed, or a class has fewer than two.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder; give the one that holds psb/")
    parts = {part: read_classes(folder / "psb" / f"{part}.cla") for part in ("train", "test")}
    files = {file.stem: file for file in sorted((folder / "psb").rglob("m*.off"))}
    sources = [
        Source(class_name, f"psb_m{number}", files[f"m{number}"], part)
        for class_name, name in CLASSES.items()
        for part, classes in parts.items()
        for number in models_of(classes, name)
        if f"m{number}" in files
    ]
    sources += [
        Source("tables", f"infomr_{file.stem}", file, None)
        for file in sorted((folder / MORE_TABLES).glob("*.obj"))
    ]
    counts = Counter(source.class_name for source in sources)
    for class_name, name in CLASSES.items():
        if counts[class_name] < 2:
            raise InputError(f"{folder}: holds fewer than two meshes of the class {name}")
    return sources


# Axes. Points and directions are in the mesh's normalised frame; a turn (3, 3) has as rows what
# shall become x, y and z.


def turn_from(nose: Sequence[float], up: Sequence[float]) -> np.ndarray:
    """The rotation (3, 3) that turns nose to -z and up to y; they need not be of unit length."""
    nose, up = (np.asarray(v, float) / np.linalg.norm(v) for v in (nose, up))
    return np.stack([np.cross(nose, up), up, -nose])


def jet_axes(points: np.ndarray) -> np.ndarray:
    """The turn of a jet that lies along its file's axes, from surface samples (n, 3).

    It is its own mirror image across the wings' axis, and longer than high. The nose is the end
    that spreads less sideways; the fins rise above the rear.
    """
    middle = (points.min(axis=0) + points.max(axis=0)) / 2
    points = points - middle
    extent = np.ptp(points, axis=0)
    tree = cKDTree(points)
    mirror = [tree.query(points * (1 - 2 * np.eye(3)[axis]))[0].mean() for axis in range(3)]
    side = int(np.argmin(mirror))
    along, high = sorted({0, 1, 2} - {side}, key=lambda axis: -extent[axis])
    place = points[:, along] / extent[along]
    spread = [np.abs(points[part, side]).mean() for part in (place < -0.3, place > 0.3)]
    nose = np.eye(3)[along] * (1 if spread[1] < spread[0] else -1)
    rear = points[points @ nose < -0.2 * extent[along], high]
    above, below = rear.max() - np.median(rear), np.median(rear) - rear.min()
    return turn_from(nose, np.eye(3)[high] * (1 if above > below else -1))


def table_axes(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """The turn of a table, however it lies, from surface samples and their unit normals (n, 3).

    Up is the normal of the thin slab that holds the most surface with that normal, the top, and
    points to the end it is nearer to; then the table is turned about it into the tightest box, the
    longer side along x.
    """
    best, up = 0, np.eye(3)[1]
    for direction in np.concatenate([np.eye(3), normals[:: len(normals) // 100]]):
        height = points @ direction
        level = np.sort(height[np.abs(normals @ direction) > LEVEL])
        held = np.searchsorted(level, level + SLAB) - np.arange(len(level))
        if len(held) and held.max() > best * (1.02 if best else 1):  # the file's axes come first
            best, low = held.max(), level[held.argmax()]
            above = low + SLAB / 2 > (height.min() + height.max()) / 2
            up = direction if above else -direction
    return _along_sides(points, turn_from(_level(up), up))


def _level(up: np.ndarray) -> np.ndarray:
    """The file's axis that is most nearly at right angles to a direction, made exactly so."""
    axis = np.eye(3)[np.abs(up).argmin()]
    return axis - (axis @ up) * up


def _along_sides(points: np.ndarray, turn: np.ndarray) -> np.ndarray:
    """A turn with y up, turned on about y into the tightest box, its longer side along x."""
    x, _, z = turn @ points.T
    angles = np.radians(np.arange(90))
    c, s = np.cos(angles)[:, None], np.sin(angles)[:, None]
    width, depth = np.ptp(c * x + s * z, axis=1), np.ptp(c * z - s * x, axis=1)
    area = width * depth
    best = int(np.argmin(area))
    if area[best] > 0.95 * area[0]:  # leave what stands along the axes, and what is round
        best = 0
    angle = angles[best] + (np.pi / 2 if depth[best] > 1.02 * width[best] else 0)
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ turn


def turned(source: Source) -> trimesh.Trimesh:
    """The mesh of a source, normalised, with our axes."""
    mesh = normalise(load_mesh(source.file))
    points, face = sample_surface(mesh, 4000, np.random.default_rng(0))
    if source.instance in EXCEPTIONS:
        turn = turn_from(*EXCEPTIONS[source.instance])
        if source.class_name == "tables":
            turn = _along_sides(points, turn)
    elif source.class_name == "tables":
        turn = table_axes(points, face_normals(mesh, face))
    else:
        turn = jet_axes(points)
    return normalise(trimesh.Trimesh(mesh.vertices @ turn.T, mesh.faces, process=False))


def write_meshes(sources: Sequence[Source], folder: Path) -> dict[str, str]:
    """Write turned meshes; returns what cannot be read: name -> reason."""
    unread = {}
    for source in tqdm(sources, desc="turning", disable=None):
        path = folder / f"{source.name}.off"
        if not path.exists():
            try:
                mesh = turned(source)
            except InputError as error:
                unread[source.name] = str(error)
                continue
            with atomic_path(path) as temporary:
                mesh.export(temporary)
    return unread


def draw(
    meshes: dict[str, trimesh.Trimesh], path: Path, size: int = 160, columns: int = 16
) -> None:
    """Draw all meshes as a PNG file, a new row where the class changes."""
    cells = [
        (name, render(mesh, size, frame=UNIT_BALL))
        for name, mesh in tqdm(meshes.items(), desc="drawing", disable=None)
    ]
    rows = []
    for _, group in itertools.groupby(cells, key=lambda cell: cell[0].split("/")[0]):
        row = [(name.split("/")[1], picture) for name, picture in group]
        rows += [row[i : i + columns] for i in range(0, len(row), columns)]
    write_grid(path, rows)


# Twins.

# The 48 turns and mirrors that map the axes onto each other, (48, 3, 3).
SYMMETRIES = np.array(
    [
        np.eye(3)[list(order)] * np.array(signs)[:, None]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1, -1), repeat=3)
    ]
)


class Compared:
    """What is needed to compare one mesh, in the normalised frame, with others."""

    def __init__(self, mesh: trimesh.Trimesh, count: int = 300):
        self.extent = np.sort(np.ptp(mesh.vertices, axis=0))
        self.points = sample_surface(mesh, count, np.random.default_rng(0))[0]
        self.tree = SurfaceTree(mesh)


def twin_distance(a: Compared, b: Compared) -> float:
    """Mean distance from samples of each surface to the other, in the best of the 48 positions.

    The distances to the samples of the other say which few positions to measure exactly.
    """
    rough = cKDTree(b.points).query((a.points @ SYMMETRIES).reshape(-1, 3))[0].reshape(48, -1)
    exact = [
        b.tree.nearest(a.points @ turn)[0].mean() + a.tree.nearest(b.points @ turn.T)[0].mean()
        for turn in SYMMETRIES[np.argsort(rough.mean(axis=1))[:4]]
    ]
    return float(min(exact) / 2)


def compare(meshes: dict[str, trimesh.Trimesh]) -> list[tuple[str, str, float]]:
    """Pairs of one class and of like extents, and their `twin_distance`, nearest first."""
    compared = {name: Compared(mesh) for name, mesh in meshes.items()}
    pairs = [
        (a, b)
        for a, b in itertools.combinations(meshes, 2)
        if a.split("/")[0] == b.split("/")[0]
        and np.abs(compared[a].extent - compared[b].extent).max() < TWIN_EXTENT
    ]
    distances = [
        (a, b, round(twin_distance(compared[a], compared[b]), 5))
        for a, b in tqdm(pairs, desc="comparing", disable=None)
    ]
    return sorted(distances, key=lambda pair: pair[2])


def group_twins(names: Sequence[str], pairs: Sequence[tuple[str, str, float]]) -> list[list[str]]:
    """Groups of names that twins join, also by way of others; each in the order of `names`."""
    index = {name: i for i, name in enumerate(names)}
    twins = [(index[a], index[b]) for a, b, distance in pairs if distance < TWIN_DISTANCE]
    rows, columns = np.array(twins, int).reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(names), len(names)))
    _, labels = connected_components(graph, directed=False)
    groups: dict[int, list[str]] = {}
    for name, label in zip(names, labels, strict=True):
        groups.setdefault(int(label), []).append(name)
    return list(groups.values())


# Splits.


def split(
    groups: Sequence[Sequence[str]], usable: set[str], official: dict[str, str | None]
) -> dict[str, dict[str, list[str]]]:
    """One shape of each group: class -> {"train": instances, "test": instances}.

    Args:
        groups: of twins, names class/instance.
        usable: those that bound a solid; a group without any is left out.
        official: the benchmark's own split of each name, or None.
    """
    kept: dict[str, list[str]] = {class_name: [] for class_name in CLASSES}
    testable = set()
    for group in groups:
        name = next((name for name in group if name in usable), None)
        if name is not None:
            kept[name.split("/")[0]].append(name)
            if {official[member] for member in group} <= {"test", None} and official[group[0]]:
                testable.add(name)
    parts = {}
    for class_name, names in kept.items():
        drawn = sorted(
            testable & set(names), key=lambda name: hashlib.sha256(name.encode()).digest()
        )
        test = set(drawn[: min(round(TEST_SHARE * len(names)), MAX_TEST)])
        parts[class_name] = {
            part: sorted(name.split("/")[1] for name in names if (name in test) == (part == "test"))
            for part in ("train", "test")
        }
    return parts


def write_splits(parts: dict[str, dict[str, list[str]]], folder: Path) -> None:
    """Write <class>_<part>.json for each class and all_<part>.json for all."""
    for part in ("train", "test"):
        shapes = {c: [ShapeName(DATASET, c, name) for name in parts[c][part]] for c in parts}
        for class_name, of_class in shapes.items():
            write_split(folder / f"{class_name}_{part}.json", of_class)
        write_split(folder / f"all_{part}.json", list(itertools.chain(*shapes.values())))


# All of it.


def prepare(
    folder: str | Path,
    out: str | Path,
    *,
    num_samples: int = 50_000,
    threads: int | None = None,
) -> dict:
    """Do all that the module's docstring tells.

    Args:
        folder, out: FOLDER and OUT.
        num_samples: SDF samples a shape.
        threads: meshes preprocessed at once; None is the number of cores.

    Returns:
        What OUT/princeton.json holds.

    Raises:
        InputError: FOLDER is not laid out as it must be, or OUT cannot be written.
    """
    start = time.perf_counter()
    out = Path(out)
    sources = find_sources(folder)
    rejected = write_meshes(sources, out / "meshes")
    names = [source.name for source in sources if source.name not in rejected]
    contact, twins_file = out / "contact.png", out / "twins.json"
    if not (contact.exists() and twins_file.exists()):
        meshes = {name: load_mesh(out / "meshes" / f"{name}.off") for name in names}
        if not contact.exists():
            draw(meshes, contact)
        if not twins_file.exists():
            write_json(twins_file, compare(meshes))
    groups = group_twins(names, read_json(twins_file))

    found = find_shapes(out / "meshes", DATASET, list(CLASSES))
    shapes = [shape for shape in found if f"{shape.class_name}/{shape.instance}" in names]
    settings = Settings(outputs=(*USUAL_OUTPUTS, PARTIAL_SAMPLES), num_samples=num_samples)
    records = preprocess(shapes, out / "data", settings, threads=threads)
    rejected |= _rejected(records)
    official = {source.name: source.official for source in sources}
    parts = split(groups, set(names) - set(rejected), official)
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
    """class/instance -> reason"""
    return {
        name.partition("/")[2]: record.reason
        for name, record in records.items()
        if record.status == "rejected"
    }


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--out", required=True)
    parser.add_argument("--num_samples", type=int, default=50_000, help="SDF samples a shape")
    parser.add_argument("--threads", type=int, help="meshes at once (default: the number of cores)")
    args = parser.parse()
    summary = prepare(args.folder, args.out, num_samples=args.num_samples, threads=args.threads)
    print("| class | files | different shapes | training | test |")
    print("|---|---|---|---|---|")
    for class_name, parts in summary["splits"].items():
        counts = summary["files"][class_name], summary["shapes"][class_name], *parts.values()
        print(f"| {class_name} | {' | '.join(map(str, counts))} |")
    print(f"{len(summary['rejected'])} files rejected; see {args.out}/princeton.json")
    return 1 if summary["rejected"] else 0


if __name__ == "__main__":
    run_command(main)
