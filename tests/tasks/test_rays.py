"""Posed pictures as a task: which rays are drawn, what they weigh, where gradients are taken, how they are judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import InputError
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.fisher.scores import FimConfig, FisherScorer
from mclnf_fast.learn.params import Params, split_pair
from mclnf_fast.learn.task import join
from mclnf_fast.render import Cameras, Cells, RenderSettings
from mclnf_fast.render.cameras import look_at
from mclnf_fast.spec import FieldSpec, Frequency
from mclnf_fast.tasks.rays import PosedImages

SPEC = FieldSpec(3, 4, 8, 2, encoding=Frequency(2))
CELLS = Cells(torch.tensor([[[-1.0] * 3, [1.0] * 3]]))
HIGH, WIDE, TILE = 9, 10, 4  # tiles at the right and lower border are smaller


def cameras(count: int, seed: int = 0) -> Cameras:
    places = torch.nn.functional.normalize(torch.randn(count, 3, generator=torch.Generator().manual_seed(seed)), dim=1)
    return Cameras(look_at(3 * places, torch.zeros(count, 3)), 12.0, 12.0, WIDE / 2, HIGH / 2, WIDE, HIGH)


def task(
    views: int = 2, seed: int = 0, background: tuple[float, ...] | None = None, name: str = "block"
) -> PosedImages:
    generator = torch.Generator().manual_seed(seed)
    train, test = (
        (torch.randint(256, (n, HIGH, WIDE, 3), dtype=torch.uint8, generator=generator), cameras(n, seed))
        for n in (views, 1)
    )
    settings = RenderSettings(6)
    if background is not None:
        settings = replace(settings, shading=replace(settings.shading, background=background))
    return PosedImages(name, train, test, CELLS, SPEC, settings, TILE)


@pytest.fixture
def params() -> Params:
    *others, last = initial_parameters(SPEC, 1, generator=torch.Generator().manual_seed(1))
    return tuple(p.detach().requires_grad_() for p in (*others, last + 0.5))  # dense enough for every ray to hit


def flat(tensors: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def test_a_pixel_of_each_tile_counts_as_much_as_all_of_them(params):
    """Over all tiles, with the factors, the mean of a ray's value is that over all pixels."""
    one = task()
    tiles = torch.arange(one.items)
    total, rounds = torch.zeros(3), 400
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        (_, _, colors), factors = one.draw_in(tiles[None], generator)
        assert factors is not None
        assert factors.shape == (1, one.items)
        total += (factors[0][:, None] * colors[0]).mean(0)
    everything = one.take(torch.arange(one.samples)[None])[2][0]
    torch.testing.assert_close(total / rounds, everything.mean(0), atol=0.01, rtol=0)
    sizes = torch.tensor([[4, 4, 1]]).T * torch.tensor([[4, 4, 2]])  # pixels of the tiles of a view
    torch.testing.assert_close(factors[0].reshape(2, 3, 3), (sizes * (one.items / one.samples)).expand(2, 3, 3))


@pytest.mark.parametrize("seed", [0, 7])
def test_points_are_where_the_loss_of_the_same_seed_evaluates_the_field(params, seed):
    """The gradients of the samples' own losses, pulled through the network, add up to that of the loss."""
    one = task()
    batch = one.take(torch.tensor([[0, 40, 88, 130]]))
    weights = torch.tensor([[0.3, 2.0, 1.0, 0.7]])
    found = one.points(params, batch, seed)
    assert found.num_samples == 4
    layers, biases = split_pair(params)
    y = ops.bank_mlp(found.x, found.offsets, layers, biases, SPEC, "reference")
    pulled = torch.autograd.grad(y, params, found.grad_y * weights[0][found.sample_ids][:, None])
    expected = torch.autograd.grad(one.loss(params, batch, weights, seed).sum() * 4, params)
    torch.testing.assert_close(flat(pulled), flat(expected), rtol=1e-3, atol=1e-6)
    other = torch.autograd.grad(one.loss(params, batch, weights, seed + 1).sum() * 4, params)
    assert not torch.allclose(flat(pulled), flat(other), rtol=1e-2, atol=1e-6)


def flat_fisher(scorer: FisherScorer) -> list[Tensor]:
    known = scorer.running.fisher
    assert known is not None
    return [*known[0], *known[1]]


@pytest.mark.parametrize("background", ["last_sample", (0.0, 0.0, 0.0), (0.2, 0.5, 1.0)])
@pytest.mark.parametrize("weights", [None, torch.tensor([[0.3, 2.0, 1.0, 0.7, 0.1, 0.4]])])
def test_a_seed_on_the_device_makes_the_same_samples_of_a_fixed_number(params, background, weights):
    """Rays that miss the cell then have empty samples, which change nothing but the order of sums."""
    one = task(background=background)
    one.settings = replace(one.settings, shading=replace(one.settings.shading, missed=(0.3, 0.2, 0.1)))
    o, d, colors = (t.clone() for t in one.take(torch.tensor([[0, 40, 88, 130, 131, 132]])))
    o[0, [1, 5]] = torch.tensor([0.0, 9.0, 0.0])
    batch = (o, d, colors)
    packed, dense = one.points(params, batch, 7), one.points(params, batch, torch.tensor(7))
    assert (len(packed.x), len(dense.x), dense.sample_ids, dense.num_samples) == (4 * 6, 6 * 6, 6, 6)
    kept = torch.arange(36).reshape(6, 6)[[0, 2, 3, 4]].flatten()
    assert torch.equal(packed.x, dense.x[kept])
    torch.testing.assert_close(packed.grad_y, dense.grad_y[kept], rtol=1e-5, atol=1e-7)
    assert not dense.grad_y[[i for i in range(36) if i not in kept]].any()
    for source in ("ema", "batch"):
        scorers, scores = [FisherScorer(SPEC, 1, FimConfig(source=source)) for _ in range(2)], []
        for scorer, points in zip(scorers, (packed, dense)):
            ids = points.sample_ids
            arguments = (params, points.x, points.offsets, points.grad_y)
            scores += [scorer(*arguments, sample_ids=ids, num_samples=6).scores for _ in range(2)]
        torch.testing.assert_close(torch.stack(scores[:2]), torch.stack(scores[2:]), rtol=1e-4, atol=1e-4)
        if source == "ema":  # the mean of squares is over the rays that touch the module
            for a, b in zip(*(flat_fisher(scorer) for scorer in scorers)):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-9)
    losses = [one.loss(params, batch, weights, seed) for seed in (7, torch.tensor(7))]
    torch.testing.assert_close(*losses)
    for a, b in zip(*(torch.autograd.grad(loss.sum(), params) for loss in losses)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    other = one.loss(params, batch, weights, torch.tensor(8))
    assert not torch.allclose(losses[1], other)


def test_outputs_are_the_channels_of_the_pixels(params):
    one = task()
    batch = one.take(torch.tensor([[3, 44, 99]]))
    layers, biases = split_pair(params)
    found = list(one.outputs(params, batch, 5))
    assert len(found) == 3
    for c, points in enumerate(found):
        y = ops.bank_mlp(points.x, points.offsets, layers, biases, SPEC, "reference")
        pulled = flat(torch.autograd.grad(y, params, points.grad_y))
        # d (color - target)^2 / 3 with a target of color - 3 / 2 in this channel alone is d color.
        colors = one.take(torch.tensor([[3, 44, 99]]))
        with torch.no_grad():
            own = torch.stack([_color(one, params, colors, r, 5) for r in range(3)])
        target = own.clone()
        target[:, c] -= 1.5
        loss = one.loss(params, (batch[0], batch[1], target[None]), None, 5).sum() * 3
        torch.testing.assert_close(pulled, flat(torch.autograd.grad(loss, params)), rtol=1e-3, atol=1e-5)


def _color(one: PosedImages, params: Params, batch: tuple[Tensor, ...], ray: int, seed: int) -> Tensor:
    """The color of a ray, from the losses against two targets: (c - 0)^2 and (c - 1)^2 give c."""
    result = []
    for c in range(3):
        losses = []
        for target in (0.0, 1.0):
            colors = batch[2].clone()
            colors[0, ray, c] = target
            weights = torch.zeros(1, 3)
            weights[0, ray] = 1.0
            losses.append(one.loss(params, (batch[0], batch[1], colors), weights, seed).sum() * 9)
        result.append((losses[0] - losses[1] + 1) / 2)
    return torch.stack(result)


def test_an_exact_view_has_what_8_bits_hold_and_others_their_own(params):
    black = task(background=(0.0, 0.0, 0.0))
    empty = (*(torch.zeros_like(p) for p in params[:-1]), torch.tensor([[-100.0, 0.0, 0.0, 0.0]]))
    black.test_images = torch.zeros_like(black.test_images)
    assert black.evaluate_views(empty) == [pytest.approx(58.9226, abs=1e-4)]
    black.test_images[:] = 51  # 0.2
    assert black.evaluate(empty).tolist() == [pytest.approx(-20 * torch.log10(torch.tensor(0.2)).item(), abs=1e-4)]


def test_joined_blocks_are_drawn_from_all_of_them():
    blocks = [task(2, 0, name="a"), task(1, 5, name="b")]
    whole = join(blocks)
    assert (whole.samples, whole.items) == (3 * HIGH * WIDE, 3 * 9)
    last = whole.take(torch.tensor([[whole.samples - 1]]))[2]
    assert torch.equal(last, blocks[1].take(torch.tensor([[blocks[1].samples - 1]]))[2])
    with pytest.raises(InputError, match="must have held-out views to be evaluated"):
        whole.evaluate(())
    with pytest.raises(InputError, match="modules must name the one signal"):
        whole.draw(2, torch.Generator(), torch.tensor([0, 0]))
