"""A fit by the compiled libraries: an op for points and one for rays, on the CPU and on CUDA."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._constants import constant, held, uploaded
from mclnf_fast.ops.bank_fit.call import FitCall
from mclnf_fast.ops.bank_fit.types import FitData, FitLog, FitRays
from mclnf_fast.ops.bank_ray_mse.autograd import packed
from mclnf_fast.ops.bank_step import Trust
from mclnf_fast.ops.draw_ids.api import wrapped_seed

OPS = torch.ops.mclnf_fast
"""The libraries' ops; tests put those of the emulated CUDA library here."""


def bank_fit(call: FitCall) -> FitLog:
    """Make the steps of `mclnf_fast.ops.bank_fit` on points, in one call on their device."""
    data = call.data
    assert isinstance(data, FitData)
    own = (data.x, data.offsets, data.target, data.weight)
    return _log(call, OPS.bank_fit(*own, *_steps(call), *call.spec.packed))


def bank_guided_fit(call: FitCall) -> FitLog:
    """Make the steps of `mclnf_fast.ops.bank_fit` on points with the draw rule "guided", in one call."""
    data, guide, state = call.data, call.guide, call.state.guide
    assert isinstance(data, FitData)
    assert guide is not None
    none = torch.zeros(len(call.goal), 0, dtype=torch.float64, device=data.x.device)
    changed: tuple[Any, ...] = (none, none.clone(), torch.zeros_like(call.goal), [])
    if state is not None:
        changed = (state.scores, state.window, state.batches, call.by_layer(state.fisher))
        torch.autograd.graph.increment_version(tuple(state.tensors().values()))
    return _log(
        call,
        OPS.bank_guided_fit(
            *(data.x, data.offsets, data.target, data.weight, guide.curve),
            *changed,
            *(guide.mix, guide.smooth, guide.block, guide.refresh, guide.decay, guide.damping),
            *_steps(call),
            *call.spec.packed,
        ),
    )


def bank_ray_fit(call: FitCall) -> FitLog:
    """Make the steps of `mclnf_fast.ops.bank_fit` on rays, in one call."""
    rays = call.data
    assert isinstance(rays, FitRays)
    color = rays.shading.background_color
    own = (rays.origins, rays.directions, rays.view, rays.offsets, rays.colors, rays.weight)
    cut = (rays.samples_per_ray, rays.near, rays.far, rays.jitter)
    return _log(
        call,
        OPS.bank_ray_fit(
            *own,
            None if color is None else constant(color, rays.origins),
            *cut,
            *packed(rays.shading, rays.origins.dtype),
            *_steps(call),
            *call.spec.packed,
        ),
    )


def _steps(call: FitCall) -> tuple[Any, ...]:
    """Return the arguments `STEPS` of the compiled ops, which change the state."""
    state, rule, device = call.state, call.rule, call.data.x.device
    trust = call.trust or Trust(0.0, (), ())
    lists = [call.by_layer(t) for t in (state.params, state.exp_avg, state.exp_avg_sq)]
    torch.autograd.graph.increment_version((*state.params, *state.exp_avg, *state.exp_avg_sq, state.steps))
    return (
        *lists,
        state.steps,
        call.goal,
        call.rates(device),
        rule.schedule.sgd_steps,
        rule.kind == "adam",
        rule.frozen_layers,
        *rule.betas,
        rule.eps,
        trust.lam,
        call.by_layer(trust.fisher),
        call.by_layer(trust.anchor),
        int(call.draw_rule),
        call.batch,
        call.draws.ids,
        call.draws.weights,
        wrapped_seed(call.draws.seed),
        call.draws.task,
        call.numbers,
        held(_numbers(tuple(call.watch.losses_at), device)),
        held(_numbers(tuple(call.watch.params_at), device)),
        call.stop_loss,
        call.watch.check_every,
        int(call.precision),
    )


# On their device, since a copy to it would wait for what runs there.
@functools.lru_cache(maxsize=32)
def _numbers(numbers: tuple[int, ...], device: torch.device) -> Tensor:
    return uploaded(torch.tensor(numbers, dtype=torch.int64), device)


def _log(call: FitCall, results: tuple[Any, ...]) -> FitLog:
    losses, snapshots, ends, checked = results
    size = len(call.state.params)
    params = [call.by_kind(snapshots[i : i + size]) for i in range(0, len(snapshots), size)]
    return FitLog(losses, params, ends, checked)
