"""Meta-train a curriculum of 3D/curriculums.py: python run_train.py CURRICULUM [--load]"""

from pathlib import Path

from metasdf.curriculum import CommandLine, load_curriculum
from metasdf.device import DEVICES, choose_device
from metasdf.errors import run_command
from metasdf.training import train

CURRICULUMS = Path(__file__).resolve().parents[1] / "curriculums.py"


def main() -> int:
    parser = CommandLine(description=__doc__)
    parser.add_argument("curriculum", help="name in curriculums.py")
    parser.add_argument("--load", action="store_true", help="go on from the latest checkpoint")
    parser.add_argument(
        "--overwrite", action="store_true", help="start anew where a checkpoint exists"
    )
    parser.add_argument("--device", default="auto", help=f"one of {', '.join(DEVICES)}")
    parser.add_curriculum_keys()
    options = parser.parse()
    curriculum = load_curriculum(CURRICULUMS, options.curriculum, parser.overrides(options))
    left_out = train(curriculum, choose_device(options.device), options.load, options.overwrite)
    return 1 if left_out else 0


if __name__ == "__main__":
    run_command(main)
