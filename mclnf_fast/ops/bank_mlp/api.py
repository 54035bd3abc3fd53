"""The bank MLP: `M` networks of one architecture, each point through the network of its module."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops import _checks, _dispatch, _triton
from mclnf_fast.ops.bank_mlp import autograd as _autograd  # noqa: F401 (joins the compiled ops)
from mclnf_fast.ops.bank_mlp import reference
from mclnf_fast.ops.bank_mlp.keep import kept_values
from mclnf_fast.spec import FieldSpec

_dispatch.register("bank_mlp", "cpu", _dispatch.cpu_library)
_dispatch.register("bank_mlp", "triton", _triton.why_not)
_dispatch.register("bank_mlp", "reference", _dispatch.always)

_select = _dispatch.selector("bank_mlp")


def check_bank(
    x: Tensor, offsets: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], spec: FieldSpec
) -> None:
    """Checks what every op over a bank takes; errors as `bank_mlp` states them."""
    check_spec(spec)
    _checks.check_tensor("x", x, (None, spec.in_dim), _checks.FLOATS, what="[N, in_dim]")
    modules = check_layers(weights, biases, spec, x.dtype, x.device)
    _checks.check_tensor("offsets", offsets, (modules + 1,), torch.int64, x.device, "[M + 1]")
    _checks.check_offsets("offsets", offsets, x.shape[0])


def check_spec(spec: FieldSpec) -> None:
    """Checks that it is one, without a grid."""
    if not isinstance(spec, FieldSpec):
        raise TypeError(f"spec must be a FieldSpec, got {type(spec).__name__}")
    if spec.grids:
        kinds = ", ".join(type(part.encoding).__name__ for part in spec.grids)
        raise ValueError(
            f"spec must have no learned grid, got one with {kinds}: evaluate the grids with mf.ops.grid_encode and "
            "give their features with spec.mlp, as mclnf_fast.fields.evaluate_params does"
        )


def check_layers(
    weights: Sequence[Tensor], biases: Sequence[Tensor], spec: FieldSpec, dtype: torch.dtype, device: torch.device
) -> int:
    """Checks the parameters; the number of modules."""
    layers = spec.layer_shapes
    for name, tensors in (("weights", weights), ("biases", biases)):
        if len(tensors) != len(layers):
            raise ValueError(f"{name} must hold {len(layers)} tensors, one a layer, got {len(tensors)}")
    modules = weights[0].shape[0] if isinstance(weights[0], Tensor) and weights[0].dim() else 0
    for l, (rows, columns) in enumerate(layers):
        _checks.check_tensor(f"weights[{l}]", weights[l], (modules, rows, columns), dtype, device, "[M, in, out]")
        _checks.check_tensor(f"biases[{l}]", biases[l], (modules, columns), dtype, device, "[M, out]")
    return modules


def bank_mlp(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    spec: FieldSpec,
    backend: str | None = "auto",
) -> Tensor:
    """Evaluates every point with the network of its module, encoding included.

    Layer `l` of module `m` computes `a(h W_l[m] + b_l[m])`. Twice differentiable in x, weights and biases
    in every backend (`reference`: to any order).

    Args:
        x: coordinates [N, in_dim], grouped by module; N may be 0.
        offsets: int64 [M + 1]; rows offsets[m] ... offsets[m+1]-1 belong to module m. Modules may be empty.
        weights: one tensor a layer, [M, in, out] as `spec.layer_shapes` gives them; any strides.
        biases: one tensor a layer, [M, out].
        spec: the architecture.
        backend: `"auto"`, or a name; see `mclnf_fast.info()`. Inside torch.func transforms the reference
            serves.

    Returns:
        [N, out_dim], dtype of x. float16 is computed in float32 and rounded once, at the end, and so is
        bfloat16 in `cpu` on processors without a fast dot product of bf16 pairs (`mclnf_fast.info()` says which).
        With it, and in `triton`, what each layer reads is rounded to that type and summed up in float32, forward and
        backward.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape or device, or offsets that do not
            start at 0, go down, or do not end at N; the message names the argument, what it must be and what it was.
            Values of offsets are looked at on the CPU alone, since a GPU would have to wait: wrong ones there never
            lead outside the tensors, but rows that no module owns are left unset.
        BackendError: the backend asked for can't serve.
        DeviceMemoryError: the device's memory is too small (`triton`); a `torch.OutOfMemoryError` that says for what.
    """
    weights, biases = _checks.tensors("weights", weights), _checks.tensors("biases", biases)
    _checks.check_tensor("x", x, what="[N, in_dim]")
    autocast = x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type)
    if autocast and x.dtype in (torch.float32, torch.float16, torch.bfloat16):
        dtype = torch.get_autocast_dtype(x.device.type)
        with torch.autocast(x.device.type, enabled=False):
            cast = [t.to(dtype) for t in (*weights, *biases)]
            return bank_mlp(x.to(dtype), offsets, cast[: len(weights)], cast[len(weights) :], spec, backend)
    check_bank(x, offsets, weights, biases, spec)
    if _checks.in_transform():
        chosen = _dispatch.select_in_transform("bank_mlp", backend)
    else:
        chosen = _select(backend, x.device, x.dtype)
    if chosen == "reference":
        return reference.bank_mlp(x, offsets, weights, biases, spec)
    if chosen == "triton":
        from mclnf_fast.ops.bank_mlp.triton import ops as triton_ops  # takes a second, with Triton

        return triton_ops.bank_mlp(x, offsets, weights, biases, spec)
    dtype = x.dtype
    if dtype == torch.float16:
        x, weights, biases = x.float(), [w.float() for w in weights], [b.float() for b in biases]
    ints, floats = spec.packed
    if values := kept_values(x, (*weights, *biases), spec):
        return torch.ops.mclnf_fast.bank_mlp_fwd_keep(x, offsets, weights, biases, ints, floats, values)[0]
    return torch.ops.mclnf_fast.bank_mlp_fwd(x, offsets, weights, biases, ints, floats).to(dtype)
