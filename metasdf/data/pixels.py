"""Pixel coordinates: where the pixels of a square image lie in the plane."""

from typing import NamedTuple

import numpy as np


class PixelFrame(NamedTuple):
    """Pixel i of a row or column of `pixels` has the coordinate start + i * spacing."""

    pixels: int
    start: float
    spacing: float


DIGIT_PIXELS = 64  # a side, of a digit's mask


def pixel_frame(pixels: int, of_digit: bool) -> PixelFrame:
    """The frame of an image of `pixels` a side.

    The pixels of a digit lie at -0.5, -0.5 + 1 / pixels, ...; those of a photograph reach from -1
    to 1.
    """
    if of_digit:
        return PixelFrame(pixels, -0.5, 1 / pixels)
    return PixelFrame(pixels, -1.0, 2 / (pixels - 1))


def pixel_grid(frame: PixelFrame) -> np.ndarray:
    """The coordinates (row, column) of all pixels, row by row: (pixels^2, 2) float32."""
    line = frame.start + frame.spacing * np.arange(frame.pixels)
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2).astype("f4")
