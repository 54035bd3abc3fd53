"""`mf.ops.fisher_scores` by the Triton kernels: on CUDA tensors, and on CPU tensors where Triton interprets."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops import _memory
from mclnf_fast.ops.bank_mlp.triton import launch, plain
from mclnf_fast.ops.bank_mlp.triton.bank import Bank, backward_walk, layer_shape, reduce
from mclnf_fast.ops.fisher.triton.kernels import point_scores, sample_sums
from mclnf_fast.spec import FieldSpec

Pair = tuple[list[Tensor], list[Tensor]]


@_memory.explained("fisher_scores")
def fisher_scores(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    fisher: Pair | None,
    spec: FieldSpec,
    segments: Tensor | None,
    owned: Tensor,
    damping: float,
    sums: bool,
) -> tuple[Tensor, Pair, Pair]:
    """One sweep: scores [S] with `fisher`, else [0]; with `sums` the gradients, and the means of the samples' squares.

    All float32. segments int64 [S + 1] of points, or None: each point is a sample. owned int64 [M + 1]: where each
    module's samples begin.
    """
    x, spec = plain.without_spherical(x, spec)
    net = launch.network(*spec.packed)
    samples = x.shape[0] if segments is None else segments.shape[0] - 1
    scores = x.new_zeros(samples if fisher is not None else 0)
    grads, mean = (
        ([torch.zeros_like(t) for t in weights], [torch.zeros_like(t) for t in biases]) if sums else ([], [])
        for _ in range(2)
    )
    if samples == 0:
        return scores, grads, mean
    bank = Bank(net, x, offsets, tuple(weights), tuple(biases))
    owned = bank.offsets if segments is None else owned
    counts = owned.diff()
    with bank.on_device():
        shape, tiles = layer_shape(bank)
        starts = launch.starts(bank.counts, shape.rows)
        per_chunk = max(bank.table.depth if segments is None else 1, -(-samples // launch.CHUNKS))
        most = launch.most_tiles(samples, bank.modules, per_chunk)
        chunks = launch.starts(counts, per_chunk)
        side, options = bank.outer()
        for l, h, d in backward_walk(bank, grad_y.contiguous()):
            rows, out = net.shapes[l]
            sizes = {"IN": net.inputs, "FEATURES": net.features, "OUT": out, "BELOW": net.below(l)}
            sizes["ABOVE"] = net.width if l > 0 else 0
            known = (fisher[0][l].contiguous(), fisher[1][l].contiguous()) if fisher is not None else (x, x)
            if segments is None and fisher is not None:
                point_scores[bank.grid(tiles, shape)](
                    h,
                    x,
                    d,
                    scores,
                    *known,
                    bank.offsets,
                    starts,
                    bank.columns,
                    damping,
                    MORE=l < net.layers - 1,
                    ROWS=shape.rows,
                    **sizes,
                    **bank.shared,
                    **bank.layer_options,
                )
            if segments is None and not sums:
                continue
            blocks = launch.outer_blocks(net, l, side)
            scored = segments is not None and fisher is not None
            shares = x.new_empty(blocks if scored else 0, samples)
            parts = [x.new_empty(most if sums else 0, (rows + 1) * out) for _ in range(2)]
            sample_sums[bank.grid(most * blocks, shape)](
                h,
                x,
                d,
                shares,
                *parts,
                *known,
                bank.offsets,
                owned if segments is None else segments,
                owned,
                chunks,
                bank.columns,
                damping,
                samples_a_chunk=per_chunk,
                POINTS=segments is None,
                SCORED=scored,
                SUMS=sums,
                **sizes,
                **bank.shared,
                **options,
            )
            if scored:
                scores += shares.sum(0)
            for part, (w, b) in zip(parts, (grads, mean)) if sums else ():
                reduce(bank, part, chunks, 0, w[l])
                reduce(bank, part, chunks, rows * out, b[l])
    for t in (*mean[0], *mean[1]):
        t /= counts.clamp(min=1).to(t.dtype).view(-1, *[1] * (t.dim() - 1))
    return scores, grads, mean
