"""Checkpoints: the curriculum and all state, enough to rebuild a model and to go on training."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from metasdf.baselines import (
    AutoDecoder,
    Concatenation,
    ConvolutionalEncoder,
    DeepSDFDecoder,
    EncoderSDF,
    Hypernetwork,
    SetEncoder,
)
from metasdf.curriculum import is_2d, keys_of
from metasdf.errors import InputError
from metasdf.files import atomic_path
from metasdf.losses import ColourLoss, CompositeLoss, DistanceLoss, build_loss
from metasdf.maml import MetaSDF
from metasdf.method import Method
from metasdf.networks import CoordinateNetwork
from metasdf.plane import DIGIT_PIXELS, pixel_frame

FORMAT = 1
CODE_FITTING = ("code_steps", "code_points")  # keys of an auto-decoder's fits
ENCODED_SCALE = 0.1  # of an encoder's code in a digit's field at first
DISTANCE_SCALE = 0.1  # how large the distances of a digit's field are, in widths


def build_model(curriculum: Mapping[str, Any], num_shapes: int = 0) -> Method:
    """The untrained model a curriculum describes, on the CPU; init from torch's random state.

    num_shapes: the number of training shapes, each of which has a latent code of its own in an
    auto-decoder.
    """
    if curriculum["compile"] and curriculum["method"].startswith("autodecoder"):
        raise InputError("compile: an autodecoder cannot be compiled; train it without")
    if curriculum["compile"] and curriculum["recompute_steps"]:
        raise InputError("compile: not with recompute_steps; choose one of them")
    loss = _build_loss(curriculum)
    latent_features = curriculum["latent_features"]
    encoder, _, conditioning = curriculum["method"].partition("_")
    if encoder == "metasdf":
        network = _build_network(curriculum, loss.out_features)
        if curriculum["init_bias"] is not None:
            nn.init.constant_(network.net[-1].bias, curriculum["init_bias"])
        return MetaSDF(
            network,
            loss,
            step_size_type=curriculum["lr_type"],
            num_steps=curriculum["num_meta_steps"],
            initial_step_size=curriculum["init_lr"],
            first_order=curriculum["first_order"],
            recompute=curriculum["recompute_steps"],
        )
    decoder = _build_decoder(curriculum, conditioning, loss.out_features)
    if encoder == "autodecoder":
        return AutoDecoder(
            decoder,
            loss,
            latent_features=latent_features,
            num_shapes=num_shapes,
            num_steps=curriculum["code_steps"],
            num_points=curriculum["code_points"],
        )
    if encoder == "set":
        read = SetEncoder(
            _dimensions(curriculum),
            latent_features,
            curriculum["hidden_features"],
            values=_values(curriculum),
        )
    else:
        photographs = curriculum["data"] == "photographs"
        read = ConvolutionalEncoder(
            pixel_frame(curriculum["image_size"] if photographs else DIGIT_PIXELS, not photographs),
            latent_features,
            values=_values(curriculum),
            scale=1.0 if photographs else DISTANCE_SCALE,
        )
    return EncoderSDF(read, decoder, loss)


def _dimensions(curriculum: Mapping[str, Any]) -> int:
    return 2 if is_2d(curriculum) else 3


def _values(curriculum: Mapping[str, Any]) -> int:
    """Numbers that the context gives at each of its points: a distance or a colour."""
    return 3 if curriculum.get("data") == "photographs" else 1


def _build_loss(curriculum: Mapping[str, Any]) -> DistanceLoss | CompositeLoss:
    mode, clamp = curriculum["training_mode"], curriculum["clamp"]
    if curriculum.get("data") != "photographs":
        return build_loss(mode, clamp, curriculum.get("outer_loss", "l1"))
    if mode == "multitask" or clamp is not None:
        raise InputError("training_mode, clamp: photographs take l1 or l2, without clamp")
    return ColourLoss(mode, curriculum["outer_loss"])


def _build_network(curriculum: Mapping[str, Any], out_features: int) -> CoordinateNetwork:
    return CoordinateNetwork(
        curriculum["network"],
        in_features=_dimensions(curriculum),
        out_features=out_features,
        hidden_features=curriculum["hidden_features"],
        hidden_layers=curriculum["hidden_layers"],
        frequencies=curriculum["frequencies"],
        w0=curriculum["w0"],
    )


def _build_decoder(
    curriculum: Mapping[str, Any], conditioning: str, out_features: int
) -> nn.Module:
    """What turns a code into a field; without a word on conditioning, DeepSDF's network.

    That network is a ReLU network; others have the code concatenated.
    """
    latent_features = curriculum["latent_features"]
    if conditioning == "" and curriculum["network"] == "relu":
        return DeepSDFDecoder(
            in_features=_dimensions(curriculum),
            out_features=out_features,
            latent_features=latent_features,
            hidden_features=curriculum["hidden_features"],
            hidden_layers=curriculum["hidden_layers"],
            dropout=curriculum["dropout"],
        )
    network = _build_network(curriculum, out_features)
    if conditioning == "hyper":
        return Hypernetwork(network, latent_features)
    drowns = is_2d(curriculum) and curriculum["method"] != "autodecoder_concat"
    return Concatenation(network, latent_features, ENCODED_SCALE if drowns else 1.0)


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


def load_model(
    path: str | os.PathLike, curriculum: Mapping[str, Any] | None = None
) -> tuple[Method, dict[str, Any]]:
    """The trained model of a checkpoint, in evaluation mode, and the curriculum it came from.

    curriculum: the one in use now. It says how an auto-decoder fits codes, CODE_FITTING, which
    does not shape what was trained; without it, the checkpoint's own does.
    """
    state = load_checkpoint(path)
    try:
        trained = _with_defaults(state["curriculum"])
        chosen = trained if curriculum is None else curriculum
        fitting = {name: chosen[name] for name in CODE_FITTING}
        model = build_model({**trained, **fitting}, len(state.get("train_shapes", ())))
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path}: does not hold what its curriculum says ({reason})") from error
    return model.eval(), trained


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
