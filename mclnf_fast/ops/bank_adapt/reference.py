"""The definition of the inner loop in plain PyTorch: a loop over steps, differentiable to any order."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops.bank_adapt.call import AdaptCall, Adapted
from mclnf_fast.ops.bank_mlp.reference import bank_mlp
from mclnf_fast.ops.bank_mse.reference import squared_error


def bank_adapt(call: AdaptCall) -> Adapted:
    """Make the steps of `mclnf_fast.ops.bank_adapt`, all modules in step."""
    steps, modules, layers = call.rates.shape
    first = [p.expand(modules, *p.shape[1:]) for p in (*call.weights, *call.biases)]
    traced = torch.is_grad_enabled() and any(t.requires_grad for t in (*first, call.rates))
    exact = traced and not call.first_order
    theta, losses = first, []
    for k in range(steps):
        with torch.enable_grad():
            if not traced:
                theta = [p.detach() for p in theta]
            # Those that need no gradient of their own still need an inner one.
            theta = [p if p.requires_grad else p.detach().requires_grad_() for p in theta]
            loss = _loss(call, k, theta)
            grads = torch.autograd.grad(loss.sum(), theta, create_graph=exact)
        losses.append(loss if exact else loss.detach())
        if call.clips:
            grads = tuple(g.clamp(-call.clip_value, call.clip_value) for g in grads)
        with torch.set_grad_enabled(traced):
            theta = [
                p if i % layers < call.frozen_layers else p - _per_module(call.rates[k, :, i % layers], g) * g
                for i, (p, g) in enumerate(zip(theta, grads))
            ]
    theta = theta if traced else [p.detach() for p in theta]
    return Adapted(theta[:layers], theta[layers:], torch.stack(losses))


def _loss(call: AdaptCall, k: int, theta: list[Tensor]) -> Tensor:
    """Return the losses [M] of step k's samples."""
    layers, modules = len(theta) // 2, call.rates.shape[1]
    samples = [call.samples(k, m) for m in range(modules)]
    x = torch.cat([call.data.x[:0], *(own[0] for own in samples)])
    target = torch.cat([x.new_zeros(0, call.spec.out_dim), *(own[1] for own in samples)])
    weights = [own[2] for own in samples if own[2] is not None]
    counts = torch.tensor([0, *(len(own[0]) for own in samples)], device=x.device)
    offsets = counts.cumsum(0)
    y = bank_mlp(x, offsets, theta[:layers], theta[layers:], call.spec)
    return squared_error(y, offsets, target, torch.cat(weights) if weights else None, True)


def _per_module(rates: Tensor, like: Tensor) -> Tensor:
    """Return rates [M] as [M, 1, ...], to be multiplied with a tensor [M, ...]."""
    return rates.reshape(-1, *[1] * (like.dim() - 1))
