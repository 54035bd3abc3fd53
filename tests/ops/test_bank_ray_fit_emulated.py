"""The CUDA kernel of a fit on rays, on the emulation of CUDA's blocks: against the definition with every shading and
cut, in several orders of threads, with rounded operands; and what it does with values that nobody has looked at."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import test_bank_fit_emulated as points
import test_bank_ray_fit as rays_on_the_cpu
import torch
from fit_cases import assert_same
from test_bank_fit_emulated import ORDERS
from test_bank_fit_rounded_emulated import UNIT, distance
from test_bank_ray_fit import DRAWS, GIVEN, PLACES, SHADINGS, VIEWS, Case, fit, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops.bank_fit import Draws, FitEnd, FitLog, FitRule, FitState, Schedule, Watch, api, compiled
from mclnf_fast.shading import OBJECT_SHADING, SCENE_SHADING, Shading

# Outputs with an activation of their own before the shading's, and a width that is no multiple of anything.
BENT = dataclasses.replace(VIEWS, width=37, activation="sine(3)", output_activation="softplus")
ALL_SHADINGS = SHADINGS | {
    "relu first": Shading(density_first=True, background="last_sample", detach_last_density=True),
    "exp last": Shading("exp", max_raw_density=1.0, background="white"),
}
OPTIONS = {
    "jitter": {},
    "no jitter": {"jitter": False},
    "near and far": {"near": 0.5, "far": 2.5},
    "one interval": {"samples_per_ray": 1},
    "a tile": {"samples_per_ray": 64},
    "several tiles": {"samples_per_ray": 130},
}


@pytest.fixture(autouse=True)
def _on_the_emulation(need, emulated: Any, poisoned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`backend="cpu"` runs the kernel of csrc/cuda, with rounded operands too."""
    need("bank_ray_fit", "cpu")
    monkeypatch.setattr(compiled, "OPS", emulated)
    monkeypatch.setattr(api, "_ROUNDED_RAY_OP", api._RAY_OP)


def run(case: Case, steps: Any, backend: str = "cpu", **options: Any) -> tuple[FitState, FitLog]:
    rule = options.get("rule") or FitRule()
    state = case.state(rule.kind)
    return state, fit(case, state, steps, backend, **options)


def check(case: Case, steps: Any, tolerance: float, **options: Any) -> tuple[FitState, FitLog]:
    """The state, losses, copies and ends of the definition."""
    expected = run(case, steps, "reference", **options)
    result = run(case, steps, **options)
    points.assert_near(result, expected, tolerance)
    return result


def moved(case: Case, state: FitState) -> float:
    return max(float((a - b).abs().max()) for a, b in zip(state.params, case.params, strict=True))


@pytest.mark.parametrize("shading", ALL_SHADINGS)
@pytest.mark.parametrize("spec", [PLACES, VIEWS, BENT], ids=["places", "views", "bent"])
def test_shadings(shading: str, spec: mf.FieldSpec) -> None:
    """In fp64, with weights; the loss over all rays, which has no jitter, included."""
    case = make(spec, ALL_SHADINGS[shading], modules=2, weighted=True, dtype=torch.float64)
    watch = Watch((1, 2), (2,), stop_loss=0.0, check_every=2)
    state, log = check(case, 2, 1e-11, draws=Draws("uniform", 40), rule=FitRule(Schedule(1e-3)), watch=watch)
    assert moved(case, state) > 1e-3  # steps that show
    assert bool((log.checked > 0).all())


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("shading", ["object", "color behind"])
def test_cuts(options: str, shading: str) -> None:
    """Gradients as they are: one step of SGD. Rays of several tiles are computed twice."""
    case = make(PLACES, SHADINGS[shading], modules=2, dtype=torch.float64, **OPTIONS[options])
    rule = FitRule(Schedule(1.0), "sgd")
    state, _ = check(case, 1, 1e-11, draws=Draws("even", 30), rule=rule, watch=Watch((1,)))
    assert moved(case, state) > 1e-5


@pytest.mark.parametrize("draws", DRAWS)
def test_draws(draws: str) -> None:
    chosen, weighted = DRAWS[draws], draws in ("whole", "several runs")
    case = make(weighted=weighted, modules=3)
    steps = torch.tensor([2, 0, 1])
    check(case, steps, 2e-5, draws=chosen, rule=FitRule(Schedule(2e-3, sgd_steps=1, sgd_lr=1e-2)), watch=Watch((1, 2)))


def test_the_most_that_a_density_may_be() -> None:
    """Raw densities above it have its value and no derivative."""
    low = dataclasses.replace(SCENE_SHADING, max_raw_density=0.3)
    case = make(PLACES, low, modules=1, dtype=torch.float64)
    state, _ = check(case, 1, 1e-11, draws=Draws("whole"), rule=FitRule(Schedule(1.0), "sgd"))
    free, _ = run(
        make(PLACES, modules=1, dtype=torch.float64), 1, draws=Draws("whole"), rule=FitRule(Schedule(1.0), "sgd")
    )
    assert distance(state, free) > 1e-6


@pytest.mark.parametrize("samples", [13, 130])
def test_the_order_of_threads_does_not_show(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    case = make(VIEWS, modules=6, samples_per_ray=samples)
    options = {"draws": Draws("even", 20), "watch": Watch((1, 2), (2,), stop_loss=0.0, check_every=2)}
    first, log = run(case, 2, **options)
    for order in ORDERS:
        monkeypatch.setenv("MCLNF_EMULATION_ORDER", order)
        again, other = run(case, 2, **options)
        assert_same(first, again)
        for a, b in zip((log.losses, *log.params[0], log.checked), (other.losses, *other.params[0], other.checked)):
            assert torch.equal(a, b), order


@pytest.mark.parametrize("samples", [13, 130])
def test_where_numbers_are_kept_does_not_show(monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
    case, seen = make(VIEWS, modules=5, samples_per_ray=samples), []
    for kib in (2, 30, 227):
        monkeypatch.setenv("MCLNF_EMULATION_SHARED", str(kib << 10))
        seen.append(run(case, 2, draws=Draws("uniform", 12))[0])
    close = {"rtol": 1e-5, "atol": 1e-6}  # tiles differ
    for other in seen[1:]:
        for a, b in zip(seen[0].params, other.params, strict=True):
            torch.testing.assert_close(a, b, **close)


@pytest.mark.parametrize("name", UNIT)
@pytest.mark.parametrize("samples", [13, 130])
def test_rounded_operands(name: Any, samples: int) -> None:
    case = make(VIEWS, SHADINGS["color behind"], modules=2, samples_per_ray=samples)
    how = {"draws": Draws("uniform", 40), "rule": FitRule(Schedule(1.0), "sgd", precision=name), "watch": Watch((1,))}
    expected, known = run(case, 1, "reference", **how)
    state, log = run(case, 1, **how)
    torch.testing.assert_close(log.losses, known.losses, rtol=UNIT[name] / 8, atol=0)
    assert distance(state, expected) < UNIT[name] * moved(case, expected)
    exact, _ = run(case, 1, "reference", **{**how, "rule": FitRule(Schedule(1.0), "sgd")})
    assert distance(state, exact) > distance(state, expected)


def test_any_cut_into_calls(need) -> None:
    rays_on_the_cpu.test_any_cut_into_calls_and_any_threads(need, "cpu")


def test_how_modules_end(need) -> None:
    rays_on_the_cpu.test_how_modules_end(need, "cpu")


def test_rays_alone_that_all_miss_leave_the_field() -> None:
    """Gradients are zeros, not what memory held."""
    case = make(shading=OBJECT_SHADING, modules=1)
    case.rays.origins[:] = torch.tensor([5.0, 0.0, 0.0])
    case.rays.directions[:] = torch.tensor([1.0, 0.0, 0.0])
    state, _ = run(case, 2, draws=Draws("uniform", 20), rule=FitRule(Schedule(1.0), "sgd"))
    assert all(torch.equal(a, b) for a, b in zip(state.params, case.params, strict=True))


def raw(case: Case, state: FitState, **changes: Any) -> dict[str, Any]:
    """The arguments of the op, by name."""
    rays = case.rays
    samples = {
        "origins": rays.origins, "directions": rays.directions, "view": rays.view, "offsets": rays.offsets,
        "colors": rays.colors, "weight": rays.weight, "background": torch.zeros(3), "bins": 13, "near": 0.0,
        "far": 9.0, "jitter": True, "last_behind": True, "hold_last": False, "exponential": True,
        "density_first": True, "max_raw_density": 9.0,
    }  # fmt: skip
    return points.raw(case, state, **samples) | changes


@pytest.mark.parametrize("what", ["no rays", "ids"])
def test_values_that_nobody_has_looked_at(emulated: Any, what: str) -> None:
    case = make(VIEWS, weighted=True)
    state, before = case.state(), case.state()
    wrong, ids = case.rays.offsets.clone(), GIVEN[:2, :, :20].clone()
    wrong[2], ids[0, 1, 7] = wrong[1], 161
    changes = {"offsets": wrong} if what == "no rays" else {"rule": 3, "ids": ids.contiguous()}
    *_, ends, _ = emulated.bank_ray_fit(**raw(case, state, **changes))
    assert ends.tolist() == [FitEnd.STEPS, FitEnd.DIVERGED, FitEnd.STEPS]
    for a, b in zip(state.params, before.params, strict=True):
        assert torch.equal(a[1], b[1])
        assert not torch.equal(a[0], b[0])


def test_unfit_arguments_are_refused_before_anything_is_written(emulated: Any) -> None:
    case = make(VIEWS, weighted=True)
    state = case.state()
    call = raw(case, state)

    def refused(**changes: Any) -> None:
        with pytest.raises((RuntimeError, NotImplementedError)):
            emulated.bank_ray_fit(**{**call, **changes})

    for name in ("origins", "directions", "view", "offsets", "colors", "weight", "background"):
        value: Tensor = call[name]
        for bad in (value[None], value.to(torch.float16), value.to("meta"), value[:-1]):
            refused(**{name: bad})
    refused(view=None)
    for name, wrong in {
        "bins": (0, (1 << 24) + 1),
        "precision": (-1, 4),
        "net_ints": ([*call["net_ints"][:-1]],),
    }.items():
        for bad in wrong:
            refused(**{name: bad})
    assert_same(state, case.state())
