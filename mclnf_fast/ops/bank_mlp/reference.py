"""The bank MLP in plain PyTorch: the definition that every other backend must agree with.

Any dtype, any order of derivative. Half types belong to the weights of every layer but the first: `ops._rounding` says
what is rounded to them. The first layer's weights and all biases have the dtype of the points.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops._layers import activate, encode
from mclnf_fast.ops._rounding import PRECISIONS, operand, with_rounded_gradient
from mclnf_fast.packing import Precision
from mclnf_fast.spec import FieldSpec


def mlp(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    spec: FieldSpec,
    precision: Precision | None = None,
    raised: float = 1.0,
) -> Tensor:
    """Evaluate one network, or a batch of them.

    x [(M,) n, in_dim], weights [(M,) in, out], biases [(M,) out], of the dtype of x, or all but the first layer's of a
    half type -> [(M,) n, out_dim], dtype of x. precision: of the products; None: that of the weights. raised: what
    gradients are multiplied by before they are rounded (`with_rounded_gradient`).

    >>> mlp(torch.rand(4, 2), [torch.rand(2, 1)], [torch.rand(1)], FieldSpec(2, 1, hidden_layers=0)).shape
    torch.Size([4, 1])
    """
    if precision is None:
        precision = PRECISIONS.get(weights[-1].dtype, Precision.FP32)
    encoded = h = encode(spec.encoding, x)
    for layer, (weight, bias) in enumerate(zip(weights, biases)):
        if layer > 0:
            h = operand(h, precision)
        if layer in spec.skips:
            h = torch.cat((h, encoded), -1)
        z = h @ weight.to(x.dtype) + bias[..., None, :].to(x.dtype)
        if layer > 0:
            z = with_rounded_gradient(z, precision, raised)
        h = activate(spec.output_activation if layer == spec.hidden_layers else spec.activation, z, spec.w0)
    return h


def bank_mlp(
    x: Tensor, offsets: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], spec: FieldSpec
) -> Tensor:
    """Evaluate x [N, in_dim] grouped by module -> [N, out_dim]; rows offsets[m] ... offsets[m+1]-1 are module m's."""
    modules = weights[0].shape[0]
    if modules == 0 or x.shape[0] == 0:  # with a graph, so that gradients are zeros and not missing
        return x.new_zeros(0, spec.out_dim) + 0 * (
            x.sum() + sum(w.sum() for w in weights) + sum(b.sum() for b in biases)
        )
    counts = offsets.diff()
    if not torch.compiler.is_compiling() and bool((counts == counts[0]).all()):
        return mlp(x.unflatten(0, (modules, -1)), weights, biases, spec).flatten(0, 1)
    # unbind, not w[m]: its derivative stacks the modules once instead of adding up M full-size gradients.
    pieces = zip(x.split(counts.tolist()), *(t.unbind() for t in (*weights, *biases)))
    layers = len(weights)
    return torch.cat([mlp(piece, module[:layers], module[layers:], spec) for piece, *module in pieces])
