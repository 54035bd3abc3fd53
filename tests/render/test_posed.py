"""Posed images as a task: the loss by its formula, scores by per-ray autograd, replay, held-out quality."""

import math

import pytest
import torch
from fields import SPEC, generator, in_cells, lively, some_images
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.learn import FimConfig, FisherScorer
from mclnf_fast.learn.methods.consolidate import diagonal_fisher
from mclnf_fast.learn.methods.reservoir import Reservoir
from mclnf_fast.learn.sampling.guided import GuidedSteps
from mclnf_fast.learn.task import join
from mclnf_fast.render import Cells, RayBatch, Rays, render_modules
from mclnf_fast.tasks.rays import PosedImages, posed_losses

BACKENDS = ("reference", "cpu")
CELL = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))


def some_task(backend: str = "reference", background=None, tile: int = 4) -> PosedImages:
    train, test = some_images(2, 10, 7), some_images(2, 10, 7, seed=1)
    settings = in_cells(6, background, backend=backend)
    return PosedImages("toy", train, test, CELL, SPEC, settings, tile)


def start() -> tuple[Tensor, ...]:
    return tuple(p.requires_grad_() for p in lively(SPEC))


def rays_of(batch) -> RayBatch:
    return RayBatch(*(t[0] for t in batch))


def losses_of(task: PosedImages, params, batch, seed: int) -> Tensor:
    """[S], each ray's own."""
    rays = rays_of(batch)
    offsets = torch.tensor([0, len(rays.origins)])
    return posed_losses(params, task.spec, rays, offsets, task.cells, task.settings, seed)


def scores_of(task: PosedImages, params, points, fisher):
    """What the ops make of a task's points."""
    half = len(params) // 2
    return ops.fisher_scores(
        points.x, points.offsets, params[:half], params[half:], points.grad_y, fisher, task.spec, points.sample_ids,
        damping=1e-8 if fisher is None else 0.0, backend=task.backend, num_samples=points.num_samples,
    )  # fmt: skip


def per_ray_gradients(params, losses: Tensor) -> Tensor:
    """[S, P] by autograd, one ray after another."""
    rows = [torch.autograd.grad(loss, params, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def flat(pair) -> Tensor:
    return torch.cat([t.flatten() for part in pair for t in part])


@pytest.mark.parametrize("background", [None, (0.3, 0.3, 0.3)])
def test_the_loss_is_the_mean_squared_error_of_the_rays(background):
    task, params = some_task(background=background), start()
    batch = task.draw(30, generator())
    assert [tuple(t.shape) for t in batch] == [(1, 30, 3)] * 3
    rays = rays_of(batch)
    grouped = Rays.through_one_module(rays.origins, rays.directions)
    out = render_modules(params, SPEC, grouped, CELL, task.settings, seed=5)
    losses = losses_of(task, params, batch, 5)
    assert losses.shape == (30,)
    for k in range(30):
        expected = sum(float(out.color[k, c].detach() - rays.colors[k, c]) ** 2 for c in range(3)) / 3
        assert float(losses[k].detach()) == pytest.approx(expected, rel=1e-5)
    loss = task.loss(params, batch, None, 5)
    assert loss.shape == (1,)
    assert float(loss.detach()) == pytest.approx(float(losses.detach().mean()), rel=1e-6)
    weights = torch.rand(1, 30, generator=generator(2))
    weighted = task.loss(params, batch, weights, 5)
    assert float(weighted.detach()) == pytest.approx(float((weights[0] * losses).detach().mean()), rel=1e-5)
    assert torch.equal(task.loss(params, batch, torch.ones(1, 30), 5), loss)
    assert not torch.equal(loss, task.loss(params, batch, None, 6))  # the jitter follows the seed


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("background", [None, (0.3, 0.3, 0.3)])
def test_scores_are_those_of_per_ray_gradients_with_cross_terms(need, backend, background):
    need("fisher_scores", backend)
    task, params = some_task(backend, background), start()
    batch = task.draw(25, generator())
    g = per_ray_gradients(params, losses_of(task, params, batch, 3))
    points = task.points(params, batch, 3)
    result = scores_of(task, params, points, None)
    torch.testing.assert_close(flat(result.grads), g.sum(0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(flat(result.fisher), g.square().mean(0), rtol=1e-3, atol=1e-10)
    expected = (g.square() / (g.square().mean(0) + 1e-8)).sum(1)
    torch.testing.assert_close(result.scores, expected, rtol=1e-3, atol=1e-4)

    known = tuple(tuple(f + 1e-3 for f in part) for part in result.fisher)
    again = scores_of(task, params, points, known)
    torch.testing.assert_close(again.scores, (g.square() / flat(known)).sum(1), rtol=1e-3, atol=1e-6)


def test_cross_terms_matter_here():
    """The sum of the scores of a ray's points is another number: the test above would see them missing."""
    task, params = some_task(), start()
    batch = task.draw(10, generator())
    g = per_ray_gradients(params, losses_of(task, params, batch, 0))
    points = task.points(params, batch)
    ones = (tuple(torch.ones_like(p) for p in params[:3]), tuple(torch.ones_like(p) for p in params[3:]))
    each = scores_of(task, params, points._replace(sample_ids=None, num_samples=len(points.x)), ones)
    summed = torch.zeros(10).index_add_(0, points.sample_ids, each.scores)
    assert float((summed / g.square().sum(1) - 1).abs().median()) > 0.2


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("background", [None, (0.3, 0.3, 0.3)])
def test_the_gauss_newton_diagonal_is_that_of_the_pixels(need, backend, background):
    """As EWC takes it: squared derivatives of every pixel's channels, cross terms included, mean over rays."""
    need("fisher_scores", backend)
    task, params = some_task(backend, background), start()
    batch = task.draw(20, generator(7))
    rays = rays_of(batch)
    grouped = Rays.through_one_module(rays.origins, rays.directions)
    color = render_modules(params, SPEC, grouped, CELL, task.settings, seed=7).color
    expected = sum(per_ray_gradients(params, color[:, c]).square().mean(0) for c in range(3))
    found = diagonal_fisher(task, params, seed=7, samples=20)
    assert [f.shape for f in found] == [p.shape for p in params]
    torch.testing.assert_close(flat([found]), expected, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_the_sweep_is_that_of_the_weighted_sum(need, backend):
    need("fisher_scores", backend)
    task, params = some_task(backend), start()
    batch, factor = task.draw_in(torch.tensor([[0, 3, 3, 11, 5]]), generator())
    expected = torch.autograd.grad(5 * task.loss(params, batch, factor, 9).sum(), params)
    points = task.points(params, batch, 9)
    result = FisherScorer(task.spec, 1, FimConfig(), backend)(
        params, points.x, points.offsets, points.grad_y, grads=True, weights=factor[0], sample_ids=points.sample_ids,
        num_samples=points.num_samples,
    )  # fmt: skip
    assert result.grads is not None
    for a, b in zip(result.grads, expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_rays_that_miss_have_no_score_and_no_gradient():
    task, params = some_task(), start()
    o, d, c = task.draw(6, generator())
    some = o, torch.where(torch.arange(6)[None, :, None] < 3, -d, d), c
    result = scores_of(task, params, task.points(params, some), None)
    assert result.scores.shape == (6,)
    assert torch.equal(result.scores[:3], torch.zeros(3))
    assert bool((result.scores[3:] > 0).all())
    result = scores_of(task, params, task.points(params, (o, -d, c)), None)
    assert not bool(flat(result.grads).any())


@pytest.mark.parametrize("use", ["sample", "both"])
def test_a_step_with_fisher_information_remembers_tiles(use):
    task, params = some_task(), start()
    guided = GuidedSteps(task, FimConfig(use=use, refresh=1, draws="independent"), 16)
    for step in range(2):
        grads = guided.gradients(params, step, generator(step))
        assert [g.shape for g in grads] == [p.shape for p in params]
    known = guided.sampler.inner.scores(torch.arange(task.items)[None])
    assert bool((known >= 0).any())
    assert bool((known < 0).any())


def test_a_replay_memory_holds_rays_of_every_task():
    tasks = [some_task(), some_task(tile=2)]
    memory = Reservoir(60, 0)
    for task in tasks:
        memory.see(task)
    assert memory.seen == sum(task.samples for task in tasks) == 280
    held = memory.draw(500, generator())
    assert [tuple(t.shape) for t in held] == [(1, 500, 3)] * 3
    every = {tuple(row) for row in task.take(torch.arange(140)[None])[2][0].tolist()}
    assert {tuple(row) for row in held[2][0].tolist()} <= every


def test_all_tasks_as_one():
    tasks = [some_task(), some_task(tile=2)]
    one = join(tasks)
    assert (one.samples, one.items, one.modules) == (280, tasks[0].items + tasks[1].items, 1)
    ids = torch.tensor([[0, 150, 3, 279, 139, 140]])
    parts = [tasks[int(i >= 140)].take(i.reshape(1, 1) % 140) for i in ids[0]]
    for k, tensor in enumerate(one.take(ids)):
        assert torch.equal(tensor, torch.cat([part[k] for part in parts], 1))


def test_items_are_tiles_and_the_batch_of_an_item_lies_in_it():
    task = some_task(tile=4)
    assert task.items == task.pool.tiles == 2 * 3 * 2
    batch, factor = task.draw_in(torch.arange(12)[None], generator(4))
    ids, expected = task.pool.in_tiles(torch.arange(12), generator(4))
    assert torch.equal(batch[2][0], task.pool.batch(ids).colors)
    assert torch.equal(factor[0], expected)


def test_rays_of_several_modules_have_their_own_losses():
    cells = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3], [[-1.0] * 3, [1.0] * 3]]))
    bank = tuple(torch.cat((a, b)) for a, b in zip(lively(SPEC, 0), lively(SPEC, 7)))
    task = some_task()
    batch = task.draw(8, generator())
    losses = posed_losses(bank, SPEC, rays_of(batch), torch.tensor([0, 5, 8]), cells, task.settings, 0)
    # Without jitter's share: each ray's jitter goes by its place in the batch, so compare in place.
    for m, rows in ((0, slice(0, 5)), (1, slice(5, 8))):
        alone = losses_of(task, tuple(p[m : m + 1] for p in bank), batch, 0)
        torch.testing.assert_close(losses[rows], alone[rows], rtol=1e-5, atol=1e-7)


def test_quality_is_the_mean_over_views_of_each_views_own():
    task, params = some_task(), lively(SPEC)
    views = task.evaluate_views(params)
    for view, found in enumerate(views):
        image = task.render(params, task.test_cameras, view)
        assert image.shape == (7, 10, 3)
        error = float((image.double() - task.test_images[view].double() / 255).square().mean())
        assert found == pytest.approx(-10 * math.log10(error), abs=1e-5)
    assert task.evaluate(params).item() == pytest.approx(sum(views) / 2, abs=1e-12)
    assert task.evaluate(params).item() == task.evaluate(params)


def test_more_than_one_cell_is_refused():
    train = some_images(1, 4, 4)
    cells = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]] * 2))
    with pytest.raises(ValueError, match=r"cells must hold the one cell of this task, got 2"):
        PosedImages("toy", train, train, cells, SPEC, in_cells(48))
