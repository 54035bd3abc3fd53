"""The definition of a fit in plain PyTorch: a loop over modules and steps."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclnf_fast.ops._rounding import operand
from mclnf_fast.ops.bank_fit.call import FitCall
from mclnf_fast.ops.bank_fit.guided_module import GuidedModule
from mclnf_fast.ops.bank_fit.types import FitLog, FitRays
from mclnf_fast.ops.bank_mlp import bank_mlp
from mclnf_fast.ops.bank_mlp.reference import mlp
from mclnf_fast.ops.bank_mse.reference import squared_error
from mclnf_fast.ops.bank_ray_mse.reference import ray_errors
from mclnf_fast.ops.bank_step import StepKind, Trust
from mclnf_fast.ops.bank_step.reference import bank_step
from mclnf_fast.ops.draw_ids.reference import draw_ids
from mclnf_fast.ops.march import march_rays
from mclnf_fast.packing import DrawRule, FitEnd, Precision

UNIT_BOX = ((-1.0,) * 3, (1.0,) * 3)


@torch.no_grad()
def bank_fit(call: FitCall) -> FitLog:
    """Make the steps of `mclnf_fast.ops.bank_fit`, one module after the other."""
    state, watch = call.state, call.watch
    modules, like = len(state.steps), call.data.x
    losses = like.new_full((len(watch.losses_at), modules), math.nan)
    params = [tuple(torch.full_like(p, math.nan) for p in state.params) for _ in watch.params_at]
    ends = torch.full((modules,), int(FitEnd.FROZEN), dtype=torch.int64, device=like.device)
    checked = torch.full((modules,), math.nan, dtype=torch.float64, device=like.device)
    log, rates = FitLog(losses, params, ends, checked), call.rates().tolist()
    for m in range(modules):
        if int(call.goal[m]) > int(state.steps[m]):
            ends[m] = int(_fit_module(call, m, rates, log))
    return log


def _fit_module(call: FitCall, m: int, rates: list[float], log: FitLog) -> FitEnd:
    """Make the steps of one module and return why it ends."""
    state, watch = call.state, call.watch
    one = slice(m, m + 1)
    params, exp_avg, exp_avg_sq = ([t[one] for t in ts] for ts in (state.params, state.exp_avg, state.exp_avg_sq))
    layers = len(params) // 2
    moving = [i for i in range(len(params)) if i % layers >= call.rule.frozen_layers]
    trust = call.trust and Trust(call.trust.lam, *([ts[i][one] for i in moving] for ts in call.trust[1:]))
    first = int(state.steps[m])
    guided = None if call.guide is None else GuidedModule(call, call.guide, m)
    for k in range(first, int(call.goal[m])):
        if guided is None:
            ids = _ids(call, m, k, k - first)
            weights = None if call.draws.weights is None else call.draws.weights[k - first, m]
        else:
            ids, weights = guided.draw(k)
        loss, gradients = _gradients(call, m, k, ids, weights, params)
        scored = None if guided is None else guided.scored(k, params, moving)
        grads = [gradients[i] for i in moving]
        if k + 1 in watch.losses_at:
            log.losses[list(watch.losses_at).index(k + 1), m] = loss
        kind: StepKind = "adam" if call.rule.kind == "adam" and k >= call.rule.schedule.sgd_steps else "sgd"
        first_moments, second = ([ts[i] for i in moving] if kind == "adam" else [] for ts in (exp_avg, exp_avg_sq))
        changed = [t.clone() for t in (*params, *exp_avg, *exp_avg_sq)]
        made = torch.full((1,), float(k - call.rule.schedule.sgd_steps), dtype=torch.float64, device=loss.device)
        rate = torch.full_like(made, rates[k])
        own = [params[i] for i in moving]
        bank_step(own, grads, first_moments, second, made, rate, None, kind, call.rule.betas, call.rule.eps, trust)
        after = (*params, *exp_avg, *exp_avg_sq)
        results = (loss, *grads, *after, *(scored or ()))
        if not all(bool(torch.isfinite(t).all()) for t in results):
            for t, before in zip(after, changed):
                t.copy_(before)
            return FitEnd.DIVERGED
        if guided is not None and scored is not None:
            guided.take_in(scored, moving)
        state.steps[m] = k + 1
        if k + 1 in watch.params_at:
            for to, p in zip(log.params[list(watch.params_at).index(k + 1)], params):
                to[one] = p
        if call.stop_loss is not None and (k + 1) % watch.check_every == 0:
            log.checked[m] = _loss(call, m, None, None, None, params).double()
            if bool(log.checked[m] <= call.stop_loss[m]):
                return FitEnd.TARGET
    return FitEnd.STEPS


def _ids(call: FitCall, m: int, k: int, row: int) -> Tensor | None:
    """Return the samples of step k, int64 [batch]; None: all of them."""
    if call.draw_rule == DrawRule.WHOLE:
        return None
    if call.draws.ids is not None:
        return call.draws.ids[row, m]
    size = call.data.sizes[m : m + 1].to(call.numbers.device)
    step = torch.full_like(size, k)
    draws = call.draws
    return draw_ids(size, call.numbers[m : m + 1], step, draws.batch, call.draw_rule, draws.seed, draws.task)[0]


def _loss(
    call: FitCall, m: int, k: int | None, ids: Tensor | None, weights: Tensor | None, params: list[Tensor]
) -> Tensor:
    """Return the loss of samples of a module; k: the step whose jitter rays have, None: none."""
    layers = len(params) // 2
    bank = params[:layers], params[layers:]
    if isinstance(call.data, FitRays):
        return _ray_loss(call.data.drawn(m, ids, weights), k, call, *bank)
    x, target, weight = call.data.module(m)
    if ids is not None:
        x, target, weight = x[ids], target[ids], None if weight is None else weight[ids]
    if weights is not None:
        weight = weights if weight is None else weight * weights
    offsets = torch.tensor([0, len(x)], device=x.device)
    y = _field(call, x, offsets, *bank, target.numel())
    return squared_error(y, offsets, target, weight, True)[0]


def _field(
    call: FitCall, x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], terms: int
) -> Tensor:
    """Return the outputs of the one module; terms: of the mean that its loss is."""
    if call.precision == Precision.FP32:
        return bank_mlp(x, offsets, weights, biases, call.spec, "reference")
    width, precision = call.spec.width, call.precision
    # The rows behind the hidden ones multiply features.
    hidden = [torch.cat((operand(w[0, :width], precision), w[0, width:])) for w in weights[1:]]
    # Gradients of a mean are as small as its terms are many, and fp16 has no small numbers.
    raised = float(1 << (terms - 1).bit_length()) if precision == Precision.FP16 else 1.0
    return mlp(x, [weights[0][0], *hidden], [b[0] for b in biases], call.spec, precision, raised)


def _ray_loss(rays: FitRays, k: int | None, call: FitCall, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
    """Return the loss of the rays of one module."""
    box = rays.origins.new_tensor(UNIT_BOX)
    jitter = rays.jitter and k is not None
    cut = march_rays(
        rays.origins,
        rays.directions,
        None,
        box,
        bins=rays.samples_per_ray,
        near=rays.near,
        far=rays.far,
        stratified=jitter,
        seed=k or 0,
        backend="reference",
    )
    t = (cut.t_starts + cut.t_ends) * 0.5
    x = rays.origins[cut.ray_ids] + rays.directions[cut.ray_ids] * t[:, None]
    if rays.view is not None:
        x = torch.cat((x, rays.view[cut.ray_ids]), 1)
    offsets = torch.tensor([0, len(x)], device=x.device)
    raw = _field(call, x, offsets, weights, biases, rays.colors.numel())
    first = torch.cat((cut.packed_info[:, 0], offsets[1:]))
    color = rays.shading.background_color
    background = None if color is None else x.new_tensor(color)
    deltas = cut.t_ends - cut.t_starts
    errors = ray_errors(
        raw, first, rays.offsets, deltas, rays.colors, rays.weight, background, rays.shading, True, "reference"
    )
    return errors[0]


def _gradients(
    call: FitCall, m: int, k: int, ids: Tensor | None, weights: Tensor | None, params: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return the loss of the samples and its gradients."""
    leaves = [p.detach().requires_grad_() for p in params]
    with torch.enable_grad():
        loss = _loss(call, m, k, ids, weights, leaves)
        grads = torch.autograd.grad(loss, leaves)
    return loss.detach(), list(grads)
