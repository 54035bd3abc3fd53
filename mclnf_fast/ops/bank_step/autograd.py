"""The shape function of the compiled optimizer step, which works in place and returns nothing.

It has no derivative; an optimizer step that is differentiated through is `mclnf_fast.learn.meta.adapt`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mclnf_fast.ops._autograd import Joined, join_ops


def _fake(*arguments: Any) -> None:
    tensors = [t for a in arguments for t in (a if isinstance(a, (list, tuple)) else [a]) if isinstance(t, Tensor)]
    # One tensor on `meta` among others brings the call here, and the step would silently not happen.
    if len({t.device for t in tensors}) > 1:
        raise RuntimeError(f"bank_step: all tensors must be on {tensors[0].device} like params[0]")


def join() -> None:
    """Give the compiled op its shapes."""
    join_ops("mclnf_fast", Joined("bank_step", _fake))
