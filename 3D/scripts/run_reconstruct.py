"""Mesh the test split with a trained model: python run_reconstruct.py CURRICULUM --checkpoint FILE

The network comes from the checkpoint; data, context and resolution from the curriculum.
"""

from pathlib import Path

from metasdf.checkpoint import load_model
from metasdf.curriculum import KEYS, CommandLine, load_curriculum, whole_number
from metasdf.device import DEVICES, choose_device
from metasdf.errors import run_command
from metasdf.reconstruction import reconstruct_split

CURRICULUMS = Path(__file__).resolve().parents[1] / "curriculums.py"


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("curriculum", help="name in curriculums.py")
    parser.add_argument("--checkpoint", required=True, help="a .pth file that run_train.py wrote")
    parser.add_argument(
        "--trajectories",
        type=whole_number,
        default=0,
        metavar="N",
        help="also mesh the first N shapes after every inner step",
    )
    parser.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)}")
    parser.add_curriculum_keys()
    options = parser.parse()
    curriculum = load_curriculum(CURRICULUMS, options.curriculum, parser.overrides(options))
    device = choose_device(options.device)
    model, trained = load_model(options.checkpoint)
    curriculum |= {name: trained[name] for name, key in KEYS.items() if key.shapes_network}
    curriculum["train_split"] = trained["train_split"]  # whose nearest shape is a yardstick
    failed = reconstruct_split(model, curriculum, device, options.checkpoint, options.trajectories)
    return 1 if failed else 0


if __name__ == "__main__":
    run_command(main)
