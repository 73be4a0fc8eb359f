"""Tasks in the plane: a digit's signed distance field, or an image's colours, at its pixels.

Coordinates are (row, column). A digit's pixel i of n stands at i / n - 1/2, so that its field lies
in [-1/2, 1/2), and distances are in widths of the image (MetaSDF's 2D experiments). An image's
pixels reach from -1 to 1 along each side, and so do its colours (SIREN's image fitting).
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt, rotate

from metasdf.data.pixels import DIGIT_PIXELS, pixel_frame, pixel_grid
from metasdf.data.tasks import TaskDataset
from metasdf.errors import InputError
from metasdf.images.sources import load_digits, load_photographs

PARTS = ("test", "rotated", "double", "triple")  # of the digits to test on; all but one are new


# Digits as shapes


def ink(digits: np.ndarray, pixels: int = DIGIT_PIXELS) -> np.ndarray:
    """Which pixels are inside digits (n, height, width) uint8, enlarged: (n, pixels, pixels)."""
    inside = np.empty((len(digits), pixels, pixels), bool)
    for start in range(0, len(digits), 1000):  # so that no set is ever held as floats
        some = torch.from_numpy(np.array(digits[start : start + 1000])).float()[:, None]
        large = torch.nn.functional.interpolate(some, (pixels, pixels), mode="bilinear")
        inside[start : start + 1000] = large[:, 0].numpy() >= 127.5
    return inside


def boundary(inside: np.ndarray) -> np.ndarray:
    """The unit segments between pixels inside and outside: (n, 2, 2), two ends, (row, column)."""
    rows, columns = np.nonzero(inside[:, 1:] != inside[:, :-1])
    upright = np.stack([rows, columns + 0.5], axis=1)
    rows, columns = np.nonzero(inside[1:] != inside[:-1])
    level = np.stack([rows + 0.5, columns], axis=1)
    half = np.array([0.5, 0]), np.array([0, 0.5])
    ends = [np.stack([c - h, c + h], axis=1) for c, h in zip((upright, level), half, strict=True)]
    return np.concatenate(ends)


def signed_distance(inside: np.ndarray, convention: str = "exact") -> np.ndarray:
    """Signed distance at the pixels' centres, (n, n) float32, in widths; negative inside.

    "exact": to the nearest point of the boundary, which runs between the pixels. "original": the
    original program's, to the centre of the nearest pixel of the other kind, half a pixel or more
    too far and -1 or 1 pixel at the least.
    """
    n = len(inside)
    if inside.all() or not inside.any():
        raise InputError("is all inside or all outside, so it has no boundary")
    if convention == "original":
        distance = distance_transform_edt(~inside) - distance_transform_edt(inside)
        return (distance / n).astype(np.float32)
    # The nearest point of the boundary is always a corner of a pixel or the middle of its side:
    # it is on the lattice of half pixels, where the boundary's segments have three points each.
    ends = boundary(inside)
    points = np.concatenate([ends[:, 0], ends.mean(axis=1), ends[:, 1]])
    lattice = np.ones((2 * n + 1, 2 * n + 1), bool)
    lattice[tuple((2 * points + 1).astype(int).T)] = False
    distance = distance_transform_edt(lattice)[1::2, 1::2] / 2
    return (np.where(inside, -distance, distance) / n).astype(np.float32)


def compose(digits: np.ndarray, part: str, seed: int = 0) -> np.ndarray:
    """As many digits of a kind that training has not seen, from digits (n, h, w) uint8.

    "rotated": each by 45 to 315 degrees. "double", "triple": each with the next one or two, half
    as large. "test": the digits as they are.
    """
    if part == "test":
        return digits
    if part == "rotated":
        angles = np.random.default_rng(seed).uniform(45, 315, len(digits))
        turned = [
            rotate(digit, angle, reshape=False, order=1)
            for digit, angle in zip(digits, angles, strict=True)
        ]
        return np.stack(turned)
    height, width = digits.shape[1:]
    canvas = np.zeros((len(digits), 2 * height, 2 * width), np.uint8)
    if part == "double":
        corners = (height // 2, 0), (height // 2, width)
    else:
        corners = (0, 0), (0, width), (height, width // 2)
    for number, (row, column) in enumerate(corners):
        canvas[:, row : row + height, column : column + width] = np.roll(digits, -number, axis=0)
    return canvas


def load_images(curriculum: Mapping[str, Any], part: str) -> tuple[np.ndarray, int]:
    """The images of a part, as `PlaneDataset` takes them, and how many could not be used.

    curriculum: a complete one of 2D. part: "train", "test" or, of digits, another of PARTS.
    Digits without ink are left out, reported and counted.
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
    inside = ink(digits)
    share = inside.mean(axis=(1, 2))
    good = (share > 0) & (share < 1)
    for index in np.flatnonzero(~good):
        print(f"left out: digit {index} ({part}): nothing or everything is ink", file=sys.stderr)
    if not good.any():
        raise InputError(f"{source}: no digit has ink and background")
    return inside[good], int((~good).sum())


def split_images(
    curriculum: Mapping[str, Any], images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first `train_images` of them to train on, the last `val_images` to validate on.

    Of few images half are to validate on; a single one serves for both.
    """
    if len(images) == 1:
        return images, images
    held_out = min(curriculum["val_images"], len(images) // 2)
    return images[:-held_out][: curriculum["train_images"]], images[-held_out:]


class PlaneDataset(TaskDataset):
    """Fields in the plane as tasks.

    images: digits as `ink` (n, p, p) bool, or photographs (n, p, p, 3) uint8. curriculum: a
    complete one of 2D.
    """

    def __init__(self, images: np.ndarray, curriculum: Mapping[str, Any], stream: int = 0) -> None:
        super().__init__(len(images), curriculum, stream, curriculum["images_per_epoch"])
        self.images = images
        self.of_digits = images.dtype == bool
        self.grid = pixel_grid(pixel_frame(images.shape[1], self.of_digits))

    def values(self, index: int) -> np.ndarray:
        """The field's values at all pixels, row by row: (pixels^2, channels) float32."""
        if self.of_digits:
            distance = signed_distance(self.images[index], self.curriculum["distance"])
            return distance.reshape(-1, 1)
        return self.images[index].reshape(-1, 3).astype(np.float32) / 127.5 - 1

    def task(self, index: int, epoch: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """One task: context and query, each (x (n, 2), y (n, channels)) float32.

        "dense": `pixels` are drawn, and all are context and query, or with query = "held_out" half
        each. "levelset": points of the contour with distance 0 are context, `pixels` are query.
        Of the query only the first `query_pixels` are used.
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
        """Points anywhere on a digit's boundary, (count, 2) float32; each segment as often."""
        ends = boundary(self.images[index])
        repeats = -(-count // len(ends))
        chosen = np.concatenate([rng.permutation(len(ends)) for _ in range(repeats)])[:count]
        along = rng.uniform(size=(count, 1))
        points = (1 - along) * ends[chosen, 0] + along * ends[chosen, 1]
        return (points / len(self.images[index]) - 0.5).astype(np.float32)
