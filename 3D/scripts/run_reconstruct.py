"""Mesh shapes with a trained model.

    run_reconstruct.py CURRICULUM --checkpoint FILE                  the test split
    run_reconstruct.py CURRICULUM --checkpoint FILE --input SCAN     a mesh or points of your own

The network, and how it was trained, come from the checkpoint; data, context and resolution from the
curriculum. With --input the context mode is the checkpoint's unless given, and the result is in the
input's frame. Shapes should stand as those of training did: for the curriculums here, y is up.
"""

import argparse
from pathlib import Path

from metasdf.commands.arguments import CommandLine, whole_number
from metasdf.errors import InputError, run_command
from metasdf.geometry.bodies import OPEN_RULES
from metasdf.learning.checkpoints import check_kind, load_model
from metasdf.learning.curriculum import KEYS, OPEN_KEYS, load_curriculum
from metasdf.learning.device import DEVICES, choose_device, keep_freed_memory
from metasdf.reconstruction.own_shape import reconstruct_own_shape
from metasdf.reconstruction.split import reconstruct_split

CURRICULUMS = Path(__file__).resolve().parents[1] / "curriculums.py"
WITH_INPUT = ("output", "normalization", "open")


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("curriculum", help="name in curriculums.py")
    parser.add_argument("--checkpoint", required=True, help="a .pth file that run_train.py wrote")
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
        metavar="FILE.ply",
        help="default: <input's name>_reconstruction.ply in reconstruction_output_dir",
    )
    parser.add_argument(
        "--normalization", metavar="FILE.npz", help="the frame of the whole shape, if known"
    )
    parser.add_argument(
        "--open", choices=OPEN_RULES, help="what to do with an input mesh that bounds no solid"
    )
    parser.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)}")
    keys = {name: key for name, key in KEYS.items() if name != "dense_grid"}
    parser.add_curriculum_keys({name: keys[name] for name in keys if name in OPEN_KEYS})
    parser.add_curriculum_keys(
        {name: keys[name] for name in keys if name not in OPEN_KEYS},
        "keys of training (not needed here: they are the checkpoint's)",
    )
    options = parser.parse()
    own = options.input is not None
    for option in ("trajectories",) if own else WITH_INPUT:
        if getattr(options, option) is not None:
            parser.error(f"--{option} goes {'without' if own else 'with'} --input")
    overrides = parser.overrides(options)
    curriculum = load_curriculum(CURRICULUMS, options.curriculum, overrides)
    device = choose_device(options.device)
    keep_freed_memory()
    model, trained = load_model(options.checkpoint, curriculum)
    check_kind(options.checkpoint, trained, want_2d=False)
    for name in overrides.keys() - OPEN_KEYS:
        if overrides[name] != trained[name]:
            raise InputError(
                f"--{name} {overrides[name]}: {options.checkpoint} was trained with "
                f"{trained[name]}; leave it out"
            )
    if (method := trained["method"]) != curriculum["method"]:
        print(f"note: the checkpoint is of method {method}, {options.curriculum} has another")
    curriculum |= {name: trained[name] for name in KEYS if name not in OPEN_KEYS}
    curriculum["train_split"] = trained["train_split"]  # whose nearest shape is a yardstick
    trained_mode = trained["context_mode"]
    if own and "context_mode" not in overrides:
        curriculum["context_mode"] = trained_mode
    # An auto-decoder sees no context in training.
    if (mode := curriculum["context_mode"]) != trained_mode and method != "autodecoder":
        print(f"note: the context is {mode}, but the model was trained with {trained_mode}")
    if own:
        failed = reconstruct_own_shape(
            model,
            curriculum,
            device,
            options.input,
            options.output,
            options.normalization,
            options.open or "reject",
            options.checkpoint,
        )
    else:
        failed = reconstruct_split(
            model, curriculum, device, options.checkpoint, options.trajectories or 0
        )
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
