"""Methods that are stopped anywhere and go on to the same bits; their schedule of rates."""

from __future__ import annotations

import math

import pytest
import torch
from curves import assert_same_state, error, flat, method, start, train

from mclnf_fast.learn.methods import EWC, METHODS, FineTune, Method, Mod, ModRandom

ALL = {**METHODS, "mod_random": ModRandom}
STEPS = 7


def through(given: Method, begin: int, end: int) -> None:
    """The steps begin ... end - 1 of all tasks in their order, STEPS a task."""
    for step in range(begin, end):
        k, at = divmod(step, STEPS)
        if at == 0:
            given.begin(k)
        given.step(k, at)
        if at == STEPS - 1:
            given.finish(k)


@pytest.mark.parametrize(("name", "use"), [*((name, "sample") for name in ALL), ("mim", "weight"), ("mim", "both")])
def test_stopping_anywhere_and_going_on_gives_the_same_bits(name, use):
    cls = ALL[name]
    whole = method(cls, use)
    total = STEPS * len(whole.tasks)
    through(whole, 0, total)
    for cut in (0, 1, 2, 3, 5, *range(7, total + 1, 2)):
        stopped = method(cls, use)
        through(stopped, 0, cut)
        state = stopped.state_dict()
        kept = {key: value.clone() for key, value in state.items()}
        through(stopped, cut, min(cut + 2, total))  # what comes later must not reach into the state
        for key, value in kept.items():
            assert torch.equal(state[key], value), key
        resumed = method(cls, use)
        resumed.load_state_dict(state)
        through(resumed, cut, total)
        assert_same_state(resumed, whole)
        for k in range(len(whole.tasks)):
            assert torch.equal(flat(resumed.params_of(k)), flat(whole.params_of(k)))


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ALL)
def test_stopping_and_going_on_in_a_half_type(name, precision):
    """Masters, moments and loss scales are in the state; the rounded copies follow from them."""
    whole = method(ALL[name], precision=precision)
    total = STEPS * len(whole.tasks)
    through(whole, 0, total)
    assert all(p.dtype == torch.float32 for p in whole.params_of(0))
    assert not torch.equal(flat(whole.params_of(0)), flat(through_all(method(ALL[name])).params_of(0)))
    for cut in (1, 3, total // 2 + 1, total - 1):
        stopped = method(ALL[name], precision=precision)
        through(stopped, 0, cut)
        resumed = method(ALL[name], precision=precision)
        resumed.load_state_dict(stopped.state_dict())
        through(resumed, cut, total)
        assert_same_state(resumed, whole)


def through_all(given: Method) -> Method:
    through(given, 0, STEPS * len(given.tasks))
    return given


@pytest.mark.parametrize("cls", ALL.values(), ids=ALL)
def test_one_seed_gives_the_same_bits_and_another_others(cls):
    first, second, third = (train(method(cls, seed=seed), 5) for seed in (1, 1, 2))
    assert_same_state(first, second)
    assert not torch.equal(flat(first.params), flat(third.params))


def test_the_start_is_copied():
    given = method(FineTune)
    before = [p.clone() for p in given.init]
    train(given, 3)
    assert all(torch.equal(a, b) for a, b in zip(given.init, before))


def test_the_rate_falls_exponentially_from_the_first_to_the_last_step():
    given = method(FineTune, decay_steps=11)
    assert given.rate(0) == pytest.approx(2e-2)
    assert given.rate(5) == pytest.approx(math.sqrt(2e-2 * 2e-3))
    assert given.rate(10) == given.rate(20) == pytest.approx(2e-3)
    assert method(FineTune, decay_steps=1).rate(0) == pytest.approx(2e-2)
    # After two steps of SGD the rate rises over three steps of Adam, and its last step is the task's last one.
    warm = method(Mod, decay_steps=13, lr_end=2e-2)
    assert [warm.rate(i) / 2e-2 for i in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert method(Mod, decay_steps=13).rate(10) == pytest.approx(2e-3)


def test_the_other_schedule_does_not_know_the_last_step():
    given = method(FineTune, schedule="hold", hold=16)
    assert given.rate(15) == pytest.approx(2e-2)
    assert given.rate(63) == pytest.approx(1e-2)


def test_a_module_that_is_still_to_come_is_the_start():
    given = method(Mod)
    train(given, 4)
    given.finish(0)
    assert torch.equal(flat(given.params_of(1)), flat(p.repeat(2, *([1] * (p.dim() - 1))) for p in start()))
    assert not torch.equal(flat(given.params_of(0)), flat(given.params_of(1)))


def test_ewc_protects_the_parameters_of_the_first_task():
    lost = {}
    for lam in (0.0, 300.0):
        given = method(EWC, ewc_lam=lam, decay_steps=150)
        train(given, 150)
        given.finish(0)
        own = error(given, 0)
        train(given, 150, k=1)
        lost[lam] = error(given, 0) - own
    assert lost[300.0] < 0.5 * lost[0.0]


def test_a_state_that_does_not_fit_is_refused_before_anything_changes():
    given = train(method(Mod), 2)
    state = given.state_dict()
    for key in ("params.3", "made", "optimizer.step"):
        short = {k: v for k, v in state.items() if k != key}
        with pytest.raises((KeyError, ValueError)):
            method(Mod).load_state_dict(short)
    other = method(Mod)
    with pytest.raises(ValueError, match=r"params of the state\[0\] must be \(2, 1, 12\).*got \(1, 1, 13\)"):
        other.load_state_dict({**state, "params.0": torch.zeros(1, 1, 13)})
    assert_same_state(other, method(Mod))


@pytest.mark.parametrize("name", ["finetune", "er", "mim"])
def test_random_parts_of_a_loss_change_with_the_step(name, monkeypatch):
    given = method(ALL[name])
    train(given, 2)
    given.finish(0)
    given.begin(1)
    seeds = []
    task = given.tasks[1]
    loss = task.loss
    monkeypatch.setattr(
        task, "loss", lambda params, batch, weights=None, seed=0: seeds.append(seed) or loss(params, batch, weights)
    )
    points = task.points
    monkeypatch.setattr(task, "points", lambda params, batch, seed=0: seeds.append(seed) or points(params, batch))
    train(given, 6, k=1)
    assert sorted(set(seeds)) == [0, 1, 2, 3, 4, 5]
