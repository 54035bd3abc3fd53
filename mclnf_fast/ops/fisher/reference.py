"""Fisher scores in plain PyTorch: the definition that every other backend must agree with. Any dtype.

For a dense layer with inputs `a` and per-point gradients `d` of the pre-activations, one point's weight
gradient is `a d^T`; a sample's is the sum over its points. Its square is taken after that sum (cross terms
included).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops._layers import activate, encode
from mclnf_fast.ops.fisher.records import FisherCall, ParameterLists
from mclnf_fast.spec import FieldSpec

_CHUNK = 1 << 24  # elements of per-sample gradients in memory at a time


def inverse(fisher: Tensor, damping: float) -> Tensor:
    """Return 1 / (fisher + damping); 0 where the sum is 0: a parameter without information counts for nothing."""
    damped = fisher + damping
    return torch.where(damped == 0, 0.0, 1 / damped)


def layers_of(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], grad_y: Tensor, spec: FieldSpec
) -> list[tuple[Tensor, Tensor]]:
    """Return the inputs a [n, in] and pre-activation gradients d [n, out] of every layer of one module."""
    inputs, pre_activations = [], []
    encoded = h = encode(spec.encoding, x.detach())
    with torch.enable_grad():
        for layer, (weight, bias) in enumerate(zip(weights, biases)):
            if layer in spec.skips:
                h = torch.cat((h, encoded), -1)
            inputs.append(h.detach())
            z = (h @ weight.detach() + bias.detach()).requires_grad_()
            pre_activations.append(z)
            h = activate(spec.output_activation if layer == spec.hidden_layers else spec.activation, z, spec.w0)
        return list(zip(inputs, torch.autograd.grad(h, pre_activations, grad_y)))


def per_sample(a: Tensor, d: Tensor, segment: Tensor, count: int) -> list[tuple[int, Tensor]]:
    """Return the per-sample gradients of one layer, in chunks: (first sample, g [samples, in + 1, out]); the last row
    is the bias."""
    ones = torch.cat((a, a.new_ones(a.shape[0], 1)), 1)
    size = max(1, _CHUNK // max(1, ones.shape[1] * d.shape[1]))
    chunks = []
    order = torch.argsort(segment, stable=True)
    bounds = torch.searchsorted(segment[order], torch.arange(count + 1, device=a.device))
    for first in range(0, count, size):
        samples = min(size, count - first)
        g = a.new_zeros(samples, ones.shape[1], d.shape[1])
        rows = order[bounds[first] : bounds[first + samples]]
        for points in rows.split(size):
            g.index_add_(0, segment[points] - first, ones[points][:, :, None] * d[points][:, None, :])
        chunks.append((first, g))
    return chunks


def fisher_scores(call: FisherCall) -> tuple[Tensor, ParameterLists, ParameterLists]:
    """Return scores [S], sums of gradients and means of their squares; `sample_ids` of the call are resolved."""
    x, offsets, weights, biases, grad_y, fisher, spec, sample_ids, num_samples, damping, grads = call
    if not isinstance(sample_ids, Tensor):
        raise ValueError(f"sample_ids must be int64 [N], got {sample_ids}")
    scores = x.new_zeros(num_samples)
    total: ParameterLists = ([torch.zeros_like(w) for w in weights], [torch.zeros_like(b) for b in biases])
    mean: ParameterLists = ([torch.zeros_like(w) for w in weights], [torch.zeros_like(b) for b in biases])
    bounds = offsets.tolist()
    for m, (begin, end) in enumerate(itertools.pairwise(bounds)):
        if begin == end:
            continue
        present, segment = sample_ids[begin:end].unique(return_inverse=True)
        count = present.numel()
        layers = layers_of(x[begin:end], [w[m] for w in weights], [b[m] for b in biases], grad_y[begin:end], spec)
        for l, (a, d) in enumerate(layers):
            chunks = per_sample(a, d, segment, count)
            for _, g in chunks:
                total[0][l][m] += g[:, :-1].sum(0)
                total[1][l][m] += g[:, -1].sum(0)
                mean[0][l][m] += g[:, :-1].square().sum(0) / count
                mean[1][l][m] += g[:, -1].square().sum(0) / count
            used = mean if fisher is None else fisher
            information = inverse(torch.cat((used[0][l][m], used[1][l][m][None])), damping)
            for first, g in chunks:
                scores.index_add_(0, present[first : first + g.shape[0]], (g.square() * information).sum((1, 2)))
    return scores, total if grads else ([], []), mean if grads else ([], [])
