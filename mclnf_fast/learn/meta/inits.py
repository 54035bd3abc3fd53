"""Make initializations to compare a meta-learned one with: shuffled, and distilled to its outputs or to their mean.

Those of arXiv 2012.02189 (its baselines). A distilled one has other weights: what it keeps of the learned one's lead is
due to the function that it begins at, and not to where in the space of weights that function stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import Params, check_like, check_params

Outputs = Callable[[Params, Tensor], Tensor]
"""(params [M, ...], points [M, n, in]) -> outputs [M, n, out]."""
Points = Callable[[int], Tensor]
"""Step -> points [M, n, in], spread as a task draws them; fresh ones in each step if they are drawn."""
FALL = 0.05  # Adam's last rate over its first: at a constant rate the residual stays at the noise of the steps


class Distilled(NamedTuple):
    """An initialization that was trained to put out something, and how near it came.

    Attributes:
        params: tensors [M, ...].
        steps: Adam steps that it took.
        residual: mean squared difference from what it should put out, at points that no step saw if they are drawn,
            over the variance of the learned initialization's outputs there; mean over modules and channels. 0: exact,
            1: as far as their mean is.
    """

    params: Params
    steps: int
    residual: float


def shuffled(init: Sequence[Tensor], generator: torch.Generator | None = None) -> Params:
    """Permute the entries of every tensor, each module by its own permutation: same values, no structure.

    Args:
        init: flat tuple of tensors [M, ...]; M = 1 for a shared initialization.
        generator: on the CPU, so that a seed means the same on every device.

    Returns: new tensors of the same shapes. Raises: TypeError, ValueError.

    >>> params = (torch.arange(4.0)[None],)
    >>> shuffled(params, torch.Generator().manual_seed(0))[0].sort().values.tolist()
    [[0.0, 1.0, 2.0, 3.0]]
    """
    result = []
    for p in check_params(init, "init"):
        rows = p.detach().flatten(1)
        order = torch.stack([torch.randperm(rows.shape[1], generator=generator) for _ in range(len(rows))])
        result.append(rows.gather(1, order.to(p.device)).reshape(p.shape))
    return tuple(result)


def matched(
    random: Sequence[Tensor],
    init: Sequence[Tensor],
    outputs: Outputs,
    points: Points,
    *,
    steps: int = 2000,
    lr: float = 3e-3,
) -> Distilled:
    """Train a random initialization to put out what a learned one does: the same function, other weights.

    Args:
        random: random initialization, tensors [M, ...].
        init: meta-learned initialization, tensors [M, ...].
        outputs: `(params, points) -> [M, n, out]`; each channel counts by its own spread.
        points: step -> [M, n, in], where the tasks evaluate the network.
        steps: of Adam, on the mean squared difference.
        lr: its rate, which falls to a twentieth.

    Raises: TypeError, ValueError.

    >>> random, learned = (torch.zeros(1, 1),), (torch.full((1, 1), 2.0),)
    >>> times = lambda params, x: params[0][:, None] * x
    >>> result = matched(random, learned, times, lambda step: torch.arange(5.0).reshape(1, 5, 1), steps=200, lr=0.1)
    >>> result.params[0].round(decimals=2).item(), round(result.residual, 3)
    (2.0, 0.0)
    """
    return _distilled(random, init, outputs, points, lambda learned: learned, steps, lr)


def constant(
    random: Sequence[Tensor],
    init: Sequence[Tensor],
    outputs: Outputs,
    points: Points,
    *,
    steps: int = 2000,
    lr: float = 3e-3,
) -> Distilled:
    """Train a random initialization to put out, everywhere, the mean output of a learned one: no structure.

    Arguments and what it raises: as of `matched`.

    >>> random, learned = (torch.zeros(1, 1),), (torch.full((1, 1), 2.0),)
    >>> put_out = lambda params, x: params[0][:, None] + 0 * x
    >>> result = constant(random, learned, put_out, lambda step: torch.ones(1, 5, 1), steps=200, lr=0.1)
    >>> result.params[0].round(decimals=2).item()
    2.0
    """
    return _distilled(random, init, outputs, points, lambda learned: learned.mean(1, keepdim=True), steps, lr)


def _distilled(
    random: Sequence[Tensor],
    init: Sequence[Tensor],
    outputs: Outputs,
    points: Points,
    target: Callable[[Tensor], Tensor],
    steps: int,
    lr: float,
) -> Distilled:
    """Train `random` to put out `target(outputs of init)`, each channel in units of the learned outputs' spread."""
    learned = check_params(init, "init")
    check_like(random, learned, "random")

    def errors(params: Params, x: Tensor) -> Tensor:
        with torch.no_grad():
            wanted = outputs(learned, x)
            # Raw colors and raw densities differ in scale by far: without it the larger one alone would be matched.
            spread = wanted.var(1, correction=0, keepdim=True)
            spread = torch.where(spread > 0, spread, 1.0)
            wanted = target(wanted)
        return ((outputs(params, x) - wanted).square() / spread).mean(dim=(1, 2))

    params = fine_tune(random, lambda p, step: errors(p, points(step)), steps, lr, kind="adam", lr_end=FALL * lr)
    with torch.no_grad():
        residual = float(errors(params, points(steps)).mean())
    return Distilled(params, steps, residual)
