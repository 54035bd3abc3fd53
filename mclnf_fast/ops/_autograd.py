"""What the shapes and derivatives of compiled ops share, and the short way to call them.

A derivative that is registered with `torch.library` serves whoever calls the op through `torch.ops`, traces above all.
The way there goes from Python through the dispatcher and back, with every list of tensors taken apart and put together
on each side: hundreds of microseconds for forward and backward, more than a small kernel takes. Our own code
therefore calls `COMPILED.NAME(...)`, which runs the same derivative behind an `autograd.Function`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple, NoReturn

import torch
from torch import Tensor

from mclnf_fast.ops import _library
from mclnf_fast.ops._checks import transform_level

_joined: dict[str, types.SimpleNamespace] = {}


class Joined(NamedTuple):
    """An op with its shape function and, if it has them, its derivative and what the forward saves for that."""

    name: str
    fake: Callable[..., Any]
    backward: Callable[..., Any] | None = None
    setup: Callable[..., Any] | None = None


def join_ops(namespace: str, *ops: Joined) -> None:
    """Give ops of a namespace their shapes and derivatives; when they are imported, so that a trace meets finished ops.

    Nothing is done without the compiled library that defines those of `mclnf_fast`.
    """
    if namespace == "mclnf_fast" and not _library.available("cpu"):
        return
    for op in ops:
        torch.library.register_fake(f"{namespace}::{op.name}", op.fake)
        if op.backward is not None and op.setup is not None:
            torch.library.register_autograd(f"{namespace}::{op.name}", op.backward, setup_context=op.setup)
            registered = getattr(getattr(torch.ops, namespace), op.name).default
            setattr(joined(namespace), op.name, _short_way(f"{namespace}_{op.name}", registered, op.backward, op.setup))


def joined(namespace: str) -> Any:
    """Return the ops of a namespace that `join_ops` has given a derivative, as attributes.

    Each takes the op's arguments by position, all of them, and returns what the op does, differentiable as it is. A
    trace or a transform of torch.func meets the op itself.
    """
    return _joined.setdefault(namespace, types.SimpleNamespace())


COMPILED = joined("mclnf_fast")


def _short_way(name: str, op: Any, backward: Callable[..., Any], setup: Callable[..., Any]) -> Callable[..., Any]:
    """Return the op as a call that runs its derivative without the way through the registration."""
    lists = tuple(str(a.type) == "List[Tensor]" for a in op._schema.arguments)

    def function_forward(ctx: Any, lengths: list[int | None], arguments: tuple[Any, ...], *flat: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            output = op(*arguments)
        setup(ctx, arguments, output)
        ctx.inputs = _lengths(arguments, lists)
        ctx.outputs = None
        if isinstance(output, Tensor):
            return output
        several = [isinstance(o, list) for o in output]
        ctx.outputs = _lengths(output, several)
        lengths.extend(ctx.outputs)
        return tuple(_flat(output, several))

    def function_backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Any, ...]:
        needs = ctx.needs_input_grad
        ctx.needs_input_grad = _grouped(needs[2:], ctx.inputs)
        try:
            gradients = backward(ctx, *(cotangents if ctx.outputs is None else _grouped(cotangents, ctx.outputs)))
        finally:
            ctx.needs_input_grad = needs
        return (None, None, *_flat(gradients, lists))

    parts = {"forward": staticmethod(function_forward), "backward": staticmethod(function_backward)}
    # Its name is that of the graph's node, by which it is known as ours.
    function: Any = type(name, (torch.autograd.Function,), parts)
    # What `Function.apply` does besides is for transforms, which take the op itself.
    apply = super(torch.autograd.Function, function).apply

    def call(*arguments: Any) -> Any:
        if torch.compiler.is_compiling() or transform_level():
            return op(*arguments)
        if torch.is_grad_enabled() and torch._C._any_requires_grad(*arguments):
            lengths: list[int | None] = []
            output = apply(lengths, arguments, *_flat(arguments, lists))
            return output if isinstance(output, Tensor) else _grouped(output, lengths)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*arguments)

    return call


def _lengths(values: Iterable[Any], lists: Iterable[bool]) -> list[int | None]:
    return [len(value) if several else None for value, several in zip(values, lists)]


def _flat(values: Iterable[Any], lists: Iterable[bool]) -> list[Any]:
    """Return the values with the lists among them taken apart."""
    flat: list[Any] = []
    for value, several in zip(values, lists):
        if several:
            flat.extend(value)
        else:
            flat.append(value)
    return flat


def _grouped(flat: Sequence[Any], lengths: Iterable[int | None]) -> tuple[Any, ...]:
    """Return flat values as they were, by the lengths of the lists among them; None for one that is no list."""
    groups, k = [], 0
    for n in lengths:
        groups.append(flat[k] if n is None else list(flat[k : k + n]))
        k += 1 if n is None else n
    return tuple(groups)


def no_setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """Save nothing, for an op without a derivative."""


def third(op: str) -> Callable[..., NoReturn]:
    """Return the derivative of a second derivative: a RuntimeError, since the compiled backends end there."""

    def refuse(ctx: Any, *grads: Any) -> NoReturn:
        raise RuntimeError(
            f"mclnf_fast.{op}: third derivatives are not implemented in the compiled backends; use backend='reference'"
        )

    return refuse


def shapes_like(tensors: list[Tensor], needed: bool = True) -> list[Tensor]:
    """Return unset tensors of these shapes, or none of them."""
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors] if needed else []


def direction(cotangents: Any, like: list[Tensor]) -> list[Tensor]:
    """Return the cotangents of a list of outputs as tangents; zeros for a missing one."""
    if not cotangents:
        return [torch.zeros_like(t) for t in like]
    return [torch.zeros_like(t) if c is None else c for c, t in zip(cotangents, like)]
