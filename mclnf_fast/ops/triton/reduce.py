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
def _reduce_tensor(sums, chunks, grad, columns, factors, modules, work, scaled, more, BLOCK: tl.constexpr):
    """Store one tensor of `reduce_chunks`, after `work` blocks of others, and return the blocks up to its end."""
    first = tl.load(columns)
    size = tl.load(columns + 1)
    total_columns = tl.load(columns + 2)
    blocks = (size + BLOCK - 1) // BLOCK
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
            total += tl.load(sums + (wide + chunk) * total_columns + first + i, mask=i < size, other=0.0)
        to = grad + (wide + module) * size + i
        total *= tl.load(factors + module, mask=scaled > 0, other=1.0)
        mask = (i < size) & ((end > begin) | (more == 0))  # a module that has nothing to add is passed over
        total += tl.load(to, mask=mask & (more > 0), other=0.0).to(tl.float32)
        tl.store(to, total.to(grad.dtype.element_ty), mask=mask)
    return work + modules * blocks


@triton.jit(do_not_specialize=["modules", "scaled", "more"])
def reduce_chunks(
    sums, chunks, grads, columns, factors, modules, scaled, more, TENSORS: tl.constexpr, BLOCK: tl.constexpr
):
    """Store grads, tensors [modules, size]: of each the sums [chunks, total] from its first column on, a module's
    chunks in their order; zeros for a module without any. columns int32 [TENSORS, 3]: each one's `ColumnRange`.
    scaled: times the module's factor [modules]; more: added to what is there.

    Memory-bound: no size is a constant, so that another network of as many layers is not compiled anew.
    """
    work = modules * 0
    for t in tl.static_range(TENSORS):
        work = _reduce_tensor(sums[t], chunks, grads[t], columns + 3 * t, factors, modules, work, scaled, more, BLOCK)


@triton.jit
def _scale_tensor(gradient, factors, scaled, size, modules, BLOCK: tl.constexpr):
    wide = tl.zeros((), tl.int64)
    total = (wide + modules) * size
    for place in range(tl.program_id(0), tl.cdiv(total, BLOCK), tl.num_programs(0)):
        i = (wide + place) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(gradient + i, mask=i < total, other=0.0)
        value *= tl.load(factors + i // size, mask=i < total, other=0.0)
        tl.store(scaled + i, value.to(scaled.dtype.element_ty), mask=i < total)


@triton.jit(do_not_specialize=["modules"])
def scale_gradients(gradients, factors, scaled, columns, modules, TENSORS: tl.constexpr, BLOCK: tl.constexpr):
    """Store the gradients, tensors [modules, size], times the module's factor [modules]; columns int32 [TENSORS]: the
    sizes."""
    for t in tl.static_range(TENSORS):
        _scale_tensor(gradients[t], factors, scaled[t], tl.load(columns + t), modules, BLOCK)
