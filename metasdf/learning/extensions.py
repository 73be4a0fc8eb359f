"""Networks, losses and methods of the user's own, by dotted name in a curriculum.

`"network": "package.module:Class"`, and likewise `training_mode` and `method`. The class is called
with those of the offered keyword arguments that it takes, and the object is checked like a built-in
one. A dotted name that comes from a checkpoint alone is refused: importing it would run code.
"""

import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from metasdf.errors import InputError
from metasdf.method import Method

EXTENSIBLE = ("network", "training_mode", "method")  # the curriculum keys that take dotted names


def is_dotted(value: Any) -> bool:
    """Whether a curriculum's value is a dotted name, "package.module:Class"."""
    if not isinstance(value, str):
        return False
    module, colon, name = value.partition(":")
    parts = [*module.split("."), name]
    return bool(colon) and all(part.isidentifier() for part in parts)


def construct(key: str, dotted: str, **offered: Any) -> Any:
    """Make an object of a user's class with those of the offered arguments that it takes.

    Args:
        key: the curriculum key, for messages.
        dotted: "package.module:Class"; the module is imported as usual, or else read from the
            working directory.
        offered: keyword arguments.

    Raises:
        InputError: it cannot be imported or made.
    """
    factory = _import(key, dotted)
    try:
        parameters = inspect.signature(factory).parameters.values()
        # nn.Module's own constructor is declared to take anything, and takes nothing.
        plain = getattr(factory, "__init__", None) is nn.Module.__init__
        takes_all = not plain and any(p.kind is p.VAR_KEYWORD for p in parameters)
        names = {p.name for p in parameters}
        chosen = {name: v for name, v in offered.items() if takes_all or name in names}
        return factory(**chosen)
    except InputError:
        raise
    except Exception as error:  # the user's own Python may raise anything
        raise InputError(
            f"{key}: {dotted} cannot be made ({error}); it may take {', '.join(offered)}"
        ) from error


def _import(key: str, dotted: str) -> Any:
    module_name, _, name = dotted.partition(":")
    try:
        module = _module(module_name)
    except Exception as error:  # the user's own Python may raise anything
        raise InputError(f"{key}: {module_name} cannot be imported ({error})") from error
    if not callable(factory := getattr(module, name, None)):
        raise InputError(f"{key}: {module_name} has no class {name!r}")
    return factory


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        file = Path(*name.split(".")).with_suffix(".py")
        if error.name != name.partition(".")[0] or not file.is_file():
            raise
        spec = importlib.util.spec_from_file_location(name, file)
        module = sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


def check_trusted(path: Path, trained: Mapping[str, Any], chosen: Mapping[str, Any] | None) -> None:
    """InputError if a checkpoint names code that the curriculum in use does not name as well."""
    for key in EXTENSIBLE:
        name = trained[key]
        if is_dotted(name) and (chosen is None or chosen.get(key) != name):
            raise InputError(
                f"{path}: was trained with {key} = {name}, which is code that loading would run; "
                f"to allow it, give --{key} {name} too"
            )


def check_network(dotted: str, network: Any, in_features: int, out_features: int) -> None:
    """InputError unless a network maps x [N, in_features] to [N, out_features]."""
    if not isinstance(network, nn.Module):
        raise InputError(f"network: {dotted} makes a {type(network).__name__}, no nn.Module")
    try:
        with torch.no_grad():
            shape = list(network(torch.zeros(2, in_features)).shape)
    except Exception as error:  # the user's own Python may raise anything
        raise InputError(
            f"network: {dotted} does not take x [N, {in_features}] ({error})"
        ) from error
    if shape != [2, out_features]:
        raise InputError(
            f"network: {dotted} maps x [2, {in_features}] to {shape}, want [2, {out_features}]"
        )


def check_loss(dotted: str, loss: Any, channels: int) -> None:
    """InputError unless a loss has what `DistanceLoss` has; channels: of the targets."""
    members = ("out_features", "score", "inner", "outer", "signed_distance")
    if missing := [name for name in members if not hasattr(loss, name)]:
        raise InputError(f"training_mode: {dotted} lacks {', '.join(missing)}; see DistanceLoss")
    try:
        prediction, target = torch.rand(2, 3, loss.out_features), torch.rand(2, 3, channels) - 0.5
        inner, outer = loss.inner(prediction, target), loss.outer(prediction, target, target)
    except Exception as error:  # the user's own Python may raise anything
        raise InputError(f"training_mode: {dotted} cannot be evaluated ({error})") from error
    if inner.shape != (2,) or outer.shape != ():
        raise InputError(
            f"training_mode: {dotted}: of 2 tasks, inner gives {list(inner.shape)} and outer "
            f"{list(outer.shape)}; want a number for each task, [2], and a single one, []"
        )


def check_method(dotted: str, method: Any) -> None:
    """InputError unless a method is a `Method` that defines what it must."""
    if not isinstance(method, Method):
        raise InputError(f"method: {dotted} makes a {type(method).__name__}, no metasdf.Method")
    for name in ("adapt", "predict"):
        if getattr(type(method), name) is getattr(Method, name):
            raise InputError(f"method: {dotted} does not define {name}")
    for name in ("loss", "num_steps"):
        if not hasattr(method, name):
            raise InputError(f"method: {dotted} does not set {name}")
