"""Posed images as a task: losses by their formula, scores by per-ray autograd, held-out quality."""

import math

import pytest
import torch
from fields import SPEC, generator, lively, some_images
from torch import Tensor

from mclnf_fast.render import Cells, RenderSettings, render_modules
from mclnf_fast.render.posed import PosedImages, posed_losses
from mclnf_fast.render.volume import sample_in_cells

BACKENDS = ("reference", "cpu")
CELL = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))


def some_task(backend: str = "reference", background=None, tile: int = 4) -> PosedImages:
    train, test = some_images(2, 10, 7), some_images(2, 10, 7, seed=1)
    settings = RenderSettings(bins=6, background=background, backend=backend)
    return PosedImages("toy", *train, *test, CELL, SPEC, settings, tile)


def start() -> tuple[Tensor, ...]:
    return tuple(p.requires_grad_() for p in lively(SPEC))


def per_ray_gradients(task: PosedImages, params, batch, weights, seed: int) -> Tensor:
    """[S, P] by autograd, one ray after another."""
    losses = weights * task.losses(params, batch, seed)
    rows = [torch.autograd.grad(loss, params, retain_graph=True) for loss in losses]
    return torch.stack([torch.cat([g.flatten() for g in row]) for row in rows])


def flat(pair) -> Tensor:
    return torch.cat([t.flatten() for part in pair for t in part])


@pytest.mark.parametrize("background", [None, (0.3, 0.3, 0.3)])
def test_losses_are_the_mean_squared_error_of_each_ray(background):
    task, params = some_task(background=background), start()
    batch = task.draw(30, generator())
    out = render_modules(
        params, SPEC, batch.origins, batch.directions, torch.tensor([0, 30]), CELL, task.settings, seed=5
    )
    losses = task.losses(params, batch, 5)
    assert losses.shape == (30,)
    for k in range(30):
        expected = sum(float(out.color[k, c].detach() - batch.colors[k, c]) ** 2 for c in range(3)) / 3
        assert float(losses[k].detach()) == pytest.approx(expected, rel=1e-5)
    assert not torch.equal(losses, task.losses(params, batch, 6))  # the jitter follows the seed


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("background", [None, (0.3, 0.3, 0.3)])
def test_scores_are_those_of_per_ray_gradients_with_cross_terms(need, backend, background):
    need("fisher_scores", backend)
    task, params = some_task(backend, background), start()
    batch = task.draw(25, generator())
    weights = torch.rand(25, generator=generator(2)) + 0.5
    g = per_ray_gradients(task, params, batch, weights, 3)
    result = task.scores(params, batch, weights, None, 3)
    torch.testing.assert_close(flat(result.grads), g.sum(0), rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(flat(result.fisher), g.square().mean(0), rtol=1e-3, atol=1e-10)
    expected = (g.square() / (g.square().mean(0) + 1e-8)).sum(1)
    torch.testing.assert_close(result.scores, expected, rtol=1e-3, atol=1e-4)

    known = tuple(tuple(f + 1e-3 for f in part) for part in result.fisher)
    again = task.scores(params, batch, weights, known, 3)
    torch.testing.assert_close(again.scores, (g.square() / flat(known)).sum(1), rtol=1e-3, atol=1e-6)


def test_cross_terms_matter_here():
    """The sum of the scores of a ray's points is another number: the test above would see them missing."""
    task, params = some_task(), start()
    batch = task.draw(10, generator())
    g = per_ray_gradients(task, params, batch, torch.ones(10), 0)
    points = sample_in_cells(batch.origins, batch.directions, torch.tensor([0, 10]), CELL, task.settings, SPEC, seed=0)
    from mclnf_fast import ops
    from mclnf_fast.render.volume import composite_points, evaluate

    raw = evaluate(params, SPEC, points, task.settings).detach().requires_grad_()
    color = composite_points(raw, points, task.settings).color
    grad_y = torch.autograd.grad((color - batch.colors).square().mean(-1).sum(), raw)[0]
    ones = (tuple(torch.ones_like(p) for p in params[:3]), tuple(torch.ones_like(p) for p in params[3:]))
    each = ops.fisher_scores(points.x, points.offsets, params[:3], params[3:], grad_y, ones, SPEC, damping=0.0)
    summed = torch.zeros(10).index_add_(0, points.ray_ids, each.scores)
    assert float((summed / g.square().sum(1) - 1).abs().median()) > 0.2


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_of_the_sweep_is_that_of_the_weighted_sum(need, backend):
    need("fisher_scores", backend)
    task, params = some_task(backend), start()
    batch, factor = task.draw_in(torch.tensor([0, 3, 3, 11, 5]), generator())
    expected = torch.autograd.grad((factor * task.losses(params, batch, 9)).sum(), params)
    result = task.scores(params, batch, factor, None, 9)
    for a, b in zip((*result.grads[0], *result.grads[1]), expected):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_rays_that_miss_have_no_score_and_no_gradient():
    task, params = some_task(), start()
    batch = task.draw(6, generator())
    batch = batch._replace(directions=torch.where(torch.arange(6)[:, None] < 3, -batch.directions, batch.directions))
    result = task.scores(params, batch, torch.ones(6), None, 0)
    assert result.scores.shape == (6,)
    assert torch.equal(result.scores[:3], torch.zeros(3))
    assert bool((result.scores[3:] > 0).all())
    nothing = batch._replace(directions=-task.draw(6, generator()).directions)
    result = task.scores(params, nothing, torch.ones(6), None, 0)
    assert not bool(flat(result.grads).any())


def test_items_are_tiles_and_the_batch_of_an_item_lies_in_it():
    task = some_task(tile=4)
    assert task.items == task.pool.tiles == 2 * 3 * 2
    batch, factor = task.draw_in(torch.arange(12), generator(4))
    ids, expected = task.pool.in_tiles(torch.arange(12), generator(4))
    assert torch.equal(batch.colors, task.pool.batch(ids).colors)
    assert torch.equal(factor, expected)


def test_rays_of_several_modules_have_their_own_losses():
    cells = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3], [[-1.0] * 3, [1.0] * 3]]))
    bank = tuple(torch.cat((a, b)) for a, b in zip(lively(SPEC, 0), lively(SPEC, 7)))
    task = some_task()
    batch = task.draw(8, generator())
    losses = posed_losses(bank, SPEC, batch, torch.tensor([0, 5, 8]), cells, task.settings, 0)
    # Without jitter's share: each ray's jitter goes by its place in the batch, so compare in place.
    for m, rows in ((0, slice(0, 5)), (1, slice(5, 8))):
        alone = task.losses(tuple(p[m : m + 1] for p in bank), batch, 0)
        torch.testing.assert_close(losses[rows], alone[rows], rtol=1e-5, atol=1e-7)


def test_quality_is_the_mean_over_views_of_each_views_own():
    task, params = some_task(), lively(SPEC)
    views = task.evaluate_views(params)
    for view, found in enumerate(views):
        image = task.render(params, task.test_cameras, view)
        assert image.shape == (7, 10, 3)
        error = float((image.double() - task.test_images[view].double() / 255).square().mean())
        assert found == pytest.approx(-10 * math.log10(error), abs=1e-5)
    assert task.evaluate(params) == pytest.approx(sum(views) / 2, abs=1e-12)
    assert task.evaluate(params) == task.evaluate(params)


def test_more_than_one_cell_is_refused():
    train = some_images(1, 4, 4)
    cells = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]] * 2))
    with pytest.raises(ValueError, match=r"cells must hold the one cell of this task, got 2"):
        PosedImages("toy", *train, *train, cells, SPEC, RenderSettings())
