"""Sums over rows that belong together, added in one order on every device."""

from __future__ import annotations

from torch import Tensor


def segment_sum(values: Tensor, segment_ids: Tensor, num_segments: int) -> Tensor:
    """Return the sums [num_segments, ...] of the values [K, ...] with the same id, added in the order of the values.

    segment_ids: int64 [K] of 0 ... num_segments - 1, in any order. Differentiable in values.

    >>> import torch
    >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1, 0, 1]), 3)
    tensor([2., 5., 0.])
    """
    total = values.new_zeros(num_segments, *values.shape[1:])
    if values.device.type == "cuda":
        # index_add adds in any order there; this sorts first, which costs little beside a result that differs from run
        # to run. On the CPU it is the other way round.
        return total.index_put((segment_ids,), values, accumulate=True)
    return total.index_add(0, segment_ids, values)
