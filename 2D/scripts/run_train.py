"""Meta-train a curriculum of 2D/curriculums.py: python run_train.py CURRICULUM [--load]"""

from pathlib import Path

from metasdf.commands.train import train_command
from metasdf.errors import run_command
from metasdf.learning.curriculum import KEYS_2D

CURRICULUMS = Path(__file__).resolve().parents[1] / "curriculums.py"

if __name__ == "__main__":
    run_command(lambda: train_command(__doc__, CURRICULUMS, KEYS_2D))
