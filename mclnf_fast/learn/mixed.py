"""What training in half types needs beside an optimizer: half copies, float32 masters, and a loss scale per module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor
from mclnf_fast.learn.params import HALVES, Params, check_like

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

    def keep(self, modules: list[int]) -> None:
        """Forget every other module."""
        self.scale, self.good_steps = self.scale[modules], self.good_steps[modules]

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


def half_copies(params: Params, dtype: torch.dtype) -> Params:
    """Return the parameters at which a loss is taken in a half type: copies of all weights but the first layer's, and
    of grids' tables; the first layer's weights and the biases are the parameters themselves.

    Rounded as well, these cost 0.7 dB in bfloat16: the first layer multiplies features that no rounding touches, and a
    bias moves a whole layer.

    params: weights [M, in, out] of every layer, then biases [M, out], then tables, float32 leaves.

    >>> weights, biases = [torch.ones(1, 2, 4), torch.ones(1, 4, 3)], [torch.ones(1, 4), torch.ones(1, 3)]
    >>> [p.dtype for p in half_copies((*weights, *biases), torch.float16)]
    [torch.float32, torch.float16, torch.float32, torch.float32]
    """
    return tuple(p.detach().to(dtype).requires_grad_() if i > 0 and p.dim() == 3 else p for i, p in enumerate(params))


def masters_of(params: Params, masters: Sequence[Tensor] | None) -> Params:
    """Return the values that steps change: float32 tensors beside half parameters, which they set; of other parameters
    these themselves.

    masters: those of half parameters, and the others themselves; None: their values. Raises TypeError, ValueError.

    >>> masters_of((torch.zeros(1, 2, dtype=torch.bfloat16),), None)[0].dtype
    torch.float32
    """
    if not any(p.dtype in HALVES for p in params):
        if masters is not None:
            raise ValueError(f"masters must be None for params of {params[0].dtype}, got tensors")
        return params
    if masters is None:
        return tuple(p.detach().float() if p.dtype in HALVES else p for p in params)
    checked = check_like(masters, params, "masters")
    for i, (m, p) in enumerate(zip(checked, params)):
        check_tensor(f"masters[{i}]", m, dtype=torch.float32, device=p.device)
        if p.dtype == torch.float32 and m is not p:
            raise ValueError(f"masters[{i}] must be params[{i}] itself, which is float32, got another tensor")
    write_copies(params, checked)
    return checked


@torch.no_grad()
def write_copies(params: Params, masters: Params) -> None:
    """Set half parameters to the rounded values of their masters.

    >>> low = (torch.zeros(1, 2, dtype=torch.bfloat16),)
    >>> write_copies(low, (torch.ones(1, 2),))
    >>> low[0].tolist()
    [[1.0, 1.0]]
    """
    for p, m in zip(params, masters):
        if p is not m:
            p.copy_(m)
