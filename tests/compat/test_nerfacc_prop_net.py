"""compat.nerfacc: the proposal estimator samples where its networks are dense, and its loss is what it should be."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from mclnf_fast.compat.nerfacc import PropNetEstimator, RayIntervals, get_proposal_requires_grad_fn
from mclnf_fast.compat.nerfacc.estimators.prop_net import _lossfun_outer, _pdf_loss


def flat(t_starts: Tensor, t_ends: Tensor) -> Tensor:
    return torch.full_like(t_starts, 0.3)


@pytest.mark.parametrize("sampling_type", ["uniform", "lindisp"])
def test_without_networks_samples_are_even(sampling_type: str) -> None:
    starts, ends = PropNetEstimator().sampling([], [], 8, 3, 0.5, 4.0, sampling_type)
    assert starts.shape == ends.shape == (3, 8)
    assert torch.equal(starts[:, 1:], ends[:, :-1])
    edges = torch.cat([starts[0], ends[0, -1:]])
    even = 1 / edges if sampling_type == "lindisp" else edges
    span = (2.0, 0.25) if sampling_type == "lindisp" else (0.5, 4.0)
    torch.testing.assert_close(even, torch.linspace(*span, 9))


def test_samples_go_where_the_network_is_dense() -> None:
    def wall(t_starts: Tensor, t_ends: Tensor) -> Tensor:
        return 40.0 * ((t_starts < 2.5) & (t_ends > 2.5))

    estimator = PropNetEstimator()
    starts, ends = estimator.sampling([flat, wall], [16, 32], 16, 5, 1.0, 4.0, "uniform", stratified=True)
    assert float(((starts + ends) / 2 - 2.5).abs().median()) < 0.1
    assert not estimator.prop_cache
    assert estimator.compute_loss(torch.ones(5, 16)).item() == 0.0
    assert estimator.sampling([flat], [4], 3, 0, 1.0, 4.0)[0].shape == (0, 3)


def bound(
    edges: list[float], weights: list[float], proposal: list[float], proposal_weights: list[float]
) -> list[float]:
    """The loss of each interval: its weight beyond that of the proposal's intervals that it touches."""
    losses = []
    for left, right, weight in zip(edges, edges[1:], weights):
        outer = sum(w for a, b, w in zip(proposal, proposal[1:], proposal_weights) if a <= right and b > left)
        losses.append(max(weight - outer, 0.0) ** 2 / (weight + 1e-7))
    return losses


def test_the_loss_bounds_every_interval() -> None:
    edges = torch.rand(4, 9, dtype=torch.float64).sort(-1)[0]
    proposal = torch.rand(4, 6, dtype=torch.float64).sort(-1)[0]
    proposal[:, 0], proposal[:, -1] = 0.0, 1.0
    weights = torch.rand(4, 8, dtype=torch.float64)
    small = (torch.rand(4, 5, dtype=torch.float64) * 0.1).requires_grad_()

    def loss(small: Tensor) -> Tensor:
        cdfs = [torch.cat([torch.zeros(4, 1).double(), w.cumsum(1)], 1) for w in (weights, small)]
        return _pdf_loss(RayIntervals(edges), cdfs[0], RayIntervals(proposal), cdfs[1])

    rows = zip(edges.tolist(), weights.tolist(), proposal.tolist(), small.tolist())
    wanted = torch.tensor([bound(*row) for row in rows], dtype=torch.float64)
    assert float(wanted.mean()) > 0.1
    torch.testing.assert_close(loss(small), wanted)
    torch.testing.assert_close(_lossfun_outer(edges, weights, proposal, small), wanted, rtol=1e-5, atol=0)
    assert torch.autograd.gradcheck(loss, small)
    assert torch.autograd.gradgradcheck(loss, small)


def test_a_proposal_network_learns_where_the_field_is() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(1, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1), nn.Softplus())
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10**6)
    estimator = PropNetEstimator(optimizer, scheduler)

    def proposal(t_starts: Tensor, t_ends: Tensor) -> Tensor:
        return network((t_starts + t_ends)[..., None] / 2 - 2)[..., 0]

    losses = []
    for step in range(120):
        learns = step % 2 == 0
        starts, ends = estimator.sampling([proposal], [24], 12, 16, 1.0, 3.0, "uniform", True, requires_grad=learns)
        sigmas = 30.0 * ((starts + ends) / 2 > 2.2)
        trans = torch.exp(-((ends - starts) * sigmas).cumsum(1)).roll(1, 1)
        trans[:, 0] = 1.0
        losses.append(estimator.update_every_n_steps(trans, requires_grad=learns))
        assert not estimator.prop_cache
    assert losses[1::2] == [0.0] * 60
    assert sum(losses[-20:]) < 0.1 * sum(losses[:20])
    middles = torch.stack(estimator.sampling([proposal], [64], 32, 1, 1.0, 3.0, "uniform")).mean(0)
    assert float((middles > 2.1).float().mean()) > 0.8
    assert scheduler.last_epoch == 120


def test_how_often_proposals_learn() -> None:
    learns = get_proposal_requires_grad_fn(target=3.0, num_steps=10)
    steps = [step for step in range(200) if learns(step)]
    # Since the last one, more steps than min(step / 10, 1) * 3.
    last, wanted = 0, []
    for step in range(200):
        if step - last > min(step / 10, 1.0) * 3.0:
            last = step
            wanted.append(step)
    assert steps == wanted
    assert steps[-1] - steps[-2] == 4


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda e: e.sampling([flat], [], 4, 2, 1.0, 2.0), ValueError, "prop_samples must hold a number for each"),
        (lambda e: e.sampling([], [], 4, 2, 1.0, 2.0, "log"), ValueError, "sampling_type must be one of"),
        (lambda e: e.sampling([], [], 4, 2, 0.0, 2.0), ValueError, "near_plane and far_plane must be above 0"),
        (
            lambda e: e.sampling([lambda s, e: s[0]], [4], 4, 2, 1.0, 2.0),
            ValueError,
            "densities of prop_sigma_fns must",
        ),
        (lambda e: e.update_every_n_steps(torch.ones(1, 1), True), RuntimeError, "must have an optimizer"),
        (lambda e: get_proposal_requires_grad_fn(num_steps=0), ValueError, "num_steps must be at least 1"),
    ],
)
def test_errors_name_the_argument(
    call: Callable[[PropNetEstimator], object], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        call(PropNetEstimator())
