"""Time 500,000 SDF samples of a closed mesh on one core; compare with trimesh's own function.

    python benchmarks/preprocessing.py [MESH ...]

Without a mesh, a procedural table, a procedural chair and a sphere of 81,920 faces are measured.
"""

import os

os.environ.update(IGL_NUM_THREADS="1", OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import time
from collections.abc import Callable

import numpy as np
import trimesh

from metasdf.errors import run_command
from metasdf.mesh import load_mesh, normalise
from metasdf.sdf import sample_points, sample_sdf, signed_distance
from metasdf.shapes import make_shape

NUM_SAMPLES = 500_000
NUM_COMPARED = 2000  # points given to trimesh, which is slow


def seconds(function: Callable, *arguments: object, repeats: int = 3) -> float:
    """The least time of several calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("meshes", nargs="*")
    args = parser.parse_args()
    meshes = {os.path.basename(file): load_mesh(file) for file in args.meshes} or {
        "table": make_shape("tables", 0, 0),
        "chair": make_shape("chairs", 0, 0),
        "sphere": trimesh.creation.icosphere(6),
    }
    print("mesh                    faces  500,000 samples  a point  a point, trimesh")
    for name, mesh in meshes.items():
        mesh = normalise(mesh)
        points = sample_points(mesh, NUM_SAMPLES, np.random.default_rng(0))
        few = np.random.default_rng(0).choice(points, NUM_COMPARED).astype(np.float64)
        total = seconds(sample_sdf, mesh, NUM_SAMPLES)
        ours = seconds(signed_distance, mesh, points) / NUM_SAMPLES * 1e6
        theirs = seconds(trimesh.proximity.signed_distance, mesh, few, repeats=1)
        theirs *= 1e6 / NUM_COMPARED
        print(f"{name:20} {len(mesh.faces):8} {total:14.2f} s {ours:5.2f} us {theirs:14.1f} us")
    return 0


if __name__ == "__main__":
    run_command(main)
