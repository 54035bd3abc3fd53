"""A loss scale per module: gradients of float16 that would underflow, and those that overflow."""

from __future__ import annotations

import torch
from torch import Tensor

FIRST = 2.0**16
MOST = 2.0**24
GOOD_STEPS = 2000  # after which a scale doubles


class LossScale:
    """A power of two per module that its loss is multiplied by: halved if a gradient is not finite, and the step left
    out; doubled after 2000 good steps (Micikevicius et al., arXiv 1710.03740). Modules share no parameter, so that one
    whose gradients overflow holds no other up. Nothing waits for the device.

    Attributes:
        scale: float64 [M]. good_steps: int64 [M], since the scale last changed.

    >>> scale = LossScale(2, torch.device("cpu"))
    >>> scale.update(torch.tensor([True, False]), None)
    >>> scale.scale.tolist()
    [65536.0, 32768.0]
    """

    def __init__(self, modules: int, device: torch.device) -> None:
        self.scale = torch.full((modules,), FIRST, dtype=torch.float64, device=device)
        self.good_steps = torch.zeros(modules, dtype=torch.int64, device=device)

    def update(self, finite: Tensor, active: Tensor | None) -> None:
        """Take in which modules' gradients were finite, bool [M], of those that are active (None: all)."""
        good = torch.where(finite, self.good_steps + 1, 0)
        grown = good >= GOOD_STEPS
        factor = torch.where(finite, torch.where(grown, 2.0, 1.0), 0.5)
        scale = (self.scale * factor).clamp(1.0, MOST)
        good = torch.where(grown, 0, good)
        if active is not None:
            scale, good = torch.where(active, scale, self.scale), torch.where(active, good, self.good_steps)
        self.scale, self.good_steps = scale, good

    def extend(self, modules: int) -> None:
        """Add modules with the first scale."""
        self.scale = torch.cat([self.scale, self.scale.new_full((modules,), FIRST)])
        self.good_steps = torch.cat([self.good_steps, self.good_steps.new_zeros(modules)])

    def reset(self, modules: list[int]) -> None:
        """Give modules the first scale again."""
        self.scale[modules] = FIRST
        self.good_steps[modules] = 0


def all_finite(gradients: list[Tensor]) -> Tensor:
    """Return which modules' gradients [M, ...] are finite in all tensors, bool [M].

    >>> all_finite([torch.tensor([[1.0, 2.0], [3.0, float("inf")]])]).tolist()
    [True, False]
    """
    return torch.stack([g.isfinite().flatten(1).all(1) for g in gradients]).all(0)
