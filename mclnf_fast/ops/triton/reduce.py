"""Sums in memory: added to, and added up chunk by chunk in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_to(address, value, mask, more):
    """Add to sums in memory, or begin them where `more` is false."""
    before = tl.load(address, mask=mask & more, other=0.0)
    tl.store(address, before + value, mask=mask)


@triton.jit(do_not_specialize=["first", "parameters", "size", "modules", "scaled", "more"])
def reduce_chunks(
    sums,
    chunks,
    grad,
    factors,
    first,
    parameters,
    size,
    modules,
    scaled,
    more,
    BLOCK: tl.constexpr,
):
    """Store grad [modules, size]: the sums [chunks, parameters] from `first` on, a module's chunks in their order;
    zeros for a module without any. scaled: times the module's factor [modules]; more: added to what is there.

    Memory-bound: only the block is a constant, so that no size and no option is compiled anew.
    """
    blocks = (size + BLOCK - 1) // BLOCK
    wide = tl.zeros((), tl.int64)
    for place in range(tl.program_id(0), modules * blocks, tl.num_programs(0)):
        module = place // blocks
        i = (place % blocks) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        begin = tl.load(chunks + module)
        end = tl.load(chunks + module + 1)
        for chunk in range(begin, end):
            total += tl.load(sums + (wide + chunk) * parameters + first + i, mask=i < size, other=0.0)
        to = grad + (wide + module) * size + i
        total *= tl.load(factors + module, mask=scaled > 0, other=1.0)
        mask = (i < size) & ((end > begin) | (more == 0))  # a module that has nothing to add is passed over
        total += tl.load(to, mask=mask & (more > 0), other=0.0).to(tl.float32)
        tl.store(to, total.to(grad.dtype.element_ty), mask=mask)
