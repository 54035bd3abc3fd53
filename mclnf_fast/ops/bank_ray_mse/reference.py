"""The squared error of composited rays in plain steps, on top of any backend's bank: the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops._segment_sum import segment_sum
from mclnf_fast.ops.composite import composite
from mclnf_fast.shading import Shading


def pixels(
    raw: Tensor, rays: Tensor, deltas: Tensor, background: Tensor | None, shading: Shading, backend: str
) -> Tensor:
    """Return the pixels [R, 3] of raw outputs [N, 4]; a background [3] is ignored if the last sample stands behind."""
    density, color = shading.density_and_color(raw)
    counts = rays.diff()
    full = (counts > 0)[:, None]
    last = (rays[1:] - 1).clamp(min=0)
    if shading.detach_last_density and raw.shape[0]:
        is_last = torch.zeros(raw.shape[0], dtype=torch.bool, device=raw.device)
        is_last[last[full[:, 0]]] = True
        density = torch.where(is_last, density.detach(), density)
    if shading.background == "last_sample":
        none = color.new_zeros(len(counts), 3)
        background = torch.where(full, color.index_select(0, last), none) if raw.shape[0] else none
    packed = torch.stack((rays[:-1], counts), 1)
    return composite(density, color, torch.zeros_like(deltas), deltas, packed, background, backend=backend).color


def ray_errors(
    raw: Tensor,
    rays: Tensor,
    ray_offsets: Tensor,
    deltas: Tensor,
    target: Tensor,
    ray_weight: Tensor | None,
    background: Tensor | None,
    shading: Shading,
    mean: bool,
    backend: str,
) -> Tensor:
    """Return the modules' errors [M] of raw outputs [N, 4]; differentiable in all real tensors as often as
    compositing."""
    error = (pixels(raw, rays, deltas, background, shading, backend) - target).square().sum(-1)
    if ray_weight is not None:
        error = error * ray_weight
    counts = ray_offsets.diff()
    modules = counts.shape[0]
    owner = torch.repeat_interleave(torch.arange(modules, device=raw.device), counts, output_size=error.shape[0])
    total = segment_sum(error, owner, modules)
    return total / (3 * counts).clamp(min=1) if mean else total
