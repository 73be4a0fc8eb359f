"""Trained models: from a checkpoint, from a model file, or one that comes with the package.

A checkpoint holds an optimiser's state and the folders of one machine. A model file holds neither,
but a card: what the model was trained on, in which frame, and how well it does.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metasdf.errors import InputError, near_matches
from metasdf.learning.checkpoints import (
    MODEL_FORMAT,
    load_checkpoint,
    read_state,
    save_state,
    with_defaults,
)
from metasdf.learning.curriculum import KEYS, OPEN_KEYS, is_2d, keys_of
from metasdf.learning.extensions import check_trusted, is_dotted
from metasdf.learning.models import CODE_FITTING, build_model
from metasdf.method import Method

SHIPPED = Path(__file__).resolve().parents[1] / "models"
SUFFIX = ".pt"
# What a card may say; fallback: a model of points alone, see `reconstruct`.
CARD_WORDS = ("use", "data", "frame", "training", "measures", "limits", "fallback")


def shipped_models() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(file.stem for file in SHIPPED.glob(f"*{SUFFIX}"))


def find_model(name: str | os.PathLike) -> Path:
    """The file of a model: a path, or the name of one that comes with the package.

    Raises:
        InputError: there is neither; with near matches.
    """
    path = Path(name)
    if path.is_file():
        return path
    names = shipped_models()
    if str(name) in names:
        return SHIPPED / f"{name}{SUFFIX}"
    if path.is_dir():
        raise InputError(f"{path}: is a folder; name the .pth or .pt file")
    raise InputError(f"{name}: no such checkpoint or model{near_matches(str(name), names)}")


def load_model(path: str | os.PathLike, curriculum: Mapping[str, Any] | None = None) -> Method:
    """A trained model, on the CPU and in evaluation mode.

    Its attribute `curriculum` holds the complete curriculum that it was trained with, without
    folders and split files if it comes from a model file; its attribute `card` what that says.

    Args:
        path: a .pth file that training wrote, a .pt file of `export_model`, or the name of a model
            that comes with the package, see `shipped_models`.
        curriculum: the one in use now. It says how an auto-decoder fits codes, CODE_FITTING, which
            does not shape what was trained, and it must name classes of the user's own that the
            checkpoint names (see `metasdf.learning.extensions`). None: the checkpoint's own.

    Raises:
        InputError: there is no such file or name, or it is damaged or names code by itself.
    """
    path = find_model(path)
    state = read_state(path)
    if "model_format" not in state:
        state = load_checkpoint(path)
    trained = _checked_curriculum(path, state)
    check_trusted(path, trained, curriculum)
    chosen = trained if curriculum is None else curriculum
    fitting = {name: chosen[name] for name in CODE_FITTING}
    try:
        model = build_model({**trained, **fitting}, len(state.get("train_shapes", ())))
        model.load_state_dict(state["model"])
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (KeyError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: does not hold what its curriculum says ({reason})") from error
    model.curriculum, model.card = trained, state.get("card", {})
    return model.eval()


def _checked_curriculum(path: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """The complete curriculum of a file's state; InputError if the file does not hold one."""
    parts = (state.get("curriculum"), state.get("model"), state.get("card", {}))
    shapes = state.get("train_shapes", [])
    if not all(isinstance(part, dict) for part in parts) or not isinstance(shapes, list | tuple):
        raise InputError(f"{path}: is damaged: it holds no curriculum and weights")
    trained = with_defaults(state["curriculum"])
    keys = keys_of(trained)
    for name, value in trained.items():
        if value is not None or not keys[name].is_path:
            try:
                keys[name].check(name, value)
            except InputError as error:
                raise InputError(f"{path}: {error}") from error
    return trained


def export_model(
    checkpoint: str | os.PathLike,
    path: str | os.PathLike,
    card: Mapping[str, str] | None = None,
    keys: Mapping[str, Any] | None = None,
) -> None:
    """Turn a checkpoint into a model file.

    Args:
        checkpoint: a .pth file that training wrote, of shapes.
        path: the file to write; it ends in .pt.
        card: what a user should know, by the words of CARD_WORDS.
        keys: values of curriculum keys that say how shapes are reconstructed, to replace those of
            training.

    Raises:
        InputError: the checkpoint cannot be used, is of images (2D), of an auto-decoder (its codes
            are those of its training shapes) or of a method of the user's own; or a word of the
            card or a key is unknown.
    """
    path, card = Path(path), dict(card or {})
    if path.suffix != SUFFIX:
        raise InputError(f"{path}: a model's file ends in {SUFFIX}")
    for word in card:
        if word not in CARD_WORDS:
            raise InputError(f"card: {word!r} is unknown{near_matches(word, CARD_WORDS)}")
    for name in keys or {}:
        if name not in OPEN_KEYS or KEYS[name].is_path:
            known = [n for n in KEYS if n in OPEN_KEYS and not KEYS[n].is_path]
            raise InputError(f"unknown key {name!r}{near_matches(name, known)}")
    state = load_checkpoint(checkpoint)
    trained = _checked_curriculum(Path(checkpoint), state)
    if is_2d(trained) or trained["method"] == "autodecoder" or is_dotted(trained["method"]):
        what = "on images (2D)" if is_2d(trained) else f"with method {trained['method']}"
        raise InputError(f"{checkpoint}: was trained {what}; such a model cannot be exported")
    curriculum = {n: v for n, v in trained.items() if not KEYS[n].is_path}
    curriculum |= {name: KEYS[name].check(name, value) for name, value in (keys or {}).items()}
    model = {"curriculum": curriculum, "model": state["model"], "card": card}
    save_state(path, {"model_format": MODEL_FORMAT, **model})
