"""Finding meshes: in folders of the usual layouts, or by the names in a split file."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from metasdf.data.names import ShapeName
from metasdf.errors import InputError
from metasdf.files import read_json
from metasdf.geometry.mesh_files import MESH_SUFFIXES, is_mesh_name, unknown_kind


@dataclass(frozen=True)
class MeshSource:
    """A shape's name and where its mesh is.

    Attributes:
        folder: holds the class folders.
        name: of the shape; its category is the class folder's name.
        file: the mesh, or None to look for it in `folder` (`find_file`).
    """

    folder: Path
    name: ShapeName
    file: Path | None = None

    def find_file(self) -> Path:
        """The mesh: `file`, or <class>/<instance>.<suffix>, or the only mesh in <class>/<instance>.

        ShapeNet's <class>/<instance>/models/model_normalized.obj is preferred to all others.

        Raises:
            InputError: there is no mesh, or more than one.
        """
        if self.file is not None:
            return self.file
        folder, instance = self.folder / self.name.category, self.name.instance
        normalized = folder / instance / "models" / "model_normalized.obj"
        if normalized.is_file():
            return normalized
        files = [file for file in _mesh_files(folder) if file.stem == instance]
        files += _mesh_files(folder / instance, recursive=True)
        if not files:
            raise InputError(
                f"{folder / instance}: no mesh there; expected a folder with one, or a file "
                "ending in " + " ".join(MESH_SUFFIXES)
            )
        if len(files) > 1:
            names = ", ".join(str(file.relative_to(folder)) for file in files[:3])
            raise InputError(f"{folder / instance}: several meshes ({names}); keep one")
        return files[0]


def find_meshes(
    source: str | os.PathLike, name: str | None = None, classes: Sequence[str] | None = None
) -> list[MeshSource]:
    """Find the meshes of a folder in one of these layouts, or a single mesh file.

        <dataset>/<class>/<instance>.obj                               (or ply, stl, off, glb)
        <dataset>/<class>/<instance>/.../<any name>.obj
        <dataset>/<class>/<instance>/models/model_normalized.obj       (ShapeNet)

    Args:
        source: the dataset folder, one class folder, or one mesh.
        name: the dataset's name; None is that of the dataset folder.
        classes: only these classes; None is all.

    Returns:
        The meshes, sorted by class and instance.

    Raises:
        InputError: there is no mesh, or no such class.
    """
    source = Path(os.path.abspath(source))
    file = None
    if source.is_dir():
        root, instances = _scan_folder(source)
    elif source.is_file():
        if not is_mesh_name(source.name):
            raise unknown_kind(source)
        is_shapenet = source.parent.name == "models" and source.stem == "model_normalized"
        instance = source.parent.parent if is_shapenet else source.with_suffix("")
        root, file = instance.parent.parent, source
        instances = {instance.parent.name: [instance.name]}
    else:
        raise InputError(f"{source}: there is no such file or folder")
    if not instances:
        raise InputError(f"{source}: holds no mesh ({' '.join(MESH_SUFFIXES)})")
    for category in classes or ():
        if category not in instances:
            known = ", ".join(sorted(instances))
            raise InputError(f"{source}: has no class {category!r}; its classes are {known}")
    dataset = _folder_name(name or root.name or "meshes", "--name")
    return [
        MeshSource(root, ShapeName(dataset, _folder_name(category, str(source)), instance), file)
        for category in instances
        if not classes or category in classes
        for instance in instances[category]
    ]


def _scan_folder(folder: Path) -> tuple[Path, dict[str, list[str]]]:
    """The dataset folder, and the instances of each class that has any.

    `folder` is the dataset folder, or a class folder: one that holds meshes itself, or instances
    in ShapeNet's layout.
    """
    is_class = bool(_mesh_files(folder)) or any(
        (child / "models" / "model_normalized.obj").is_file() for child in _subfolders(folder)
    )
    root, class_folders = (folder.parent, [folder]) if is_class else (folder, _subfolders(folder))
    instances = {class_folder.name: _instances(class_folder) for class_folder in class_folders}
    return root, {category: names for category, names in instances.items() if names}


def _instances(class_folder: Path) -> list[str]:
    """The names of the meshes in a class folder, and of its folders that hold meshes, sorted."""
    files = {file.stem for file in _mesh_files(class_folder)}
    return sorted(
        files | {folder.name for folder in _subfolders(class_folder) if _holds_meshes(folder)}
    )


def _mesh_files(folder: Path, recursive: bool = False) -> list[Path]:
    """The mesh files in a folder and, if `recursive`, in its subfolders, sorted."""
    files = []
    for root, folders, names in os.walk(folder):
        files += [Path(root, name) for name in names if is_mesh_name(name)]
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
    return sorted(files)


def _holds_meshes(folder: Path) -> bool:
    """Whether a folder or any of its subfolders holds a mesh."""
    for _, folders, names in os.walk(folder):
        if any(map(is_mesh_name, names)):
            return True
        folders[:] = sorted(name for name in folders if not name.startswith("."))
    return False


def _subfolders(folder: Path) -> list[Path]:
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror})") from error
    return [entry for entry in entries if entry.is_dir() and not entry.name.startswith(".")]


def _folder_name(name: object, what: str) -> str:
    """Check a name that becomes part of a path; `what` names it in the message."""
    if not isinstance(name, str) or name in ("", ".", "..") or "/" in name or "\\" in name:
        raise InputError(f"{what}: {name!r} cannot name a folder; leave out slashes and dots")
    return name


def meshes_of_split(
    folder: str | os.PathLike, name: str | None, split_file: str | os.PathLike
) -> list[MeshSource]:
    """The meshes that a split file {dataset: {class: [instance, ...]}} lists for one dataset.

    Args:
        folder: holds the class folders.
        name: the dataset; None is the folder's own name.
        split_file: JSON.

    Raises:
        InputError: the folder or the dataset is missing, or the split file is malformed.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such folder (--source)")
    split = json_object(read_json(split_file), split_file)
    dataset = _folder_name(name or folder.name, "--name")
    if dataset not in split:
        raise InputError(
            f"{split_file}: has no dataset {dataset!r} but {', '.join(split) or 'nothing'}; give "
            "its name with --name"
        )
    sources = []
    for category, instances in json_object(split[dataset], split_file).items():
        if not isinstance(instances, list):
            raise InputError(f"{split_file}: class {category!r} is not a list of instances")
        _folder_name(category, f"{split_file}, class")
        for instance in instances:
            _folder_name(instance, f"{split_file}, class {category!r}")
        names = [ShapeName(dataset, category, instance) for instance in dict.fromkeys(instances)]
        sources += [MeshSource(folder, shape_name) for shape_name in names]
    return sources


def json_object(value: object, file: str | os.PathLike) -> dict:
    """`value` if it is a dict; else InputError that names the JSON file it comes from."""
    if not isinstance(value, dict):
        raise InputError(f"{file}: a JSON object {{...}} is expected where {value!r:.40} stands")
    return value
