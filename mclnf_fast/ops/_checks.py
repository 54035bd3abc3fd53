"""Checks of the arguments that several ops share; errors as `mclnf_fast.checks` words them."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.autograd import forward_ad

from mclnf_fast.checks import check_tensor, check_tensors, values_can_be_read
from mclnf_fast.spec import FieldSpec

FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
HALVES = (torch.float16, torch.bfloat16)
CAST = (torch.float32, *HALVES)  # what autocast casts; and the weights that float32 coordinates may have


def in_transform() -> bool:
    """Return whether the call is inside a torch.func transform (grad, vmap, jvp, ...), whose tensors are wrappers, or
    inside `torch.autograd.forward_ad.dual_level`, whose tensors carry tangents.

    Compiled ops would drop the tangents, and only PyTorch's own operators pass the wrappers.
    """
    return not torch.compiler.is_compiling() and transform_level()


def transform_level() -> bool:
    """Return whether a transform or a dual level is entered, also while torch.compile traces one.

    It must not be traced itself: a trace reads no state of functorch.
    """
    return torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0


def is_transformed(tensor: Tensor) -> bool:
    """Return whether a torch.func transform maps over this tensor or differentiates in it, or it has a tangent.

    A wrapper alone is no sign: inside a transform the results of operators on constants are wrapped as well.
    """
    functorch = torch._C._functorch
    if forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None:
        return True
    if not functorch.is_functorch_wrapped_tensor(tensor):
        return False
    if functorch.is_batchedtensor(tensor) or (functorch.is_gradtrackingtensor(tensor) and tensor.requires_grad):
        return True
    return is_transformed(functorch.get_unwrapped(tensor))


def refuse_transformed(op: str, remedy: str, **arguments: object) -> None:
    """Raise RuntimeError if a transform works on one of these arguments of an op that none passes.

    Constants of a function that is transformed pass: they have no derivative in it.
    """
    if not in_transform():
        return
    for name, value in arguments.items():
        listed = value if isinstance(value, (list, tuple)) else [value]
        if any(is_transformed(t) for t in listed if isinstance(t, Tensor)):
            raise RuntimeError(
                f"{op}: {name} must be a constant inside torch.func transforms (grad, vmap, jvp, ...) and "
                f"torch.autograd.forward_ad, got one that is transformed. {remedy}"
            )


def refuse_mapped(name: str, tensor: Tensor) -> None:
    """Raise ValueError if torch.func.vmap maps over a tensor whose values an op needs to know."""
    if in_transform() and torch._C._functorch.is_batchedtensor(tensor):
        raise ValueError(f"{name} must be the same for every mapped call, got one that torch.func.vmap maps over")


def autocast_enabled(x: Tensor) -> bool:
    """Return whether autocast is on for the device of x."""
    return x.device.type in ("cpu", "cuda") and torch.is_autocast_enabled(x.device.type)


def parameters_for(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return weights and biases as the backends take them (`first_layer_widened`), cast by autocast where it is on; not
    beside float64."""
    if x.dtype in CAST and autocast_enabled(x):
        dtype = torch.get_autocast_dtype(x.device.type)
        weights = [weights[0], *(w.to(dtype) for w in weights[1:])]
    return first_layer_widened(weights, biases)


def first_layer_widened(weights: list[Tensor], biases: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters with the first layer's weights and the biases in float32, if they are of a half type: no
    backend multiplies or adds them in one.

    >>> weights, biases = first_layer_widened([torch.zeros(1, 2, 2).half()] * 2, [torch.zeros(1, 2).half()] * 2)
    >>> [t.dtype for t in (*weights, *biases)]
    [torch.float32, torch.float16, torch.float32, torch.float32]
    """
    return [widened(weights[0]), *weights[1:]], [widened(b) for b in biases]


def without_autocast(x: Tensor) -> contextlib.AbstractContextManager[object]:
    """Return a context in which autocast is off: an op has cast what may be, and must not cast coordinates."""
    return torch.autocast(x.device.type, enabled=False) if autocast_enabled(x) else contextlib.nullcontext()


def widened(tensor: Tensor) -> Tensor:
    """Return a tensor of a half type as float32, any other as it is.

    Points, targets and whatever else is no parameter are never worked on in half types.

    >>> widened(torch.zeros(2, dtype=torch.bfloat16)).dtype
    torch.float32
    """
    return tensor.float() if tensor.dtype in HALVES else tensor


def check_offsets(
    name: str, offsets: Tensor, groups: int | None, total: int, device: torch.device, what: str = "points"
) -> None:
    """Check int64 offsets [groups + 1] (None: any number) that start at 0, never go down and end at `total`.

    Raises ValueError or TypeError; the values are read only if that costs no synchronization.
    """
    if groups is None:
        check_tensor(name, offsets, (None,), torch.int64, device, "[R + 1]")
    else:
        check_tensor(name, offsets, (groups + 1,), torch.int64, device, "[M + 1]")
    if not offsets.numel():
        raise ValueError(f"{name} must have at least one entry, got none")
    refuse_mapped(name, offsets)
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
            "give their features with spec.mlp, as mclnf_fast.fields.evaluate_params does (FieldBank.mse too). Fisher "
            "scores then are those of the network behind the grids, without their tables"
        )


def check_layers(
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    spec: FieldSpec,
    dtype: torch.dtype | Sequence[torch.dtype],
    device: torch.device,
    mixed: bool = False,
) -> int:
    """Check the parameters of a bank and return the number of its modules.

    dtype: one, or those allowed; all weights and biases have the same unless `mixed`. Beside weights of a half type the
    first layer's weights and the biases may be float32.
    """
    layers = spec.layer_shapes
    for name, tensors in (("weights", weights), ("biases", biases)):
        if len(tensors) != len(layers):
            raise ValueError(f"{name} must hold {len(layers)} tensors, one per layer, got {len(tensors)}")
    modules = weights[0].shape[0] if isinstance(weights[0], Tensor) and weights[0].dim() else 0
    first = dtype
    last = weights[-1].dtype if isinstance(weights[-1], Tensor) else None
    if last in HALVES and (last == dtype or isinstance(dtype, Sequence)) and not mixed:
        dtype, first = last, (last, torch.float32)
    for l, (rows, columns) in enumerate(layers):
        kind = first if l == 0 else dtype
        check_tensor(f"weights[{l}]", weights[l], (modules, rows, columns), kind, device, "[M, in, out]")
        if l == 0 and first is dtype and not mixed:
            dtype = first = weights[0].dtype
        check_tensor(f"biases[{l}]", biases[l], (modules, columns), first, device, "[M, out]")
    return modules


_PLAIN = frozenset((Tensor, torch.nn.Parameter))
_IS_CPU = operator.attrgetter("is_cpu")


def kernel_checks(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    spec: FieldSpec,
    *others: Tensor,
) -> bool:
    """Return whether the CPU kernel may be called at once: it checks shapes, dtypes, memory and offsets as
    `check_bank` does, which then has to name the argument only if the kernel refuses.

    That holds for plain CPU tensors of one wide dtype, outside traces, transforms, dispatch modes and autocast. The
    checks in Python take longer than the network for a few dozen points.
    """
    if torch.compiler.is_compiling() or type(spec) is not FieldSpec or spec.grids:
        return False
    if type(weights) not in (list, tuple) or type(biases) not in (list, tuple) or not weights:
        return False
    tensors = (x, offsets, *weights, *biases, *others)
    if not all(map(_PLAIN.__contains__, map(type, tensors))):
        return False
    return (
        all(map(_IS_CPU, tensors))
        and weights[0].dtype is x.dtype
        and weights[-1].dtype is x.dtype  # behind a first layer of float32 the others may be of a half type
        and x.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not transform_level()
        and not torch._C._len_torch_dispatch_stack()
    )


def check_field(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], spec: FieldSpec, cast: bool = False
) -> tuple[list[Tensor], list[Tensor]]:
    """Check points and parameters of a bank, and return weights and biases as lists.

    cast: whether autocast casts them afterwards, so that they need not have one dtype. Errors as `bank_mlp` states.
    """
    weights, biases = check_tensors("weights", weights), check_tensors("biases", biases)
    check_spec(spec)
    check_tensor("x", x, (None, spec.in_dim), FLOATS, what="[N, in_dim]")
    check_layers(weights, biases, spec, CAST if cast or x.dtype == torch.float32 else x.dtype, x.device, cast)
    return weights, biases


def check_bank(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    spec: FieldSpec,
    cast: bool = False,
) -> tuple[list[Tensor], list[Tensor]]:
    """Check the arguments that every op over a bank takes; as `check_field`, and the offsets."""
    weights, biases = check_field(x, weights, biases, spec, cast)
    check_offsets("offsets", offsets, weights[0].shape[0], x.shape[0], x.device)
    return weights, biases
