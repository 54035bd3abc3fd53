"""EWC: what it remembers pulls as the sum of the penalties of all old tasks would."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from curves import SPEC, curve, flat, method, start, train

from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.methods import EWC, FineTune
from mclnf_fast.learn.methods.consolidate import Consolidation, diagonal_fisher
from mclnf_fast.learn.params import Params
from mclnf_fast.ops.bank_mlp import reference
from mclnf_fast.tasks.coords import CoordTask


def params_of(seed: int) -> Params:
    return tuple(torch.cat([a, b]) for a, b in zip(start(seed), start(seed + 10)))  # of two signals


@pytest.mark.parametrize("outputs", [1, 3])
def test_the_fisher_is_the_mean_square_of_the_outputs_jacobian(outputs):
    """Over the very samples that it draws; summed over output channels."""
    spec, one = dataclasses.replace(SPEC, out_dim=outputs), curve(0)
    task = CoordTask("curve", one.x, one.y.repeat(1, 1, outputs), spec, "reference")
    drawn = task.draw(task.samples, torch.Generator().manual_seed(5))[0]
    params = initial_parameters(spec, 2, generator=torch.Generator().manual_seed(1))
    found = diagonal_fisher(task, params, 5)
    half = len(params) // 2
    for signal in range(2):
        own = [p[signal : signal + 1].clone().requires_grad_() for p in params]
        squares = [torch.zeros_like(p) for p in own]
        for x in drawn[signal]:
            y = reference.bank_mlp(x[None], torch.tensor([0, 1]), own[:half], own[half:], spec)
            for c in range(outputs):
                for s, g in zip(squares, torch.autograd.grad(y[0, c], own, retain_graph=True), strict=True):
                    s += g.square() / len(drawn[signal])
        for f, s in zip(found, squares, strict=True):
            torch.testing.assert_close(f[signal : signal + 1], s, rtol=1e-4, atol=1e-7)


def pull(memory: Consolidation, theta: Params) -> list[torch.Tensor]:
    return [f * (t - a) for f, t, a in zip(memory.fisher, theta, memory.anchor, strict=True)]


def test_one_anchor_pulls_as_all_tasks_do():
    memory, theta, expected = Consolidation(), params_of(7), [torch.zeros_like(p) for p in params_of(7)]
    for k in range(3):
        memory.add(curve(k), params_of(k), k)
        own = diagonal_fisher(curve(k), params_of(k), k)
        expected = [e + f * (t - p) for e, f, t, p in zip(expected, own, theta, params_of(k), strict=True)]
    for found, wanted in zip(pull(memory, theta), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_online_form_forgets_by_its_decay():
    memory = Consolidation(online=True, decay=0.5)
    for k in range(3):
        memory.add(curve(k), params_of(k), k)
    parts = [diagonal_fisher(curve(k), params_of(k), k) for k in range(3)]
    for f, a, *p in zip(memory.fisher, memory.anchor, *parts, strict=True):
        torch.testing.assert_close(f, 0.25 * p[0] + 0.5 * p[1] + p[2])
        assert a.shape == f.shape
    assert all(torch.equal(a, p) for a, p in zip(memory.anchor, params_of(2), strict=True))


def test_nothing_is_remembered_before_the_first_task():
    assert not Consolidation()
    assert Consolidation().state_dict() == {}


@pytest.mark.parametrize("online", [False, True])
def test_without_strength_ewc_is_fine_tuning_and_with_much_it_stays(online):
    moved = {}
    for name, cls, lam in (("plain", FineTune, 0.0), ("none", EWC, 0.0), ("much", EWC, 1e6)):
        given = method(cls, ewc_lam=lam, ewc_online=online, lr=1e-3)
        train(given, 12)
        given.finish(0)
        before = flat(given.params).detach().clone()
        train(given, 12, 1)
        moved[name] = (flat(given.params).detach() - before, before)
    assert torch.equal(moved["none"][0], moved["plain"][0])
    held = moved["much"][0].abs().mean()
    assert float(held) < 0.5 * float(moved["plain"][0].abs().mean())


def test_the_penalty_has_the_strength_that_was_asked_for():
    """The first moments after one step are (1 - beta1) times the gradient: what is added to it is lam F (theta - a)."""
    added = {}
    for lam in (0.0, 3.0, 12.0):
        given = method(EWC, ewc_lam=lam, warm_steps=0)
        train(given, 12)
        given.finish(0)
        with torch.no_grad():
            for p in given.params:  # away from the anchor, where the penalty has a gradient
                p.add_(0.1)
        theta = tuple(p.detach().clone() for p in given.params)
        train(given, 1, 1)
        assert given.optimizer is not None
        state = given.optimizer.state_dict()
        moments = [state[f"exp_avg.{i}"] / 0.1 for i in range(len(theta))]
        added[lam] = moments, pull(given.old, theta)
    for lam in (3.0, 12.0):
        for with_it, without, pulled in zip(added[lam][0], added[0.0][0], added[0.0][1], strict=True):
            torch.testing.assert_close(with_it - without, lam * pulled, rtol=1e-3, atol=1e-5)
