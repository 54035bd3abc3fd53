"""What a fit refuses, by the name of the argument and with nothing changed; rates in closed form."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import fit_cases
import pytest
import torch
from fit_cases import SINE, assert_same

from mclnf_fast import ops
from mclnf_fast.ops.bank_fit import Draws, FitEnd, FitRule, FitState, Schedule, Watch

pytestmark = pytest.mark.usefixtures("poisoned")

GIVEN = torch.randint(0, 200, (9, 3, 33), generator=torch.Generator().manual_seed(1))


def changed(case: fit_cases.Case, **options: Any) -> dict[str, Any]:
    call = {"state": case.state(), "data": case.data, "spec": case.spec, "steps": 2, "draws": Draws(batch=20)}
    return {**call, **options}


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "draws.batch must be at most the 200 samples of module 0", {"draws": Draws(batch=201)}),
        (ValueError, "draws.batch", {"draws": Draws(batch=0)}),
        (ValueError, "draws.rule", {"draws": Draws("odd")}),
        (ValueError, "draws.seed|seed", {"draws": Draws(batch=20, seed=1 << 64)}),
        (ValueError, "draws.task", {"draws": Draws(batch=20, task=1 << 24)}),
        (TypeError, "draws.ids", {"draws": Draws("given")}),
        (ValueError, "draws.ids", {"draws": Draws("uniform", 20, ids=GIVEN)}),
        (ValueError, "draws.weights", {"draws": Draws("uniform", 20, weights=torch.ones(2, 3, 20))}),
        (ValueError, "draws.weights", {"draws": Draws("given", ids=GIVEN, weights=torch.ones(9, 3, 32))}),
        (ValueError, "a row for each of 10 steps", {"draws": Draws("given", ids=GIVEN), "steps": 10}),
        (IndexError, r"ids\[0, 0, 0\] = 200", {"draws": Draws("given", ids=torch.full((2, 3, 1), 200))}),
        (ValueError, "draws.modules", {"draws": Draws(batch=20, modules=torch.tensor([0, 1, -1]))}),
        (ValueError, "steps", {"steps": -1}),
        (TypeError, "steps", {"steps": 1.5}),
        (ValueError, "steps", {"steps": torch.tensor([1, 2])}),
        (ValueError, "rule.kind", {"rule": FitRule(kind="momentum")}),
        (ValueError, "betas", {"rule": FitRule(betas=(0.9, 1.0))}),
        (TypeError, "trust", {"rule": FitRule(trust=3)}),
        (ValueError, "rule.frozen_layers", {"rule": FitRule(frozen_layers=3)}),
        (TypeError, "rule.frozen_layers", {"rule": FitRule(frozen_layers=True)}),
        (ValueError, "watch.losses_at", {"watch": Watch(losses_at=(2, 1))}),
        (ValueError, "watch.params_at", {"watch": Watch(params_at=(0,))}),
        (ValueError, "watch.stop_loss", {"watch": Watch(stop_loss=-1.0)}),
        (ValueError, "watch.check_every", {"watch": Watch(stop_loss=1.0, check_every=0)}),
        (TypeError, "state", {"state": None}),
        (TypeError, "data", {"data": None}),
        (ValueError, "state.params", {"spec": dataclasses.replace(SINE, width=8)}),
    ],
)
def test_refuses(error: type[Exception], match: str, options: dict[str, Any]) -> None:
    case = fit_cases.make()
    call = changed(case, **options)
    with pytest.raises(error, match=match):
        ops.bank_fit(**call)
    if isinstance(call["state"], FitState):
        assert_same(call["state"], case.state())


def test_refuses_a_module_without_samples() -> None:
    case = fit_cases.make(shared=False)
    offsets = torch.tensor([0, 200, 200, len(case.data.x)])
    call = changed(case, data=case.data._replace(offsets=offsets))
    with pytest.raises(ValueError, match="samples for module 1, got 0"):
        ops.bank_fit(**call)
    call["steps"] = torch.tensor([2, 0, 2])  # one that makes no step needs none
    assert ops.bank_fit(**call).ends.tolist() == [FitEnd.STEPS, FitEnd.FROZEN, FitEnd.STEPS]


def test_refuses_a_state_of_another_kind() -> None:
    case = fit_cases.make()
    with pytest.raises(ValueError, match="exp_avg must be empty for"):
        ops.bank_fit(**changed(case, rule=FitRule(kind="sgd")))
    with pytest.raises(ValueError, match="exp_avg must hold 6 tensors"):
        ops.bank_fit(**changed(case, state=case.state("sgd")))


@pytest.mark.parametrize(
    ("error", "options"),
    [
        (ValueError, {"lr": -1.0}),
        (ValueError, {"decay": "linear"}),
        (ValueError, {"sgd_steps": -1}),
        (TypeError, {"ramp": 1.5}),
        (ValueError, {"hold": 0}),
        (ValueError, {"decay": "exponential", "lr_end": 0.0}),
        (ValueError, {"lr": math.nan}),
    ],
)
def test_schedule_refuses(error: type[Exception], options: dict[str, Any]) -> None:
    with pytest.raises(error, match=next(reversed(options)) if len(options) > 1 else next(iter(options))):
        Schedule(**options)


def test_schedule_in_closed_form() -> None:
    cosine = Schedule(1.0, "cosine", sgd_steps=2, sgd_lr=9.0, lr_end=0.0, steps=7)
    expected = [9.0, 9.0, *(0.5 * (1 + math.cos(math.pi * j / 4)) for j in range(5)), 0.0]
    assert cosine.rates(8).tolist() == pytest.approx(expected, abs=1e-15)
    exponential = Schedule(1.0, "exponential", ramp=2, lr_end=0.01, steps=3)
    assert exponential.rates(4).tolist() == pytest.approx([0.5, 0.1, 0.01, 0.01])
