"""Networks, losses and methods of the user's own; the scripts of docs/extend.md run."""

import os
import re
import subprocess
import sys

import pytest
import torch

import metasdf
from conftest import MESHED, ROOT, sphere_arguments, sphere_curriculum
from metasdf.learning.checkpoints import load_checkpoint, save_checkpoint
from metasdf.learning.extensions import is_dotted

SCRIPTS = re.findall(
    r"`(\w+\.py)`[^`]*```python\n(.*?)```",
    (ROOT / "docs" / "extend.md").read_text(),
    flags=re.DOTALL,
)


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """The page's scripts in the working directory, from where they are found."""
    for name, text in SCRIPTS:
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name, _ in SCRIPTS:
        sys.modules.pop(name.removesuffix(".py"), None)


def program(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "metasdf", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def test_the_page_has_three_scripts_of_under_thirty_lines_and_a_curriculum():
    assert [name for name, _ in SCRIPTS] == ["fourier.py", "near.py", "ridge.py", "mine.py"]
    assert all(len(text.splitlines()) < 30 for _, text in SCRIPTS)


EXAMPLES = {
    "network": {"network": "fourier:FourierNetwork"},
    "training_mode": {"training_mode": "near:NearSurface"},
    "method": {"method": "ridge:RidgeSDF", "training_mode": "l1"},
}


@pytest.mark.parametrize("key", list(EXAMPLES))
def test_the_pages_classes_train_reconstruct_and_are_measured(key, scripts, spheres):
    keys = {**EXAMPLES[key], "num_epochs": 12, "hidden_layers": 2}
    arguments = sphere_arguments(spheres, scripts / "run", **keys)
    done = program("train", "tables_tiny", *arguments, cwd=scripts)
    assert done.returncode == 0, done.stderr
    checkpoint = ("--checkpoint", scripts / "run" / "checkpoints" / "latest.pth")
    done = program("reconstruct", "tables_tiny", *arguments, *checkpoint, cwd=scripts)
    assert done.returncode in MESHED, done.stderr
    done = program("evaluate", scripts / "run" / "reconstructions", cwd=scripts)
    assert "2 of 2 shapes measured" in done.stdout, done.stderr


def test_the_pages_curriculum_file_is_taken(scripts, spheres):
    arguments = sphere_arguments(spheres, scripts / "run", num_epochs=1)
    del arguments[arguments.index("--training_mode") : arguments.index("--training_mode") + 2]
    more = ("--curriculums", "mine.py", "--overwrite")
    done = program("train", "compare_ridge", *arguments, *more, cwd=scripts)
    assert done.returncode == 0, done.stderr
    listed = program("curriculums", "--curriculums", "mine.py", cwd=scripts)
    assert listed.stdout.startswith("compare_ridge  3D shapes, ridge:RidgeSDF")


def test_a_dotted_name_of_a_checkpoint_alone_is_refused_and_not_imported(scripts, spheres):
    curriculum = sphere_curriculum(spheres, scripts / "run", num_epochs=1, **EXAMPLES["network"])
    file = metasdf.train(curriculum, device="cpu").checkpoint
    assert metasdf.load_model(file, curriculum).curriculum["network"] == "fourier:FourierNetwork"
    del sys.modules["fourier"]
    with pytest.raises(metasdf.InputError, match="give --network fourier:FourierNetwork too"):
        metasdf.load_model(file)
    assert "fourier" not in sys.modules
    state = load_checkpoint(file)
    state["curriculum"]["network"] = "evil:Network"
    (scripts / "evil.py").write_text("raise SystemExit('code from a checkpoint was executed')")
    save_checkpoint(file, state)
    with pytest.raises(metasdf.InputError, match="network = evil:Network, which is code"):
        metasdf.load_model(file, curriculum)


BAD = """
import torch

import metasdf


class NoModule:
    pass


class WrongShape(torch.nn.Linear):
    def __init__(self, in_features):
        super().__init__(in_features, 7)


class Fails(torch.nn.Module):
    def __init__(self):
        raise ValueError("not today")


class Lame(metasdf.DistanceLoss):
    def inner(self, prediction, target):
        return (prediction - target).abs().mean()


class Idle(metasdf.Method):
    def adapt(self, context, num_steps=None):
        return None


not_a_class = 3
"""


@pytest.mark.parametrize(
    ("key", "name", "message"),
    [
        ("network", "absent:Network", "absent cannot be imported"),
        ("network", "bad:Absent", "bad has no class 'Absent'"),
        ("network", "bad:not_a_class", "bad has no class"),
        ("network", "bad:NoModule", "makes a NoModule, no nn.Module"),
        ("network", "bad:WrongShape", r"maps x \[2, 3\] to \[2, 7\], want \[2, 1\]"),
        ("network", "bad:Fails", r"cannot be made \(not today\)"),
        ("network", "broken:Network", "broken cannot be imported"),
        ("training_mode", "bad:NoModule", "lacks out_features, score, inner"),
        ("training_mode", "bad:Lame", r"inner gives \[\]"),
        ("method", "bad:NoModule", "makes a NoModule, no metasdf.Method"),
        ("method", "bad:Idle", "bad:Idle does not define predict"),
        ("network", "bad", "choose one of relu, pe, siren, or your own class"),
        ("network", "../bad:Network", "choose one of relu, pe, siren, or your own class"),
    ],
)
def test_a_class_that_will_not_do_is_one_line(key, name, message, tmp_path, monkeypatch, spheres):
    (tmp_path / "bad.py").write_text(BAD)
    (tmp_path / "broken.py").write_text("import nothing_of_that_name")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(metasdf.InputError, match=f"{key}: .*{message}"):
        metasdf.build_model(sphere_curriculum(spheres, tmp_path, **{key: name}))
    sys.modules.pop("bad", None)


def test_dotted_names_are_told_from_others():
    assert is_dotted("a:B")
    assert is_dotted("a.b_c:D")
    for text in ("a", "a:", ":B", "a.b", "a:b.c", "a/b:C", "a:B:C", "a..b:C", 3, None):
        assert not is_dotted(text)


def test_an_own_network_is_adapted_like_a_built_in_one(scripts, spheres):
    torch.manual_seed(0)
    keys = {**EXAMPLES["network"], "training_mode": "multitask"}
    model = metasdf.build_model(sphere_curriculum(spheres, scripts, **keys))
    x = torch.rand(2, 30, 3)
    adapted = model.adapt((x, x.norm(dim=-1, keepdim=True) - 0.5))
    assert list(adapted) == [f"layers.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")]
