"""2D tasks: a digit's signed distances, or a photograph's colours, at the pixels of the image.

Coordinates are (row, column). Pixel i of the n of a digit lies at i / n - 1/2, so the field covers
[-1/2, 1/2)^2, and distances are in image widths (MetaSDF's 2D experiments). The pixels of a
photograph reach from -1 to 1 along each side, and so do its colours (SIREN's image fitting).
"""

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, rotate

from metasdf.data.pixels import DIGIT_PIXELS, pixel_frame, pixel_grid
from metasdf.data.tasks import TaskDataset
from metasdf.errors import InputError
from metasdf.images.sources import load_digits, load_photographs
from metasdf.learning.training import TRAIN, VAL, TrainingTasks

PARTS = ("test", "rotated", "double", "triple")  # test sets of digits; see `compose`
CHUNK = 1000  # digits enlarged at once, so that a whole set is never held as floats
log = logging.getLogger(__name__)


# Digits as shapes


def digit_masks(digits: np.ndarray, pixels: int = DIGIT_PIXELS) -> np.ndarray:
    """Enlarge digits (n, h, w) uint8 and threshold them: (n, pixels, pixels) bool, True inside."""
    masks = np.empty((len(digits), pixels, pixels), bool)
    for start in range(0, len(digits), CHUNK):
        chunk = torch.from_numpy(np.array(digits[start : start + CHUNK])).float()[:, None]
        large = torch.nn.functional.interpolate(chunk, (pixels, pixels), mode="bilinear")
        masks[start : start + CHUNK] = large[:, 0].numpy() >= 127.5
    return masks


def boundary_segments(mask: np.ndarray) -> np.ndarray:
    """The pixel sides between inside and outside, by their two ends (row, column): (n, 2, 2)."""
    rows, columns = np.nonzero(mask[:, 1:] != mask[:, :-1])
    vertical = np.stack([rows, columns + 0.5], axis=1)
    rows, columns = np.nonzero(mask[1:] != mask[:-1])
    horizontal = np.stack([rows + 0.5, columns], axis=1)
    half_sides = np.array([0.5, 0]), np.array([0, 0.5])
    ends = [
        np.stack([middle - half, middle + half], axis=1)
        for middle, half in zip((vertical, horizontal), half_sides, strict=True)
    ]
    return np.concatenate(ends)


def signed_distance(mask: np.ndarray, convention: str = "exact") -> np.ndarray:
    """Signed distances at the pixel centres of a mask (n, n): (n, n) float32, negative inside.

    Args:
        mask: whether each pixel is inside.
        convention: "exact": to the nearest point of the boundary, which runs between the pixels.
            "original": the original program's, to the centre of the nearest pixel of the other
            kind; half a pixel or more too far, and never below one pixel.

    Returns:
        Distances in image widths.

    Raises:
        InputError: all pixels are inside, or all outside.
    """
    n = len(mask)
    if mask.all() or not mask.any():
        raise InputError("is all inside or all outside, so it has no boundary")
    if convention == "original":
        distance = distance_transform_edt(~mask) - distance_transform_edt(mask)
        return (distance / n).astype(np.float32)
    # The nearest point of the boundary is always a corner of a pixel or the middle of a side: on
    # the grid of half pixels, where each segment has three points.
    ends = boundary_segments(mask)
    points = np.concatenate([ends[:, 0], ends.mean(axis=1), ends[:, 1]])
    grid = np.ones((2 * n + 1, 2 * n + 1), bool)
    grid[tuple((2 * points + 1).astype(int).T)] = False
    distance = distance_transform_edt(grid)[1::2, 1::2] / 2
    return (np.where(mask, -distance, distance) / n).astype(np.float32)


def compose(digits: np.ndarray, part: str, seed: int = 0) -> np.ndarray:
    """A test set of n digits made from digits (n, height, width) uint8.

    part: "test": the digits as they are. Unlike those of training are "rotated": each by 45 to 315
    degrees; "double", "triple": each beside the next one or two, half as large (n, 2 height,
    2 width).
    """
    if part == "test":
        return digits
    if part == "rotated":
        angles = np.random.default_rng(seed).uniform(45, 315, len(digits))
        rotated = [
            rotate(digit, angle, reshape=False, order=1)
            for digit, angle in zip(digits, angles, strict=True)
        ]
        return np.stack(rotated)
    height, width = digits.shape[1:]
    canvas = np.zeros((len(digits), 2 * height, 2 * width), np.uint8)
    if part == "double":
        corners = (height // 2, 0), (height // 2, width)
    else:
        corners = (0, 0), (0, width), (height, width // 2)
    for shift, (row, column) in enumerate(corners):
        canvas[:, row : row + height, column : column + width] = np.roll(digits, -shift, axis=0)
    return canvas


# Datasets


def load_images(curriculum: Mapping[str, Any], part: str) -> tuple[np.ndarray, int]:
    """The images of a part, as `ImageDataset` takes them, and how many could not be used.

    Digits that are all inside or all outside are left out and logged by number.

    Args:
        curriculum: complete, of 2D.
        part: "train", "test" or, of digits, another of PARTS.

    Raises:
        InputError: the source is missing or broken, or none of its images can be used.
    """
    source, cache = curriculum["data_source"], curriculum["cache"]
    if curriculum["data"] == "photographs":
        if curriculum["context_mode"] == "levelset":
            raise InputError("context_mode: a photograph has no contour; use dense")
        images, failed = load_photographs(source, part, cache, curriculum["image_size"])
        return images if part == "train" else images[: curriculum["test_images"]], failed
    digits = load_digits(source, "train" if part == "train" else "test", cache)
    if part != "train":
        digits = compose(digits[: curriculum["test_images"]], part)
    masks = digit_masks(digits)
    share_inside = masks.mean(axis=(1, 2))
    usable = (share_inside > 0) & (share_inside < 1)
    for index in np.flatnonzero(~usable):
        log.warning("left out: digit %d (%s): nothing or everything is ink", index, part)
    if not usable.any():
        raise InputError(f"{source}: no digit has ink and background")
    return masks[usable], int((~usable).sum())


def split_images(
    curriculum: Mapping[str, Any], images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first `train_images` images for training, the last `val_images` for validation.

    Of few images half are for validation; a single one serves for both.
    """
    if len(images) == 1:
        return images, images
    held_out = min(curriculum["val_images"], len(images) // 2)
    return images[:-held_out][: curriculum["train_images"]], images[-held_out:]


class ImageDataset(TaskDataset):
    """Images as tasks: a digit's signed distances or a photograph's colours at its pixels.

    Args:
        images: digits as `digit_masks` (n, p, p) bool, or photographs (n, p, p, 3) uint8.
        curriculum: complete, of 2D.
        stream: see `TaskDataset`.

    Attributes:
        grid: coordinates of all pixels, row by row, (p^2, 2) float32.
    """

    def __init__(self, images: np.ndarray, curriculum: Mapping[str, Any], stream: int = 0) -> None:
        super().__init__(len(images), curriculum, stream, curriculum["images_per_epoch"])
        self.images = images
        self.are_digits = images.dtype == bool
        self.grid = pixel_grid(pixel_frame(images.shape[1], self.are_digits))

    def values(self, index: int) -> np.ndarray:
        """An image's distances or colours at all pixels, row by row: (p^2, channels) float32."""
        if self.are_digits:
            distance = signed_distance(self.images[index], self.curriculum["distance"])
            return distance.reshape(-1, 1)
        return self.images[index].reshape(-1, 3).astype(np.float32) / 127.5 - 1

    def task(self, index: int, epoch: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """One task: context and query, each (x (n, 2), y (n, channels)) float32.

        In "dense" mode `pixels` pixels are drawn: all are both context and query, or with query =
        "held_out" half are context, the others query. In "levelset" mode the context is points of
        the contour with distance 0, and the drawn pixels are the query. Only the first
        `query_pixels` of the query are used.
        """
        rng = np.random.default_rng([self.curriculum["seed"], self.stream, epoch, index, 1])
        values = self.values(index)
        count = min(self.curriculum["pixels"] or len(values), len(values))
        drawn = rng.permutation(len(values))[:count]
        context, query = drawn, drawn[: self.curriculum["query_pixels"]]
        if self.curriculum["context_mode"] == "levelset":
            points = self.contour(index, self.curriculum["contour_points"], rng)
            return {
                "context": (points, np.zeros((len(points), 1), np.float32)),
                "query": (self.grid[query], values[query]),
            }
        if self.curriculum["query"] == "held_out":
            context = drawn[: count // 2]
            query = drawn[count // 2 :][: self.curriculum["query_pixels"]]
        return {
            "context": (self.grid[context], values[context]),
            "query": (self.grid[query], values[query]),
        }

    def contour(self, index: int, count: int, rng: np.random.Generator) -> np.ndarray:
        """Random points on a digit's boundary, (count, 2) float32, equally many on each segment."""
        ends = boundary_segments(self.images[index])
        repeats = -(-count // len(ends))
        chosen = np.concatenate([rng.permutation(len(ends)) for _ in range(repeats)])[:count]
        position = rng.uniform(size=(count, 1))
        points = (1 - position) * ends[chosen, 0] + position * ends[chosen, 1]
        return (points / len(self.images[index]) - 0.5).astype(np.float32)


def image_tasks(curriculum: Mapping[str, Any]) -> TrainingTasks:
    """The training and validation tasks of a complete 2D curriculum, see `split_images`."""
    images, left_out = load_images(curriculum, "train")
    training, validation = split_images(curriculum, images)
    return TrainingTasks(
        ImageDataset(training, curriculum, TRAIN),
        ImageDataset(validation, {**curriculum, "images_per_epoch": None}, VAL),
        [str(index) for index in range(len(training))],
        left_out,
    )
