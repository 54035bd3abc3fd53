"""Sums in memory: added to, and added up chunk by chunk in a fixed order."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def add_to(address, value, mask, more):
    """Add to sums in memory, or begin them where `more` is false."""
    before = tl.load(address, mask=mask & more, other=0.0)
    tl.store(address, before + value, mask=mask)


@triton.jit(do_not_specialize=["first", "modules"])
def reduce_chunks(
    sums,
    chunks,
    grad,
    first,
    modules,
    PARAMETERS: tl.constexpr,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    factors=None,
    SCALED: tl.constexpr = False,
    MORE: tl.constexpr = False,
):
    """Store grad [modules, SIZE]: the sums [chunks, PARAMETERS] from `first` on, a module's chunks in their order;
    zeros for a module without any. SCALED: times the module's factor [modules]; MORE: added to what is there."""
    blocks: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    wide = tl.zeros((), tl.int64)
    for place in range(tl.program_id(0), modules * blocks, tl.num_programs(0)):
        module = place // blocks
        i = (place % blocks) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        begin = tl.load(chunks + module)
        end = tl.load(chunks + module + 1)
        for chunk in range(begin, end):
            total += tl.load(sums + (wide + chunk) * PARAMETERS + first + i, mask=i < SIZE, other=0.0)
        to = grad + (wide + module) * SIZE + i
        mask = i < SIZE
        if SCALED:
            total *= tl.load(factors + module)
        if MORE:  # a module that has nothing to add is passed over
            mask = mask & (end > begin)
            total += tl.load(to, mask=mask, other=0.0).to(tl.float32)
        tl.store(to, total.to(grad.dtype.element_ty), mask=mask)
