"""The program `metasdf`: one command for each step from meshes to measures."""

import importlib
import sys

from metasdf import __version__
from metasdf.commands.console import run_command
from metasdf.errors import InputError, near_matches

COMMANDS = {
    "shapes": "write procedural shapes, to try the others on",
    "preprocess": "turn meshes into SDF samples on disk",
    "train": "meta-train a curriculum",
    "reconstruct": "mesh shapes with a trained model",
    "evaluate": "measure reconstructions; fit and measure images (2D)",
    "export": "turn a checkpoint into a model file for use elsewhere",
    "models": "list the models that come with the package, or show one's card",
    "curriculums": "list the curriculums, or show one",
}


def usage() -> str:
    lines = ["usage: metasdf COMMAND ...", "", *(f"  {n:<13}{h}" for n, h in COMMANDS.items())]
    return "\n".join([*lines, "", "`metasdf COMMAND --help` shows examples and all options."])


def main() -> int:
    """Run the command that the command line names; its exit code."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return 0
    if name == "--version":
        print(f"metasdf {__version__}")
        return 0
    if name not in COMMANDS:
        raise InputError(f"no command {name!r}{near_matches(name, list(COMMANDS))}")
    module = importlib.import_module(f"metasdf.commands.{name}")
    return module.main(arguments, prog=f"metasdf {name}")


def entry() -> None:
    """The console script."""
    run_command(main)
