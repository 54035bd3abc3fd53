"""The definition of the optimizer step in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

StepKind = Literal["adam", "sgd"]

# Parameters stepped at a time on a CPU, so that they stay in the cache between the passes of a step.
CPU_CHUNK = 1 << 19


class Trust(NamedTuple):
    """The soft trust region `lam/2 (theta - anchor)^T diag(fisher) (theta - anchor)`, fused into the step.

    Attributes:
        lam: finite, at least 0.
        fisher, anchor: tensors like the parameters, [M, ...]. Several old tasks fold into one region:
            F = sum_i F_i, anchor = sum_i F_i theta_i / F.
    """

    lam: float
    fisher: Sequence[Tensor]
    anchor: Sequence[Tensor]


class Decay(NamedTuple):
    """Weight decay, fused into the step.

    Attributes:
        weight: finite, at least 0.
        decoupled: False: `weight` times the parameter is added to its gradient (as torch.optim.Adam and SGD do). True:
            the parameter is multiplied by 1 - lr weight beside the step (AdamW, arXiv 1711.05101).
    """

    weight: float
    decoupled: bool


NO_DECAY = Decay(0.0, False)


def with_gradients(grads: Sequence[Tensor]) -> Tensor:
    """Return which modules have a gradient [M, ...] that is not 0 (or is NaN) in any entry, bool [M].

    >>> with_gradients([torch.tensor([[0.0, 0.0], [0.0, 2.0]])]).tolist()
    [False, True]
    """
    return torch.stack([(g != 0).reshape(g.shape[0], math.prod(g.shape[1:])).any(1) for g in grads]).any(0)


@torch.no_grad()
def bank_step(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    step: Tensor,
    lr: Tensor,
    active: Tensor | None,
    kind: StepKind,
    betas: tuple[float, float],
    eps: float,
    trust: Trust | None,
    decay: Decay = NO_DECAY,
) -> None:
    """Make the step of `mclnf_fast.ops.bank_step`: lr float64 [M]; trust None if lam = 0."""
    lists = [params, grads, exp_avg, exp_avg_sq, *(() if trust is None else (trust.fisher, trust.anchor))]
    modules, size = step.shape[0], sum(math.prod(p.shape[1:]) for p in params)
    rows = max(1, CPU_CHUNK // max(1, size)) if step.device.type == "cpu" else max(1, modules)
    for first in range(0, modules, rows):
        chunk = slice(first, first + rows)
        p, g, m, v, *region = ([t[chunk] for t in ts] for ts in lists)
        changed = [*p, *m, *v, step[chunk]]
        before = [] if active is None else [t.clone() for t in changed]
        local = None if trust is None else Trust(trust.lam, *region)
        _step(p, g, m, v, step[chunk], lr[chunk], kind, betas, eps, local, decay)
        if active is not None:
            for new, old in zip(changed, before):
                new.copy_(torch.where(per_module(active[chunk], new), new, old))


def _step(
    params: list[Tensor],
    grads: list[Tensor],
    exp_avg: list[Tensor],
    exp_avg_sq: list[Tensor],
    step: Tensor,
    lr: Tensor,
    kind: StepKind,
    betas: tuple[float, float],
    eps: float,
    trust: Trust | None,
    decay: Decay,
) -> None:
    step += 1
    dtype = params[0].dtype
    if decay.weight and not decay.decoupled:
        grads = list(torch._foreach_add(grads, torch._foreach_mul(params, decay.weight)))
    if trust is not None:
        pull = torch._foreach_sub(params, list(trust.anchor))
        torch._foreach_mul_(pull, list(trust.fisher))
        torch._foreach_mul_(pull, trust.lam)
        torch._foreach_add_(pull, grads)
        grads = list(pull)
    if decay.weight and decay.decoupled:
        shrink = (1 - lr * decay.weight).to(dtype)
        torch._foreach_mul_(params, [per_module(shrink, p) for p in params])
    if kind == "sgd":
        rate = lr.to(dtype)
        torch._foreach_sub_(params, torch._foreach_mul(grads, [per_module(rate, g) for g in grads]))
        return
    # The corrections in fp64: in fp32, 1 - 0.999^t is wrong in the fifth digit at t = 1.
    correction1 = -torch.expm1(step * math.log(betas[0])) if betas[0] > 0 else torch.ones_like(step)
    correction2 = -torch.expm1(step * math.log(betas[1])) if betas[1] > 0 else torch.ones_like(step)
    rate, root = (lr / correction1).to(dtype), correction2.sqrt().to(dtype)
    torch._foreach_lerp_(exp_avg, grads, 1.0 - betas[0])
    torch._foreach_mul_(exp_avg_sq, betas[1])
    torch._foreach_addcmul_(exp_avg_sq, grads, grads, 1.0 - betas[1])
    update = torch._foreach_sqrt(exp_avg_sq)
    torch._foreach_div_(update, [per_module(root, u) for u in update])
    torch._foreach_add_(update, eps)
    update = torch._foreach_div(exp_avg, update)
    torch._foreach_mul_(update, [per_module(rate, u) for u in update])
    torch._foreach_sub_(params, update)


def per_module(vector: Tensor, like: Tensor) -> Tensor:
    """Return [M] as [M, 1, ..., 1], to broadcast against `like` [M, ...]."""
    return vector.reshape(-1, *([1] * (like.dim() - 1)))
