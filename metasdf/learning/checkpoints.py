"""Checkpoints: the curriculum and all state, enough to go on training."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from metasdf.errors import InputError
from metasdf.files import atomic_path
from metasdf.learning.curriculum import REQUIRED, is_2d, keys_of

FORMAT = 1
MODEL_FORMAT = 1  # of model files, see `metasdf.learning.model_files`


def save_checkpoint(path: str | os.PathLike, state: Mapping[str, Any]) -> None:
    """Write tensors, numbers, strings, lists and dicts of these, atomically."""
    save_state(path, {"format": FORMAT, **state})


def save_state(path: str | os.PathLike, state: Mapping[str, Any]) -> None:
    """`save_checkpoint` of any format."""
    with atomic_path(path) as temporary:
        try:
            torch.save(dict(state), temporary)
        except RuntimeError as error:  # how torch reports a full disk
            reason = str(error).split("\n")[0]
            raise InputError(f"{path}: cannot be written ({reason}); is the disk full?") from error


def load_checkpoint(path: str | os.PathLike) -> dict[str, Any]:
    """Read a checkpoint onto the CPU, without ever executing code from the file."""
    state = read_state(path)
    if "model_format" in state:
        raise InputError(
            f"{path}: is a model for use, without what training goes on from; name the checkpoint "
            "that its training wrote"
        )
    if missing := {"curriculum", "epoch", "model", "optimizer"} - state.keys():
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}; train anew")
    return state


def read_state(path: str | os.PathLike) -> dict[str, Any]:
    """Read what `save_state` wrote, of a format that is known, never executing code from it."""
    path = Path(path)
    if not path.is_file():
        what = "is a folder; name the .pth file" if path.is_dir() else "no such checkpoint"
        raise InputError(f"{path}: {what}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # PyTorch's own words advise to run code from the file
        raise InputError(f"{path}: is no checkpoint of ours, or is damaged") from error
    if not isinstance(state, dict):
        raise InputError(f"{path}: is no checkpoint of ours (no format {FORMAT} entry)")
    key, want = ("model_format", MODEL_FORMAT) if "model_format" in state else ("format", FORMAT)
    if type(found := state.get(key)) is not int or found != want:
        raise InputError(f"{path}: is no checkpoint of ours (no format {FORMAT} entry)")
    return state


def with_defaults(saved: Mapping[str, Any]) -> dict[str, Any]:
    """A saved curriculum, with the defaults of keys that are newer than the checkpoint.

    None stands for folders and split files where the saved one has none, as in a model file.
    """
    defaults = {n: None if k.default is REQUIRED else k.default for n, k in keys_of(saved).items()}
    return {name: saved.get(name, default) for name, default in defaults.items()}


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
    saved = with_defaults(state["curriculum"])
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
