"""The package's structure: imports go one way, files and functions stay small, names resolve."""

import ast
import subprocess
import sys

import pytest

import metasdf
from conftest import ROOT
from docs.architecture import (
    CORE_ORDER,
    ORDER,
    PACKAGE,
    imported,
    listing,
    module_name,
    modules,
    room,
)

LEVEL = {name: level for level, rooms in enumerate(ORDER) for name in rooms}
MODULES = modules()
HEAVY = ("torch", "scipy", "trimesh", "igl", "skimage", "matplotlib", "numpy")


@pytest.mark.parametrize("file", MODULES, ids=module_name)
def test_imports_go_one_way_only(file):
    mine = room(module_name(file))
    for name in imported(file):
        theirs = room(name)
        if name == "metasdf" and mine == "commands":
            continue  # the version
        assert LEVEL[theirs] <= LEVEL[mine], f"{mine} imports {name}"
        if LEVEL[theirs] == LEVEL[mine] and theirs != mine:
            both = CORE_ORDER.index(theirs), CORE_ORDER.index(mine)
            assert both[0] < both[1], f"{mine} imports {name}"


def test_the_order_names_every_room():
    assert {room(module_name(file)) for file in MODULES} == set(LEVEL)


def test_no_module_imports_itself_in_a_circle():
    graph = {module_name(file): imported(file) for file in MODULES}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join((*path, name))
        if name not in done:
            for other in graph.get(name, ()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_private_names_stay_in_their_module():
    for file in MODULES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("metasdf"):
                private = [a.name for a in node.names if a.name.startswith("_")]
                assert private in ([], ["__version__"]), f"{file}: {private}"


def test_the_algorithm_is_one_short_file_without_devices_files_or_random_numbers():
    file = PACKAGE / "maml.py"
    assert len(file.read_text().splitlines()) < 200
    names = {"errors", "local", "losses", "method", "networks", "step_sizes"}
    assert {room(name) for name in imported(file)} <= names
    external = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("metasdf"):
            external.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            external |= {alias.name.split(".")[0] for alias in node.names}
    assert external <= {"torch", "collections", "typing"}
    text = file.read_text()
    assert not any(word in text for word in ("cuda", "open(", "Path", "manual_seed", ".device"))


def definitions():
    """Functions and classes of the package and what stands beside it: (where, node)."""
    files = [*MODULES, *(ROOT / "experiments").glob("*.py"), *(ROOT / "benchmarks").glob("*.py")]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                yield f"{file.relative_to(ROOT)}: {node.name}", node


def test_functions_and_classes_stay_small_or_say_why_they_do_not():
    for where, node in definitions():
        lines = node.end_lineno - node.lineno + 1
        limit = 200 if isinstance(node, ast.ClassDef) else 60
        reason = "in one piece" in (ast.get_docstring(node) or "")
        assert lines <= limit or reason, f"{where} has {lines} lines"


def test_no_test_or_script_edits_the_path_of_imports():
    folders = ("tests", "experiments", "benchmarks", "2D", "3D", "metasdf")
    word = "sys." + "path"
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    assert not [file for file in files if word in file.read_text()]


def test_nothing_heavy_is_imported_before_it_is_used():
    program = f"import metasdf, sys; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[]\n", done.stderr


@pytest.mark.parametrize("name", sorted(metasdf.__all__))
def test_every_public_name_resolves_and_is_documented(name):
    value = getattr(metasdf, name)
    if name != "__version__":
        assert value.__doc__
    assert name in dir(metasdf)


def test_the_public_surface_holds_what_the_readme_promises():
    promised = """MetaSDF adapt StepSizes CoordinateNetwork MetaModule CompositeLoss DistanceLoss
        AutoDecoder EncoderSDF load_curriculum build_model train load_model load_mesh preprocess
        signed_distance reconstruct extract_mesh chamfer f_score iou evaluate InputError
        DivergedError NoSurfaceError NoSolidError __version__"""
    assert set(promised.split()) <= set(metasdf.__all__)


def test_the_page_on_the_architecture_lists_the_imports_as_they_are():
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert listing() in page, "run python docs/architecture.py"


ROOMS = ("data", "evaluation", "geometry", "images", "learning", "preparation", "reconstruction")


@pytest.mark.parametrize("name", ROOMS)
def test_every_room_has_a_curated_surface(name):
    package = getattr(metasdf, name)
    assert package.__doc__
    assert package.__all__
    modules_of_room = {file.stem for file in (PACKAGE / name).glob("*.py")}
    assert not set(package.__all__) & modules_of_room, "a function would hide behind its module"
    for public in package.__all__:
        assert getattr(package, public) is not None
