"""The public inner loop: it checks its arguments, and a backend makes the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import (
    check_bool,
    check_no_nan,
    check_number,
    check_positive_int,
    check_tensor,
    check_tensors,
    values_can_be_read,
)
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import check_layers, check_spec, refuse_transformed
from mclnf_fast.ops._dispatch import Backend, always, by_dtype, cpu_library, register
from mclnf_fast.ops.bank_adapt import autograd, reference
from mclnf_fast.ops.bank_adapt.call import AdaptCall, Adapted, Batches
from mclnf_fast.ops.bank_fit.checked import check_samples
from mclnf_fast.ops.bank_fit.types import FitData
from mclnf_fast.ops.draw_ids.api import check_integer
from mclnf_fast.ops.draw_ids.reference import MOST
from mclnf_fast.spec import FieldSpec

DTYPES = (torch.float32, torch.float64)
REMEDY = "Modules side by side take the place of vmap, and torch.autograd.grad that of torch.func.grad"

autograd.join("mclnf_fast")


def bank_adapt(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    data: FitData,
    spec: FieldSpec,
    steps: int,
    lr: float | Tensor,
    *,
    batches: Batches | None = None,
    frozen_layers: int = 0,
    clip_value: float | None = None,
    first_order: bool = False,
    backend: str | None = "auto",
) -> Adapted:
    """Return every module after gradient steps on its own samples, differentiable in where it began and in the rates.

        theta^(k+1) = theta^(k) - lr grad L_k(theta^(k)),      L_k: `ops.bank_mse` (mean) over the samples of step k

    It is the inner loop of MAML (arXiv 1703.03400). In `cpu` all steps are one call: a core keeps a module for its
    steps, and no thread waits for another between them. The backward walks the steps from the last to the first,
    v <- v - H_k (lr v), with a Hessian product that computes the activations again; stored are the parameters before
    each step, K times the parameters and nothing that grows with the samples. The bits do not depend on the threads.

    Args:
        weights, biases: one tensor per layer, [M, in, out] and [M, out] as `spec.layer_shapes` gives them; or of one
            module, [1, ...], at which all M begin: its gradient is the sum over them, in their order.
        data: samples of every module, M of them; they are constants.
        spec: the architecture, without a learned grid.
        steps: K, at least 1.
        lr: one rate, or one per module [M], per step and module [K, M], or per step, module and layer [K, M, layers]
            (of weight and bias alike), dtype of `data.x`; a tensor may require a gradient (Meta-SGD, arXiv 1707.09835).
        batches: the samples of each step, see `Batches`; None: all in every step.
        frozen_layers: the first layers, so many of them, stay as they are (OML's slow part); their gradient still
            comes through the others' steps. The last layer is always trained.
        clip_value: gradients are clamped entry by entry to [-clip_value, clip_value]; None: not.
        first_order: leave out the derivative of the gradients: that of the result in the parameters is the identity,
            and the losses have none.
        backend: `"auto"`, or a name; see `mclnf_fast.info()`.

    Returns: see `Adapted`. A module without samples stays as it is, with a loss of 0. Float32 and float64.

    Raises:
        TypeError, ValueError, IndexError: an argument of a wrong type, dtype, shape, device or value; ids are read on
            the CPU only. Samples that require a gradient are refused.
        RuntimeError: a torch.func transform or forward-mode differentiation works on one of the tensors; a derivative
            of the derivative, from `cpu`.
        BackendError: a backend asked for by name can't serve.

    Example:
        >>> import mclnf_fast as mf
        >>> from mclnf_fast.ops.bank_fit.types import FitData
        >>> spec = mf.FieldSpec(1, 1, width=16, hidden_layers=2, activation="tanh")
        >>> bank, x = mf.FieldBank(spec, modules=1), torch.linspace(-1, 1, 64)[:, None]
        >>> target = torch.stack([torch.sin(k * x) for k in (1, 2, 3)])  # three tasks from one initialization
        >>> weights, biases, losses = bank_adapt(list(bank.weight), list(bank.bias), FitData(x, target), spec, 4, 0.1)
        >>> offsets = torch.arange(4) * 64
        >>> outer = mf.ops.bank_mse(x.repeat(3, 1), offsets, weights, biases, target.flatten(0, 1), spec)
        >>> outer.mean().backward()  # through all steps
        >>> bank.weight[0].grad.shape, losses.shape
        (torch.Size([1, 1, 16]), torch.Size([4, 3]))
    """
    call = _checked(weights, biases, data, spec, steps, lr, batches, frozen_layers, clip_value, first_order)
    function = _OP.serving(backend, call.data.x.device, call.data.x.dtype)
    adapted: Adapted = function(call)
    return adapted


def _cpu(call: AdaptCall) -> Adapted:
    traced = torch.is_grad_enabled() and any(t.requires_grad for t in (*call.weights, *call.biases))
    need_starts = (traced and not call.first_order) or (torch.is_grad_enabled() and call.rates.requires_grad)
    x, target, offsets, weight = call.data
    *adapted, _ = COMPILED.bank_adapt_fwd(
        call.weights, call.biases, call.rates, x, offsets, target, weight, call.batches.ids, call.batches.weights,
        call.batch, call.frozen_layers, call.clip_value, call.first_order, *call.spec.packed, need_starts,
    )  # fmt: skip
    return Adapted(*adapted)


def _checked(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    data: FitData,
    spec: FieldSpec,
    steps: int,
    lr: float | Tensor,
    batches: Batches | None,
    frozen_layers: int,
    clip_value: float | None,
    first_order: bool,
) -> AdaptCall:
    weights, biases, batches = check_tensors("weights", weights), check_tensors("biases", biases), batches or Batches()
    check_spec(spec)
    for name, value, kind in (("data", data, FitData), ("batches", batches, Batches)):
        if not isinstance(value, kind):
            raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
    constants = {f"data.{name}": value for name, value in data._asdict().items() if value is not None}
    for name in ("ids", "weights"):
        if (tensor := getattr(batches, name)) is not None:
            constants[f"batches.{name}"] = tensor
    refuse_transformed("bank_adapt", REMEDY, weights=weights, biases=biases, lr=lr, **constants)
    check_tensor("data.x", data.x, (None, spec.in_dim), DTYPES, what="[N, in_dim]")
    modules = check_samples(data, spec)
    given = check_layers(weights, biases, spec, data.x.dtype, data.x.device)
    if given not in (1, modules):
        raise ValueError(f"weights must be of the {modules} modules of data or of one for all, got {given}")
    if check_positive_int(steps, "steps") > MOST["step"]:
        raise ValueError(f"steps must be below 2^32, got {steps}")
    _check_batches(batches, data, modules, steps)
    for name, tensor in constants.items():
        if tensor.requires_grad:
            raise ValueError(
                f"{name} must not require a gradient, of which the inner loop has none: learn.meta.adapt with a loss "
                "function differentiates in the samples too"
            )
    check_integer(frozen_layers, "frozen_layers", len(spec.layer_shapes) - 1)
    clip = math.inf if clip_value is None else check_number("clip_value", clip_value, 0.0)
    if clip == 0:
        raise ValueError(f"clip_value must be above 0 or None, got {clip_value}")
    check_bool("first_order", first_order)
    rates = _rates(lr, (steps, modules, len(spec.layer_shapes)), data.x)
    return AdaptCall(weights, biases, rates, data, spec, batches, frozen_layers, clip, first_order)


def _check_batches(batches: Batches, data: FitData, modules: int, steps: int) -> None:
    size, ids, factors = batches.size, batches.ids, batches.weights
    if ids is None:
        if factors is not None:
            raise ValueError("batches.weights must be None without batches.ids: data.weight is that of the samples")
        # A step's share of the smallest module; on an accelerator the kernels that read them do not check either.
        if size is None or not check_positive_int(size, "batches.size") or not modules:
            return
        least = int(data.sizes.min()) if data.offsets is None or values_can_be_read(data.offsets) else size * steps
        if least < size * steps:
            raise ValueError(f"batches.size must leave each of {steps} steps its samples, got {size} of {least}")
        return
    if size is not None:
        raise ValueError(f"batches.size must be None beside batches.ids, got {size}")
    device = data.x.device
    check_tensor("batches.ids", ids, (steps, modules, None), torch.int64, device, "[K, M, batch]")
    if not ids.shape[2]:
        raise ValueError("batches.ids must name at least one sample per step, got none")
    if factors is not None:
        check_tensor("batches.weights", factors, tuple(ids.shape), data.x.dtype, device, "like batches.ids")
    if values_can_be_read(ids, data.sizes) and ids.numel():
        wrong = (ids < 0) | (ids >= data.sizes[None, :, None])
        if bool(wrong.any()):
            k, m, j = wrong.nonzero()[0].tolist()
            raise IndexError(
                f"batches.ids must be in [0, {int(data.sizes[m])}) for module {m}, got ids[{k}, {m}, {j}] = "
                f"{int(ids[k, m, j])}"
            )


def _rates(lr: float | Tensor, shape: tuple[int, int, int], x: Tensor) -> Tensor:
    """Return the rates [K, M, layers]."""
    if not isinstance(lr, Tensor):
        return x.new_full(shape, check_number("lr", lr, 0.0))
    steps, modules, layers = shape
    check_tensor("lr", lr, None, x.dtype, x.device)
    if tuple(lr.shape) not in ((), (modules,), (steps, modules), shape):
        allowed = f"a number, [{modules}], [{steps}, {modules}] or [{steps}, {modules}, {layers}]"
        raise ValueError(f"lr must be {allowed} (steps, modules, layers), got {list(lr.shape)}")
    check_no_nan("lr", lr.detach())
    return (lr[..., None] if lr.dim() in (1, 2) else lr).expand(shape)


_OP = register(
    "bank_adapt",
    passes_transforms=True,
    cpu=Backend(by_dtype(cpu_library, DTYPES), _cpu),
    reference=Backend(always, reference.bank_adapt),
)
