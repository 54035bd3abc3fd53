"""Pools drawn from by table: the same density and the same items as the search, whatever was written before."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mclnf_fast.learn.sampling.pool import ScorePool
from mclnf_fast.learn.sampling.pool_table import MOST_ITEMS, TablePool, make_pool

CPU = torch.device("cpu")


def write_some(pool: ScorePool, seed: int) -> None:
    """Scores over many orders of magnitude, zeros among them, for some items of some modules."""
    g = torch.Generator().manual_seed(seed)
    for m, n in enumerate(pool.sizes):
        if (count := int(torch.randint(0, n + 1, (), generator=g))) == 0:
            continue
        ids = torch.randperm(n, generator=g)[None, :count]
        q = torch.exp(4 * torch.randn(1, count, generator=g)) * (torch.rand(1, count, generator=g) < 0.8)
        pool.write([m], ids, q)
        pool.write_prior([m], q.double().mean(1))


def check(pool: TablePool, seed: int) -> None:
    """Every draw is the item at which the running sum of p passes it; the density is that of the search's pool."""
    other = ScorePool(pool.sizes, pool.mix, CPU)
    other.load_state_dict(pool.state_dict())
    dense = pool.density()
    torch.testing.assert_close(dense, other.density(), rtol=1e-6, atol=0)
    g = torch.Generator().manual_seed(seed)
    u = torch.rand(len(pool.sizes), 300, dtype=torch.float64, generator=g)
    u[:, 0], u[:, 1] = 0.0, 1 - 2**-53
    every = range(len(pool.sizes))
    found = pool.search(every, u)
    for m, n in enumerate(pool.sizes):
        running = dense[m, :n].cumsum(0)
        wanted = torch.searchsorted(running, u[m] * running[-1], right=True).clamp(max=n - 1)
        assert torch.equal(found[m], wanted)
        torch.testing.assert_close(pool.density_of([m], found[m : m + 1])[0], dense[m, wanted])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 70), min_size=1, max_size=4), st.floats(0, 0.88), st.integers(0, 999))
def test_draws_are_those_of_a_search(sizes: list[int], mix: float, seed: int) -> None:
    pool = make_pool(sizes, mix, CPU)
    assert isinstance(pool, TablePool)
    check(pool, seed)
    write_some(pool, seed)
    check(pool, seed)
    whole = torch.arange(min(sizes))[None].expand(len(sizes), -1)
    pool.write(range(len(sizes)), whole, torch.rand(whole.shape))  # all modules at once take another way
    check(pool, seed)
    pool.clear([0])
    check(pool, seed + 1)


@pytest.mark.parametrize(("old", "new"), [([20, 9], 70), ([70], 5), ([17], MOST_ITEMS + 1)])
def test_a_grown_pool_keeps_its_scores(old: list[int], new: int) -> None:
    pool = make_pool(old, 0.5, CPU)
    write_some(pool, 3)
    grown = make_pool([*old, new], 0.5, CPU)
    grown.take(pool)
    dense = grown.density()
    torch.testing.assert_close(dense[:-1, : max(old)], pool.density())
    assert torch.equal(
        dense[-1], torch.ones(max(*old, new), dtype=torch.float64) * (torch.arange(max(*old, new)) < new)
    )


def test_large_pools_and_nearly_pure_ones_are_searched() -> None:
    assert type(make_pool([5, MOST_ITEMS + 1], 0.5, CPU)) is ScorePool
    assert type(make_pool([5], 0.9, CPU)) is ScorePool
    assert type(make_pool([5], 0.5, CPU)) is TablePool
