"""What multiplies a sample's loss: how likely it was drawn, how large its item is, and its score; all of them."""

from __future__ import annotations

import pytest
import torch
from curves import curve, flat, method, start, train
from torch import Tensor

from mclnf_fast.learn.fisher.scores import FimConfig, FisherScorer
from mclnf_fast.learn.methods import MIM, Mod, ModEven
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.even import WINDOW
from mclnf_fast.learn.sampling.guided import CANDIDATES, GuidedSteps, guided_batch, loss_weights
from mclnf_fast.learn.task import Batch
from mclnf_fast.tasks.coords import CoordTask

COUNT = 12


class Uneven(CoordTask):
    """An item is a point; items count by their place, as tiles cut off at the border of a view do."""

    def __init__(self) -> None:
        plain = curve(0)
        super().__init__("uneven", plain.x, plain.y, plain.spec, plain.backend)
        self.seen: list[Tensor | None] = []

    def factor(self, items: Tensor) -> Tensor:
        return 0.5 + items / self.items

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[Batch, Tensor]:
        return self.take(items), self.factor(items)

    def loss(self, params: Params, batch: Batch, weights: Tensor | None = None, seed: int = 0) -> Tensor:
        self.seen.append(weights)
        return super().loss(params, batch, weights, seed)


def two() -> Params:
    """The initialization for two signals."""
    return tuple(p.repeat(2, *([1] * (p.dim() - 1))).requires_grad_() for p in start())


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> tuple[Tensor, Tensor]:
    items = (torch.arange(COUNT) * 3).expand(2, COUNT)
    return items, torch.linspace(0.4, 1.7, COUNT).expand(2, COUNT)


@pytest.mark.parametrize("has_weights", [True, False])
@pytest.mark.parametrize("refreshing", [True, False])
def test_a_guided_step_weights_by_the_draw_and_by_the_size_of_the_item(drawn, has_weights, refreshing, monkeypatch):
    task, params = Uneven(), two()
    given = GuidedSteps(task, FimConfig(use="sample", refresh=2), COUNT)
    items, weights = drawn
    monkeypatch.setattr(given.sampler, "draw", lambda *a: (items, weights if has_weights else None))
    grads = given.gradients(params, 0 if refreshing else 1, torch.Generator())
    wanted = task.factor(items) * (weights if has_weights else 1.0)
    expected = torch.autograd.grad(CoordTask.loss(task, params, task.take(items), wanted).sum(), params)
    torch.testing.assert_close(flat(grads), flat(expected), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("refreshing", [True, False])
def test_both_weights_by_the_draw_and_by_the_score(drawn, refreshing, monkeypatch):
    task, params = Uneven(), two()
    config = FimConfig(use="both", refresh=2, clip=None)
    given = GuidedSteps(task, config, COUNT)
    items, weights = drawn
    monkeypatch.setattr(given.sampler, "draw", lambda *a: (items, weights))
    grads = given.gradients(params, 0 if refreshing else 1, torch.Generator())
    by_draw = weights * task.factor(items)
    batch = task.take(items)
    points = task.points(params, batch)
    # The diagonal Fisher is that of the weighted batch: a scorer of its own, given the same.
    scored = FisherScorer(task.spec, 2, config, task.backend)(
        params, points.x, points.offsets, points.grad_y, grads=False, weights=by_draw.flatten()
    )
    wanted = by_draw * loss_weights(scored.scores.reshape(2, -1), config, task.spec.num_parameters)
    (seen,) = [w for w in task.seen if w is not None]
    torch.testing.assert_close(seen, wanted, rtol=1e-4, atol=1e-7)
    expected = torch.autograd.grad(CoordTask.loss(task, params, batch, wanted).sum(), params)
    torch.testing.assert_close(flat(grads), flat(expected), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("use", ["sample", "weight", "both"])
def test_a_meta_training_batch_is_weighted_by_its_draw_and_by_its_scores(use):
    task, params, config = curve(0), two(), FimConfig(clip=None, mix=0.7)
    scorer = FisherScorer(task.spec, 2, config, task.backend)
    counts: list[int] = []

    def draw(count: int) -> Batch:
        counts.append(count)
        return task.draw(count, torch.Generator().manual_seed(5))

    batch, weights = guided_batch(draw, COUNT, params, task, use, scorer, torch.Generator().manual_seed(9))
    assert counts == [COUNT * (1 if use == "weight" else CANDIDATES)]
    assert batch[0].shape == (2, COUNT, 1)
    candidates = task.draw(counts[0], torch.Generator().manual_seed(5))
    points = task.points(params, candidates)
    again = FisherScorer(task.spec, 2, config, task.backend)
    q = again(params, points.x, points.offsets, points.grad_y).scores.reshape(2, -1)
    wanted = torch.ones(2, COUNT)
    if use != "weight":
        density = 1 - config.mix + config.mix * q.sqrt() / q.sqrt().mean(1, keepdim=True)
        ids = torch.multinomial(density, COUNT, replacement=True, generator=torch.Generator().manual_seed(9))
        rows = torch.arange(2)[:, None]
        assert torch.equal(batch[0], candidates[0][rows, ids])
        wanted, q = 1 / density[rows, ids], q[rows, ids]
    if use != "sample":
        wanted = wanted * loss_weights(q, config, task.spec.num_parameters)
    assert weights is not None
    torch.testing.assert_close(weights, wanted, rtol=1e-5, atol=1e-7)


def test_even_draws_without_scores_cover_the_task_and_count_all_alike(monkeypatch):
    given = train(method(ModEven, batch=6), 1)
    task, seen = given.tasks[0], []
    take = task.take

    def spied(ids: Tensor) -> Batch:
        seen.append(ids)
        return take(ids)

    monkeypatch.setattr(task, "take", spied)
    train(given, 2 * WINDOW - 1)
    for ids in seen:
        # One of every sixth part of the curve in each batch: independent draws would leave parts out.
        assert torch.equal((ids * 6 // task.items).sort(1).values, torch.arange(6).expand(2, 6))
    # Within a window everywhere: as many draws of each 48th as there are rounds.
    window = torch.cat(seen[WINDOW - 1 : 2 * WINDOW - 1], 1)
    assert window.shape[1] == 6 * WINDOW
    assert torch.stack([row.bincount(minlength=task.items) for row in window]).amin() >= 1


def test_even_draws_count_items_by_their_size(monkeypatch):
    task = Uneven()
    given = ModEven([task], start(), method(Mod).config, 0)
    given.begin(0)
    items = torch.arange(COUNT).expand(2, COUNT)
    monkeypatch.setattr(given.sampler, "draw", lambda *a: (items, None))
    grads = given.gradients(0, 0, torch.Generator())
    expected = torch.autograd.grad(
        CoordTask.loss(task, given.params, task.take(items), task.factor(items)).sum(), given.params
    )
    torch.testing.assert_close(flat(grads), flat(expected))


def test_even_draws_are_those_of_mim_without_its_scores():
    """The row beside MIM differs from it in the scores alone."""
    even, guided = train(method(ModEven), 20), train(method(MIM, "sample", mix=0.0), 20)
    torch.testing.assert_close(flat(even.params), flat(guided.params), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(flat(train(method(Mod), 20).params), flat(even.params), atol=1e-4)
