"""Turn meshes into SDF samples on disk: python preprocess.py MESH_OR_FOLDER --out DIR"""

from metasdf.commands.console import run_command
from metasdf.commands.preprocess import main

if __name__ == "__main__":
    run_command(main)
