"""List the curriculums: what to train, on what and how.

    metasdf curriculums                        a line each
    metasdf curriculums --show tables_tiny     one complete, defaults filled in, as JSON
    metasdf curriculums --curriculums my_curriculums.py

Exit codes: 0, or 2 for bad input.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from metasdf.commands.arguments import CurriculumCommandLine
from metasdf.learning.curriculum import is_2d, load_curriculum, read_curriculums


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit code."""
    parser = CurriculumCommandLine(prog=prog, description=__doc__)
    parser.add_argument("--show", metavar="NAME", help="print this one complete")
    parser.add_curriculums_file()
    options = parser.parse(arguments)
    if options.show:
        print(json.dumps(load_curriculum(options.show, file=options.curriculums), indent=2))
        return 0
    names = list(read_curriculums(options.curriculums))
    width = max(map(len, names), default=0)
    for name in names:
        print(f"{name:<{width}}  {line(load_curriculum(name, file=options.curriculums))}")
    return 0


def line(curriculum: Mapping[str, Any]) -> str:
    """A complete curriculum in a few words."""
    data = f"2D {curriculum['data']}" if is_2d(curriculum) else "3D shapes"
    network = (
        f"{curriculum['network']} {curriculum['hidden_layers']} x {curriculum['hidden_features']}"
    )
    parts = [data, curriculum["method"], network]
    if curriculum["method"] == "metasdf":
        parts.append(f"K = {curriculum['num_meta_steps']} {curriculum['lr_type']}")
    parts += [curriculum["context_mode"], f"{curriculum['num_epochs']} epochs"]
    return ", ".join(parts)
