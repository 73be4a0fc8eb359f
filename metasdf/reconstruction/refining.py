"""Refine an adapted field with Adam, for those who have seconds rather than milliseconds."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from metasdf.errors import InputError
from metasdf.geometry.grid import POINTS_PER_CALL
from metasdf.learning.loop import cosine
from metasdf.losses import CompositeLoss, DistanceLoss
from metasdf.method import Method
from metasdf.reconstruction.judging import Judge, side_error

STEP_SIZE = 0.02  # of Adam, relative to a tensor's root mean square; falls along a cosine
SMALLEST = 1e-3  # what that root mean square counts as at least
BETAS = (0.9, 0.99)  # few hundred steps are too few for 0.999
POINTS = 512  # of the context in each step, and as many of free space
PASSES = 50  # over the context, at the most: with more the field fits what lies between worse
FREE_POINTS = 20_000  # drawn once
CLEARLY = 0.003  # distance from the surface, in the normalised frame, at which a side is clear
CHECKS = 8  # how often the field is judged


def refine(
    model: Method,
    fields: Any,
    context: tuple[Tensor, Tensor],
    judge: Judge,
    seconds: float,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[Any, int]:
    """Adam on the tensors of an adapted field, for that many seconds or PASSES over the context.

    The loss is the inner loss at random points of the context; plus how far these are from lying
    clearly on their side, or thin parts are lost; plus the error of sides at random points of free
    space, the side that follows from the context or else the present one, or surface appears where
    the context has few points. The field that the judge likes best is returned.

    Args:
        fields: of one task, as from `model.adapt`.
        context: x [1, N, 3] and y [1, N, 1] on the model's device.
        judge: of the same shape.
        progress: called now and then with the share that is done.

    Returns:
        The fields, and the number of steps taken.

    Raises:
        InputError: the method's fields are not tensors.
    """
    leaves, structure = tree_flatten(fields)
    if not all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
        raise InputError("refine: the method's fields are more than tensors; set it to 0")
    tensors = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    sizes = [STEP_SIZE * max(float(t.detach().square().mean().sqrt()), SMALLEST) for t in tensors]
    groups = [{"params": [t], "lr": size} for t, size in zip(tensors, sizes, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=BETAS)
    best, best_error, steps = fields, judge.error(fields), 0
    rng = np.random.default_rng(1)
    x, y = context
    free_x, sides = _free_points(model, fields, judge)
    checked, share, start = 0, 0.0, time.perf_counter()
    while share < 1:
        seen = steps * POINTS / (PASSES * x.shape[1])
        share = min(max((time.perf_counter() - start) / seconds, seen), 1.0)
        if share * CHECKS >= checked + 1:
            checked = int(share * CHECKS)
            current = tree_unflatten([t.detach().clone() for t in tensors], structure)
            if (error := judge.error(current)) < best_error:
                best, best_error = current, error
            progress(share)
        for group, size in zip(optimizer.param_groups, sizes, strict=True):
            group["lr"] = size * cosine(share)
        rows = torch.from_numpy(rng.integers(x.shape[1], size=POINTS)).to(x.device)
        free = torch.from_numpy(rng.integers(len(sides), size=POINTS)).to(x.device)
        points = torch.cat([x[:, rows], free_x[:, free]], dim=1)
        prediction = model.predict(points, tree_unflatten(tensors, structure))
        loss = _loss(model, prediction, y[:, rows], sides[free])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        steps += 1
    return best, steps


def _loss(model: Method, prediction: Tensor, y: Tensor, sides: Tensor) -> Tensor:
    """At points of the context with distances y [1, n, 1], and others on known sides (m,)."""
    known, free = prediction[:, : y.shape[1]], prediction[:, y.shape[1] :]
    fit = model.loss.inner(known, y).sum() + side_error(model, free, sides[None])
    return fit + _wrong_side(model, known[..., 0], y[..., 0]) / 2


def _wrong_side(model: Method, first_output: Tensor, distances: Tensor) -> Tensor:
    """How far points are from lying on their side by CLEARLY; 0 for hard sign targets.

    These say so themselves, and a user's own loss has outputs of an unknown meaning.
    """
    if isinstance(model.loss, CompositeLoss):
        scale = model.loss.sharpness or 0.0
    else:
        scale = 1.0 if isinstance(model.loss, DistanceLoss) else 0.0
    wrong = F.relu(CLEARLY * scale - torch.sign(distances) * first_output)
    return wrong.mean() if scale else wrong.new_zeros(())


@torch.no_grad()
def _free_points(model: Method, fields: Any, judge: Judge) -> tuple[Tensor, Tensor]:
    """Points of the cube [1, n, 3] and the sides they are to stay on, or to go to, (n,)."""
    free = judge.held_out.free_space(FREE_POINTS, seed=1)  # the judge draws other points
    x = torch.from_numpy(free.points)[None].to(judge.device)
    now = torch.cat([model.predict(part, fields) for part in x.split(POINTS_PER_CALL, dim=1)], 1)
    known = torch.from_numpy(free.sides).to(judge.device)
    return x, torch.where(known != 0, known, torch.sign(now[0, :, 0]))
