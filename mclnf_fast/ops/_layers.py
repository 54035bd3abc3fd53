"""Activations and encodings in plain PyTorch, which all references share."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.encodings import Composite, Encoding, Frequency, Identity, LogFrequency, SphericalHarmonics
from mclnf_fast.ops._constants import constant
from mclnf_fast.spec import ACTIVATIONS


def activate(kind: str, z: Tensor, w0: float) -> Tensor:
    """Return a(z), elementwise, for an activation of `mclnf_fast.spec.ACTIVATIONS`; `w0` belongs to `sine` alone.

    Raises ValueError for any other.

    >>> activate("relu", torch.tensor([-1.0, 2.0]), 30.0)
    tensor([0., 2.])
    """
    if kind == "relu":
        return torch.relu(z)
    if kind == "sine":
        return torch.sin(w0 * z)
    if kind == "softplus":
        # torch's default threshold of 20 drops log1p(e^-20) = 2e-9, which float64 resolves; it does not resolve e^-50.
        return torch.nn.functional.softplus(z, threshold=50.0)
    if kind == "tanh":
        return torch.tanh(z)
    if kind == "sigmoid":
        return torch.sigmoid(z)
    if kind == "exp":
        return torch.exp(z)
    if kind == "none":
        return z
    raise ValueError(f"kind must be one of {', '.join(ACTIVATIONS)}, got {kind!r}")


def spherical_harmonics(degree: int, d: Tensor) -> Tensor:
    """Return the real spherical harmonics of bands 0 ... degree-1 at `d [..., 3]` -> [..., degree^2]."""
    x, y, z = d.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    values = [torch.full_like(x, 0.28209479177387814)]
    if degree > 1:
        values += [-0.48860251190291987 * y, 0.48860251190291987 * z, -0.48860251190291987 * x]
    if degree > 2:
        values += [1.0925484305920792 * x * y, -1.0925484305920792 * y * z]
        values += [0.94617469575755997 * zz - 0.31539156525251999]
        values += [-1.0925484305920792 * x * z, 0.54627421529603959 * (xx - yy)]
    if degree > 3:
        values += [0.59004358992664352 * y * (yy - 3 * xx), 2.8906114426405538 * x * y * z]
        values += [0.45704579946446572 * y * (1 - 5 * zz), 0.3731763325901154 * z * (5 * zz - 3)]
        values += [0.45704579946446572 * x * (1 - 5 * zz), 1.4453057213202769 * z * (xx - yy)]
        values += [0.59004358992664352 * x * (3 * yy - xx)]
    return torch.stack(values, -1)


def encode(encoding: Encoding, x: Tensor) -> Tensor:
    """Return the features [..., encoded_dim] of x [..., in_dim], for an encoding without a grid.

    Raises TypeError for any other encoding: one that is defined nowhere would silently be the identity.

    >>> from mclnf_fast.spec import Frequency
    >>> encode(Frequency(4), torch.rand(5, 3)).shape
    torch.Size([5, 24])
    """
    if isinstance(encoding, Composite):
        pieces = x.split([dims for _, dims in encoding.items], -1)
        return torch.cat([encode(inner, piece) for (inner, _), piece in zip(encoding.items, pieces)], -1)
    if isinstance(encoding, SphericalHarmonics):
        return spherical_harmonics(encoding.degree, x)
    if isinstance(encoding, (Frequency, LogFrequency)):
        frequencies = constant(encoding.frequencies, x)
        angles = frequencies[:, None] * x[..., None, :]  # [..., n, dims]
        waves = torch.stack((angles.sin(), angles.cos()), -2).flatten(-3)
        raw = isinstance(encoding, Frequency) and encoding.include_input
        return torch.cat((x, waves), -1) if raw else waves
    if type(encoding) is Identity:
        return x
    raise TypeError(f"encoding must be one that `encode` defines, without a grid, got {encoding!r}")
