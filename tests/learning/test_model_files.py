"""Model files: what is in them, how they are found, and what refuses them."""

import pytest
import torch

from metasdf.errors import InputError
from metasdf.learning.checkpoints import load_checkpoint, save_checkpoint
from metasdf.learning.curriculum import KEYS, load_curriculum
from metasdf.learning.model_files import (
    CARD_WORDS,
    export_model,
    find_model,
    load_model,
    shipped_models,
)
from metasdf.learning.models import build_model
from metasdf.learning.training import train

SMALL = {"hidden_features": 8, "hidden_layers": 1}


def checkpoint(folder, name="tables_tiny", **keys):
    curriculum = load_curriculum(name, {**SMALL, **keys})
    torch.manual_seed(0)
    model = build_model(curriculum, 3)
    state = {"curriculum": curriculum, "epoch": 1, "model": model.state_dict(), "optimizer": {}}
    save_checkpoint(folder / "latest.pth", {**state, "train_shapes": ["a", "b", "c"]})
    return folder / "latest.pth"


@pytest.mark.parametrize("adapted", ["weights", "latents", "both"])
def test_a_model_file_gives_back_the_model_without_folders(adapted, tmp_path):
    source = checkpoint(tmp_path, adapted=adapted, latent_grids="2,3")
    file, card = tmp_path / "mine.pt", {"data": "tables", "limits": "few"}
    export_model(source, file, card, {"resolution": 40, "reconstruction_steps": "auto"})
    model, original = load_model(file), load_model(source)
    for name, value in original.state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
    assert model.card == card
    assert not model.training
    paths = [name for name, key in KEYS.items() if key.is_path]
    assert all(model.curriculum[name] is None for name in paths)
    assert model.curriculum["resolution"] == 40
    assert model.curriculum["reconstruction_steps"] == "auto"
    same = [name for name in KEYS if name not in (*paths, "resolution", "reconstruction_steps")]
    assert all(model.curriculum[name] == original.curriculum[name] for name in same)
    content = torch.load(file, weights_only=True)
    assert set(content) == {"model_format", "curriculum", "model", "card"}
    assert str(tmp_path) not in str(content["curriculum"])


def test_training_does_not_go_on_from_a_model_file(tmp_path):
    source = checkpoint(tmp_path)
    folder = tmp_path / "run" / "checkpoints"
    export_model(source, tmp_path / "mine.pt")
    folder.mkdir(parents=True)
    (tmp_path / "mine.pt").rename(folder / "latest.pth")
    curriculum = load_curriculum("tables_tiny", {**SMALL, "output_dir": str(tmp_path / "run")})
    for attempt in (
        lambda: train(
            curriculum, lambda: pytest.fail("loads data"), torch.device("cpu"), load=True
        ),
        lambda: load_checkpoint(folder / "latest.pth"),
    ):
        with pytest.raises(InputError, match=r"latest.pth: is a model for use, without"):
            attempt()


def test_bad_models_are_refused_by_name(tmp_path):
    source = checkpoint(tmp_path)
    with pytest.raises(InputError, match=r"mine.pth: a model's file ends in .pt"):
        export_model(source, tmp_path / "mine.pth")
    with pytest.raises(InputError, match="'dta' is unknown; did you mean data"):
        export_model(source, tmp_path / "mine.pt", {"dta": "tables"})
    with pytest.raises(InputError, match="'resolutio'; did you mean resolution"):
        export_model(source, tmp_path / "mine.pt", keys={"resolutio": 40})
    with pytest.raises(InputError, match="unknown key 'hidden_features'"):
        export_model(source, tmp_path / "mine.pt", keys={"hidden_features": 40})
    with pytest.raises(InputError, match="resolution: 1 is too small"):
        export_model(source, tmp_path / "mine.pt", keys={"resolution": 1})
    images = checkpoint(tmp_path, "mnist", data="digits")
    with pytest.raises(InputError, match=r"trained on images \(2D\)"):
        export_model(images, tmp_path / "mine.pt")
    codes = checkpoint(tmp_path, "compare_autodecoder", hidden_features=48)
    with pytest.raises(InputError, match="with method autodecoder"):
        export_model(codes, tmp_path / "mine.pt")
    assert not (tmp_path / "mine.pt").exists()
    with pytest.raises(InputError, match="nothing: no such checkpoint or model"):
        find_model("nothing")
    with pytest.raises(InputError, match="is a folder"):
        find_model(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"curriculum": "x"},
        {"curriculum": None},
        {"model": None},
        {"card": 5},
        {"model_format": 2},
        {"model_format": torch.ones(3)},
        {"init_lr": "a"},
        {"w0": 0.0},
        {"hidden_layers": "3"},
        {"num_meta_steps": None},
        {"latent_grids": 8},
        {"resolution": "a"},
        {"hidden_features": 9},
        {"network": "os:system"},
    ],
    ids=str,
)
def test_a_damaged_model_file_is_one_error_that_names_it(change, tmp_path):
    export_model(checkpoint(tmp_path), tmp_path / "mine.pt")
    state = torch.load(tmp_path / "mine.pt", weights_only=True)
    for name, value in change.items():
        place = state if name in (*state, "model_format") else state["curriculum"]
        place[name] = value
    torch.save(state, tmp_path / "mine.pt")
    with pytest.raises(InputError, match=r"mine\.pt: "):
        load_model(tmp_path / "mine.pt")


@pytest.mark.parametrize("name", shipped_models())
def test_the_models_that_come_with_the_package_are_small_and_say_what_they_are(name):
    path = find_model(name)
    assert path.stat().st_size <= 2e6
    model = load_model(name)
    *words, fallback = CARD_WORDS
    assert set(words) <= set(model.card) <= set(CARD_WORDS)
    assert all(len(model.card[word]) > 2 for word in words)
    assert model.card.get(fallback) in (None, *shipped_models())
