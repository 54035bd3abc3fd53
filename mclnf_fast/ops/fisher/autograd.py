"""Shapes of the compiled Fisher ops, and the derivative that they do not have."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mclnf_fast.ops._autograd import Joined, join_ops, no_setup, shapes_like

_Out = tuple[Tensor, list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


def _out(scores: Tensor, weights: list[Tensor], biases: list[Tensor], sums: bool) -> _Out:
    grad_w, grad_b = shapes_like(weights, sums), shapes_like(biases, sums)
    return scores, grad_w, grad_b, shapes_like(weights, sums), shapes_like(biases, sums)


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


def join() -> None:
    """Give the compiled ops their shapes."""
    join_ops(
        "mclnf_fast",
        Joined("fisher_points", _points_fake, _refuse, no_setup),
        Joined("fisher_segments", _segments_fake, _refuse, no_setup),
    )
