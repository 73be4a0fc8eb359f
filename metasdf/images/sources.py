"""Digits and photographs: from files, a download, or what scikit-learn and scikit-image carry.

`load_digits` and `load_photographs` take a source:

    auto        what lies in the cache folder; else a download; else embedded
    embedded    8x8 digits of scikit-learn, photographs of scikit-image
    a path      digits: a folder with MNIST's idx files. Photographs: a folder of images, an npz
                file with train_images and test_images, uint8 (n, height, width, 3), or
                CIFAR-10's binary version, cifar-10-binary.tar.gz
"""

import gzip
import logging
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import zoom

from metasdf.data.npz import DAMAGED, map_npz
from metasdf.errors import InputError
from metasdf.images.download import download

EMBEDDED, AUTO = "embedded", "auto"
MNIST_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
MNIST_FILES = {"train": "train-images-idx3-ubyte", "test": "t10k-images-idx3-ubyte"}
IDX_SUFFIXES = ("", ".gz")
MNIST_MD5 = {
    "train": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
    "test": "9fb629c4189551a2d022fa330f9573f3",
}
CIFAR_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
CIFAR_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
CIFAR_RECORD = 1 + 3 * 32 * 32  # bytes: the label, then the red, green and blue channels
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")
EMBEDDED_TEST = 297  # test digits, the last of scikit-learn's 1797
PHOTOGRAPHS = {  # names in scikit-image
    "train": ("astronaut", "chelsea", "motorcycle_left", "retina", "rocket"),
    "test": ("coffee", "hubble_deep_field"),
}
CROPS = {"train": 400, "test": 100}  # from each embedded photograph
HELD_OUT_SHARE = 0.1  # of a folder's images, for testing
log = logging.getLogger(__name__)


# Digits


def load_digits(source: str, part: str, cache: str | os.PathLike) -> np.ndarray:
    """The training or test digits, (n, height, width) uint8.

    Args:
        source: see above.
        part: "train" or "test".
        cache: folder for downloads.

    Raises:
        InputError: the source is missing or broken.
    """
    source = find_digits(source, cache)
    return _embedded_digits(part) if source == EMBEDDED else _idx_images(Path(source), part)


def find_digits(source: str, cache: str | os.PathLike) -> str:
    """What a source stands for: a folder with MNIST, downloaded if need be, or EMBEDDED.

    Training and test digits are then of the same kind.
    """
    if source != AUTO:
        return source
    folder = Path(cache, "mnist")
    try:
        for part, name in MNIST_FILES.items():
            if not any((folder / (name + suffix)).is_file() for suffix in IDX_SUFFIXES):
                download(MNIST_URL + name + ".gz", MNIST_MD5[part], folder)
    except InputError as error:
        log.warning("MNIST: %s; using the digits of scikit-learn instead", error)
        return EMBEDDED
    return str(folder)


def _idx_images(folder: Path, part: str) -> np.ndarray:
    for suffix in IDX_SUFFIXES:
        path = folder / (MNIST_FILES[part] + suffix)
        if path.is_file():
            return read_idx(path)
    raise InputError(f"{folder}: holds no {MNIST_FILES[part]}[.gz]; give the folder of MNIST")


def read_idx(path: str | os.PathLike) -> np.ndarray:
    """The images in one of MNIST's idx files, gzipped or not: (n, height, width) uint8.

    Raises:
        InputError: the file is missing, damaged or no idx file of images.
    """
    path = Path(path)
    try:
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read()
    except DAMAGED as error:
        raise InputError(f"{path}: is damaged or cannot be read ({error})") from error
    if content[:4] != b"\x00\x00\x08\x03" or len(content) < 16:
        raise InputError(f"{path}: is no idx file of images (these start with 00 00 08 03)")
    count, height, width = np.frombuffer(content[4:16], ">u4").tolist()
    if not 0 < count * height * width == len(content) - 16:
        raise InputError(f"{path}: is not as long as its header says, or holds no images")
    return np.frombuffer(content, np.uint8, offset=16).reshape(count, height, width)


def _embedded_digits(part: str) -> np.ndarray:
    """scikit-learn's digits, 8x8 with 17 grey levels, framed and enlarged to (n, 28, 28) uint8."""
    from sklearn import datasets  # slow to import, and rarely needed

    images = datasets.load_digits().images
    images = images[:-EMBEDDED_TEST] if part == "train" else images[-EMBEDDED_TEST:]
    framed = np.pad(images * (255 / 16), ((0, 0), (3, 3), (3, 3)))
    return zoom(framed, (1, 2, 2), order=3).clip(0, 255).round().astype(np.uint8)


# Photographs


def load_photographs(
    source: str, part: str, cache: str | os.PathLike, size: int
) -> tuple[np.ndarray, int]:
    """The training or test photographs, cropped to their central square and resized.

    Of a folder's images every tenth is for testing. Those that cannot be read are logged by name.

    Args:
        source, part, cache: see `load_digits`.
        size: width and height in pixels.

    Returns:
        (n, size, size, 3) uint8, and the number of images that could not be read.

    Raises:
        InputError: the source is missing or broken, or none of its images can be read.
    """
    source = find_photographs(source, cache)
    if source == EMBEDDED:
        return _embedded_photographs(part, size), 0
    if source.endswith(".tar.gz"):
        images = _read_cifar(Path(source), part)
    elif source.endswith(".npz"):
        images = _read_npz(Path(source), part)
    else:
        return _read_folder(Path(source), part, size)
    if images.shape[1:3] != (size, size):
        images = np.stack([_central_square(Image.fromarray(image), size) for image in images])
    return np.ascontiguousarray(images), 0


def find_photographs(source: str, cache: str | os.PathLike) -> str:
    """What a source stands for: a path, that of CIFAR-10 downloaded if need be, or EMBEDDED."""
    if source != AUTO:
        return source
    archive = Path(cache, "cifar10", CIFAR_URL.rsplit("/", 1)[1])
    try:
        if not archive.is_file():
            archive = download(CIFAR_URL, CIFAR_MD5, archive.parent)
    except InputError as error:
        log.warning("CIFAR-10: %s; using photographs of scikit-image", error)
        return EMBEDDED
    return str(archive)


def _read_npz(path: Path, part: str) -> np.ndarray:
    images = map_npz(path, f"{part}_images")
    has_shape = images.ndim == 4 and images.shape[3] == 3 and 0 not in images.shape
    if images.dtype != np.uint8 or not has_shape:
        raise InputError(
            f"{path}: {part}_images is {images.dtype} {list(images.shape)}, "
            f"want uint8 [n, height, width, 3]"
        )
    return images


def _read_folder(folder: Path, part: str, size: int) -> tuple[np.ndarray, int]:
    if not folder.is_dir():
        raise InputError(f"{folder}: is no folder of images, nor an npz file")
    files = sorted(f for f in folder.rglob("*") if f.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) < 2:
        raise InputError(f"{folder}: holds {len(files)} images; needs one to train, one to test on")
    every = min(len(files), round(1 / HELD_OUT_SHARE))
    held_out = files[every - 1 :: every]
    chosen = held_out if part == "test" else [f for f in files if f not in set(held_out)]
    images, failed = [], 0
    for file in chosen:
        try:
            images.append(read_image(file, size))
        except InputError as error:
            log.warning("left out: %s", error)
            failed += 1
    if not images:
        raise InputError(f"{folder}: none of {len(chosen)} images to {part} on can be read")
    return np.stack(images), failed


def read_image(path: str | os.PathLike, size: int) -> np.ndarray:
    """The central square of an image file: (size, size, 3) uint8; transparent becomes white.

    Raises:
        InputError: the file is missing, damaged or no image.
    """
    try:
        with Image.open(path) as image:
            return _central_square(image, size)
    except (*DAMAGED, Image.DecompressionBombError, SyntaxError) as error:
        raise InputError(f"{path}: cannot be read as an image ({error})") from error


def _central_square(image: Image.Image, size: int) -> np.ndarray:
    """An image cropped to its central square and resized: (size, size, 3) uint8."""
    if image.mode.startswith("I"):  # 16-bit grey, of which convert() would keep 255 levels
        image = Image.fromarray((np.asarray(image) / 257).round().clip(0, 255).astype(np.uint8))
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = image.convert("RGB")
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return _resized(image, (left, top, left + side, top + side), size)


def _resized(image: Image.Image, box: tuple[int, int, int, int], size: int) -> np.ndarray:
    """The square `box` (left, top, right, bottom) of an image, (size, size, 3) uint8."""
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def _embedded_photographs(part: str, size: int) -> np.ndarray:
    """Random square crops of scikit-image's photographs, 15 to 60 % of their height, resized."""
    from skimage import data

    rng = np.random.default_rng(0)
    crops = []
    folder = Path(data.__file__).parent
    for name in PHOTOGRAPHS[part]:
        file = next(folder.glob(f"{name}.*"))
        with Image.open(file) as opened:
            photograph = opened.convert("RGB")
        for _ in range(CROPS[part]):
            side = round(min(photograph.size) * rng.uniform(0.15, 0.6))
            left, top = (int(rng.integers(length - side + 1)) for length in photograph.size)
            crops.append(_resized(photograph, (left, top, left + side, top + side), size))
    return np.stack(crops)


def _read_cifar(archive: Path, part: str) -> np.ndarray:
    """The images in CIFAR-10's binary version: (n, 32, 32, 3) uint8."""
    batches = []
    try:
        for content in _members(archive, "test_batch" if part == "test" else "data_batch"):
            records = np.frombuffer(content, np.uint8).reshape(-1, CIFAR_RECORD)
            batches.append(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    except (*DAMAGED, tarfile.TarError) as error:
        raise InputError(f"{archive}: is damaged ({error}); delete it") from error
    if not any(map(len, batches)):
        raise InputError(f"{archive}: holds no images of CIFAR-10; delete it")
    return np.concatenate(batches)


def _members(archive: Path, word: str) -> Iterator[bytes]:
    """The contents of the archive's files with `word` in their names, in order of the names."""
    with tarfile.open(archive) as tar:
        for member in sorted(tar.getmembers(), key=lambda m: m.name):
            if word in member.name and (file := tar.extractfile(member)) is not None:
                yield file.read()
