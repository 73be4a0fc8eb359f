"""Reconstruct every shape in a folder of files, each into a mesh and a record of its own."""

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from metasdf.errors import InputError
from metasdf.files import read_json, write_json
from metasdf.geometry.mesh_files import check_written_kind
from metasdf.learning.curriculum import KEYS
from metasdf.learning.model_files import find_model
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

    `<output>/<name><kind>` and its record are written for each, see `reconstruct_file`. A file is
    not done again whose record tells of the same file, model and settings.

    Args:
        curriculum: complete, of 3D; it says what context is drawn and how it is meshed.
        output: another folder.
        kind: one of WRITTEN_SUFFIXES.
        open_rule: see `reconstruct`.
        checkpoint: the model's file or name, as `load_model` took it.

    Returns:
        FAILED if some failed, each reported by name; UNTRUSTED if all are meshed but some are not
        to be trusted; else 0.

    Raises:
        InputError: there is no such file in the folder, or output is the same folder or none.
    """
    folder, output = Path(folder), Path(output)
    paths = sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in INPUT_SUFFIXES and path.name[0] != "." and not path.is_dir()
    )
    if not paths:
        raise InputError(f"{folder}: holds no file that ends in {' '.join(INPUT_SUFFIXES)}")
    if output.exists() and output.samefile(folder):
        raise InputError(f"--output {output}: is the folder of the inputs; choose another")
    check_written_kind(Path("mesh" + kind))
    _make(output)
    settings = _settings(curriculum, checkpoint, open_rule)
    outcomes: Counter[str | int] = Counter()
    bar = tqdm(paths, desc="reconstructing", unit="shape", disable=None)
    for path, name in zip(bar, _names(paths), strict=True):
        file = output / f"{name}{kind}"
        arguments = (model, curriculum, device, path, file, None, open_rule, checkpoint)
        try:
            made_from = {**settings, **_state(path)}
            if (code := _done_before(file, made_from)) is not None:
                outcomes.update(["done before", code])
                continue
            outcomes[reconstruct_file(*arguments)] += 1
            _remember(file, made_from)
        except Exception as error:  # whatever a file or a model may raise ends that shape alone
            known = isinstance(error, InputError)
            log.warning("failed: %s", error if known else f"{path}: {error!r}")
            outcomes[FAILED] += 1
    log.info(_summary(outcomes, len(paths), output))
    return next((code for code in (FAILED, UNTRUSTED) if outcomes[code]), 0)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"{folder}: cannot be made ({error.strerror}); choose another folder"
        raise InputError(reason) from error


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each file's mesh: without its ending where no other has the same, else with it."""
    stems = Counter(path.stem for path in paths)
    names = [p.stem if stems[p.stem] == 1 else p.name.replace(".", "_") for p in paths]
    taken = Counter(names)
    return [n if taken[n] == 1 else p.name for n, p in zip(names, paths, strict=True)]


# What a mesh was made from, in its record


def _settings(curriculum: Mapping[str, Any], checkpoint: str, open_rule: str) -> dict[str, Any]:
    """What all meshes of a run depend on; where files lie does not count, but the model's does."""
    chosen = {n: v for n, v in curriculum.items() if n not in KEYS or not KEYS[n].is_path}
    return {"model": _state(find_model(checkpoint)), "open": open_rule, "curriculum": chosen}


def _state(path: Path) -> dict[str, Any]:
    """Where a file is, and what changes when it does."""
    status = path.stat()
    return {"path": str(path.resolve()), "bytes": status.st_size, "changed": status.st_mtime_ns}


def _done_before(file: Path, made_from: Mapping[str, Any]) -> int | None:
    """The exit code of an earlier run that need not be repeated; None if there is none."""
    record_file = file.with_name(file.name + ".json")
    if not file.is_file() or not record_file.is_file():
        return None
    try:
        record = read_json(record_file)
        same = record["made_from"] == dict(made_from)
        code = UNTRUSTED if record["trusted"] is False else 0
    except (InputError, KeyError, TypeError):
        return None
    return code if same else None


def _remember(file: Path, made_from: Mapping[str, Any]) -> None:
    """Add to a mesh's record what it was made from, if it was made."""
    record_file = file.with_name(file.name + ".json")
    if record_file.is_file():
        write_json(record_file, {**read_json(record_file), "made_from": dict(made_from)})


def _summary(outcomes: Mapping[Any, int], count: int, output: Path) -> str:
    parts = [f"reconstructed {count - outcomes[FAILED]} of {count} shapes: {output}"]
    if outcomes["done before"]:
        parts.append(f"{outcomes['done before']} of them in an earlier run")
    if outcomes[UNTRUSTED]:
        parts.append(f"{outcomes[UNTRUSTED]} of them not to be trusted")
    return "\n".join(parts)
