"""Fits with rounded operands where they are served, on a GPU too; who refuses them; and calls that do not wait."""

from __future__ import annotations

import dataclasses
from typing import Any

import fit_cases
import places
import pytest
import test_bank_ray_fit
import torch
from fit_cases import assert_same

import mclnf_fast as mf
from mclnf_fast.errors import BackendError
from mclnf_fast.ops.bank_fit import Draws, FitRule, FitState, Schedule, Watch, checked

UNIT = {"tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
HIDDEN = mf.FieldSpec(2, 3, width=64, hidden_layers=3, activation="sine(10)")


def rule(name: str) -> FitRule:
    return FitRule(Schedule(1.0), "sgd", precision=name)


def moved(case: Any, state: FitState) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(state.params, case.params, strict=True))


@places.backends("bank_fit_rounded", reference=False)
@pytest.mark.parametrize("name", UNIT)
def test_points_as_the_definition(need, backend: str, name: str) -> None:
    """One step of SGD, whose gradients differ from the definition's by far less than from those of fp32."""
    need("bank_fit_rounded", backend)
    case = fit_cases.make(HIDDEN, 3, 300)
    states = {}
    for who, precision in ((backend, name), ("reference", name), ("reference", "fp32")):
        states[who, precision] = case.state("sgd")
        mf.ops.bank_fit(
            states[who, precision], case.data, case.spec, 1, draws=Draws("whole"), rule=rule(precision), backend=who
        )
    ours, theirs, exact = states.values()
    near = max(float((a - b).abs().max()) for a, b in zip(ours.params, theirs.params, strict=True))
    far = max(float((a - b).abs().max()) for a, b in zip(exact.params, theirs.params, strict=True))
    assert near < UNIT[name] * moved(case, theirs)
    assert near < far / 2


@places.backends("bank_ray_fit_rounded", reference=False)
@pytest.mark.parametrize("name", UNIT)
@pytest.mark.parametrize("samples", [13, 130])
def test_rays_as_the_definition(need, backend: str, name: str, samples: int) -> None:
    need("bank_ray_fit_rounded", backend)
    case = test_bank_ray_fit.make(test_bank_ray_fit.VIEWS, samples_per_ray=samples)
    ours, theirs = case.state("sgd"), case.state("sgd")
    for state, who in ((ours, backend), (theirs, "reference")):
        test_bank_ray_fit.fit(case, state, 1, who, draws=Draws("whole"), rule=rule(name))
    near = max(float((a - b).abs().max()) for a, b in zip(ours.params, theirs.params, strict=True))
    assert near < UNIT[name] * moved(case, theirs)


@pytest.mark.parametrize("rays", [False, True])
def test_the_cpu_refuses_by_name_and_auto_rounds(need, rays: bool) -> None:
    """The reference serves, as no other may."""
    need("bank_fit", "cpu")
    case = test_bank_ray_fit.make() if rays else fit_cases.make()

    def fit(backend: str, name: str) -> FitState:
        state = case.state("sgd")
        data = case.rays if isinstance(case, test_bank_ray_fit.Case) else case.data
        how = dataclasses.replace(rule(name), schedule=Schedule(0.1))
        mf.ops.bank_fit(state, data, case.spec, 1, draws=Draws("whole"), rule=how, backend=backend)
        return state

    with pytest.raises(BackendError, match=r"rule\.precision.*rounded"):
        fit("cpu", "bf16")
    auto = fit("auto", "bf16")
    assert_same(auto, fit("reference", "bf16"))
    exact = fit("cpu", "fp32")
    assert any(not torch.equal(a, b) for a, b in zip(auto.params, exact.params, strict=True))


@pytest.mark.parametrize("wrong", ["half", "FP32", None, 3])
def test_unknown_precisions_are_refused(wrong: Any) -> None:
    case = fit_cases.make()
    with pytest.raises(ValueError, match=r"rule\.precision must be one of fp32, tf32, bf16, fp16"):
        mf.ops.bank_fit(case.state(), case.data, case.spec, 1, rule=FitRule(precision=wrong))


def test_how_many_rates_a_call_needs_is_known_without_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device whose numbers are not read: until somebody else changes them."""
    monkeypatch.setattr(checked, "values_can_be_read", lambda *tensors: False)
    case = fit_cases.make(samples=20)
    state = case.state("sgd")

    def call(steps: Any) -> int | None:
        rule = FitRule(kind="sgd")
        return checked.checked(state, case.data, case.spec, steps, Draws("whole"), rule, Watch()).last

    def fit(steps: Any) -> None:
        mf.ops.bank_fit(state, case.data, case.spec, steps, draws=Draws("whole"), rule=FitRule(kind="sgd"))

    assert call(5) == 5
    fit(3)
    assert call(5) == 8
    assert call(torch.tensor([1, 2, 3])) is None
    state.steps.fill_(70)
    assert call(5) is None
    fit(2)  # looks
    assert state.steps.tolist() == [72, 72, 72]
    assert call(1) is None
    state.steps = torch.zeros(3, dtype=torch.int64)
    assert call(1) is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
def test_a_call_does_not_wait(need) -> None:
    need("bank_fit", "cuda", device="cuda")
    with places.made_on("cuda"):
        case = fit_cases.make(samples=300)
        case = dataclasses.replace(
            case, params=tuple(places.put(p) for p in case.params), data=type(case.data)(*map(places.put, case.data))
        )
        state = case.state()
        how = {"draws": Draws("uniform", 64), "backend": "cuda"}
        mf.ops.bank_fit(state, case.data, case.spec, 4, **how)
        torch.cuda.set_sync_debug_mode("error")
        try:
            mf.ops.bank_fit(state, case.data, case.spec, 4, **how)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert state.steps.tolist() == [8, 8, 8]
