"""`mclnf_fast_triton::bank_mse_fwd`, `bank_mse_bwd` and `bank_mse_bwd_bwd`: the squared error of every module by the
Triton kernels, each in one sweep over the points."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.ops import _memory
from mclnf_fast.ops._autograd import joined, shapes_like
from mclnf_fast.ops.bank_mlp.triton import sweeps
from mclnf_fast.ops.bank_mlp.triton.ops import interleaved, zeroed
from mclnf_fast.ops.bank_mlp.triton.second import Direction, second
from mclnf_fast.ops.bank_mse import autograd
from mclnf_fast.ops.triton import launch, plain
from mclnf_fast.ops.triton.bank import Bank, layer_chunks, scaled
from mclnf_fast.ops.triton.define import NAMESPACE, define
from mclnf_fast.ops.triton.error import SquaredError
from mclnf_fast.spec import FieldSpec


def _factors(bank: Bank, mean: bool, cotangent: Tensor | None = None) -> Tensor:
    """Return the factor of every module's sum of errors, float32 [M]."""

    def made() -> Tensor:
        values = (bank.counts * bank.net.outputs).clamp(min=1) if mean else torch.ones_like(bank.counts)
        return values.float().reciprocal()

    factors = bank.following(("factors", mean and bank.net.outputs), made)
    return factors if cotangent is None else factors * cotangent.float()


@_memory.explained("bank_mse, forward")
def _fwd(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    target: Tensor,
    weight: Tensor | None,
    ints: list[int],
    floats: list[float],
    mean: bool,
    need_params: bool,
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return the losses, float32 [M], and if needed their gradients, float32: no cotangent has scaled them yet."""
    loss = x.new_zeros(weights[0].shape[0], dtype=torch.float32)
    grad_w, grad_b = (autograd.gradients_like(ts, need_params) for ts in (weights, biases))
    if x.shape[0] == 0:
        return loss, zeroed(grad_w), zeroed(grad_b)
    bank = Bank(launch.network(ints, floats), x, offsets, tuple(weights), tuple(biases))
    with bank.on_device():
        error = SquaredError(target, weight, _factors(bank, mean), loss)
        if need_params:
            sweeps.backward(bank, error, None, interleaved(grad_w, grad_b))
        else:
            chunks, _, per_chunk = layer_chunks(bank)
            error.gradient(bank, sweeps.forward(bank), None, chunks, per_chunk, more=False, wanted=False)
    return loss, grad_w, grad_b


@_memory.explained("bank_mse, backward")
def _bwd(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    target: Tensor,
    weight: Tensor | None,
    cotangent: Tensor,
    known_weights: list[Tensor],
    known_biases: list[Tensor],
    ints: list[int],
    floats: list[float],
    mean: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the gradients of <cotangent [M], losses>, from those of the losses if they are known."""
    if known_weights:
        grads = scaled([*known_weights, *known_biases], cotangent, [t.dtype for t in (*weights, *biases)])
        return grads[: len(weights)], grads[len(weights) :]
    grad_w, grad_b = shapes_like(weights), shapes_like(biases)
    if x.shape[0] == 0:
        return zeroed(grad_w), zeroed(grad_b)
    bank = Bank(launch.network(ints, floats), x, offsets, tuple(weights), tuple(biases))
    with bank.on_device():
        error = SquaredError(target, weight, _factors(bank, mean, cotangent))
        sweeps.backward(bank, error, None, interleaved(grad_w, grad_b))
    return grad_w, grad_b


@_memory.explained("bank_mse, second derivative")
def _bwd_bwd(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    target: Tensor,
    weight: Tensor | None,
    cotangent: Tensor,
    tangent_weights: list[Tensor],
    tangent_biases: list[Tensor],
    ints: list[int],
    floats: list[float],
    mean: bool,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the Hessian of <cotangent [M], losses> times the tangents."""
    grad_w, grad_b = shapes_like(weights), shapes_like(biases)
    if x.shape[0] == 0:
        return zeroed(grad_w), zeroed(grad_b)
    bank = Bank(launch.network(ints, floats), x, offsets, tuple(weights), tuple(biases))
    along = Direction(None, tuple(tangent_weights), tuple(tangent_biases))
    with bank.on_device():
        error = SquaredError(target, weight, _factors(bank, mean, cotangent))
        second(bank, error, along, None, interleaved(grad_w, grad_b), None)
    return grad_w, grad_b


for name, function in (("bank_mse_fwd", _fwd), ("bank_mse_bwd", _bwd), ("bank_mse_bwd_bwd", _bwd_bwd)):
    define(name, function)
autograd.join(NAMESPACE, scaled)
_OPS = joined(NAMESPACE)


def bank_mse(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    target: Tensor,
    weight: Tensor | None,
    spec: FieldSpec,
    mean: bool,
    need_params: bool,
) -> Tensor:
    """Return the losses of `mf.ops.bank_mse` by the Triton kernels, differentiable in weights and biases."""
    x, spec = plain.without_spherical(x, spec)
    bank = (x, offsets, weights, biases, target, weight)
    return _OPS.bank_mse_fwd(*bank, *spec.packed, mean, need_params)[0]
