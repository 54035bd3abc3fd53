"""Make initializations to compare a meta-learned one with: shuffled and matched (arXiv 2012.02189, its baselines)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.learn.params import Params, check_like, check_params


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
    forward: Callable[[Params, Tensor], Tensor],
    points: Tensor,
    *,
    steps: int = 1000,
    lr: float = 1e-3,
) -> Params:
    """Train a random initialization to put out, everywhere, the mean output of a learned one: no structure.

    Args:
        random: random initialization, tensors [M, ...].
        init: meta-learned initialization, tensors [M, ...].
        forward: `(params, points) -> [M, n, out]`.
        points: [M, n, in], spread over the domain.
        steps, lr: of Adam, on the mean squared error.

    Returns: tensors [M, ...]. Raises: TypeError, ValueError.

    >>> random, learned = (torch.zeros(1, 1),), (torch.ones(1, 1),)
    >>> forward = lambda params, x: params[0][:, None] * x
    >>> matched(random, learned, forward, torch.ones(1, 5, 1), steps=200, lr=0.1)[0].round(decimals=2).item()
    1.0
    """
    learned = check_params(init, "init")
    check_like(random, learned, "random")
    with torch.no_grad():
        target = forward(learned, points).mean(1, keepdim=True)

    def loss_fn(params: Params, step: int) -> Tensor:
        return (forward(params, points) - target).square().mean(dim=(1, 2))

    return fine_tune(random, loss_fn, steps, lr, kind="adam")
