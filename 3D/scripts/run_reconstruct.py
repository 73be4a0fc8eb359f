"""Mesh shapes with a trained model: python run_reconstruct.py CURRICULUM --checkpoint FILE"""

from pathlib import Path

from metasdf.commands.console import run_command
from metasdf.commands.reconstruct import main

CURRICULUMS = Path(__file__).resolve().parents[1] / "curriculums.py"

if __name__ == "__main__":
    run_command(lambda: main(curriculums=CURRICULUMS))
