"""Training steps with Fisher information: every use of it learns, sampling is unbiased, scores are remembered."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from curves import REFRESH, curve, error, flat, method, start, train
from torch import Tensor

from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods import MIM, MIMWeight, Mod
from mclnf_fast.learn.sampling.guided import GuidedSteps, loss_weights
from mclnf_fast.learn.task import Batch
from mclnf_fast.tasks.coords import CoordTask

MODES = ("none", "sample", "weight", "both")


class Tiled(CoordTask):
    """An item is three neighboring points."""

    @property
    def items(self) -> int:
        return self.samples // 3

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[Batch, Tensor]:
        inside = torch.randint(3, items.shape, generator=generator)
        return self.take(items * 3 + inside), torch.ones(items.shape)


def guided(use: Any = "sample", **changes: Any) -> GuidedSteps:
    task = curve(0)
    tiled = Tiled("tiled", task.x, task.y, task.spec, task.backend)
    return GuidedSteps(tiled, FimConfig(use=use, refresh=REFRESH, draws="independent", smooth=0.5, **changes), 16)


@pytest.mark.parametrize("fim", MODES)
def test_every_use_of_fisher_information_learns(fim):
    given = method(MIM, fim, decay_steps=250)
    before = error(given)
    train(given, 250)
    assert error(given) < before / 10


def test_weights_of_strength_zero_are_the_mse_bit_for_bit():
    plain, weighted = train(method(Mod), 12), train(method(MIM, "weight", lam=0.0), 12)
    assert torch.equal(flat(plain.params), flat(weighted.params))
    other = train(method(MIM, "weight"), 12)
    assert not torch.equal(flat(plain.params), flat(other.params))


@pytest.mark.parametrize(("draws", "apart"), [("even", 1.05), ("independent", 1.5)])
@pytest.mark.parametrize("scored", [True, False])
def test_the_sampled_gradient_is_unbiased(scored, draws, apart, monkeypatch):
    """Enumerated over every item that a step can draw, with the probabilities with which it draws them; of two signals
    that have scores of their own."""
    given = train(method(MIM, "sample", draws=draws, batch=8), 12)
    assert isinstance(given, MIM)
    step = 12 if scored else 13
    p, n, task = given.guided.sampler.probabilities(), given.tasks[0].items, given.tasks[0]
    assert bool((p.amax(1) / p.amin(1) > apart).all())
    whole = torch.arange(n).expand(2, n)
    expected = torch.autograd.grad(task.loss(given.params, task.take(whole)).sum(), given.params)
    mean = [torch.zeros_like(g) for g in expected]
    state = given.guided.state_dict()
    for item in range(n):
        given.guided.load_state_dict(state)
        drawn = torch.full((2, 8), item), (1 / (n * p[:, item]))[:, None].expand(2, 8).float()
        monkeypatch.setattr(given.guided.sampler, "draw", lambda *a, drawn=drawn: drawn)
        grads = given.guided.gradients(given.params, step, torch.Generator())
        for m, g in zip(mean, grads, strict=True):
            m += p[:, item].reshape(-1, *([1] * (g.dim() - 1))) * g
    for m, g in zip(mean, expected):
        torch.testing.assert_close(m, g, rtol=1e-4, atol=1e-6)


def test_a_score_is_the_mean_of_its_samples_mixed_with_the_old_score():
    given = guided()
    items = torch.tensor([[2, 5, 2], [2, 2, 2]])
    given.sampler.update(items, torch.tensor([[1.0, 7.0, 3.0], [3.0, 4.0, 8.0]]), torch.ones(2, 3))
    first = given.sampler.inner.scores(torch.arange(16).expand(2, 16))
    assert first[:, [2, 5]].tolist() == [[2.0, 7.0], [5.0, -1.0]]
    assert int((first < 0).sum()) == 29
    given.sampler.update(torch.tensor([[2], [5]]), torch.tensor([[10.0], [4.0]]), torch.ones(2, 1))
    again = given.sampler.inner.scores(torch.tensor([[2, 5], [2, 5]]))
    assert again.tolist() == [[0.5 * 2 + 0.5 * 10, 7.0], [5.0, 4.0]]


def test_the_score_of_an_item_that_is_a_sample_is_the_latest():
    plain = curve(0)
    given = GuidedSteps(plain, FimConfig(use="sample", draws="independent"), 16)
    for q in (3.0, 5.0):
        given.sampler.update(torch.tensor([[1], [4]]), torch.full((2, 1), q), torch.ones(2, 1))
    assert given.sampler.inner.scores(torch.tensor([[1], [4]])).tolist() == [[5.0], [5.0]]


@pytest.mark.parametrize("draws", ["even", "independent"])
def test_the_first_batch_leaves_no_scores(draws):
    """It is scored against its own Fisher alone, which says nothing of the next batch."""
    given = GuidedSteps(curve(0), FimConfig(use="sample", refresh=REFRESH, draws=draws), 16)
    params = tuple(p.repeat(2, *([1] * (p.dim() - 1))).requires_grad_() for p in start())
    for step, known in ((0, False), (REFRESH, True)):
        given.gradients(params, step, torch.Generator().manual_seed(step))
        p = given.sampler.probabilities()
        assert bool((p.amax(1) > 1.001 * p.amin(1)).all()) == known


def test_the_sampler_knows_the_scores():
    given = guided(mix=0.5)
    n = given.task.items
    q = torch.rand(2, n, generator=torch.Generator().manual_seed(0)) + 0.1
    given.sampler.update(torch.arange(n).expand(2, n), q, torch.ones(2, n))
    roots = q.double().sqrt()
    expected = 0.5 * roots / roots.sum(1, keepdim=True) + 0.5 / n
    torch.testing.assert_close(given.sampler.probabilities(), expected, rtol=1e-5, atol=0)
    items, weights = given.sampler.draw(500, 0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(weights.double(), 1 / (n * expected.gather(1, items)), rtol=1e-5, atol=0)


def test_items_drawn_twice_do_not_make_the_order_matter():
    first, second = guided(), guided()
    items, q = torch.tensor([[7, 3, 7, 7, 1, 3]] * 2), torch.tensor([[1.0, 2.0, 4.0, 0.5, 8.0, 2.5]] * 2)
    order = torch.tensor([5, 3, 0, 4, 2, 1])
    first.sampler.update(items, q, torch.ones(2, 6))
    second.sampler.update(items[:, order], q[:, order], torch.ones(2, 6))
    assert torch.equal(first.sampler.probabilities(), second.sampler.probabilities())


def test_scores_are_of_the_loss_and_not_of_its_weight(monkeypatch):
    """An item that was drawn with a small probability has a large weight and no larger score for it."""
    params = tuple(p.repeat(2, *([1] * (p.dim() - 1))).requires_grad_() for p in start())
    items = (torch.arange(8) * 2).expand(2, 8)
    found = []
    for weights in (torch.ones(2, 8), torch.linspace(0.5, 2.0, 8).expand(2, 8)):
        given = guided()
        given.gradients(params, 0, torch.Generator().manual_seed(0))  # what the next batch is scored against
        monkeypatch.setattr(given.sampler, "draw", lambda *a, weights=weights: (items, weights))
        given.gradients(params, REFRESH, torch.Generator().manual_seed(1))
        found.append(given.sampler.inner.scores(items))
    assert bool((found[0] > 0).all())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("norm", ["batch_mean", "params", "none"])
@pytest.mark.parametrize("form", ["one_plus", "pure"])
def test_loss_weights_of_every_form_have_mean_one(norm, form):
    q = torch.rand(2, 9, generator=torch.Generator().manual_seed(3)) * torch.tensor([[1.0], [50.0]])
    weights = loss_weights(q, FimConfig(norm=norm, form=form, clip=None), 20)
    torch.testing.assert_close(weights.mean(1), torch.ones(2))
    scale = {"batch_mean": q.mean(1, keepdim=True), "params": 20, "none": 1}[norm]
    plain = q / scale if form == "pure" else 1 + q / scale
    torch.testing.assert_close(weights, plain / plain.mean(1, keepdim=True))


def test_the_papers_form_weights_the_loss_whatever_the_use():
    """As MIM with `use="weight"`, bit for bit, and not as with `use="sample"`."""
    found = []
    for cls, use in ((MIMWeight, "sample"), (MIM, "weight"), (MIM, "sample")):
        given = train(method(cls, use), 6, 0)
        found.append(flat(given.params_of(0)))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
