"""Write procedural tables, chairs and solids of every kind as OBJ files, to try the rest on.

    metasdf shapes MESHES --classes tables --count 208

Each is one watertight solid, tables and chairs y up, general ones in any rotation. A shape depends
only on its class, the seed and its index.
"""

from collections.abc import Sequence
from pathlib import Path

from metasdf.commands.command_line import CommandLine
from metasdf.errors import InputError
from metasdf.preparation.shapes import CLASSES, shape_class, write_shapes


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit code."""
    parser = CommandLine(prog=prog, description=__doc__)
    parser.add_argument("out_dir", type=Path, help="folder to write <class>/<instance>.obj into")
    parser.add_argument("--classes", nargs="+", default=list(CLASSES), help="default: all")
    parser.add_argument("--count", type=int, default=160, help="shapes per class (default 160)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other shapes")
    options = parser.parse(arguments)
    if options.count < 1 or options.seed < 0:
        raise InputError("--count must be at least 1 and --seed at least 0")
    for name in options.classes:
        shape_class(name)  # before anything is written
    for name in options.classes:
        write_shapes(options.out_dir, name, options.count, options.seed)
    print(f"{options.out_dir}: {options.count} shapes of each class: {', '.join(options.classes)}")
    return 0
