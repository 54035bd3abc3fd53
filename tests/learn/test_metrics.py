"""PSNR, SSIM, the continual figures (B8) and step curves (A15)."""

import math

import pytest
import torch

from mclnf_fast.learn import (
    StepCurve,
    average,
    backward_transfer,
    forgetting,
    log_steps,
    mse_to_psnr,
    psnr,
    si_sdr,
    ssim,
    steps_to_reach,
)

NAN = float("nan")


def test_psnr() -> None:
    assert mse_to_psnr(0.01).item() == pytest.approx(20.0)
    assert mse_to_psnr(255.0**2 / 100, max=255).item() == pytest.approx(20.0)
    assert mse_to_psnr(0.0).item() == math.inf
    a = torch.zeros(2, 3, 4)
    b = torch.stack([torch.full((3, 4), 0.1), torch.full((3, 4), 0.01)])
    torch.testing.assert_close(psnr(a, b, keep_first=True), torch.tensor([20.0, 40.0], dtype=torch.float64))
    assert psnr(a, b).item() == pytest.approx(mse_to_psnr((0.01 + 0.0001) / 2).item())
    with pytest.raises(ValueError, match="target"):
        psnr(a, b[:1])
    with pytest.raises(ValueError, match="pred"):
        psnr(a[:0], a[:0])
    with pytest.raises(ValueError, match="mse"):
        mse_to_psnr(-1.0)
    with pytest.raises(ValueError, match="max"):
        mse_to_psnr(1.0, max=0)


def direct_ssim(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The textbook formula in fp64 on every pixel, the image reflected at its borders; a, b [H, W, C]."""
    t = torch.arange(11, dtype=torch.float64) - 5
    g = torch.exp(-(t**2) / (2 * 1.5**2))
    window = torch.outer(g, g) / g.sum() ** 2

    def blur(x: torch.Tensor) -> torch.Tensor:
        padded = torch.nn.functional.pad(x.permute(2, 0, 1)[:, None], (5, 5, 5, 5), mode="reflect")
        return torch.nn.functional.conv2d(padded, window[None, None])

    ma, mb = blur(a), blur(b)
    va, vb, cov = blur(a * a) - ma**2, blur(b * b) - mb**2, blur(a * b) - ma * mb
    c1, c2 = 0.01**2, 0.03**2
    return ((2 * ma * mb + c1) * (2 * cov + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))).mean()


def test_ssim() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.rand(2, 20, 24, 3, generator=g)
    b = (a + 0.1 * torch.randn(a.shape, generator=g)).clamp(0, 1)
    got = ssim(a, b)
    assert got.shape == (2,)
    for v in range(2):
        assert got[v].item() == pytest.approx(direct_ssim(a[v].double(), b[v].double()).item(), abs=2e-4)
    torch.testing.assert_close(ssim(a[:1], a[:1]), torch.ones(1))
    with pytest.raises(ValueError, match="pred"):
        ssim(a[:, :8], b[:, :8])
    with pytest.raises(ValueError, match="target"):
        ssim(a, b[:1])


def test_si_sdr() -> None:
    """The formula of arXiv 1811.02508 without means: a constant added to either signal, and a factor, do not count."""
    g = torch.Generator().manual_seed(0)
    target, noise = torch.randn(2, 500, generator=g, dtype=torch.float64), torch.randn(2, 500, generator=g).double()
    pred = target + 0.1 * noise
    t, p = (x - x.mean(1, keepdim=True) for x in (target, pred))
    part = (p * t).sum(1, keepdim=True) / t.square().sum(1, keepdim=True) * t
    wanted = 10 * torch.log10(part.square().sum(1) / (p - part).square().sum(1))
    torch.testing.assert_close(si_sdr(pred, target), wanted)
    torch.testing.assert_close(si_sdr(3 * pred + 5, target - 2), wanted)
    silent = si_sdr(pred, torch.stack([target[0], torch.full((500,), 0.5, dtype=torch.float64)]))
    torch.testing.assert_close(silent[0], wanted[0])
    assert silent[1] == -math.inf


@pytest.mark.parametrize("shape", [(3, 20, 24, 3), (1, 11, 40, 1), (2, 64, 64, 3)])
def test_ssim_is_that_of_torchmetrics(shape: tuple[int, ...]) -> None:
    referee = pytest.importorskip("torchmetrics.functional.image").structural_similarity_index_measure
    g = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.rand(shape, generator=g).movedim(-1, 1), 5, 1, 2).movedim(1, -1)
    noisy = (smooth + 0.05 * torch.randn(shape, generator=g)).clamp(0, 1)
    wanted = [
        referee(a.movedim(-1, 0)[None], b.movedim(-1, 0)[None], sigma=1.5, kernel_size=11, data_range=1.0)
        for a, b in zip(smooth, noisy)
    ]
    torch.testing.assert_close(ssim(smooth, noisy), torch.stack(wanted), rtol=1e-6, atol=1e-6)


def test_si_sdr_is_that_of_torchmetrics() -> None:
    referee = pytest.importorskip("torchmetrics.functional.audio").scale_invariant_signal_distortion_ratio
    g = torch.Generator().manual_seed(0)
    pred = torch.randn(3, 4000, generator=g)
    for target in (pred + 0.1 * torch.randn(3, 4000, generator=g), 2 * pred + 1, pred.flip(1)):
        torch.testing.assert_close(si_sdr(pred, target), referee(pred.double(), target.double(), zero_mean=True))


def test_continual_figures() -> None:
    matrix = [[30.0, NAN, NAN], [27.0, 32.0, NAN], [24.0, 33.0, 31.0]]
    assert average(matrix) == pytest.approx((24 + 33 + 31) / 3)
    assert average(matrix, after=1) == pytest.approx((27 + 32) / 2)
    assert forgetting(matrix) == pytest.approx((6 - 1 + 0) / 3)
    assert backward_transfer(matrix) == pytest.approx((-6 + 1) / 2)
    assert backward_transfer([[1.0]]) == 0.0
    assert forgetting(torch.eye(1)) == 0.0
    with pytest.raises(ValueError, match="matrix"):
        forgetting([[1.0, 2.0]])
    with pytest.raises(ValueError, match="NaN"):
        average([[1.0, NAN], [NAN, 1.0]])
    with pytest.raises(IndexError, match="after"):
        average(matrix, after=3)


def test_step_grid_and_curve() -> None:
    assert log_steps(4096) == tuple(2**b for b in range(13))
    assert log_steps(100) == (1, 2, 4, 8, 16, 32, 64, 100)
    assert log_steps(1) == (1,)
    curve = StepCurve(last=16)
    for step in range(1, 17):
        if step in curve.wanted:
            curve.add(step, [step, 2.0 * step] if step != 16 else [1.0, 2.0])
    assert curve.steps == [1, 2, 4, 8, 16]
    assert curve.first == (1, 1.5)
    assert curve.best == (8, 12.0)
    assert curve.last == (16, 1.5)
    assert curve.at(4) == 6.0
    assert curve.steps_to_reach(5.0) == 4
    assert curve.steps_to_reach(100.0) is None
    assert steps_to_reach([1, 2, 4], [3.0, 2.0, 1.0], 2.0, higher_is_better=False) == 2
    lower = StepCurve(higher_is_better=False)
    for step, value in [(1, NAN), (2, 3.0), (4, 2.0), (8, 2.0)]:
        lower.add(step, value)
    assert lower.best == (4, 2.0)
    with pytest.raises(ValueError, match="step"):
        curve.add(16, 1.0)
    with pytest.raises(ValueError, match="values"):
        curve.add(17, [])
    with pytest.raises(ValueError, match="step must be one of"):
        curve.at(3)
    with pytest.raises(ValueError, match="curve"):
        StepCurve().best  # noqa: B018
    with pytest.raises(ValueError, match="values"):
        steps_to_reach([1], [], 0.0)
    with pytest.raises(ValueError, match="last"):
        log_steps(0)
