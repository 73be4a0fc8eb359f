"""List the models that come with the package, or show what one says of itself.

    metasdf models                             a line each
    metasdf models --show general              its card; FILE.pt: that of a model of yours
    metasdf models --show general --json       the same for programs

Exit codes: 0, or 2 for bad input.
"""

import json
import textwrap
from collections.abc import Sequence

from metasdf.commands.command_line import CommandLine
from metasdf.commands.reconstruct import DEFAULT_MODEL
from metasdf.learning.model_files import load_model, shipped_models
from metasdf.method import Method

ADAPTS_TO = {
    "dense": "signed distances or points",
    "levelset": "points",
    "partial": "points of one side",
}
WIDTH = 90  # of the lines of a card


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; the exit code."""
    parser = CommandLine(prog=prog, description=__doc__)
    parser.add_argument("--show", metavar="NAME|FILE", help="print this one's card")
    parser.add_argument("--json", action="store_true", help="as JSON")
    options = parser.parse(arguments)
    names = [options.show] if options.show else shipped_models()
    models = {name: load_model(name) for name in names}
    if options.json:
        cards = {name: model.card for name, model in models.items()}
        print(json.dumps(cards[options.show] if options.show else cards, indent=2))
    elif options.show:
        for word, text in models[options.show].card.items():
            print(textwrap.fill(f"{word}: {text}", WIDTH, subsequent_indent="    "))
        if not models[options.show].card:
            print(f"{options.show} has no card; `metasdf export --card FILE.json` gives it one")
    else:
        rows = [_row(name, model) for name, model in models.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            print("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip())
        print("\n`metasdf models --show NAME` says what it was trained on and where it fails.")
    return 0


def _row(name: str, model: Method) -> tuple[str, ...]:
    """A model's name, what it adapts to, the frame that it expects and what it is for."""
    frame = model.card.get("frame", "").split(".")[0]
    default = " (default)" if name == DEFAULT_MODEL else ""
    mode = ADAPTS_TO[model.curriculum["context_mode"]]
    return name + default, mode, frame, model.card.get("use", "")
