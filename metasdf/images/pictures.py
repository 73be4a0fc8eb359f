"""Pictures of 2D fields: signed distances as colours, photographs, adaptations step by step."""

from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from scipy.ndimage import zoom

from metasdf.data.tasks import collate, to_device
from metasdf.evaluation.gallery import PIXELS
from metasdf.images.tasks import ImageDataset
from metasdf.losses import psnr
from metasdf.method import Method

COLOUR_RANGE = (0.1, 0.3)  # distances, in widths, of the deepest colour inside and outside
LINE_SPACING = 0.05  # between level lines, in widths


def shown_steps(model: Method, steps: int | None = None) -> list[int]:
    """The inner steps to show, 0 to `steps` (None: the model's): all, or the ends of over ten."""
    last = model.num_steps if steps is None else steps
    return list(range(last + 1)) if last <= 10 else [0, last]


def distance_picture(distance: np.ndarray, size: int = PIXELS) -> np.ndarray:
    """Signed distances (n, n), in image widths, as colours: (size, size, 3) uint8.

    Orange inside, blue outside, with level lines; the zero level set is black.
    """
    n = len(distance)
    fine = zoom(distance, size / n, order=1, mode="nearest", grid_mode=True)[:size, :size]
    depth = fine / np.where(fine < 0, *COLOUR_RANGE)
    colour = colormaps["PuOr"](0.5 + 0.5 * np.clip(depth, -1, 1))[..., :3]
    slope = np.maximum(np.hypot(*np.gradient(fine)), 1e-6)  # change from one pixel to the next
    to_line = np.abs(fine - LINE_SPACING * np.round(fine / LINE_SPACING)) / slope  # in pixels
    colour *= (1 - 0.2 * np.clip(1.3 - to_line, 0, 1))[..., None]
    colour *= np.clip(np.abs(fine) / slope - 0.5, 0, 1)[..., None]
    return (255 * colour).astype(np.uint8)


def colour_picture(colours: np.ndarray, size: int = PIXELS) -> np.ndarray:
    """Colours in [-1, 1] (n, n, 3), each pixel a square: (size, size, 3) uint8."""
    n = len(colours)
    index = np.arange(size) * n // size
    return (127.5 * (colours.clip(-1, 1) + 1)).round().astype(np.uint8)[index][:, index]


def picture(values: np.ndarray) -> np.ndarray:
    """Distances (n, n, 1) or colours (n, n, 3) as a picture, (PIXELS, PIXELS, 3) uint8."""
    return colour_picture(values) if values.shape[-1] == 3 else distance_picture(values[..., 0])


@torch.no_grad()
def field_values(
    model: Method, data: ImageDataset, fields: Any, device: torch.device
) -> np.ndarray:
    """Distances or colours of one task's fitted field at all pixels: (n, n, c)."""
    n = data.images.shape[1]
    x = torch.from_numpy(data.grid)[None].to(device)
    values = model.predict(x, fields)
    if values.shape[-1] != 3:
        values = model.loss.signed_distance(values)
    return values[0].cpu().numpy().reshape(n, n, -1)


def adaptation_row(
    model: Method,
    data: ImageDataset,
    index: int,
    device: torch.device,
    label: str,
    steps: int | None = None,
) -> list[tuple[str, np.ndarray]]:
    """Labelled pictures: the initialisation, the field after each shown step, and the truth.

    Args:
        index: of the image in `data`.
        label: of the first picture.
        steps: inner steps; None: the model's default.
    """
    task = to_device(collate([data.task(index, 0)]), device)
    true, row = truth(data, index), []
    for k in shown_steps(model, steps):
        values = field_values(model, data, model.adapt(task["context"], k), device)
        name = f"{label}: initialisation" if k == 0 else f"step {k}"
        if values.shape[-1] == 3:
            error = psnr(*(torch.from_numpy(v.reshape(1, -1, 3)) for v in (values, true)))
            name += f", {error:.1f} dB"
        row.append((name, picture(values)))
    return [*row, ("truth", picture(true))]


def truth(data: ImageDataset, index: int) -> np.ndarray:
    """True distances or colours of an image at its pixels: (n, n, c)."""
    n = data.images.shape[1]
    return data.values(index).reshape(n, n, -1)
