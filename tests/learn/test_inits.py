"""Distilled initializations: the same function, or its mean, by other weights; what is left over is reported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from toy_bank import toy_forward, toy_params

from mclnf_fast.learn import Params, constant, matched
from mclnf_fast.learn.meta.inits import Distilled

LEARNED, RANDOM = toy_params(1, width=8, out_dim=2, seed=3), toy_params(1, width=8, out_dim=2, seed=4)
SCALES = torch.tensor([1.0, 1e-3], dtype=torch.float64)  # the second channel is small, as raw colors beside a density


def outputs(params: Params, x: Tensor) -> Tensor:
    return toy_forward(params, x) * SCALES


def points(step: int) -> Tensor:
    return torch.randn(1, 64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(step))


def left(made: Distilled, wanted: Tensor, x: Tensor) -> Tensor:
    """Mean squared difference over the variance of the learned outputs, per channel."""
    learned = outputs(LEARNED, x)
    spread = (learned - learned.mean(1, keepdim=True)).square().mean(1)
    return ((outputs(made.params, x) - wanted).square().mean(1) / spread)[0]


def test_matched_is_the_learned_function_with_other_weights() -> None:
    made = matched(RANDOM, LEARNED, outputs, points, steps=1500, lr=2e-2)
    unseen = points(12345)
    assert left(made, outputs(LEARNED, unseen), unseen).max() < 0.02  # both channels, whatever their scale
    assert all((a - b).abs().max() > 0.1 for a, b in zip(made.params, LEARNED))


def test_constant_is_the_mean_of_the_learned_outputs_everywhere() -> None:
    made = constant(RANDOM, LEARNED, outputs, points, steps=1500, lr=2e-2)
    unseen = points(12345)
    assert left(made, outputs(LEARNED, unseen).mean(1, keepdim=True), unseen).max() < 0.05
    assert left(made, outputs(LEARNED, unseen), unseen).mean() == pytest.approx(1.0, abs=0.1)


def test_the_rate_falls_to_a_twentieth() -> None:
    """A loss of one weight with a gradient of constant sign: each step of Adam is about its rate."""
    seen: list[float] = []

    def line(params: Params, x: Tensor) -> Tensor:
        if params[0].requires_grad:
            seen.append(float(params[0].detach()))
        return params[0][:, None] * x

    far = torch.full((1, 1), 1e6, dtype=torch.float64)
    matched((0 * far,), (far,), line, lambda step: torch.ones(1, 2, 1, dtype=torch.float64), steps=41, lr=0.1)
    made = torch.tensor(seen).diff()  # 40 of the 41 steps
    wanted = 0.1 * 0.05 ** (torch.arange(40) / 40)
    torch.testing.assert_close(made, wanted, rtol=1e-2, atol=0)


@pytest.mark.parametrize("distill", [matched, constant])
def test_the_residual_is_that_of_points_no_step_saw(distill) -> None:
    made = distill(RANDOM, LEARNED, outputs, points, steps=7)
    assert made.steps == 7
    x = points(7)  # steps 0 ... 6 were trained on
    wanted = outputs(LEARNED, x) if distill is matched else outputs(LEARNED, x).mean(1, keepdim=True)
    assert made.residual == pytest.approx(float(left(made, wanted, x).mean()), rel=1e-6)
    longer = distill(RANDOM, LEARNED, outputs, points, steps=600, lr=2e-2)
    assert longer.residual < 0.2 * made.residual
    with pytest.raises(ValueError, match="random"):
        distill(RANDOM[1:], LEARNED, outputs, points, steps=1)
