"""Grid encodings in plain PyTorch: the definition that every other backend must agree with.

Any dtype, any order of derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.grids import Grid, GridLayout, GridLevel
from mclnf_fast.packing import Interpolation

_LARGEST_NODE = 1 << 30  # of half cells: float32 has no fractions there


def _corners(level: GridLevel, layout: GridLayout, grid: Grid, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entries [N, C] of the level around the points x [N, axes], and their weights [N, C]."""
    axes = x.shape[1]
    nearest = layout.interpolation == Interpolation.NEAREST
    if layout.half_cell:
        p = (x - grid.low) * level.scale + 0.5
        place, first, last = p.floor(), -_LARGEST_NODE, _LARGEST_NODE
    else:
        p = (x.clamp(grid.low, grid.high) - grid.low) * (level.cells / (grid.high - grid.low))
        # The last cell ends with the last node; the nearest node may be that one itself.
        place, last = ((p + 0.5).floor(), level.cells) if nearest else (p.floor(), level.cells - 1)
        first = 0
    node = place.detach().nan_to_num(first).clamp(first, last).to(torch.int64)
    if nearest:
        corners, factors = 1, (0 * p + 1)[:, None]  # 1, and NaN where x is NaN
    else:
        t = p - node
        share = t * t * (3 - 2 * t) if layout.interpolation == Interpolation.SMOOTHSTEP else t
        corners, factors = 2**axes, torch.stack((1 - share, share), 1)
    bits = torch.arange(corners, device=x.device)[:, None] >> torch.arange(axes, device=x.device) & 1  # [C, axes]
    weight = factors[:, bits[:, 0], 0]
    for a in range(1, axes):
        weight = weight * factors[:, bits[:, a], a]
    nodes = node[:, None] + bits  # [N, C, axes]
    entry = torch.zeros_like(nodes[..., 0])
    for a, stride in enumerate(level.strides):
        place = nodes[..., a] * stride
        entry = entry ^ place if level.hashed else entry + place
    # The low bits are those of the arithmetic modulo 2^32, of a border's dense places all.
    return (entry & 0xFFFFFFFF) % level.entries, weight


def grid_encode(x: Tensor, offsets: Tensor, tables: Tensor, grid: Grid) -> Tensor:
    """Return the levels' features of x [N, dims], grouped by module, side by side or their sum; tables [M, entries,
    features].

    The product of a tri-plane's maps is taken of this result (see `api`).
    """
    layout = grid.layout(x.shape[1])
    modules = torch.arange(tables.shape[0], device=x.device)
    owner = torch.repeat_interleave(modules, offsets.diff(), output_size=x.shape[0])
    flat = tables.flatten(0, 1)
    features = []
    for level in layout.levels:
        entry, weight = _corners(level, layout, grid, torch.stack([x[:, a] for a in level.axes], 1))
        rows = (owner * layout.entries + level.first)[:, None] + entry
        values = flat.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        features.append((weight[..., None] * values).sum(1))
    return torch.stack(features).sum(0) if layout.together else torch.cat(features, 1)
