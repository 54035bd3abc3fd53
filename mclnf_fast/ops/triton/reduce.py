"""Sums in memory: added to, and added up chunk by chunk in a fixed order."""

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl


@triton.jit
def add_to(address, value, mask, more):
    """Add to sums in memory, or begin them where `more` is false."""
    before = tl.load(address, mask=mask & more, other=0.0)
    tl.store(address, before + value, mask=mask)


class ColumnRange(NamedTuple):
    """A tensor's columns in the chunks' sums: first ... first + size - 1 of `total`."""

    first: int
    size: int
    total: int


@triton.jit(do_not_specialize=["modules"])
def reduce_chunks(
    sums,
    chunks,
    grads,
    modules,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    factors=None,
    SCALED: tl.constexpr = False,
    MORE: tl.constexpr = False,
):
    """Store grads, tensors [modules, size]: of each the sums [chunks, total] from its first column on, a module's
    chunks in their order; zeros for a module without any. SCALED: times the module's factor [modules]; MORE: added to
    what is there."""
    wide = tl.zeros((), tl.int64)
    work = wide
    for t in tl.static_range(len(COLUMNS)):
        size: tl.constexpr = COLUMNS[t].size
        blocks: tl.constexpr = (size + BLOCK - 1) // BLOCK
        grad = grads[t]
        # Programs go on where the tensor before has ended.
        programs = tl.num_programs(0)
        begins = (tl.program_id(0) + programs - work % programs) % programs
        for place in range(begins, modules * blocks, programs):
            module = place // blocks
            i = (place % blocks) * BLOCK + tl.arange(0, BLOCK)
            total = tl.zeros((BLOCK,), tl.float32)
            begin = tl.load(chunks + module)
            end = tl.load(chunks + module + 1)
            row = sums[t] + COLUMNS[t].first
            for chunk in range(begin, end):
                total += tl.load(row + (wide + chunk) * COLUMNS[t].total + i, mask=i < size, other=0.0)
            to = grad + (wide + module) * size + i
            mask = i < size
            if SCALED:
                total *= tl.load(factors + module)
            if MORE:  # a module that has nothing to add is passed over
                mask = mask & (end > begin)
                total += tl.load(to, mask=mask, other=0.0).to(tl.float32)
            tl.store(to, total.to(grad.dtype.element_ty), mask=mask)
        work += modules * blocks


@triton.jit(do_not_specialize=["modules"])
def scale_gradients(gradients, factors, scaled, modules, SIZES: tl.constexpr, BLOCK: tl.constexpr):
    """Store the gradients, tensors [modules, size], times the module's factor [modules]."""
    wide = tl.zeros((), tl.int64)
    for t in tl.static_range(len(SIZES)):
        size: tl.constexpr = SIZES[t]
        total = (wide + modules) * size
        for place in range(tl.program_id(0), tl.cdiv(total, BLOCK), tl.num_programs(0)):
            i = (wide + place) * BLOCK + tl.arange(0, BLOCK)
            value = tl.load(gradients[t] + i, mask=i < total, other=0.0)
            value *= tl.load(factors + i // size, mask=i < total, other=0.0)
            tl.store(scaled[t] + i, value.to(scaled[t].dtype.element_ty), mask=i < total)
