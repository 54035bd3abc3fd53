"""Random Fourier features: fixed, drawn once, and kept beside the parameters of the networks that they feed."""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian_frequencies(count: int, dims: int, sigma: float, generator: torch.Generator) -> Tensor:
    """Frequencies [count, dims], normal with deviation `sigma` radians a unit, drawn on the CPU."""
    return sigma * torch.randn(count, dims, generator=generator)


def fourier_features(x: Tensor, frequencies: Tensor) -> Tensor:
    """sin(B x), then cos(B x): x [n, d], B [F, d] -> [n, 2 F].

    Those of arXiv 2006.10739, sec. 6, but for its factor 2 pi, which the code of arXiv 2012.02189 leaves out too.

    They turn with mixtures of coordinates, which no encoding of a `FieldSpec` does: a network takes them as its
    coordinates, in_dim 2 F.
    """
    turns = x @ frequencies.mT
    return torch.cat((turns.sin(), turns.cos()), -1)
