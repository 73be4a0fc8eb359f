"""Outward normals of points on a surface, for scans that come without."""

import igl
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import breadth_first_order, connected_components, minimum_spanning_tree
from scipy.spatial import cKDTree

NEIGHBOURS = 12  # that a plane is fitted to
ROUNDS = 20  # of turning normals round, at the most
PATIENCE = 3  # rounds in which fewer must be wrong than before
STEP = 2.0  # from a point to where its two sides are asked, in radii of its disc


def estimated_normals(points: np.ndarray, neighbours: int = NEIGHBOURS) -> np.ndarray:
    """Unit normals (n, 3) of planes through each point's neighbours, either way round."""
    count = min(neighbours, max(3, len(points) // 4)) + 1  # of few points not all of them
    index = cKDTree(points).query(points, min(count, len(points)))[1]
    near = points[index.reshape(len(points), -1)]
    offsets = near - near.mean(axis=1, keepdims=True)
    _, axes = np.linalg.eigh(np.einsum("nki,nkj->nij", offsets, offsets))
    return axes[:, :, 0]


def oriented_normals(points: np.ndarray) -> np.ndarray:
    """Unit normals of the surface that points (n, 3) lie on, pointing outward.

    Planes are fitted to neighbours; their sides are made to agree along a spanning tree of the
    neighbourhood graph, which prefers parallel planes (Hoppe et al. 1992, sec. 3.4); each part that
    hangs together is turned as its winding numbers say (Barill et al. 2018), inward where it bounds
    a cavity of another. Then every normal is turned round behind which the winding number of all
    points is less than before it, or around which it is negative, as behind a sheet or a limb that
    is inside out as a whole; and so on until none is, or their number no longer falls. Where plates
    are thinner than a few spacings of points it errs.
    """
    points, rows = np.unique(np.asarray(points, np.float64), axis=0, return_inverse=True)
    normals, part = _agreeing(points, estimated_normals(points))
    radius = disc_radii(points, NEIGHBOURS)
    _turn_parts(points, normals, radius, part)
    counts: list[int] = []
    while len(counts) < ROUNDS:
        behind, before = _on_both_sides(points, normals, radius)
        wrong = (behind < before) | (behind + before < 0)
        counts.append(int(wrong.sum()))
        if counts[-1] == 0 or (len(counts) > PATIENCE and counts[-1] >= counts[-1 - PATIENCE]):
            break
        normals[wrong] *= -1
    return normals[rows.reshape(-1)]


def disc_radii(points: np.ndarray, neighbours: int) -> np.ndarray:
    """Radii (n,) of discs that have each point's share of the surface, by nearest neighbours."""
    count = min(neighbours, len(points) - 1)
    return cKDTree(points).query(points, [count + 1])[0][:, 0] / np.sqrt(count)


def winding_numbers(
    points: np.ndarray, normals: np.ndarray, radius: np.ndarray, queries: np.ndarray
) -> np.ndarray:
    """Winding numbers (m,) at queries (m, 3) of discs around points (n, 3); Barill et al. 2018."""
    return igl.fast_winding_number(points, normals, np.pi * radius**2, queries)


def _turn_parts(
    points: np.ndarray, normals: np.ndarray, radius: np.ndarray, part: np.ndarray
) -> None:
    """Turn each part outward, or inward where it bounds a cavity of another, in place."""
    parts = [np.flatnonzero(part == number) for number in np.unique(part)]
    for own in parts:
        behind, before = _on_both_sides(points[own], normals[own], radius[own])
        if (behind + before).sum() < 0:
            normals[own] *= -1
    depth = np.zeros(len(parts), int)  # how many others each lies in
    asked = np.stack([points[own[len(own) // 2]] for own in parts])
    for number, own in enumerate(parts):
        low, high = points[own].min(axis=0), points[own].max(axis=0)
        within = ((asked >= low) & (asked <= high)).all(axis=1)
        within[number] = False
        if within.any():
            winding = winding_numbers(points[own], normals[own], radius[own], asked[within])
            depth[within] += winding > 0.5
    for own, inside in zip(parts, depth % 2 == 1, strict=True):
        if inside:
            normals[own] *= -1


def _agreeing(points: np.ndarray, normals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals turned round so that neighbours agree, and the number of each point's part (n,).

    Neighbours' neighbours are of one part, which as a whole may be either way round.
    """
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
    return normals * signs[:, None], part


def _on_both_sides(
    points: np.ndarray, normals: np.ndarray, radius: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Winding numbers behind and before each point, of discs with the points' normals."""
    offset = STEP * radius[:, None] * normals
    queries = np.concatenate([points - offset, points + offset])
    winding = winding_numbers(points, normals, radius, queries)
    return winding[: len(points)], winding[len(points) :]
