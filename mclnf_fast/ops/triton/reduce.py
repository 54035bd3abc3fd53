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


@triton.jit
def _reduce_tensor(
    sums,
    chunks,
    grad,
    modules,
    work,
    FIRST: tl.constexpr,
    SIZE: tl.constexpr,
    TOTAL: tl.constexpr,
    BLOCK: tl.constexpr,
    factors,
    SCALED: tl.constexpr,
    MORE: tl.constexpr,
):
    """Store one tensor of `reduce_chunks`, after `work` blocks of others, and return the blocks up to its end."""
    blocks: tl.constexpr = (SIZE + BLOCK - 1) // BLOCK
    wide = tl.zeros((), tl.int64)
    # Programs go on where the tensor before has ended.
    programs = tl.num_programs(0)
    for place in range((tl.program_id(0) + programs - work % programs) % programs, modules * blocks, programs):
        module = place // blocks
        i = (place % blocks) * BLOCK + tl.arange(0, BLOCK)
        total = tl.zeros((BLOCK,), tl.float32)
        begin = tl.load(chunks + module)
        end = tl.load(chunks + module + 1)
        for chunk in range(begin, end):
            total += tl.load(sums + (wide + chunk) * TOTAL + FIRST + i, mask=i < SIZE, other=0.0)
        to = grad + (wide + module) * SIZE + i
        mask = i < SIZE
        if SCALED:
            total *= tl.load(factors + module)
        if MORE:  # a module that has nothing to add is passed over
            mask = mask & (end > begin)
            total += tl.load(to, mask=mask, other=0.0).to(tl.float32)
        tl.store(to, total.to(grad.dtype.element_ty), mask=mask)
    return work + modules * blocks


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
    work = modules * 0
    for t in tl.static_range(len(COLUMNS)):
        work = _reduce_tensor(
            sums[t],
            chunks,
            grads[t],
            modules,
            work,
            COLUMNS[t][0],
            COLUMNS[t][1],
            COLUMNS[t][2],
            BLOCK,
            factors,
            SCALED,
            MORE,
        )


@triton.jit
def _scale_tensor(gradient, factors, scaled, modules, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    wide = tl.zeros((), tl.int64)
    total = (wide + modules) * SIZE
    for place in range(tl.program_id(0), tl.cdiv(total, BLOCK), tl.num_programs(0)):
        i = (wide + place) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(gradient + i, mask=i < total, other=0.0)
        value *= tl.load(factors + i // SIZE, mask=i < total, other=0.0)
        tl.store(scaled + i, value.to(scaled.dtype.element_ty), mask=i < total)


@triton.jit(do_not_specialize=["modules"])
def scale_gradients(gradients, factors, scaled, modules, SIZES: tl.constexpr, BLOCK: tl.constexpr):
    """Store the gradients, tensors [modules, size], times the module's factor [modules]."""
    for t in tl.static_range(len(SIZES)):
        _scale_tensor(gradients[t], factors, scaled[t], modules, SIZES[t], BLOCK)
