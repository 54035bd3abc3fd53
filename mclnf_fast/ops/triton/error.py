"""The squared error of a bank's outputs, with which a reverse sweep begins.

The factor of a module (one over its number of values, the cotangent of its loss) is not in the gradients that the
sweep carries, which half types would round away, but is multiplied onto the finished sums.
"""

from __future__ import annotations

import dataclasses

import torch
import triton
import triton.language as tl
from torch import Tensor

from mclnf_fast.ops.triton import launch, table
from mclnf_fast.ops.triton.bank import Bank, Sums, reduce
from mclnf_fast.ops.triton.functions import module_of

# Outputs at a time: with 64, whose addresses are numbers of the launch, 560 bytes a thread are spilled.
OUTPUT_COLUMNS = 16


@triton.jit(do_not_specialize=["modules", "points_per_chunk", "outputs", "weighted", "gradient", "tangent"])
def squared_error(
    y,
    yt,
    target,
    weight,
    d,
    e,
    errors,
    offsets,
    chunks,
    modules,
    points_per_chunk,
    outputs,
    weighted,
    gradient,
    tangent,
    BLOCK: tl.constexpr,
):
    """Store errors [chunks]: the sums of weight [N] |y - target|^2 over each chunk's points, `weighted` unset: of
    weight 1. gradient: d [N, outputs], its derivative in y [N, outputs]; tangent: e [N, outputs], the tangent of d from
    that of y, yt.

    Memory-bound: only the block is a constant, so that no number of outputs and no option is compiled anew.
    """
    wide = tl.zeros((), tl.int64)
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    for chunk in range(tl.program_id(0), tl.load(chunks + modules), tl.num_programs(0)):
        module = module_of(chunks, chunk, modules)
        begin = tl.load(offsets + module) + (chunk - tl.load(chunks + module)) * (wide + points_per_chunk)
        end = tl.minimum(begin + points_per_chunk, tl.load(offsets + module + 1))
        total = tl.zeros((ROWS,), tl.float32)
        for point in range(begin, end, ROWS):
            t = wide + point + tl.arange(0, ROWS)
            live = t < end
            w = tl.where(live, tl.load(weight + t, mask=live & (weighted > 0), other=1.0).to(tl.float32), 0.0)
            for first in range(0, outputs, COLUMNS):
                n = first + tl.arange(0, COLUMNS)
                place = t[:, None] * outputs + n[None, :]
                mask = live[:, None] & (n < outputs)[None, :]
                value = tl.load(y + place, mask=mask, other=0.0).to(tl.float32)
                value -= tl.load(target + place, mask=mask, other=0.0).to(tl.float32)
                total += w * tl.sum(value * value, 1)
                tl.store(d + place, (2.0 * w[:, None] * value).to(d.dtype.element_ty), mask=mask & (gradient > 0))
                value = tl.load(yt + place, mask=mask & (tangent > 0), other=0.0).to(tl.float32)
                tl.store(e + place, (2.0 * w[:, None] * value).to(e.dtype.element_ty), mask=mask & (tangent > 0))
        tl.store(errors + chunk, tl.sum(total, 0))


@dataclasses.dataclass
class SquaredError:
    """The losses whose gradients a sweep forms: factor_m times the sum over module m's points of
    weight_i |f(x_i) - target_i|^2."""

    target: Tensor
    """[N, out]."""
    weight: Tensor | None
    """[N]; None: ones."""
    factors: Tensor
    """float32 [M]."""
    losses: Tensor | None = None
    """float32 [M]: receives the losses."""

    def __post_init__(self) -> None:
        self.target = self.target.contiguous()
        self.weight = None if self.weight is None else self.weight.contiguous()

    def piece(self, points: slice) -> SquaredError:
        """Return the same error over some of the points."""
        weight = None if self.weight is None else self.weight[points]
        return dataclasses.replace(self, target=self.target[points], weight=weight)

    def reduce(self, bank: Bank, errors: Tensor, chunks: Tensor, more: bool) -> None:
        """Add up the chunks' sums into the losses, if they are asked for."""
        if self.losses is not None:
            reduce(bank, [Sums(errors[:, None], 0, self.losses)], chunks, self.factors, more)

    def gradient(
        self, bank: Bank, y: Tensor, yt: Tensor | None, chunks: Tensor, per_chunk: int, more: bool, wanted: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the derivative d of the sum in y [N, out], without the factor, and with yt its tangent; what is not
        asked for is [0, out]. The losses are added up on the way."""
        d = y.new_empty(y.shape[0] if wanted else 0, y.shape[1])
        e = y.new_empty(y.shape[0] if yt is not None else 0, y.shape[1])
        errors = y.new_empty(launch.most_tiles(bank.points, bank.modules, per_chunk), dtype=torch.float32)
        squared_error[bank.grid(errors.shape[0], table.LAYER)](
            y,
            y if yt is None else yt,
            self.target,
            y if self.weight is None else self.weight,
            d,
            e,
            errors,
            bank.offsets,
            chunks,
            bank.modules,
            per_chunk,
            y.shape[1],
            weighted=int(self.weight is not None),
            gradient=int(wanted),
            tangent=int(yt is not None),
            BLOCK=launch.BlockSize(table.LAYER.rows, OUTPUT_COLUMNS, 0),
            num_warps=table.LAYER.warps,
        )
        self.reduce(bank, errors, chunks, more)
        return d, e
