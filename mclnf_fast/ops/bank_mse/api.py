"""The squared error of every module of a bank over its samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops import _checks, _dispatch, _triton
from mclnf_fast.ops.bank_mlp import bank_mlp
from mclnf_fast.ops.bank_mlp.api import check_bank
from mclnf_fast.ops.bank_mse import autograd as _autograd  # noqa: F401 (joins the compiled ops)
from mclnf_fast.ops.bank_mse import reference
from mclnf_fast.spec import FieldSpec

REDUCTIONS = ("mean", "sum")

_dispatch.register("bank_mse", "cpu", _dispatch.cpu_library)
_dispatch.register("bank_mse", "triton", _triton.why_not)
_dispatch.register("bank_mse", "reference", _dispatch.always)

_select = _dispatch.selector("bank_mse")


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
    """One loss a module: the weighted squared error of `bank_mlp` against samples of the signals.

        loss_m = sum over its points i of  w_i |f_m(x_i) - target_i|^2        ("mean": divided by n_m out_dim)

    With `sample_weight` from Fisher scores this is the Fisher-information loss of MCL-NF (arXiv 2504.05806). Equal to
    `bank_mlp` and the squared error after it, and in `cpu` and `triton` faster: the gradients are formed in the sweep
    that evaluates the loss, so no activation is computed twice or kept, and the second derivative (MAML) is one
    Hessian product.
    That holds where weights and biases alone require a gradient (in `cpu` for float32 and float64); otherwise, and
    inside torch.func transforms, the two steps are taken one after the other. Twice differentiable in everything.

    Args:
        x: coordinates [N, in_dim], grouped by module; N may be 0.
        offsets: int64 [M + 1]; rows offsets[m] ... offsets[m+1]-1 belong to module m. The loss of an empty module is 0.
        weights: one tensor a layer, [M, in, out] as `spec.layer_shapes` gives them.
        biases: one tensor a layer, [M, out].
        target: [N, out_dim], dtype of x.
        spec: the architecture.
        sample_weight: [N], dtype of x; None: ones. The mean is over points, not over weights.
        reduction: `"mean"` over points and outputs, or `"sum"`.
        backend: `"auto"`, or a name; see `mclnf_fast.info()`.

    Returns: [M], dtype of x; float32 for float16 and bfloat16, in which the error is squared and summed.
    Raises: as `bank_mlp`, naming `target`, `sample_weight` and `reduction` besides.
    """
    weights, biases = _checks.tensors("weights", weights), _checks.tensors("biases", biases)
    check_bank(x, offsets, weights, biases, spec)
    points = x.shape[0]
    _checks.check_tensor("target", target, (points, spec.out_dim), x.dtype, x.device, "[N, out_dim]")
    if sample_weight is not None:
        _checks.check_tensor("sample_weight", sample_weight, (points,), x.dtype, x.device, "[N]")
    if reduction not in REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, got {reduction!r}")
    mean, others = reduction == "mean", (x, target, sample_weight)
    if _checks.in_transform():
        chosen = _dispatch.select_in_transform("bank_mse", backend)
    else:
        chosen = _select(backend, x.device, x.dtype)
    autocast = x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type)
    fused = chosen == "triton" or (chosen == "cpu" and x.dtype in (torch.float32, torch.float64))
    if autocast or not fused or any(t is not None and t.requires_grad for t in others):
        y = bank_mlp(x, offsets, weights, biases, spec, chosen)
        if y.dtype in (torch.float16, torch.bfloat16):
            y = y.float()
        own = None if sample_weight is None else sample_weight.to(y.dtype)
        return reference.squared_error(y, offsets, target.to(y.dtype), own, mean)
    need = torch.is_grad_enabled() and any(t.requires_grad for t in (*weights, *biases))
    if chosen == "triton":
        from mclnf_fast.ops.bank_mse.triton import ops as triton_ops  # takes a second, with Triton

        return triton_ops.bank_mse(x, offsets, weights, biases, target, sample_weight, spec, mean, need)
    ints, floats = spec.packed
    bank = (x, offsets, weights, biases, target, sample_weight)
    return torch.ops.mclnf_fast.bank_mse_fwd(*bank, ints, floats, mean, need)[0]
