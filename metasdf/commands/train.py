"""What the commands of 2D and 3D have in common."""

from collections.abc import Mapping
from pathlib import Path

from metasdf.commands.arguments import CommandLine
from metasdf.learning.curriculum import Key, load_curriculum
from metasdf.learning.device import DEVICES, choose_device, keep_freed_memory
from metasdf.learning.training import train


def train_command(description: str, curriculums: Path, keys: Mapping[str, Key]) -> int:
    """run_train.py: meta-train a curriculum that the command line names; the exit code."""
    parser = CommandLine(description=description)
    parser.add_argument("curriculum", help="name in curriculums.py")
    parser.add_argument("--load", action="store_true", help="go on from the latest checkpoint")
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew where a checkpoint exists"
    )
    parser.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)}")
    parser.add_curriculum_keys(keys)
    options = parser.parse()
    if options.load and options.overwrite:
        parser.error("--load goes on, --overwrite starts anew; give one of them")
    curriculum = load_curriculum(curriculums, options.curriculum, parser.overrides(options))
    keep_freed_memory()
    left_out = train(curriculum, choose_device(options.device), options.load, options.overwrite)
    return 1 if left_out else 0
