"""Answer what depends on the lenses of cameras: which pixels have a ray, what a view spans, where points are seen."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras
from mclnf_fast.render.lenses.inverse import directions_at
from mclnf_fast.render.lenses.lens import Projection, project

BORDER = 16  # places along each side of a picture whose rays stand for all of its border


def check_pinhole(cameras: Cameras, caller: str) -> None:
    """Raise `InputError` if one of the cameras has a lens, in the name of a function that knows pinholes only.

    >>> from mclnf_fast.data import turntable
    >>> check_pinhole(turntable(1, 8), "render_mesh")
    """
    if cameras.lens is not None:
        raise InputError(f"cameras: must be pinholes for {caller}, have lenses that bend rays")


def pixels_with_rays(cameras: Cameras) -> Tensor | None:
    """Return which pixels have a ray, bool [V, H, W]; None if all have one.

    >>> from mclnf_fast.data import turntable
    >>> pixels_with_rays(turntable(1, 8)) is None
    True
    """
    if cameras.lens is None:
        return None
    # The places that a lens shows are star-shaped about the center: a border that has rays encloses no place without
    # one, which spares most views the search through all of their pixels.
    whole = _border(cameras)[1].isfinite().all(2).all(1)
    whole &= (cameras.cx > 0) & (cameras.cx < cameras.width) & (cameras.cy > 0) & (cameras.cy < cameras.height)
    if bool(whole.all()):
        return None
    seen = torch.ones(len(cameras), cameras.height, cameras.width, dtype=torch.bool, device=cameras.c2w.device)
    for view in (~whole).nonzero()[:, 0].tolist():
        seen[view] = cameras.view_rays(view)[1][:, 0].isfinite().reshape(cameras.height, cameras.width)
    return None if bool(seen.all()) else seen


def and_rays(unmasked: Tensor | None, cameras: Cameras) -> Tensor | None:
    """Return the pixels that are neither masked nor without a ray, bool [V, H, W] on the mask's device; None: all.

    >>> from mclnf_fast.data import turntable
    >>> and_rays(None, turntable(1, 8)) is None
    True
    """
    seen = pixels_with_rays(cameras)
    if unmasked is None or seen is None:
        return seen if unmasked is None else unmasked
    return unmasked & seen.to(unmasked.device)


def drawable(cameras: Cameras, view: int, directions: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return directions [H W, 3] of a view with the camera's axis where there is no ray, and which pixels have one.

    Pixels drawn along the axis are no part of the picture: `blanked` takes them out again.

    Returns:
        The directions, and bool [H W]; None: all have one.

    >>> from mclnf_fast.data import turntable
    >>> cameras = turntable(1, 8)
    >>> drawable(cameras, 0, cameras.view_rays(0)[1])[1] is None
    True
    """
    if cameras.lens is None:
        return directions, None
    seen = directions[:, 0].isfinite()
    return torch.where(seen[:, None], directions, -cameras.c2w[view, :, 2]), seen


def blanked(pixels: Tensor, seen: Tensor | None, axis: int) -> Tensor:
    """Return `pixels` with 0 where there is no ray; `seen` as `drawable` returns it, along `axis`.

    >>> blanked(torch.ones(3), torch.tensor([True, False, True]), 0).tolist()
    [1.0, 0.0, 1.0]
    """
    if seen is None:
        return pixels
    seen = seen.to(pixels.device)
    return pixels.masked_fill(~seen.reshape(-1, *[1] * (pixels.dim() - axis - 1)), 0.0)


def border_rays(cameras: Cameras) -> tuple[Tensor, Tensor]:
    """Return origins and unit directions [V, K, 3] of rays around the border of each view.

    Pinholes: the 4 corners, which enclose the view. Others: 64 places, evenly along the sides; NaN if there is no ray.

    >>> from mclnf_fast.data import turntable
    >>> border_rays(turntable(2, 8))[1].shape
    torch.Size([2, 4, 3])
    """
    return cameras.corner_rays() if cameras.lens is None else _border(cameras)


def _border(cameras: Cameras) -> tuple[Tensor, Tensor]:
    steps = torch.arange(BORDER, dtype=torch.float32, device=cameras.c2w.device) / BORDER
    none = torch.zeros_like(steps)
    # Clockwise from the upper left corner, a quarter each.
    x = cameras.width * torch.cat((steps, none + 1, 1 - steps, none))
    y = cameras.height * torch.cat((none, steps, none + 1, 1 - steps))
    ids = torch.arange(len(cameras), device=x.device).repeat_interleave(len(x))
    origins, directions = cameras.rays_at(ids, x.repeat(len(cameras)), y.repeat(len(cameras)))
    return origins.reshape(len(cameras), -1, 3), directions.reshape(len(cameras), -1, 3)


def half_views(cameras: Cameras) -> Tensor:
    """Return the tangent of half the smaller field of view, [V] float32.

    Of a lens it is that of the nearest side's middle, at most 1: an object's box then ends where the camera stands.

    >>> from mclnf_fast.data import turntable
    >>> round(half_views(turntable(1, 8)).item(), 3)
    0.275
    """
    if cameras.lens is None:
        return torch.minimum(0.5 * cameras.width / cameras.fx, 0.5 * cameras.height / cameras.fy)
    width, height = 0.5 * cameras.width / cameras.fx, 0.5 * cameras.height / cameras.fy
    zero = torch.zeros_like(width)
    sides = [
        directions_at(cameras.lens, x, y) for x, y in ((width, zero), (-width, zero), (zero, height), (zero, -height))
    ]
    ahead = torch.stack([side[:, 2] for side in sides]).nan_to_num(nan=0.0)
    return torch.tan(torch.acos(ahead.clamp(0.5**0.5, 1)).amin(0)).to(torch.float32)


def distances_in(cameras: Cameras, view: int, points: Tensor) -> Tensor:
    """Return the distances [K] of those of the points [P, 3] that lie in the picture of a view, whatever hides them.

    >>> from mclnf_fast.data import turntable
    >>> distances_in(turntable(1, 8), 0, torch.tensor([[0.0, 0.0, 0.0], [0.0, 9.0, 0.0]]))
    tensor([4.])
    """
    pose = cameras.c2w[view]
    local = (points - pose[:, 3]) @ pose[:, :3]
    depth = -local[:, 2]
    fx, fy, cx, cy = cameras.fx[view], cameras.fy[view], cameras.cx[view], cameras.cy[view]
    if cameras.lens is None:
        x, y = cx + fx * local[:, 0] / depth, cy - fy * local[:, 1] / depth
        ahead = depth > 0
    else:
        lens = cameras.lens.pick(torch.tensor([view], device=pose.device))
        across, down = project(lens, local * local.new_tensor([1.0, -1.0, -1.0]))
        x, y, ahead = cx + fx * across, cy + fy * down, across.isfinite()
    return local[ahead & (x >= 0) & (x < cameras.width) & (y >= 0) & (y < cameras.height)].norm(dim=1)


def check_depths(cameras: Cameras) -> None:
    """Raise `InputError` for fisheyes, whose rays beyond a right angle have no depth along the axis.

    >>> from mclnf_fast.data import turntable
    >>> check_depths(turntable(1, 8))
    """
    if cameras.lens is not None and bool((cameras.lens.projection == Projection.EQUIDISTANT).any()):
        raise InputError(
            "cameras: must not be fisheyes under the convention learnit, whose distances are depths along the axis: "
            "take the convention blog"
        )
