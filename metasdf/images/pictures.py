"""How good fields in the plane are: digits, digits unlike those of training, photographs.

Each image of a part is fitted to its context and judged at its query: of digits these are the
pixels outside of the context, of photographs (whose curriculums say `query: all`) all pixels.
"""

from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from scipy.ndimage import zoom

from metasdf.data.tasks import stack, to_device
from metasdf.evaluation.gallery import PIXELS
from metasdf.images.tasks import PlaneDataset
from metasdf.losses import psnr
from metasdf.maml import Method

COLOUR_RANGE = (0.1, 0.3)  # distance, in widths, of the deepest colour inside and outside
LINE_SPACING = 0.05  # of the lines of equal distance


def shown_steps(model: Method, steps: int | None = None) -> list[int]:
    """The steps to show: all of a few, first and last of many."""
    last = model.num_steps if steps is None else steps
    return list(range(last + 1)) if last <= 10 else [0, last]


# Pictures


def distance_picture(distance: np.ndarray, size: int = PIXELS) -> np.ndarray:
    """A signed distance field (n, n), in widths, as colours: (size, size, 3) uint8.

    Orange inside, blue outside, with lines of equal distance, and a black one for the boundary.
    """
    n = len(distance)
    fine = zoom(distance, size / n, order=1, mode="nearest", grid_mode=True)[:size, :size]
    depth = fine / np.where(fine < 0, *COLOUR_RANGE)
    colour = colormaps["PuOr"](0.5 + 0.5 * np.clip(depth, -1, 1))[..., :3]
    pixel = np.maximum(np.hypot(*np.gradient(fine)), 1e-6)  # by what a pixel's step changes it
    line = np.abs(fine - LINE_SPACING * np.round(fine / LINE_SPACING)) / pixel
    colour *= (1 - 0.2 * np.clip(1.3 - line, 0, 1))[..., None]
    colour *= np.clip(np.abs(fine) / pixel - 0.5, 0, 1)[..., None]
    return (255 * colour).astype(np.uint8)


def colour_picture(colours: np.ndarray, size: int = PIXELS) -> np.ndarray:
    """Colours in [-1, 1] (n, n, 3), each pixel a square: (size, size, 3) uint8."""
    n = len(colours)
    index = np.arange(size) * n // size
    return (127.5 * (colours.clip(-1, 1) + 1)).round().astype(np.uint8)[index][:, index]


def picture(values: np.ndarray) -> np.ndarray:
    """A field's values at its pixels, (n, n, c), as a picture."""
    return colour_picture(values) if values.shape[-1] == 3 else distance_picture(values[..., 0])


@torch.no_grad()
def field_values(
    model: Method, data: PlaneDataset, fields: Any, device: torch.device
) -> np.ndarray:
    """The values of one task's fitted field at all pixels: (n, n, c)."""
    n = data.images.shape[1]
    x = torch.from_numpy(data.grid)[None].to(device)
    values = model.predict(x, fields)
    if values.shape[-1] != 3:
        values = model.loss.signed_distance(values)
    return values[0].cpu().numpy().reshape(n, n, -1)


def adaptation_row(
    model: Method,
    data: PlaneDataset,
    index: int,
    device: torch.device,
    label: str,
    steps: int | None = None,
) -> list[tuple[str, np.ndarray]]:
    """Labelled pictures: the field before the context was seen, after each step, and the truth.

    steps: as for `evaluate`.
    """
    task = to_device(stack([data.task(index, 0)]), device)
    true, row = truth(data, index), []
    for k in shown_steps(model, steps):
        values = field_values(model, data, model.adapt(task["context"], k), device)
        name = f"{label}: initialisation" if k == 0 else f"step {k}"
        if values.shape[-1] == 3:
            error = psnr(*(torch.from_numpy(v.reshape(1, -1, 3)) for v in (values, true)))
            name += f", {error:.1f} dB"
        row.append((name, picture(values)))
    return [*row, ("truth", picture(true))]


def truth(data: PlaneDataset, index: int) -> np.ndarray:
    """An image's true values at its pixels: (n, n, c)."""
    n = data.images.shape[1]
    return data.values(index).reshape(n, n, -1)
