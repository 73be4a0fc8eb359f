"""The worth of each choice of the training: runs, table and page."""

import json
import sys

import pytest

from conftest import sphere_arguments
from experiments import training_choices
from metasdf.data.names import read_split, write_split
from metasdf.files import read_json
from metasdf.learning.curriculum import load_curriculum
from metasdf.learning.models import build_model


@pytest.fixture
def small(spheres, tmp_path, monkeypatch):
    """Two choices at a tiny size on twelve tables, which are spheres."""
    names = [*read_split(spheres / "train.json"), *read_split(spheres / "test.json")]
    data = tmp_path / "data"
    data.mkdir()
    for folder in spheres.iterdir():
        if folder.is_dir():
            (data / folder.name).symlink_to(folder)
    write_split(data / "splits" / "tables_train.json", names)
    arguments = sphere_arguments(spheres, tmp_path, training_mode="multitask")
    keys = dict(zip(arguments[::2], arguments[1::2], strict=True))
    wanted = ("network", "hidden_layers", "hidden_features", "num_meta_steps", "resolution")
    own = {name: keys[f"--{name}"] for name in wanted}
    tiny = {n: v if n == "network" else int(v) for n, v in own.items()}
    choices = {"the demo's": tiny, "hard": {**tiny, "sharpness": None}}
    study = training_choices.STUDIES["training"]._replace(choices=choices)
    monkeypatch.setitem(training_choices.STUDIES, "training", study)
    monkeypatch.setattr(training_choices, "QUICK_SECONDS", 1.0)
    return data


def test_every_choice_has_a_row(small, tmp_path, monkeypatch):
    arguments = ("--quick", "--processes", 1, "--data", small, "--output", tmp_path / "out")
    command = ["training_choices", *map(str, arguments)]
    monkeypatch.setattr(sys, "argv", [*command, "--docs", str(tmp_path / "docs")])
    assert training_choices.main() == 0
    figures = read_json(tmp_path / "docs" / "training_choices.json")
    assert list(figures["runs"]) == ["the demo's", "hard"]
    for run in figures["runs"].values():
        assert run["steps"] > 1
        assert 0 <= run["misclassified"]["30"] < run["misclassified"]["5"] + 20
        assert run["shapes"] == 1  # of six, one is kept back
    page = (tmp_path / "docs" / "training_choices.md").read_text()
    assert page.count("| the demo's |") == page.count("| hard |") == 1
    split = json.loads((tmp_path / "out" / "quick" / "splits" / "train.json").read_text())
    assert split == {"made": {"spheres": ["a", "b", "c", "d", "e"]}}


def test_all_choices_are_curriculums():
    for study in training_choices.STUDIES.values():
        for keys in study.choices.values():
            build_model(load_curriculum(study.curriculum, keys))
