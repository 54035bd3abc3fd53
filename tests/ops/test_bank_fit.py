"""Many steps in one call: the definition, the loop over steps, any cut into calls, and how a module ends."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import fit_cases
import places
import pytest
import torch
from fit_cases import RELU, SINE, assert_same

from mclnf_fast import ops
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.ops.bank_fit import Draws, FitData, FitEnd, FitLog, FitRule, FitState, Schedule, Watch

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_fit")
compiled = places.backends("bank_fit", reference=False)
# Whose bits are those of the loop: on a GPU sums have another order than in `bank_mse`.
bitwise = pytest.mark.parametrize("backend", [pytest.param(("cpu", "cpu"), id="cpu")], indirect=True)

GIVEN = torch.randint(0, 200, (9, 3, 33), generator=torch.Generator().manual_seed(1))
DRAWS = {
    "uniform": Draws("uniform", 40, seed=5, task=2),
    "odd batch": Draws("uniform", 37, seed=-1),
    "even": Draws("even", 40, seed=5),
    "whole": Draws("whole"),
    "given": Draws("given", ids=GIVEN),
    "given with weights": Draws("given", ids=GIVEN, weights=torch.rand(9, 3, 33) + 0.5),
}
SCHEDULES = {
    "constant": Schedule(1e-3),
    "warm": Schedule(2e-3, "hold", sgd_steps=3, sgd_lr=5e-2, ramp=4, hold=2, power=0.5),
    "exponential": Schedule(1e-2, "exponential", lr_end=1e-4, steps=9),
    "cosine": Schedule(1e-2, "cosine", sgd_steps=1, lr_end=0.0, steps=9),
}


def fit(case: fit_cases.Case, state: FitState, steps: Any, backend: str = "auto", **options: Any) -> FitLog:
    return ops.bank_fit(state, case.data, case.spec, steps, backend=backend, **options)


@bitwise
@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_bits_of_the_loop(need, backend: str, draws: str, schedule: str) -> None:
    """Parameters, moments, losses and copies on the way."""
    need("bank_fit", backend)
    case = fit_cases.make(shared=draws != "uniform", weighted=draws in ("even", "given with weights"))
    options = {"draws": DRAWS[draws], "rule": FitRule(SCHEDULES[schedule]), "watch": Watch((1, 4, 9), (3, 9))}
    expected, log = fit_cases.loop(case, 9, **options)
    state = case.state()
    result = fit(case, state, 9, backend, **options)
    assert_same(state, expected)
    assert torch.equal(result.losses, log.losses)
    for copied, known in zip(result.params, log.params, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(copied, known, strict=True))
    assert result.ends.tolist() == [FitEnd.STEPS] * 3


@bitwise
@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("trusted", [False, True])
@pytest.mark.parametrize("spec", [SINE, RELU], ids=["sine", "relu"])
def test_bits_of_the_loop_with_every_optimizer(need, backend: str, kind, dtype, trusted: bool, spec) -> None:
    need("bank_fit", backend, dtype)
    case = fit_cases.make(spec, shared=False, weighted=True, dtype=dtype)
    rule = FitRule(Schedule(1e-3), kind, (0.8, 0.99), 1e-6, case.trust() if trusted else None)
    draws = Draws("even", 50, seed=3)
    expected, _ = fit_cases.loop(case, 7, draws, rule)
    state = case.state(kind)
    fit(case, state, 7, backend, draws=draws, rule=rule)
    assert_same(state, expected)


@backends
@pytest.mark.parametrize("kind", ["adam", "sgd"])
@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_the_first_layers_can_stay(need, backend: str, kind: Any, frozen: int) -> None:
    """The others move as the loop over the steps moves them alone; the moments of those that stay are not touched."""
    need("bank_fit", backend)
    case = fit_cases.make(weighted=True)
    lam, fisher, anchor = case.trust()
    layers = case.layers
    moving = [i for i in range(len(case.params)) if i % layers >= frozen]
    state, wanted = case.state(kind), [p.clone() for p in case.params]
    trust = (lam, [fisher[i] for i in moving], [anchor[i] for i in moving])
    alone = BankOptimizer([wanted[i] for i in moving], kind, 1e-2, trust=trust)
    assert case.data.weight is not None
    for k in range(3):
        ids = ops.draw_ids(torch.full((3,), 200), 40, k, seed=5).to(case.data.x.device)
        leaves = [p.detach().requires_grad_() for p in wanted]
        rows = torch.arange(3, device=ids.device)[:, None]
        x, target = case.data.x[ids].flatten(0, 1), case.data.target[rows, ids].flatten(0, 1)
        offsets, weight = torch.arange(4, device=ids.device) * 40, case.data.weight[rows, ids].flatten()
        pair = leaves[:layers], leaves[layers:]
        loss = ops.bank_mse(x, offsets, *pair, target, case.spec, weight, backend="reference")
        alone.step(torch.autograd.grad(loss.sum(), [leaves[i] for i in moving]))
    rule = FitRule(Schedule(1e-2), kind, trust=(lam, fisher, anchor), frozen_layers=frozen)
    fit(case, state, 3, backend, draws=Draws("uniform", 40, seed=5), rule=rule)
    for i, (p, w) in enumerate(zip(state.params, wanted, strict=True)):
        torch.testing.assert_close(p, w, rtol=2e-3, atol=2e-5)
        assert torch.equal(p, case.params[i]) == (i not in moving)
        if kind == "adam":
            assert bool((state.exp_avg_sq[i] != 0).any()) == (i in moving)


@bitwise
@pytest.mark.parametrize("batch", [511, 513, 1100, 2048])
def test_bits_of_the_loop_with_large_batches(need, backend: str, batch: int) -> None:
    """Batches that are cut into runs, whose partial sums are added."""
    need("bank_fit", backend)
    case = fit_cases.make(modules=2, samples=2500)
    rule = FitRule(Schedule(1e-3))
    for draws in (Draws("uniform", batch), Draws("whole")):
        expected, _ = fit_cases.loop(case, 3, draws, rule)
        state = case.state()
        fit(case, state, 3, backend, draws=draws, rule=rule)
        assert_same(state, expected)


@backends
@pytest.mark.parametrize("draws", ["uniform", "even", "whole"])
def test_any_cut_into_calls(need, backend: str, draws: str) -> None:
    need("bank_fit", backend)
    case = fit_cases.make(shared=False)
    options = {"draws": DRAWS[draws], "rule": FitRule(SCHEDULES["warm"])}
    whole, cut = case.state(), case.state()
    fit(case, whole, 8, backend, **options)
    for steps in (1, 0, torch.tensor([4, 0, 5]), torch.tensor([3, 7, 2])):
        fit(case, cut, steps, backend, **options)
    assert_same(whole, cut)


@backends
@pytest.mark.parametrize("draws", ["uniform", "even"])
def test_a_module_is_the_same_alone(need, backend: str, draws: str) -> None:
    need("bank_fit", backend)
    case, rule = fit_cases.make(modules=5), FitRule(Schedule(1e-3))
    together = case.state()
    fit(case, together, 6, backend, draws=DRAWS[draws], rule=rule)
    state = FitState.begin([p[3:4].clone() for p in case.params])
    draws_alone = dataclasses.replace(DRAWS[draws], modules=torch.tensor([3]))
    ops.bank_fit(
        state, FitData(case.data.x, case.data.target[3:4]), case.spec, 6, draws=draws_alone, rule=rule, backend=backend
    )
    for alone, bank in zip(state.params, together.params, strict=True):
        assert torch.equal(alone[0], bank[3])


@bitwise
@pytest.mark.parametrize("modules", [1, 2, 3, 16])
def test_the_bits_of_any_number_of_threads(need, backend: str, modules: int) -> None:
    """Modules on a core each, and one large module on all of them."""
    need("bank_fit", backend)
    case, before = fit_cases.make(modules=modules, samples=2100), torch.get_num_threads()
    states = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            states.append(case.state())
            for draws in (Draws("uniform", 60), Draws("whole")):
                fit(case, states[-1], 40 if draws.rule == "uniform" else 3, backend, draws=draws)
    finally:
        torch.set_num_threads(before)
    for other in states[1:]:
        assert_same(states[0], other)


@compiled
@pytest.mark.parametrize("spec", [SINE, RELU], ids=["sine", "relu"])
@pytest.mark.parametrize("draws", ["uniform", "even", "whole", "given with weights"])
@pytest.mark.parametrize("trusted", [False, True])
def test_agrees_with_the_reference(need, backend: str, spec, draws: str, trusted: bool) -> None:
    """In fp64, where rounding leaves ten digits after a few steps of Adam."""
    need("bank_fit", backend, torch.float64)
    case = fit_cases.make(spec, shared=False, weighted=True, dtype=torch.float64)
    rule = FitRule(SCHEDULES["warm"], trust=case.trust() if trusted else None)
    chosen = DRAWS[draws].to(places.here())
    if chosen.weights is not None:
        chosen = dataclasses.replace(chosen, weights=chosen.weights.double())
    options = {"draws": chosen, "rule": rule, "watch": Watch((1, 6), (6,), stop_loss=0.0, check_every=3)}
    known, state = case.state(), case.state()
    log, result = fit(case, known, 6, "reference", **options), fit(case, state, 6, backend, **options)
    for a, b in zip(known.params, state.params, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(result.losses, log.losses, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(result.checked, log.checked, rtol=1e-10, atol=1e-12)
    for a, b in zip(log.params[0], result.params[0], strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-11)


@backends
def test_modules_stop_at_their_loss(need, backend: str) -> None:
    """The loss over all samples, at multiples of `check_every`; the others go on."""
    need("bank_fit", backend)
    case = fit_cases.make(samples=60)
    easy = FitData(case.data.x, torch.cat([torch.full((1, 60, 3), 0.5), case.data.target[1:]]))
    case = dataclasses.replace(case, data=easy)
    state = case.state()
    watch = Watch(stop_loss=torch.tensor([2e-2, 0.0, 0.0], dtype=torch.float64), check_every=5)
    log = fit(case, state, 40, backend, draws=Draws("uniform", 30), rule=FitRule(Schedule(1e-2)), watch=watch)
    assert log.modules(FitEnd.TARGET) == [0]
    assert log.modules(FitEnd.STEPS) == [1, 2]
    made = int(state.steps[0])
    assert made in range(5, 40, 5)
    assert state.steps[1:].tolist() == [40, 40]
    x, target, _ = case.data.module(0)
    half = case.layers
    first = [p[:1] for p in state.params]
    y = ops.bank_mlp(x, torch.tensor([0, 60]), first[:half], first[half:], case.spec)
    assert float((y - target).square().mean()) == pytest.approx(float(log.checked[0]), rel=1e-5)
    assert float(log.checked[0]) <= 2e-2
    assert float(log.checked[1]) > 0


@backends
def test_frozen_modules_are_not_touched(need, backend: str) -> None:
    need("bank_fit", backend)
    case = fit_cases.make()
    case.params[0][1] = math.nan
    state, before = case.state(), case.state()
    log = fit(case, state, torch.tensor([2, 0, 3]), backend, draws=Draws(batch=20))
    assert log.ends.tolist() == [FitEnd.STEPS, FitEnd.FROZEN, FitEnd.STEPS]
    assert state.steps.tolist() == [2, 0, 3]
    for a, b in zip(state.params, before.params, strict=True):
        assert torch.equal(a[1].nan_to_num(7.0), b[1].nan_to_num(7.0))
        assert not torch.equal(a[0], b[0])


@backends
@pytest.mark.parametrize("what", ["x", "target", "rate", "Adam's square"])
def test_a_module_that_diverges_keeps_its_last_finite_state(need, backend: str, what: str) -> None:
    need("bank_fit", backend)
    case = fit_cases.make(RELU if what == "rate" else SINE, shared=False)
    rule, first = FitRule(Schedule(1e-3)), int(case.data.offsets[1])
    if what == "x":
        case.data.x[first + 5] = math.nan
    elif what == "target":
        case.data.target[first + 5] = math.inf
    elif what == "rate":
        rule = FitRule(Schedule(1e30), "sgd")
    else:
        case.data.target[first : first + 40] = 1e19
    state = case.state(rule.kind)
    watch = Watch(losses_at=(1, 2, 3, 4, 5, 6, 7, 8))
    log = fit(case, state, 8, backend, draws=Draws("whole"), rule=rule, watch=watch)
    diverged = log.modules(FitEnd.DIVERGED)
    assert diverged == ([0, 1, 2] if what == "rate" else [1])
    for m in range(3):
        made = int(state.steps[m])
        assert made < 8 if m in diverged else made == 8
        if what in ("x", "target") and m in diverged:
            assert made == 0
            assert not math.isfinite(float(log.losses[0, m]))
    assert all(bool(torch.isfinite(t).all()) for t in (*state.params, *state.exp_avg, *state.exp_avg_sq))


@backends
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_trust_region_that_is_not_finite_ends_its_module(need, backend: str, value: float) -> None:
    """Wherever it stands among finite numbers: the step would leave parameters that are not finite."""
    need("bank_fit", backend)
    case = fit_cases.make()
    lam, fisher, anchor = case.trust()
    fisher[0][1, 0, 3] = value
    state = case.state()
    log = fit(case, state, 3, backend, draws=Draws("whole"), rule=FitRule(Schedule(1e-3), trust=(lam, fisher, anchor)))
    assert log.modules(FitEnd.DIVERGED) == [1]
    assert state.steps.tolist() == [3, 0, 3]
    assert all(bool(torch.isfinite(t).all()) for t in (*state.params, *state.exp_avg, *state.exp_avg_sq))


@backends
def test_nothing_to_do(need, backend: str) -> None:
    need("bank_fit", backend)
    case = fit_cases.make()
    state = case.state()
    log = fit(case, state, 0, backend)
    assert log.ends.tolist() == [FitEnd.FROZEN] * 3
    assert_same(state, case.state())
    empty = FitState.begin([p[:0] for p in case.params])
    log = ops.bank_fit(empty, FitData(case.data.x, case.data.target[:0]), SINE, 5, backend=backend)
    assert log.losses.shape == (0, 0)
    assert log.ends.shape == (0,)


@compiled
def test_tensors_of_any_stride(need, backend: str) -> None:
    need("bank_fit", backend)
    case = fit_cases.make()
    expected = case.state()
    fit(case, expected, 3, backend, draws=Draws(batch=20))
    strided = FitState.begin([torch.stack([p, p], -1)[..., 0] for p in case.params])
    data = FitData(torch.stack([case.data.x] * 2, -1)[..., 1], case.data.target.mT.contiguous().mT)
    ops.bank_fit(strided, data, case.spec, 3, draws=Draws(batch=20), backend=backend)
    assert_same(expected, strided)


@compiled
def test_learns(need, backend: str) -> None:
    """Sines of one to three periods, to 40 dB."""
    need("bank_fit", backend)
    x = torch.linspace(-1, 1, 64)[:, None]
    target = torch.stack([0.5 + 0.5 * torch.sin(math.pi * k * x) for k in (1, 2, 3)])
    case = fit_cases.make(dataclasses.replace(SINE, in_dim=1, out_dim=1), samples=64)
    case = dataclasses.replace(case, data=FitData(x, target))
    state = case.state()
    log = fit(case, state, 400, backend, draws=Draws("even", 32), rule=FitRule(Schedule(5e-3, "cosine", steps=400)),
              watch=Watch(losses_at=(1, 400)))  # fmt: skip
    assert bool((log.losses[0] > 1e-2).all()), log.losses
    assert bool((log.losses[1] < 1e-4).all()), log.losses


@compiled
@pytest.mark.parametrize("draws", ["uniform", "given"])
def test_opcheck(need, backend: str, draws: str) -> None:
    need("bank_fit", backend)
    case = fit_cases.make()
    state, half = case.state(), case.layers
    by_layer = [[t for l in range(half) for t in (ts[l], ts[half + l])] for ts in (state.params, *case.trust()[1:])]
    numbers, none, rates = torch.arange(3), torch.zeros(0, dtype=torch.int64), Schedule().rates(2).to(places.here())
    rule = {"uniform": (0, 20, None, None), "given": (3, 33, places.put(GIVEN), torch.rand(9, 3, 33))}[draws]
    arguments = (
        case.data.x, None, case.data.target, None, by_layer[0], [torch.zeros_like(t) for t in by_layer[0]],
        [torch.zeros_like(t) for t in by_layer[0]], state.steps, state.steps + 2, rates, 0, True, 0, 0.9,
        0.999, 1e-8, 0.5, by_layer[1], by_layer[2], *rule, 0, 0, numbers, torch.tensor([1]), none, None, 1,
        0, *case.spec.packed,
    )  # fmt: skip
    tests = ("test_schema", "test_faketensor", "test_autograd_registration")
    torch.library.opcheck(torch.ops.mclnf_fast.bank_fit.default, arguments, test_utils=tests)
