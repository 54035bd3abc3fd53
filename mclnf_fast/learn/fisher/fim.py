"""Weight the loss by Fisher information, after MCL-NF (arXiv 2504.05806).

The paper weights each sample's squared error by a function of `q = g^T F^-1 g`. Its exact form is not
public, so the normalization, the clip and the stop-gradient are ours: the raw q is of the order of the
number of parameters, and only a weight of mean 1 lets a learning rate keep its meaning.

The scores come from `ops.fisher_scores`. With `grad_y = d loss / d y` they are *empirical* (they see the
residual). For the *Gauss-Newton* form call it once per output channel c with `grad_y = e_c` (one-hot rows)
and add the scores up; for one channel, `grad_y = ones`. The Fisher to score against is then the sum over
channels as well.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int
from mclnf_fast.ops import segment_sum

Form = Literal["one_plus", "pure"]
Norm = Literal["batch_mean", "params", "none"]


def fim_weights(
    scores: Tensor,
    *,
    lam: float = 1.0,
    form: Form = "one_plus",
    norm: Norm = "batch_mean",
    clip: float | None = 10.0,
    groups: Tensor | None = None,
    num_groups: int | None = None,
    num_params: int | None = None,
) -> Tensor:
    """Turn Fisher scores into loss weights of mean 1 (MCL-NF's FIM loss; normalization and clip are ours).

        q_hat = q / mean(q)  |  q / P  |  q              norm = "batch_mean" | "params" | "none"
        w     = (1 + lam q_hat) / (1 + lam)  |  q_hat    form = "one_plus" | "pure"
        w     = min(w, clip);  w = w / mean(w)

    With `one_plus` and `batch_mean` every weight lies in [1/(1 + lam), (1 + lam) * clip]: the clip bounds it
    and the second normalization can lift it by at most 1 + lam. `lam = 0` turns the weighting off in either
    form: exact ones. In the `pure` form any other lam gives the same weights, because the scale goes with
    the mean.

    Args:
        scores: [S], not negative: `q_s = g_s^T F^-1 g_s` of each sample.
        lam: strength, at least 0, without unit.
        form: `one_plus` keeps uninformative samples alive, `pure` does not.
        norm: what the scores are divided by.
        clip: the largest weight before the last normalization, at least 1; None for no clip.
        groups: int64 [S], the module of each sample; means are then taken over each module. None: one group.
        num_groups: M; spares a look at the largest id (a host synchronization on a GPU).
        num_params: P, needed with `norm="params"`.

    Returns: weights [S], detached, mean 1 over every group. A group whose scores are all zero has weights 1.

    Raises: TypeError or ValueError, naming the argument. Values are inspected on the CPU only, since looking
    at them on a GPU would stall it: there a NaN score gives NaN weights.

    >>> fim_weights(torch.tensor([1.0, 3.0]), lam=1.0)
    tensor([0.7500, 1.2500])
    """
    _check_scores(scores)
    if not float(lam) >= 0.0 or lam == float("inf"):
        raise ValueError(f"lam must be finite and at least 0, got {lam}")
    if form not in ("one_plus", "pure"):
        raise ValueError(f"form must be 'one_plus' or 'pure', got {form!r}")
    if norm not in ("batch_mean", "params", "none"):
        raise ValueError(f"norm must be 'batch_mean', 'params' or 'none', got {norm!r}")
    if clip is not None and not float(clip) >= 1.0:
        raise ValueError(f"clip must be at least 1 or None, got {clip}")
    if norm == "params":
        if num_params is None:
            raise ValueError("num_params must be given with norm='params', got None")
        check_positive_int(num_params, "num_params")
    group_count = _check_groups(groups, num_groups, scores)

    # Differentiated, the loss could be lowered by flattening the Fisher, and MAML would need third derivatives.
    q = scores.detach()
    if lam == 0 or q.numel() == 0:
        # The pure form has the same weights at every strength above 0: only here can it be turned off.
        return torch.ones_like(q)
    counts = None if groups is None else segment_sum(torch.ones_like(q), groups, group_count).clamp(min=1.0)
    # The raw q is of the order of the number of parameters: a strength would mean another thing at each width.
    if norm == "batch_mean":
        q = _divide_by_mean(q, groups, counts)
    elif norm == "params":
        assert num_params is not None
        q = q / num_params
    w = (1.0 + lam * q) / (1.0 + lam) if form == "one_plus" else q
    if clip is not None:
        # Without a clip the largest weight grows with the number of samples, and the largest safe step size falls.
        w = w.clamp(max=float(clip))
    return _divide_by_mean(w, groups, counts)


def weighted_mse(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return mean over samples and channels of `w_s (pred - target)^2`; weights of 1 give the bits of the MSE.

    Args:
        pred: [S, C].
        target: [S, C].
        weights: [S], or None for the plain mean squared error.

    Returns: a scalar. Raises: TypeError, ValueError, if a shape does not fit.

    >>> weighted_mse(torch.tensor([[1.0], [2.0]]), torch.zeros(2, 1), torch.tensor([2.0, 0.0])).item()
    1.0
    """
    return _weighted_squares(pred, target, weights, "[S, C]", 2).mean()


def module_mse(pred: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return `weighted_mse` of every module of a bank: pred [M, n, C], target [M, n, C], weights [M, n] or None -> [M].

    Raises: TypeError, ValueError, if a shape does not fit.

    >>> module_mse(torch.tensor([[[1.0]], [[2.0]]]), torch.zeros(2, 1, 1))
    tensor([1., 4.])
    """
    return _weighted_squares(pred, target, weights, "[M, n, C]", 3).mean(dim=(1, 2))


def _weighted_squares(pred: Tensor, target: Tensor, weights: Tensor | None, shape: str, dim: int) -> Tensor:
    for name, t in (("pred", pred), ("target", target)):
        if not isinstance(t, Tensor):
            raise TypeError(f"{name} must be a tensor {shape}, got {type(t).__name__}")
    if pred.dim() != dim:
        raise ValueError(f"pred must be {shape}, got {tuple(pred.shape)}")
    if target.shape != pred.shape:
        # Broadcasting here is the classic silent bug: [S] against [S, 1] would make [S, S].
        raise ValueError(f"target must be {tuple(pred.shape)} like pred, got {tuple(target.shape)}")
    # torch's own squares: without weights the mean then has the bits of its squared error.
    squares = torch.nn.functional.mse_loss(pred, target, reduction="none")
    if weights is None:
        return squares
    if not isinstance(weights, Tensor):
        raise TypeError(f"weights must be a tensor {tuple(pred.shape[:-1])} or None, got {type(weights).__name__}")
    if weights.shape != pred.shape[:-1]:
        raise ValueError(f"weights must be {tuple(pred.shape[:-1])}, got {tuple(weights.shape)}")
    return squares * weights.to(squares.dtype).unsqueeze(-1)


def _divide_by_mean(values: Tensor, groups: Tensor | None, counts: Tensor | None) -> Tensor:
    """Scale each group of `values` [S], of which there are counts [G], to mean 1; an all-zero group becomes ones, a NaN
    stays one."""
    if groups is None or counts is None:
        mean = values.mean()
    else:
        mean = (segment_sum(values, groups, len(counts)) / counts)[groups]
    # `ones + mean`: a mean of 0 gives ones, and a NaN is passed on, not hidden.
    return torch.where(mean > 0, values / torch.where(mean > 0, mean, 1.0), torch.ones_like(values) + mean)


def _check_scores(scores: Tensor) -> None:
    if not isinstance(scores, Tensor) or not scores.is_floating_point():
        got = f"a {scores.dtype} tensor" if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"scores must be a floating-point tensor [S], got {got}")
    if scores.dim() != 1:
        raise ValueError(f"scores must be [S], got {tuple(scores.shape)}")
    if scores.device.type == "cpu" and scores.numel() and not bool((torch.isfinite(scores) & (scores >= 0)).all()):
        bad = scores[~(torch.isfinite(scores) & (scores >= 0))][0].item()
        raise ValueError(f"scores must be finite and not negative, got {bad}")


def _check_groups(groups: Tensor | None, num_groups: int | None, scores: Tensor) -> int:
    if groups is None:
        return 1
    if not isinstance(groups, Tensor) or groups.dtype != torch.int64:
        got = f"a {groups.dtype} tensor" if isinstance(groups, Tensor) else type(groups).__name__
        raise TypeError(f"groups must be an int64 tensor [S] or None, got {got}")
    if groups.shape != scores.shape:
        raise ValueError(f"groups must be {tuple(scores.shape)} like scores, got {tuple(groups.shape)}")
    if num_groups is not None:
        check_positive_int(num_groups, "num_groups")
    if groups.numel() == 0:
        return num_groups or 1
    # On a GPU only if the largest id has to be found anyway: a look at the values waits for the device.
    if groups.device.type == "cpu" or num_groups is None:
        low, high = int(groups.min()), int(groups.max())
        if low < 0 or (num_groups is not None and high >= num_groups):
            limit = "not negative" if num_groups is None else f"in [0, {num_groups})"
            raise IndexError(f"groups must be {limit}, got {low if low < 0 else high}")
        return num_groups if num_groups is not None else high + 1
    return num_groups
