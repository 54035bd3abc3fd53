"""Shape and derivative of the compiled scan: again a scan, so that every order of derivative is compiled."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._autograd import COMPILED, Joined, join_ops


def _fake(
    factor: Tensor | None, term: Tensor | None, packed_info: Tensor, initial: float, exclusive: bool, reverse: bool
) -> Tensor:
    values = factor if factor is not None else term
    assert values is not None
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    factor, term, packed_info, ctx.initial, ctx.exclusive, ctx.reverse = inputs
    # The term is a constant in its own derivative: only that of a factor looks at the states.
    ctx.save_for_backward(factor, term if factor is not None else None, packed_info)


def _backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
    """Return the gradients by the adjoint recurrence, which runs the other way.

    With h_k = a_k h_(k-1) + b_k the adjoint of h_k is l_k = g_k + a_(k+1) l_(k+1) if the results are the states behind
    the samples, and l_k = g_(k+1) + a_(k+1) l_(k+1) if they are those before: both are exclusive scans from the end.
    """
    factor, term, packed_info = ctx.saved_tensors

    def scan(a: Tensor | None, b: Tensor | None, initial: float, exclusive: bool, reverse: bool) -> Tensor:
        result: Tensor = COMPILED.segment_scan_fwd(a, b, packed_info, initial, exclusive, reverse)
        return result

    if ctx.exclusive:
        adjoint = scan(factor, cotangent, 0.0, True, not ctx.reverse)
    elif factor is None:
        adjoint = scan(None, cotangent, 0.0, False, not ctx.reverse)
    else:
        adjoint = cotangent + scan(factor, factor * cotangent, 0.0, True, not ctx.reverse)
    of_factor = of_term = None
    if ctx.needs_input_grad[0]:
        of_factor = adjoint * scan(factor, term, ctx.initial, True, ctx.reverse)
    if ctx.needs_input_grad[1]:
        of_term = adjoint
        if factor is not None and not ctx.exclusive:  # 0 for the samples of no segment, which no result depends on
            of_term = adjoint * scan(None, torch.zeros_like(adjoint), 1.0, True, False)
    return of_factor, of_term, None, None, None, None


def join() -> None:
    """Give the compiled op its shape and derivative."""
    join_ops("mclnf_fast", Joined("segment_scan_fwd", _fake, _backward, _setup))
