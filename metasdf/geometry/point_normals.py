"""Outward normals of points on a surface, for scans that come without."""

import igl
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

NEIGHBOURS = 12  # that a plane is fitted to
ROUNDS = 30  # of turning normals round, at the most
STEP = 2.0  # from a point to where its two sides are asked, in radii of its disc


def estimated_normals(points: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Unit normals (n, 3) of planes through each point's neighbours, either way round."""
    count = min(neighbours + 1, len(points))
    near = points[cKDTree(points).query(points, count)[1]]
    offsets = near - near.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", offsets, offsets))
    return axes[:, :, 0]


def oriented_normals(points: np.ndarray) -> np.ndarray:
    """Unit normals of the surface that points (n, 3) lie on, pointing outward.

    Planes are fitted to neighbours; their sides are made to agree along a spanning tree of the
    neighbourhood graph, which prefers parallel planes (Hoppe et al. 1992, sec. 3.4); then every
    normal on whose two sides the winding number of all points (Barill et al. 2018) says the
    opposite is turned round, until none is.
    """
    points = np.ascontiguousarray(points, np.float64)
    normals = _agreeing(points, estimated_normals(points))
    tree = cKDTree(points)
    count = min(NEIGHBOURS, len(points) - 1)
    radius = tree.query(points, [count + 1])[0][:, 0] / np.sqrt(count)
    for _ in range(ROUNDS):
        behind, before = _winding_numbers(points, normals, radius)
        if (behind + before).sum() < 0:  # the whole is inside out
            normals, behind, before = -normals, -before, -behind
        wrong = behind < before
        if not wrong.any():
            break
        normals = np.where(wrong[:, None], -normals, normals)
    return normals


def _agreeing(points: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Normals turned round so that neighbours agree; each connected part either way round."""
    count = min(NEIGHBOURS + 1, len(points))
    near = cKDTree(points).query(points, count)[1][:, 1:]
    first = np.repeat(np.arange(len(points)), near.shape[1])
    second = near.ravel()
    alike = np.einsum("ij,ij->i", normals[first], normals[second])
    cost = 1e-6 + 1 - np.abs(alike)  # 0 would be no edge
    graph = coo_matrix((cost, (first, second)), shape=(len(points),) * 2).tocsr()
    tree = minimum_spanning_tree(graph.maximum(graph.T))
    _, part = connected_components(tree, directed=False)
    signs = np.ones(len(points))
    for root in np.unique(part, return_index=True)[1]:
        order, before = breadth_first_order(tree, root, directed=False)
        for point in order[1:]:
            agree = normals[point] @ normals[before[point]] >= 0
            signs[point] = signs[before[point]] * (1 if agree else -1)
    return normals * signs[:, None]


def _winding_numbers(
    points: np.ndarray, normals: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Winding numbers behind and before each point, of discs with the points' normals."""
    offset = STEP * radius[:, None] * normals
    queries = np.concatenate([points - offset, points + offset])
    behind, before = np.split(
        igl.fast_winding_number(points, normals, np.pi * radius**2, queries), 2
    )
    return behind, before
