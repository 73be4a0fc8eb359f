"""Measure a folder of reconstructions: python run_eval.py RECONSTRUCTION_DIR"""

from metasdf.commands.console import run_command
from metasdf.commands.evaluate import main

if __name__ == "__main__":
    run_command(main)
