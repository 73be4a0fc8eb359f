"""Random training and test splits of preprocessed shapes."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from metasdf.errors import InputError
from metasdf.files import write_json
from metasdf.preparation.discover import MeshSource
from metasdf.preparation.preprocessor import Record


def write_splits(
    sources: Sequence[MeshSource],
    records: Mapping[str, Record],
    out: str | os.PathLike,
    *,
    train_fraction: float = 0.8,
    num_test: int | None = None,
    seed: int = 0,
) -> list[Path]:
    """Write `out`/splits/<class>_train.json and <class>_test.json for the shapes not rejected.

    Of several classes also all_train.json and all_test.json, unless one is called "all".

    Which shapes are for testing depends only on the seed and their names. A class of two or more
    has at least one shape for training and, by default, at least one for testing.

    Args:
        sources, records: as given to and returned by `preprocess`.
        out: the data folder.
        train_fraction: share of each class for training, above 0, at most 1.
        num_test: number of test shapes of each class; None: by `train_fraction`.
        seed: of the random choice.

    Returns:
        The files written.

    Raises:
        InputError: train_fraction or num_test is out of range.
    """
    check_split(train_fraction, num_test)
    classes: dict[tuple[str, str], list[str]] = {}
    for source in sources:
        dataset, category, instance = source.name
        if records[str(source.name)].status != "rejected":
            classes.setdefault((dataset, category), []).append(instance)
    written, joint = [], {"train": {}, "test": {}}
    for (dataset, category), instances in classes.items():
        order = sorted(instances, key=_shuffle_key(f"{seed}/split/{dataset}/{category}"))
        if num_test is None:
            count = round(len(order) * (1 - train_fraction))
            count = max(count, 1) if train_fraction < 1 else count
        else:
            count = num_test
        count = min(count, len(order) - 1)
        for part, chosen in (("train", order[count:]), ("test", order[:count])):
            file = Path(out) / "splits" / f"{category}_{part}.json"
            write_json(file, {dataset: {category: sorted(chosen)}})
            written.append(file)
            joint[part].setdefault(dataset, {})[category] = sorted(chosen)
    names = {category for _, category in classes}
    if len(classes) > 1 and "all" not in names:
        for part, shapes in joint.items():
            written.append(Path(out) / "splits" / f"all_{part}.json")
            write_json(written[-1], shapes)
    return written


def check_split(train_fraction: float = 0.8, num_test: int | None = None) -> None:
    """InputError unless the arguments of `write_splits` are in range."""
    if not 0 < train_fraction <= 1:
        raise InputError(f"--train_fraction {train_fraction}: must be above 0 and at most 1")
    if num_test is not None and num_test < 0:
        raise InputError(f"--num_test {num_test}: must not be negative")


def _shuffle_key(seed: str) -> Callable[[str], bytes]:
    """A sort key that shuffles by hashes, so that additional names do not change the order."""
    return lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()
