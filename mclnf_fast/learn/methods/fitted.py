"""Make many steps of a method in one call, where nothing but the samples decides them."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import BackendError, InputError
from mclnf_fast.learn.sampling.samplers import Sampler
from mclnf_fast.learn.task import FittedTask, fit_data, listed
from mclnf_fast.ops.bank_fit import Draws, FitData, FitEnd, FitRays, FitRule, Watch

MOST_GIVEN = 128  # steps whose ids are made before a call: they take 8 bytes per sample
MOST_RAYS = 1 << 18  # that lie in memory for a call: 36 bytes each, more with view directions


if TYPE_CHECKING:
    from mclnf_fast.learn.methods.base import Method


def fit_steps(method: Method, k: int, most: int) -> int:
    """Make up to `most` steps on task k by `ops.bank_fit` and return how many; 0 if the next step is of another kind.

    Raises InputError, which names the signals, if a loss or a gradient is no longer finite.
    """
    task, first = cast(FittedTask, method.tasks[k]), method.made
    # The step from SGD to Adam begins another call: the moments are made there.
    count = min(most, method.warm - first) if first < method.warm else most
    if not _serves(task, method.params[0]):
        return 0
    draws = method.next_draws(k, count)
    if draws is None or (draws.ids is None and draws.batch > task.samples):
        return 0
    data: FitData | FitRays | None = fit_data(task)
    if draws.ids is not None:
        count = len(draws.ids)
        if (rays := listed(task)) is not None:
            data = rays.fit_rays(draws.ids.flatten())
            draws = dataclasses.replace(draws, ids=torch.arange(draws.ids.numel()).reshape(draws.ids.shape))
    assert data is not None
    draws = draws.to(method.params[0].device)  # samplers draw on the CPU: a seed means the same on every device
    optimizer = method.optimizer_at(k, first)
    rule = FitRule(method.schedule, optimizer.kind, optimizer.betas, optimizer.eps, optimizer.trust)
    state, watch = optimizer.fit_state(first), Watch(losses_at=(first + count,))
    log = ops.bank_fit(state, data, task.spec, count, draws=draws, rule=rule, watch=watch, backend=task.backend)
    optimizer.count(count)
    optimizer.set_lr(method.schedule.rate(first + count - 1))
    if diverged := log.modules(FitEnd.DIVERGED):
        steps = [int(state.steps[m]) for m in diverged]
        raise InputError(
            f"{task.name}: the loss or a gradient of signal {', '.join(map(str, diverged[:5]))} is no longer finite "
            f"after {min(steps)} steps: choose smaller rates"
        )
    method.losses = log.losses[0]
    method.made = first + count
    return count


def drawn_ids(method: Method, k: int, step: int) -> Tensor:
    """Return the ids int64 [S, batch] of a step on task k, as `ops.bank_fit` draws them."""
    task = method.tasks[k]
    sizes = torch.full((task.modules,), task.samples)  # on the CPU: a seed means the same on every device
    return ops.draw_ids(sizes, method.config.batch, step, seed=method.draw_seed, task=k)


def uniform_draws(method: Method, k: int, most: int) -> Draws:
    """Return uniform draws for the next steps, up to `most`, on a task that `ops.bank_fit` serves."""
    task, batch = method.tasks[k], method.config.batch
    rays = listed(task)
    if rays is None:
        return Draws(batch=batch, seed=method.draw_seed, task=k)
    ids = [rays.uniform_ids(batch, method.generator(k, step)) for step in _next_steps(method, most, True)]
    return Draws("given", ids=torch.stack(ids)[:, None])


def sampled_draws(method: Method, sampler: Sampler, k: int, most: int, weighted: bool = True) -> Draws:
    """Return the draws of a sampler for the next steps, up to `most`, on a task that `ops.bank_fit` serves.

    weighted: whether the sampler's weights count; a task's own factors always do.
    """
    rays, batch = listed(method.tasks[k]), method.config.batch
    all_ids, all_weights = [], []
    for step in _next_steps(method, most, rays is not None):
        generator = method.generator(k, step)
        ids, weights = sampler.draw(batch, step, generator)
        weights = weights if weighted else None
        if rays is not None:
            flat, factors = rays.ids_in(ids[0], generator)
            ids = flat[None]
            if factors is not None:
                weights = factors[None] if weights is None else weights * factors[None]
        all_ids.append(ids)
        all_weights.append(weights)
    ids = torch.stack(all_ids)
    if all(weights is None for weights in all_weights):
        return Draws("given", ids=ids)
    ones = torch.ones(ids.shape[1:], dtype=torch.float32)
    return Draws("given", ids=ids, weights=torch.stack([ones if w is None else w for w in all_weights]))


def _next_steps(method: Method, most: int, rays: bool) -> range:
    """Return the numbers of the next steps, up to `most`, whose samples are listed before a call."""
    room = max(1, MOST_RAYS // method.config.batch) if rays else MOST_GIVEN
    return range(method.made, method.made + min(most, MOST_GIVEN, room))


def _serves(task: FittedTask, param: Tensor) -> bool:
    """Return whether a compiled fit serves the task: the reference is a loop over modules."""
    op = "bank_ray_fit" if listed(task) is not None else "bank_fit" if fit_data(task) is not None else None
    if op is None:
        return False
    try:
        return ops.select(op, task.backend, param.device, param.dtype) != "reference"
    except BackendError:  # one that has no fit is asked for by name
        return False
