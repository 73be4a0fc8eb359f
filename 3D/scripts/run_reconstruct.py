"""Mesh shapes with a trained model: python run_reconstruct.py CURRICULUM --checkpoint FILE"""

from metasdf.commands.console import run_command
from metasdf.commands.reconstruct import main

if __name__ == "__main__":
    run_command(main)
