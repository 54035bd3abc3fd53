"""Cuts polygons into triangles by their ears."""

from __future__ import annotations

import numpy as np


def triangulate_all(polygons: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the triangles of P polygons of n corners, float64 [P, n, 3], see `triangulate`.

    Returns:
        The polygon of each triangle, int64 [T], and its corners there, int64 [T, 3].

    >>> row, corners = triangulate_all(np.array([[[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]]))
    >>> row.tolist(), corners.tolist()
    ([0, 0], [[0, 1, 2], [0, 2, 3]])
    """
    count = polygons.shape[1]
    if count == 3:
        return np.arange(len(polygons)), np.tile(np.arange(3), (len(polygons), 1))
    fan = np.stack([np.zeros(count - 2, np.int64), np.arange(1, count - 1), np.arange(2, count)], 1)
    if count > 4:
        cuts = [triangulate(polygon) for polygon in polygons]
    else:
        # Nearly all faces are convex quadrangles: those are found at once.
        corners = polygons[:, fan]
        normals = np.cross(corners[:, :, 1] - corners[:, :, 0], corners[:, :, 2] - corners[:, :, 0])
        cuts = [fan] * len(polygons)
        for k in np.flatnonzero((normals[:, 0] * normals[:, 1]).sum(1) < 0):
            cuts[k] = triangulate(polygons[k])
    row = np.repeat(np.arange(len(polygons)), count - 2)
    return row, np.concatenate(cuts) if cuts else np.zeros((0, 3), np.int64)


def triangulate(corners: np.ndarray) -> np.ndarray:
    """Return the triangles of a polygon, int64 [n - 2, 3], indices of its corners in their order around it.

    The polygon is float64 [n, 3], about flat, without holes, and need not be convex: a fan from one corner would fill
    its dents. Of one that crosses itself the triangles are as many, but cover other parts.

    >>> triangulate(np.array([[0, 0, 0], [2, 1, 0], [0, 2, 0], [0.5, 1, 0]])).tolist()
    [[3, 0, 1], [1, 2, 3]]
    """
    count = len(corners)
    flat = _flat(corners)
    area = _cross(flat - flat[0], np.roll(flat, -1, 0) - flat[0]).sum()
    if area < 0:
        flat = flat * np.array([1.0, -1.0])
    before, after = np.roll(flat, 1, 0), np.roll(flat, -1, 0)
    if count == 3 or ((_cross(flat - before, after - flat) >= 0).all() and _turns_once(flat)):
        middle = np.arange(1, count - 1)
        return np.stack([np.zeros_like(middle), middle, middle + 1], 1)
    left = list(range(count))
    triangles = []
    while len(left) > 3:
        k = _ear(flat, left)
        triangles.append((left[k - 1], left[k], left[(k + 1) % len(left)]))
        del left[k]
    return np.array([*triangles, tuple(left)], np.int64)


def _flat(corners: np.ndarray) -> np.ndarray:
    """Return the polygon [n, 2] without the axis along which its normal is longest; its turning sense may change."""
    centered = corners - corners[0]  # far from the origin products would lose all digits
    normal = np.cross(centered, np.roll(centered, -1, 0)).sum(0)
    return np.delete(centered, int(np.abs(normal).argmax()), 1)


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.asarray(a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0])


def _turns_once(flat: np.ndarray) -> bool:
    """Return whether a polygon that turns to the left at all corners does so once around and not twice."""
    sides = np.roll(flat, -1, 0) - flat
    sides = sides[np.abs(sides).sum(1) > 0]
    angles = np.arctan2(sides[:, 1], sides[:, 0])
    return bool(((np.roll(angles, -1) - angles) % (2 * np.pi)).sum() < 3 * np.pi)


def _ear(flat: np.ndarray, left: list[int]) -> int:
    """Return the place in `left` of a corner whose triangle with its neighbors lies inside of the polygon."""
    points = flat[left]
    before, after = np.roll(points, 1, 0), np.roll(points, -1, 0)
    turns = _cross(points - before, after - points)
    for k in np.flatnonzero(turns >= 0):
        a, b, c = before[k], points[k], after[k]
        others = np.delete(points, sorted({k - 1 if k else len(left) - 1, int(k), (int(k) + 1) % len(left)}), 0)
        # A corner at the same place as one of the triangle's does not lie inside of it.
        others = others[~((others == a) | (others == b) | (others == c)).all(1)]
        sides = [_cross(q - p, others - p) for p, q in ((a, b), (b, c), (c, a))]
        if not ((sides[0] >= 0) & (sides[1] >= 0) & (sides[2] >= 0)).any():
            return int(k)
    # A polygon that crosses itself may have none.
    return int(turns.argmax())
