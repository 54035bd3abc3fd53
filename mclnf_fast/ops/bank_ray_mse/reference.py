"""The squared error of composited rays in plain steps, on top of any backend's bank: the definition."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mclnf_fast.ops._segment_sum import segment_sum
from mclnf_fast.ops.composite import composite

Density = Literal["relu", "exp"]


@dataclass(frozen=True)
class Shading:
    """What the 4 outputs of a field of rays mean: three raw colours, which are sigmoids of it, and a raw density.

    density: `relu`, max(raw, 0); or `exp`, exp(min(raw, most_raw)). density_first: it is the first output, otherwise
    the last. last_behind: the colour of a ray's last point stands behind everything, in place of a background (black
    where a ray has no point). hold_last: the density of a ray's last point gets no gradient. Raises ValueError where
    `density` is none of these, or `most_raw` no number.
    """

    density: Density = "relu"
    density_first: bool = False
    most_raw: float = math.inf
    last_behind: bool = False
    hold_last: bool = False

    def __post_init__(self) -> None:
        if self.density not in get_args(Density):
            raise ValueError(f"density must be one of {', '.join(get_args(Density))}, got {self.density!r}")
        if math.isnan(self.most_raw):
            raise ValueError("most_raw must be a number, got nan")


def pixels(
    raw: Tensor, rays: Tensor, widths: Tensor, background: Tensor | None, shading: Shading, backend: str
) -> Tensor:
    """raw [N, 4] -> pixels [R, 3]."""
    # Of all four, since a sigmoid of the strided three takes seven times as long.
    color = raw.sigmoid()[:, 1:] if shading.density_first else raw.sigmoid()[:, :3]
    density = raw[:, 0] if shading.density_first else raw[:, 3]
    density = density.relu() if shading.density == "relu" else density.clamp(max=shading.most_raw).exp()
    counts = rays.diff()
    full = (counts > 0)[:, None]
    last = (rays[1:] - 1).clamp(min=0)
    if shading.hold_last and raw.shape[0]:
        held = torch.zeros(raw.shape[0], dtype=torch.bool, device=raw.device)
        held[last[full[:, 0]]] = True
        density = torch.where(held, density.detach(), density)
    if shading.last_behind:
        none = color.new_zeros(len(counts), 3)
        background = torch.where(full, color.index_select(0, last), none) if raw.shape[0] else none
    packed = torch.stack((rays[:-1], counts), 1)
    return composite(density, color, torch.zeros_like(widths), widths, packed, background, backend=backend).color


def ray_errors(
    raw: Tensor,
    rays: Tensor,
    ray_offsets: Tensor,
    widths: Tensor,
    target: Tensor,
    ray_weight: Tensor | None,
    background: Tensor | None,
    shading: Shading,
    mean: bool,
    backend: str,
) -> Tensor:
    """raw [N, 4] -> the modules' errors [M]; differentiable in all that is real, as often as compositing is."""
    error = (pixels(raw, rays, widths, background, shading, backend) - target).square().sum(-1)
    if ray_weight is not None:
        error = error * ray_weight
    counts = ray_offsets.diff()
    modules = counts.shape[0]
    owner = torch.repeat_interleave(torch.arange(modules, device=raw.device), counts, output_size=error.shape[0])
    total = segment_sum(error, owner, modules)
    return total / (3 * counts).clamp(min=1) if mean else total
