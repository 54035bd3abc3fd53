"""Grid encodings in plain PyTorch: the definition that every other backend must agree with.

Any dtype, any order of derivative.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.grids import PRIMES, Grid, GridLevel, HashGrid


def _corners(level: GridLevel, grid: Grid, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the entries [N, C] of the level around the points x [N, axes], and their weights [N, C]."""
    kind = grid.interpolation if isinstance(grid, HashGrid) else "linear"
    axes = x.shape[1]
    p = (x.clamp(grid.low, grid.high) - grid.low) * (level.cells / (grid.high - grid.low))
    nearest = kind == "nearest"
    # The last cell ends with the last node; the nearest node may be that one itself.
    place, last = ((p + 0.5).floor(), level.cells) if nearest else (p.floor(), level.cells - 1)
    node = place.detach().nan_to_num(0.0).clamp(0, last).to(torch.int64)
    if nearest:
        corners, factors = 1, (0 * p + 1)[:, None]  # 1, and NaN where x is NaN
    else:
        t = p - node
        share = t * t * (3 - 2 * t) if kind == "smoothstep" else t
        corners, factors = 2**axes, torch.stack((1 - share, share), 1)
    bits = torch.arange(corners, device=x.device)[:, None] >> torch.arange(axes, device=x.device) & 1  # [C, axes]
    weight = factors[:, bits[:, 0], 0]
    for a in range(1, axes):
        weight = weight * factors[:, bits[:, a], a]
    nodes = node[:, None] + bits  # [N, C, axes]
    entry = torch.zeros_like(nodes[..., 0])
    for a in range(axes):
        if level.hashed:
            entry = entry ^ (nodes[..., a] * PRIMES[a])
        else:
            entry = entry + nodes[..., a] * (level.cells + 1) ** a
    # Of a hash the low bits, which are those of the arithmetic modulo 2^32.
    return entry & level.entries - 1 if level.hashed else entry, weight


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
        entry, weight = _corners(level, grid, torch.stack([x[:, a] for a in level.axes], 1))
        rows = (owner * layout.entries + level.first)[:, None] + entry
        values = flat.index_select(0, rows.flatten()).unflatten(0, rows.shape)
        features.append((weight[..., None] * values).sum(1))
    return torch.stack(features).sum(0) if layout.together else torch.cat(features, 1)
