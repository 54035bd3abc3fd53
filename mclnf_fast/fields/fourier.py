"""Random Fourier features: drawn once, fixed, and saved beside the parameters of the networks behind them."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_frequencies(count: int, dims: int, sigma: float, generator: torch.Generator) -> Tensor:
    """Return frequencies [count, dims], normal with deviation `sigma` radians per unit of a coordinate, drawn on the
    CPU.

    >>> gaussian_frequencies(4, 2, 10.0, torch.Generator().manual_seed(0)).shape
    torch.Size([4, 2])
    """
    return sigma * torch.randn(count, dims, dtype=torch.float32, generator=generator)


def fourier_features(x: Tensor, frequencies: Tensor) -> Tensor:
    """Return sin(B x), then cos(B x), [n, 2 F], of x [n, d] and the frequencies B [F, d].

    As in arXiv 2006.10739, sec. 6, but without its factor 2 pi, which the code of arXiv 2012.02189 leaves out too. They
    oscillate along mixtures of coordinates, which no encoding of a `FieldSpec` does: a network takes them as its
    coordinates, in_dim 2 F.

    >>> fourier_features(torch.zeros(1, 2), torch.ones(3, 2))
    tensor([[0., 0., 0., 1., 1., 1.]])
    """
    turns = x @ frequencies.mT
    return torch.cat((turns.sin(), turns.cos()), -1)
