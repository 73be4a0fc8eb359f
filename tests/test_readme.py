"""The README's examples run as they stand."""

import os
import re
import subprocess
import sys

import pytest

from conftest import ROOT
from metasdf.preparation.shapes import make_shape, write_shapes

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_there_are_two_examples_and_the_first_has_ten_lines():
    assert len(BLOCKS) == 2
    assert len([line for line in BLOCKS[0].splitlines() if line]) <= 10


SMALL = """
import metasdf

load = metasdf.load_curriculum


def small(name, overrides):
    keys = {"num_epochs": 4, "hidden_features": 32, "warmup_steps": 0}
    output = {"output_dir": "run", "resolution": 32, "reconstruction_sdf_samples": 4000}
    return load(name, {**overrides, **keys, **output})


metasdf.load_curriculum = small
"""


@pytest.mark.slow
def test_ten_lines_go_from_a_folder_of_meshes_to_a_mesh_and_its_chamfer_distance(tmp_path):
    """As a script, without any `if __name__ == "__main__":`; its training is smaller."""
    write_shapes(tmp_path / "meshes", "tables", 6)
    make_shape("tables", 7, 0).export(tmp_path / "scan.ply")
    (tmp_path / "example.py").write_text(SMALL + BLOCKS[0])
    done = subprocess.run(
        [sys.executable, "example.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    chamfer, field = done.stdout.splitlines()[-1].split(maxsplit=1)
    assert 0 < float(chamfer) < 1
    assert re.fullmatch(r"\[-?\d\.\d+(e-\d+)?\]", field)
    assert (tmp_path / "reconstruction.ply").stat().st_size > 1000


def test_the_method_by_itself_runs_as_written():
    program = BLOCKS[1] + "\nprint(list(sdf.shape))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "[8, 512, 1]\n", done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/extend.md", "docs/architecture.md"])
def test_links_to_files_lead_somewhere(page):
    file = ROOT / page
    links = re.findall(r"\]\(([^)#]+)\)", file.read_text())
    targets = [link for link in links if not link.startswith("http")]
    assert targets or page == "docs/extend.md"
    assert not [link for link in targets if not (file.parent / link).exists()]
