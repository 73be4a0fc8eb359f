"""Checkpoints: the curriculum and all state, enough to rebuild a model and to go on training."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from metasdf.errors import InputError
from metasdf.files import atomic_path
from metasdf.learning.curriculum import is_2d, keys_of
from metasdf.learning.extensions import check_trusted
from metasdf.learning.models import CODE_FITTING, build_model
from metasdf.method import Method

FORMAT = 1


def save_checkpoint(path: str | os.PathLike, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts of these, atomically."""
    with atomic_path(path) as temporary:
        try:
            torch.save({"format": FORMAT, **state}, temporary)
        except RuntimeError as error:  # how torch reports a full disk
            reason = str(error).split("\n")[0]
            raise InputError(f"{path}: cannot be written ({reason}); is the disk full?") from error


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without ever executing code from the file."""
    path = Path(path)
    if not path.is_file():
        what = "is a folder; name the .pth file" if path.is_dir() else "no such checkpoint"
        raise InputError(f"{path}: {what}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's own words advise to run code from the file
        raise InputError(f"{path}: is no checkpoint of ours, or is damaged") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: is no checkpoint of ours (no format {FORMAT} entry)")
    if missing := {"curriculum", "epoch", "model", "optimizer"} - state.keys():
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}; train anew")
    return state


def load_model(path: str | os.PathLike, curriculum: Mapping[str, Any] | None = None) -> Method:
    """The trained model of a checkpoint, on the CPU and in evaluation mode.

    Its attribute `curriculum` holds the complete curriculum that it was trained with.

    Args:
        path: a .pth file that training wrote.
        curriculum: the one in use now. It says how an auto-decoder fits codes, CODE_FITTING, which
            does not shape what was trained, and it must name classes of the user's own that the
            checkpoint names (see `metasdf.learning.extensions`). None: the checkpoint's own.

    Raises:
        InputError: there is no such checkpoint, or it is damaged or names code by itself.
    """
    state = load_checkpoint(path)
    try:
        trained = _with_defaults(state["curriculum"])
        check_trusted(Path(path), trained, curriculum)
        chosen = trained if curriculum is None else curriculum
        fitting = {name: chosen[name] for name in CODE_FITTING}
        model = build_model({**trained, **fitting}, len(state.get("train_shapes", ())))
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: does not hold what its curriculum says ({reason})") from error
    model.curriculum = trained
    return model.eval()


def _with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved curriculum, with the defaults of keys that are newer than the checkpoint."""
    return {name: saved.get(name, key.default) for name, key in keys_of(saved).items()}


def check_kind(path: str | os.PathLike, trained: Mapping[str, Any], want_2d: bool) -> None:
    """InputError if a checkpoint's curriculum is one of 2D and ought to be of 3D, or vice versa."""
    if is_2d(trained) != want_2d:
        kind, other = ("3D", "2D") if want_2d else ("2D", "3D")
        raise InputError(f"{path}: was trained on a curriculum of {kind}, not of {other}")


def check_continues(
    path: Path, state: Mapping[str, Any], wanted: Mapping[str, Any], shapes: Sequence[str]
) -> None:
    """InputError if a checkpoint's model differs from the one the curriculum describes.

    shapes: names of the training shapes; an auto-decoder has a latent code for each.
    """
    saved = _with_defaults(state["curriculum"])
    check_kind(path, saved, want_2d=is_2d(wanted))
    for name, key in keys_of(wanted).items():
        if key.shapes_network and saved[name] != wanted[name]:
            raise InputError(
                f"{path}: was trained with {name} = {saved[name]!r}, not {wanted[name]!r}; "
                f"use the same value, or another output_dir for a new model"
            )
    as_before = all(saved[name] == wanted[name] for name in ("lr_schedule", "num_epochs"))
    if wanted["lr_schedule"] == "cosine" and not as_before:
        raise InputError(
            f"{path}: lr falls along a cosine of all of num_epochs, so to go on takes the same "
            f"lr_schedule and num_epochs = {saved['num_epochs']}; or choose lr_schedule steps"
        )
    if wanted["method"].startswith("autodecoder") and state["train_shapes"] != list(shapes):
        same = "data_source and train_images" if is_2d(wanted) else "train_split and data"
        raise InputError(
            f"{path}: has latent codes for other training shapes than those that are usable now; "
            f"use the same {same}, or another output_dir for a new model"
        )
