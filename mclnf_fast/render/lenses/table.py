"""Compute the directions of pixels behind lenses, one by one or once for all pixels of each distinct lens."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.render.lenses.inverse import directions_at
from mclnf_fast.render.lenses.lens import Lens

# Of all distinct lenses together, 100 MB and 10 s of one core: above, a run would draw fewer rays than it keeps, and
# computes them when they are drawn (2 us each).
TABLE_PIXELS = 1 << 23
TABLE_CHUNK = 1 << 14  # pixels whose temporaries fit into a core's cache


def pixel_centers(pixels: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Return the x and y, float32 [R], of the centers of flat pixel indices int64 [R].

    >>> pixel_centers(torch.tensor([0, 9]), width=8)
    (tensor([0.5000, 1.5000]), tensor([0.5000, 1.5000]))
    """
    x = (pixels % width).to(torch.float32) + 0.5
    return x, torch.div(pixels, width, rounding_mode="floor").to(torch.float32) + 0.5


def local_directions(lens: Lens, intrinsics: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return unit directions [R, 3] in the cameras' own axes (OpenGL's), float32; NaN where a lens shows nothing.

    Args:
        lens: of R cameras, or of one.
        intrinsics: fx, fy, cx, cy of R cameras, or of one: float64 [R or 1, 4], since a float32 near 4,000 pixels is a
            multiple of 2.4e-4.
        x, y: [R], pixels from the left and from the top of the image.

    >>> from mclnf_fast.render.lenses.lens import Projection, make_lens
    >>> ones = torch.ones(1)
    >>> local_directions(make_lens(Projection.EQUIDISTANT, {}), torch.ones(1, 4, dtype=torch.float64), ones, ones)
    tensor([[ 0., -0., -1.]])
    """
    fx, fy, cx, cy = intrinsics.unbind(1)
    directions = directions_at(lens, (x - cx) / fx, (y - cy) / fy)
    return (directions * directions.new_tensor([1.0, -1.0, -1.0])).to(torch.float32)


def direction_table(lens: Lens, intrinsics: Tensor, width: int, height: int) -> tuple[Tensor, Tensor] | None:
    """Return the directions of all pixels of C distinct lenses, [C H W, 3], and the one of each view, int64 [V].

    None if they are more than `TABLE_PIXELS`.

    Args:
        lens: of V cameras.
        intrinsics: float64 [V, 4], see `local_directions`.
        width, height: of the pictures.

    >>> from mclnf_fast.render.lenses.lens import Projection, make_lens
    >>> lens = make_lens(Projection.EQUIDISTANT, {}).pick(torch.tensor([0, 0]))
    >>> table, view_lens = direction_table(lens, torch.ones(2, 4, dtype=torch.float64), 3, 2)
    >>> table.shape, view_lens.tolist()
    (torch.Size([6, 3]), [0, 0])
    """
    rows = torch.cat((lens.projection[:, None].to(torch.float64), lens.coefficients, intrinsics), 1)
    distinct, view_lens = torch.unique(rows, dim=0, return_inverse=True)
    if len(distinct) * width * height > TABLE_PIXELS:
        return None
    # The first view of each lens stands for all others.
    order = view_lens.argsort(stable=True)
    first = order[torch.searchsorted(view_lens[order], torch.arange(len(distinct), device=order.device))]
    centers = pixel_centers(torch.arange(width * height, device=order.device), width)
    pieces = list(zip(*(t.split(TABLE_CHUNK) for t in centers)))
    table = [local_directions(lens.pick(k[None]), intrinsics[k[None]], x, y) for k in first for x, y in pieces]
    return torch.cat(table), view_lens
