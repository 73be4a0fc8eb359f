"""Checkpoints: the curriculum and all state, enough to rebuild a model and to go on training."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from metasdf.curriculum import KEYS
from metasdf.errors import InputError
from metasdf.files import atomic_path
from metasdf.losses import build_loss
from metasdf.maml import MetaSDF
from metasdf.networks import CoordinateNetwork

FORMAT = 1


def build_model(curriculum: Mapping[str, Any]) -> MetaSDF:
    """The untrained model a curriculum describes, on the CPU; init from torch's random state."""
    loss = build_loss(curriculum["training_mode"])
    network = CoordinateNetwork(
        curriculum["network"],
        in_features=3,
        out_features=loss.out_features,
        hidden_features=curriculum["hidden_features"],
        hidden_layers=curriculum["hidden_layers"],
        frequencies=curriculum["frequencies"],
        w0=curriculum["w0"],
    )
    return MetaSDF(
        network,
        loss,
        step_size_type=curriculum["lr_type"],
        num_steps=curriculum["num_meta_steps"],
        initial_step_size=curriculum["init_lr"],
        first_order=curriculum["first_order"],
    )


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
        raise InputError(f"{path}: no such checkpoint; train one with run_train.py")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"{path}: is no checkpoint of ours or is damaged ({reason})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise InputError(f"{path}: is no checkpoint of ours (no format {FORMAT} entry)")
    if missing := {"curriculum", "epoch", "model", "optimizer"} - state.keys():
        raise InputError(f"{path}: lacks {', '.join(sorted(missing))}; train anew")
    return state


def load_model(path: str | os.PathLike) -> tuple[MetaSDF, dict[str, Any]]:
    """The trained model of a checkpoint, in evaluation mode, and the curriculum it came from."""
    state = load_checkpoint(path)
    try:
        model = build_model(state["curriculum"])
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: does not hold what its curriculum says ({reason})") from error
    return model.eval(), state["curriculum"]


def check_continues(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """InputError if a checkpoint's model differs from the one the curriculum describes."""
    for name, key in KEYS.items():
        if key.shapes_network and saved.get(name) != wanted[name]:
            raise InputError(
                f"{path}: was trained with {name} = {saved.get(name)!r}, not {wanted[name]!r}; "
                f"use the same value, or another output_dir for a new model"
            )
