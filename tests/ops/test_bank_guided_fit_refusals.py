"""What a fit with Fisher-guided draws refuses, by the name of the argument and with nothing changed."""

from __future__ import annotations

import copy
import dataclasses
import math
from typing import Any

import fit_cases
import pytest
import torch
from fit_cases import SINE, assert_same
from test_bank_guided_fit import fit, guide_of, state_of

from mclnf_fast import ops
from mclnf_fast.ops.bank_fit import Draws, FitRule


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "draws.guide.mix must be at least 0 and below 1", {"mix": 1.0}),
        (ValueError, "draws.guide.mix", {"mix": -0.1}),
        (TypeError, "draws.guide.mix", {"mix": "much"}),
        (ValueError, "draws.guide.decay must be at least 0 and below 1", {"decay": 1.0}),
        (ValueError, "draws.guide.smooth must be above 0 and at most 1", {"smooth": 0.0}),
        (ValueError, "draws.guide.smooth must be above 0 and at most 1", {"smooth": 1.5}),
        (ValueError, "draws.guide.damping must be above 0", {"damping": 0.0}),
        (ValueError, "draws.guide.damping", {"damping": math.nan}),
        (ValueError, "draws.guide.block", {"block": 0}),
        (TypeError, "draws.guide.refresh", {"refresh": 2.5}),
        (ValueError, "draws.guide.curve", {"curve": torch.arange(199)}),
        (ValueError, "draws.guide.curve must hold every sample", {"curve": torch.zeros(200, dtype=torch.int64)}),
        (ValueError, "draws.guide.curve must hold every sample", {"curve": torch.arange(200) + 1}),
        (ValueError, "draws.guide.curve must hold every sample", {"curve": torch.arange(200) - 1}),
        (TypeError, "draws.guide.curve", {"curve": torch.rand(200)}),
    ],
)  # fmt: skip
def test_refuses_options(error: type[Exception], match: str, options: dict[str, Any]) -> None:
    case = fit_cases.make()
    guide = guide_of(case)
    state = state_of(case, guide)
    with pytest.raises(error, match=match):
        fit(case, state, 2, dataclasses.replace(guide, **options))
    assert_same(state, state_of(case, guide))


@pytest.mark.parametrize(
    ("error", "name", "value"),
    [
        (TypeError, "guide", None),
        (TypeError, "guide", {}),
        (ValueError, "guide.scores", torch.zeros(3, 24, dtype=torch.float64)),
        (TypeError, "guide.scores", torch.zeros(3, 25)),
        (ValueError, "guide.scores", torch.full((3, 25), math.nan, dtype=torch.float64)),
        (ValueError, "guide.window", torch.full((3, 25), math.inf, dtype=torch.float64)),
        (ValueError, "guide.window", torch.zeros(3, 1, dtype=torch.float64).expand(3, 25)),
        (ValueError, "guide.batches", torch.tensor([0, -1, 0])),
        (ValueError, "guide.batches", torch.tensor([0])),
        (ValueError, "guide.fisher must hold 6", ()),
        (ValueError, "guide.fisher must not be negative", -1.0),
        (ValueError, "guide.fisher must be finite", math.inf),
    ],
)
def test_refuses_states(error: type[Exception], name: str, value: Any) -> None:
    case = fit_cases.make()
    guide = guide_of(case)
    state = state_of(case, guide)
    assert state.guide is not None
    field = name.split()[0].partition(".")[2]
    if isinstance(value, float):
        value = tuple(torch.full_like(p, value) for p in case.params)
    if field:
        state.guide = dataclasses.replace(state.guide, **{field: value})
    else:
        state.guide = value
    params = copy.deepcopy(state.params)
    with pytest.raises(error, match=rf"state\.{name.replace('.', chr(92) + '.')}"):
        fit(case, state, 2, guide)
    assert all(torch.equal(a, b) for a, b in zip(state.params, params))


def test_refuses_what_another_rule_has_not() -> None:
    case = fit_cases.make()
    guide = guide_of(case)
    with pytest.raises(ValueError, match=r"state\.guide must be None unless draws\.rule is 'guided'"):
        ops.bank_fit(state_of(case, guide), case.data, SINE, 2, draws=Draws(batch=20))
    with pytest.raises(ValueError, match=r"state\.guide must be None unless .* with draws\.guide\.mix above 0"):
        fit(case, state_of(case, guide), 2, dataclasses.replace(guide, mix=0.0))
    with pytest.raises(ValueError, match=r"draws\.guide must be None with the rule 'even'"):
        ops.bank_fit(case.state(), case.data, SINE, 2, draws=Draws("even", 20, guide=guide))
    with pytest.raises(TypeError, match=r"draws\.guide must be a Guide or None, got float"):
        ops.bank_fit(case.state(), case.data, SINE, 2, draws=Draws("guided", 20, guide=0.8))
    with pytest.raises(ValueError, match=r"draws\.batch must be at most the 200 samples of module 0"):
        fit(case, state_of(case, guide), 2, guide, draws=Draws(batch=201))
    with pytest.raises(ValueError, match=r"draws\.ids must be None with the rule 'guided'"):
        fit(case, state_of(case, guide), 2, guide, draws=Draws(batch=20, ids=torch.zeros(2, 3, 20).long()))


def test_refuses_rounded_operands() -> None:
    case = fit_cases.make()
    guide = guide_of(case)
    state = state_of(case, guide)
    with pytest.raises(ValueError, match=r"rule\.precision must be 'fp32' with the rule 'guided', got 'tf32'"):
        fit(case, state, 2, guide, rule=FitRule(precision="tf32"))
    assert_same(state, state_of(case, guide))
