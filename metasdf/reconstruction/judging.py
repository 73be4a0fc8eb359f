"""How good a fit is, told from points that it was not made from.

Some points like those of the context are held out. After each step, and while a field is refined,
they tell whether it gets better or worse (`Judge`); of the finished mesh they tell how far it lies
from the truth (`Judge.mesh_error`), and thereby whether to trust it.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
import trimesh
from scipy.spatial import cKDTree
from torch import Tensor

from metasdf.geometry.free_space import FreeSpace, free_space
from metasdf.geometry.mesh import sample_surface
from metasdf.geometry.normalisation import MARGIN
from metasdf.geometry.sdf import SurfaceTree
from metasdf.method import Method

HELD_OUT = 1_000  # the most points that are held out
SHARE = 0.1  # of the context's size, the most that are
LEAST = 10  # with fewer, none are held out and nothing is judged
FREE_POINTS = 2_000  # drawn in the cube
NEAR = 0.1  # distances count up to this, in the normalised frame
SURFACE_POINTS = 10_000  # drawn on a mesh


def held_out_count(context_points: int) -> int:
    """How many points to hold out beside a context of so many; 0 where they would be too few."""
    count = min(HELD_OUT, int(SHARE * context_points))
    return count if count >= LEAST else 0


class HeldOut(NamedTuple):
    """Points to judge a fit by, in the normalised frame.

    Attributes:
        x, y: points (m, 3) and their signed distances (m, 1), 0 for surface points.
        context_x, context_y: the context (n, 3), (n, 1), from which sides in free space follow.
        dense: whether y are signed distances.
        whole: whether the points come from all sides of the shape.
    """

    x: np.ndarray
    y: np.ndarray
    context_x: np.ndarray
    context_y: np.ndarray
    dense: bool
    whole: bool = True

    @classmethod
    def of(
        cls,
        held_out: tuple[Tensor, Tensor],
        context: tuple[Tensor, Tensor],
        context_mode: str,
        whole: bool = True,
    ) -> "HeldOut":
        """Of one task: held-out points and context, x [1, n, 3] and y [1, n, 1].

        whole: False if the points are known to be a part's; so they are in context mode "partial".
        """
        arrays = (tensor[0].cpu().numpy() for tensor in (*held_out, *context))
        return cls(*arrays, context_mode == "dense", whole and context_mode != "partial")

    def free_space(self, count: int, seed: int) -> FreeSpace:
        """`free_space` as far as it follows from the context."""
        distances = self.context_y[:, 0] if self.dense else None
        rng = np.random.default_rng(seed)
        return free_space(self.context_x, distances, count, rng, self.whole)


class Judge:
    """Judges the fits of one shape. Deterministic: it always draws the same points.

    Args:
        model: whose fields are judged.
        held_out: at least one point.
        device: where the fields are.
    """

    def __init__(self, model: Method, held_out: HeldOut, device: torch.device) -> None:
        self.model, self.held_out, self.device = model, held_out, device
        self.free = held_out.free_space(FREE_POINTS, seed=0).known()
        self._x, self._y, self._free_x, self._sides = (
            torch.from_numpy(np.ascontiguousarray(array))[None].to(device)
            for array in (held_out.x, held_out.y, self.free.points, self.free.sides)
        )

    @torch.no_grad()
    def error(self, fields: Any) -> float:
        """How badly fields fit the held-out points and free space; the less the better.

        Dense: the loss's error of the surface at the points. Otherwise the mean distance from the
        points to the zero level set, to first order |f| / |grad f|, in units of NEAR; f is the
        network's first output. Either plus the loss's error of sides in free space.
        """
        sides = side_error(self.model, self.model.predict(self._free_x, fields), self._sides)
        if self.held_out.dense:
            fit = surface_error(self.model, self.model.predict(self._x, fields), self._y)
        else:
            fit = self._level_set_distance(fields).clamp(max=1).mean() / NEAR
        return float(fit + sides)

    def _level_set_distance(self, fields: Any) -> Tensor:
        with torch.enable_grad():
            x = self._x.clone().requires_grad_()
            value = self.model.predict(x, fields)[..., 0]
            (gradient,) = torch.autograd.grad(value.sum(), x)
        return value.detach().abs() / gradient.norm(dim=-1).clamp(min=1e-12)

    @torch.no_grad()
    def mesh_error(self, fields: Any, mesh: trimesh.Trimesh) -> float:
        """How far a mesh lies from the held-out points, relative to the bounding sphere's radius.

        Dense: the mean difference between the signed distances to the mesh and those given, at
        points within NEAR of the surface; plus, in free space, by how much distances to the mesh
        break the bounds that follow from the context. Otherwise: the mean distance from the points
        to the mesh; plus that from the mesh to the nearest point, less the points' mean spacing.

        fields: what was meshed; the network's first output gives the side of a point.
        """
        tree = SurfaceTree(mesh)
        distance = tree.nearest(self.held_out.x)[0]
        if self.held_out.dense:
            truth = self.held_out.y[:, 0]
            near = np.abs(truth) <= NEAR
            error = np.abs(distance * self._side(fields, self._x) - truth)[near]
            free = tree.nearest(self.free.points)[0] * self._side(fields, self._free_x)
            free = free * self.free.sides
            broken = np.maximum(self.free.at_least - free, free - self.free.at_most)
            total = (error.mean() if near.any() else 0.0) + np.maximum(broken, 0).mean()
        else:
            known = cKDTree(np.concatenate([self.held_out.context_x, self.held_out.x]))
            spacing = known.query(self.held_out.x, k=2)[0][:, 1].mean()
            drawn, _ = sample_surface(mesh, SURFACE_POINTS, np.random.default_rng(0))
            total = distance.mean() + max(0.0, known.query(drawn)[0].mean() - spacing)
        return float(total) * MARGIN

    def _side(self, fields: Any, x: Tensor) -> np.ndarray:
        return torch.sign(self.model.predict(x, fields)[0, :, 0]).cpu().numpy()


def surface_error(model: Method, prediction: Tensor, target: Tensor) -> Tensor:
    """The mean error of what decides where the surface is; the inner loss of a user's own loss."""
    if hasattr(model.loss, "surface_error"):
        return model.loss.surface_error(prediction, target).mean()
    return model.loss.inner(prediction, target).mean()


def side_error(model: Method, prediction: Tensor, side: Tensor) -> Tensor:
    """The mean error where only the side is known [T, N]; 0 where the user's own loss has none."""
    if hasattr(model.loss, "side_error"):
        return model.loss.side_error(prediction, side).mean()
    return prediction.new_zeros(())
