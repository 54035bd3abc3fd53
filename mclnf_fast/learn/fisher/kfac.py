"""Score samples against a Kronecker-factored Fisher (K-FAC; Martens & Grosse 2015, arXiv 1503.05671).

A layer's Fisher matrix is taken as A (x) G, with A = E[a a^T] of its inputs a (a one appended, for the bias) and
G = E[d d^T] of the gradients d of its pre-activations; layers are taken as independent. A point's gradient in the layer
is a d^T, so its score is (a^T A^-1 a)(d^T G^-1 d), and the layers' add up.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.fisher.score_batch import Batch, Measured, State
from mclnf_fast.learn.fisher.score_kinds import cholesky
from mclnf_fast.ops import activate, encode
from mclnf_fast.spec import FieldSpec

Layer = tuple[Tensor, list[Tensor]]
"""Inputs with a one appended [m, n, in + 1], and a gradient [m, n, out] of the pre-activations a direction."""


def kfac(batch: Batch, known: State | None, damping: float) -> Measured:
    """Return the scores of points against A and G of every layer; state: (A [M, in + 1, in + 1] a layer, G [M, out,
    out] a layer).

    The damping eps = damping * mean of the module's diagonal is split between the factors (1503.05671, sec. 6.3):
    A + pi sqrt(eps) I and G + sqrt(eps) / pi I, pi^2 = (tr A / dim A) / (tr G / dim G).
    """
    walks = []
    shapes = batch.spec.layer_shapes
    first = [batch.x.new_zeros(batch.modules, rows + 1, rows + 1) for rows, _ in shapes]
    second = [batch.x.new_zeros(batch.modules, columns, columns) for _, columns in shapes]
    for modules, rows in stacks(batch.offsets):
        many = modules.stop - modules.start

        def stacked(t: Tensor, rows: slice = rows, many: int = many) -> Tensor:
            return t[rows].unflatten(0, (many, -1))

        weights, biases = ([p[modules] for p in part] for part in (batch.weights, batch.biases))
        layers = walk(stacked(batch.x), weights, biases, [stacked(d) for d in batch.directions], batch.spec)
        for l, (a, ds) in enumerate(layers):
            first[l][modules] = a.mT @ a / a.shape[1]
            second[l][modules] = sum((d.mT @ d for d in ds), start=torch.zeros_like(second[l][modules])) / a.shape[1]
        walks.append((modules, rows, layers))
    state: State = (tuple(first), tuple(second))
    whiteners = _whiteners(state if known is None else known, damping, batch.x.dtype)
    scores = batch.x.new_zeros(len(batch.x))
    for modules, rows, layers in walks:
        for (a, ds), (by_input, by_output) in zip(layers, whiteners, strict=True):
            inputs = (a @ by_input[modules].mT).square().sum(-1)
            outputs = torch.stack([(d @ by_output[modules].mT).square().sum(-1) for d in ds]).sum(0)
            scores[rows] += (inputs * outputs).flatten()
    return Measured(scores, state, None)


def stacks(offsets: Tensor) -> list[tuple[slice, slice]]:
    """Return the modules that can be multiplied as one stack, and their rows: all at once if their shares are equal,
    else one by one, the empty ones left out."""
    # A GPU is waited for here: how the modules are stacked depends on their shares.
    bounds = offsets.tolist()
    counts = {end - begin for begin, end in itertools.pairwise(bounds)}
    if len(counts) == 1 and 0 not in counts:
        return [(slice(0, len(bounds) - 1), slice(0, bounds[-1]))]
    pairs = enumerate(itertools.pairwise(bounds))
    return [(slice(m, m + 1), slice(begin, end)) for m, (begin, end) in pairs if begin < end]


def walk(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], directions: Sequence[Tensor], spec: FieldSpec
) -> list[Layer]:
    """Return the inputs of every layer, and the gradients of its pre-activations.

    Args:
        x: [m, n, in_dim].
        weights, biases: [m, in, out], [m, out].
        directions: each [m, n, out_dim].

    Returns: a pair a layer, see `Layer`; detached.
    """
    inputs, zs = [], []
    encoded = h = encode(spec.encoding, x.detach())
    with torch.enable_grad():
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            if layer in spec.skips:
                h = torch.cat((h, encoded), -1)
            inputs.append(torch.cat((h.detach(), torch.ones_like(h[..., :1])), -1))
            z = (h @ weight.detach() + bias.detach()[..., None, :]).requires_grad_()
            zs.append(z)
            h = activate(spec.output_activation if layer == spec.hidden_layers else spec.activation, z, spec.w0)
        # One forward serves all directions, so its graph is kept between them.
        back = [torch.autograd.grad(h, zs, direction, retain_graph=True) for direction in directions]
    return [(a, [ds[l] for ds in back]) for l, a in enumerate(inputs)]


def _whiteners(state: State, damping: float, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Return W_A and W_G of every layer with |W_A a|^2 = a^T (A + ..)^-1 a, likewise for G; found in float64."""
    first, second = (tuple(f.double() for f in part) for part in state)
    parameters = sum(a.shape[-1] * g.shape[-1] for a, g in zip(first, second, strict=True))
    eps = damping * torch.stack([_trace(a) * _trace(g) for a, g in zip(first, second, strict=True)]).sum(0) / parameters
    whiteners = []
    for a, g in zip(first, second, strict=True):
        means = _trace(a) / a.shape[-1], _trace(g) / g.shape[-1]
        # Without inputs or without gradients the layer's scores are zero, whatever the damping: any will do.
        usable = (means[0] > 0) & (means[1] > 0) & (eps > 0)
        pi = torch.where(usable, means[0] / torch.where(usable, means[1], 1.0), 1.0).sqrt()
        root = torch.where(usable, eps.sqrt(), 1.0 + means[0] + means[1])
        whiteners.append((_whitener(a, pi * root, dtype), _whitener(g, root / pi, dtype)))
    return whiteners


def _whitener(factor: Tensor, damping: Tensor, dtype: torch.dtype) -> Tensor:
    identity = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
    lower = cholesky(factor + damping[:, None, None] * identity, "K-FAC")
    return torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False).to(dtype)


def _trace(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
