"""A plain-torch two-layer bank with tanh inside, and tasks for it: the tests of `learn` need no kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mclnf_fast.learn import Params, module_mse


def toy_params(
    modules: int,
    width: int = 5,
    in_dim: int = 2,
    out_dim: int = 1,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
) -> Params:
    """Weights [M, in, h], [M, h, out], then biases [M, h], [M, out]."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(modules, in_dim, width), (modules, width, out_dim), (modules, width), (modules, out_dim)]
    return tuple(torch.randn(s, generator=g, dtype=dtype) * 0.5 for s in shapes)


def toy_forward(params: Params, x: Tensor) -> Tensor:
    """x [M, n, in] -> [M, n, out]."""
    w0, w1, b0, b1 = params
    return torch.baddbmm(b1[:, None], torch.tanh(torch.baddbmm(b0[:, None], x, w0)), w1)


def toy_task(modules: int, n: int = 7, seed: int = 1, dtype: torch.dtype = torch.float64) -> Callable[..., Tensor]:
    """A loss function `(params, step) -> [M]`: each module regresses onto targets of its own."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(modules, n, 2, generator=g, dtype=dtype)
    y = torch.randn(modules, n, 1, generator=g, dtype=dtype)

    def loss_fn(params: Params, step: int) -> Tensor:
        return module_mse(toy_forward(params, x), y)

    return loss_fn
