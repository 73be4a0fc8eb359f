"""The methods MetaSDF is compared with (MetaSDF sec. 4): auto-decoder and set encoders.

Each describes a shape by a latent code. A decoder turns a code into a field in two steps:
`condition(code [T, L])` does once per shape whatever does not depend on coordinates, and
`forward(x [T, N, d], conditioned)` evaluates. The auto-decoder finds a new shape's code by
optimisation, an encoder in one pass over the context.
"""

from typing import NamedTuple

import numpy as np


class PixelFrame(NamedTuple):
    """Where pixels stand: pixel i of `pixels` a side has the coordinate start + i * spacing."""

    pixels: int
    start: float
    spacing: float


DIGIT_PIXELS = 64


# Tasks


def pixel_frame(pixels: int, of_digit: bool) -> PixelFrame:
    """Where the pixels of an image stand."""
    if of_digit:
        return PixelFrame(pixels, -0.5, 1 / pixels)
    return PixelFrame(pixels, -1.0, 2 / (pixels - 1))


def pixel_grid(frame: PixelFrame) -> np.ndarray:
    """Coordinates of the pixels, row by row: (pixels^2, 2) float32."""
    line = frame.start + frame.spacing * np.arange(frame.pixels)
    return np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1).reshape(-1, 2).astype("f4")
