"""Draw the package's rooms and imports from its code: python docs/architecture.py

Writes docs/architecture.png, and the list of imports in docs/architecture.md between its marks.
"""

import ast
import re
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "metasdf"

# Rooms in the order of the data: a module imports from its own room and from those before it.
ORDER = (
    ("errors",),
    ("files", "workers"),
    ("geometry",),
    ("data",),
    ("preparation", "losses", "method", "networks", "local", "step_sizes", "maml", "baselines"),
    ("learning",),
    ("reconstruction",),
    ("evaluation",),
    ("images",),
    ("api",),
    ("commands",),
    ("__init__", "__main__"),
)
# Within their level.
CORE_ORDER = ("losses", "method", "networks", "local", "step_sizes", "maml", "baselines")

# What is drawn: boxes with their middle (x, y), a title and the rooms that they hold.
BOXES = {
    "geometry": (0.0, 5.0, "meshes, rays, solids, SDF,\ngrids, marching cubes", ("geometry",)),
    "data": (0.0, 4.0, "DeepSDF's files,\nsamples -> tasks", ("data",)),
    "preparation": (-1.15, 3.0, "meshes -> samples\non disk, splits", ("preparation",)),
    "maml": (1.15, 3.0, "Algorithm 1, networks,\nlosses, baselines", CORE_ORDER),
    "learning": (0.95, 2.0, "curriculums, checkpoints,\nthe outer loop", ("learning",)),
    "reconstruction": (0.75, 1.0, "adapted field -> mesh", ("reconstruction",)),
    "evaluation": (0.0, 0.0, "measures, tables,\npictures", ("evaluation",)),
    "images": (0.0, -1.0, "2D: digits and\nphotographs", ("images",)),
    "commands": (0.0, -2.0, "the program and the API", ("api", "commands")),
}
WIDTH, HEIGHT = 1.7, 0.62


def modules() -> list[Path]:
    """Every file of the package."""
    return sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    """A file's dotted name."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)


def imported(file: Path) -> set[str]:
    """Every module of the package that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.split(".")[0] == "metasdf":
                submodules = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name for name in submodules if _exists(name)} or {node.module}
        elif isinstance(node, ast.Import):
            names |= {a.name for a in node.names if a.name.split(".")[0] == "metasdf"}
    return names


def _exists(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or path.is_dir()


def room(name: str) -> str:
    """The room that a module stands in."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def arrows() -> set[tuple[str, str]]:
    """Which boxes (first) import from which others (second)."""
    box = {room_: name for name, (_, _, _, rooms) in BOXES.items() for room_ in rooms}
    pairs = {
        (box.get(room(module_name(file))), box.get(room(name)))
        for file in modules()
        for name in imported(file)
    }
    return {(user, source) for user, source in pairs if user and source and user != source}


def listing() -> str:
    """The arrows as a Markdown table."""
    pairs = arrows()
    lines = ["| room | imports from |", "|---|---|"]
    for user in BOXES:
        sources = [source for source in BOXES if (user, source) in pairs]
        lines.append(f"| {user} | {', '.join(sources) or 'nothing'} |")
    return "\n".join(lines)


def draw(path: Path) -> None:
    """The picture: a box for each room, an arrow from each to its direct users.

    Where data also pass through another room on their way, the arrow is left out.
    """
    figure = Figure(figsize=(6.4, 9.4), dpi=110)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(-2.3, 2.3), ylim=(-2.6, 5.6))
    axes.axis("off")
    for user, source in arrows():
        if _is_direct(source, user):
            (x0, y0, *_), (x1, y1, *_) = BOXES[source], BOXES[user]
            start, end = (x0, y0 - HEIGHT / 2 - 0.03), (x1, y1 + HEIGHT / 2 + 0.03)
            style = {"arrowstyle": "-|>", "color": "#2f6690", "linewidth": 1.4}
            axes.annotate("", end, start, arrowprops={**style, "shrinkA": 0, "shrinkB": 0})
    for name, (x, y, text, _) in BOXES.items():
        corner = x - WIDTH / 2, y - HEIGHT / 2
        axes.add_patch(
            FancyBboxPatch(
                corner, WIDTH, HEIGHT, "round,pad=0.03", facecolor="#eaf1f8", edgecolor="#2f6690"
            )
        )
        axes.text(x, y + 0.17, name, ha="center", va="center", weight="bold", fontsize=11)
        axes.text(x, y - 0.13, text, ha="center", va="center", fontsize=8, color="#333333")
    figure.savefig(path)


def _is_direct(source: str, user: str) -> bool:
    """Whether no other room stands between the two."""
    pairs = arrows()
    return not any((user, between) in pairs and (between, source) in pairs for between in BOXES)


def main() -> None:
    draw(ROOT / "docs" / "architecture.png")
    page = ROOT / "docs" / "architecture.md"
    text = page.read_text(encoding="utf-8")
    marked = re.compile(r"(<!-- imports -->).*?(<!-- end -->)", flags=re.DOTALL)
    page.write_text(marked.sub(lambda m: f"{m[1]}\n{listing()}\n{m[2]}", text), encoding="utf-8")


if __name__ == "__main__":
    main()
