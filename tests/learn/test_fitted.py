"""Many steps of a method in one call: the bits of the steps one by one, wherever the calls are cut; and what is not
made so."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
from curves import CONFIG, assert_same_state, curve, flat, start
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import InputError
from mclnf_fast.learn import Plan, Protocol
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods import METHODS, FineTune, Method, Mod, ModEven, ModRandom
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import Batch
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


@pytest.mark.parametrize(("refresh", "draws"), [(3, "even"), (10, "even"), (16, "even"), (3, "independent")])
def test_mim_scores_at_every_refresh(refresh: int, draws: str) -> None:
    """Blocks of steps between two scorings, in which a window of draws may end."""

    def mim() -> Method:
        method = made(METHODS["mim"], refresh)
        method.config = dataclasses.replace(
            method.config,
            fim=FimConfig(use="sample", refresh=refresh, draws=draws),  # type: ignore[arg-type]
        )
        return method

    expected = one_by_one(mim())
    method, counts = in_calls(mim(), 1000)
    assert_same_state(method, expected)
    assert max(counts) <= max(refresh - 1, 2)


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


def test_a_task_with_a_loss_of_its_own_keeps_it() -> None:
    def method() -> Method:
        given = made(FineTune)
        given.tasks = [Absolute(t.name, t.x, t.y, t.spec) for t in given.tasks]  # type: ignore[attr-defined]
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


def test_a_signal_that_diverges_is_named() -> None:
    method = made(Mod)
    method.tasks[0].y[1, 5] = float("nan")  # type: ignore[attr-defined]
    method.begin(0)
    method.steps(0, 2)  # SGD's: sample 5 may not be among the first draws
    with pytest.raises(InputError, match=r"curve 0: .* of signal 1 is no longer finite after \d+ steps"):
        method.steps(0, 100)


def test_a_protocol_stops_at_logged_steps() -> None:
    """And its logs, curves and matrix are those of single steps."""

    def run(most: int) -> tuple[Protocol, list[tuple[int, int]]]:
        logs: list[tuple[int, int]] = []
        tasks = made(Mod).tasks
        protocol = Protocol(
            Mod,
            tasks,
            start(),
            CONFIG,
            Plan(20, (0, 1, 4, 16, 20), curves=True),
            0,
            lambda k, s, p: logs.append((k, s)),
        )
        calls = 0
        while not protocol.done:
            protocol.step(most)
            calls += 1
        assert calls == 40 if most == 1 else calls < 14
        return protocol, logs

    (single, logs), (several, others) = run(1), run(1000)
    assert logs == others == [(k, s) for k in range(2) for s in (0, 1, 4, 16, 20)]
    assert single.curves == several.curves
    assert single.matrix == several.matrix


def test_the_draws_are_those_of_the_op() -> None:
    method = made(FineTune)
    x, y = method.tasks[1].x, method.tasks[1].y  # type: ignore[attr-defined]
    ids = ops.draw_ids(torch.tensor([48, 48]), 16, 7, seed=3, task=1)
    batch, weights = method.draw(1, 7, torch.Generator())
    assert weights is None
    assert torch.equal(batch[0], x[ids])
    assert torch.equal(batch[1], torch.stack([y[s, ids[s]] for s in range(2)]))
