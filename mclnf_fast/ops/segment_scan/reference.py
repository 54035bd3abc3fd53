"""The definition of the scan in plain PyTorch: any order of derivative, any device."""

from __future__ import annotations

import torch
from torch import Tensor


def segment_scan(
    factor: Tensor | None, term: Tensor | None, packed_info: Tensor, initial: float, exclusive: bool, reverse: bool
) -> Tensor:
    """Return the scan of `mclnf_fast.ops.segment_scan`: the maps h -> factor h + term, composed over distances 1, 2, 4.

    The segments are padded to the longest with maps that change nothing.
    """
    values = factor if factor is not None else term
    assert values is not None
    n, (first, count) = values.shape[0], packed_info.unbind(1)
    longest = int(count.max()) if count.numel() else 0
    step = torch.arange(longest, device=values.device)
    real = step < count[:, None]  # [R, longest]
    offset = count[:, None] - 1 - step if reverse else step
    index = torch.where(real, first[:, None] + offset, n)

    def padded(t: Tensor, neutral: float) -> Tensor:
        return torch.cat([t, t.new_full((1,), neutral)])[index]

    a = padded(factor, 1.0) if factor is not None else None
    b = padded(term, 0.0) if term is not None else None
    by = 1
    while by < longest:
        # A product of values alone must not meet a sum of zeros: infinity times 0 is no number.
        if b is not None:
            before = b[:, :-by] if a is None else a[:, by:] * b[:, :-by]
            b = torch.cat([b[:, :by], before + b[:, by:]], 1)
        if a is not None:
            a = torch.cat([a[:, :by], a[:, by:] * a[:, :-by]], 1)
        by *= 2
    h = initial if a is None else a * initial
    h = h if b is None else h + b
    assert isinstance(h, Tensor)
    if exclusive:
        h = torch.cat([h.new_full((h.shape[0], 1), initial), h], 1)[:, :longest]
    return values.new_zeros(n).index_put((index[real],), h[real])
