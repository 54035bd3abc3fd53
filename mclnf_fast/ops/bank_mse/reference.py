"""The weighted squared error in plain PyTorch, on top of any backend's bank: the definition."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops._segment_sum import segment_sum


def squared_error(y: Tensor, offsets: Tensor, target: Tensor, weight: Tensor | None, mean: bool) -> Tensor:
    """Return the errors [M] of y against target [N, out_dim], weighted by weight [N] or None; differentiable in all
    three, to any order."""
    errors = (y - target).square().sum(-1)
    if weight is not None:
        errors = errors * weight
    counts = offsets.diff()
    modules = counts.shape[0]
    owner = torch.repeat_interleave(torch.arange(modules, device=y.device), counts, output_size=y.shape[0])
    total = segment_sum(errors, owner, modules)
    return total / (counts * y.shape[1]).clamp(min=1) if mean else total
