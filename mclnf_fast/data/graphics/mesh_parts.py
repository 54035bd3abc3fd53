"""Closed triangle meshes of simple solids: lofts through rings, boxes, ellipsoids and turned profiles."""

from __future__ import annotations

import math

import numpy as np
import torch

from mclnf_fast.data.graphics.mesh import CREASE, Mesh, make_mesh


def loft(rings: np.ndarray, colors: np.ndarray, ends: np.ndarray, crease: float = CREASE) -> Mesh:
    """Return a closed solid through rings of points.

    Args:
        rings: [R, P, 3], ring by ring, each counter-clockwise as seen from beyond the last ring.
        colors: [R - 1, P, 3], linear RGB of the strip from point p to p + 1 (the last to the first).
        ends: [2, 3], linear RGB of the first and the last ring's cap; a cap is a fan about the ring's mean.
        crease: degrees above which an edge stays sharp.

    >>> rings = np.array([[(0, 0, z), (1, 0, z), (0, 1, z)] for z in (0.0, 1.0)])
    >>> len(loft(rings, np.ones((1, 3, 3)), np.ones((2, 3))).faces)
    12
    """
    count, points = rings.shape[:2]
    grid = np.arange(count * points).reshape(count, points)
    a, b = grid[:-1], np.roll(grid, -1, 1)[:-1]
    c, d = np.roll(grid, -1, 1)[1:], grid[1:]
    # The shorter diagonal of each quad: a bent quad then folds as little as it can.
    flat = rings.reshape(-1, 3)
    cut_ac = np.linalg.norm(flat[a] - flat[c], axis=-1) <= np.linalg.norm(flat[b] - flat[d], axis=-1)
    triangles = np.where(cut_ac[..., None], np.stack([a, b, c], -1), np.stack([a, b, d], -1))
    opposite = np.where(cut_ac[..., None], np.stack([a, c, d], -1), np.stack([b, c, d], -1))
    sides = np.stack([triangles, opposite], 2).reshape(-1, 3)
    middle = count * points
    bottom, top = grid[0], grid[-1]
    caps = np.concatenate(
        [
            np.stack([np.roll(bottom, -1), bottom, np.full(points, middle)], 1),
            np.stack([top, np.roll(top, -1), np.full(points, middle + 1)], 1),
        ]
    )
    vertices = np.concatenate([flat, rings[[0, -1]].mean(1)])
    paint = np.concatenate([np.repeat(colors.reshape(-1, 3), 2, 0), np.repeat(ends, points, 0)])
    return _closed_mesh(vertices, np.concatenate([sides, caps]), paint, crease)


def box(low: tuple[float, ...], high: tuple[float, ...], color: np.ndarray, chamfer: float = 0.0) -> Mesh:
    """Return a box from corner `low` to `high`, its upright edges cut off by `chamfer`; linear RGB `color` [3].

    >>> len(box((0, 0, 0), (1, 1, 1), np.ones(3)).faces)
    16
    """
    x0, y0, z0 = low
    x1, y1, z1 = high
    c = min(chamfer, 0.49 * (x1 - x0), 0.49 * (y1 - y0))
    outline = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
    if c > 0:
        front, back = [(x0 + c, y0), (x1 - c, y0)], [(x1 - c, y1), (x0 + c, y1)]
        outline = np.array([*front, (x1, y0 + c), (x1, y1 - c), *back, (x0, y1 - c), (x0, y0 + c)])
    rings = np.stack([np.concatenate([outline, np.full((len(outline), 1), z)], 1) for z in (z0, z1)])
    return loft(rings, np.broadcast_to(color, (1, len(outline), 3)), np.stack([color, color]))


def ellipsoid(center: tuple[float, ...], radii: tuple[float, ...], color: np.ndarray, steps: int = 6) -> Mesh:
    """Return an ellipsoid of `steps` bands from pole to pole (up is z); linear RGB `color` [3].

    >>> len(ellipsoid((0, 0, 0), (1, 1, 1), np.ones(3), steps=2).faces)
    24
    """
    angle = np.linspace(0.0, math.pi, steps + 1)
    profile = np.stack([np.sin(angle), -np.cos(angle)], 1)
    around = np.arange(2 * steps) * (math.pi / steps)
    rings = np.stack(
        [
            profile[:, :1] * np.cos(around),
            profile[:, :1] * np.sin(around),
            np.broadcast_to(profile[:, 1:], (steps + 1, 2 * steps)),
        ],
        -1,
    )
    # A ring of no width would have faces without area, and so without a normal.
    rings[[0, -1], :, :2] = 1e-3 * np.stack([np.cos(around), np.sin(around)], -1)
    paint = np.broadcast_to(color, (steps, 2 * steps, 3))
    return loft(rings * np.array(radii) + np.array(center), paint, np.stack([color, color]), crease=80.0)


def turned(profile: np.ndarray, colors: np.ndarray, center: tuple[float, ...], steps: int = 24) -> Mesh:
    """Return a solid of revolution about an axis along y.

    Args:
        profile: [R, 2], radius and position along +y, in the order that runs around the solid.
        colors: [R - 1, 3] or [R - 1, steps, 3], linear RGB of the strips.
        center: [3], the point at which the axis has position 0.
        steps: corners of each ring.

    >>> turned(np.array([(0.5, 0.0), (1.0, 0.1), (0.5, 0.2)]), np.ones((2, 3)), (0, 0, 0), steps=6).closed
    True
    """
    around = -np.arange(steps) * (2 * math.pi / steps)
    radius, along = profile[:, :1], profile[:, 1:]
    rings = np.stack(
        [radius * np.cos(around), np.broadcast_to(along, (len(profile), steps)), radius * np.sin(around)], -1
    ) + np.array(center)
    paint = colors if colors.ndim == 3 else np.repeat(colors[:, None], steps, 1)
    return loft(rings, paint, np.stack([paint[0, 0], paint[-1, 0]]), crease=30.0)


def _closed_mesh(vertices: np.ndarray, faces: np.ndarray, colors: np.ndarray, crease: float) -> Mesh:
    paint = torch.from_numpy(np.ascontiguousarray(colors))  # broadcast colors have strides of 0
    return make_mesh(torch.from_numpy(vertices), torch.from_numpy(faces), paint, closed=True, crease=crease)
