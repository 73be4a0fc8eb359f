"""Folders of meshes -> the files that DeepSDF and MetaSDF train on.

Under the data folder, for each shape of each class of a dataset:

    SdfSamples/<dataset>/<class>/<instance>.npz               pos, neg (n, 4) float32, normalised
    SurfaceSamples/<dataset>/<class>/<instance>.ply           points in the mesh's own frame
    PartialSamples/<dataset>/<class>/<instance>.ply           the same, of a virtual depth scan
    NormalizationParameters/<dataset>/<class>/<instance>.npz  offset (3,), scale (1,) float32
    .datasources.json                                         dataset -> folder of the meshes
    report.json                                               how each shape fared

normalised = (original + offset) * scale. Each file appears whole or not at all, so a run that was
killed is continued by running it again.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from metasdf.errors import InputError
from metasdf.files import write_json
from metasdf.preparation.discover import Shape
from metasdf.preparation.preprocess import Record

# Splits.


def write_splits(
    shapes: Sequence[Shape],
    records: dict[str, Record],
    out: str | os.PathLike,
    *,
    train_fraction: float = 0.8,
    num_test: int | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write `out`/splits/<class>_train.json and <class>_test.json for the shapes not rejected.

    Which shapes are for testing depends on the seed and their names alone; a class of two or more
    has at least one for training and, unless told otherwise, one for testing.

    Args:
        shapes, records: as given to and returned by `preprocess`.
        train_fraction: share of each class for training, 0 to 1.
        num_test: number of test shapes of each class; None leaves it to `train_fraction`.

    Returns:
        The files written.
    """
    check_split(train_fraction, num_test)
    classes: dict[tuple[str, str], list[str]] = {}
    for shape in shapes:
        if records[shape.name].status != "rejected":
            classes.setdefault((shape.dataset, shape.class_name), []).append(shape.instance)
    written = []
    for (dataset, class_name), instances in classes.items():
        order = sorted(instances, key=_draw(f"{seed}/split/{dataset}/{class_name}"))
        if num_test is None:
            count = round(len(order) * (1 - train_fraction))
            count = max(count, 1) if train_fraction < 1 else count
        else:
            count = num_test
        count = min(count, len(order) - 1)
        for part, chosen in (("train", order[count:]), ("test", order[:count])):
            file = Path(out) / "splits" / f"{class_name}_{part}.json"
            write_json(file, {dataset: {class_name: sorted(chosen)}})
            written.append(file)
    return written


def check_split(train_fraction: float = 0.8, num_test: int | None = None) -> None:
    """Raise InputError unless the arguments of `write_splits` make sense."""
    if not 0 < train_fraction <= 1:
        raise InputError(f"--train_fraction {train_fraction}: must be above 0 and at most 1")
    if num_test is not None and num_test < 0:
        raise InputError(f"--num_test {num_test}: must not be negative")


def _draw(seed: str) -> Callable[[str], bytes]:
    """A sort key that shuffles names, each by itself, so that more names keep their order."""
    return lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()
