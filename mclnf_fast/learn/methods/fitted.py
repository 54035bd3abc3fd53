"""Make many steps of a method in one call, where nothing but the samples decides them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.checks import values_can_be_read
from mclnf_fast.errors import BackendError, InputError
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.samplers import Sampler
from mclnf_fast.learn.task import FittedTask, Task, fit_data, listed
from mclnf_fast.ops.bank_fit import Draws, FitData, FitEnd, FitRays, FitRule, FitState, Guide, Watch

MOST_GIVEN = 128  # steps whose ids are made before a call: they take 8 bytes per sample
REPLAYED = 1 << 23  # added to a task's number where old samples are drawn in it: they are drawn beside the new ones
MOST_COPIED = 1 << 26  # bytes of parameters that a call copies on its way
MOST_RAYS = 1 << 18  # that lie in memory for a call: 36 bytes each, more with view directions


if TYPE_CHECKING:
    from mclnf_fast.learn.methods.base import Method


def fit_steps(method: Method, k: int, most: int, looks: Sequence[int] = ()) -> dict[int, Params] | None:
    """Make up to `most` steps on task k by `ops.bank_fit`; return the parameters after those of these steps that are
    named by `looks`, which ascend. None if the next step is of another kind: then none is made.

    Raises InputError, which names the signals, if a loss or a gradient is no longer finite; on a GPU, which is not
    waited for, `check_ends` does.
    """
    task, first = cast(FittedTask, method.tasks[k]), method.made
    # The step from SGD to Adam begins another call: the moments are made there.
    count = min(most, method.warm - first) if first < method.warm else most
    if not _serves(method, task):
        return None
    if len(looks) > (room := max(1, MOST_COPIED // sum(p.nbytes for p in method.params))):
        count = min(count, looks[room - 1] - first)
    draws = method.next_draws(k, count)
    if draws is None or (draws.ids is None and draws.batch > task.samples):
        return None
    if draws.ids is not None:
        count = len(draws.ids)
    data, draws = method.fit_samples(k, draws)
    draws = draws.to(method.params[0].device)  # samplers draw on the CPU: a seed means the same on every device
    optimizer = method.optimizer_at(k, first)
    kind, frozen = optimizer.kind, method.frozen_layers
    precision = method.config.precision
    rule = FitRule(method.schedule, kind, optimizer.betas, optimizer.eps, optimizer.trust, frozen, precision)
    looks = [step for step in looks if step <= first + count]
    state, watch = _state(method, optimizer.fit_state(first)), Watch(losses_at=(first + count,), params_at=looks)
    if draws.guide is not None and draws.guide.follows_scores:
        state.guide = method.guide_state()
    log = ops.bank_fit(state, data, task.spec, count, draws=draws, rule=rule, watch=watch, backend=task.backend)
    optimizer.count(count)
    optimizer.set_lr(method.schedule.rate(first + count - 1))
    method.ends.append((task.name, log.ends, state.steps))
    if values_can_be_read(log.ends):
        check_ends(method)
    method.losses = log.losses[0]
    method.made = first + count
    return dict(zip(looks, log.params, strict=True))


def check_ends(method: Method) -> None:
    """Raise InputError, which names the signals, if one of the calls since the last check has ended where a loss or a
    gradient was no longer finite; waits for the device."""
    ended, method.ends = method.ends, []
    for name, ends, made in ended:
        if diverged := [m for m, end in enumerate(ends.tolist()) if end == FitEnd.DIVERGED]:
            raise InputError(
                f"{name}: the loss or a gradient of signal {', '.join(map(str, diverged[:5]))} is no longer finite "
                f"after {min(int(made[m]) for m in diverged)} steps: choose smaller rates"
            )


def _state(method: Method, trained: FitState) -> FitState:
    """Return the state of all parameters from that of the trained ones, with nothing for the others' moments."""
    if method.frozen_layers == 0:
        return trained
    params = tuple(p.detach() for p in method.params)
    moving = [i % (len(params) // 2) >= method.frozen_layers for i in range(len(params))]

    def whole(moments: Sequence[Tensor]) -> tuple[Tensor, ...]:
        own = iter(moments)
        return tuple(next(own) if moves else torch.zeros_like(p) for p, moves in zip(params, moving)) if moments else ()

    state = FitState(params, whole(trained.exp_avg), whole(trained.exp_avg_sq), trained.steps)
    state.know(trained.most_steps)
    return state


def samples_of(task: Task, draws: Draws) -> tuple[FitData | FitRays, Draws]:
    """Return the samples of a task that `ops.bank_fit` serves, and the draws among them."""
    rays, data = listed(task), fit_data(task)
    if rays is None:
        assert data is not None
        return data, draws
    assert draws.ids is not None
    # Of rays those that are drawn alone are formed, one after the other.
    batch = rays.batch(draws.ids.flatten())
    rows = torch.arange(draws.ids.numel(), device=batch[0].device).reshape(draws.ids.shape)
    return rays.fit_rays(batch), dataclasses.replace(draws, ids=rows)


def drawn_ids(method: Method, k: int, step: int) -> Tensor:
    """Return the ids int64 [S, batch] of a step on task k, as `ops.bank_fit` draws them."""
    return _counted_ids(method, method.tasks[k].samples, range(step, step + 1), k)[0]


def replayed_ids(method: Method, k: int, steps: range, size: int) -> Tensor:
    """Return uniform ids int64 [K, S, batch] among `size` samples of old tasks for K steps on task k."""
    return _counted_ids(method, size, steps, k + REPLAYED)


def uniform_ids(method: Method, k: int, steps: range) -> Tensor:
    """Return uniform ids int64 [K, S, batch] for K steps on task k."""
    rays, batch = listed(method.tasks[k]), method.config.batch
    if rays is None:
        return _counted_ids(method, method.tasks[k].samples, steps, k)
    return torch.stack([rays.uniform_ids(batch, method.generator(k, step)) for step in steps])[:, None]


def _counted_ids(method: Method, size: int, steps: range, task: int) -> Tensor:
    """Return ids int64 [K, S, batch] by counted random numbers, as `ops.bank_fit` draws them from the task of this
    number."""
    signals, batch = method.tasks[0].modules, method.config.batch
    # All steps in one call, each signal in each of them as a module. On the CPU: a seed means the same on every device.
    step, signal = (t.flatten() for t in torch.meshgrid(torch.tensor(steps), torch.arange(signals), indexing="ij"))
    sizes = torch.full_like(step, size)
    ids = ops.draw_ids(sizes, batch, step, seed=method.draw_seed, task=task, modules=signal)
    return ids.reshape(len(steps), signals, batch)


def uniform_draws(method: Method, k: int, most: int) -> Draws:
    """Return uniform draws for the next steps, up to `most`, on a task that `ops.bank_fit` serves."""
    if listed(method.tasks[k]) is None:
        return Draws(batch=method.config.batch, seed=method.draw_seed, task=k)
    return Draws("given", ids=uniform_ids(method, k, next_steps(method, k, most)))


def guided_draws(method: Method, k: int, guide: Guide) -> Draws | None:
    """Return draws of the rule "guided" of `ops.bank_fit` on a task that it serves; None if the rule does not."""
    task, param, batch = cast(FittedTask, method.tasks[k]), method.params[0], method.config.batch
    if fit_data(task) is None or batch > task.samples or not _compiled("bank_guided_fit", task, param):
        return None
    if method.config.precision != "fp32":  # which no guided fit rounds to
        return None
    return Draws("guided", batch, method.draw_seed, k, guide=guide)


def sampled_draws(method: Method, sampler: Sampler, k: int, most: int, weighted: bool = True) -> Draws:
    """Return the draws of a sampler for the next steps, up to `most`, on a task that `ops.bank_fit` serves.

    weighted: whether the sampler's weights count; a task's own factors always do.
    """
    rays, batch, steps = listed(method.tasks[k]), method.config.batch, next_steps(method, k, most)
    generators = [method.generator(k, step) for step in steps]
    drawn = [sampler.draw(batch, step, generator) for step, generator in zip(steps, generators)]
    ids, weights = torch.stack([d[0] for d in drawn]), None
    if weighted and any(d[1] is not None for d in drawn):
        ones = torch.ones(ids.shape[1:], dtype=torch.float32, device=ids.device)
        weights = torch.stack([ones if d[1] is None else d[1] for d in drawn])
    if rays is not None:
        # Of all steps at once: on a GPU each step would be thirty launches.
        flat, factors = rays.ids_in(ids.flatten(), generators)
        ids = flat.reshape(ids.shape)
        if factors is not None:
            weights = factors.reshape(ids.shape) if weights is None else weights * factors.reshape(ids.shape)
    return Draws("given", ids=ids, weights=weights)


def next_steps(method: Method, k: int, most: int) -> range:
    """Return the numbers of the next steps on task k, up to `most`, whose samples are listed before a call."""
    room = MOST_RAYS // (method.batches * method.config.batch) if listed(method.tasks[k]) else MOST_GIVEN
    return range(method.made, method.made + min(most, MOST_GIVEN, max(1, room)))


def _serves(method: Method, task: FittedTask) -> bool:
    """Return whether a fit serves the task at the method's precision: a compiled one, since the reference is a loop
    over modules; but the reference too where it was asked to round, as a GPU's fit does then."""
    op = "bank_ray_fit" if listed(task) is not None else "bank_fit" if fit_data(task) is not None else None
    if op is not None and method.config.precision != "fp32":
        if task.backend == "reference":
            return True
        op += "_rounded"
    return op is not None and _compiled(op, task, method.params[0])


def _compiled(op: str, task: FittedTask, param: Tensor) -> bool:
    """Return whether a compiled backend of an op serves a task with such parameters."""
    try:
        return ops.select(op, task.backend, param.device, param.dtype) != "reference"
    except BackendError:  # one that does not serve is asked for by name
        return False
