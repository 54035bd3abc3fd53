"""Shapes of the compiled marching op. It has no derivative: the samples of a ray are a choice among bins."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops._autograd import Joined, join_ops


def _fake(
    origins: Tensor,
    directions: Tensor,
    occupancy: Tensor | None,
    aabb: Tensor,
    near: Tensor | None,
    far: Tensor | None,
    near_value: float,
    far_value: float,
    bins: int,
    step: float,
    stratified: bool,
    seed: int,
    early_stop_eps: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    samples = torch.library.get_ctx().new_dynamic_size()
    ids = origins.new_empty(samples, dtype=torch.int64)
    packed_info = origins.new_empty((origins.shape[0], 2), dtype=torch.int64)
    return origins.new_empty(samples), origins.new_empty(samples), ids, packed_info


def _setup(ctx: object, inputs: tuple[object, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output)  # type: ignore[attr-defined]


def _backward(ctx: object, *cotangents: Tensor | None) -> tuple[None, ...]:
    return (None,) * 13


def join() -> None:
    """Give the compiled op its shapes."""
    join_ops("mclnf_fast", Joined("march_rays_fwd", _fake, _backward, _setup))
