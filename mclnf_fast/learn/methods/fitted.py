"""Make many steps of a method in one call, where nothing but the samples decides them."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import BackendError, InputError
from mclnf_fast.learn.sampling.samplers import Sampler
from mclnf_fast.learn.task import FittedTask, fit_data
from mclnf_fast.ops.bank_fit import Draws, FitData, FitEnd, FitRule, Watch

MOST_GIVEN = 128  # steps whose ids are made before a call: they take 8 bytes per sample


if TYPE_CHECKING:
    from mclnf_fast.learn.methods.base import Method


def fit_steps(method: Method, k: int, most: int) -> int:
    """Make up to `most` steps on task k by `ops.bank_fit` and return how many; 0 if the next step is of another kind.

    Raises InputError, which names the signals, if a loss or a gradient is no longer finite.
    """
    task, first = cast(FittedTask, method.tasks[k]), method.made
    # The step from SGD to Adam begins another call: the moments are made there.
    count = min(most, method.warm - first) if first < method.warm else most
    data = fit_data(task)
    if data is None or not _serves(task, data):
        return 0
    draws = method.next_draws(k, count)
    if draws is None or (draws.ids is None and draws.batch > task.samples):
        return 0
    if draws.ids is not None:
        count = len(draws.ids)
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


def sampled_draws(method: Method, sampler: Sampler, k: int, most: int) -> Draws:
    """Return the draws of a sampler for the next steps, up to `most`, of a task whose items are its samples."""
    steps = range(method.made, method.made + min(most, MOST_GIVEN))
    drawn = [sampler.draw(method.config.batch, step, method.generator(k, step)) for step in steps]
    ids = torch.stack([ids for ids, _ in drawn])
    if all(weights is None for _, weights in drawn):
        return Draws("given", ids=ids)
    ones = torch.ones(ids.shape[1:], dtype=torch.float32)
    return Draws("given", ids=ids, weights=torch.stack([ones if w is None else w for _, w in drawn]))


def _serves(task: FittedTask, data: FitData) -> bool:
    """Return whether a compiled fit serves the task: the reference is a loop over modules."""
    try:
        return ops.select("bank_fit", task.backend, data.x.device, data.x.dtype) != "reference"
    except BackendError:  # one that has no fit is asked for by name
        return False
