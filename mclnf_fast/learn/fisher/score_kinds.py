"""Score a batch by the kind of its Fisher matrix: diagonal, rank-1 and full. K-FAC: `kfac.py`.

Each kind is a function `(batch, known, damping) -> Measured`. `known` is the state of the Fisher to score against, None
for the batch's own; `damping` is relative to the mean of F's diagonal, a module at a time, so that scores carry no unit
of the loss. Modules never see each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.fisher import full_fisher_scores, relative_damping
from mclnf_fast.learn.fisher.score_batch import Batch, Measured, State, unit
from mclnf_fast.learn.params import Params, per_module
from mclnf_fast.ops import segment_sum
from mclnf_fast.ops.bank_mlp.reference import mlp

Kind = Callable[[Batch, State | None, float], Measured]


def diagonal(batch: Batch, known: State | None, damping: float) -> Measured:
    """Return q = sum_p g_p^2 / (F_p + eps), with `ops.fisher_scores`; state: F like (weights, biases).

    Against a known F one sweep a direction gives all; the batch's own F takes a second one.
    """
    plain = known is None
    against = _ones(batch) if known is None else damped(known, damping)
    results = [batch.sweep(direction, against) for direction in batch.directions]
    state: State = (
        _total([r.fisher[0] for r in results], batch.weights),
        _total([r.fisher[1] for r in results], batch.biases),
    )
    if (touching := batch.touching) is not None:
        # A mean over the samples that touch a module, as it is with ids.
        weights, biases = (tuple(f / per_module(touching, f) for f in part) for part in state)
        state = weights, biases
    if plain:
        own = damped(state, damping)
        scores = _sum([batch.sweep(direction, own, sums=False).scores for direction in batch.directions])
    else:
        scores = _sum([r.scores for r in results])
    # The loss's gradient only if its own is the one direction; of channels, `FisherScorer` does not read it.
    grads = (*results[0].grads[0], *results[0].grads[1])
    return Measured(scores, state, grads)


def rank1(batch: Batch, known: State | None, damping: float) -> Measured:
    """Return q = g^T (rho u u^T + eps I)^-1 g, u the direction of the mean gradient (arXiv 2509.23593, see
    `rank1_fisher_scores`); state: (mean gradient, (rho [M, 1], mean |g|^2 [M, 1])).

    eps is relative to mean |g|^2 / P, the mean of the empirical Fisher's diagonal; nearly all of a gradient lies across
    u, where eps alone judges it, so these scores are close to squared gradient lengths. No gradient of a single sample
    is formed: lengths come from `ops.fisher_scores` against ones, and u^T g = (J u) . grad_y. A running rho is the mean
    of (u^T g)^2 along the u that stood when each batch came.
    """
    results = [batch.sweep(direction, _ones(batch), by_share=True) for direction in batch.directions]
    total = _total([(*r.grads[0], *r.grads[1]) for r in results], batch.params)
    mean = tuple(t / per_module(batch.counts, t) for t in total)
    u = unit(mean if known is None else known[0])
    moved = batch.tangents(tuple(v.to(batch.x.dtype) for v in u))
    along = [batch.over_shares((moved * direction).sum(1)).square() for direction in batch.directions]
    rho, power = batch.module_means(_sum(along)), batch.module_means(_sum([r.scores for r in results]))
    state: State = (mean, (rho[:, None], power[:, None]))
    if known is not None:
        rho, power = (s[:, 0].to(batch.x.dtype) for s in known[1])
    size = sum(p[0].numel() for p in batch.params)
    eps = (damping * power / size).clamp(min=torch.finfo(power.dtype).tiny)
    module = batch.shares[1]
    inside, outside = (rho + eps)[module], eps[module]
    # The clamp: rounding can carry the rest of a gradient that lies along u below 0.
    shares = _sum([a / inside + (r.scores - a).clamp(min=0.0) / outside for a, r in zip(along, results, strict=True)])
    return Measured(batch.over_samples(shares), state, total)


def full(batch: Batch, known: State | None, damping: float) -> Measured:
    """Return q = g^T (F + eps I)^-1 g with the whole matrix; state: ((F [M, P, P],), ()). For small nets: every
    sample's gradient is formed, one module after another."""
    module = batch.shares[1]
    scores = batch.x.new_zeros(len(module))
    size = sum(p[0].numel() for p in batch.params)
    matrix = batch.x.new_zeros(batch.modules, size, size) if batch.remember else None
    for m in range(batch.modules):
        own = module == m
        if not bool(own.any()):
            continue
        grads = torch.stack([_share_grads(batch, m, own, direction) for direction in batch.directions])  # [C, n, P]
        many, count = grads.shape[:2]
        rows = grads.flatten(0, 1)
        if matrix is not None:
            matrix[m] = rows.T @ rows / count
        if known is None:
            # The oracle takes the mean over its rows: with C rows a sample, F and the scores grow by C / C.
            eps = damping * float(rows.square().sum()) / (count * size)
            q = full_fisher_scores(rows * many**0.5, max(eps, torch.finfo(rows.dtype).tiny)) / many
        else:
            fisher = known[0][0][m].to(torch.float64, copy=True)
            eps = damping * float(fisher.diagonal().mean())
            fisher = fisher + max(eps, torch.finfo(rows.dtype).tiny) * torch.eye(
                size, dtype=fisher.dtype, device=fisher.device
            )
            lower = cholesky(fisher, "full")
            q = torch.linalg.solve_triangular(lower, rows.double().T, upper=False).square().sum(0).to(rows.dtype)
        scores[own] = q.reshape(many, count).sum(0)
    return Measured(batch.over_samples(scores), None if matrix is None else ((matrix,), ()), None)


def damped(state: State, damping: float) -> State:
    """Return a diagonal Fisher plus `damping` times each module's mean."""
    eps = relative_damping((*state[0], *state[1]), damping)
    weights, biases = (tuple(f + per_module(eps, f) for f in part) for part in state)
    return weights, biases


def cholesky(matrix: Tensor, kind: str) -> Tensor:
    """Return the lower factor. Raises: InputError, where the matrix is not positive definite."""
    try:
        return torch.linalg.cholesky(matrix)
    except torch.linalg.LinAlgError:
        # torch's own message is about a minor of the matrix; what a caller can change is the damping.
        raise InputError(
            f"damping must make the {kind} Fisher positive definite, got one that is not (too small a damping, or "
            "gradients that are not finite)"
        ) from None


def _share_grads(batch: Batch, m: int, own: Tensor, direction: Tensor) -> Tensor:
    """Return the gradient of every share of module m, [n, P]: weights and biases as the flat tuple has them."""
    weights, biases = [w[m].detach() for w in batch.weights], [b[m].detach() for b in batch.biases]
    points = batch.point_module == m

    def pulled(x: Tensor, gy: Tensor) -> Any:
        return torch.func.vjp(lambda w, b: mlp(x[None], w, b, batch.spec)[0], weights, biases)[1](gy)

    gw, gb = torch.func.vmap(pulled)(batch.x[points].detach(), direction[points])
    grads = torch.cat([g.flatten(1) for g in (*gw, *gb)], 1)
    ids = batch.shares[0]
    if ids is None:
        return grads
    place = own.cumsum(0) - 1  # of a share among its module's
    return segment_sum(grads, place[ids[points]], int(own.sum()))


def _ones(batch: Batch) -> State:
    return tuple(torch.ones_like(w) for w in batch.weights), tuple(torch.ones_like(b) for b in batch.biases)


def _total(parts: Sequence[Sequence[Tensor]], like: Params) -> Params:
    return tuple(_sum([part[i] for part in parts]) for i in range(len(like)))


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
