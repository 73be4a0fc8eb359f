"""Meta-train a curriculum of 3D/curriculums.py: python run_train.py CURRICULUM [--load]"""

from pathlib import Path

from metasdf.commands.console import run_command
from metasdf.commands.train import main

CURRICULUMS = Path(__file__).resolve().parents[1] / "curriculums.py"

if __name__ == "__main__":
    run_command(lambda: main(curriculums=CURRICULUMS))
