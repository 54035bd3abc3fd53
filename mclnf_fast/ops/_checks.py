"""Checks of the arguments that several ops share; errors as `mclnf_fast.checks` words them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor, values_can_be_read
from mclnf_fast.spec import FieldSpec

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
HALVES = (torch.float16, torch.bfloat16)


def in_transform() -> bool:
    """Return whether the call is inside a torch.func transform (grad, vmap, ...), whose tensors are wrappers."""
    return not torch.compiler.is_compiling() and torch._C._functorch.maybe_current_level() is not None


def autocast_enabled(x: Tensor) -> bool:
    """Return whether autocast is on for the device of x."""
    return x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type)


def check_offsets(name: str, offsets: Tensor, total: int, what: str = "points") -> None:
    """Check int64 offsets [M + 1] that start at 0, never go down and end at `total`.

    Raises ValueError or TypeError; the values are read only if that costs no synchronization.
    """
    check_tensor(name, offsets, dtype=torch.int64)
    if offsets.dim() != 1 or offsets.numel() < 1:
        raise ValueError(f"{name} must have shape [M + 1], got {list(offsets.shape)}")
    if not values_can_be_read(offsets) or in_transform():
        return
    # Up to 64 offsets a list is faster than three operators of torch.
    values = offsets.tolist() if offsets.numel() <= 64 else None
    if values is not None:
        first, last = values[0], values[-1]
        down = next((i for i in range(1, len(values)) if values[i] < values[i - 1]), None)
    else:
        first, last = int(offsets[0]), int(offsets[-1])
        falls = offsets[1:] < offsets[:-1]
        down = int(falls.to(torch.uint8).argmax()) + 1 if bool(falls.any()) else None
    if first != 0:
        raise ValueError(f"{name} must start at 0, got {name}[0] = {first}")
    if down is not None:
        raise ValueError(
            f"{name} must not go down, got {name}[{down - 1}] = {int(offsets[down - 1])} "
            f"> {name}[{down}] = {int(offsets[down])}"
        )
    if last != total:
        raise ValueError(f"{name} must end at the number of {what}, {total}, got {name}[-1] = {last}")


def check_spec(spec: FieldSpec) -> None:
    """Check that it is a spec without a grid."""
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
    """Check the parameters of a bank and return the number of its modules."""
    layers = spec.layer_shapes
    for name, tensors in (("weights", weights), ("biases", biases)):
        if len(tensors) != len(layers):
            raise ValueError(f"{name} must hold {len(layers)} tensors, one per layer, got {len(tensors)}")
    modules = weights[0].shape[0] if isinstance(weights[0], Tensor) and weights[0].dim() else 0
    for l, (rows, columns) in enumerate(layers):
        check_tensor(f"weights[{l}]", weights[l], (modules, rows, columns), dtype, device, "[M, in, out]")
        check_tensor(f"biases[{l}]", biases[l], (modules, columns), dtype, device, "[M, out]")
    return modules


def check_bank(
    x: Tensor, offsets: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], spec: FieldSpec
) -> None:
    """Check the arguments that every op over a bank takes; errors as `bank_mlp` states them."""
    check_spec(spec)
    check_tensor("x", x, (None, spec.in_dim), FLOATS, what="[N, in_dim]")
    modules = check_layers(weights, biases, spec, x.dtype, x.device)
    check_tensor("offsets", offsets, (modules + 1,), torch.int64, x.device, "[M + 1]")
    check_offsets("offsets", offsets, x.shape[0])
