"""Networks whose products have rounded operands: the definition of `FitRule.precision` in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.ops._layers import activate, encode
from mclnf_fast.packing import Precision
from mclnf_fast.spec import FieldSpec

HALVES = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}


def rounded(x: Tensor, precision: Precision) -> Tensor:
    """Return the nearest numbers of a format, in the dtype of `x`; of two, tf32 takes the one away from 0.

    >>> rounded(torch.tensor([1.0, 1.001]), Precision.BF16)
    tensor([1., 1.])
    """
    if precision == Precision.FP32:
        return x
    if precision in HALVES:
        return x.to(HALVES[precision]).to(x.dtype)
    bits = x.float().view(torch.int32)
    near = ((bits + 0x1000) & ~0x1FFF).view(torch.float32)
    return torch.where(x.isnan(), x, near.to(x.dtype))


def mlp(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], spec: FieldSpec, precision: Precision, terms: int
) -> Tensor:
    """Evaluate one network, x [n, in_dim], weights [in, out], biases [out] -> [n, out_dim], to be differentiated once.

    Of every layer but the first, the activations and weights that it multiplies are rounded, and so is the gradient of
    its pre-activations before anything is computed from it. The features of the encoding are never rounded.

    Args:
        terms: of the mean that is differentiated. Gradients are rounded to fp16 times the least power of two that is no
            smaller, as it has no small numbers.

    >>> spec = FieldSpec(2, 1, width=4, hidden_layers=1)
    >>> w, b = [torch.rand(2, 4), torch.rand(4, 1)], [torch.zeros(4), torch.zeros(1)]
    >>> mlp(torch.rand(5, 2), w, b, spec, Precision.TF32, 5).shape
    torch.Size([5, 1])
    """
    raised = float(1 << (terms - 1).bit_length()) if precision == Precision.FP16 else 1.0
    encoded = h = encode(spec.encoding, x)
    for layer, (weight, bias) in enumerate(zip(weights, biases)):
        if layer == 0:
            z = h @ weight + bias
        else:
            z = _Rounded.apply(h, precision) @ _Rounded.apply(weight[: h.shape[-1]], precision) + bias
            if layer in spec.skips:
                z = z + encoded @ weight[h.shape[-1] :]
            z = _RoundedGradient.apply(z, precision, raised)
        h = activate(spec.output_activation if layer == spec.hidden_layers else spec.activation, z, spec.w0)
    return h


class _Rounded(torch.autograd.Function):
    """Rounds on the way forward; the gradient passes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, precision: Precision) -> Tensor:
        return rounded(x, precision)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _RoundedGradient(torch.autograd.Function):
    """Rounds the gradient, times `raised`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, precision: Precision, raised: float) -> Tensor:
        ctx.how = precision, raised
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        precision, raised = ctx.how
        return rounded(grad * raised, precision) / raised, None, None
