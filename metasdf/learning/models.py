"""Checkpoints: the curriculum and all state, enough to rebuild a model and to go on training."""

from collections.abc import Mapping
from typing import Any

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
from metasdf.data.pixels import DIGIT_PIXELS, pixel_frame
from metasdf.errors import InputError
from metasdf.learning.curriculum import is_2d
from metasdf.losses import ColourLoss, CompositeLoss, DistanceLoss, build_loss
from metasdf.maml import MetaSDF, Method
from metasdf.networks import CoordinateNetwork

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
            checkpointing=curriculum["recompute_steps"],
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
