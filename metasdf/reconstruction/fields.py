"""Fitted fields as functions of points, and as meshes of their zero level sets.

Grids take a function of points and know nothing of methods; `point_function` makes one.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import trimesh
from torch import Tensor

from metasdf.errors import InputError
from metasdf.geometry.evaluated_points import Field
from metasdf.geometry.grid import POINTS_PER_CALL, extract_mesh
from metasdf.geometry.normalisation import Normalisation
from metasdf.geometry.sparse_grid import SparseGrid
from metasdf.method import Method


def point_function(model: Method, fields: Any, surface: str = "composite") -> Field:
    """The fitted field of a single task, `fields` from `model.adapt`, as a function of points.

    Args:
        surface: one of SURFACES.

    Returns:
        A function of points (n, 3) in the normalised frame, on the model's device. It gives two
        tensors (n,): the function whose zero level set is the surface, and the network's first
        output, which has the same sign and no jumps (of the composite loss the logit).
    """

    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        prediction = model.predict(x.unsqueeze(0), fields)[0]
        return _surface(model, prediction, surface)[:, 0], prediction[:, 0]

    return function


def _surface(model: Method, prediction: Tensor, surface: str) -> Tensor:
    """The surface function; the signed distance of a loss of the user's own that has none."""
    if hasattr(model.loss, "surface"):
        return model.loss.surface(prediction, surface)
    return model.loss.signed_distance(prediction)


def mesh_field(
    model: Method,
    fields: Any,
    resolution: int,
    device: torch.device,
    dense: bool = False,
    surface: str = "composite",
) -> trimesh.Trimesh:
    """Mesh the fitted field of a single task, `fields` from `model.adapt`, over [-1, 1]^3.

    Args:
        dense: evaluate the whole grid, `resolution` points along each side, not only where the
            surface can be; the mesh is the same, see `SparseGrid` for the exceptions. A field
            without gradients is always meshed densely.
        surface: one of SURFACES: whose zero level set is meshed.

    Raises:
        NoSurfaceError: the field has no zero level set in the cube.
    """
    function = point_function(model, fields, surface)
    if dense or not _has_gradients(function, device):
        return extract_mesh(lambda x: function(x)[0], resolution, device)
    clamp = getattr(model.loss, "clamp", None)
    return SparseGrid(function, resolution, device, clamp).mesh()


def mesh_fitted(
    model: Method, fields: Any, curriculum: Mapping[str, Any], device: torch.device
) -> trimesh.Trimesh:
    """`mesh_field` as a complete curriculum of 3D says."""
    resolution, dense = curriculum["resolution"], curriculum["dense_grid"]
    return mesh_field(model, fields, resolution, device, dense, curriculum["surface"])


def _has_gradients(function: Field, device: torch.device) -> bool:
    with torch.enable_grad():
        return function(torch.zeros(1, 3, device=device, requires_grad=True))[1].requires_grad


class FittedField:
    """The signed distance function of one reconstructed shape, in the shape's own frame and units.

        distance = field(points)  # (n, 3) -> (n,)

    Args:
        model: in evaluation mode, on `device`.
        fields: from `model.adapt`, of a single task.
        normalisation: the map from the shape's own frame to the normalised one. The field was
            trained inside of the cube [-1, 1]^3 there, and means little beyond it.
    """

    def __init__(
        self, model: Method, fields: Any, normalisation: Normalisation, device: torch.device
    ) -> None:
        self.model = model
        self.fields = fields
        self.normalisation = normalisation
        self.device = device

    @torch.no_grad()
    def __call__(self, points: np.ndarray) -> np.ndarray:
        """Signed distances (n,) float32 at points (n, 3), negative inside.

        Raises:
            InputError: the points are not (n, 3).
        """
        points = np.asarray(points, np.float64)
        if points.ndim != 2 or points.shape[1] != 3:
            raise InputError(f"points are {list(points.shape)}, want [n, 3]")
        x = torch.from_numpy(self.normalisation.apply(points).astype(np.float32))
        function = point_function(self.model, self.fields)
        chunks = [function(part.to(self.device))[0].cpu() for part in x.split(POINTS_PER_CALL)]
        return torch.cat(chunks).float().numpy() / np.float32(self.normalisation.scale)
