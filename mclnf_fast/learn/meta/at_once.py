"""Make all steps of an inner loop in one call of an op, where the loss gives the samples of its steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import BackendError
from mclnf_fast.learn.params import LossFn, Params, per_module
from mclnf_fast.learn.sampled import SampledLoss, StepSamples
from mclnf_fast.ops.bank_adapt import Batches
from mclnf_fast.ops.bank_fit import Draws, FitEnd, FitRule, FitState, Schedule, Watch
from mclnf_fast.ops.bank_step import StepKind


def adapt_at_once(
    params: Params,
    loss_fn: LossFn,
    modules: int,
    steps: int,
    lr: float | Tensor,
    *,
    first_order: bool = False,
    update: Sequence[bool] | None = None,
    clip_value: float | None = None,
) -> tuple[Params, Tensor] | None:
    """Return M modules after gradient descent, and the losses [K, M] before each step; None if `ops.bank_adapt` does
    not serve.

    Args: those of `learn.adapt`, checked; params [M, ...], or [1, ...] at which all modules begin.

    Raises ValueError if the loss is of another number of modules.
    """
    frozen = 0 if update is None else _frozen_layers(update)
    if not isinstance(loss_fn, SampledLoss) or frozen is None or not _serves("bank_adapt", loss_fn, params):
        return None
    samples, half = _samples(loss_fn, modules, steps), len(params) // 2
    weights, biases, losses = ops.bank_adapt(
        params[:half],
        params[half:],
        samples.data,
        loss_fn.spec,
        steps,
        lr.to(params[0].dtype) if isinstance(lr, Tensor) else lr,
        batches=Batches(samples.batch),
        frozen_layers=frozen,
        clip_value=clip_value,
        first_order=first_order,
        backend=loss_fn.backend,
    )
    return (*weights, *biases), losses


def adapts_at_once(loss_fn: LossFn, params: Params) -> bool:
    """Return whether `adapt_at_once` serves if all layers, or the last ones, are adapted."""
    return isinstance(loss_fn, SampledLoss) and _serves("bank_adapt", loss_fn, params)


@torch.no_grad()
def fine_tune_at_once(
    params: Params,
    loss_fn: LossFn,
    steps: int,
    lr: float | Tensor,
    kind: StepKind = "sgd",
    betas: tuple[float, float] = (0.9, 0.999),
    lr_end: float | Tensor | None = None,
) -> tuple[Params, Tensor] | None:
    """Return the fine-tuned modules, detached, and the losses [M] before the last step; None if no op serves.

    Args: those of `learn.fine_tune`, checked. Raises: as `adapt_at_once`.
    """
    if kind == "sgd":
        rates = lr if lr_end is None else _falling(lr, lr_end, steps, params[0])
        adapted = adapt_at_once(params, loss_fn, len(params[0]), steps, rates)
        if adapted is not None:
            return adapted[0], adapted[1][-1]
    if isinstance(lr, Tensor) or isinstance(lr_end, Tensor):  # a fit has one rate for all modules
        return None
    if not isinstance(loss_fn, SampledLoss) or not _serves("bank_fit", loss_fn, params):
        return None
    samples = _samples(loss_fn, len(params[0]), steps)
    state = FitState.begin([p.detach().clone(memory_format=torch.contiguous_format) for p in params], kind)
    schedule = Schedule(lr) if lr_end is None else Schedule(lr, "exponential", lr_end=lr_end, steps=steps)
    log = ops.bank_fit(
        state,
        samples.data,
        loss_fn.spec,
        steps,
        draws=_draws(samples, steps),
        rule=FitRule(schedule, kind, betas),
        watch=Watch(losses_at=(steps,)),
        backend=loss_fn.backend,
    )
    # It ends at its last finite state; a loop would go on to NaN, by which a caller knows that the rate was too large.
    lost = log.ends == int(FitEnd.DIVERGED)
    return tuple(p.masked_fill_(per_module(lost, p), torch.nan) for p in state.params), log.losses[0]


def _samples(loss_fn: SampledLoss, modules: int, steps: int) -> StepSamples:
    samples = loss_fn.samples(steps)
    if samples.modules != modules:
        raise ValueError(f"loss_fn must have one loss per module, [{modules}], got samples of {samples.modules}")
    return samples


def _falling(lr: float | Tensor, lr_end: float | Tensor, steps: int, like: Tensor) -> Tensor:
    """Return rates [K, M] that fall from `lr` to `lr_end` by the same factor each step."""
    first, last = (torch.as_tensor(r, dtype=torch.float64, device=like.device) for r in (lr, lr_end))
    # Over steps - 1, so that the last one has `lr_end` itself.
    share = torch.arange(steps, dtype=torch.float64, device=like.device)[:, None] / max(1, steps - 1)
    return (first * (last / first) ** share).expand(steps, len(like))


def _draws(samples: StepSamples, steps: int) -> Draws:
    """Return the draws of `ops.bank_fit` that take the next batch in every step."""
    if samples.batch is None:
        return Draws("whole")
    ids = torch.arange(steps * samples.batch, device=samples.data.x.device).reshape(steps, 1, samples.batch)
    return Draws("given", ids=ids.expand(-1, samples.modules, -1).contiguous())


def _frozen_layers(update: Sequence[bool]) -> int | None:
    """Return how many of the first layers stay as they are, weight and bias; None if others do."""
    half = len(update) // 2
    first = next((layer for layer in range(half) if update[layer]), half)
    layers = [layer >= first for layer in range(half)]
    return first if first < half and list(update) == layers + layers else None


def _serves(op: str, loss_fn: SampledLoss, params: Params) -> bool:
    """Return whether a compiled backend makes the steps: the reference would be the loop that it stands for."""
    device, dtype = params[0].device, params[0].dtype
    if device.type in ("cpu", "cuda") and torch.is_autocast_enabled(device.type):  # a loss is cast, a fit is not
        return False
    try:
        return ops.select(op, loss_fn.backend, device, dtype) != "reference"
    except BackendError:  # one that has no such op is asked for by name
        return False
