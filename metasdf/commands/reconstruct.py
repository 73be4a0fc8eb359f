"""Mesh shapes with a trained model.

    metasdf reconstruct SCAN                                  a mesh or points of your own
    metasdf reconstruct FOLDER                                every file in a folder
    metasdf reconstruct CURRICULUM --checkpoint FILE          the test split of a curriculum

A scan is reconstructed in its own frame, by a model that comes with the package (`--model`, also a
file of your own). Of a curriculum, data, context and resolution are the curriculum's, and the
network and how it was trained the checkpoint's; with --input a scan takes the place of the data.

    metasdf reconstruct scan.ply --output table.glb
    metasdf reconstruct scans --output meshes --model mine.pt --refine 5 --keep largest
    metasdf reconstruct tables_tiny --checkpoint RUN/checkpoints/latest.pth --trajectories 1
    metasdf reconstruct tables_tiny --checkpoint RUN/checkpoints/latest.pth --input scan.ply

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
from metasdf.learning.checkpoints import check_kind
from metasdf.learning.curriculum import KEYS, OPEN_KEYS, is_2d, read_curriculums
from metasdf.learning.device import choose_device, keep_freed_memory
from metasdf.learning.model_files import load_model, shipped_models
from metasdf.reconstruction.scan_folder import reconstruct_folder
from metasdf.reconstruction.single_file import reconstruct_file
from metasdf.reconstruction.split import reconstruct_split

WITH_INPUT = ("output", "normalization", "open")
DEFAULT_MODEL = "general"
DEFAULT_FOLDER = "reconstructions"


def main(
    arguments: Sequence[str] | None = None,
    prog: str | None = None,
    curriculums: Path | None = None,
) -> int:
    """Run the command; the exit code. curriculums: the file that they stand in."""
    parser = command_line(prog, curriculums)
    options = parser.parse(arguments)
    if options.checkpoint is None:
        return reconstruct_scans(parser, options)
    if options.model is not None:
        parser.error("--model goes without --checkpoint")
    own = options.input is not None
    if not own and "up" in parser.overrides(options):
        parser.error("--up goes with a scan")
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


def reconstruct_scans(parser: CurriculumCommandLine, options: argparse.Namespace) -> int:
    """Reconstruct the file or the folder that stands in the curriculum's place; the exit code."""
    if options.input is not None:
        parser.error("--input goes with a curriculum and --checkpoint FILE")
    path = Path(options.curriculum)
    if not path.exists():
        if str(path) in read_curriculums(options.curriculums):
            parser.error(f"{path}: is a curriculum, and goes with --checkpoint FILE")
        raise InputError(f"{path}: there is no such file or folder")
    for option in ("trajectories", *(("normalization",) if path.is_dir() else ())):
        if getattr(options, option) is not None:
            parser.error(f"--{option} does not go with {path}")
    device = choose_device(options.device)
    keep_freed_memory()
    name = options.model or DEFAULT_MODEL
    model = load_model(name)
    check_kind(name, model.curriculum, want_2d=False)
    options.checkpoint, options.input, options.curriculum = name, path, name
    place = {"reconstruction_output_dir": str(Path.cwd())}
    overrides = parser.overrides(options)
    own = {n: v for n, v in overrides.items() if n in OPEN_KEYS}
    curriculum = merged({**model.curriculum, **place, **own}, model.curriculum, options, overrides)
    if model.card.get("frame", "").startswith("y up"):
        up = curriculum["up"]
        turned = (
            "stands y up, or else needs --up" if up == "y" else f"is turned from {up} up to y up"
        )
        print(f"{name}: the input {turned}")
    rule = options.open or "reject"
    if path.is_dir():
        output = options.output or DEFAULT_FOLDER
        return reconstruct_folder(
            model, curriculum, device, path, output, open_rule=rule, checkpoint=name
        )
    frame = options.normalization
    with StageBar() as bar:
        return reconstruct_file(
            model, curriculum, device, path, options.output, frame, rule, name, bar.show
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
    usage = "%(prog)s SCAN|FOLDER|CURRICULUM [options]"
    parser = CurriculumCommandLine(prog=prog, description=__doc__, usage=usage)
    parser.add_curriculum(curriculums, "SCAN|FOLDER|CURRICULUM")
    parser.add_argument("--checkpoint", help="of a curriculum: a .pth file that training wrote")
    parser.add_argument(
        "--model",
        metavar="NAME|FILE",
        help=f"of scans: {', '.join(shipped_models())}, or a .pt or .pth file (default "
        f"{DEFAULT_MODEL})",
    )
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
        help="a mesh that ends in .ply, .obj, .stl or .glb (default <input's name>_reconstruction"
        ".ply, of a curriculum in its reconstruction_output_dir), or a folder for a folder "
        f"(default {DEFAULT_FOLDER})",
    )
    parser.add_argument(
        "--normalization", metavar="FILE.npz", help="the frame of the whole shape, if known"
    )
    parser.add_argument(
        "--open", choices=OPEN_RULES, help="what to do with an input mesh that bounds no solid"
    )
    keys = {name: key for name, key in KEYS.items() if name != "dense_grid"}
    parser.add_curriculum_keys(
        {name: keys[name] for name in keys if name in OPEN_KEYS},
        "how it is done (by default as the model or the curriculum says; keys of training are "
        "accepted as well, but must be the checkpoint's)",
        defaults=False,
    )
    parser.add_curriculum_keys(
        {name: keys[name] for name in keys if name not in OPEN_KEYS},
        shown=False,
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
