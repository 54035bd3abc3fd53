"""One optimiser step of a bank as a function of tensors, without state: what a fused op has to agree with."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mclnf_fast.learn.params import Params, per_module

Kind = Literal["adam", "sgd"]


class Trust(NamedTuple):
    """The soft trust region `lam/2 (theta - anchor)^T diag(fisher) (theta - anchor)`, fused into the step.

    lam: at least 0. fisher, anchor: flat tuples like the parameters, [M, ...]. Several old tasks fold into
    one region: F = sum_i F_i, anchor = sum_i F_i theta_i / F.
    """

    lam: float
    fisher: Params
    anchor: Params


@torch.no_grad()
def bank_step_reference(
    params: Sequence[Tensor],
    grads: Sequence[Tensor],
    exp_avg: Sequence[Tensor],
    exp_avg_sq: Sequence[Tensor],
    step: Tensor,
    lr: Tensor,
    *,
    kind: Kind = "adam",
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    trust: Trust | None = None,
) -> None:
    """One step of every module, in place: plain SGD, or Adam (arXiv 1412.6980, algorithm 1).

        g <- g + lam F (theta - anchor)                              the trust region, left out when lam = 0
        sgd:   theta <- theta - lr g
        adam:  m <- b1 m + (1-b1) g,  v <- b2 v + (1-b2) g^2
               theta <- theta - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)

    Args:
        params, grads: tensors [M, ...]; grads are not changed.
        exp_avg, exp_avg_sq: m and v like params; empty for SGD.
        step: fp64 [M], how many steps each module has made; counted up here.
        lr: fp64 [M], at least 0.
    """
    step += 1
    dtype = params[0].dtype
    if trust is not None and trust.lam != 0:
        pull = torch._foreach_sub(list(params), list(trust.anchor))
        torch._foreach_mul_(pull, list(trust.fisher))
        torch._foreach_mul_(pull, trust.lam)
        torch._foreach_add_(pull, list(grads))
        grads = pull
    if kind == "sgd":
        rate = lr.to(dtype)
        torch._foreach_sub_(list(params), torch._foreach_mul(list(grads), [per_module(rate, g) for g in grads]))
        return
    # The corrections in fp64: in fp32, 1 - 0.999^t is wrong in the fifth digit at t = 1.
    correction1 = -torch.expm1(step * math.log(betas[0])) if betas[0] > 0 else torch.ones_like(step)
    correction2 = -torch.expm1(step * math.log(betas[1])) if betas[1] > 0 else torch.ones_like(step)
    rate, root = (lr / correction1).to(dtype), correction2.sqrt().to(dtype)
    torch._foreach_lerp_(list(exp_avg), list(grads), 1.0 - betas[0])
    torch._foreach_mul_(list(exp_avg_sq), betas[1])
    torch._foreach_addcmul_(list(exp_avg_sq), list(grads), list(grads), 1.0 - betas[1])
    update = torch._foreach_sqrt(list(exp_avg_sq))
    torch._foreach_div_(update, [per_module(root, u) for u in update])
    torch._foreach_add_(update, eps)
    update = torch._foreach_div(list(exp_avg), update)
    torch._foreach_mul_(update, [per_module(rate, u) for u in update])
    torch._foreach_sub_(list(params), update)
