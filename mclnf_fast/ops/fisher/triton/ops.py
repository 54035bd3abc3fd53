"""`mf.ops.fisher_scores` by the Triton kernels: on CUDA tensors, and on CPU tensors where Triton interprets."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from mclnf_fast.ops import _memory
from mclnf_fast.ops.bank_mlp.triton.sweeps import walk, walk_shapes
from mclnf_fast.ops.fisher.records import ParameterLists
from mclnf_fast.ops.fisher.triton import table
from mclnf_fast.ops.fisher.triton.kernels import reduce_samples, sample_sums
from mclnf_fast.ops.triton import launch, plain
from mclnf_fast.ops.triton.bank import Bank, backward_sweep
from mclnf_fast.ops.triton.table import Shape
from mclnf_fast.spec import FieldSpec

ALIGNED = 8  # columns that a row of activations in memory is a multiple of


@_memory.explained("fisher_scores")
def fisher_scores(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    fisher: ParameterLists | None,
    spec: FieldSpec,
    segments: Tensor | None,
    owned: Tensor,
    damping: float,
    sums: bool,
    dtype: torch.dtype,
) -> tuple[Tensor, ParameterLists, ParameterLists]:
    """Return the results of one sweep: scores float32 [S] with `fisher`, else [0]; with `sums` the gradients, and the
    means of the samples' squares, in `dtype`.

    Half types are multiplied as they are; squares and all sums are float32's. segments int64 [S + 1] of points, or
    None: each point is a sample. owned int64 [M + 1]: the first sample of each module.
    """
    x, spec = plain.without_spherical(x.float(), spec)
    net = launch.network(*spec.packed)
    samples = x.shape[0] if segments is None else segments.shape[0] - 1

    def like(tensors: list[Tensor]) -> list[Tensor]:
        return [torch.empty(t.shape, dtype=dtype, device=t.device) for t in tensors] if sums else []

    grads, mean = (like(weights), like(biases)), (like(weights), like(biases))
    if samples == 0:
        for t in (*grads[0], *grads[1], *mean[0], *mean[1]):
            t.zero_()
        return torch.zeros(0, dtype=torch.float32, device=x.device), grads, mean
    bank = Bank(net, x, offsets, tuple(weights), tuple(biases))
    owned = bank.offsets if segments is None else owned
    with bank.on_device():
        scale = scale_of(grad_y) if bank.dtype == torch.float16 else None
        d_y = grad_y.contiguous() if scale is None else grad_y * scale.to(grad_y.dtype)
        shares = _layers(bank, d_y, fisher, segments, owned, damping, scale, grads, mean)
        scores = shares.sum(0)
        if scale is not None:
            scores = scores / scale.square()
    return scores, grads, mean


def scale_of(grad_y: Tensor) -> Tensor:
    """Return the power of two, float32 [1], that brings the largest gradient to about 16: float16 then holds what is a
    million times smaller, and a layer may still multiply it a thousandfold. 1 if there is none."""
    largest = grad_y.abs().amax().float().view(1)
    scale = torch.exp2(4.0 - torch.floor(torch.log2(largest))).clamp(max=2.0**15)
    return torch.where((largest > 0) & largest.isfinite(), scale, torch.ones_like(scale))


def _layers(
    bank: Bank,
    grad_y: Tensor,
    fisher: ParameterLists | None,
    segments: Tensor | None,
    owned: Tensor,
    damping: float,
    scale: Tensor | None,
    grads: ParameterLists,
    mean: ParameterLists,
) -> Tensor:
    """Fill grads and mean and return the shares of the scores [blocks, samples], none without `fisher`."""
    net, x, sums, scored = bank.net, bank.x, bool(grads[0]), fisher is not None
    samples = bank.points if segments is None else segments.shape[0] - 1
    product = bank.kind if bank.kind != "half" else "bf16" if bank.dtype == torch.bfloat16 else "fp16"
    block = (table.POINTS if segments is None else table.SAMPLES)[product]
    # No more points at a time than a sample has.
    most_at_a_time = block.depth if segments is None else launch.padded(-(-bank.points // samples))
    per_chunk = -(-samples // table.CHUNKS)
    if segments is None:
        per_chunk = -(-per_chunk // block.depth) * block.depth
    most = launch.most_tiles(samples, bank.modules, per_chunk)
    chunks = launch.starts(owned.diff(), per_chunk)
    blocks = [launch.weight_gradient_blocks(net, l, block.side) for l in range(net.layers)]
    shares = torch.empty(sum(blocks) if scored else 0, samples, dtype=torch.float32, device=x.device)
    known = fisher if fisher is not None else ([x] * net.layers, [x] * net.layers)
    shape = Shape(block.side, block.warps, block.stages)
    for l, h, d in _sweep(bank, grad_y):
        rows, out = net.shapes[l]
        # The kernel of any width takes inputs as if features were among them.
        depth = min(block.depth_of(net.below(l) > 0 or not net.known), most_at_a_time)
        # Two tensors, each as well aligned as any.
        parts = [x.new_empty(most if sums else 0, (rows + 1) * out, dtype=torch.float32) for _ in range(2)]
        sample_sums[bank.grid(most * blocks[l], shape)](
            h if l > 0 else bank.weights[-1],  # in their type, and not read
            x,
            d,
            shares[sum(blocks[:l]) if scored else 0 :],
            parts[0],
            parts[1],
            known[0][l].contiguous(),
            known[1][l].contiguous(),
            owned if segments is None else segments,
            owned,
            chunks,
            bank.columns,
            bank.weights[l],
            damping,
            samples_per_chunk=per_chunk,
            **net.sizes(l)._asdict(),
            h_stride=h.stride(0),
            d_stride=d.stride(0),
            LAYER=net.layer(l, activated=False),
            STRIDES=(h.stride(0), d.stride(0)) if net.known else (-1, -1),
            POINTS=segments is None,
            SCORED=scored,
            SUMS=sums,
            BLOCK=launch.BlockSize(block.side, block.side, depth),
            num_warps=block.warps,
            num_stages=block.stages,
            **bank.shared,
        )
        if sums:
            _reduce(bank, parts, chunks, owned, scale, (grads[0][l], grads[1][l], mean[0][l], mean[1][l]))
    return shares


def _sweep(bank: Bank, grad_y: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield, from the last layer to the first, its number, its inputs from the layer before (x for the first), [N,
    width], and the gradients of its pre-activations, [N, out]."""
    shapes = walk_shapes(bank)
    return backward_sweep(bank, grad_y) if shapes is None else walk(bank, shapes, grad_y, ALIGNED)


def _reduce(
    bank: Bank,
    parts: list[Tensor],
    chunks: Tensor,
    owned: Tensor,
    scale: Tensor | None,
    to: tuple[Tensor, Tensor, Tensor, Tensor],
) -> None:
    size, out = parts[0].shape[1], to[1].shape[1]
    block = launch.reduced_block(size, table.REDUCED)
    reduce_samples[bank.grid(bank.modules * math.ceil(size / block), Shape(block, 4))](
        parts[0],
        parts[1],
        chunks,
        owned,
        parts[0] if scale is None else scale,
        *to,
        bank.modules,
        size,
        out,
        scaled=int(scale is not None),
        CHUNKS=table.REDUCED_CHUNKS,
        BLOCK=block,
    )
