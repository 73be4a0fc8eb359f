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

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metasdf.data.samples import OUTPUTS
from metasdf.errors import InputError
from metasdf.files import read_json
from metasdf.geometry.mesh_files import MESH_SUFFIXES


@dataclass(frozen=True)
class Shape:
    """One shape, by the names it goes by on disk.

    Attributes:
        source: folder that holds the class folders.
        dataset, class_name, instance: names.
        file: the mesh, or None to look for it under `source` (`mesh_file`).
    """

    source: Path
    dataset: str
    class_name: str
    instance: str
    file: Path | None = None

    @property
    def name(self) -> str:
        """dataset/class/instance"""
        return f"{self.dataset}/{self.class_name}/{self.instance}"

    def output(self, out: Path, kind: str) -> Path:
        """Where an output of this kind, a key of OUTPUTS, lies in the data folder `out`."""
        # with_suffix would cut an instance such as "v1.2".
        file = self.instance + OUTPUTS[kind]
        return out / kind / self.dataset / self.class_name / file

    def mesh_file(self) -> Path:
        """The mesh: `file`, or <class>/<instance>.<suffix>, or the one mesh in <class>/<instance>/.

        Among several, ShapeNet's models/model_normalized.obj is meant.

        Raises:
            InputError: there is none, or one cannot tell which of several is meant.
        """
        if self.file is not None:
            return self.file
        folder = self.source / self.class_name
        normalized = folder / self.instance / "models" / "model_normalized.obj"
        if normalized.is_file():
            return normalized
        files = [file for file in _mesh_files(folder) if file.stem == self.instance]
        files += _mesh_files(folder / self.instance, deep=True)
        if not files:
            raise InputError(
                f"{folder / self.instance}: no mesh there; expected a folder with one, or a file "
                "ending in " + " ".join(MESH_SUFFIXES)
            )
        if len(files) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in files[:3])
            raise InputError(f"{folder / self.instance}: several meshes ({names}); keep one")
        return files[0]


def _mesh_files(folder: Path, deep: bool = False) -> list[Path]:
    """The mesh files in a folder, sorted; `deep`: in its subfolders as well."""
    files = []
    for root, folders, names in os.walk(folder):
        files += [Path(root, name) for name in names if _is_mesh(name)]
        folders[:] = [name for name in folders if deep and not name.startswith(".")]
    return sorted(files)


def _is_mesh(name: str) -> bool:
    return not name.startswith(".") and name.lower().endswith(MESH_SUFFIXES)


def _holds_meshes(folder: Path) -> bool:
    """Whether a mesh lies anywhere in a folder, looking no further than the first."""
    for _, folders, names in os.walk(folder):
        if any(map(_is_mesh, names)):
            return True
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return False


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def find_shapes(
    source: str | os.PathLike, name: str | None = None, classes: Sequence[str] | None = None
) -> list[Shape]:
    """Find the shapes of a mesh file or of a folder in one of these layouts.

        <dataset>/<class>/<instance>.obj                               (or ply, stl, off, glb)
        <dataset>/<class>/<instance>/.../<any name>.obj
        <dataset>/<class>/<instance>/models/model_normalized.obj       (ShapeNet)

    `source` may be the dataset folder, one class folder, or one mesh.

    Args:
        source: file or folder.
        name: the dataset's name on disk; None takes the dataset folder's own.
        classes: only these classes; None takes all.

    Raises:
        InputError: there is no mesh, or no such class.
    """
    source = Path(os.path.abspath(source))
    file = None
    if source.is_dir():
        if _is_class_folder(source):
            root, class_folders = source.parent, [source]
        else:
            root, class_folders = source, _subfolders(source)
        found = {folder.name: _instances(folder) for folder in class_folders}
        found = {class_name: instances for class_name, instances in found.items() if instances}
    elif source.is_file():
        if not _is_mesh(source.name):
            raise InputError(
                f"{source}: is not a mesh file of a known kind; convert it to one of "
                + " ".join(MESH_SUFFIXES)
            )
        instance = source.parent.parent if _is_shapenet(source) else source.with_suffix("")
        root = instance.parent.parent
        found, file = {instance.parent.name: [instance.name]}, source
    else:
        raise InputError(f"{source}: there is no such file or folder")
    if not found:
        raise InputError(f"{source}: holds no mesh ({' '.join(MESH_SUFFIXES)})")
    missing = [class_name for class_name in classes or () if class_name not in found]
    if missing:
        raise InputError(
            f"{source}: has no class {missing[0]!r}; its classes are {', '.join(sorted(found))}"
        )
    dataset = _file_name(name or root.name or "meshes", "--name")
    return [
        Shape(root, dataset, _file_name(class_name, str(source)), instance, file)
        for class_name, instances in found.items()
        if not classes or class_name in classes
        for instance in instances
    ]


def _is_shapenet(file: Path) -> bool:
    return file.parent.name == "models" and file.stem == "model_normalized"


def _is_class_folder(folder: Path) -> bool:
    """Whether a folder holds meshes itself, or instances as ShapeNet lays them out."""
    return bool(_mesh_files(folder)) or any(
        (child / "models" / "model_normalized.obj").is_file() for child in _subfolders(folder)
    )


def _instances(class_folder: Path) -> list[str]:
    files = {file.stem for file in _mesh_files(class_folder)}
    return sorted(
        files | {folder.name for folder in _subfolders(class_folder) if _holds_meshes(folder)}
    )


def _file_name(name: str, what: str) -> str:
    """Check a name that becomes a folder or file on disk."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InputError(f"{what}: {name!r} cannot name a folder; leave out slashes and dots")
    return name


def shapes_of_split(
    source: str | os.PathLike, name: str | None, split_file: str | os.PathLike
) -> list[Shape]:
    """The shapes that a split file {dataset: {class: [instance, ...]}} lists for one dataset.

    Args:
        source: folder that holds the class folders.
        name: the dataset; None takes the source folder's own name.

    Raises:
        InputError: the source or the dataset is missing, or the split file is malformed.
    """
    source = Path(os.path.abspath(source))
    if not source.is_dir():
        raise InputError(f"{source}: there is no such folder (--source)")
    split = json_object(read_json(split_file), split_file)
    dataset = _file_name(name or source.name, "--name")
    if dataset not in split:
        raise InputError(
            f"{split_file}: has no dataset {dataset!r} but {', '.join(split) or 'nothing'}; give "
            "its name with --name"
        )
    shapes = []
    for class_name, instances in json_object(split[dataset], split_file).items():
        if not isinstance(instances, list):
            raise InputError(f"{split_file}: class {class_name!r} is not a list of instances")
        _file_name(class_name, f"{split_file}, class")
        for instance in instances:
            _file_name(instance, f"{split_file}, class {class_name!r}")
        shapes += [Shape(source, dataset, class_name, name) for name in dict.fromkeys(instances)]
    return shapes


def json_object(value: object, file: str | os.PathLike) -> dict:
    if not isinstance(value, dict):
        raise InputError(f"{file}: a JSON object {{...}} is expected where {value!r:.40} stands")
    return value
