"""Metrics: PSNR, SSIM and SI-SDR of signals, the figures of continual learning, and curves over steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int

MOST_PSNR = 200.0  # dB that stand for an error of exactly 0: infinity is no JSON, and has no mean
WINDOW = 11  # pixels of SSIM's window on a side
Matrix = Tensor | Sequence[Sequence[float]]


def mse_to_psnr(mse: float | Tensor, max: float = 1.0) -> Tensor:
    """Return the PSNR 10 log10(max^2 / mse) in dB, of the same shape, float64; inf for an mse of 0.

    Raises:
        ValueError: `max` is not above 0, or an mse on the CPU is negative (on a GPU the check would wait for it).

    >>> mse_to_psnr(0.01).item()
    20.0
    """
    if not float(max) > 0:
        raise ValueError(f"max must be above 0, got {max}")
    value = torch.as_tensor(mse, dtype=torch.float64)
    if value.device.type == "cpu" and bool((value < 0).any()):
        raise ValueError(f"mse must not be negative, got {value.min().item()}")
    return 20.0 * math.log10(max) - 10.0 * torch.log10(value)


EIGHT_BITS = 10 * math.log10(12 * 255**2)
"""PSNR in dB from which a picture of 8 bits counts as exact, see `exact_from`."""


def exact_from(values: Tensor) -> Tensor:
    """Return the PSNR in dB from which each signal counts as exact: what its file can hold, and no more, float64 [S].

    The levels of a file are as far apart as the two closest values of the signal, at most 1 / 255 (of a drawing in
    black and white too). Rounding to levels h apart has a mean squared error of h^2 / 12: an error below it says
    nothing of the file any more. That is 58.9 dB of 8 bits, 107.1 dB of 16 bits.

    Args:
        values: [S, ...] in 0 ... 1, as they were read.

    >>> exact_from(torch.arange(256).reshape(1, 16, 16) / 255).round(decimals=1).tolist()
    [58.9]
    """
    ceilings = []
    for signal in values.detach().double().flatten(1).cpu():
        gaps = signal.unique().diff()
        # float32 values around 1 are 2^-24 apart: of a signal that was resampled no gap is smaller in earnest.
        gap = min(max(float(gaps.min()), 2.0**-24), 1 / 255) if gaps.numel() else 1 / 255
        ceilings.append(10 * math.log10(12 / gap**2))
    return torch.tensor(ceilings, dtype=torch.float64)


def psnr(pred: Tensor, target: Tensor, max: float = 1.0, *, keep_first: bool = False) -> Tensor:
    """Return the peak signal-to-noise ratio in dB over all entries, squared errors averaged in float64.

    Args:
        pred, target: [...], the same shape.
        max: peak of the signal.
        keep_first: return one value for each entry of the first dimension.

    Returns:
        A scalar, or [V] with `keep_first`. Report the mean over signals of these, not the PSNR of the mean error.

    Raises:
        ValueError: the shapes differ or are empty.

    >>> psnr(torch.zeros(4, 3), torch.full((4, 3), 0.1)).round().item()
    20.0
    """
    if pred.shape != target.shape:
        raise ValueError(f"target must be {tuple(pred.shape)} like pred, got {tuple(target.shape)}")
    if pred.numel() == 0 or (keep_first and pred.dim() == 0):
        raise ValueError(f"pred must not be empty, got {tuple(pred.shape)}")
    squares = (pred.detach().double() - target.detach().double()).square()
    mse = squares.reshape(len(squares), -1).mean(1) if keep_first else squares.mean()
    return mse_to_psnr(mse, max)


def ssim(pred: Tensor, target: Tensor) -> Tensor:
    """Return the structural similarity of each view: Gaussian window 11 x 11, sigma 1.5, K = (0.01, 0.03), range 1.

    With means m, variances v and the covariance c under the window (Wang et al. 2004, eq. 13):

        SSIM = (2 m_p m_t + K1^2) (2 c + K2^2) / ((m_p^2 + m_t^2 + K1^2) (v_p + v_t + K2^2))

    Channels apart and averaged, the image reflected at its borders, every pixel counted, as in torchmetrics. Code
    that leaves out the border (scikit-image) differs in the third digit on small images.

    Args:
        pred, target: [V, H, W, C], values in [0, 1], H and W at least 11.

    Returns:
        [V].

    Raises:
        ValueError: a shape does not fit.

    >>> picture = torch.rand(1, 16, 16, 3)
    >>> ssim(picture, picture).tolist()
    [1.0]
    """
    if pred.dim() != 4 or min(pred.shape[1:3]) < WINDOW or pred.shape[0] == 0:
        raise ValueError(f"pred must be [V, H, W, C] with V >= 1 and H, W >= {WINDOW}, got {tuple(pred.shape)}")
    if target.shape != pred.shape:
        raise ValueError(f"target must be {tuple(pred.shape)} like pred, got {tuple(target.shape)}")
    # Not by torchmetrics, which is the referee of the tests: its import alone took a tenth of a small run.
    offsets = torch.arange(WINDOW, dtype=torch.float32, device=pred.device) - WINDOW // 2
    bell = torch.exp(-((offsets / 1.5) ** 2) / 2)
    bell = bell / bell.sum()
    return torch.stack([_similarity(p, t, bell[:, None] * bell) for p, t in zip(pred.detach(), target.detach())])


def _similarity(pred: Tensor, target: Tensor, window: Tensor) -> Tensor:
    """Return the mean of SSIM over the pixels and channels of one view [H, W, C]."""
    p, t = (x.float().movedim(-1, 0)[:, None] for x in (pred, target))  # [C, 1, H, W]
    padded = [torch.nn.functional.pad(x, (WINDOW // 2,) * 4, mode="reflect") for x in (p, t)]
    both = torch.cat((*padded, padded[0] * padded[0], padded[1] * padded[1], padded[0] * padded[1]))
    mean_p, mean_t, square_p, square_t, product = torch.nn.functional.conv2d(both, window[None, None]).chunk(5)
    # A difference of two means: where the picture is flat, rounding would leave a variance below 0.
    variance = (square_p - mean_p**2).clamp(min=0) + (square_t - mean_t**2).clamp(min=0)
    covariance = product - mean_p * mean_t
    k1, k2 = 0.01**2, 0.03**2
    above = (2 * mean_p * mean_t + k1) * (2 * covariance + k2)
    return (above / ((mean_p**2 + mean_t**2 + k1) * (variance + k2))).mean()


def si_sdr(pred: Tensor, target: Tensor) -> Tensor:
    """Return the scale-invariant signal-to-distortion ratio of each signal in dB (Le Roux et al., arXiv 1811.02508).

    With the mean of each signal subtracted, and e = a target - pred for the a that makes it smallest:

        SI-SDR = 10 log10(|a target|^2 / |e|^2)

    Args:
        pred, target: [S, L].

    Returns:
        [S], float64; minus infinity for a silent target.

    Raises:
        ValueError: the shapes differ or are not [S, L].

    >>> si_sdr(torch.tensor([[0.0, 1.0, 0.5]]), torch.tensor([[0.0, 2.0, 1.0]])).item() > 100  # scale does not count
    True
    """
    if pred.dim() != 2 or pred.shape != target.shape:
        raise ValueError(f"pred and target must be [S, L], got {tuple(pred.shape)} and {tuple(target.shape)}")
    p, t = (x.detach().double() - x.detach().double().mean(-1, keepdim=True) for x in (pred, target))
    # With the smallest float64 that counts, so that a signal without error has a finite figure, as in torchmetrics.
    tiny = torch.finfo(torch.float64).eps
    scaled = ((p * t).sum(-1, keepdim=True) + tiny) / (t.square().sum(-1, keepdim=True) + tiny) * t
    error = scaled - p
    ratio = 10 * torch.log10((scaled.square().sum(-1) + tiny) / (error.square().sum(-1) + tiny))
    # The ratio of a constant target depends on that number alone.
    silent = (target == target[:, :1]).all(1)
    return torch.where(silent, -math.inf, ratio)


def measures(kind: str, pred: Tensor, target: Tensor) -> dict[str, list[float]]:
    """Return the metrics of whole signals: PSNR, and SSIM (image; video: mean over frames) or SI-SDR (audio).

    Args:
        kind: "image", "video" or "audio".
        pred, target: [S, *grid, C] in [0, 1].

    Returns:
        {metric: one value per signal}; without SSIM for pictures of fewer than 11 pixels on a side.

    >>> sorted(measures("image", torch.rand(2, 16, 16, 3), torch.rand(2, 16, 16, 3)))
    ['psnr', 'ssim']
    """
    scores = {"psnr": psnr(pred, target, keep_first=True).tolist()}
    if kind == "audio":
        scores["si_sdr"] = si_sdr(pred[..., 0], target[..., 0]).tolist()
    elif min(pred.shape[-3:-1]) >= 11:
        frames = pred.shape[1] if kind == "video" else 1
        views = (t.reshape(-1, *t.shape[-3:]) for t in (pred, target))
        scores["ssim"] = ssim(*views).reshape(-1, frames).mean(1).tolist()
    return scores


def average(matrix: Matrix, after: int = -1) -> float:
    """Return the mean over the tasks i <= k of R[k, i]: the quality of everything learned so far after task k.

    Args:
        matrix: R [T, T], R[k, i] = PSNR (dB) of task i after task k was learned; entries above the diagonal
            are not read and may be NaN.
        after: k from 0, -1 for the last task.

    Raises:
        ValueError: the matrix is not square or a needed entry is missing.
        IndexError: there is no such task.

    >>> average([[30.0, 0.0], [28.0, 32.0]])
    30.0
    """
    r = _check_matrix(matrix)
    if not -len(r) <= after < len(r):
        raise IndexError(f"after must be a task in [0, {len(r)}) or -1, got {after}")
    k = after % len(r)
    return float(r[k, : k + 1].mean())


def forgetting(matrix: Matrix) -> float:
    """Return mean_k (R[k, k] - R[T-1, k]) in dB over all T tasks: positive is loss, negative is gain.

    The definition of "Trust Region Continual Learning as an Implicit Meta-Learner" (arXiv 2602.02417), with the sign
    of a metric of which more is better; the last task counts, with 0. Arguments and errors as `average`.

    >>> forgetting([[30.0, 0.0], [28.0, 32.0]])
    1.0
    """
    r = _check_matrix(matrix)
    return float((r.diagonal() - r[-1]).mean())


def backward_transfer(matrix: Matrix) -> float:
    """Return the mean over k < T-1 of R[T-1, k] - R[k, k] in dB (Lopez-Paz & Ranzato, arXiv 1706.08840).

    The last task, which nothing follows, does not count; 0 for one task. Arguments and errors as `average`.

    >>> backward_transfer([[30.0, 0.0], [28.0, 32.0]])
    -2.0
    """
    r = _check_matrix(matrix)
    return float((r[-1] - r.diagonal())[:-1].mean()) if len(r) > 1 else 0.0


def log_steps(last: int = 4096) -> tuple[int, ...]:
    """Return the steps of MCL-NF's curves (arXiv 2504.05806): 1, 2, 4, ... and always `last`.

    >>> log_steps(10)
    (1, 2, 4, 8, 10)
    """
    check_positive_int(last, "last")
    steps = [1 << b for b in range(last.bit_length()) if 1 << b <= last]
    return tuple(steps) if steps[-1] == last else (*steps, last)


def steps_to_reach(
    steps: Sequence[int], values: Sequence[float], target: float, *, higher_is_better: bool = True
) -> int | None:
    """Return the first logged step whose value reaches `target`, or None if none does.

    Raises:
        ValueError: there are not as many values as steps.

    >>> steps_to_reach([1, 2, 4], [20.0, 24.0, 27.0], 24.0)
    2
    """
    if len(steps) != len(values):
        raise ValueError(f"values must be as many as steps ({len(steps)}), got {len(values)}")
    for step, value in zip(steps, values, strict=True):
        if (value >= target) if higher_is_better else (value <= target):
            return step
    return None


class StepCurve:
    """A metric over steps, the mean over signals at each, with its first, best and last value.

    Args:
        last: the last step; `wanted` are then 1, 2, 4, ..., last.
        higher_is_better: for `best` and `steps_to_reach`.

    >>> curve = StepCurve(last=4)
    >>> for step in range(1, 5):
    ...     if step in curve.wanted:
    ...         curve.add(step, [20.0 + step, 22.0 + step])
    >>> curve.best
    (4, 25.0)
    """

    def __init__(self, last: int = 4096, *, higher_is_better: bool = True) -> None:
        self.wanted = frozenset(log_steps(last))
        self.higher_is_better = higher_is_better
        self.steps: list[int] = []
        self.values: list[float] = []

    def add(self, step: int, values: float | Sequence[float] | Tensor) -> None:
        """Log one value, or one per signal (their mean is stored).

        Raises ValueError if the step is not above the one before, or there is no value.
        """
        if step < 0 or (self.steps and step <= self.steps[-1]):
            raise ValueError(f"step must grow from {self.steps[-1] if self.steps else 0}, got {step}")
        value = torch.as_tensor(values, dtype=torch.float64)
        if value.numel() == 0:
            raise ValueError("values must hold at least one number, got none")
        self.steps.append(int(step))
        self.values.append(float(value.mean()))

    @property
    def first(self) -> tuple[int, float]:
        """(step, value) logged first. Raises ValueError if the curve is empty."""
        return self._row(0)

    @property
    def last(self) -> tuple[int, float]:
        """(step, value) logged last. Raises ValueError if the curve is empty."""
        return self._row(-1)

    @property
    def best(self) -> tuple[int, float]:
        """(step, value) of the best mean, the earliest of equals; NaN is never best.

        Raises ValueError if the curve is empty.
        """
        self._row(0)
        sign = 1.0 if self.higher_is_better else -1.0
        ranked = [-math.inf if math.isnan(v) else sign * v for v in self.values]
        return self._row(max(range(len(ranked)), key=ranked.__getitem__))

    def at(self, step: int) -> float:
        """Return the value at a logged step. Raises ValueError if it was not logged."""
        if step not in self.steps:
            raise ValueError(f"step must be one of {self.steps}, got {step}")
        return self.values[self.steps.index(step)]

    def steps_to_reach(self, target: float) -> int | None:
        """Return the first logged step whose value reaches `target`, or None: see the function of this name."""
        return steps_to_reach(self.steps, self.values, target, higher_is_better=self.higher_is_better)

    def _row(self, index: int) -> tuple[int, float]:
        if not self.steps:
            raise ValueError("the curve must hold at least one step, got none")
        return self.steps[index], self.values[index]


def _check_matrix(matrix: Matrix) -> Tensor:
    r = torch.as_tensor(matrix, dtype=torch.float64)
    if r.dim() != 2 or r.shape[0] != r.shape[1] or len(r) == 0:
        raise ValueError(f"matrix must be [T, T] with T >= 1, got {tuple(r.shape)}")
    if bool(torch.isnan(r).tril().any()):
        raise ValueError("matrix must hold R[k, i] for every i <= k, got NaN there")
    return r
