"""The CUDA kernel of many steps in one call on the emulation of CUDA's blocks: against the definition and the CPU's op,
in several orders of threads, wherever its numbers are kept; and what it does with values that nobody has looked at."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import fit_cases
import pytest
import test_bank_fit
import torch
from fit_cases import RELU, SINE, assert_same

import mclnf_fast as mf
from mclnf_fast import ops
from mclnf_fast.ops.bank_fit import Draws, FitEnd, FitLog, FitRule, FitState, Schedule, Watch, compiled
from mclnf_fast.packing import Precision

ORDERS = ("reverse", "random:1", "random:2")
# One that needs more than the rest, in fp64: its derivatives are no function of its values.
WIDE = mf.FieldSpec(2, 3, width=64, hidden_layers=3, activation="sine(10)")
SPECS = {
    "16 x 2": mf.FieldSpec(2, 3, width=16, hidden_layers=2, activation="sine(10)"),
    "32 x 3": mf.FieldSpec(1, 1, width=32, hidden_layers=3, activation="sine(30)"),
    "64 x 4": mf.FieldSpec(2, 3, width=64, hidden_layers=4, encoding=mf.Frequency(4, include_input=True)),
    "128 x 6": mf.FieldSpec(3, 4, width=128, hidden_layers=6, activation="sine(5)"),
    "37 x 5": mf.FieldSpec(3, 2, width=37, hidden_layers=5, activation="tanh", output_activation="sigmoid"),
    "1 x 1": mf.FieldSpec(2, 1, width=1, hidden_layers=1, activation="softplus"),
    "linear": mf.FieldSpec(2, 5, hidden_layers=0, encoding=mf.LogFrequency(5, 8.0), output_activation="exp"),
    "identity": mf.FieldSpec(4, 70, width=9, hidden_layers=2, activation="none", output_activation="softplus"),
    "skips": mf.FieldSpec(2, 3, width=18, hidden_layers=3, encoding=mf.Frequency(2), skips=(1, 3)),
    "sine skips": mf.FieldSpec(2, 3, width=12, hidden_layers=2, activation="sigmoid", skips=(2,)),
    "directions": mf.FieldSpec(
        6, 4, width=24, encoding=mf.Composite(((mf.Frequency(3), 3), (mf.SphericalHarmonics(4), 3)))
    ),
}


@pytest.fixture(autouse=True)
def _on_the_emulation(need, emulated: Any, poisoned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`backend="cpu"` runs the kernel of csrc/cuda."""
    need("bank_fit", "cpu")
    monkeypatch.setattr(compiled, "OPS", emulated)


def fit(case: fit_cases.Case, steps: Any, backend: str = "cpu", **options: Any) -> tuple[FitState, FitLog]:
    rule = options.get("rule") or FitRule()
    state = case.state(rule.kind)
    return state, ops.bank_fit(state, case.data, case.spec, steps, backend=backend, **options)


def check(case: fit_cases.Case, steps: Any, tolerance: float, **options: Any) -> None:
    """The state, losses, copies and ends of the definition."""
    expected = fit(case, steps, "reference", **options)
    assert_near(fit(case, steps, **options), expected, tolerance)


def assert_near(result: tuple[FitState, FitLog], expected: tuple[FitState, FitLog], tolerance: float) -> None:
    """All that two fits leave."""
    (state, log), (known, known_log) = result, expected
    close = {"rtol": tolerance, "atol": tolerance, "equal_nan": True}
    for name, value in known.tensors().items():
        torch.testing.assert_close(state.tensors()[name], value, **close, msg=lambda text, name=name: f"{name}: {text}")
    torch.testing.assert_close(log.losses, known_log.losses, **close)
    torch.testing.assert_close(log.checked, known_log.checked, **close)
    assert torch.equal(log.ends, known_log.ends)
    for copied, params in zip(log.params, known_log.params, strict=True):
        for a, b in zip(copied, params, strict=True):
            torch.testing.assert_close(a, b, **close)


@pytest.mark.parametrize("draws", test_bank_fit.DRAWS)
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_agrees_with_the_definition(draws: str, kind: str) -> None:
    """Every rule of draws, warm steps, weights, trust regions, modules that make other steps, in fp64 and fp32."""
    for trusted, dtype, tolerance in ((True, torch.float64, 1e-12), (False, torch.float32, 1e-5)):
        spec = SINE if kind == "adam" else RELU
        case = fit_cases.make(spec, shared=draws != "uniform", weighted=draws in ("even", "whole"), dtype=dtype)
        chosen = test_bank_fit.DRAWS[draws]
        if chosen.weights is not None:
            chosen = dataclasses.replace(chosen, weights=chosen.weights.to(dtype))
        rule = FitRule(test_bank_fit.SCHEDULES["warm"], kind, trust=case.trust() if trusted else None)  # type: ignore[arg-type]
        watch = Watch((1, 4, 6, 9), (3, 6), stop_loss=0.0, check_every=3)
        check(case, torch.tensor([6, 0, 4]), tolerance, draws=chosen, rule=rule, watch=watch)


@pytest.mark.parametrize("name", SPECS)
def test_networks(name: str) -> None:
    """Widths, depths, activations, encodings; tiles that are full, ragged, and more than one."""
    case = fit_cases.make(SPECS[name], 2, 90, shared=False, dtype=torch.float64)
    check(case, 2, 1e-11, draws=Draws("uniform", 77), rule=FitRule(Schedule(1e-3)), watch=Watch((1, 2)))


@pytest.mark.parametrize("frozen", [1, 2])
def test_the_first_layers_can_stay(frozen: int) -> None:
    case = fit_cases.make(dtype=torch.float64)
    rule = FitRule(Schedule(1e-2), trust=case.trust(), frozen_layers=frozen)
    check(case, 3, 1e-12, draws=Draws("even", 20), rule=rule)


@pytest.mark.parametrize("schedule", test_bank_fit.SCHEDULES)
def test_rates(schedule: str) -> None:
    case = fit_cases.make(modules=1, samples=40, dtype=torch.float64)
    check(case, 9, 1e-12, draws=Draws("even", 20), rule=FitRule(test_bank_fit.SCHEDULES[schedule]))


def test_sines_of_any_angle() -> None:
    """Beside each other: angles up to 50, and such up to 16 million, which take another way; all without rounding."""
    spec = mf.FieldSpec(1, 1, width=6, hidden_layers=1, activation="sine(1000)")
    case = fit_cases.make(spec, 2, 65)
    case.data.x.copy_(torch.linspace(-1, 1, 65)[:, None])
    case.params[0].copy_(torch.tensor([0.03125, 16384.0, -16384.0, 8.0, -1.0, 33.0]))
    case.params[2].zero_()
    rule = FitRule(Schedule(1e-4), "sgd")
    check(case, 1, 1e-6, draws=Draws("whole"), rule=rule, watch=Watch((1,)))
    close, _ = fit(case, 1, draws=Draws("whole"), rule=rule)
    assert float((close.params[0] - case.params[0]).abs().max()) > 1e-3  # a step that shows


@pytest.mark.parametrize("rule", ["uniform", "even"])
def test_draws_are_those_of_draw_ids(rule: Any) -> None:
    """To the bit: a step on the ids that `ops.draw_ids` gives."""
    case, steps = fit_cases.make(shared=False), 5
    sizes, numbers = torch.tensor(case.sizes()), torch.tensor([7, 1, 1 << 31])
    ids = torch.stack([ops.draw_ids(sizes, 45, k, modules=numbers, rule=rule, seed=-3, task=9) for k in range(steps)])
    drawn, _ = fit(case, steps, draws=Draws(rule, 45, -3, 9, numbers))
    given, _ = fit(case, steps, draws=Draws("given", ids=ids))
    assert_same(drawn, given)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("spec", [WIDE, RELU], ids=["wide", "relu"])
def test_the_order_of_threads_does_not_show(monkeypatch: pytest.MonkeyPatch, order: str, spec: mf.FieldSpec) -> None:
    """Nor which block takes which module, of more than there are blocks."""
    case = fit_cases.make(spec, 20 if spec is RELU else 2, 100)
    options = {"draws": Draws("even", 70), "watch": Watch((1, 2), (2,), stop_loss=0.0, check_every=1)}
    first, log = fit(case, 2, **options)
    monkeypatch.setenv("MCLNF_EMULATION_ORDER", order)
    again, other = fit(case, 2, **options)
    assert_same(first, again)
    for a, b in zip((log.losses, *log.params[0], log.checked), (other.losses, *other.params[0], other.checked)):
        assert torch.equal(a, b)


def plan(
    emulated: Any, spec: mf.FieldSpec, block: int, batch: int = 256, precision: Precision = Precision.FP32
) -> list[int]:
    """Points of a tile, what is in shared memory, its bytes, bytes of global memory, blocks on a multiprocessor."""
    found: list[int] = emulated.fit_plan(*spec.packed, 4, True, batch, block, precision, False)
    return found


def test_where_numbers_are_kept_does_not_show(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In shared memory, or streamed: moments, gradients, parameters, activations."""
    spec = mf.FieldSpec(2, 3, width=24, hidden_layers=2, activation="sine(10)")
    case = fit_cases.make(spec, 6, 60)
    expected, _ = fit(case, 3, "reference", draws=Draws("uniform", 30))
    seen: dict[int, FitState] = {}
    for kib in (2, 17, 20, 25, 40):
        points, places, shared, *_ = plan(emulated, spec, kib << 10, batch=30)
        assert points == 32
        assert shared <= kib << 10
        monkeypatch.setenv("MCLNF_EMULATION_SHARED", str(kib << 10))
        seen[places], _ = fit(case, 3, draws=Draws("uniform", 30))
        assert_same(seen[places], next(iter(seen.values())))
        for a, b in zip(seen[places].params, expected.params, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert set(seen) == {0, 4, 5, 7, 15}


def described(found: list[int]) -> str:
    """`178 KiB, 1, m`: shared memory of a block, modules on a multiprocessor, what is streamed."""
    _, places, shared, _, blocks = found
    streamed = "".join(name for bit, name in ((8, "m"), (2, "g"), (1, "p")) if not places & bit)
    return ", ".join([f"{-(-shared >> 10)} KiB", str(blocks), *([streamed] if streamed else [])])


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.TF32])
def test_the_table_of_plans(emulated: Any, precision: Precision) -> None:
    """That of docs/gpu.md is what the code decides for the shared memory of compute capability 9.0."""
    text = (pathlib.Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    for width in (16, 32, 64, 128):
        specs = [mf.FieldSpec(2, 3, width=width, hidden_layers=depth, activation="sine") for depth in range(2, 7)]
        plans = [plan(emulated, spec, 227 << 10, precision=precision) for spec in specs]
        assert all(found[2] <= 227 << 10 for found in plans)
        name = f"{width}, tf32" if precision else f"{width}"
        row = f"| {name} | " + " | ".join(described(found) for found in plans) + " |"
        assert row in text, row


@pytest.mark.parametrize("draws", ["uniform", "even", "whole"])
def test_any_cut_into_calls(need, draws: str) -> None:
    test_bank_fit.test_any_cut_into_calls(need, "cpu", draws)


@pytest.mark.parametrize("draws", ["uniform", "even"])
def test_a_module_is_the_same_alone(need, draws: str) -> None:
    test_bank_fit.test_a_module_is_the_same_alone(need, "cpu", draws)


@pytest.mark.parametrize("what", ["x", "target", "rate", "Adam's square"])
def test_a_module_that_diverges_keeps_its_last_finite_state(need, what: str) -> None:
    test_bank_fit.test_a_module_that_diverges_keeps_its_last_finite_state(need, "cpu", what)


def test_how_modules_end(need) -> None:
    test_bank_fit.test_modules_stop_at_their_loss(need, "cpu")
    test_bank_fit.test_frozen_modules_are_not_touched(need, "cpu")
    test_bank_fit.test_a_trust_region_that_is_not_finite_ends_its_module(need, "cpu", torch.nan)
    test_bank_fit.test_nothing_to_do(need, "cpu")


def test_tensors_of_any_stride(need) -> None:
    test_bank_fit.test_tensors_of_any_stride(need, "cpu")


def raw(case: Any, state: FitState, **samples: Any) -> dict[str, Any]:
    """The arguments of the ops by name, behind those of the samples."""
    half, none = len(case.params) // 2, torch.zeros(0, dtype=torch.int64)
    by_layer = [
        [t for l in range(half) for t in (ts[l], ts[half + l])]
        for ts in (state.params, state.exp_avg, state.exp_avg_sq)
    ]
    ints, floats = case.spec.packed
    return samples | {
        "params": by_layer[0], "exp_avg": by_layer[1],
        "exp_avg_sq": by_layer[2], "steps": state.steps, "goal": state.steps + 2, "rates": Schedule().rates(2),
        "sgd_steps": 0, "adam": True, "frozen_layers": 0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "lam": 0.0,
        "fisher": [], "anchor": [],
        "rule": 0, "batch": 20, "ids": None, "ids_weight": None, "seed": 0, "task": 0,
        "module_numbers": torch.arange(3), "log_at": torch.tensor([1]), "snapshot_at": none, "stop_loss": None,
        "check_every": 1, "precision": 0, "net_ints": ints, "net_floats": floats,
    }  # fmt: skip


def raw_points(case: fit_cases.Case, state: FitState, **changes: Any) -> dict[str, Any]:
    x, target, offsets, weight = case.data
    return raw(case, state, x=x, offsets=offsets, target=target, weight=weight) | changes


@pytest.mark.parametrize("what", ["no samples", "offsets", "ids", "too few ids", "goal"])
def test_values_that_nobody_has_looked_at(emulated: Any, what: str) -> None:
    """They can't be read without waiting for the device: their module ends, the others go on."""
    case = fit_cases.make(shared=False)
    state, before = case.state(), case.state()
    ids = torch.randint(0, 200, (2, 3, 20))
    changes: dict[str, Any] = {}
    if what in ("no samples", "offsets"):
        wrong = case.data.offsets.clone()
        wrong[1 if what == "offsets" else 2] = (1 << 40) if what == "offsets" else wrong[1]
        changes["offsets"] = wrong
    elif what == "goal":
        changes["goal"] = torch.tensor([2, 3, 2])
    else:
        ids[0, 1, 7] = 207 if what == "ids" else 0
        changes = {"rule": 3, "ids": ids if what == "ids" else ids[:1]}
    *_, ends, _ = emulated.bank_fit(**raw_points(case, state, **changes))
    ended = {"offsets": [0, 1], "too few ids": [0, 1, 2]}.get(what, [1])
    assert ends.tolist() == [FitEnd.DIVERGED if m in ended else FitEnd.STEPS for m in range(3)]
    for m in ended:
        assert int(state.steps[m]) == 0
        for a, b in zip(state.params, before.params, strict=True):
            assert torch.equal(a[m], b[m])


def test_unfit_arguments_are_refused_before_anything_is_written(emulated: Any) -> None:
    case = fit_cases.make()
    state = case.state()
    call, tried = raw_points(case, state, stop_loss=torch.zeros(3, dtype=torch.float64)), 0
    for name, value in call.items():
        bad: list[Any] = []
        if isinstance(value, torch.Tensor):
            bad = [value[None], value.to(torch.float16), value.to("meta")]
            bad += [value[:-1]] if name not in ("x", "rates", "log_at", "snapshot_at") else []
        elif isinstance(value, list) and value and isinstance(value[0], torch.Tensor):
            bad = [value[:-1], [t[:1] for t in value], [t[..., :-1] for t in value], [t.half() for t in value]]
            bad += [[t[..., :1].expand_as(t) for t in value]]
        elif name in ("rule", "batch", "sgd_steps", "frozen_layers", "check_every", "task", "precision"):
            bad = [-1]
        elif name in ("net_ints", "net_floats"):
            bad = [value[:-1]]
        for other in bad:
            with pytest.raises((RuntimeError, NotImplementedError)):
                emulated.bank_fit(**{**call, name: other})
            tried += 1
    for changes in ({"rule": 3}, {"rule": 9}, {"frozen_layers": 3}, {"lam": 1.0}, {"ids_weight": torch.ones(2, 3, 20)}):
        with pytest.raises(RuntimeError):
            emulated.bank_fit(**{**call, **changes})
    assert tried > 40
    assert_same(state, case.state())
