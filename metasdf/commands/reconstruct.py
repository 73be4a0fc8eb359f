"""Mesh shapes with a trained model.

    metasdf reconstruct CURRICULUM --checkpoint FILE                  the test split
    metasdf reconstruct CURRICULUM --checkpoint FILE --input SCAN     a mesh or points of your own

The network, and how it was trained, come from the checkpoint; data, context and resolution from the
curriculum. With --input the context mode is the checkpoint's unless given, and the result is in the
input's frame. Shapes should stand as those of training did: for the curriculums here, y is up.

    metasdf reconstruct tables_tiny --checkpoint RUN/checkpoints/latest.pth --trajectories 1
    metasdf reconstruct tables_tiny --checkpoint RUN/checkpoints/latest.pth --input scan.ply

    ... --input scan.ply --output table.glb --reconstruction_steps auto --refine 5 --keep largest

Exit codes: 0 every shape was meshed, 1 some failed (by name and reason), 2 bad input, 3 all were
meshed, but some are not to be trusted: points held out of the context say so.
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from metasdf.commands.arguments import CurriculumCommandLine
from metasdf.commands.command_line import whole_number
from metasdf.errors import InputError
from metasdf.geometry.bodies import OPEN_RULES
from metasdf.learning.checkpoints import check_kind, load_model
from metasdf.learning.curriculum import KEYS, OPEN_KEYS, is_2d
from metasdf.learning.device import choose_device, keep_freed_memory
from metasdf.reconstruction.single_file import reconstruct_file
from metasdf.reconstruction.split import reconstruct_split

WITH_INPUT = ("output", "normalization", "open")


def main(
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
    curriculums: Path | None = None,
) -> int:
    """Run the command; the exit code. curriculums: the file that they stand in."""
    parser = command_line(prog, curriculums)
    options = parser.parse(arguments)
    own = options.input is not None
    for option in ("trajectories",) if own else WITH_INPUT:
        if getattr(options, option) is not None:
            parser.error(f"--{option} goes {'without' if own else 'with'} --input")
    curriculum = parser.chosen_curriculum(options)
    if is_2d(curriculum):
        raise InputError(
            f"{options.curriculum}: is a curriculum of 2D; run_eval.py and `metasdf evaluate` fit "
            "and measure images"
        )
    device = choose_device(options.device)
    keep_freed_memory()
    model = load_model(options.checkpoint, curriculum)
    check_kind(options.checkpoint, model.curriculum, want_2d=False)
    curriculum = merged(curriculum, model.curriculum, options, parser.overrides(options))
    if not own:
        return reconstruct_split(
            model, curriculum, device, options.checkpoint, options.trajectories or 0
        )
    with StageBar() as bar:
        return reconstruct_file(
            model,
            curriculum,
            device,
            options.input,
            options.output,
            options.normalization,
            options.open or "reject",
            options.checkpoint,
            bar.show,
        )


class StageBar(tqdm):
    """A progress bar that starts anew with each stage."""

    def __init__(self) -> None:
        super().__init__(total=100, desc="reading", unit="%", disable=None, leave=False)

    def show(self, stage: str, share: float) -> None:
        """That share of a stage is done."""
        if not self.disable and not self.desc.startswith(stage):
            self.reset()
            self.set_description(stage)
        self.update(round(100 * share) - self.n)


def command_line(prog: str | None, curriculums: Path | None) -> CurriculumCommandLine:
    """The command's options."""
    parser = CurriculumCommandLine(prog=prog, description=__doc__)
    parser.add_curriculum(curriculums)
    parser.add_argument("--checkpoint", required=True, help="a .pth file that training wrote")
    parser.add_argument(
        "--trajectories",
        type=whole_number,
        metavar="N",
        help="also mesh the first N shapes after every inner step",
    )
    parser.add_argument(
        "--dense",
        dest="dense_grid",
        action="store_const",
        const=True,
        default=argparse.SUPPRESS,
        help="evaluate all of the grid (slower, for checking: the mesh is the same)",
    )
    parser.add_argument("--input", metavar="FILE", help="obj ply stl off glb, xyz or npz")
    parser.add_argument(
        "--output",
        metavar="FILE",
        help="a mesh that ends in .ply, .obj, .stl or .glb (default: in reconstruction_output_dir, "
        "<input's name>_reconstruction.ply)",
    )
    parser.add_argument(
        "--normalization", metavar="FILE.npz", help="the frame of the whole shape, if known"
    )
    parser.add_argument(
        "--open", choices=OPEN_RULES, help="what to do with an input mesh that bounds no solid"
    )
    keys = {name: key for name, key in KEYS.items() if name != "dense_grid"}
    parser.add_curriculum_keys({name: keys[name] for name in keys if name in OPEN_KEYS})
    parser.add_curriculum_keys(
        {name: keys[name] for name in keys if name not in OPEN_KEYS},
        "keys of training (not needed here: they are the checkpoint's)",
    )
    return parser


def merged(
    curriculum: Mapping[str, Any],
    trained: Mapping[str, Any],
    options: argparse.Namespace,
    overrides: Mapping[str, Any],
) -> dict[str, Any]:
    """The curriculum in use, with the checkpoint's values of all that training has fixed.

    Prints a note where method or context mode differ from those of training.

    Raises:
        InputError: an override contradicts the checkpoint.
    """
    for name in overrides.keys() - OPEN_KEYS:
        if overrides[name] != trained[name]:
            raise InputError(
                f"--{name} {overrides[name]}: {options.checkpoint} was trained with "
                f"{trained[name]}; leave it out"
            )
    if (method := trained["method"]) != curriculum["method"]:
        print(f"note: the checkpoint is of method {method}, {options.curriculum} has another")
    fixed = {name: trained[name] for name in KEYS if name not in OPEN_KEYS}
    # The nearest shape of the training split is a yardstick.
    result = {**curriculum, **fixed, "train_split": trained["train_split"]}
    trained_mode = trained["context_mode"]
    if options.input is not None and "context_mode" not in overrides:
        result["context_mode"] = trained_mode
    # An auto-decoder sees no context in training.
    if (mode := result["context_mode"]) != trained_mode and method != "autodecoder":
        print(f"note: the context is {mode}, but the model was trained with {trained_mode}")
    return result
