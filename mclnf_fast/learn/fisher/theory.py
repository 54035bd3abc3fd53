"""State what theory says of Fisher information in a form that a run can be checked against."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int
from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.score_batch import tangents
from mclnf_fast.learn.params import Params, check_like
from mclnf_fast.ops import segment_sum
from mclnf_fast.spec import FieldSpec


def fisher_quadratic(
    params: Params,
    delta: Params,
    x: Tensor,
    offsets: Tensor,
    spec: FieldSpec,
    *,
    sigma: float = 1.0,
    backend: str | None = "auto",
) -> Tensor:
    """Return 1/2 d^T F d of every module: to second order, how far `delta` carries the model from itself.

        KL[p(y | theta) || p(y | theta + d)] = 1/2 d^T F d + O(|d|^3),    F = 1 / (n sigma^2) sum_j J_j^T J_j

    for the Gaussian model y ~ N(f(x), sigma^2 I), a mean over the module's points; F is the Gauss-Newton form. This is
    the relation on which MCL-NF (arXiv 2504.05806) builds. F itself is never formed.

    Args:
        params, delta: weights, then biases, tensors [M, ...].
        x: [N, in], grouped by module.
        offsets: int64 [M + 1].
        sigma: standard deviation of the outputs, above 0.

    Returns: [M], detached; 0 for an empty module. Raises: InputError, and as `ops.bank_mlp`.

    >>> spec = FieldSpec(1, 1, hidden_layers=0)  # f(x) = w x + b
    >>> params = (torch.ones(1, 1, 1), torch.zeros(1, 1))
    >>> delta = (torch.zeros(1, 1, 1), torch.full((1, 1), 2.0))  # moves every output by 2
    >>> fisher_quadratic(params, delta, torch.rand(5, 1), torch.tensor([0, 5]), spec)
    tensor([2.])
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise InputError(f"sigma must be a finite number above 0, got {sigma!r}")
    check_like(delta, params, "delta")
    modules = len(offsets) - 1
    moved = tangents(params, tuple(d.detach() for d in delta), x, offsets, spec, backend)
    module = torch.repeat_interleave(torch.arange(modules, device=x.device), offsets.diff(), output_size=len(x))
    counts = offsets.diff().clamp(min=1).to(moved.dtype)
    return 0.5 * segment_sum(moved.square().sum(1), module, modules) / (counts * sigma**2)


def clipped_weights(scores: Tensor, lam: float, largest: float) -> Tensor:
    """Return w = 1 + lam min(q / mean(q), largest), in [1, 1 + lam largest]: FIM weights as `weighted_sgd_bound` has
    them.

    `fim_weights` gives these divided by their mean, with 1 + lam largest = (1 + lam) clip.

    Args:
        scores: [S], not negative.
        lam: at least 0.
        largest: B, above 0; infinity for no clip.

    >>> clipped_weights(torch.tensor([1.0, 3.0]), lam=1.0, largest=1.2)
    tensor([1.5000, 2.2000])
    """
    return 1.0 + lam * (scores / scores.mean()).clamp(max=largest)


def weighted_sgd_bound(
    gap: float,
    lr: float,
    steps: int,
    *,
    smoothness: float,
    second_moment: float,
    lam: float,
    largest: float,
) -> float:
    """Return the largest mean squared gradient that SGD on a weighted loss can have.

        (1/T) sum_t E|grad L_w(theta_t)|^2  <=  2 (L_w(theta_0) - L_w*) / (lr T)  +  lr L (1 + lam B)^3 s^2

    for L_w = mean_j w_j l_j with frozen weights in [1, 1 + lam B], L-smooth l_j, mean_j |grad l_j|^2 <= s^2 at the
    points visited, one uniform sample a step, and lr <= 1 / (L (1 + lam B)). One factor 1 + lam B comes from the
    smoothness of L_w, two from the second moment of its gradients. Only a clip makes B finite: without one it grows
    with the number of samples. Our own derivation from the standard one for SGD; MCL-NF's theorem is not public.

    Args:
        gap: L_w(theta_0) - min L_w.
        lr: step size.
        steps: T.
        smoothness: L.
        second_moment: s^2.
        lam: strength of the weights.
        largest: B.

    Raises: InputError if no bound holds: a B that is not finite, or a step size that is too large.

    >>> round(weighted_sgd_bound(1.0, 0.1, 100, smoothness=1.0, second_moment=1.0, lam=0.0, largest=1.0), 3)
    0.3
    """
    check_positive_int(steps, "steps")
    for name, value in (("gap", gap), ("smoothness", smoothness), ("second_moment", second_moment), ("lam", lam)):
        if not (math.isfinite(value) and value >= 0):
            raise InputError(f"{name} must be a finite number of at least 0, got {value!r}")
    if not (math.isfinite(largest) and largest >= 0):
        raise InputError(f"largest must be finite (clip the scores), got {largest!r}")
    weight = 1.0 + lam * largest
    # The margin: a rate that was computed as the limit itself may come out above 1 by rounding.
    if not 0 < lr * smoothness * weight <= 1.0 + 1e-12:
        limit = 1.0 / (smoothness * weight) if smoothness else math.inf
        raise InputError(f"lr must be above 0 and at most 1 / (L (1 + lam B)) = {limit:.4g}, got {lr!r}")
    return 2.0 * gap / (lr * steps) + lr * smoothness * weight**3 * second_moment
