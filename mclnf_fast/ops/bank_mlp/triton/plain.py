"""What the Triton ops leave to PyTorch: spherical harmonics, the derivative of a wide network's encoding, and second
derivatives."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops._constants import kept
from mclnf_fast.ops.bank_mlp import reference
from mclnf_fast.ops.bank_mlp.triton import launch
from mclnf_fast.spec import ACTIVATIONS, FieldSpec, Identity


def without_spherical(x: Tensor, spec: FieldSpec) -> tuple[Tensor, FieldSpec]:
    """The same field over features that PyTorch has formed where the encoding has spherical harmonics, which no kernel
    forms."""
    if all(kind != launch.SPHERICAL for kind, *_ in spec.encoding.parts(0, spec.in_dim)):
        return x, spec
    encoded = dataclasses.replace(spec, in_dim=spec.encoded_dim, encoding=Identity())
    return reference.encode(spec.encoding, x), encoded


def _columns(net: launch.Network, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each feature its coordinate [N], its frequency and what it is (`Network.columns`)."""
    table = launch.column_table(net, x.device).to(x.dtype)
    dims = kept(tuple(int(dim) for dim, _, _ in net.columns), torch.int64, x.device)
    return x.index_select(1, dims), table[1], table[2]


def encode(net: launch.Network, x: Tensor) -> Tensor:
    """The features [N, features] of x [N, in]."""
    v, frequency, half = _columns(net, x)
    angle = v * frequency
    return torch.where(half < 0, v, torch.where(half == 0, angle.sin(), angle.cos()))


def encode_backward(net: launch.Network, x: Tensor, grad: Tensor) -> Tensor:
    """The gradient of x from that of the features [N, features]; a coordinate's features are added in their order."""
    v, frequency, half = _columns(net, x.float())
    angle = v * frequency
    wave = torch.where(half == 0, angle.cos(), -angle.sin())
    grad = grad * torch.where(half < 0, torch.ones_like(wave), frequency * wave)
    own = [tuple(c for c, (dim, _, _) in enumerate(net.columns) if dim == d) for d in range(net.inputs)]
    return torch.stack([grad.index_select(1, kept(c, torch.int64, x.device)).sum(1) for c in own], 1)


def evaluate(
    net: launch.Network, x: Tensor, offsets: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]
) -> Tensor:
    """The bank in PyTorch operators, differentiable as often as one likes: [N, outputs]."""
    pieces = []
    bounds = offsets.tolist()
    for m, (first, last) in enumerate(itertools.pairwise(bounds)):
        h = features = encode(net, x[first:last])
        for l in range(net.layers):
            if l > 0 and net.below(l):
                h = torch.cat((h, features), -1)
            kind = net.output_activation if l == net.layers - 1 else net.activation
            h = reference.activate(ACTIVATIONS[kind], h @ weights[l][m] + biases[l][m], net.w0)
        pieces.append(h)
    return torch.cat(pieces) if pieces else x.new_zeros(0, net.outputs)
