"""Fits for the tests: a bank, its samples, and the loop over steps that a fit must equal bit for bit."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast import ops
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.ops.bank_fit import Draws, FitData, FitLog, FitRule, FitState, Watch

SINE = mf.FieldSpec(2, 3, width=16, hidden_layers=2, activation="sine(10)")
RELU = mf.FieldSpec(2, 1, width=24, hidden_layers=1, encoding=mf.Frequency(3))


@dataclasses.dataclass
class Case:
    """A bank of fields with samples of different numbers, or shared coordinates."""

    spec: mf.FieldSpec
    params: tuple[Tensor, ...]
    data: FitData

    def state(self, kind: str = "adam") -> FitState:
        return FitState.begin([p.clone() for p in self.params], kind)  # type: ignore[arg-type]

    @property
    def layers(self) -> int:
        return len(self.params) // 2

    def sizes(self) -> list[int]:
        x, target, offsets, _ = self.data
        return [len(x)] * len(target) if offsets is None else offsets.diff().tolist()

    def trust(self, lam: float = 0.5) -> tuple[float, list[Tensor], list[Tensor]]:
        generator = torch.Generator().manual_seed(4)
        fisher = [torch.rand(p.shape, generator=generator, dtype=p.dtype) for p in self.params]
        return lam, fisher, [p + 0.05 * torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in self.params]


def make(
    spec: mf.FieldSpec = SINE,
    modules: int = 3,
    samples: int = 200,
    *,
    shared: bool = True,
    weighted: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Case:
    generator = torch.Generator().manual_seed(3)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=dtype)

    weights = [(2 * uniform(modules, *shape) - 1) * shape[0] ** -0.5 for shape in spec.layer_shapes]
    biases = [0.1 * (2 * uniform(modules, shape[1]) - 1) for shape in spec.layer_shapes]
    if shared:
        x, target, offsets = uniform(samples, spec.in_dim), uniform(modules, samples, spec.out_dim), None
    else:
        offsets = torch.tensor([0, *(samples + 7 * m for m in range(modules))]).cumsum(0)
        count = int(offsets[-1])
        x, target = uniform(count, spec.in_dim), uniform(count, spec.out_dim)
    weight = uniform(*target.shape[:-1]) if weighted else None
    return Case(spec, (*weights, *biases), FitData(2 * x - 1, target, offsets, weight))


def loop(case: Case, steps: int, draws: Draws, rule: FitRule, watch: Watch | None = None) -> tuple[FitState, FitLog]:
    """Make the steps one by one, with an op for each part of a step, module by module."""
    state, modules, watch = case.state(rule.kind), len(case.params[0]), watch or Watch()
    log = FitLog(
        case.data.x.new_full((len(watch.losses_at), modules), math.nan),
        [tuple(torch.full_like(p, math.nan) for p in case.params) for _ in watch.params_at],
        torch.zeros(modules, dtype=torch.int64),
        torch.full((modules,), math.nan, dtype=torch.float64),
    )
    sizes = torch.tensor(case.sizes())
    for m in range(modules):
        params = [p[m : m + 1].clone().requires_grad_() for p in state.params]
        trust = rule.trust and (rule.trust[0], *([t[m : m + 1] for t in ts] for ts in rule.trust[1:]))
        optimizer = BankOptimizer(params, "sgd", trust=trust)
        for k in range(steps):
            if k == rule.schedule.sgd_steps and rule.kind == "adam":
                optimizer = BankOptimizer(params, "adam", betas=rule.betas, eps=rule.eps, trust=trust)
            optimizer.set_lr(rule.schedule.rate(k))
            x, target, weight = case.data.module(m)
            if draws.rule == "given":
                assert draws.ids is not None
                ids = draws.ids[k, m]
            elif draws.rule != "whole":
                options = {"rule": draws.rule, "seed": draws.seed, "task": draws.task}
                ids = ops.draw_ids(sizes[m : m + 1], draws.batch, k, modules=torch.tensor([m]), **options)[0]
            if draws.rule != "whole":
                x, target, weight = x[ids], target[ids], None if weight is None else weight[ids]
            offsets = torch.tensor([0, len(x)])
            if draws.weights is not None:
                own = draws.weights[k, m]
                weight = own if weight is None else weight * own
            half = case.layers
            loss = ops.bank_mse(x, offsets, params[:half], params[half:], target, case.spec, weight)
            optimizer.step(torch.autograd.grad(loss.sum(), params))
            if k + 1 in watch.losses_at:
                log.losses[list(watch.losses_at).index(k + 1), m] = loss.detach()[0]
            if k + 1 in watch.params_at:
                for to, p in zip(log.params[list(watch.params_at).index(k + 1)], params):
                    to[m] = p.detach()[0]
        with torch.no_grad():
            for to, p in zip(state.params, params):
                to[m] = p[0]
        if rule.kind == "adam" and steps > rule.schedule.sgd_steps:
            saved = optimizer.state_dict()
            for i in range(len(params)):
                state.exp_avg[i][m], state.exp_avg_sq[i][m] = saved[f"exp_avg.{i}"][0], saved[f"exp_avg_sq.{i}"][0]
    state.steps += steps
    return state, log


def assert_same(a: FitState, b: FitState) -> None:
    """Bit for bit."""
    for name, value in a.tensors().items():
        assert torch.equal(value, b.tensors()[name]), name
