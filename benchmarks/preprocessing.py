"""Make every table and picture of docs/preprocessing.md: python -m benchmarks.preprocessing ...

    survey RESULTS.json FOLDER ...    the long one: every mesh; goes on where it was stopped
    tables RESULTS.json               methods, agreement with the reference, seconds
    worst RESULTS.json PICTURE.png    the ten meshes that agree least
    slices PICTURE.png MESH ...       signs beside the reference's
    closed [MESH ...]                 signs and distances of watertight meshes
    speed [MESH ...]                  seconds, beside trimesh's own function
    statistics RESULTS.json FOLDER    our samples beside SDF samples from elsewhere

All run on one core. The reference for signs is visibility_reference.py.
"""

import os

os.environ.update(IGL_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import io
import time
from collections import Counter
from pathlib import Path

import igl
import numpy as np
import trimesh
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from benchmarks.visibility_reference import outside as reference_outside
from metasdf.commands.console import run_command
from metasdf.errors import InputError
from metasdf.files import atomic_path, read_json, write_json
from metasdf.geometry.bodies import Body, find_body
from metasdf.geometry.body_sampling import sample_sdf
from metasdf.geometry.mesh_files import load_mesh
from metasdf.geometry.normalisation import normalise
from metasdf.geometry.rendering import render
from metasdf.geometry.sampling import sample_points
from metasdf.geometry.sdf import measure, signed_distance
from metasdf.preparation.discover import find_meshes
from metasdf.preparation.shapes import make_shape

NUM_SAMPLES = 500_000
NUM_REFEREED = 1000  # samples of each mesh whose sign the reference judges
DRAWN_FROM, NUM_DRAWN = ("plane", "table"), 30  # a row of its own in the table
NUM_COMPARED = 2000  # points given to trimesh, which is slow

INSIDE, OUTSIDE, LEFT_OUT, WRONG = "#4a7fb5", "#f2f2f2", "#f0b429", "#d62828"
SLICE = 110  # pixels a side of a slice


# The survey: every mesh of some folders.


def examine(path: Path) -> dict:
    """What becomes of one mesh: status, method, shares, seconds, agreement, statistics."""
    # Of the processor: others may use the machine meanwhile.
    start = time.process_time()
    entry = {"status": "rejected", "method": None, "quality": None}
    try:
        mesh = normalise(load_mesh(path))
        entry["faces"] = len(mesh.faces)
        body = find_body(mesh)
        entry |= {"method": body.quality.method, "quality": vars(body.quality)}
        pos, neg = sample_sdf(body, NUM_SAMPLES)
    except InputError as error:
        if quality := getattr(error, "quality", None):
            entry |= {"method": quality.method, "quality": vars(quality)}
        return entry | {"reason": str(error), "seconds": time.process_time() - start}
    entry |= {"status": "sampled", "seconds": time.process_time() - start}
    rows = np.concatenate([pos, neg])
    entry["left_out"] = 1 - len(rows) / NUM_SAMPLES
    chosen = np.random.default_rng(0).choice(len(rows), NUM_REFEREED, replace=False)
    outside = reference_outside(mesh, rows[chosen, :3].astype(float))
    entry["agreement"] = float(np.mean(outside == (chosen < len(pos))))
    entry["statistics"] = sample_statistics(pos, neg)
    return entry


def survey(results: Path, folders: list[str]) -> None:
    known = read_json(results) if results.is_file() else {}
    for folder in folders:
        for source in find_meshes(folder):
            _, category, instance = source.name
            try:
                path = source.find_file()
            except InputError:  # several of one name: each by itself
                paths = sorted((source.folder / category).glob(instance + ".*"))
            else:
                paths = [path]
            for path in paths:
                if str(path) not in known:
                    known[str(path)] = {"class": category} | examine(path)
                    write_json(results, known)


def reason(entry: dict) -> str:
    """Why a mesh was rejected, in two words."""
    for words, key in (("open", "surface is open"), ("no thickness", "has no thickness")):
        if key in entry["reason"]:
            return words
    return "unusable file"


def tables(results: Path) -> None:
    entries = read_json(results).values()
    print("| class | meshes | winding number | visibility, no border | visibility |", end="")
    print(" rejected: open | zero thickness | unusable file |")
    print("|---|---|---|---|---|---|---|---|")
    classes = list(dict.fromkeys(entry["class"] for entry in entries))
    columns = ("winding number", "visibility, no border", "visibility")
    columns += ("open", "no thickness", "unusable file")
    for name in [*classes, "all"]:
        group = [entry for entry in entries if name in ("all", entry["class"])]
        count = Counter(e["method"] if e["status"] == "sampled" else reason(e) for e in group)
        print(f"| {name} | {len(group)} |", *(f"{count[column]} |" for column in columns))
    print()
    print(
        "| class | agreement: mean | min | meshes below 99.5 % | left out: median | max |",
        end="",
    )
    print(" seconds, sampled: median | max | seconds, rejected: median |")
    print("|---|---|---|---|---|---|---|---|---|")
    groups = {name: [e for e in entries if e["class"] == name] for name in classes}
    groups["all"] = list(entries)
    drawn = [e for e in entries if e["class"] in DRAWN_FROM and e["status"] == "sampled"]
    if len(drawn) > NUM_DRAWN:
        order = np.random.default_rng(0).permutation(len(drawn))[:NUM_DRAWN]
        groups[f"{NUM_DRAWN} random {'s and '.join(DRAWN_FROM)}s"] = [drawn[i] for i in order]
    for name, group in groups.items():
        good = [entry for entry in group if entry["status"] == "sampled"]
        bad = [entry["seconds"] for entry in group if entry["status"] == "rejected"]
        if not good:
            continue
        agreement = np.array([entry["agreement"] for entry in good])
        left_out = np.array([entry["left_out"] for entry in good])
        seconds = np.array([entry["seconds"] for entry in good])
        print(
            f"| {name} | {agreement.mean():.2%} | {agreement.min():.1%} | "
            f"{(agreement < 0.995).sum()} of {len(good)} | {np.median(left_out):.1%} | "
            f"{left_out.max():.1%} | {np.median(seconds):.1f} | {seconds.max():.1f} | "
            + (f"{np.median(bad):.1f} |" if bad else "- |")
        )


# Statistics of the samples.


def sample_statistics(pos: np.ndarray, neg: np.ndarray) -> dict:
    """Figures that tell samples apart, of pos (n, 4) and neg (m, 4)."""
    rows = np.concatenate([pos, neg]).astype(np.float64)
    rows = rows[np.isfinite(rows).all(axis=1)]
    distance, radius = np.abs(rows[:, 3]), np.linalg.norm(rows[:, :3], axis=1)
    shares = {f"|sdf| < {limit}": float((distance < limit).mean()) for limit in (0.01, 0.03, 0.1)}
    return {
        "samples": len(rows),
        "negative": float((rows[:, 3] < 0).mean()),
        **shares,
        "|sdf|, median": float(np.median(distance)),
        "|sdf|, 95 %": float(np.quantile(distance, 0.95)),
        "sdf, least": float(rows[:, 3].min()),
        "radius, median": float(np.median(radius)),
        "radius > 1": float((radius > 1).mean()),
        "|coordinate|, most": float(np.abs(rows[:, :3]).max()),
    }


def statistics(results: Path, folder: Path) -> None:
    theirs, samples = [], folder / "SdfSamples"
    for file in sorted((samples if samples.is_dir() else folder).rglob("*.npz")):
        with np.load(file) as data:
            theirs.append(sample_statistics(data["pos"], data["neg"]))
    planes = {
        path: entry["statistics"]
        for path, entry in read_json(results).items()
        if entry["class"] == "plane" and entry["status"] == "sampled"
    }
    if not theirs or not planes:
        raise InputError(f"{folder}: no *.npz there, or no plane in {results}")
    wider = []
    for path in np.random.default_rng(0).permutation(list(planes))[: len(theirs)]:
        body = find_body(normalise(load_mesh(path)))
        wider.append(sample_statistics(*sample_sdf(body, 100_000, test=True)))
        wider[-1]["samples"] *= NUM_SAMPLES // 100_000
    print(
        f"| median (min ... max) | {len(theirs)} ShapeNet planes | our {len(planes)} planes | "
        f"{len(wider)} of ours, --test |"
    )
    print("|---|---|---|---|")
    ours = list(planes.values())
    for key in theirs[0]:
        cells = []
        for group in (theirs, ours, wider):
            values = np.array([statistics[key] for statistics in group])
            spread = (np.median(values), values.min(), values.max())
            form = (
                "{:.0f} ({:.0f} ... {:.0f})" if key == "samples" else "{:.3f} ({:.3f} ... {:.3f})"
            )
            cells.append(form.format(*spread))
        print(f"| {key.replace(chr(124), chr(92) + chr(124))} |", *(f"{cell} |" for cell in cells))


# Pictures.


def slice_points(axis: int, height: float) -> np.ndarray:
    """The pixel centres (SLICE, SLICE, 3) of the cut through [-1, 1]^3 at `height` on an axis."""
    step = (np.arange(SLICE) + 0.5) / SLICE * 2 - 1
    points = np.full((SLICE, SLICE, 3), height)
    across = [k for k in range(3) if k != axis]
    points[..., across[0]], points[..., across[1]] = step, step[::-1, None]
    return points


def slices(mesh: trimesh.Trimesh, body: Body, through: np.ndarray) -> tuple:
    """Pictures (SLICE, SLICE, 3) in [0, 1] of our signs and the reference's, and the plane.

    The plane is that one of the three through the point that cuts most of the solid.
    """
    best = None
    for axis in range(3):
        points = slice_points(axis, through[axis]).reshape(-1, 3)
        _, _, inside, ambiguous = measure(body.solid, points)
        if best is None or inside.sum() > best[2].sum():
            best = axis, points, inside, ambiguous
    axis, points, inside, ambiguous = best
    truth = ~reference_outside(mesh, points)
    ours = np.where(inside[:, None], to_rgb(INSIDE), to_rgb(OUTSIDE))
    ours[(inside != truth)] = to_rgb(WRONG)
    ours[ambiguous] = to_rgb(LEFT_OUT)
    theirs = np.where(truth[:, None], to_rgb(INSIDE), to_rgb(OUTSIDE))
    shape = (SLICE, SLICE, 3)
    plane = f"{'xyz'[axis]} = {through[axis]:.2f}"
    return ours.reshape(shape), theirs.reshape(shape), plane


def draw(path: Path, cells: list[list[tuple[str, np.ndarray]]], note: str) -> None:
    """Write rows of titled pictures as a PNG of few colours, which keeps it small."""
    rows, columns = len(cells), max(map(len, cells))
    figure = Figure((1.9 * columns, 2.1 * rows + 0.35), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, line in zip(axes, cells, strict=True):
        for axis, (title, picture) in zip(row, line, strict=False):
            axis.imshow(picture, interpolation="nearest")
            axis.set_title(title, fontsize=8)
    figure.supxlabel(note, fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with atomic_path(path) as temporary:
        Image.open(buffer).convert("RGB").quantize(128).save(temporary, optimize=True)


LEGEND = (
    "blue: inside, grey: outside, yellow: ambiguous and left out, red: not as the reference says"
)


def label(path: Path) -> str:
    return path.parent.parent.name[:8] if path.parent.name == "models" else path.stem


def draw_slices(picture: Path, files: list[str]) -> None:
    cells = []
    for file in map(Path, files):
        mesh = normalise(load_mesh(file))
        body = find_body(mesh)
        centre = np.quantile(sample_sdf(body, 20_000)[1][:, :3], 0.5, axis=0)
        ours, theirs, plane = slices(mesh, body, centre)
        cells.append((label(file), body.quality.method, render(mesh, 200), ours, theirs, plane))
    lines = []
    for name, method, view, ours, theirs, plane in cells:
        line = [(f"{name}\n{method}", view), (f"ours\n{plane}", ours), ("reference\n", theirs)]
        if lines and len(lines[-1]) == 3:
            lines[-1] += line
        else:
            lines.append(line)
    draw(picture, lines, LEGEND)


def draw_worst(results: Path, picture: Path) -> None:
    entries = [(p, e) for p, e in read_json(results).items() if e["status"] == "sampled"]
    entries = sorted(entries, key=lambda item: (item[1]["agreement"], -item[1]["left_out"]))[:10]
    lines = [[], [], [], []]
    for index, (path, entry) in enumerate(entries):
        mesh = normalise(load_mesh(path))
        body = find_body(mesh)
        rows = np.concatenate(sample_sdf(body, 20_000))
        chosen = rows[np.random.default_rng(1).choice(len(rows), 2000, replace=False)]
        outside = reference_outside(mesh, chosen[:, :3].astype(float))
        wrong = chosen[outside != (chosen[:, 3] > 0), :3]
        through = np.median(wrong if len(wrong) else rows[rows[:, 3] < 0, :3], axis=0)
        ours, _, plane = slices(mesh, body, through)
        title = f"{entry['class']} {label(Path(path))}\n{entry['agreement']:.1%} agree"
        lines[index // 5 * 2].append((title, render(mesh, 200)))
        lines[index // 5 * 2 + 1].append((f"{body.quality.method}\n{plane}", ours))
    draw(picture, lines, LEGEND)


# Watertight meshes, and speed.


def procedural() -> dict[str, trimesh.Trimesh]:
    return {
        "procedural table": make_shape("tables", 0, 0),
        "procedural chair": make_shape("chairs", 0, 0),
        "sphere": trimesh.creation.icosphere(6),
    }


def named_meshes(files: list[str]) -> dict[str, trimesh.Trimesh]:
    meshes = {label(Path(file)): load_mesh(file) for file in files}
    return {name: normalise(mesh) for name, mesh in {**procedural(), **meshes}.items()}


def fill_holes(mesh: trimesh.Trimesh) -> trimesh.Trimesh:
    """Close each hole by triangles from its border to its middle."""
    edges = {tuple(edge) for edge in mesh.edges.tolist()}
    vertices, faces = list(mesh.vertices), list(mesh.faces)
    for loop in igl.boundary_loop_all(np.array(mesh.faces)):
        for tail, head in zip(loop, np.roll(loop, -1), strict=True):
            forward = (int(tail), int(head)) in edges
            faces.append([head, tail, len(vertices)] if forward else [tail, head, len(vertices)])
        vertices.append(mesh.vertices[loop].mean(axis=0))
    return trimesh.Trimesh(np.array(vertices), np.array(faces), process=False)


def closed(files: list[str]) -> None:
    print("| mesh | faces | signs equal to the exact winding number | max distance error |")
    print("|---|---|---|---|")
    for name, mesh in named_meshes(files).items():
        mesh = fill_holes(mesh)
        points = sample_points(mesh, 30_000, np.random.default_rng(0)).astype(float)
        signed = signed_distance(mesh, points)
        far = np.abs(signed) > 1e-4
        winding = igl.winding_number(np.array(mesh.vertices), np.array(mesh.faces), points[far])
        agree = np.mean((winding > 0.5) == (signed[far] < 0))
        few = points[:NUM_COMPARED]
        theirs = trimesh.proximity.closest_point(mesh, few)[1]
        difference = np.abs(np.abs(signed[:NUM_COMPARED]) - theirs).max()
        print(f"| {name} | {len(mesh.faces)} | {agree:.4%} of {far.sum()} | {difference:.1e} |")


def speed(files: list[str], repeats: int = 3) -> None:
    print(
        f"| mesh | faces | method | {NUM_SAMPLES:,} samples | per point "
        "| trimesh, per point | ratio |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, mesh in named_meshes(files).items():
        few = sample_points(mesh, NUM_COMPARED, np.random.default_rng(0)).astype(float)
        total, ratio, theirs = [], [], []
        for _ in range(repeats):  # side by side, as what else runs slows both
            start = time.process_time()
            body = find_body(mesh)
            sample_sdf(body, NUM_SAMPLES)
            middle = time.process_time()
            trimesh.proximity.signed_distance(mesh.copy(), few)
            total.append(middle - start)
            theirs.append((time.process_time() - middle) / NUM_COMPARED)
            ratio.append(theirs[-1] / (total[-1] / NUM_SAMPLES))
        ours = np.median(total)
        print(
            f"| {name} | {len(mesh.faces)} | {body.quality.method} | {ours:.2f} s | "
            f"{ours / NUM_SAMPLES * 1e6:.1f} us | {np.median(theirs) * 1e6:.0f} us | "
            f"{np.median(ratio):.0f} |"
        )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=COMMANDS)
    parser.add_argument("arguments", nargs="*")
    args = parser.parse_args()
    COMMANDS[args.what](args.arguments)
    return 0


COMMANDS = {
    "survey": lambda a: survey(Path(a[0]), a[1:]),
    "tables": lambda a: tables(Path(a[0])),
    "worst": lambda a: draw_worst(Path(a[0]), Path(a[1])),
    "slices": lambda a: draw_slices(Path(a[0]), a[1:]),
    "closed": closed,
    "speed": speed,
    "statistics": lambda a: statistics(Path(a[0]), Path(a[1])),
}


if __name__ == "__main__":
    run_command(main)
