"""Small banks to score, and every sample's gradient by plain autograd, one sample after another."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.learn import Params, split_pair
from mclnf_fast.spec import FieldSpec, Frequency

SPEC = FieldSpec(2, 2, width=5, hidden_layers=2, activation="tanh", encoding=Frequency(1), skips=(1,))
SIZES = (7, 0, 11)


def bank(
    spec: FieldSpec = SPEC, sizes: tuple[int, ...] = SIZES, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[Params, Tensor, Tensor, Tensor]:
    """params, x [N, in], offsets [M + 1] and residuals [N, out] of a bank with shares of these sizes."""
    g = torch.Generator().manual_seed(seed)
    m, n = len(sizes), sum(sizes)
    weights = [torch.randn(m, i, o, generator=g, dtype=dtype) / i**0.5 for i, o in spec.layer_shapes]
    biases = [torch.randn(m, o, generator=g, dtype=dtype) * 0.3 for _, o in spec.layer_shapes]
    x = torch.rand(n, spec.in_dim, generator=g, dtype=dtype) * 2 - 1
    residual = torch.randn(n, spec.out_dim, generator=g, dtype=dtype)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return (*weights, *biases), x, offsets, residual


def gradients(
    params: Params, spec: FieldSpec, x: Tensor, offsets: Tensor, grad_y: Tensor, sample_ids: Tensor | None = None
) -> list[tuple[list[int], Tensor]]:
    """Of each module: the ids of its samples, and the gradient of each of them, [n, P]."""
    found = []
    ids = torch.arange(len(x)) if sample_ids is None else sample_ids
    for m, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist())):
        own = tuple(p[m : m + 1].detach().requires_grad_() for p in params)
        weights, biases = split_pair(own)
        rows, present = [], ids[begin:end].unique().tolist()
        for sample in present:
            mine = begin + (ids[begin:end] == sample).nonzero()[:, 0]
            y = ops.bank_mlp(x[mine], torch.tensor([0, len(mine)]), weights, biases, spec, backend="reference")
            rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(y, own, grad_y[mine])]))
        size = sum(p[0].numel() for p in params)
        found.append((present, torch.stack(rows) if rows else torch.zeros(0, size, dtype=x.dtype)))
    return found


def channels(like: Tensor) -> list[Tensor]:
    """Unit vectors of every output channel, each [N, out]."""
    return [torch.eye(like.shape[1], dtype=like.dtype)[c].expand_as(like).contiguous() for c in range(like.shape[1])]
