"""Fit and measure test images: python run_eval.py CURRICULUM --checkpoint FILE"""

from metasdf.commands.console import run_command
from metasdf.commands.evaluate_images import main

if __name__ == "__main__":
    run_command(main)
