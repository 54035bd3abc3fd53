"""The Fisher sampler (methods 1f): the formula, unbiased draws, uniform start, state, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mclnf_fast.learn import FisherSampler


def scored(sizes: list[int], mix: float = 0.5, seed: int = 0) -> tuple[FisherSampler, list[torch.Tensor]]:
    """A sampler whose every item has been scored, and the scores."""
    g = torch.Generator().manual_seed(seed)
    sampler = FisherSampler(sizes, mix=mix, dtype=torch.float64)
    scores = [torch.exp(2 * torch.randn(n, generator=g)) for n in sizes]
    for m, q in enumerate(scores):
        sampler.update(torch.arange(len(q))[None], q[None], modules=[m])
    return sampler, scores


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=5), st.floats(0, 0.99), st.integers(0, 999))
def test_probabilities_and_exact_expectation(sizes: list[int], mix: float, seed: int) -> None:
    sampler, scores = scored(sizes, mix, seed)
    p = sampler.probabilities()
    for m, (n, q) in enumerate(zip(sizes, scores)):
        root = q.double().sqrt()
        torch.testing.assert_close(p[m, :n], mix * root / root.sum() + (1 - mix) / n)
        assert torch.all(p[m, n:] == 0)
        # By enumeration: sum_i p_i * weight_i * f_i is the pool's mean for any f.
        f = torch.randn(n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        density = sampler._pool.density_of([m], torch.arange(n)[None])[0]
        assert (p[m, :n] * f / density).sum().item() == pytest.approx(f.mean().item(), abs=1e-12)


@pytest.mark.parametrize("stratified", [False, True])
def test_draws_follow_the_probabilities_and_are_unbiased(stratified: bool) -> None:
    sizes = [13, 150]
    sampler, _ = scored(sizes, 0.8)
    g = torch.Generator().manual_seed(5)
    k = 200_000
    ids, weights = sampler.draw(k, g, stratified=stratified)
    p = sampler.probabilities()
    f = torch.randn(2, 150, dtype=torch.float64, generator=g)
    for m, n in enumerate(sizes):
        counts = torch.bincount(ids[m], minlength=150).double() / k
        assert (counts - p[m]).abs().max() < 5 * (p[m].max() / k).sqrt()
        torch.testing.assert_close(weights[m], 1 / (n * p[m, ids[m]]))
        estimate = weights[m] * f[m, ids[m]]
        assert abs(estimate.mean() - f[m, :n].mean()) < 5 * estimate.std() / k**0.5
    assert weights.max() <= 1 / (1 - 0.8) + 1e-12


def test_gradient_is_unbiased() -> None:
    """The weighted mini-batch gradient of a least-squares fit, in expectation, is the full one."""
    sampler, _ = scored([40], 0.7)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(40, 3, generator=g, dtype=torch.float64)
    y = torch.randn(40, generator=g, dtype=torch.float64)
    theta = torch.zeros(3, dtype=torch.float64)
    per_sample = 2 * (x @ theta - y)[:, None] * x
    ids, weights = sampler.draw(400_000, g)
    estimate = (weights[0, :, None] * per_sample[ids[0]]).mean(0)
    torch.testing.assert_close(estimate, per_sample.mean(0), rtol=0, atol=0.02)


def test_uniform_until_the_first_update() -> None:
    for mix in (0.0, 0.3, 0.9):
        sampler = FisherSampler([7, 4], mix=mix)
        ids, weights = sampler.draw(500, torch.Generator().manual_seed(0))
        assert torch.equal(weights, torch.ones(2, 500))
        assert ids[0].unique().tolist() == list(range(7))
        assert ids[1].unique().tolist() == list(range(4))
    sampler.update(torch.tensor([[0, 1]]), torch.tensor([[9.0, 1.0]]), modules=[0])
    _, weights = sampler.draw(500)
    assert not torch.equal(weights[0], torch.ones(500))
    assert torch.equal(weights[1], torch.ones(500))


def test_unseen_items_count_as_the_mean_score() -> None:
    sampler = FisherSampler(4, mix=0.5)
    sampler.update(torch.tensor([[0, 1]]), torch.tensor([[1.0, 7.0]]))
    root = torch.tensor([1.0, 7.0, 4.0, 4.0], dtype=torch.float64).sqrt()
    torch.testing.assert_close(sampler.probabilities()[0], 0.5 * root / root.sum() + 0.125)
    # Items drawn by p, with their weights: the prior is the self-weighted mean.
    sampler.reset()
    sampler.update(torch.tensor([[0, 1]]), torch.tensor([[1.0, 7.0]]), weights=torch.tensor([[1.5, 0.5]]))
    root = torch.tensor([1.0, 7.0, 2.5, 2.5], dtype=torch.float64).sqrt()
    torch.testing.assert_close(sampler.probabilities()[0], 0.5 * root / root.sum() + 0.125)


def test_the_mean_of_the_scores_forgets_slowly() -> None:
    """Unseen items count as a running mean of the updates, of which a new one is a tenth."""
    sampler = FisherSampler(4, mix=0.5)
    for scores in ([1.0, 7.0], [10.0, 30.0], [0.0, 0.0]):
        sampler.update(torch.tensor([[0, 1]]), torch.tensor([scores]))
    mean = 0.9 * (0.9 * 4 + 0.1 * 20)
    root = torch.tensor([0.0, 0.0, mean, mean], dtype=torch.float64).sqrt()
    torch.testing.assert_close(sampler.probabilities()[0], 0.5 * root / root.sum() + 0.125)
    sampler.update(torch.tensor([[0]]), torch.tensor([[2.0]]))
    root = torch.tensor([2.0, 0.0, 0.9 * mean + 0.2, 0.9 * mean + 0.2], dtype=torch.float64).sqrt()
    torch.testing.assert_close(sampler.probabilities()[0], 0.5 * root / root.sum() + 0.125)


def test_all_zero_scores_are_uniform() -> None:
    sampler = FisherSampler(5)
    sampler.update(torch.arange(5)[None], torch.zeros(1, 5))
    ids, weights = sampler.draw(100)
    assert torch.equal(weights, torch.ones(1, 100))
    assert ids.max() < 5


def test_modules_are_apart() -> None:
    sampler, _ = scored([20, 30, 10])
    before = sampler.probabilities()
    sampler.update(torch.tensor([[3]]), torch.tensor([[50.0]]), modules=[1])
    after = sampler.probabilities()
    assert torch.equal(before[0], after[0])
    assert torch.equal(before[2], after[2])
    assert not torch.equal(before[1], after[1])
    a = sampler.draw(9, torch.Generator().manual_seed(3), modules=[2])
    assert a[0].shape == (1, 9)
    assert a[0].max() < 10


def test_due_every_refresh_draws() -> None:
    sampler = FisherSampler(5, refresh=3)
    seen = []
    for _ in range(7):
        seen.append(sampler.due)
        sampler.draw(2)
    assert seen == [True, False, False, True, False, False, True]


def test_deterministic_and_state_round_trip() -> None:
    sampler, _ = scored([20, 30])
    sampler.draw(4)
    twin = FisherSampler(1, dtype=torch.float64)
    twin.load_state_dict(sampler.state_dict())
    a = sampler.draw(64, torch.Generator().manual_seed(7))
    b = twin.draw(64, torch.Generator().manual_seed(7))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    assert sampler._draws == twin._draws
    assert all(isinstance(v, torch.Tensor) for v in sampler.state_dict().values())


def test_append_keeps_the_others() -> None:
    sampler, _ = scored([5, 3])
    before = sampler.probabilities()
    sampler.append(8)
    after = sampler.probabilities()
    torch.testing.assert_close(after[:2, :5], before)
    torch.testing.assert_close(after[2], torch.full((8,), 1 / 8, dtype=torch.float64))


def test_large_pool() -> None:
    """The last items of a pool of 300k must be as likely as they should be: fp32 sums would lose them."""
    n = 300_000
    sampler = FisherSampler(n)
    q = torch.ones(1, n)
    q[0, 0] = 1e12
    sampler.update(torch.arange(n)[None], q)
    ids, _ = sampler.draw(100_000, torch.Generator().manual_seed(0))
    tail = (ids >= n // 2).double().mean().item()
    assert tail == pytest.approx(sampler.probabilities()[0, n // 2 :].sum().item(), abs=0.01)


def test_candidates() -> None:
    ids = FisherSampler([3, 100]).candidates(1000, torch.Generator().manual_seed(0))
    assert ids.shape == (2, 1000)
    assert ids[0].unique().tolist() == [0, 1, 2]
    assert ids[1].max() == 99


def test_errors() -> None:
    sampler = FisherSampler([3, 4])
    one = torch.ones(2, 1)
    with pytest.raises(ValueError, match="mix"):
        FisherSampler(3, mix=1.0)
    with pytest.raises(ValueError, match="sizes"):
        FisherSampler([3, 0])
    with pytest.raises(ValueError, match="sizes"):
        FisherSampler([])
    with pytest.raises(ValueError, match="refresh"):
        FisherSampler(3, refresh=0)
    with pytest.raises(ValueError, match="k must"):
        sampler.draw(0)
    with pytest.raises(IndexError, match="modules"):
        sampler.draw(1, modules=[2])
    with pytest.raises(IndexError, match="ids"):
        sampler.update(torch.tensor([[3], [0]]), one)
    with pytest.raises(ValueError, match="ids"):
        sampler.update(torch.tensor([[0]]), one)
    with pytest.raises(TypeError, match="ids"):
        sampler.update(one, one)
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="q must"):
            sampler.update(torch.tensor([[0], [0]]), bad * one)
    with pytest.raises(ValueError, match="q must"):
        sampler.update(torch.tensor([[0], [0]]), torch.ones(2, 2))
    with pytest.raises(ValueError, match="state"):
        sampler.load_state_dict({})


def test_stratified_draws_meet_every_item_of_a_slice() -> None:
    """Their place within the slice is random: in its middle alone most items of a slice would never be drawn."""
    sampler, generator = FisherSampler([40]), torch.Generator().manual_seed(0)
    drawn = torch.cat([sampler.draw(4, generator, stratified=True)[0] for _ in range(200)])
    assert torch.equal(drawn // 10, torch.arange(4).expand(200, 4))  # one item of each quarter, in order
    assert sorted(drawn.flatten().unique().tolist()) == list(range(40))
