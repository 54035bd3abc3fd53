"""The public squared error of every module of a bank over its samples."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mclnf_fast.checks import check_tensor
from mclnf_fast.ops import _triton
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import (
    CAST,
    HALVES,
    autocast_enabled,
    check_bank,
    kernel_checks,
    parameters_for,
    widened,
    without_autocast,
)
from mclnf_fast.ops._dispatch import Backend, always, cpu_library, register
from mclnf_fast.ops._losses import REDUCTIONS, FieldPoints, checked_mean
from mclnf_fast.ops.bank_mse import autograd, reference
from mclnf_fast.spec import FieldSpec

autograd.join("mclnf_fast")


def bank_mse(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    target: Tensor,
    spec: FieldSpec,
    sample_weight: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = "auto",
) -> Tensor:
    """Return one loss per module: the weighted squared error of `bank_mlp` against samples of the signals.

        loss_m = sum over its points i of  w_i |f_m(x_i) - target_i|^2        ("mean": divided by n_m out_dim)

    With `sample_weight` from Fisher scores this is the Fisher-information loss of MCL-NF (arXiv 2504.05806). Equal to
    `bank_mlp` and the squared error after it, and in `cpu` and `triton` faster: the gradients are formed in the sweep
    that evaluates the loss, so no activation is computed twice or saved, and the second derivative (MAML) is one
    Hessian product. That holds if weights and biases alone require a gradient (in `cpu` not for bfloat16 weights on a
    processor that multiplies them in pairs); otherwise, and inside torch.func transforms, the two steps are taken one
    after the other. Twice differentiable in everything.

    Args:
        x: coordinates [N, in_dim], grouped by module; N may be 0.
        offsets: int64 [M + 1]; rows offsets[m] ... offsets[m+1]-1 belong to module m. The loss of an empty module is 0.
        weights: one tensor per layer, [M, in, out] as `spec.layer_shapes` gives them; dtype as in `bank_mlp`.
        biases: one tensor per layer, [M, out], dtype of the weights.
        target: [N, out_dim], dtype of x.
        spec: the architecture.
        sample_weight: [N], dtype of x; None: ones. The mean is over points, not over weights.
        reduction: `"mean"` over points and outputs, or `"sum"`.
        backend: `"auto"`, or a name; see `mclnf_fast.info()`.

    Returns:
        [M], dtype of x; float32 for float16 and bfloat16, in which the error is squared and summed. Autocast casts
        weights and biases alone.

    Raises:
        As `bank_mlp`, naming `target`, `sample_weight` and `reduction` besides.

    Example:
        >>> import torch
        >>> import mclnf_fast as mf
        >>> spec = mf.FieldSpec(2, 3, width=16, hidden_layers=1)
        >>> bank, x, offsets = mf.FieldBank(spec, modules=2), torch.rand(5, 2), torch.tensor([0, 2, 5])
        >>> loss = bank_mse(x, offsets, list(bank.weight), list(bank.bias), torch.rand(5, 3), spec)
        >>> loss.sum().backward()  # one backward for all modules: they share no parameter
        >>> loss.shape
        torch.Size([2])
    """
    others = (target,) if sample_weight is None else (target, sample_weight)
    if kernel_checks(x, offsets, weights, biases, spec, *others) and reduction in REDUCTIONS:
        field = FieldPoints(x, offsets, list(weights), list(biases), spec)
        if field.parameters_alone(*others) and _OP.serving(backend, x.device, x.dtype) is _cpu:
            try:
                return _cpu(field, target, sample_weight, reduction == "mean")
            except RuntimeError:
                pass  # the checks below name the argument
    cast = isinstance(x, Tensor) and x.dtype in CAST and autocast_enabled(x)
    weights, biases = check_bank(x, offsets, weights, biases, spec, cast)
    points = x.shape[0]
    check_tensor("target", target, (points, spec.out_dim), x.dtype, x.device, "[N, out_dim]")
    if sample_weight is not None:
        check_tensor("sample_weight", sample_weight, (points,), x.dtype, x.device, "[N]")
    mean = checked_mean(reduction)
    weights, biases = parameters_for(x, weights, biases)
    function = _OP.serving(backend, x.device, weights[-1].dtype)
    with without_autocast(x):
        field = FieldPoints(widened(x), offsets, weights, biases, spec)
        weight = None if sample_weight is None else widened(sample_weight)
        loss: Tensor = function(field, widened(target), weight, mean)
        return loss


def _in_steps(
    points: FieldPoints, target: Tensor, sample_weight: Tensor | None, mean: bool, backend: str = "reference"
) -> Tensor:
    """Return the losses by `bank_mlp` of a backend and the squared error after it."""
    return reference.squared_error(points.outputs(backend), points.offsets, target, sample_weight, mean)


def _cpu(points: FieldPoints, target: Tensor, sample_weight: Tensor | None, mean: bool) -> Tensor:
    points = points.on_cpu
    if points.weights[-1].dtype in HALVES or not points.parameters_alone(target, sample_weight):
        return _in_steps(points, target, sample_weight, mean, "cpu")
    *bank, spec = points
    loss: Tensor
    loss, *_ = COMPILED.bank_mse_fwd(*bank, target, sample_weight, *spec.packed, mean, points.need_gradients)
    return loss


def _triton_sweep(points: FieldPoints, target: Tensor, sample_weight: Tensor | None, mean: bool) -> Tensor:
    if not points.parameters_alone(target, sample_weight):
        return _in_steps(points, target, sample_weight, mean, "triton")
    from mclnf_fast.ops.bank_mse.triton import ops  # takes a second, with Triton

    x, offsets, weights, biases, spec = points
    return ops.bank_mse(x, offsets, weights, biases, target, sample_weight, spec, mean, points.need_gradients)


_OP = register(
    "bank_mse",
    cpu=Backend(cpu_library, _cpu),
    triton=Backend(_triton.why_not, _triton_sweep),
    reference=Backend(always, _in_steps),
)
