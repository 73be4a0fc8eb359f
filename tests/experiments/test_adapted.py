"""What is adapted: every cell of the table, from real trainings at a tiny size."""

import sys

import pytest

from conftest import sphere_arguments
from experiments import adapted
from metasdf.data.names import read_split, write_split
from metasdf.files import read_json


@pytest.fixture
def folders(spheres, tmp_path):
    """Data folders of "tables" and "general" shapes, both of spheres."""
    result = {}
    for kind in ("tables", "general"):
        folder = tmp_path / kind
        folder.mkdir()
        for part in spheres.iterdir():
            if part.is_dir():
                (folder / part.name).symlink_to(part)
        for split in ("train", "test"):
            write_split(
                folder / "splits" / f"{kind}_{split}.json", read_split(spheres / f"{split}.json")
            )
        result[kind] = folder
    return result


def test_every_method_has_a_row_for_each_context_and_kind(spheres, folders, tmp_path, monkeypatch):
    arguments = sphere_arguments(spheres, tmp_path, training_mode="multitask", network="siren")
    keys = dict(zip(arguments[::2], arguments[1::2], strict=True))
    names = ("hidden_layers", "hidden_features", "num_meta_steps", "resolution")
    tiny = {name: int(keys[f"--{name}"]) for name in names}
    methods = {
        "weights": tiny,
        "weights and grids": {**tiny, "adapted": "both", "latent_grids": "2"},
    }
    monkeypatch.setattr(adapted, "METHODS", methods)
    small = {"hidden_layers": 1, "hidden_features": 8, "pixels": 64, "ScenesPerBatch": 2}
    images = {name: {**small, **adapted.METHODS_2D[name]} for name in ("weights", "points")}
    monkeypatch.setattr(adapted, "METHODS_2D", images)
    monkeypatch.setattr(adapted, "QUICK", adapted.Plan(seconds=1.0, seeds=1, shapes=1, images=2))
    command = ["adapted", "--quick", "--processes", "1", "--output", str(tmp_path / "out")]
    command += ["--data", str(folders["tables"]), "--general", str(folders["general"])]
    command += ["--photographs", "embedded", "--docs", str(tmp_path / "docs")]
    monkeypatch.setattr(sys, "argv", command)
    assert adapted.main() == 0
    rows = read_json(tmp_path / "docs" / "adapted.json")["rows"]
    cells = {(row["mode"], row["kind"], row["method"]) for row in rows}
    assert len(rows) == len(cells) == 8
    assert all(row["steps"][0] > 0 and row["seeds"] == 1 for row in rows)
    page = (tmp_path / "docs" / "adapted.md").read_text()
    assert page.count("\n| weights and grids |") == 4
    assert page.count("\n| weights |") == 5
    (_, points) = read_json(tmp_path / "docs" / "adapted.json")["photographs"]
    assert (points["method"], len(points["psnr"])) == ("points", 4)
    assert page.count("\n| points |") == 1


def test_the_methods_are_curriculums(folders, tmp_path):
    data = adapted.Data(folders["tables"], folders["general"])
    for method in adapted.METHODS:
        for mode in adapted.CONTEXT_MODES:
            run = adapted.Run("name", method, mode, 1)
            curriculum = adapted.run_curriculum(run, tmp_path, data)
            assert (curriculum["context_mode"], curriculum["seed"]) == (mode, 1)


def test_the_methods_on_photographs_are_curriculums(tmp_path):
    for method in adapted.METHODS_2D:
        run = adapted.Run("name", method, seed=1)
        curriculum = adapted.photograph_curriculum(run, tmp_path, "embedded")
        assert curriculum["seed"] == 1


def test_without_data_the_command_that_makes_them_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["adapted", "--data", str(tmp_path)])
    with pytest.raises(adapted.InputError, match="`make tables` makes it"):
        adapted.main()
