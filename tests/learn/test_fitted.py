"""Many steps of a method in one call: the bits of the steps one by one, wherever the calls are cut; and what is not
made so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import places
import pytest
import torch
from curves import CONFIG, SPEC, assert_same_state, curve, flat, start
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn import Plan, Protocol
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods import METHODS, MIM, FineTune, Method, MIMWeight, Mod, ModEven, ModRandom, Offline, fitted
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import Batch, Points
from mclnf_fast.tasks.coords import CoordTask

ALL = {**METHODS, "mod_random": ModRandom, "mod_even": ModEven}
FITTED = sorted(set(ALL) - {"mim_weight"})
STEPS = 19


@pytest.fixture(autouse=True)
def _compiled(need: Callable[..., str]) -> None:
    need("bank_fit", "cpu")


def made(cls: type[Method], refresh: int = 5, **changes: object) -> Method:
    tasks = []
    for k in range(1 if cls.joint else 2):
        task = curve(k)
        task.backend = "auto"
        tasks.append(task)
    fim = FimConfig(use="sample", refresh=refresh)
    return cls(tasks, start(), dataclasses.replace(CONFIG, fim=fim, **changes), seed=3)  # type: ignore[arg-type]


def one_by_one(method: Method) -> Method:
    for k in range(len(method.tasks)):
        method.begin(k)
        for step in range(STEPS):
            method.step(k, step)
        if k < len(method.tasks) - 1:
            method.finish(k)
    return method


def in_calls(method: Method, most: int) -> tuple[Method, list[int]]:
    counts = []
    for k in range(len(method.tasks)):
        method.begin(k)
        while method.made < STEPS:
            before = method.made
            method.steps(k, min(most, STEPS - before))
            counts.append(method.made - before)
        if k < len(method.tasks) - 1:
            method.finish(k)
    return method, counts


@pytest.mark.parametrize("name", ALL)
def test_the_bits_of_the_steps_one_by_one(name: str) -> None:
    expected = one_by_one(made(ALL[name]))
    for most in (1, 5, 1000):
        method, counts = in_calls(made(ALL[name]), most)
        assert_same_state(method, expected)
        assert sum(counts) == STEPS * len(method.tasks)
        assert (max(counts) > 1) == (name in FITTED and most > 1)


def mim(refresh: int, colors: int = 1, **switches: Any) -> Method:
    """With signals of so many channels, unlike each other."""
    method = made(METHODS["mim"], refresh)
    method.config = dataclasses.replace(method.config, fim=FimConfig(use="sample", refresh=refresh, **switches))
    if colors > 1:
        spec = dataclasses.replace(SPEC, out_dim=colors)
        scale = torch.linspace(0.3, 1.0, colors)
        method.tasks = [CoordTask(t.name, t.x, t.y * scale, spec) for t in method.tasks]
        method.init = initial_parameters(spec, 1, generator=torch.Generator().manual_seed(0))
        method.params = method.fresh()
    return method


@pytest.mark.parametrize("refresh", [1, 3, 10, 16, 40])
@pytest.mark.parametrize("colors", [1, 3])
def test_mim_scores_within_a_call(refresh: int, colors: int) -> None:
    """The bits of single steps, wherever calls, windows of draws and scorings begin."""
    expected = one_by_one(mim(refresh, colors))
    for most in (1, 4, 1000):
        method, counts = in_calls(mim(refresh, colors), most)
        assert_same_state(method, expected)
        assert max(counts) == min(most, STEPS - 2)  # but for SGD's first steps


@pytest.mark.parametrize("refresh", [3, 10, 16])
def test_where_a_fit_cannot_score_it_makes_the_steps_between(refresh: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where the library was not built with Fisher-guided draws."""
    expected = one_by_one(mim(refresh))
    serving = fitted._compiled
    monkeypatch.setattr(fitted, "_compiled", lambda op, *a: op != "bank_guided_fit" and serving(op, *a))
    method, counts = in_calls(mim(refresh), 1000)
    assert_same_state(method, expected)
    assert 1 < max(counts) <= max(refresh - 1, 2)


@pytest.mark.parametrize("name", ["mim", "mod_even"])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=places.gpu)])
def test_guided_draws_take_one_call_on_every_device(name: str, device: str) -> None:
    """The scores are where the parameters are, and a state that was saved there goes on one by one."""

    def method() -> Method:
        given = made(ALL[name], 5)
        given.tasks = [CoordTask(t.name, t.x.to(device), t.y.to(device), t.spec, curve=order) for t in given.tasks]
        given.init = tuple(p.to(device) for p in given.init)
        given.params = given.fresh()
        return given

    order = torch.randperm(48, generator=torch.Generator().manual_seed(2))
    expected, (called, counts) = one_by_one(method()), in_calls(method(), 1000)
    assert max(counts) == STEPS - 2
    torch.testing.assert_close(flat(called.params), flat(expected.params), rtol=1e-3, atol=1e-4)
    resumed = method()
    resumed.load_state_dict(called.state_dict())
    for m in (called, resumed):
        for step in range(STEPS, STEPS + 3):
            m.step(1, step)
    assert_same_state(resumed, called)


@pytest.mark.parametrize(
    "switches",
    [
        {"draws": "independent"},
        {"kind": "rank1"},
        {"source": "batch"},
        {"residual": "gauss_newton"},
        {"mix": 0.0},
    ],
)
def test_other_scores_are_made_step_by_step(switches: dict[str, Any]) -> None:
    expected = one_by_one(mim(4, **switches))
    method, counts = in_calls(mim(4, **switches), 1000)
    assert_same_state(method, expected)
    assert max(counts) <= 3


def test_the_switches_of_the_scores_reach_the_fit() -> None:
    """Each of them changes what is learned, as it does step by step."""
    plain = in_calls(mim(5), 1000)[0]
    for name, value in {"smooth": 0.5, "decay": 0.3, "damping": 0.1, "mix": 0.5}.items():
        method, counts = in_calls(mim(5, **{name: value}), 1000)
        assert max(counts) == STEPS - 2
        assert_same_state(method, one_by_one(mim(5, **{name: value})))
        assert not torch.equal(flat(method.params), flat(plain.params)), name


@pytest.mark.parametrize("name", ["mim", "mod_even"])
def test_a_state_of_an_older_version_goes_on(name: str) -> None:
    """It holds the draws of a window themselves: scores and running Fisher are taken, and draws follow them."""
    method = made(ALL[name], refresh=3)
    method.begin(0)
    while method.made < 11:
        method.steps(0, 11 - method.made)
    state = method.state_dict()
    scores = state.pop("informed.sampler.window", None)
    at = "informed.sampler" if name == "mim" else "sampler"
    old = {"scores": torch.zeros(2, 3), "ahead.items": torch.zeros(2, 16, 16, dtype=torch.int64)}
    if scores is not None:
        old["scores"] = state["informed.sampler.scores"].float()
    resumed = made(ALL[name], refresh=3)
    resumed.load_state_dict(state | {f"{at}.{key}": value for key, value in old.items()})
    resumed.steps(0, STEPS - 11)
    assert all(bool(p.isfinite().all()) for p in resumed.params)
    if name == "mim":
        short = {key: value for key, value in state.items() if "ahead" not in key}
        with pytest.raises(ValueError, match=r"state\['window'\] must be \(2, 3\), got nothing"):
            made(ALL[name], refresh=3).load_state_dict(short)


def test_batches_above_the_samples_are_drawn_step_by_step() -> None:
    expected = one_by_one(made(Mod, batch=60))
    method, counts = in_calls(made(Mod, batch=60), 9)
    assert set(counts) == {1}
    assert_same_state(method, expected)


class Slow(FineTune):
    def rate(self, step: int) -> float:
        return super().rate(step) / 10


class Clipped(FineTune):
    def gradient(self, losses: Tensor) -> list[Tensor]:
        return [g.clamp(-1e-3, 1e-3) for g in super().gradient(losses)]


@pytest.mark.parametrize("cls", [Slow, Clipped])
def test_a_method_that_changes_a_step_makes_its_own(cls: type[Method]) -> None:
    expected = one_by_one(made(cls))
    method, counts = in_calls(made(cls), 9)
    assert set(counts) == {1}
    assert_same_state(method, expected)
    assert not torch.equal(flat(method.params), flat(one_by_one(made(FineTune)).params))


class Absolute(CoordTask):
    def loss(self, params: Params, batch: Batch, weights: Tensor | None = None, seed: int = 0) -> Tensor:
        return super().loss(params, batch, weights, seed).sqrt()


class Centered(CoordTask):
    def points(self, params: Params, batch: Batch, seed: int = 0) -> Points:
        points = super().points(params, batch, seed)
        return points._replace(grad_y=points.grad_y * (1 - points.x.square()))


@pytest.mark.parametrize(("name", "task"), [("finetune", Absolute), ("mim", Centered)])
def test_a_task_with_a_loss_or_scores_of_its_own_keeps_them(name: str, task: type[CoordTask]) -> None:
    def method() -> Method:
        given = made(ALL[name], refresh=1)
        given.tasks = [task(t.name, t.x, t.y, t.spec) for t in given.tasks]
        return given

    stepped, counts = in_calls(method(), 9)
    assert set(counts) == {1}
    assert_same_state(stepped, one_by_one(method()))


def test_the_reference_is_not_asked_for_fits() -> None:
    """It would go through modules and steps one by one; its draws are the same."""
    method = made(Mod)
    for task in method.tasks:
        task.backend = "reference"  # type: ignore[attr-defined]
    stepped, counts = in_calls(method, 9)
    assert set(counts) == {1}
    torch.testing.assert_close(flat(stepped.params), flat(one_by_one(made(Mod)).params), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("precision", "steps"), [("fp32", 1), ("bf16", 4)])
def test_the_reference_that_is_asked_to_round_makes_the_steps_of_a_fit(precision: str, steps: int) -> None:
    """As a GPU's kernels do: step by step the first layer and the biases would be rounded too."""
    method = made(ModRandom, precision=precision)
    method.tasks[0].backend = "reference"
    method.begin(0)
    method.steps(0, 4)
    assert method.made == steps


def test_a_signal_that_diverges_is_named() -> None:
    method = made(Mod)
    method.tasks[0].y[1, 5] = float("nan")
    method.begin(0)
    method.steps(0, 2)  # SGD's: sample 5 may not be among the first draws
    with pytest.raises(InputError, match=r"curve 0: .* of signal 1 is no longer finite after \d+ steps"):
        method.steps(0, 100)


def test_on_a_gpu_a_signal_that_diverged_is_named_when_somebody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look in every call would wait for the device."""
    monkeypatch.setattr(fitted, "values_can_be_read", lambda *tensors: False)
    method = made(Mod)
    method.tasks[0].y[1, 5] = float("nan")
    method.begin(0)
    for _ in range(5):
        method.steps(0, 50)
    with pytest.raises(InputError, match=r"curve 0: .* of signal 1 is no longer finite after \d+ steps"):
        method.finish(0)
    method.check_finite()  # it is said once


# By the number of copies that there is room for: with enough a call for the two steps of SGD on a task, one for Adam's.
CALLS = {Mod: {1: 16, 3: 6, 1000: 4}, Offline: {1: 7, 3: 3, 1000: 1}}


@pytest.mark.parametrize("cls", [Mod, MIM, MIMWeight, Offline], ids=lambda cls: cls.__name__)
@pytest.mark.parametrize("room", [1, 3, 1000])
def test_a_protocol_logs_within_a_call(cls: type[Method], room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its logs, curves, matrix and the parameters that are logged are those of single steps."""
    monkeypatch.setattr(fitted, "MOST_COPIED", room * sum(p.nbytes for p in made(cls).params))

    def run(most: int) -> tuple[Protocol, list[tuple[int, int]], list[Params], int]:
        logs: list[tuple[int, int]] = []
        logged: list[Params] = []

        def log(k: int, step: int, params: Params) -> None:
            logs.append((k, step))
            logged.append(tuple(p.clone() for p in params))

        plan = Plan(20, (0, 1, 4, 5, 6, 9, 16, 20), curves=True)
        protocol = Protocol(cls, made(Mod).tasks, start(), CONFIG, plan, 0, log)
        calls = 0
        while not protocol.done:
            protocol.step(most)
            calls += 1
        return protocol, logs, logged, calls

    (single, logs, params, steps), (several, others, copies, calls) = run(1), run(1000)
    tasks = 1 if cls.joint else 2
    assert logs == others == [(k, s) for k in range(tasks) for s in (0, 1, 4, 5, 6, 9, 16, 20)]
    assert steps == 40
    assert calls == CALLS.get(cls, {}).get(room, calls)
    assert single.curves == several.curves
    assert single.matrix == several.matrix
    assert all(torch.equal(a, b) for one, other in zip(params, copies, strict=True) for a, b in zip(one, other))


def test_the_draws_are_those_of_the_op() -> None:
    method = made(FineTune)
    x, y = method.tasks[1].x, method.tasks[1].y  # type: ignore[attr-defined]
    ids = ops.draw_ids(torch.tensor([48, 48]), 16, 7, seed=3, task=1)
    batch, weights = method.draw(1, 7, torch.Generator())
    assert weights is None
    assert torch.equal(batch[0], x[ids])
    assert torch.equal(batch[1], torch.stack([y[s, ids[s]] for s in range(2)]))
