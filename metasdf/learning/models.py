"""From a curriculum to the model that it describes."""

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
from metasdf.learning.extensions import (
    check_loss,
    check_method,
    check_network,
    construct,
    is_dotted,
)
from metasdf.local import LocalNetwork, parse_resolutions
from metasdf.losses import ColourLoss, CompositeLoss, DistanceLoss, build_loss
from metasdf.maml import MetaSDF
from metasdf.method import Method
from metasdf.networks import CoordinateNetwork

CODE_FITTING = ("code_steps", "code_points")  # keys that say how an auto-decoder fits a code
ENCODED_SCALE = 0.1  # initial scale of an encoder's code in a digit's field
DISTANCE_SCALE = 0.1  # typical distance in a digit's field, in widths of the image


def build_model(curriculum: Mapping[str, Any], num_shapes: int = 0) -> Method:
    """The untrained model that a complete curriculum describes, on the CPU.

    Its initialisation is drawn from torch's global random state.

    Args:
        curriculum: as `load_curriculum` returns it.
        num_shapes: number of training shapes; an auto-decoder has a latent code for each.

    Raises:
        InputError: keys exclude each other, or a class of the user's own is not as it must be.
    """
    if curriculum["compile"] and curriculum["method"].startswith("autodecoder"):
        raise InputError("compile: an autodecoder cannot be compiled; train it without")
    if curriculum["compile"] and curriculum["recompute_steps"]:
        raise InputError("compile: not with recompute_steps; choose one of them")
    loss = _build_loss(curriculum)
    if is_dotted(curriculum["method"]):
        return _build_own_method(curriculum, loss, num_shapes)
    latent_features = curriculum["latent_features"]
    encoder, _, conditioning = curriculum["method"].partition("_")
    if encoder == "metasdf":
        return MetaSDF(
            _build_network(curriculum, loss.out_features, curriculum["init_bias"]),
            loss,
            step_size_type=curriculum["lr_type"],
            num_steps=curriculum["num_meta_steps"],
            initial_step_size=curriculum["init_lr"],
            first_order=curriculum["first_order"],
            checkpointing=curriculum["recompute_steps"],
            extra_step_factor=curriculum["extra_step_factor"],
            latent_step_size=curriculum["latent_lr"],
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
        encoder_network: nn.Module = SetEncoder(
            _dimensions(curriculum),
            latent_features,
            curriculum["hidden_features"],
            values=_values(curriculum),
        )
    else:
        photographs = curriculum["data"] == "photographs"
        encoder_network = ConvolutionalEncoder(
            pixel_frame(curriculum["image_size"] if photographs else DIGIT_PIXELS, not photographs),
            latent_features,
            values=_values(curriculum),
            scale=1.0 if photographs else DISTANCE_SCALE,
        )
    return EncoderSDF(encoder_network, decoder, loss)


def _dimensions(curriculum: Mapping[str, Any]) -> int:
    return 2 if is_2d(curriculum) else 3


def _values(curriculum: Mapping[str, Any]) -> int:
    """Numbers that the context gives at each of its points: a distance or a colour."""
    return 3 if curriculum.get("data") == "photographs" else 1


def _build_own_method(
    curriculum: Mapping[str, Any], loss: DistanceLoss | CompositeLoss, num_shapes: int
) -> Method:
    """A method of the user's own, offered everything that the built-in ones are made of."""
    dotted = curriculum["method"]
    method = construct(
        "method",
        dotted,
        network=_build_network(curriculum, loss.out_features, curriculum["init_bias"]),
        loss=loss,
        num_steps=curriculum["num_meta_steps"],
        step_size_type=curriculum["lr_type"],
        initial_step_size=curriculum["init_lr"],
        first_order=curriculum["first_order"],
        latent_features=curriculum["latent_features"],
        num_shapes=num_shapes,
        curriculum=curriculum,
    )
    check_method(dotted, method)
    return method


def _build_loss(curriculum: Mapping[str, Any]) -> DistanceLoss | CompositeLoss:
    mode = curriculum["training_mode"]
    clamp, sharpness = curriculum["clamp"], curriculum["sharpness"]
    outer = curriculum.get("outer_loss", "l1")
    if is_dotted(mode):
        loss = construct("training_mode", mode, clamp=clamp, outer=outer, sharpness=sharpness)
        check_loss(mode, loss, _values(curriculum))
        return loss
    if curriculum.get("data") != "photographs":
        return build_loss(mode, clamp, outer, sharpness)
    if mode == "multitask" or clamp is not None or sharpness is not None:
        raise InputError(
            "training_mode, clamp, sharpness: photographs take l1 or l2, without the other two"
        )
    return ColourLoss(mode, outer)


def _build_network(
    curriculum: Mapping[str, Any], out_features: int, output_bias: float | None = None
) -> nn.Module:
    kind, in_features = curriculum["network"], _dimensions(curriculum)
    arguments = {
        "in_features": in_features,
        "out_features": out_features,
        "hidden_features": curriculum["hidden_features"],
        "hidden_layers": curriculum["hidden_layers"],
        "frequencies": curriculum["frequencies"],
        "w0": curriculum["w0"],
        "output_bias": output_bias,
    }
    if curriculum["adapted"] != "weights":
        return _build_local_network(curriculum, arguments)
    if not is_dotted(kind):
        return CoordinateNetwork(kind, **arguments)
    network = construct("network", kind, **arguments)
    check_network(kind, network, in_features, out_features)
    return network


def _build_local_network(
    curriculum: Mapping[str, Any], arguments: Mapping[str, Any]
) -> LocalNetwork:
    for key, name in (("network", curriculum["network"]), ("method", curriculum["method"])):
        if is_dotted(name) or (key == "method" and name != "metasdf"):
            raise InputError(
                f"adapted: {curriculum['adapted']} goes with the method metasdf and a network of "
                f"ours, not with {key} {name}; set it to weights"
            )
    return LocalNetwork(
        curriculum["network"],
        adapted=curriculum["adapted"],
        resolutions=parse_resolutions(curriculum["latent_grids"]),
        channels=curriculum["latent_channels"],
        points=curriculum["latent_points"],
        enter=curriculum["latents_enter"],
        **arguments,
    )


def _build_decoder(
    curriculum: Mapping[str, Any], conditioning: str, out_features: int
) -> nn.Module:
    """The network that turns a latent code into a field.

    conditioning: "concat", "hyper", or "" as in the 3D auto-decoder: DeepSDF's network where the
    curriculum asks for ReLU, else concatenation.
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
    code_is_encoded = is_2d(curriculum) and curriculum["method"] != "autodecoder_concat"
    return Concatenation(network, latent_features, ENCODED_SCALE if code_is_encoded else 1.0)
