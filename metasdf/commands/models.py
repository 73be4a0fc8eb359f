"""List the models that come with the package, or show what one says of itself.

    metasdf models                    a line each: what it adapts to and the frame that it expects
    metasdf models --show general     its card, as JSON; FILE.pt: that of a model of yours

Exit codes: 0, or 2 for bad input.
"""

import json
from collections.abc import Sequence

from metasdf.commands.command_line import CommandLine
from metasdf.learning.model_files import load_model, shipped_models


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit code."""
    parser = CommandLine(prog=prog, description=__doc__)
    parser.add_argument("--show", metavar="NAME|FILE", help="print this one's card")
    options = parser.parse(arguments)
    if options.show:
        print(json.dumps(load_model(options.show).card, indent=2))
        return 0
    names = shipped_models()
    width = max(map(len, names))
    for name in names:
        model = load_model(name)
        mode = model.curriculum["context_mode"]
        frame = model.card.get("frame", "").split(":")[0].split(".")[0]
        print(f"{name:<{width}}  {mode:<8}  {frame}")
    return 0
