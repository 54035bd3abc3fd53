"""Real spherical harmonics of any degree."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def spherical_harmonics(degree: int, d: Tensor) -> Tensor:
    """Return the real spherical harmonics of bands 0 ... degree - 1 at `d [N, 3]` -> [N, degree^2].

    They are orthonormal on the sphere, with the Condon-Shortley phase. Of band l and order m, feature l^2 + l + m is
    `K Q(z) Re (x + iy)^m`, that of -m has the imaginary part; Q is the m-th derivative of the Legendre polynomial P_l,
    by the recurrence `(l - m) Q_l = (2 l - 1) z Q_(l-1) - (l + m - 1) Q_(l-2)`. These polynomials are evaluated for any
    d: the caller normalizes it.

    >>> spherical_harmonics(3, torch.tensor([[0.0, 0.0, 1.0]]))[0, 2]
    tensor(0.4886)
    """
    x, y, z = d.unbind(-1)
    values: dict[tuple[int, int], Tensor] = {}
    real, imaginary = torch.ones_like(x), torch.zeros_like(x)  # of (-1)^m (x + iy)^m
    for m in range(degree):
        before, here = torch.zeros_like(z), torch.full_like(z, float(math.prod(range(1, 2 * m, 2))))
        for l in range(m, degree):
            if l > m:
                before, here = here, ((2 * l - 1) * z * here - (l + m - 1) * before) / (l - m)
            norm = (2 * l + 1) / (4 * math.pi) * math.factorial(l - m) / math.factorial(l + m)
            factor = here * math.sqrt(norm if m == 0 else 2 * norm)
            values[l, m] = factor * real
            if m > 0:
                values[l, -m] = factor * imaginary
        real, imaginary = y * imaginary - x * real, -(x * imaginary + y * real)
    return torch.stack([values[l, m] for l in range(degree) for m in range(-l, l + 1)], -1)
