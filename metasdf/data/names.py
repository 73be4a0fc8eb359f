"""The names of shapes: in split files and in a data folder, laid out as DeepSDF does.

    <data_source>/SdfSamples/<dataset>/<class>/<instance>.npz
    <data_source>/SurfaceSamples/<dataset>/<class>/<instance>.ply
    <data_source>/PartialSamples/<dataset>/<class>/<instance>.ply
    <data_source>/NormalizationParameters/<dataset>/<class>/<instance>.npz

`formats` describes what these files hold.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metasdf.errors import InputError
from metasdf.files import read_json, write_json

SDF_SAMPLES = "SdfSamples"
SURFACE_SAMPLES = "SurfaceSamples"
PARTIAL_SAMPLES = "PartialSamples"
NORMALISATION = "NormalizationParameters"
SUFFIXES = {
    SDF_SAMPLES: ".npz",
    SURFACE_SAMPLES: ".ply",
    PARTIAL_SAMPLES: ".ply",
    NORMALISATION: ".npz",
}


class ShapeName(NamedTuple):
    """A shape's name: its dataset, its category (DeepSDF: class) and its instance."""

    dataset: str
    category: str
    instance: str

    def __str__(self) -> str:
        return "/".join(self)

    def file(self, data_source: str | os.PathLike, folder: str) -> Path:
        """The shape's file in a folder, a key of SUFFIXES, of a data folder."""
        # Not with_suffix, which would shorten an instance such as "v1.2".
        file = self.instance + SUFFIXES[folder]
        return Path(data_source, folder, self.dataset, self.category, file)


def read_split(path: str | os.PathLike) -> list[ShapeName]:
    """The shapes of a split file, {dataset: {class: [instance, ...]}}, once each, in file order.

    Raises:
        InputError: the file is missing or malformed, names no shape, or holds a name that cannot
            be that of a file.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(
            f"{path}: split file not found; preprocess.py writes one for your own meshes, "
            f"DeepSDF's and MetaSDF's repositories hold those of ShapeNet"
        )
    split = read_json(path)
    try:
        shapes = [
            ShapeName(dataset, category, instance)
            for dataset, categories in split.items()
            for category, instances in categories.items()
            for instance in instances
        ]
        lists = [part for categories in split.values() for part in categories.values()]
        if not all(isinstance(part, list) for part in lists):
            raise TypeError
    except (AttributeError, TypeError):
        raise InputError(f"{path}: is not of the form {{dataset: {{class: [name]}}}}") from None
    for shape in shapes:
        if not all(map(_is_file_name, shape)):
            raise InputError(f"{path}: {list(shape)!r} cannot name a shape's file")
    if not shapes:
        raise InputError(f"{path}: names no shapes; give another split file")
    return list(dict.fromkeys(shapes))


def _is_file_name(part: object) -> bool:
    """Whether part of a name is text that can name a file, and does not lead out of its folder."""
    return (
        isinstance(part, str)
        and part not in ("", ".", "..")
        and not any(c in "/\\\0" or "\ud800" <= c <= "\udfff" for c in part)
    )


def write_split(path: str | os.PathLike, shapes: Sequence[ShapeName]) -> None:
    """Write a split file that `read_split` reads."""
    split: dict[str, dict[str, list[str]]] = {}
    for dataset, category, instance in shapes:
        split.setdefault(dataset, {}).setdefault(category, []).append(instance)
    write_json(path, split)
