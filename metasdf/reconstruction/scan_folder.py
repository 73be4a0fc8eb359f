"""Reconstruct every shape in a folder of files, each into a mesh and a record of its own."""

import logging
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metasdf.errors import InputError
from metasdf.files import read_json
from metasdf.geometry.mesh_files import check_written_kind
from metasdf.method import Method
from metasdf.reconstruction.adaptation import FAILED, UNTRUSTED
from metasdf.reconstruction.inputs import INPUT_SUFFIXES
from metasdf.reconstruction.single_file import reconstruct_file

log = logging.getLogger(__name__)


def reconstruct_folder(
    model: Method,
    curriculum: Mapping[str, Any],
    device: torch.device,
    folder: str | os.PathLike,
    output: str | os.PathLike,
    kind: str = ".ply",
    open_rule: str = "reject",
    checkpoint: str = "",
) -> int:
    """Reconstruct each file in `folder` whose ending is one of INPUT_SUFFIXES; log a summary.

    `<output>/<name><kind>` and its record are written for each, see `reconstruct_file`. A file
    whose record is newer than it and tells of the same model and curriculum is not done again.

    Args:
        curriculum: complete, of 3D; it says what context is drawn and how it is meshed.
        output: another folder.
        kind: one of WRITTEN_SUFFIXES.
        open_rule: see `reconstruct`.
        checkpoint: the model's file, for the records.

    Returns:
        FAILED if some failed, each reported by name; UNTRUSTED if all are meshed but some are not
        to be trusted; else 0.

    Raises:
        InputError: there is no such file in the folder, or output is the same folder.
    """
    folder, output = Path(folder), Path(output)
    paths = sorted(p for p in folder.iterdir() if p.suffix.lower() in INPUT_SUFFIXES)
    if not paths:
        raise InputError(f"{folder}: holds no file that ends in {' '.join(INPUT_SUFFIXES)}")
    if output.exists() and output.samefile(folder):
        raise InputError(f"--output {output}: is the folder of the inputs; choose another")
    check_written_kind(Path("mesh" + kind))
    outcomes: Counter[str] = Counter()
    stems = Counter(path.stem for path in paths)
    for path in tqdm(paths, desc="reconstructing", unit="shape", disable=None):
        name = path.stem if stems[path.stem] == 1 else path.name.replace(".", "_")
        file = output / f"{name}{kind}"
        if (code := _done_before(path, file, curriculum, checkpoint)) is not None:
            outcomes.update(["done before", code])
            continue
        arguments = (model, curriculum, device, path, file, None, open_rule, checkpoint)
        try:
            outcomes[reconstruct_file(*arguments)] += 1
        except InputError as error:
            log.warning("failed: %s", error)
            outcomes[FAILED] += 1
    log.info(_summary(outcomes, len(paths), output))
    return next((code for code in (FAILED, UNTRUSTED) if outcomes[code]), 0)


def _done_before(
    path: Path, file: Path, curriculum: Mapping[str, Any], checkpoint: str
) -> int | None:
    """The exit code of an earlier run that need not be repeated; None if there is none."""
    record_file = file.with_name(file.name + ".json")
    if not file.is_file() or not record_file.is_file():
        return None
    if record_file.stat().st_mtime < path.stat().st_mtime:
        return None
    try:
        record = read_json(record_file)
        same = record["checkpoint"] == str(checkpoint) and record["curriculum"] == dict(curriculum)
        code = UNTRUSTED if record["trusted"] is False else 0
    except (InputError, KeyError, TypeError):
        return None
    return code if same else None


def _summary(outcomes: Mapping[Any, int], count: int, output: Path) -> str:
    parts = [f"reconstructed {count - outcomes[FAILED]} of {count} shapes: {output}"]
    if outcomes["done before"]:
        parts.append(f"{outcomes['done before']} of them in an earlier run")
    if outcomes[UNTRUSTED]:
        parts.append(f"{outcomes[UNTRUSTED]} of them not to be trusted")
    return "\n".join(parts)
