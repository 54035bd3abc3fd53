"""Finds the box of a scene: from sparse points, the ground that its cameras see, or the point that they look at."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.data.readers.files import read_matrix, read_number
from mclnf_fast.data.scene import ImageSet
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.lenses.views import border_rays, half_views

PERCENTILES = (0.02, 0.98)  # sparse points have outliers far away, and a box about all of them is mostly empty
MARGIN = 0.05  # of a footprint's side, on each side
FAR = 8.0  # a ray counts as far as this many camera heights; shallower ones would reach for the horizon


def meeting_point(cameras: Cameras) -> Tensor:
    """Return the point [3] nearest to all optical axes (least squares), scene units.

    >>> from mclnf_fast.data import turntable
    >>> bool(meeting_point(turntable(8, 16)).norm() < 1e-3)
    True
    """
    # In double precision: nearly parallel axes make the system close to singular.
    axis = -cameras.c2w[:, :, 2].to(torch.float64)
    across = torch.eye(3, dtype=torch.float64) - axis[:, :, None] * axis[:, None, :]
    # The small pull to the cameras' mean keeps parallel axes from having no answer.
    pull = 1e-4 * len(cameras)
    centers = cameras.centers.to(torch.float64)
    right = (across @ centers[:, :, None]).sum(0)[:, 0] + pull * centers.mean(0)
    return torch.linalg.solve(across.sum(0) + pull * torch.eye(3, dtype=torch.float64), right).to(torch.float32)


def object_box(cameras: Cameras) -> Tensor:
    """Return the cube [2, 3] about the point that all cameras look at, as large as the pictures' field of view there.

    >>> from mclnf_fast.data import turntable
    >>> object_box(turntable(8, 16)).shape
    torch.Size([2, 3])
    """
    center = meeting_point(cameras)
    distance = (cameras.centers - center).norm(dim=1)
    # The median, so that one camera far away does not blow up the cube.
    half = float((distance * half_views(cameras)).median().clamp_min(1e-6))
    return torch.stack([center - half, center + half])


def ground_height(cameras: Cameras) -> float:
    """Return the ground's height when no points show it: 0 if all cameras are above that, else the meeting point's.

    >>> from mclnf_fast.data import turntable
    >>> ground_height(turntable(8, 16))
    0.0
    """
    return 0.0 if float(cameras.centers[:, 2].min()) > 0 else float(meeting_point(cameras)[2])


def footprint(cameras: Cameras, ground: float) -> Tensor | None:
    """Return the box in x and y [2, 2] of the part of the plane z = `ground` that cameras see; None if they hardly do.

    It reaches from the 2nd to the 98th percentile of the corner rays' hits, with a margin of 5 % on each side.

    >>> from mclnf_fast.data import turntable
    >>> footprint(turntable(8, 16), ground=0.0).shape
    torch.Size([2, 2])
    """
    origins, directions = border_rays(cameras)
    height = origins[..., 2] - ground
    down = (directions[..., 2] < -1e-3) & (height > 0)
    length = torch.minimum(height / (-directions[..., 2]).clamp_min(1e-3), FAR * height)
    hits = (origins + length[..., None] * directions)[..., :2][down]
    # With fewer rays on the ground the cameras stand around something, and its box has to come from their axes.
    seen = directions[..., 2].isfinite()
    if float(down.to(torch.float32).sum()) < 0.75 * float(seen.sum()) or not bool(seen.any()):
        return None
    low, high = (torch.quantile(hits, q, dim=0) for q in PERCENTILES)
    margin = MARGIN * (high - low)
    box = torch.stack([low - margin, high + margin])
    # All hits on one line have no extent: that is no ground to be learned.
    return box if bool((box[1] > box[0]).all()) else None


def ground_box(cameras: Cameras) -> Tensor | None:
    """Return the box [2, 3] of the ground that cameras see, from just below it to the lowest camera; None if they
    hardly see it.

    >>> from mclnf_fast.data import turntable
    >>> ground_box(turntable(8, 16)).shape
    torch.Size([2, 3])
    """
    ground = ground_height(cameras)
    area = footprint(cameras, ground)
    if area is None:
        return None
    height = float(cameras.centers[:, 2].min()) - ground
    return torch.cat([area, torch.tensor([[ground - 0.05 * height], [ground + height]], dtype=torch.float32)], 1)


def around_box(cameras: Cameras) -> Tensor:
    """Return the cube [2, 3] about the point that all cameras look at, with all of them inside.

    No ray misses it, so that what stands behind the middle of the pictures has a place as well.

    >>> from mclnf_fast.data import turntable
    >>> cameras = turntable(8, 16)
    >>> bool((around_box(cameras)[1] > cameras.centers.amax(0)).all())
    True
    """
    center = meeting_point(cameras)
    # The floor keeps a box about cameras that stand in one place.
    half = float((cameras.centers - center).norm(dim=1).max().clamp_min(1e-6)) * (1 + MARGIN)
    return torch.stack([center - half, center + half])


def clipped(box: Tensor, limits: Tensor) -> Tensor:
    """Return the part of a box [2, 3] inside `limits` [2, 3]; the limits if there is none.

    >>> clipped(torch.tensor([[0.0, 0.0, 0.0], [4.0, 4.0, 4.0]]), torch.tensor([[-1.0] * 3, [1.0] * 3])).tolist()
    [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]
    """
    inside = torch.stack([torch.maximum(box[0], limits[0]), torch.minimum(box[1], limits[1])])
    return inside if bool((inside[1] > inside[0]).all()) else limits.clone()


def points_box(points: Tensor | None, known: Tensor | None) -> Tensor:
    """Return the box [2, 3] of sparse points [P, 3], scene units: their 2-98 % box, or `known` [2, 3] in its place.

    If there are points, heights follow their 0.5-99.5 % range; a tenth is added above and below.

    >>> points_box(None, torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]))[:, 0].tolist()
    [0.0, 1.0]
    """
    if known is not None:
        box = known.clone()
    else:
        assert points is not None
        box = torch.stack([torch.quantile(points, q, dim=0) for q in PERCENTILES])
    if points is not None:
        # Roofs and trees are few points: the wider range keeps them, which in x and y would keep outliers.
        low, high = torch.quantile(points[:, 2], torch.tensor([0.005, 0.995], dtype=torch.float32))
        box[0, 2], box[1, 2] = torch.minimum(low, box[0, 2]), torch.maximum(high, box[1, 2])
    # A flat scene must keep a thickness that a sampler can march through.
    rise = torch.maximum(0.1 * (box[1, 2] - box[0, 2]), 0.002 * (box[1] - box[0])[:2].max())
    box[0, 2] -= rise
    box[1, 2] += rise
    return box


def read_scale_box(content: dict[str, Any], path: Path) -> Tensor | None:
    """Return the cube [2, 3] that `aabb_scale` (instant-ngp) names in a transforms file, None if it has none.

    In instant-ngp a scene is scaled by `scale` (0.33), moved by `offset` (0.5 on each axis), and lives in the cube of
    side `aabb_scale` about (0.5, 0.5, 0.5).

    Raises:
        InputError: one of the three is not as it must be.

    >>> read_scale_box({"aabb_scale": 2, "scale": 0.5}, Path("transforms.json")).tolist()
    [[-2.0, -2.0, -2.0], [2.0, 2.0, 2.0]]
    """
    side, scale = read_number(content, "aabb_scale", path), read_number(content, "scale", path)
    if side is None:
        return None
    scale = 0.33 if scale is None else scale
    for key, value in (("aabb_scale", side), ("scale", scale)):
        if not value > 0:
            raise InputError(f"{path}: key {key!r} must be above 0, was {value:g}")
    offset = read_matrix([content.get("offset", [0.5] * 3)], f"{path}: key 'offset'", ((1, 3),))[0]
    center = torch.from_numpy((0.5 - offset) / scale).to(torch.float32)
    return torch.stack([center - 0.5 * side / scale, center + 0.5 * side / scale])


def cell_box(views: ImageSet, scene: Tensor, ground: float) -> Tensor:
    """Return the box [2, 3] of one cell of a cut scene: its own cameras' footprint, with the heights of `scene`.

    >>> from mclnf_fast.data import turntable
    >>> views = ImageSet(torch.zeros(8, 16, 16, 3, dtype=torch.uint8), turntable(8, 16), tuple("abcdefgh"))
    >>> cell_box(views, torch.tensor([[0.0, 0.0, -1.0], [1.0, 1.0, 2.0]]), ground=0.0)[:, 2].tolist()
    [-1.0, 2.0]
    """
    area = footprint(views.cameras, ground)
    if area is None:
        return scene.clone()
    return torch.cat([area, scene[:, 2:]], 1)
