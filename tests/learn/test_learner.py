"""One module learning one task: every use of Fisher information, resuming at any step, unbiased sampling."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.learner import Learner, LearnerConfig
from mclnf_fast.spec import FieldSpec

SPEC = FieldSpec(1, 1, 12, 1, activation="tanh")
MODES = ("none", "sample", "weight", "both")
CONFIG = LearnerConfig(steps=60, batch=16, lr=2e-2, lr_end=2e-3, refresh=4)


class Curve:
    """A curve with a sharp step, as a task: a sample is a point, an item a point too."""

    name = "curve"

    def __init__(self, points: int = 48) -> None:
        self.x = torch.linspace(-1, 1, points)[:, None]
        self.y = torch.tanh(12 * self.x - 3) * 0.5
        self.last: Tensor | None = None

    @property
    def items(self) -> int:
        return self.x.shape[0]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.randint(self.items, (count,), generator=generator)

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        self.last = items
        return items, torch.ones(items.numel())

    def predict(self, params: tuple[Tensor, ...], batch: Tensor) -> Tensor:
        offsets = torch.tensor([0, batch.numel()])
        return ops.bank_mlp(self.x[batch], offsets, list(params[:2]), list(params[2:]), SPEC, "reference")

    def losses(self, params: tuple[Tensor, ...], batch: Tensor, seed: int) -> Tensor:
        return (self.predict(params, batch) - self.y[batch]).square().mean(-1)

    def scores(self, params: tuple[Tensor, ...], batch: Tensor, weights: Tensor, fisher: Any, seed: int) -> Any:
        with torch.no_grad():
            grad_y = 2 * weights[:, None] * (self.predict(params, batch) - self.y[batch])
        return ops.fisher_scores(
            self.x[batch],
            torch.tensor([0, batch.numel()]),
            list(params[:2]),
            list(params[2:]),
            grad_y,
            fisher,
            SPEC,
            damping=1e-8 if fisher is None else 0.0,
            backend="reference",
        )

    def evaluate(self, params: tuple[Tensor, ...]) -> float:
        with torch.no_grad():
            return -10 * math.log10(float(self.losses(params, torch.arange(self.items), 0).mean()))


def start(seed: int = 0) -> tuple[Tensor, ...]:
    return initial_parameters(SPEC, 1, generator=torch.Generator().manual_seed(seed))


def learner(seed: int = 0, **changes: Any) -> Learner:
    return Learner(Curve(), start(), dataclasses.replace(CONFIG, **changes), seed)


def run(given: Learner, steps: int) -> Learner:
    for _ in range(steps):
        given.step()
    return given


def full_gradient(given: Learner) -> list[Tensor]:
    loss = given.task.losses(given.params, torch.arange(given.task.items), 0).mean()
    return list(torch.autograd.grad(loss, given.params))


def assert_same_state(a: Learner, b: Learner) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert set(first) == set(second)
    for key in first:
        assert torch.equal(first[key], second[key]), key


@pytest.mark.parametrize("fim", MODES)
def test_every_use_of_fisher_information_learns(fim):
    given = learner(fim=fim, steps=250)
    before = given.task.evaluate(given.params)
    run(given, 250)
    assert given.done
    assert given.task.evaluate(given.params) > before + 5


def test_the_start_is_copied():
    params = start()
    given = Learner(Curve(), params, CONFIG, 0)
    run(given, 3)
    for a, b in zip(params, start()):
        assert torch.equal(a, b)


def test_weights_of_strength_zero_are_the_mse_bit_for_bit():
    plain, weighted = learner(fim="none"), learner(fim="weight", lam=0.0)
    for _ in range(12):
        plain.step()
        weighted.step()
        for a, b in zip(plain.params, weighted.params):
            assert torch.equal(a, b)
    other = run(learner(fim="weight", lam=1.0), 12)
    assert any(not torch.equal(a, b) for a, b in zip(plain.params, other.params))


@pytest.mark.parametrize("fim", MODES)
def test_one_seed_gives_the_same_bits_and_another_others(fim):
    first, second, third = run(learner(1, fim=fim), 13), run(learner(1, fim=fim), 13), run(learner(2, fim=fim), 13)
    assert_same_state(first, second)
    assert not torch.equal(first.params[0], third.params[0])


@pytest.mark.parametrize("fim", MODES)
@pytest.mark.parametrize("cut", [0, 1, 2, 3, 4, 5, 8, 10, 15])
def test_stopping_at_any_step_and_going_on_gives_the_same_bits(fim, cut):
    whole = run(learner(fim=fim), 17)
    stopped = run(learner(fim=fim), cut)
    state = {key: value.clone() for key, value in stopped.state_dict().items()}
    run(stopped, 2)  # what comes later must not reach into the state
    resumed = learner(fim=fim)
    resumed.load_state_dict(state)
    assert resumed.steps_made == cut
    assert_same_state(run(resumed, 17 - cut), whole)


@pytest.mark.parametrize("scored", [True, False])
def test_the_sampled_gradient_is_unbiased(scored, monkeypatch):
    """Enumerated over every item that a step can draw, with the probabilities with which it draws them."""
    given = run(learner(fim="sample", batch=8), 12 if scored else 13)
    assert (given.steps_made % CONFIG.refresh == 0) == scored
    state = {key: value.clone() for key, value in given.state_dict().items()}
    p = given.sampler.probabilities()[0]
    n = given.task.items
    assert float(p.max() / p.min()) > 1.5
    expected = full_gradient(given)
    mean = [torch.zeros_like(g) for g in expected]
    for item in range(n):
        given.load_state_dict(state)
        drawn = torch.full((1, 8), item), torch.full((1, 8), 1 / (n * float(p[item])))
        monkeypatch.setattr(given.sampler, "draw", lambda *a, drawn=drawn: drawn)
        caught: list[Any] = []
        monkeypatch.setattr(given.optimizer, "step", caught.append)
        given.step()
        for m, g in zip(mean, caught[0]):
            m += float(p[item]) * g
    for m, g in zip(mean, expected):
        torch.testing.assert_close(m, g, rtol=1e-4, atol=1e-6)


def test_what_the_sampler_draws_comes_with_the_weight_of_its_probability():
    given = run(learner(fim="sample"), 13)
    items, weights = given.sampler.draw(500, torch.Generator().manual_seed(0))
    p = given.sampler.probabilities()[0]
    torch.testing.assert_close(weights[0].double(), 1 / (given.task.items * p[items[0]]), rtol=1e-6, atol=0)


def test_a_score_is_the_mean_of_its_samples_mixed_with_what_was_known():
    given = learner(fim="sample", smooth=0.25)
    given._remember(torch.tensor([2, 5, 2]), torch.tensor([1.0, 7.0, 3.0]), torch.ones(3))
    assert given.item_scores[[2, 5]].tolist() == [2.0, 7.0]
    assert bool((given.item_scores[[0, 1, 3, 4]] == -1).all())
    given._remember(torch.tensor([2]), torch.tensor([10.0]), torch.ones(1))
    assert given.item_scores[[2, 5]].tolist() == [0.25 * 2 + 0.75 * 10, 7.0]


def test_the_sampler_knows_the_smoothed_scores():
    given = learner(fim="sample", mix=0.5)
    n = given.task.items
    q = torch.rand(n, generator=torch.Generator().manual_seed(0)) + 0.1
    given._remember(torch.arange(n), q, torch.ones(n))
    roots = q.double().sqrt()
    expected = 0.5 * roots / roots.sum() + 0.5 / n
    torch.testing.assert_close(given.sampler.probabilities()[0], expected, rtol=1e-5, atol=0)


def test_items_drawn_twice_do_not_make_the_order_matter():
    first, second = learner(fim="sample"), learner(fim="sample")
    items, q = torch.tensor([7, 3, 7, 7, 1, 3]), torch.tensor([1.0, 2.0, 4.0, 0.5, 8.0, 2.5])
    order = torch.tensor([5, 3, 0, 4, 2, 1])
    first._remember(items, q, torch.ones(6))
    second._remember(items[order], q[order], torch.ones(6))
    assert_same_state(first, second)


def test_scores_are_of_the_loss_and_not_of_its_weight():
    """An item that was drawn with a small probability has a large weight and no larger score for it."""
    given = run(learner(fim="sample", batch=8), 12)
    known = given.running.damped()
    items = torch.arange(8) * 5
    weights = torch.linspace(0.5, 2.0, 8)
    given.sampler.draw = lambda *a: (items[None], weights[None])
    given.item_scores.fill_(-1.0)
    expected = given.task.scores(given.params, items, torch.ones(8), known, 12).scores
    given.step()
    torch.testing.assert_close(given.item_scores[items], expected, rtol=1e-4, atol=1e-7)


def test_the_rate_falls_exponentially_from_the_first_to_the_last_step():
    given = learner(steps=11)
    assert given.rate(0) == pytest.approx(2e-2)
    assert given.rate(5) == pytest.approx(math.sqrt(2e-2 * 2e-3))
    assert given.rate(10) == pytest.approx(2e-3)
    assert learner(steps=1).rate(0) == pytest.approx(2e-2)


def test_a_state_that_does_not_fit_is_refused_before_anything_changes():
    given = run(learner(), 2)
    state = given.state_dict()
    for key in ("params.3", "steps_made", "item_scores"):
        short = {k: v for k, v in state.items() if k != key}
        with pytest.raises(ValueError, match=f"state must hold '{key}'"):
            learner().load_state_dict(short)
    other = learner()
    with pytest.raises(ValueError, match=r"state\['params.0'\] must be \(1, 1, 12\), got \(1, 1, 13\)"):
        other.load_state_dict({**state, "params.0": torch.zeros(1, 1, 13)})
    assert_same_state(other, learner())
