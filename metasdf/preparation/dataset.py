"""From a folder of meshes to a data set to train on: samples, report and splits."""

import os
from collections.abc import Sequence

from metasdf.preparation.discover import find_meshes
from metasdf.preparation.preprocessor import Record, Settings, preprocess_meshes
from metasdf.preparation.splits import check_split, write_splits


def preprocess(
    meshes: str | os.PathLike,
    out: str | os.PathLike,
    settings: Settings | None = None,
    *,
    name: str | None = None,
    classes: Sequence[str] | None = None,
    train_fraction: float = 0.8,
    num_test: int | None = None,
    threads: int | None = None,
    skip: bool = True,
) -> dict[str, Record]:
    """Turn meshes into what training needs: SDF samples and splits, in DeepSDF's format.

    Writes SdfSamples, SurfaceSamples, NormalizationParameters, report.json and
    splits/<class>_train.json, <class>_test.json below `out`. A mesh that cannot be used is recorded
    as rejected, with the reason, and the others are processed all the same.

    Args:
        meshes: a mesh file, a folder of meshes, or a tree <class>/<instance>.
        out: the data folder.
        settings: what to write; None: the default of `Settings`.
        name: the dataset's name on disk; None: its folder's own.
        classes: only these classes; None: all.
        train_fraction: share of each class for training.
        num_test: instead, the number of test shapes of each class.
        threads: meshes processed at a time; None: the number of cores.
        skip: leave shapes alone whose files exist.

    Returns:
        The record of each shape by its name dataset/class/instance.

    Raises:
        InputError: there is no mesh, or `out` cannot be used.
    """
    check_split(train_fraction, num_test)
    settings = settings or Settings()
    sources = find_meshes(meshes, name, classes)
    records = preprocess_meshes(sources, out, settings, threads=threads, skip=skip)
    split = {"train_fraction": train_fraction, "num_test": num_test, "seed": settings.seed}
    write_splits(sources, records, out, **split)
    return records
