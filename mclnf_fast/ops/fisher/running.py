"""The running diagonal Fisher of a bank, which the scores of many batches are against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def running_mean(state: Tensor, new: Tensor, rate: Tensor) -> Tensor:
    """Return state + rate (new - state), and `new` itself at a rate of 1: tensors [M, ...], rate [M].

    >>> running_mean(torch.tensor([[4.0], [4.0]]), torch.tensor([[8.0], [8.0]]), torch.tensor([0.25, 1.0])).tolist()
    [[5.0], [8.0]]
    """
    # Spelled out: `torch.lerp` contracts multiply and add in some lanes and not in others.
    rate = rate.to(state.dtype).reshape(-1, *([1] * (state.dim() - 1)))
    return torch.where(rate == 1, new, state + rate * (new - state))


def mean_damping(fisher: Sequence[Tensor], relative: float) -> Tensor:
    """Return relative * mean over a module's values of F [M], never 0, of tensors [M, ...].

    >>> mean_damping([torch.tensor([[1.0, 3.0], [0.0, 0.0]])], 0.5)[0].item()
    1.0
    """
    if fisher[0].device.type == "cpu":
        # Running sums: their order is the one that every backend can keep.
        sums = [f.flatten(1).double().cumsum(1)[:, -1] for f in fisher if f[0].numel()] if len(fisher[0]) else []
        total = torch.zeros(len(fisher[0]), dtype=torch.float64)
        for s in sums:
            total = total + s
    else:  # three launches for each tensor
        total = torch.cat([f.flatten(1) for f in fisher], 1).sum(1, dtype=torch.float64)
    size = sum(f.shape[1:].numel() for f in fisher)
    # A module without gradients has F = 0: without the floor its scores could be 0 / 0.
    return (relative * total / size).clamp(min=torch.finfo(fisher[0].dtype).tiny).to(fisher[0].dtype)
