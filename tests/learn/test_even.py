"""Even draws along a space-filling curve: the curve, the probabilities, unbiased means of small variance."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.learn.sampling.even import EvenSampler, curve_order, hilbert_order
from mclnf_fast.ops.draw_ids.reference import WINDOW


def scored(items: int, modules: int = 1, seed: int = 0, **options: object) -> EvenSampler:
    """A sampler whose every item has been met, with scores that lie far apart."""
    sampler = EvenSampler(items, modules, smooth=1.0, **options)  # type: ignore[arg-type]
    q = torch.exp(2 * torch.randn(modules, items, generator=torch.Generator().manual_seed(seed)))
    sampler.update(torch.arange(items).expand(modules, -1), q)
    return sampler


def windows(sampler: EvenSampler, batch: int, count: int) -> tuple[Tensor, Tensor]:
    """Ids and weights [steps, modules, batch] of whole windows."""
    drawn = [sampler.draw(batch, step) for step in range(count * WINDOW)]
    weights = [torch.ones_like(ids, dtype=torch.float32) if w is None else w for ids, w in drawn]
    return torch.stack([ids for ids, _ in drawn]), torch.stack(weights)


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (4, 4, 4), (8, 8, 8), (13,), (2, 2)])
def test_neighbors_on_the_curve_are_neighbors_in_the_cube(shape):
    order = hilbert_order(shape)
    assert torch.equal(order.sort().values, torch.arange(len(order)))
    places = torch.stack(torch.unravel_index(order, shape), -1)
    assert bool(((places[1:] - places[:-1]).abs().sum(1) == 1).all())


@pytest.mark.parametrize("shape", [(1,), (1, 1), (5, 7), (4, 16, 16), (3, 1, 5), (89, 89)])
def test_the_curve_meets_every_cell_of_any_grid_once(shape):
    order = hilbert_order(shape)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(torch.Size(shape).numel()))
    places = torch.stack(torch.unravel_index(order, shape), -1)
    if len(order) > 1:
        near = ((places[1:] - places[:-1]).abs().sum(1) == 1).double().mean()
        assert float(near) > 0.6  # jumps where the cube is left


@pytest.mark.parametrize(("items", "batch"), [(50, 8), (64, 8), (5, 8), (1, 3), (17, 17)])
def test_the_draws_follow_the_probabilities(items, batch):
    curve = torch.randperm(items, generator=torch.Generator().manual_seed(9))
    sampler = scored(items, 2, curve=curve, block=4, mix=0.9)
    p = sampler.probabilities()
    torch.testing.assert_close(p.sum(1), torch.ones(2))
    ids, weights = windows(sampler, batch, 400)
    for m in range(2):
        found = torch.bincount(ids[:, m].flatten(), minlength=items).double() / ids[:, m].numel()
        # Strata make the counts steadier than independent draws', whose deviation this is.
        assert float(((found - p[m]).abs() / (p[m] / ids[:, m].numel()).sqrt()).max()) < 4.5
        torch.testing.assert_close(weights[:, m], 1 / (items * p[m, ids[:, m]]), rtol=1e-4, atol=0)
    if items > 4:
        assert float(p.amax() / p.amin()) > 2


def test_the_probabilities_are_the_formula():
    q = torch.tensor([[4.0, 16.0, 0.0, 1.0], [9.0, 9.0, 9.0, 9.0]])
    sampler = EvenSampler(7, 2, block=2, mix=0.8)  # blocks 0 1 | 2 3 | 4 5 | 6
    sampler.update(torch.tensor([[0, 2, 4, 6]]).expand(2, -1), q)
    roots = torch.tensor([[2.0, 2, 4, 4, 0, 0, 1], [3.0] * 7])
    expected = 0.8 * roots / roots.sum(1, keepdim=True) + 0.2 / 7
    torch.testing.assert_close(sampler.probabilities(), expected)


def test_a_block_that_was_never_met_counts_as_the_others_do():
    sampler = EvenSampler(6, 2, block=2, mix=0.5)
    sampler.update(torch.tensor([[0, 2], [0, 0]]), torch.tensor([[1.0, 25.0], [0.0, 0.0]]))
    roots = torch.tensor([1.0, 1, 5, 5, 3, 3])
    torch.testing.assert_close(sampler.probabilities()[0], 0.5 * roots / 18 + 0.5 / 6)
    torch.testing.assert_close(sampler.probabilities()[1], torch.full((6,), 1 / 6))  # nothing but zeros


@pytest.mark.parametrize("known", [False, True])
def test_the_weighted_mean_is_that_of_the_pool(known):
    items, batch = 90, 8
    sampler = scored(items, mix=0.9, block=4) if known else EvenSampler(items, 1)
    values = torch.randn(items, generator=torch.Generator().manual_seed(3)) + 1
    ids, weights = windows(sampler, batch, 500)
    means = (values[ids[:, 0]] * weights[:, 0]).mean(1).double()
    # Steps of one window are no independent draws, their means are.
    of_windows = means.reshape(-1, WINDOW).mean(1)
    assert abs(float(of_windows.mean() - values.mean())) < 4 * float(of_windows.std()) / len(of_windows) ** 0.5 + 1e-4


@pytest.mark.parametrize("first", [1, 5, 15])
def test_a_first_step_within_a_window_is_unbiased_as_well(first):
    """Else every stratum would be drawn from at one end."""
    values = torch.arange(64.0)
    means = []
    for seed in range(300):
        ids, weights = EvenSampler(64, 1, seed=seed).draw(4, first)
        assert weights is None
        means.append(float(values[ids].mean()))
    found = torch.tensor(means)
    assert abs(float(found.mean()) - 31.5) < 4 * float(found.std()) / 300**0.5


def test_the_variance_is_below_that_of_independent_draws():
    sampler = scored(256, mix=0.5)
    values = torch.sin(torch.linspace(0, 9, 256))
    ids, weights = windows(sampler, 16, 40)
    even = (values[ids[:, 0]] * weights[:, 0]).mean(1)
    p = sampler.probabilities()[0]
    alone = torch.multinomial(p, 640 * 16, replacement=True, generator=torch.Generator().manual_seed(1))
    independent = (values[alone] / (256 * p[alone])).reshape(640, 16).mean(1)
    assert float(even.var()) < 0.1 * float(independent.var())


def test_a_window_covers_every_stratum_without_a_gap():
    items, batch = 8 * WINDOW, 8  # one item a cell
    ids, _ = windows(EvenSampler(items, 3), batch, 2)
    for window in ids.reshape(2, WINDOW, 3, batch):
        for m in range(3):
            assert torch.equal(window[:, m].flatten().sort().values, torch.arange(items))
            assert torch.equal(window[:, m] // WINDOW, torch.arange(batch).expand(WINDOW, -1))
    assert not torch.equal(ids[:WINDOW, 0], ids[:WINDOW, 1])
    assert not torch.equal(ids[:WINDOW, 0], ids[WINDOW:, 0])


def test_every_draw_of_a_scored_pool_stands_in_its_stratum():
    sampler = scored(200, 2)
    ids, _ = windows(sampler, 10, 3)
    p = sampler.probabilities()
    for m in range(2):
        end = p[m].cumsum(0)[ids[:, m]]
        stratum = torch.arange(10) / 10
        assert bool((end > stratum - 1e-5).all())
        assert bool((end - p[m, ids[:, m]] < stratum + 0.1 + 1e-5).all())


def test_without_scores_the_draws_are_the_even_ones_of_the_op():
    """Along the curve; whether scores are unknown or not asked for, and of a module that has none beside one that
    has."""
    curve = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    half = EvenSampler(50, 3, curve, seed=7, task=2)
    half.update(torch.zeros(3, 1, dtype=torch.int64), torch.ones(3, 1))
    half.scores[1] = -1.0
    for sampler in (EvenSampler(50, 3, curve, seed=7, task=2), scored(50, 3, curve=curve, mix=0.0, task=2), half):
        sampler.seed = 7
        for step in (0, 5, 16, 40):
            even = ops.draw_ids(torch.full((3,), 50), 6, step, rule="even", seed=7, task=2)
            ids, weights = sampler.draw(6, step)
            assert torch.equal(ids[1], curve[even[1]])
            assert sampler is half or torch.equal(ids, curve[even])
            assert (weights is None) == (sampler is not half)
            if weights is not None:
                assert weights[1].tolist() == [1.0] * 6


def test_a_window_follows_the_scores_of_its_first_step():
    """Whatever is scored within it, and wherever its draws are asked for."""
    ends, middle = scored(64, mix=0.9, block=4), scored(64, mix=0.9, block=4)
    twin = scored(64, mix=0.9, block=4)
    later = torch.exp(2 * torch.randn(1, 64, generator=torch.Generator().manual_seed(8)))
    every = torch.arange(64)[None]
    for sampler in (ends, middle):
        sampler.draw(8, 0)
    middle.update(every, later)
    for step in range(1, WINDOW):
        assert all(torch.equal(a, b) for a, b in zip(ends.draw(8, step), middle.draw(8, step)))
    ends.update(every, later)
    twin.update(every, later)
    drawn = [sampler.draw(8, WINDOW) for sampler in (ends, middle, twin)]
    for ids, weights in drawn:
        assert torch.equal(ids, drawn[0][0])
        assert torch.equal(weights, drawn[0][1])
    assert not torch.equal(drawn[0][1], scored(64, mix=0.9, block=4).draw(8, WINDOW)[1])


def test_without_mix_nothing_is_learned_and_nothing_weighted():
    sampler = scored(40, mix=0.0)
    assert sampler.draw(4, 0)[1] is None
    assert bool((sampler.scores == -1).all())
    assert bool((sampler.probabilities() == 1 / 40).all())


def test_scores_are_running_means_of_blocks():
    curve = torch.tensor([3, 0, 1, 2])  # blocks: items 3 0 and 1 2
    sampler = EvenSampler(4, 1, curve, block=2, smooth=0.25)
    sampler.update(torch.tensor([[3, 0]]), torch.tensor([[2.0, 6.0]]))
    assert sampler.scores.tolist() == [[4.0, -1.0]]
    sampler.update(torch.tensor([[0, 1]]), torch.tensor([[8.0, 1.0]]))
    assert sampler.scores.tolist() == [[0.75 * 4 + 0.25 * 8, 1.0]]
    sampler.update(torch.tensor([[3, 3]]), torch.tensor([[1.0, 3.0]]))  # two at once, as if one by one
    assert sampler.scores[0].tolist() == pytest.approx([5 * 0.75**2 + 2 * (1 - 0.75**2), 1.0], rel=1e-14)


@pytest.mark.parametrize("step", [0, 7])
def test_the_state_decides_the_next_draw(step):
    first = scored(50, 2)
    for s in range(step):
        first.draw(6, s)
    state = first.state_dict()
    kept = {key: value.clone() for key, value in state.items()}
    second = EvenSampler(50, 2, smooth=1.0)
    second.load_state_dict(state)
    for s in range(step, step + 2 * WINDOW):
        one, two = (x.draw(6, s) for x in (first, second))
        assert torch.equal(one[0], two[0])
        assert torch.equal(one[1], two[1])
        q = torch.rand(2, 6, generator=torch.Generator().manual_seed(s))
        first.update(one[0], q)
        second.update(two[0], q)
    assert all(torch.equal(state[key], kept[key]) for key in kept)


def test_two_runs_with_one_seed_are_equal():
    one, two = windows(scored(30), 7, 2)[0], windows(scored(30), 7, 2)[0]
    assert torch.equal(one, two)
    for other in ({"seed": 1}, {"task": 1}):
        sampler = scored(30)
        vars(sampler).update(other)
        assert not torch.equal(one, windows(sampler, 7, 2)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"items": 0}, "items must be at least 1"),
        ({"modules": 0}, "modules must be at least 1"),
        ({"mix": 1.0}, "mix must be at least 0 and below 1"),
        ({"smooth": 0.0}, "smooth must be above 0"),
        ({"block": 0}, "block must be at least 1"),
        ({"curve": torch.tensor([0, 1, 1, 3])}, "curve must hold every item"),
        ({"curve": torch.arange(3)}, "curve must hold every item"),
    ],
)
def test_refused_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        EvenSampler(**{"items": 4, "modules": 1, **options})


def test_bad_scores_draws_and_states():
    sampler = EvenSampler(4, 1)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="q must be finite"):
            sampler.update(torch.tensor([[0]]), torch.tensor([[bad]]))
    with pytest.raises(ValueError, match="count must be at least 1"):
        sampler.draw(0, 0)
    with pytest.raises(ValueError, match="state\\['scores'\\] must be"):
        sampler.load_state_dict(EvenSampler(40, 1).state_dict())
    with pytest.raises(ValueError, match=r"state\['window'\] must be \(1, 1\), got nothing"):
        sampler.load_state_dict({"scores": sampler.scores})
    old = {"scores": torch.tensor([[3.0]]), "ahead.items": torch.zeros(1, 16, 2, dtype=torch.int64)}
    sampler.load_state_dict(old)
    assert sampler.scores.tolist() == sampler.window.tolist() == [[3.0]]


@pytest.mark.parametrize("shape", [(8, 8), (16, 16), (4, 8), (4, 4, 4), (13,)])
def test_points_of_a_grid_are_ordered_as_its_cells(shape):
    """Each axis by its own range, so that sides of any length make a cube."""
    axes = [torch.linspace(-1, 3, size) for size in shape]
    x = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))
    order = curve_order(x)
    assert torch.equal(order.sort().values, torch.arange(len(x)))
    if len(set(shape)) == 1:
        assert torch.equal(order, hilbert_order(shape))
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    assert torch.equal(x[mixed][curve_order(x[mixed])], x[order])


def test_points_without_a_range_keep_their_order():
    for x in (torch.zeros(3, 2), torch.zeros(0, 2), torch.zeros(1, 2), torch.rand(3, 40), torch.zeros(3, 0)):
        assert curve_order(x).tolist() == list(range(len(x)))
    x = torch.tensor([[0.0, float("nan")], [1.0, 0.0]])
    assert sorted(curve_order(x).tolist()) == [0, 1]
