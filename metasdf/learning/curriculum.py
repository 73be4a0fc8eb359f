"""Curriculums: plain dictionaries of values that say what to train, on what and how.

This module knows every key, its default, its meaning and what values it takes. Any key can be
overridden on a command line as `--key value`.
"""

import importlib.util
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from metasdf.errors import InputError, listed, near_matches
from metasdf.geometry.normalisation import TURNS
from metasdf.learning.extensions import is_dotted
from metasdf.local import ADAPTED, ENTRANCES
from metasdf.losses import SURFACES, TRAINING_MODES
from metasdf.networks import NETWORKS
from metasdf.step_sizes import STEP_SIZE_TYPES

CONTEXT_MODES = ("dense", "levelset", "partial")
CONTEXT_MODES_2D = ("dense", "levelset")
DISTANCES = ("exact", "original")
METHODS = (
    "metasdf",  # gradient steps from a learned initialisation
    "autodecoder",  # DeepSDF: a latent code per shape, found by optimisation
    "set_concat",  # PointNet encoder, latent code concatenated to the coordinates
    "set_hyper",  # PointNet encoder, hypernetwork from latent code to all weights
)
METHODS_2D = (
    "metasdf",
    *("autodecoder_concat", "autodecoder_hyper"),  # codes found by optimisation
    *("set_concat", "set_hyper"),
    *("cnn_concat", "cnn_hyper"),  # convolutional encoder of the context as an image
)
LR_SCHEDULES = ("steps", "cosine")
PRECISIONS = ("float32", "tf32", "bfloat16")  # see gradients.computed_in
REQUIRED = object()


@dataclass(frozen=True)
class Key:
    """One key of a curriculum: its type, default, meaning, and the values it takes.

    Attributes:
        choices: the allowed values; any, if empty.
        words: further values beside those of its type.
        extensible: whether a dotted name, "package.module:Class", is allowed beside the choices.
        is_path: whether relative values are relative to the curriculum's file.
        shapes_network: whether a checkpoint cannot be continued with another value.
    """

    type: type
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    is_path: bool = False
    shapes_network: bool = False
    extensible: bool = False
    words: tuple[str, ...] = ()

    def check(self, name: str, value: Any) -> Any:
        if (value is None and self.default is None) or value in self.words:
            return value
        if self.type is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not self.type:
            expected = self.type.__name__
            raise InputError(f"{name}: {value!r} is a {type(value).__name__}, want {expected}")
        if self.choices and value not in self.choices:
            if not (self.extensible and is_dotted(value)):
                raise InputError(f"{name}: {value!r} is unknown; choose one of {self.accepted()}")
        if self.type is float and not math.isfinite(value):
            raise InputError(f"{name}: {value!r} is not a finite number")
        if self.minimum is not None and not value >= self.minimum:
            raise InputError(f"{name}: {value!r} is too small; the least is {self.minimum}")
        if self.maximum is not None and not value <= self.maximum:
            raise InputError(f"{name}: {value!r} is too large; the most is {self.maximum}")
        return value

    def accepted(self) -> str:
        """The choices, for people."""
        own = (", or your own class as package.module:Class",) if self.extensible else ()
        return listed(self.choices) + "".join(own)

    def parse(self, name: str, text: str) -> Any:
        if self.type is bool:
            if text.lower() not in ("true", "false"):
                raise InputError(f"--{name}: {text!r} is neither true nor false")
            return text.lower() == "true"
        if text.lower() == "none" and self.default is None:
            return None
        if text in self.words:
            return text
        try:
            return self.type(text)
        except ValueError:
            kind = {int: "whole number", float: "number"}.get(self.type, self.type.__name__)
            kind = " or ".join([kind, *self.words])
            raise InputError(f"--{name}: {text!r} is not a {kind}") from None


_SHAPES: dict[str, Key] = {
    "data_source": Key(str, REQUIRED, "folder with SdfSamples/, SurfaceSamples/", is_path=True),
    "train_split": Key(str, REQUIRED, "split file of the shapes to train on", is_path=True),
    "val_split": Key(str, REQUIRED, "split file of the shapes to validate on", is_path=True),
    "test_split": Key(str, REQUIRED, "split file of the shapes to reconstruct", is_path=True),
    "context_mode": Key(
        str, "dense", "what the inner loop sees: samples, surface or scan", CONTEXT_MODES
    ),
    "query": Key(
        str, "all", "dense mode: query all samples or those not in the context", ("all", "held_out")
    ),
    "SDFSamplesPerScene": Key(int, 8000, "SDF samples per shape and step", minimum=4),
    "LevelsetSamplesPerScene": Key(int, 4000, "surface points per shape and step", minimum=1),
    "augment_rotation": Key(bool, False, "each task is turned at random"),
    "augment_frame": Key(
        float,
        0.0,
        "levelset and partial mode: share of the tasks that are normalised by their context alone, "
        "as a scan is whose whole is not known",
        minimum=0,
        maximum=1,
    ),
    "augment_noise": Key(
        float,
        0.0,
        "each task's context positions get noise of a standard deviation drawn from 0 to this",
        minimum=0,
    ),
    "method": Key(
        str,
        "metasdf",
        "how a shape's field is found",
        METHODS,
        shapes_network=True,
        extensible=True,
    ),
    "dropout": Key(float, 0.2, "autodecoder: share of features dropped in training", minimum=0),
}
_IMAGES: dict[str, Key] = {
    "data": Key(
        str,
        REQUIRED,
        "fields to fit: digits' signed distances or photographs' colours",
        ("digits", "photographs"),
        shapes_network=True,
    ),
    "data_source": Key(
        str,
        "auto",
        "folder of MNIST or of images, npz file of images, embedded, or auto: what is in the "
        "cache, else a download, else embedded",
    ),
    "cache": Key(str, REQUIRED, "folder that downloads are kept in", is_path=True),
    "image_size": Key(
        int, 32, "photographs: width and height in pixels", minimum=2, shapes_network=True
    ),
    "distance": Key(
        str,
        "exact",
        "digits: distance to the boundary between pixels, or the original's",
        DISTANCES,
    ),
    "train_images": Key(int, None, "images to train on (none: all)", minimum=1),
    "val_images": Key(int, 64, "images to validate on, the last of the training set", minimum=1),
    "test_images": Key(int, None, "images to test on (none: all)", minimum=1),
    "images_per_epoch": Key(int, None, "images an epoch takes (none: all)", minimum=1),
    "context_mode": Key(
        str, "dense", "what the inner loop sees: pixels or the contour", CONTEXT_MODES_2D
    ),
    "query": Key(
        str,
        "held_out",
        "dense mode: query all pixels drawn, which all are context, or the half that is not",
        ("all", "held_out"),
    ),
    "pixels": Key(int, None, "pixels drawn per image and step (none: all)", minimum=2),
    "query_pixels": Key(
        int, None, "pixels of the query that are used per image and step (none: all)", minimum=1
    ),
    "contour_points": Key(int, 512, "levelset mode: points of the contour", minimum=1),
    "method": Key(
        str,
        "metasdf",
        "how an image's field is found",
        METHODS_2D,
        shapes_network=True,
        extensible=True,
    ),
    "outer_loss": Key(str, "l2", "l1, l2: loss on the queries", ("l1", "l2"), shapes_network=True),
}
_TRAINING: dict[str, Key] = {
    # Network
    "network": Key(
        str, "relu", "kind of coordinate network", NETWORKS, shapes_network=True, extensible=True
    ),
    "hidden_layers": Key(int, 8, "width -> width layers", minimum=0, shapes_network=True),
    "hidden_features": Key(int, 512, "width", minimum=1, shapes_network=True),
    "frequencies": Key(
        int, 5, "octaves of the positional encoding", minimum=0, maximum=64, shapes_network=True
    ),
    "w0": Key(float, 30.0, "frequency factor of SIREN", minimum=1e-3, shapes_network=True),
    "adapted": Key(
        str,
        "weights",
        "metasdf: what the inner steps adapt: weights, latents in space, or both",
        ADAPTED,
        shapes_network=True,
    ),
    "latent_grids": Key(
        str,
        "8,32",
        "latents, both: points along each side of the grids; 1: the same latent everywhere",
        shapes_network=True,
    ),
    "latent_points": Key(
        int,
        None,
        "latents, both: so many points that move hold the latents (none: they lie on grids)",
        minimum=1,
        shapes_network=True,
    ),
    "latent_channels": Key(
        int, 4, "latents, both: channels of each grid or point", minimum=1, shapes_network=True
    ),
    "latents_enter": Key(
        str,
        "every",
        "latents, both: before the first activation or before every one",
        ENTRANCES,
        shapes_network=True,
    ),
    "latent_lr": Key(float, 0.3, "latents, both: initial inner step size of latents"),
    "latent_features": Key(
        int, 256, "all methods but metasdf: size of a latent code", minimum=1, shapes_network=True
    ),
    # Meta-learning
    "training_mode": Key(
        str,
        "multitask",
        "loss: sign and distance, or distance",
        TRAINING_MODES,
        shapes_network=True,
        extensible=True,
    ),
    "clamp": Key(
        float, None, "l1, l2: distances count up to this (none: any distance)", minimum=1e-3
    ),
    "sharpness": Key(
        float,
        None,
        "multitask: the logit is to be so many times the distance, by soft targets of the "
        "cross-entropy (none: 0 inside, 1 outside)",
        minimum=1e-3,
        shapes_network=True,
    ),
    "num_meta_steps": Key(int, 5, "inner steps K in training", minimum=1, shapes_network=True),
    "extra_step_factor": Key(
        float,
        1.0,
        "metasdf: steps beyond num_meta_steps take the sizes of the last one, times this for each",
        minimum=0,
        maximum=1,
    ),
    "lr_type": Key(
        str, "per_parameter", "what step sizes are learned", STEP_SIZE_TYPES, shapes_network=True
    ),
    "init_lr": Key(float, 5e-3, "initial inner step size"),
    "init_bias": Key(
        float, None, "metasdf: output bias before training (none: as its network has it)"
    ),
    "first_order": Key(bool, False, "no second derivatives (FOMAML)"),
    # Outer loop
    "lr": Key(float, 5e-4, "step size of Adam, the outer optimiser", minimum=0),
    "code_lr": Key(float, 1e-3, "autodecoder: step size of Adam on latent codes", minimum=0),
    "lr_schedule": Key(
        str,
        "steps",
        "lr is multiplied with lr_decay_factor every lr_decay_epochs, or falls to 0 over "
        "num_epochs along a cosine",
        LR_SCHEDULES,
    ),
    "lr_decay_epochs": Key(int, 350, "steps: epochs after which lr is multiplied", minimum=1),
    "lr_decay_factor": Key(float, 0.5, "steps: by what lr is multiplied"),
    "warmup_steps": Key(int, 0, "outer steps over which lr rises to its full size", minimum=0),
    "gradient_clip": Key(float, 0.5, "largest absolute value in a meta-gradient", minimum=0),
    "gradient_norm": Key(
        float, None, "largest norm of a meta-gradient, after that (none: any)", minimum=1e-9
    ),
    "ScenesPerBatch": Key(int, 32, "shapes per outer step", minimum=1),
    "scenes_per_microbatch": Key(
        int, None, "shapes at once in a step, for less memory (none: all of the batch)", minimum=1
    ),
    "recompute_steps": Key(
        bool, False, "metasdf: keep no inner step's graph but recompute it, for less memory"
    ),
    "precision": Key(
        str,
        "float32",
        "of matrix products in training: float32, tf32 on GPUs, bfloat16 by autocast",
        PRECISIONS,
    ),
    "compile": Key(
        bool,
        False,
        "compile the whole meta-step, not with an autodecoder or recompute_steps; takes a minute",
    ),
    "num_epochs": Key(int, 3000, "passes over the training shapes", minimum=1),
    "validate_every": Key(int, 1, "epochs between validations", minimum=1),
    "checkpoint_every": Key(int, 100, "epochs between numbered checkpoints", minimum=1),
    "seed": Key(int, 0, "seed of every random number", minimum=0, maximum=2**63 - 1),
    "output_dir": Key(str, REQUIRED, "folder for checkpoints and logs", is_path=True),
    # Fitting a new shape
    "code_steps": Key(
        int, 800, "autodecoder: steps of Adam that fit a new shape's latent code", minimum=1
    ),
    "code_points": Key(
        int, 8000, "autodecoder: context points drawn for each of these steps", minimum=1
    ),
}
_RECONSTRUCTION: dict[str, Key] = {
    "reconstruction_output_dir": Key(str, REQUIRED, "folder for meshes", is_path=True),
    "reconstruction_sdf_samples": Key(
        int, 100_000, "dense mode: SDF samples drawn, half of them context", minimum=4
    ),
    "reconstruction_levelset_samples": Key(
        int, 10_000, "levelset and partial mode: surface points", minimum=1
    ),
    "context_points": Key(
        int,
        None,
        "context points (none: half of reconstruction_sdf_samples, or "
        "reconstruction_levelset_samples)",
        minimum=1,
    ),
    "context_noise": Key(
        float,
        0.0,
        "standard deviation of noise on the context's positions, in the normalised frame",
        minimum=0,
    ),
    "reconstruction_steps": Key(
        int,
        None,
        "steps at test time (none: num_meta_steps or code_steps; auto: as many as do good, told by "
        "points held out of the context)",
        minimum=0,
        words=("auto",),
    ),
    "refine": Key(float, 0.0, "seconds of Adam on the adapted field (0: none)", minimum=0),
    "keep": Key(
        int,
        "all",
        "pieces of the mesh to keep: all, largest, or the number of the largest ones",
        minimum=1,
        words=("all", "largest"),
    ),
    "resolution": Key(
        int, 256, "points per side of the SDF grid over [-1, 1]^3", minimum=2, maximum=2048
    ),
    "up": Key(
        str,
        "y",
        "of a scan: its axis that points up; models of tables and chairs expect y: the scan is "
        "turned, and the mesh turned back",
        tuple(TURNS),
    ),
    "surface": Key(
        str,
        "composite",
        "multitask: mesh the level set of sign(logit) |distance|, as the original, or of the logit",
        SURFACES,
    ),
    "dense_grid": Key(bool, False, "evaluate all of the grid, not only where surface can be"),
}
KEYS = {**_SHAPES, **_TRAINING, **_RECONSTRUCTION}  # of the curriculums of 3D

# Those that a finished training leaves open; all others are what the checkpoint was trained with.
OPEN_KEYS = {
    *(name for name, key in KEYS.items() if key.is_path),
    *("context_mode", "seed", "code_steps", "code_points"),
    *_RECONSTRUCTION,
}
KEYS_2D = {**_IMAGES, **_TRAINING}


def is_2d(curriculum: Mapping[str, Any]) -> bool:
    """Whether a curriculum is one of 2D: these say what their "data" are."""
    return "data" in curriculum


def keys_of(curriculum: Mapping[str, Any]) -> dict[str, Key]:
    """The keys that a curriculum may have."""
    return KEYS_2D if is_2d(curriculum) else KEYS


def complete(curriculum: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    """Fill in defaults and check every value; relative paths become absolute, below `folder`.

    where: file and name of the curriculum, for messages. InputError names key and remedy.
    """
    result, keys = {}, keys_of(curriculum)
    for name in curriculum:
        if name not in keys:
            raise InputError(f"{where}: unknown key {name!r}{near_matches(name, list(keys))}")
    for name, key in keys.items():
        value = curriculum.get(name, key.default)
        if value is REQUIRED:
            raise InputError(f"{where}: key {name!r} is missing ({key.help})")
        try:
            value = key.check(name, value)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        result[name] = os.path.normpath(folder / value) if key.is_path else value
    return result


PACKAGE = Path(__file__).resolve().parents[1]


def shipped_file(kind: str) -> Path:
    """The curriculums that come with the project; kind: "2D" or "3D".

    An installed package carries them; in a checkout they lie beside the package.
    """
    installed = PACKAGE / f"_{kind}" / "curriculums.py"
    return installed if installed.is_file() else PACKAGE.parent / kind / "curriculums.py"


def read_curriculums(file: str | os.PathLike | None = None) -> dict[str, dict[str, Any]]:
    """Every curriculum of a file by name, as it stands there; None: all that are shipped."""
    if file is not None:
        return _curriculums(Path(file).resolve())
    return {**_curriculums(shipped_file("3D")), **_curriculums(shipped_file("2D"))}


def load_curriculum(
    name: str,
    overrides: Mapping[str, Any] | None = None,
    *,
    file: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """One complete curriculum: a plain dictionary of checked values, defaults filled in.

    Args:
        name: of the curriculum.
        overrides: values of keys that replace its own; relative paths mean the working directory.
        file: a curriculums file; relative paths in it are relative to the file. None: those that
            are shipped. In a checkout these lie in `3D` and `2D`, whose relative paths lead to
            `output` and `data` beside them; of an installed package, to `output` and `data` in
            the working directory.

    Raises:
        InputError: there is no such file or curriculum, or a key or value is wrong; with near
            matches.
    """
    curriculums = read_curriculums(file)
    if name not in curriculums:
        known = list(curriculums)
        where = "curriculums.py" if file is None else Path(file).resolve()
        raise InputError(f"{where}: no curriculum {name!r}{near_matches(name, known)}")
    values = curriculums[name]
    source = Path(file).resolve() if file is not None else shipped_file(_kind(values))
    folder, installed = source.parent, source.parent.parent == PACKAGE
    if installed:  # nothing is written into the package
        folder = Path.cwd() / _kind(values)
    curriculum = complete(values, f"{source.name}, {name}", folder)
    if installed:
        curriculum |= _shipped_splits(values, curriculum, source.parent)
    return complete({**curriculum, **(overrides or {})}, "command line", Path.cwd())


def _kind(curriculum: Mapping[str, Any]) -> str:
    return "2D" if is_2d(curriculum) else "3D"


def _shipped_splits(
    values: Mapping[str, Any], curriculum: Mapping[str, Any], folder: Path
) -> dict[str, str]:
    """Split files that the installed package carries, where the working directory has none."""
    return {
        key: str(folder / values[key])
        for key in ("train_split", "val_split", "test_split")
        if key in values and not Path(curriculum[key]).exists() and (folder / values[key]).exists()
    }


def _curriculums(file: Path) -> dict[str, dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("curriculums", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's own Python may raise anything
        raise InputError(f"{file}: cannot be loaded ({error!r})") from error
    return {
        name: value
        for name, value in vars(module).items()
        if isinstance(value, dict) and not name.startswith("_")
    }
