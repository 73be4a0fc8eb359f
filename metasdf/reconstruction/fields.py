"""Signed distance field -> the mesh of its zero level set over [-1, 1]^3, by marching cubes.

Two ways to the same mesh. Dense: the field is evaluated at every point of the lattice. Sparse
(`SparseLattice`): only where the surface can be, which is some hundredth of it at 256^3.
"""

from typing import Any

import torch
import trimesh
from torch import Tensor

from metasdf.geometry.grid import evaluate_grid, extract_mesh
from metasdf.geometry.sparse_grid import SparseLattice
from metasdf.maml import Method


def mesh_field(
    model: Method, fields: Any, resolution: int, device: torch.device, dense: bool = False
) -> trimesh.Trimesh:
    """Mesh one fitted field (`fields` from `model.adapt`, of a single task).

    dense: evaluate the whole lattice; the mesh is the same, see `SparseLattice` for what may not
    be. A field that gives no gradients is always meshed so.
    """

    def field(x: Tensor) -> tuple[Tensor, Tensor]:
        prediction = model.predict(x.unsqueeze(0), fields)[0]
        return model.loss.signed_distance(prediction)[:, 0], prediction[:, 0]

    def has_slopes() -> bool:
        with torch.enable_grad():
            return field(torch.zeros(1, 3, device=device, requires_grad=True))[1].requires_grad

    if dense or not has_slopes():
        return extract_mesh(evaluate_grid(lambda x: field(x)[0], resolution, device))
    clamp = getattr(model.loss, "clamp", None)
    return SparseLattice(field, resolution, device, clamp).mesh()
