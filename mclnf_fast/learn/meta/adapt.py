"""Adapt a bank by gradient steps: the inner loop, in which every module goes its own way.

A loss function here is `loss_fn(params, step) -> [M]`, one loss per module. Modules share no parameter, so the
gradient of the sum of the losses is each module's own gradient, and one backward serves the whole meta-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int
from mclnf_fast.learn.meta.at_once import adapt_at_once, fine_tune_at_once
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.params import LossFn, Params, check_params, per_module
from mclnf_fast.ops.bank_step import StepKind


def adapt(
    params: Sequence[Tensor],
    loss_fn: LossFn,
    steps: int,
    lr: float | Tensor,
    *,
    first_order: bool = False,
    create_graph: bool = True,
    update: Sequence[bool] | None = None,
    clip_value: float | None = None,
) -> Params:
    """Return every module after gradient descent, differentiable in the initialization (MAML, arXiv 1703.03400, eq. 1).

        theta^(k+1) = theta^(k) - lr * grad L(theta^(k))

    All steps are one call of `ops.bank_adapt` if the loss is a `SampledLoss` and a compiled backend serves.

    Args:
        params: flat tuple of tensors [M, ...]; not changed.
        loss_fn: `(params, step) -> [M]`, step counted from 0.
        steps: at least 1.
        lr: one rate, or one per module [M] (which may itself require a gradient).
        first_order: leave out the derivative of the gradient; d theta^(K) / d theta^(0) is then the identity.
        create_graph: False to adapt only (at test time): nothing is kept, and the result carries no graph.
        update: one bool per tensor; those with False stay as they are (the slow part of OML). They stay
            connected to the initialization. None: all are updated.
        clip_value: clamp every gradient entry to [-clip_value, clip_value] (OML uses 10).

    Returns: the adapted parameters, same shapes. With `create_graph`, memory grows by the parameters and by
    what `loss_fn`'s graph holds each step; an op that recomputes in its backward (ops.bank_mlp) holds no
    activations.

    Raises: TypeError, ValueError, if an argument or the loss has another shape; RuntimeError from autograd,
    if the loss does not depend on an updated parameter.

    >>> params = (torch.tensor([[3.0], [-1.0]]),)
    >>> adapt(params, lambda p, step: (p[0] - 1.0).square().sum(1), steps=20, lr=0.2)[0].round(decimals=3).tolist()
    [[1.0], [1.0]]
    """
    theta = check_params(params)
    check_positive_int(steps, "steps")
    chosen = _check_update(update, len(theta))
    if clip_value is not None and not clip_value > 0:
        raise ValueError(f"clip_value must be above 0 or None, got {clip_value}")
    modules = theta[0].shape[0]
    if isinstance(lr, Tensor) and lr.shape not in ((), (modules,)):
        raise ValueError(f"lr must be a float or [{modules}], got {tuple(lr.shape)}")
    with torch.set_grad_enabled(create_graph and torch.is_grad_enabled()):
        made = adapt_at_once(
            theta, loss_fn, modules, steps, lr, first_order=first_order, update=update, clip_value=clip_value
        )
    if made is not None:
        return made[0]
    if create_graph:
        # An initialization that needs no gradient still needs an inner one.
        theta = tuple(p if p.requires_grad else p.detach().requires_grad_() for p in theta)
    exact = create_graph and not first_order
    # The rate as the weight of the losses: the derivative of `theta + step` is one tensor for both, that of
    # `theta - lr * gradient` two, each as large as the parameters.
    weighted = exact and clip_value is None and not (isinstance(lr, Tensor) and lr.requires_grad)
    for step in range(steps):
        with torch.enable_grad():
            if not create_graph:
                theta = tuple(p.detach().requires_grad_() for p in theta)
            # Older than the loss's graph, so that the backward comes to them after it: what it has to add up, the
            # gradient along the step and that along `theta` itself, it then adds in place.
            stay = [theta[i].view_as(theta[i]) for i in chosen] if weighted else []
            losses = check_losses(loss_fn(theta, step), modules)
            weights = -lr * torch.ones_like(losses) if weighted else torch.ones_like(losses)
            grads = torch.autograd.grad(losses, [theta[i] for i in chosen], weights, create_graph=exact)
        with torch.set_grad_enabled(create_graph):
            new = list(theta)
            for k, (i, g) in enumerate(zip(chosen, grads, strict=True)):
                g = g if clip_value is None else g.clamp(-clip_value, clip_value)
                if weighted:
                    new[i] = g.add_(stay[k]) if _is_ours(g) else stay[k] + g
                elif isinstance(lr, Tensor):
                    new[i] = theta[i] - (per_module(lr.to(g.dtype), g) if lr.dim() else lr) * g
                else:
                    new[i] = torch.sub(theta[i], g, alpha=lr)
            theta = tuple(new)
        del losses, grads, new, g, stay  # else held through the next step
    return theta if create_graph else tuple(p.detach() for p in theta)


def fine_tune(
    params: Sequence[Tensor],
    loss_fn: LossFn,
    steps: int,
    lr: float | Tensor,
    *,
    kind: StepKind = "sgd",
    betas: tuple[float, float] = (0.9, 0.999),
    lr_end: float | Tensor | None = None,
    callback: Callable[[int, Params, Tensor], None] | None = None,
) -> Params:
    """Adapt a bank without a graph, by SGD or Adam: the test-time and the Reptile inner loop.

    All steps are one call of `ops.bank_adapt` or `ops.bank_fit` if the loss is a `SampledLoss`, nobody is called back
    and a compiled backend serves.

    Args:
        params: flat tuple of tensors [M, ...]; not changed, the work is done on a copy.
        loss_fn: `(params, step) -> [M]`.
        steps: at least 1.
        lr: one rate or one per module [M].
        kind: "sgd" or "adam"; Adam starts from fresh moments.
        lr_end: the rate of the last step, to which that of the first falls by the same factor each step; None: it
            stays.
        callback: called after each step as `(steps made, parameters, losses [M] before that step)`. The
            parameters are changed in place by the next step: copy what is to be kept.

    Returns: the adapted parameters, detached. Raises: TypeError, ValueError.

    >>> params = (torch.tensor([[3.0], [-1.0]]),)
    >>> fine_tune(params, lambda p, step: (p[0] - 1.0).square().sum(1), 20, 0.2)[0].round(decimals=3).tolist()
    [[1.0], [1.0]]
    """
    check_positive_int(steps, "steps")
    if callback is None:
        made = fine_tune_at_once(check_params(params), loss_fn, steps, lr, kind, betas, lr_end)
        if made is not None:
            return made[0]
    theta = tuple(p.detach().clone(memory_format=torch.contiguous_format) for p in check_params(params))
    optimizer = BankOptimizer(theta, kind=kind, lr=lr, betas=betas)
    for step in range(steps):
        if lr_end is not None:
            # Over steps - 1, so that the last one has `lr_end` itself.
            optimizer.set_lr(lr * (lr_end / lr) ** (step / max(1, steps - 1)))
        with torch.enable_grad():
            leaves = tuple(p.detach().requires_grad_() for p in theta)  # share storage with theta
            losses = check_losses(loss_fn(leaves, step), theta[0].shape[0])
            grads = torch.autograd.grad(losses.sum(), leaves)
        optimizer.step(grads)
        if callback is not None:
            callback(step + 1, theta, losses.detach())
    return theta


def check_losses(losses: Tensor, modules: int, name: str = "loss_fn") -> Tensor:
    """Check that a loss function returned one loss per module, [M]. Raises: TypeError, ValueError."""
    if not isinstance(losses, Tensor):
        raise TypeError(f"{name} must return a tensor [{modules}], got {type(losses).__name__}")
    if losses.shape != (modules,):
        raise ValueError(f"{name} must return one loss per module, [{modules}], got {tuple(losses.shape)}")
    return losses


def _is_ours(gradient: Tensor) -> bool:
    """Whether it comes straight from an op of the engine, whose graph does not keep it: nobody else holds it then, and
    writing to it saves new memory as large as the parameters.
    """
    return "mclnf_fast" in type(gradient.grad_fn).__name__


def _check_update(update: Sequence[bool] | None, count: int) -> list[int]:
    if update is None:
        return list(range(count))
    if len(update) != count or not any(update):
        bools = f"{count} bools, one per parameter tensor, at least one True"
        raise ValueError(f"update must be {bools}, got {list(update)}")
    return [i for i, chosen in enumerate(update) if chosen]
