"""Fisher oracles and their identities (methods 1a), and the running diagonal."""

import places
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mclnf_fast.learn import (
    RunningFisher,
    diagonal_fisher_scores,
    full_fisher_scores,
    rank1_fisher_scores,
    relative_damping,
)


def random_grads(samples: int, params: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(samples, params, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 999), st.floats(0, 1))
def test_diagonal_mean_identity(samples: int, params: int, seed: int, damping: float) -> None:
    g = random_grads(samples, params, seed)
    fisher = (g * g).mean(0)
    q = diagonal_fisher_scores(g, damping)
    assert q.mean().item() == pytest.approx((fisher / (fisher + damping)).sum().item(), rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 30), st.integers(0, 999))
def test_full_mean_is_rank(samples: int, params: int, rank: int, seed: int) -> None:
    g = random_grads(samples, rank, seed) @ random_grads(rank, params, seed + 1)
    q = full_fisher_scores(g)
    assert q.mean().item() == pytest.approx(min(samples, params, rank), rel=1e-6)
    assert q.min() >= 0
    assert q.max() <= samples * (1 + 1e-9)


def test_full_equals_the_inverse() -> None:
    g = random_grads(50, 12)
    fisher = g.T @ g / 50 + 0.1 * torch.eye(12, dtype=torch.float64)
    expected = (g @ torch.linalg.inv(fisher) * g).sum(1)
    torch.testing.assert_close(full_fisher_scores(g, 0.1), expected)


def test_rank1_equals_the_inverse() -> None:
    g = random_grads(50, 12) + 0.3
    u = g.mean(0) / g.mean(0).norm()
    fisher = ((g @ u) ** 2).mean() * torch.outer(u, u) + 0.1 * torch.eye(12, dtype=torch.float64)
    expected = (g @ torch.linalg.inv(fisher) * g).sum(1)
    torch.testing.assert_close(rank1_fisher_scores(g, 0.1), expected)


def test_rank1_of_gradients_along_their_mean_has_no_rest_below_zero() -> None:
    """In float32 |g|^2 - (u g)^2 is as often below 0 as above; over a small damping that would be the whole score."""
    u = torch.nn.functional.normalize(torch.randn(1, 200, generator=torch.Generator().manual_seed(0)))
    lengths = torch.linspace(0.5, 2.0, 64)[:, None]
    scores = rank1_fisher_scores(lengths * u, 1e-9)
    assert bool((scores >= (lengths[:, 0].square() / lengths.square().mean()) * (1 - 1e-5)).all())


@pytest.mark.parametrize("scores", [diagonal_fisher_scores, full_fisher_scores, rank1_fisher_scores])
def test_scaling_leaves_scores_as_they_are(scores) -> None:
    g = random_grads(20, 8)
    torch.testing.assert_close(scores(1e3 * g, 0.01 * 1e6), scores(g, 0.01))


def test_relative_damping_makes_scores_free_of_units() -> None:
    g = random_grads(20, 8)
    q = []
    for scale in (1.0, 1e4):
        fisher = ((scale * g) ** 2).mean(0)
        q.append(diagonal_fisher_scores(scale * g, relative_damping((fisher[None],)).item()))
    torch.testing.assert_close(q[0], q[1])
    assert relative_damping((torch.zeros(2, 3),)).min() > 0


def pair(modules: int, seed: int) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    g = torch.Generator().manual_seed(seed)
    return (torch.rand(modules, 2, 3, generator=g), torch.rand(modules, 3, 1, generator=g)), (
        torch.rand(modules, 3, generator=g),
        torch.rand(modules, 1, generator=g),
    )


@places.devices
def test_ema_reset_and_active() -> None:
    running = RunningFisher(decay=0.9)
    assert running.fisher is None
    a, b, c = pair(3, 0), pair(3, 1), pair(3, 2)
    running.update(a)
    assert all(torch.equal(x, y) for x, y in zip(running.fisher[0], a[0]))
    running.update(b)
    torch.testing.assert_close(running.fisher[1][0], 0.9 * a[1][0] + 0.1 * b[1][0])
    before = running.fisher[0][0].clone()
    running.reset(1)
    c[0][0][2] = float("nan")
    running.update(c, active=torch.tensor([True, True, False]))
    assert torch.equal(running.fisher[0][0][2], before[2])
    assert torch.equal(running.fisher[0][0][1], c[0][0][1])
    torch.testing.assert_close(running.fisher[0][0][0], 0.9 * before[0] + 0.1 * c[0][0][0])
    assert running.count.tolist() == [3, 1, 2]


@places.devices
def test_damped_append_and_state() -> None:
    running = RunningFisher(0.5)
    running.update(pair(2, 0))
    eps = running.damping(1e-2)
    torch.testing.assert_close(running.damped(1e-2)[0][0], running.fisher[0][0] + eps[:, None, None])
    running.append()
    new = pair(3, 1)
    twin = RunningFisher()
    twin.load_state_dict(running.state_dict())
    for r in (running, twin):
        r.update(new)
    assert twin.decay == 0.5
    assert torch.equal(running.fisher[1][1], twin.fisher[1][1])
    assert torch.equal(running.fisher[0][1][2], new[0][1][2])
    empty = RunningFisher()
    empty.load_state_dict(RunningFisher().state_dict())
    assert empty.fisher is None


def test_errors() -> None:
    running = RunningFisher()
    with pytest.raises(ValueError, match="decay"):
        RunningFisher(1.0)
    with pytest.raises(ValueError, match="updated"):
        running.damping()
    with pytest.raises(TypeError, match="fisher"):
        running.update(torch.ones(2, 2))
    running.update(pair(2, 0))
    with pytest.raises(ValueError, match="fisher"):
        running.update(pair(3, 0))
    with pytest.raises(ValueError, match="active"):
        running.update(pair(2, 0), active=torch.ones(3, dtype=torch.bool))
    with pytest.raises(IndexError, match="modules"):
        running.reset(2)
    with pytest.raises(ValueError, match="per_sample_grads"):
        full_fisher_scores(torch.ones(3))
    with pytest.raises(ValueError, match="damping"):
        rank1_fisher_scores(torch.ones(3, 2), 0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_decay_has_the_precision_of_the_bank(dtype: torch.dtype) -> None:
    running = RunningFisher(0.9)
    first, second = torch.rand(2, 3, 4, dtype=dtype), torch.rand(2, 3, 4, dtype=dtype)
    for batch in (first, second):
        running.update(((batch,), (batch[:, 0],)))
    assert running.fisher is not None
    want = 0.9 * first.double() + (1 - 0.9) * second.double()
    torch.testing.assert_close(running.fisher[0][0].double(), want, rtol=2 * torch.finfo(dtype).eps, atol=0)
