"""Whether two steps are one: every operator and kernel with its numbers, and where each tensor comes from."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_flatten


class Tape:
    """What a step has started: two steps with equal tapes do the same work on the same memory.

    A replay of the first is then the second. Numbers are noted as they are; of a tensor shape, strides and type, and
    its memory: that of the n-th result on the tape, or an address from before.
    """

    def __init__(self) -> None:
        self.lines: list[str] = []
        self._made: dict[int, int] = {}  # address of memory -> number of the result
        self._held: list[Any] = []  # memory that is freed would be given to another tensor

    def note(self, name: str, args: Any, kwargs: dict[str, Any], results: Any) -> None:
        """Add a line."""
        values, tree = tree_flatten((args, kwargs))
        inputs = {_address(v) for v in values if isinstance(v, Tensor)}
        self.lines.append(f"{name} {tree} " + ", ".join(self._text(v) for v in values))
        for result in tree_flatten(results)[0]:
            if isinstance(result, Tensor):
                address = _address(result)
                if address not in inputs and address not in self._made:
                    self._made[address] = len(self._made)
        self._held.append((values, results))

    def _text(self, value: Any) -> str:
        if not isinstance(value, Tensor):
            return "function" if callable(value) and not isinstance(value, type) else repr(value)
        if value.dim() == 0 and type(value) is Tensor and value.device.type == "cpu":
            return f"number {value.item()}"  # which a kernel is given by its value
        address = _address(value)
        where = f"result {self._made[address]}" if address in self._made else f"memory {address}"
        return f"{where} {tuple(value.shape)} {value.stride()} {value.storage_offset()} {value.dtype}"


def _address(tensor: Tensor) -> int:
    inner: Tensor = tensor.__dict__.get("inner", tensor)  # of a tensor on the simulated GPU
    return 0 if inner.device.type == "meta" else inner.untyped_storage().data_ptr()


def first_difference(a: Tape, b: Tape) -> str | None:
    """Return the first line in which two tapes differ, and its number; None if they are equal."""
    for number, (x, y) in enumerate(zip(a.lines, b.lines)):
        if x != y:
            return f"line {number}:\n  {x}\n  {y}"
    longer = max(a.lines, b.lines, key=len)
    return None if len(a.lines) == len(b.lines) else f"one goes on: {longer[min(len(a.lines), len(b.lines))]}"
