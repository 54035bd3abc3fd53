"""The relations that MCL-NF builds on: Fisher information and the KL divergence, weighted SGD and its bound."""

import itertools
import json
import math
import pathlib
import sys
from typing import Any

import pytest
import torch
from scored_bank import bank

from mclnf_fast import ops
from mclnf_fast.errors import InputError
from mclnf_fast.learn import (
    FimConfig,
    FisherSampler,
    FisherScorer,
    Params,
    clipped_weights,
    diagonal_fisher_scores,
    fisher_quadratic,
    split_pair,
    weighted_sgd_bound,
)
from mclnf_fast.spec import FieldSpec

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))  # benchmarks/ is no part of the package

from benchmarks import weighted_sgd

NET = FieldSpec(1, 2, width=4, hidden_layers=1, activation="sine(2)")
SIGMA = 0.3


def f(params: Params, x: torch.Tensor, offsets: torch.Tensor, spec: FieldSpec = NET) -> torch.Tensor:
    return ops.bank_mlp(x, offsets, *split_pair(params), spec)


def sampled_kl(params: Params, moved: Params, x: torch.Tensor, offsets: torch.Tensor, noise: torch.Tensor):
    """log p(y | theta) - log p(y | theta + d) of outputs that the model drew: mean over points, [draws, M]."""
    here, there = f(params, x, offsets), f(moved, x, offsets)
    y = here + SIGMA * noise  # [draws, N, out]
    ratio = ((y - there).square() - (y - here).square()).sum(2) / (2 * SIGMA**2)
    return torch.stack([part.mean(1) for part in ratio.split(offsets.diff().tolist(), 1)], 1)


def test_kl_is_half_the_fisher_form_up_to_third_order() -> None:
    sizes = (20, 9)
    params, x, offsets, _ = bank(NET, sizes)
    delta = tuple(torch.randn_like(p) for p in params)
    noise = torch.randn(4000, len(x), 2, dtype=x.dtype)
    errors = []
    for scale in (0.02, 0.01, 0.005):
        d = tuple(scale * t for t in delta)
        moved = tuple(p + t for p, t in zip(params, d))
        half = fisher_quadratic(params, d, x, offsets, NET, sigma=SIGMA)
        draws = sampled_kl(params, moved, x, offsets, noise)
        spread = draws.std(0) / len(draws) ** 0.5
        assert ((draws.mean(0) - half).abs() < 4 * spread + 0.2 * half).all()
        # Noise and its mirror image together: the part of the sampling error that is odd in it is gone.
        paired = sampled_kl(params, moved, x, offsets, torch.cat((noise, -noise))).mean(0)
        errors.append((paired - half).abs())
        assert (errors[-1] < 0.2 * half).all()
    for larger, smaller in itertools.pairwise(errors):
        assert ((larger / smaller > 6) & (larger / smaller < 10)).all()  # 8, were there no fourth order


def test_the_form_is_that_of_the_full_gauss_newton_matrix() -> None:
    params, x, offsets, r = bank(NET, (20, 9))
    delta = tuple(torch.randn_like(p) for p in params)
    scorer = FisherScorer(NET, 2, FimConfig(kind="full", residual="gauss_newton"))
    scorer(params, x, offsets, r)
    d = torch.cat([t.flatten(1) for t in delta], 1)
    expected = 0.5 * torch.einsum("mp,mpq,mq->m", d, scorer.running.fisher[0][0], d) / SIGMA**2
    torch.testing.assert_close(fisher_quadratic(params, delta, x, offsets, NET, sigma=SIGMA), expected)


def test_the_empirical_fisher_of_samples_of_the_model_is_gauss_newton() -> None:
    params, x, _, _ = bank(NET, (5,))
    repeated = x.repeat(4000, 1)
    offsets = torch.tensor([0, len(repeated)])
    grad_y = -torch.randn(len(repeated), 2, dtype=x.dtype)  # d/df of |y - f|^2 / (2 sigma^2), in units of 1 / sigma
    found = []
    for residual in ("empirical", "gauss_newton"):
        scorer = FisherScorer(NET, 1, FimConfig(kind="full", residual=residual))
        scorer(params, repeated, offsets, grad_y)
        found.append(scorer.running.fisher[0][0][0])
    assert (found[0] - found[1]).norm() < 0.03 * found[1].norm()


def test_sampled_gradients_of_a_bank_are_unbiased() -> None:
    """Drawn by sqrt(q), weighted by 1 / (n p): the mean over many draws is the full gradient, module by module."""
    sizes, k = (30, 50), 20_000
    params, x, offsets, target = bank(NET, sizes)
    residual = f(params, x, offsets) - target
    q = FisherScorer(NET, 2, FimConfig())(params, x, offsets, residual).scores
    sampler = FisherSampler(sizes, mix=0.8, dtype=torch.float64)
    for m, own in enumerate(q.split(sizes)):
        sampler.update(torch.arange(len(own))[None], own[None], modules=[m])
    ids, weights = sampler.draw(k, torch.Generator().manual_seed(0), stratified=True)
    rows = (ids + offsets[:-1, None]).flatten()
    leaves = tuple(p.requires_grad_() for p in params)

    def gradient(x: torch.Tensor, offsets: torch.Tensor, y: torch.Tensor, w: torch.Tensor | None) -> torch.Tensor:
        loss = ops.bank_mse(x, offsets, *split_pair(leaves), y, NET, sample_weight=w)
        return torch.cat([g.flatten(1) for g in torch.autograd.grad(loss.sum(), leaves)], 1)

    exact = gradient(x, offsets, target, None)
    drawn = gradient(x[rows], torch.arange(3) * k, target[rows], weights.flatten())
    assert ((drawn - exact).norm(dim=1) < 0.01 * exact.norm(dim=1)).all()
    biased = gradient(x[rows], torch.arange(3) * k, target[rows], None)
    assert ((biased - exact).norm(dim=1) > 0.1 * exact.norm(dim=1)).all()


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    """The run of the benchmark, shorter."""
    return weighted_sgd.measure(steps=512, runs=16)


def test_weighted_sgd_stays_below_its_bound(measured: dict[str, Any]) -> None:
    """Least squares: L = max |x_j|^2, L_w* by a weighted solve, s^2 from the points visited."""
    assert measured["steps"][-1] == 512
    assert [row["lam"] for row in measured["clipped"]] == list(weighted_sgd.LAMBDAS)
    for row in measured["clipped"]:
        assert all(0 < m <= b for m, b in zip(row["measured"], row["bound"]))
        assert row["measured"][-1] < 0.9 * row["measured"][0]
        assert row["gap"] > 0


def test_without_a_clip_the_step_is_too_large_and_sgd_does_not_get_down(measured: dict[str, Any]) -> None:
    free = measured["unclipped"]
    assert free["lr"] > 2 * free["lr_allowed"]
    assert free["measured"][-1] > free["measured"][0]
    known = {"smoothness": measured["smoothness"], "second_moment": 1.0, "lam": free["lam"]}
    with pytest.raises(InputError, match="lr must"):
        weighted_sgd_bound(1.0, free["lr"], 512, **known, largest=measured["largest_score"])
    growth = measured["growth"]["largest_score"]
    assert all(a < b for a, b in itertools.pairwise(growth))


def test_the_command_writes_its_measurements(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib", reason="the picture needs matplotlib (the extra `report`)")
    assert weighted_sgd.main(["--out", str(tmp_path), "--steps", "8", "--runs", "2"]) == 0
    data = json.loads((tmp_path / "weighted_sgd.json").read_text())
    assert data["steps"][-1] == 8
    assert data["command"].endswith("--steps 8 --runs 2")
    assert (tmp_path / "weighted_sgd.png").read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out.count("bound") == len(weighted_sgd.LAMBDAS)


def test_the_gradients_and_the_minimum_of_the_benchmark() -> None:
    """Its closed forms, by autograd: the first squared gradient, s^2 at the start, the scores and the gap."""
    p = weighted_sgd.problem(50)
    w = clipped_weights(p.scores, 0.5, 4.0)
    theta = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    each = lambda t: (p.rows @ t - p.y).square() / 2  # noqa: E731
    run = weighted_sgd.sgd(p, w, 1e-9, 1, runs=2)
    (g,) = torch.autograd.grad((w * each(theta)).mean(), theta)
    assert run.squared[0] == pytest.approx(g.square().sum().item())
    jacobian = torch.autograd.functional.jacobian(each, theta.detach())
    assert run.second_moment == pytest.approx(jacobian.square().sum(1).mean().item())
    fisher = jacobian.square().mean(0)
    torch.testing.assert_close(p.scores, diagonal_fisher_scores(jacobian, 1e-3 * fisher.mean().item()))
    optimizer = torch.optim.LBFGS([theta], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = (w * each(theta)).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    start, end = (w * each(torch.zeros_like(theta))).mean(), (w * each(theta)).mean()
    assert run.gap == pytest.approx((start - end).item(), rel=1e-6)


def test_the_bound_is_the_formula_and_refuses_cases_outside_it() -> None:
    known = {"smoothness": 2.0, "second_moment": 5.0, "lam": 0.5, "largest": 4.0}
    assert weighted_sgd_bound(1.5, 0.1, 10, **known) == pytest.approx(2 * 1.5 / (0.1 * 10) + 0.1 * 2 * 27 * 5)
    with pytest.raises(InputError, match=r"largest must be finite \(clip the scores\), got inf"):
        weighted_sgd_bound(1.5, 0.1, 10, **{**known, "largest": math.inf})
    with pytest.raises(InputError, match=r"lr must be .* at most 1 / \(L \(1 \+ lam B\)\) = 0.1667, got 0.2"):
        weighted_sgd_bound(1.5, 0.2, 10, **known)
    with pytest.raises(InputError, match="gap"):
        weighted_sgd_bound(-1.0, 0.1, 10, **known)
    params, x, offsets, _ = bank(NET, (3,))
    with pytest.raises(InputError, match="sigma"):
        fisher_quadratic(params, params, x, offsets, NET, sigma=0.0)


@pytest.mark.parametrize("n", [100, 10_000])
def test_without_a_clip_the_largest_weight_grows_with_the_number_of_samples(n: int) -> None:
    q = torch.ones(n, dtype=torch.float64)
    q[0] = 1e9
    assert clipped_weights(q, 1.0, math.inf).max() > 0.99 * n
    assert clipped_weights(q, 1.0, 10.0).max() == 11
