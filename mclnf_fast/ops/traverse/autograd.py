"""Shapes of the compiled traversal. It has no derivative: the samples of a ray are a choice among steps."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops._autograd import Joined, join_ops


def _fake(origins: Tensor, *others: object) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    samples = torch.library.get_ctx().new_dynamic_size()
    rays = origins.shape[0]
    ids = origins.new_empty(samples, dtype=torch.int64)
    packed_info = origins.new_empty((rays, 2), dtype=torch.int64)
    return origins.new_empty(samples), origins.new_empty(samples), ids, packed_info, origins.new_empty(rays)


def _setup(ctx: object, inputs: tuple[object, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output)  # type: ignore[attr-defined]


def _backward(ctx: object, *cotangents: Tensor | None) -> tuple[None, ...]:
    return (None,) * 13


def join() -> None:
    """Give the compiled op its shapes."""
    join_ops("mclnf_fast", Joined("traverse_grids_fwd", _fake, _backward, _setup))
