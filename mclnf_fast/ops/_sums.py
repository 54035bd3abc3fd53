"""Sums over rows that belong together, added in one order on every device."""

from __future__ import annotations

from torch import Tensor


def added(values: Tensor, owner: Tensor, size: int) -> Tensor:
    """values [K, ...] added up by their owners int64 [K], of 0 ... size - 1, in their order: [size, ...]."""
    total = values.new_zeros(size, *values.shape[1:])
    if values.device.type == "cuda":
        # index_add adds in any order there; this sorts first. On the CPU it is the other way round.
        return total.index_put((owner,), values, accumulate=True)
    return total.index_add(0, owner, values)
