"""DeepSDF's files on disk -> tasks of (context, query).

    <data_source>/SdfSamples/<dataset>/<class>/<instance>.npz       pos, neg: float32 [n, 4]
    <data_source>/SurfaceSamples/<dataset>/<class>/<instance>.ply   points in the mesh's own frame
    <data_source>/PartialSamples/<dataset>/<class>/<instance>.ply   the same, of a partial scan
    <data_source>/NormalizationParameters/<dataset>/<class>/<instance>.npz   offset [3], scale [1]

Rows of pos and neg are x, y, z, signed distance, normalised: (original + offset) * scale.
SDF samples are memory-mapped where they lie, never read whole. Every random number follows from
(seed, epoch, shape), so neither order nor interruption changes what is drawn.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from metasdf.errors import InputError
from metasdf.files import read_json, write_json


class ShapeName(NamedTuple):
    """Where a shape stands in a split file and on disk."""

    dataset: str
    category: str
    instance: str

    def __str__(self) -> str:
        return "/".join(self)

    def file(self, data_source: str | os.PathLike, folder: str, suffix: str) -> Path:
        return Path(data_source, folder, self.dataset, self.category, self.instance + suffix)


def read_split(path: str | os.PathLike) -> list[ShapeName]:
    """The shapes of a split file, {dataset: {class: [instance, ...]}}, in file order."""
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
        if not all(isinstance(part, str) and part not in ("", ".", "..") for part in shape) or any(
            character in "/\\\0" or "\ud800" <= character <= "\udfff"
            for part in shape
            for character in part
        ):
            raise InputError(f"{path}: {list(shape)!r} cannot name a shape's file")
    if not shapes:
        raise InputError(f"{path}: names no shapes; give another split file")
    return list(dict.fromkeys(shapes))


def write_split(path: str | os.PathLike, shapes: Sequence[ShapeName]) -> None:
    """Write a split file that `read_split` reads."""
    split: dict[str, dict[str, list[str]]] = {}
    for dataset, category, instance in shapes:
        split.setdefault(dataset, {}).setdefault(category, []).append(instance)
    write_json(path, split)
