"""Fisher-guided draws in the CUDA kernel of many steps, on the emulation of CUDA's blocks: the tests of the op, draws
to the bit, several orders of threads, wherever its numbers are kept, and values that nobody has looked at."""

from __future__ import annotations

import dataclasses
from typing import Any

import fit_cases
import pytest
import test_bank_fit_emulated as plain
import test_bank_guided_fit as guided
import torch
from fit_cases import RELU, SINE, assert_same
from test_bank_fit_emulated import SPECS, assert_near
from test_bank_guided_fit import fit, guide_of, state_of
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast import ops
from mclnf_fast.ops.bank_fit import Draws, FitEnd, FitRule, FitState, Guide, GuideState, Schedule, Watch, api, compiled
from mclnf_fast.ops.bank_fit.call import FitCall
from mclnf_fast.ops.bank_fit.guided_module import GuidedModule
from mclnf_fast.packing import Precision


@pytest.fixture(autouse=True)
def _on_the_emulation(need, emulated: Any, poisoned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`backend="cpu"` runs the kernel of csrc/cuda."""
    need("bank_guided_fit", "cpu")
    monkeypatch.setattr(compiled, "OPS", emulated)


def check(case: fit_cases.Case, steps: Any, guide: Guide, tolerance: float, **options: Any) -> FitState:
    """All that the definition leaves."""
    states = [state_of(case, guide) for _ in range(2)]
    logs = [fit(case, s, steps, guide, b, **options) for s, b in zip(states, ("reference", "cpu"))]
    assert_near((states[1], logs[1]), (states[0], logs[0]), tolerance)
    return states[1]


@pytest.mark.parametrize("shared", [False, True])
def test_the_draws_and_their_weights_in_closed_form(need, shared: bool) -> None:
    guided.test_the_draws_and_their_weights_in_closed_form(need, "cpu", shared)


@pytest.mark.parametrize("spec", [SINE, RELU], ids=["sine", "relu"])
@pytest.mark.parametrize(("shared", "weighted", "trusted"), [(True, False, False), (False, True, True)])
@pytest.mark.parametrize("refresh", [1, 5, 16, 21])
def test_agrees_with_the_reference(need, spec, shared, weighted, trusted, refresh: int) -> None:
    guided.test_agrees_with_the_reference(need, "cpu", spec, shared, weighted, trusted, refresh)


@pytest.mark.parametrize("refresh", [1, 5])
def test_agrees_with_the_reference_in_fp32(refresh: int) -> None:
    """Over a window: behind it a draw may fall to the other side of a border."""
    case = fit_cases.make(shared=False, weighted=True)
    check(case, torch.tensor([16, 0, 9]), guide_of(case, refresh=refresh), 1e-4, rule=FitRule(Schedule(1e-3)))


@pytest.mark.parametrize("name", SPECS)
def test_networks(name: str) -> None:
    """Widths, depths, activations, encodings; tiles that are full, ragged, and more than one."""
    case = fit_cases.make(SPECS[name], 2, 90, shared=False, dtype=torch.float64)
    guide = guide_of(case, refresh=1)
    check(case, 3, guide, 1e-9, draws=Draws(batch=77), rule=FitRule(Schedule(1e-3)), watch=Watch((1, 3)))


@pytest.mark.parametrize("frozen", [1, 2])
def test_layers_that_stay_are_not_scored(need, frozen: int) -> None:
    guided.test_layers_that_stay_are_not_scored(need, "cpu", frozen)


def test_large_batches(need) -> None:
    guided.test_large_batches(need, "cpu", 513)


def drawn(call: FitCall, k: int) -> list[tuple[Tensor, Tensor]]:
    """The samples of step k and what they count, of every module, by the definition."""
    assert call.guide is not None
    found = []
    for m in range(len(call.goal)):
        ids, weights = GuidedModule(call, call.guide, m).draw(k)
        found.append((ids, torch.ones(len(ids), dtype=call.data.x.dtype) if weights is None else weights))
    return found


@pytest.mark.parametrize("mix", [0.8, 0.0])
def test_draws_to_the_bit(monkeypatch: pytest.MonkeyPatch, mix: float) -> None:
    """A step on the ids and weights of the definition leaves the same bits: for a module with some scores, one without
    any, and one with all; from step 1 on, so that none of them is scored and a window goes on."""
    case, steps, calls = fit_cases.make(shared=False), 20, []
    guide = guide_of(case, mix=mix, refresh=1 << 20)
    state, given = state_of(case, guide), case.state()
    state.steps += 1
    given.steps += 1
    if state.guide is not None:
        generator = torch.Generator().manual_seed(1)
        state.guide.scores.copy_(10 ** (4 * torch.rand(state.guide.scores.shape, generator=generator) - 2))
        state.guide.scores[0, :3] = state.guide.scores[1] = -1.0
        state.guide.window.copy_(state.guide.scores)
    checked = api.checked
    monkeypatch.setattr(api, "checked", lambda *arguments: calls.append(checked(*arguments)) or calls[-1])
    rule = FitRule(Schedule(1e-3))
    draws = Draws(batch=40, seed=-3, task=9, modules=torch.tensor([7, 1, 1 << 31]))
    fit(case, state, steps, guide, "cpu", draws=draws, rule=rule)
    found = [drawn(calls[0], k) for k in range(1, 1 + steps)]
    ids, weights = (torch.stack([torch.stack([module[i] for module in step]) for step in found]) for i in (0, 1))
    assert (float(weights.std()) > 0.1) == (mix > 0)
    ops.bank_fit(given, case.data, case.spec, steps, draws=Draws("given", ids=ids, weights=weights), rule=rule,
                 backend="cpu")  # fmt: skip
    state.guide = None
    assert_same(state, given)


@pytest.mark.parametrize("order", plain.ORDERS)
@pytest.mark.parametrize("spec", [plain.WIDE, RELU], ids=["wide", "relu"])
def test_the_order_of_threads_does_not_show(monkeypatch: pytest.MonkeyPatch, order: str, spec: mf.FieldSpec) -> None:
    """Nor which block takes which module, of more than there are blocks."""
    modules, steps = (20, 18) if spec is RELU else (2, 3)
    case = fit_cases.make(spec, modules, 100)
    guide = guide_of(case, refresh=1 if steps == 3 else 8)
    options = {"draws": Draws(batch=70), "watch": Watch((1, 2), (2,), stop_loss=0.0, check_every=2)}
    states = [state_of(case, guide) for _ in range(2)]
    log = fit(case, states[0], steps, guide, "cpu", **options)
    monkeypatch.setenv("MCLNF_EMULATION_ORDER", order)
    other = fit(case, states[1], steps, guide, "cpu", **options)
    assert_same(*states)
    for a, b in zip((log.losses, *log.params[0], log.checked), (other.losses, *other.params[0], other.checked)):
        assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_where_numbers_are_kept_does_not_show(emulated: Any, monkeypatch: pytest.MonkeyPatch, dtype) -> None:
    """In shared memory or streamed, by 128 threads or 256."""
    spec = mf.FieldSpec(2, 3, width=24, hidden_layers=2, activation="sine(10)")
    case = fit_cases.make(spec, 6, 60, dtype=dtype)
    guide = guide_of(case, refresh=2)
    seen: dict[tuple[int, int], FitState] = {}
    for kib in (2, 17, 20, 25, 40) if dtype == torch.float32 else (2, 40, 200):
        _, places, _, _, blocks = emulated.fit_plan(
            *spec.packed, dtype.itemsize, True, 30, kib << 10, Precision.FP32, False
        )
        monkeypatch.setenv("MCLNF_EMULATION_SHARED", str(kib << 10))
        seen[places, blocks] = state_of(case, guide)
        fit(case, seen[places, blocks], 18, guide, "cpu", draws=Draws(batch=30))
        assert_same(seen[places, blocks], next(iter(seen.values())))
    assert len({places for places, _ in seen}) == (5 if dtype == torch.float32 else 3)
    assert {blocks for _, blocks in seen} == {1, 2}


@pytest.mark.parametrize("refresh", [1, 5, 16])
def test_any_cut_into_calls(need, refresh: int) -> None:
    guided.test_any_cut_into_calls(need, "cpu", refresh)


def test_a_module_is_the_same_alone(need) -> None:
    guided.test_a_module_is_the_same_alone(need, "cpu")


def test_without_a_share_of_scores_the_draws_are_even_along_the_curve(need) -> None:
    guided.test_without_a_share_of_scores_the_draws_are_even_along_the_curve(need, "cpu")


def test_how_modules_end(need) -> None:
    guided.test_modules_stop_at_their_loss_and_frozen_ones_are_not_touched(need, "cpu")
    for what in ("target", "square"):
        guided.test_a_module_that_diverges_keeps_its_last_finite_state(need, "cpu", what)


def test_tensors_of_any_stride(need) -> None:
    guided.test_tensors_of_any_stride(need, "cpu")


def raw(case: fit_cases.Case, state: FitState, guide: Guide, **changes: Any) -> dict[str, Any]:
    """The arguments of the op by name."""
    assert state.guide is not None
    own, half = state.guide, case.layers
    running = [t for l in range(half) for t in (own.fisher[l], own.fisher[half + l])]
    options = {"curve": guide.curve, "scores": own.scores, "window": own.window, "batches": own.batches,
               "running": running, "mix": guide.mix, "smooth": guide.smooth, "block": guide.block,
               "refresh": guide.refresh, "decay": guide.decay, "damping": guide.damping}  # fmt: skip
    return plain.raw_points(case, state) | options | {"rule": 4} | changes


@pytest.mark.parametrize("what", ["curve", "scores", "too few blocks", "no samples"])
def test_values_that_nobody_has_looked_at(emulated: Any, what: str) -> None:
    """They can't be read without waiting for the device: their module ends, the others go on."""
    case = fit_cases.make(shared=False)
    guide = guide_of(case)
    assert guide.curve is not None
    if what == "curve":
        rows = slice(int(case.data.offsets[1]), int(case.data.offsets[2]))
        guide = dataclasses.replace(guide, curve=guide.curve.clone())
        guide.curve[rows] = torch.tensor([-1, 1 << 40, 207]).repeat(69)
    state, before = state_of(case, guide), state_of(case, guide)
    assert state.guide is not None
    assert before.guide is not None
    changes: dict[str, Any] = {}
    if what == "scores":
        state.guide.scores[1, 3] = before.guide.scores[1, 3] = torch.inf
    elif what == "too few blocks":
        for own in (state.guide, before.guide):
            own.scores, own.window = own.scores[:, :25].clone(), own.window[:, :25].clone()
    elif what == "no samples":
        changes["offsets"] = case.data.offsets.clone()
        changes["offsets"][2] = changes["offsets"][1]
    *_, ends, _ = emulated.bank_guided_fit(**raw(case, state, guide, **changes))
    # Without samples of its own a module leaves them to the next one, which has no blocks for them.
    ended = [1, 2] if what in ("too few blocks", "no samples") else [1]
    assert ends.tolist() == [FitEnd.DIVERGED if m in ended else FitEnd.STEPS for m in range(3)]
    for m in ended:
        assert int(state.steps[m]) == 0
        for name, value in before.tensors().items():
            same = torch.equal(state.tensors()[name][m], value[m])
            assert same or (what == "scores" and name == "guide.window"), name


def test_a_module_with_fewer_samples_than_the_batch(emulated: Any) -> None:
    """The API refuses it where it can read sizes; on a device its samples are drawn more than once."""
    case = fit_cases.make(shared=False, modules=3, samples=12)
    guide = guide_of(case, refresh=1, block=4)
    state = state_of(case, guide)
    *_, ends, _ = emulated.bank_guided_fit(**raw(case, state, guide))
    assert ends.tolist() == [FitEnd.STEPS] * 3
    assert state.guide is not None
    assert state.guide.batches.tolist() == [2] * 3
    assert bool((state.guide.scores[:, :3] >= 0).all())  # 20 draws of 12 samples are in every block
    assert all(bool(p.isfinite().all()) for p in (*state.params, *state.guide.fisher))


def test_unfit_arguments_are_refused_before_anything_is_written(emulated: Any) -> None:
    case = fit_cases.make()
    guide = guide_of(case)
    state = state_of(case, guide)
    call, tried = raw(case, state, guide), 0
    for name in ("curve", "scores", "window", "batches", "running"):
        value = call[name]
        bad: list[Any] = []
        if isinstance(value, Tensor):
            bad = [value[None], value.to(torch.float16), value.to("meta")]
            bad += [value[:-1], value[:, :-1] if name == "window" else value[:-1]]
            bad += [value[:1].expand_as(value)] if name != "curve" else []
        else:
            bad = [value[:-1], [], [t[:1] for t in value], [t.half() for t in value]]
            bad += [[t[..., :1].expand_as(t) for t in value]]
        for other in bad:
            with pytest.raises((RuntimeError, NotImplementedError)):
                emulated.bank_guided_fit(**{**call, name: other})
            tried += 1
    for changes in ({"rule": 1}, {"mix": 1.0}, {"mix": -0.5}, {"block": 0}, {"refresh": 0}, {"precision": 1}):
        with pytest.raises(RuntimeError):
            emulated.bank_guided_fit(**{**call, **changes})
    with pytest.raises(RuntimeError, match="the rule `guided` is that of bank_guided_fit"):
        emulated.bank_fit(**plain.raw_points(case, state, rule=4))
    assert tried > 20
    assert_same(state, state_of(case, guide))


def test_scores_of_a_state_that_was_read_from_a_file(need) -> None:
    """A state whose scores are all there goes on as the definition does, in the middle of a window."""
    case = fit_cases.make(dtype=torch.float64)
    guide = guide_of(case, refresh=3)
    begun = state_of(case, guide)
    fit(case, begun, 21, guide, "reference")
    states = []
    for backend in ("reference", "cpu"):
        state = state_of(case, guide)
        for name, t in state.tensors().items():
            t.copy_(begun.tensors()[name])
        fit(case, state, 14, guide, backend)
        states.append(state)
    assert isinstance(states[0].guide, GuideState)
    for name, value in states[0].tensors().items():
        torch.testing.assert_close(states[1].tensors()[name], value, rtol=1e-9, atol=1e-11, msg=name)
