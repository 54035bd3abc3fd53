"""Fisher-guided draws within a fit: the formula, the definition, any cut into calls, and how a module ends."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import math
from typing import Any

import fit_cases
import places
import pytest
import torch
from fit_cases import RELU, SINE, assert_same
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.ops.bank_fit import (
    Draws,
    FitData,
    FitEnd,
    FitLog,
    FitRule,
    FitState,
    Guide,
    GuideState,
    Schedule,
    Watch,
)
from mclnf_fast.ops.draw_ids.reference import even_parts

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_guided_fit")
compiled = places.backends("bank_guided_fit", reference=False)
WARM = Schedule(2e-3, "hold", sgd_steps=3, sgd_lr=5e-2, ramp=4, hold=2, power=0.5)
STILL = FitRule(Schedule(0.0), "sgd")  # steps that change no parameter


def guide_of(case: fit_cases.Case, **options: Any) -> Guide:
    """With a curve of its own for every module, or one for all."""
    generator = torch.Generator().manual_seed(7)
    sizes = case.sizes() if case.data.offsets is not None else case.sizes()[:1]
    curve = torch.cat([torch.randperm(n, generator=generator) for n in sizes])
    return Guide(curve, **{"refresh": 5, "block": 8, "smooth": 0.3, **options})


def state_of(case: fit_cases.Case, guide: Guide, kind: str = "adam") -> FitState:
    state = case.state(kind)
    state.guide = GuideState.begin(state.params, case.data, guide) if guide.mix else None
    return state


def fit(case: fit_cases.Case, state: FitState, steps: Any, guide: Guide, backend: str = "auto", **more: Any) -> FitLog:
    draws = more.pop("draws", Draws(batch=40, seed=5, task=2))
    draws = dataclasses.replace(draws, rule="guided", guide=guide)
    return ops.bank_fit(state, case.data, case.spec, steps, draws=draws, backend=backend, **more)


def errors(case: fit_cases.Case, m: int) -> Tensor:
    """The weighted squared error of every sample of a module."""
    x, target, weight = case.data.module(m)
    layers, own = case.layers, [p[m : m + 1] for p in case.params]
    y = ops.bank_mlp(x, torch.tensor([0, len(x)]), own[:layers], own[layers:], case.spec, "reference")
    error = (y - target).square().mean(1)
    return error if weight is None else error * weight


@backends
@pytest.mark.parametrize("shared", [False, True])
def test_the_draws_and_their_weights_in_closed_form(need, backend: str, shared: bool) -> None:
    """By plain arithmetic with the running sum of p, for a module with unknown scores, one without any, and one with
    all; the loss of a step shows which samples it has and what they count."""
    need("bank_guided_fit", backend, torch.float64)
    case = fit_cases.make(shared=shared, weighted=True, dtype=torch.float64, samples=100)
    guide = guide_of(case, mix=0.7)
    state = state_of(case, guide, "sgd")
    assert state.guide is not None
    state.guide.scores[0, :5] = torch.tensor([9.0, 0.0, 1.0, 400.0, 2.5])
    state.guide.scores[2] = torch.arange(state.guide.scores.shape[1]).double() ** 2
    known = state.guide.scores.tolist()
    log = fit(case, state, 20, guide, backend, rule=STILL, watch=Watch(losses_at=(1, 16, 17)))
    assert guide.curve is not None
    for m, n in enumerate(case.sizes()):
        begin = 0 if shared else sum(case.sizes()[:m])
        curve, own = guide.curve[begin : begin + n], errors(case, m)
        scores = [known[m][i // 8] for i in range(n)]
        seen = [math.sqrt(q) for q in scores if q >= 0]
        roots = [math.sqrt(q) if q >= 0 else sum(seen) / max(1, len(seen)) for q in scores]
        p = [0.7 * r / sum(roots) + 0.3 / n for r in roots] if seen else [1 / n] * n
        sums = list(itertools.accumulate(p))
        for row, step in ((0, 0), (1, 15)):  # a window, which the scoring at steps 5 and 10 does not change
            parts = even_parts(5, 2, torch.tensor([m]), torch.tensor([step]), 40)[0] / (16 * 40)
            drawn = [min(bisect.bisect_right(sums, u), n - 1) for u in parts.tolist()]
            expected = sum(float(own[curve[i]]) / (n * p[i]) for i in drawn) / 40
            assert float(log.losses[row, m]) == pytest.approx(expected, rel=1e-9)
    window, scores = state.guide.window, state.guide.scores
    assert not torch.equal(window, torch.tensor(known, dtype=torch.float64))  # of step 16
    assert bool((scores[1] >= 0).any())


@compiled
def test_the_loss_of_a_step_is_an_unbiased_estimate(need, backend: str) -> None:
    """Of that of all samples, and a better one than that of uniform draws."""
    need("bank_guided_fit", backend)
    case = fit_cases.make(samples=150)
    case.data.target[:, :40] += 2.0  # where there is much to learn
    guide = dataclasses.replace(guide_of(case, mix=0.8), curve=None)
    steps = 16 * 100
    watch = Watch(losses_at=range(161, steps + 1))
    log = fit(case, state_of(case, guide, "sgd"), steps, guide, backend, rule=STILL, watch=watch)
    uniform = ops.bank_fit(case.state("sgd"), case.data, case.spec, steps, draws=Draws(batch=40), rule=STILL,
                           watch=watch, backend=backend)  # fmt: skip
    for m in range(3):
        windows = log.losses[:, m].double().reshape(-1, 16).mean(1)
        difference = abs(float(windows.mean() - errors(case, m).mean()))
        assert difference < 4 * float(windows.std()) / len(windows) ** 0.5 + 1e-6
        assert float(log.losses[:, m].std()) < 0.5 * float(uniform.losses[:, m].std())


@compiled
@pytest.mark.parametrize("spec", [SINE, RELU], ids=["sine", "relu"])
@pytest.mark.parametrize(("shared", "weighted", "trusted"), [(True, False, False), (False, True, True)])
@pytest.mark.parametrize("refresh", [1, 5, 16, 21])
def test_agrees_with_the_reference(need, backend: str, spec, shared, weighted, trusted, refresh: int) -> None:
    """In fp64, where every draw is the same and rounding leaves nine digits after two windows."""
    need("bank_guided_fit", backend, torch.float64)
    case = fit_cases.make(spec, shared=shared, weighted=weighted, dtype=torch.float64)
    guide = guide_of(case, refresh=refresh)
    options = {"rule": FitRule(WARM, trust=case.trust() if trusted else None),
               "watch": Watch((1, 6, 40), stop_loss=0.0, check_every=20)}  # fmt: skip
    known, state = state_of(case, guide), state_of(case, guide)
    log, result = (fit(case, s, 40, guide, b, **options) for s, b in ((known, "reference"), (state, backend)))
    assert known.guide is not None
    assert known.guide.batches.tolist() == [-(-40 // refresh)] * 3
    for name, value in known.tensors().items():
        torch.testing.assert_close(state.tensors()[name], value, rtol=1e-9, atol=1e-11, msg=name)
    torch.testing.assert_close(result.losses, log.losses, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.checked, log.checked, rtol=1e-10, atol=1e-12)


@compiled
@pytest.mark.parametrize("frozen", [1, 2])
def test_layers_that_stay_are_not_scored(need, backend: str, frozen: int) -> None:
    need("bank_guided_fit", backend, torch.float64)
    case = fit_cases.make(dtype=torch.float64)
    guide, rule = guide_of(case), FitRule(Schedule(1e-3), frozen_layers=frozen)
    states = [state_of(case, guide) for _ in range(2)]
    for state, name in zip(states, ("reference", backend)):
        assert state.guide is not None
        state.guide.batches += 1
        for f in state.guide.fisher:
            f.fill_(0.5)
        fit(case, state, 20, guide, name, rule=rule)
    for name, value in states[0].tensors().items():
        torch.testing.assert_close(states[1].tensors()[name], value, rtol=1e-9, atol=1e-11, msg=name)
    for i, f in enumerate(states[1].guide.fisher):
        assert bool((f != 0.5).any()) == (i % case.layers >= frozen)


@compiled
@pytest.mark.parametrize("batch", [513, 1100])
def test_large_batches(need, backend: str, batch: int) -> None:
    """That are cut into runs, whose partial sums are added."""
    need("bank_guided_fit", backend, torch.float64)
    case = fit_cases.make(modules=2, samples=1500, dtype=torch.float64)
    guide, draws = guide_of(case, refresh=2), Draws(batch=batch)
    states = [state_of(case, guide) for _ in range(2)]
    for state, name in zip(states, ("reference", backend)):
        fit(case, state, 5, guide, name, draws=draws)
    for name, value in states[0].tensors().items():
        torch.testing.assert_close(states[1].tensors()[name], value, rtol=1e-9, atol=1e-11, msg=name)


@backends
@pytest.mark.parametrize("refresh", [1, 5, 16])
def test_any_cut_into_calls(need, backend: str, refresh: int) -> None:
    """Also where each call's state comes from its named tensors, as after a stop."""
    need("bank_guided_fit", backend)
    case = fit_cases.make(shared=False)
    guide = guide_of(case, refresh=refresh)
    whole, cut = state_of(case, guide), state_of(case, guide)
    fit(case, whole, 40, guide, backend, rule=FitRule(WARM))
    for steps in (1, 0, torch.tensor([14, 0, 15]), torch.tensor([0, 18, 1]), torch.tensor([25, 21, 23])):
        saved = {name: t.clone() for name, t in cut.tensors().items()}
        cut = state_of(case, guide)
        for name, t in cut.tensors().items():
            t.copy_(saved[name])
        fit(case, cut, steps, guide, backend, rule=FitRule(WARM))
    assert_same(whole, cut)


@backends
def test_a_module_is_the_same_alone(need, backend: str) -> None:
    need("bank_guided_fit", backend)
    case = fit_cases.make(modules=4)
    guide = guide_of(case)
    together = state_of(case, guide)
    fit(case, together, 36, guide, backend)
    one = fit_cases.Case(
        case.spec, tuple(p[3:4].clone() for p in case.params), FitData(case.data.x, case.data.target[3:4])
    )
    alone = state_of(one, guide)
    fit(one, alone, 36, guide, backend, draws=Draws(batch=40, seed=5, task=2, modules=torch.tensor([3])))
    for name, value in alone.tensors().items():
        assert torch.equal(value[0], together.tensors()[name][3]), name


@pytest.mark.parametrize("backend", [pytest.param(("cpu", "cpu"), id="cpu")], indirect=True)
@pytest.mark.parametrize("modules", [1, 3, 16])
def test_the_bits_of_any_number_of_threads(need, backend: str, modules: int) -> None:
    """Modules on a core each, and one with a large batch on all of them."""
    need("bank_guided_fit", backend)
    case, before, states = fit_cases.make(modules=modules, samples=2100), torch.get_num_threads(), []
    guide = guide_of(case)
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            states.append(state_of(case, guide))
            fit(case, states[-1], 40, guide, backend, draws=Draws(batch=60))
            fit(case, states[-1], 7, guide, backend, draws=Draws(batch=2000))
    finally:
        torch.set_num_threads(before)
    for other in states[1:]:
        assert_same(states[0], other)


@backends
def test_without_a_share_of_scores_the_draws_are_even_along_the_curve(need, backend: str) -> None:
    need("bank_guided_fit", backend)
    case = fit_cases.make(shared=False, weighted=True)
    guide = guide_of(case, mix=0.0)
    assert guide.curve is not None
    rows = guide.curve + torch.repeat_interleave(case.data.offsets[:-1], case.data.sizes)
    moved = FitData(case.data.x[rows], case.data.target[rows], case.data.offsets, case.data.weight[rows])
    expected, state = case.state(), case.state()
    ops.bank_fit(expected, moved, case.spec, 20, draws=Draws("even", 40, seed=5, task=2), backend=backend)
    fit(case, state, 20, guide, backend)
    assert_same(state, expected)


@backends
def test_modules_stop_at_their_loss_and_frozen_ones_are_not_touched(need, backend: str) -> None:
    need("bank_guided_fit", backend)
    case = fit_cases.make(samples=60)
    case.data.target[0] = 0.5
    guide = guide_of(case, refresh=4)
    state = state_of(case, guide)
    watch = Watch(stop_loss=torch.tensor([2e-2, 0.0, 0.0], dtype=torch.float64), check_every=5)
    log = fit(case, state, torch.tensor([40, 0, 9]), guide, backend, rule=FitRule(Schedule(1e-2)), watch=watch,
              draws=Draws(batch=30))  # fmt: skip
    assert log.ends.tolist() == [FitEnd.TARGET, FitEnd.FROZEN, FitEnd.STEPS]
    assert state.guide is not None
    made = int(state.steps[0])
    assert made in range(5, 40, 5)
    assert state.guide.batches.tolist() == [-(-made // 4), 0, 3]
    before = state_of(case, guide)
    for name, value in before.tensors().items():
        assert torch.equal(state.tensors()[name][1], value[1]), name


@backends
@pytest.mark.parametrize("what", ["target", "square"])
def test_a_module_that_diverges_keeps_its_last_finite_state(need, backend: str, what: str) -> None:
    """Also if it is the squares alone, of a step that scores, that are too large."""
    need("bank_guided_fit", backend)
    case = fit_cases.make(shared=False)
    first, second = (int(v) for v in case.data.offsets[1:3])
    guide = guide_of(case)
    rule = FitRule(Schedule(1e-30), "sgd")
    state, known = state_of(case, guide, "sgd"), state_of(case, guide, "sgd")
    for s in (state, known):
        fit(case, s, 10, guide, backend, rule=rule)
    case.data.target[first:second] = math.nan if what == "target" else 1e18
    log = fit(case, state, 5, guide, backend, rule=rule, watch=Watch(losses_at=(11,)))
    assert bool(log.losses[0, 1].isfinite()) == (what == "square")
    assert log.ends.tolist() == [FitEnd.STEPS, FitEnd.DIVERGED, FitEnd.STEPS]
    assert state.steps.tolist() == [15, 10, 15]
    for name, value in known.tensors().items():
        assert torch.equal(state.tensors()[name][1], value[1]), name


@compiled
def test_learns_more_where_there_is_more_to_learn(need, backend: str) -> None:
    """Blocks with a fine pattern come to higher scores than those that are flat."""
    need("bank_guided_fit", backend)
    x = torch.linspace(-1, 1, 256)[:, None]
    target = torch.where(x > 0, 0.5 + 0.5 * torch.sin(60 * x), 0.5)[None]
    case = fit_cases.make(dataclasses.replace(SINE, in_dim=1, out_dim=1), modules=1, samples=256)
    case = dataclasses.replace(case, data=FitData(x, target))
    guide = Guide(refresh=4)
    state = state_of(case, guide)
    fit(case, state, 200, guide, backend, rule=FitRule(Schedule(1e-3)))
    assert state.guide is not None
    scores = state.guide.scores[0]
    assert float(scores[8:].mean()) > 3 * float(scores[:8].mean())


@compiled
def test_tensors_of_any_stride(need, backend: str) -> None:
    need("bank_guided_fit", backend)
    case = fit_cases.make()
    guide = guide_of(case)
    expected, strided = state_of(case, guide), state_of(case, guide)
    own = strided.guide
    assert own is not None
    pairs = {name: torch.stack([t, t], -1)[..., 0] for name, t in own.tensors().items() if "fisher" not in name}
    fisher = tuple(torch.stack([t, t], -1)[..., 1] for t in own.fisher)
    strided.guide = GuideState(**pairs, fisher=fisher)
    wide = dataclasses.replace(guide, curve=torch.stack([guide.curve] * 2, -1)[:, 0])
    fit(case, expected, 20, guide, backend)
    fit(case, strided, 20, wide, backend)
    assert_same(expected, strided)


@compiled
@pytest.mark.parametrize("mix", [0.8, 0.0])
def test_opcheck(need, backend: str, mix: float) -> None:
    need("bank_guided_fit", backend)
    case = fit_cases.make()
    guide, half = guide_of(case, mix=mix), case.layers
    state = state_of(case, guide)
    by_layer = [t for l in range(half) for t in (state.params[l], state.params[half + l])]
    own = state.guide or GuideState(torch.zeros(3, 0).double(), torch.zeros(3, 0).double(), (), torch.zeros(3).long())
    fisher = [t for l in range(half) for t in (own.fisher[l], own.fisher[half + l])] if mix else []
    numbers, none, rates = torch.arange(3), torch.zeros(0, dtype=torch.int64), Schedule().rates(2)
    arguments = (
        case.data.x, None, case.data.target, None, guide.curve, own.scores, own.window, own.batches, fisher, mix, 0.3,
        8, 5, 0.9, 1e-3, by_layer, [torch.zeros_like(t) for t in by_layer], [torch.zeros_like(t) for t in by_layer],
        state.steps, state.steps + 2, rates, 0, True, 0, 0.9, 0.999, 1e-8, 0.0, [], [], 4, 20, None, None, 0, 0,
        numbers, torch.tensor([1]), none, None, 1, 0, *case.spec.packed,
    )  # fmt: skip
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.mclnf_fast.bank_guided_fit.default, arguments, test_utils=tests)
