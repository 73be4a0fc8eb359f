"""Meta-train a curriculum.

    metasdf train tables_tiny                        checkpoints and logs below its output_dir
    metasdf train tables_tiny --load                 go on from the latest checkpoint
    metasdf train planes_pe --data_source DATA --ScenesPerBatch 16
    metasdf train mine --curriculums my_curriculums.py
    metasdf train tables_tiny --network my_package.networks:MyNetwork

Exit codes: 0 all shapes were used, 1 some were left out (by name and reason), 2 bad input.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from metasdf.api import train
from metasdf.commands.arguments import CurriculumCommandLine, named_keys
from metasdf.learning.curriculum import KEYS, KEYS_2D
from metasdf.learning.device import choose_device, keep_freed_memory


def main(
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
    kind: str = "3D",
    curriculums: Path | None = None,
) -> int:
    """Run the command; the exit code.

    kind: whose keys --help lists by itself, "2D" or "3D". curriculums: the file they stand in.
    """
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = CurriculumCommandLine(prog=prog, description=__doc__)
    parser.add_curriculum(curriculums)
    parser.add_argument("--load", action="store_true", help="go on from the latest checkpoint")
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew where a checkpoint exists"
    )
    keys = KEYS_2D if kind == "2D" else KEYS
    parser.add_curriculum_keys(named_keys(arguments, keys, curriculums))
    options = parser.parse(arguments)
    if options.load and options.overwrite:
        parser.error("--load goes on, --overwrite starts anew; give one of them")
    curriculum = parser.chosen_curriculum(options)
    device = choose_device(options.device)
    keep_freed_memory()
    result = train(curriculum, device=device, load=options.load, overwrite=options.overwrite)
    last = curriculum["num_epochs"]
    if result.losses:
        print(f"trained {last} epochs, {result.steps} steps: {result.checkpoint}")
    else:
        print(f"nothing to do, {last} epochs are trained already: {result.checkpoint}")
    return 1 if result.left_out else 0
