"""Shapes of the compiled Fisher ops, and the derivative that they do not have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops import _library

_Out = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


def _out(scores: Tensor, weights: list[Tensor], biases: list[Tensor], sums: bool) -> _Out:
    def like(tensors: list[Tensor]) -> list[Tensor]:
        return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors] if sums else []

    return scores, like(weights), like(biases), like(weights), like(biases)


def _points_fake(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    fisher_weights: list[Tensor],
    fisher_biases: list[Tensor],
    damping: float,
    ints: Any,
    floats: Any,
    sums: bool,
) -> _Out:
    return _out(x.new_empty(x.shape[0] if fisher_weights else 0), weights, biases, sums)


def _segments_fake(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    segments: Tensor,
    segment_offsets: Tensor,
    fisher_weights: list[Tensor],
    fisher_biases: list[Tensor],
    damping: float,
    ints: Any,
    floats: Any,
    sums: bool,
) -> _Out:
    return _out(x.new_empty(segments.shape[0] - 1 if fisher_weights else 0), weights, biases, sums)


def _refuse(ctx: Any, *grads: Any) -> Any:
    raise RuntimeError(
        "mclnf_fast.fisher_scores is not differentiable: weights made from scores are constants (stop-gradient)"
    )


def _no_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Save nothing: there is no derivative."""


def join() -> None:
    """Give the compiled ops their shapes; when the op is imported, so that a trace meets finished ops."""
    if not _library.available("cpu"):
        return
    for name, fake in (("fisher_points", _points_fake), ("fisher_segments", _segments_fake)):
        torch.library.register_fake(f"mclnf_fast::{name}", fake)
        torch.library.register_autograd(f"mclnf_fast::{name}", _refuse, setup_context=_no_setup)
