"""MetaSDF.ipynb: it runs, learns and draws; what is committed has clean outputs.

`python tests/test_notebook.py` executes it in full and stores its outputs.
"""

import copy
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "MetaSDF.ipynb"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
TIMEOUT = 1800  # seconds a cell may take, on a machine that is busy
PICTURES = {  # cells that draw, and how many pictures
    "photographs_train": 1,
    "photographs_show": 1,
    "photographs_plain": 1,
    "digits_explain": 1,
    "digits_train": 1,
    "digits_show": 1,
    "levelset_train": 1,
    "levelset_show": 1,
    "tables_show": 1,
    "own_drawing": 1,
    "own_photograph": 1,
}


def execute(folder: str | os.PathLike) -> nbformat.NotebookNode:
    """The committed notebook, executed anew in a folder, without traces of when and where."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=TIMEOUT,
        kernel_name="python3",
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute()
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return notebook


def outputs(notebook: nbformat.NotebookNode) -> Iterator[tuple[str, nbformat.NotebookNode]]:
    """Every output with the name of its cell."""
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            yield cell["id"], output


def text_of(notebook: nbformat.NotebookNode, name: str) -> str:
    """What a cell printed."""
    return "".join(out.get("text", "") for cell, out in outputs(notebook) if cell == name)


def check_outputs(notebook: nbformat.NotebookNode) -> None:
    """No errors, all pictures, a viewer that needs no internet, and errors that fall."""
    pictures = dict.fromkeys(PICTURES, 0)
    for cell, output in outputs(notebook):
        assert output.output_type != "error", f"{cell}: {output.get('evalue')}"
        assert output.get("name") != "stderr", f"{cell}: {output.text}"
        if "image/png" in output.get("data", {}):
            pictures[cell] += 1
    assert pictures == PICTURES
    (viewer,) = (output.data["text/html"] for cell, output in outputs(notebook) if cell == "viewer")
    assert "<iframe" in viewer
    assert not re.search(r"(src|href)=.{0,8}https?://", viewer)

    results = json.loads(text_of(notebook, "summary"))
    assert {"digits, dense, rotated", "digits, contour, test", "tables"} <= set(results)
    psnr = results["photographs, meta-learned"]["PSNR by step, dB"]
    assert psnr[0] < psnr[1] < psnr[3]
    assert psnr[3] > results["photographs, not meta-learned"]["PSNR by step, dB"][3]
    for name in ("dense", "contour"):
        error = results[f"digits, {name}, test"]["absolute error by step, pixels"]
        assert error[0] > error[1] > error[3]
    wrong = results["tables"]["misclassified by step, %"]
    assert wrong[0] > wrong[1] > wrong[3]


@pytest.mark.slow
def test_it_runs_from_top_to_bottom_and_the_error_falls_step_by_step(tmp_path, monkeypatch):
    before = {path.name for path in ROOT.iterdir()}
    monkeypatch.setenv("METASDF_NOTEBOOK_FAST", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    check_outputs(execute(tmp_path))
    assert {path.name for path in ROOT.iterdir()} == before


def test_the_committed_outputs_are_those_of_a_whole_and_good_run():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    check_outputs(notebook)
    counts = [cell.execution_count for cell in notebook.cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))
    results = json.loads(text_of(notebook, "summary"))
    assert results["photographs, meta-learned"]["PSNR by step, dB"][3] > 22
    assert results["digits, dense, test"]["IoU by step"][3] > 0.75
    assert results["digits, contour, test"]["IoU by step"][3] > 0.6
    assert results["tables"]["misclassified by step, %"][3] < 16


def test_the_committed_notebook_tells_nothing_of_the_machine_it_ran_on():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec == KERNEL
    assert notebook.metadata.language_info == {"name": "python"}
    for cell in notebook.cells:
        assert not cell.metadata, f"{cell['id']}: {dict(cell.metadata)}"
    for cell, output in outputs(notebook):
        shown = copy.deepcopy(output)
        for kind in ("image/png", "text/html"):  # encoded; code of the viewer
            shown.get("data", {}).pop(kind, None)
        assert not re.search(r"/(home|root|tmp|work|Users)/|[A-Z]:\\", json.dumps(shown)), cell
    assert NOTEBOOK.stat().st_size < 6e6


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as working_folder:
        executed = execute(working_folder)
    check_outputs(executed)
    nbformat.write(executed, NOTEBOOK)
