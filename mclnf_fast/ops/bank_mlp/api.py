"""The public bank MLP: `M` networks of one architecture, each point through the network of its module."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mclnf_fast.ops import _triton
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import (
    CAST,
    autocast_enabled,
    check_bank,
    kernel_checks,
    parameters_for,
    widened,
    without_autocast,
)
from mclnf_fast.ops._dispatch import Backend, always, cpu_library, cpu_widens, register
from mclnf_fast.ops.bank_mlp import autograd, reference
from mclnf_fast.ops.bank_mlp.saved import saved_values
from mclnf_fast.spec import FieldSpec

autograd.join()


def bank_mlp(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    spec: FieldSpec,
    backend: str | None = "auto",
) -> Tensor:
    """Evaluate every point with the network of its module, encoding included.

    Layer `l` of module `m` computes `a(h W_l[m] + b_l[m])`. Twice differentiable in x, weights and biases in every
    backend (`reference`: to any order).

    Args:
        x: coordinates [N, in_dim], grouped by module; N may be 0. Beside bfloat16 or float16 weights they stay float32:
            rounded to 8 bits, they make an encoding of ten octaves wrong by half its size. Coordinates of the weights'
            half type are accepted, but what they have lost is lost.
        offsets: int64 [M + 1]; rows offsets[m] ... offsets[m+1]-1 belong to module m. Modules may be empty.
        weights: one tensor per layer, [M, in, out] as `spec.layer_shapes` gives them; any strides. All of one dtype:
            that of x or, beside float32, a half type; beside weights of a half type those of the first layer may be
            float32, in which they are multiplied in any case.
        biases: one tensor per layer, [M, out], dtype of the weights or, beside a half type, float32, in which they are
            added in any case.
        spec: the architecture.
        backend: `"auto"`, or a name; see `mclnf_fast.info()`. Inside torch.func transforms the reference serves.

    Returns:
        [N, out_dim], dtype of x, also under autocast, which casts the weights of all layers but the first and nothing
        else. With weights of a half type, the activations that they multiply and the gradients of their layer's
        pre-activations are rounded to it, and the products summed in float32; the first layer, features of the encoding
        in every layer that reads them, biases and outputs are not rounded. (`triton` rounds the first layer's weights
        and the gradients of its pre-activations to the 10 bits of tf32.) `cpu` computes all in float32, except bfloat16
        weights on processors with a fast dot product of bf16 pairs (`mclnf_fast.info()` reports whether this one has
        it). Gradients of parameters have their dtype.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape or device, or offsets that do not start at 0,
            go down, or do not end at N; the message names the argument, what it must be and what it was. Values of
            offsets are read on the CPU alone, since a GPU would have to wait: wrong ones there never lead outside the
            tensors, but rows that no module owns are left unset. A tensor that is not dense, or whose memory was freed,
            is refused as well.
        BackendError: the backend asked for can't serve.
        DeviceMemoryError: the device's memory is too small (`triton`); a `torch.OutOfMemoryError` with the remedy.

    Example:
        >>> import torch
        >>> import mclnf_fast as mf
        >>> spec = mf.FieldSpec(2, 3, width=16, hidden_layers=1)
        >>> bank = mf.FieldBank(spec, modules=2)
        >>> bank_mlp(torch.rand(5, 2), torch.tensor([0, 2, 5]), list(bank.weight), list(bank.bias), spec).shape
        torch.Size([5, 3])
    """
    if kernel_checks(x, offsets, weights, biases, spec):
        function = _OP.serving(backend, x.device, x.dtype)
        if function is _cpu:
            try:
                return _cpu(x, offsets, list(weights), list(biases), spec)
            except RuntimeError:
                pass  # the checks below name the argument
    cast = isinstance(x, Tensor) and x.dtype in CAST and autocast_enabled(x)
    weights, biases = check_bank(x, offsets, weights, biases, spec, cast)
    weights, biases = parameters_for(x, weights, biases)
    function = _OP.serving(backend, x.device, weights[-1].dtype)
    with without_autocast(x):
        y: Tensor = function(widened(x), offsets, weights, biases, spec)
        return y.to(x.dtype)


def _cpu(x: Tensor, offsets: Tensor, weights: list[Tensor], biases: list[Tensor], spec: FieldSpec) -> Tensor:
    if cpu_widens(weights[-1].dtype):
        weights = [w.float() for w in weights]
    ints, floats = spec.packed
    y: Tensor
    if values := saved_values(x, (*weights, *biases), spec):
        y = COMPILED.bank_mlp_fwd_keep(x, offsets, weights, biases, ints, floats, values)[0]
    else:
        y = COMPILED.bank_mlp_fwd(x, offsets, weights, biases, ints, floats)
    return y


_OP = register(
    "bank_mlp",
    cpu=Backend(cpu_library, _cpu),
    triton=Backend(_triton.why_not, "mclnf_fast.ops.bank_mlp.triton.ops:bank_mlp"),
    reference=Backend(always, reference.bank_mlp),
)
