"""CUDA graphs without CUDA: the operators of a step on the CPU, which a replay calls again on the same memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten


class _Operators(TorchDispatchMode):
    """Keeps every operator with its arguments as they are: numbers, too, are those of the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, _tensors(result)))
        return result


def _tensors(values: Any) -> list[Tensor]:
    return [t for t in tree_flatten(values)[0] if isinstance(t, Tensor)]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class EmulatedGraphs:
    """A `learn.graphs.Recorder` for the CPU. `records`, `replays`: how many there were."""

    def __init__(self) -> None:
        self.records = self.replays = 0

    def warm_up(self, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        return work()

    def record(self, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        with _Operators() as operators:
            results = work()
        first = [True]

        def replay() -> None:
            self.replays += 1
            if first:  # the work of the first replay is done: it was recorded by doing it
                first.clear()
                return
            with torch.no_grad():
                for func, args, kwargs, made in operators.calls:
                    inputs = {_memory(t) for t in _tensors((args, kwargs))}
                    if not func._schema.is_mutable and all(_memory(t) in inputs for t in made) and made:
                        continue  # a view
                    for to, t in zip(made, _tensors(func(*args, **kwargs)), strict=True):
                        if _memory(to) not in inputs:
                            to.copy_(t)

        self.records += 1
        return replay, results


class Unrecorded(EmulatedGraphs):
    """Makes the step itself at every replay: what graphs must be equal to, on a GPU as well."""

    def record(self, work: Callable[[], tuple[Tensor, ...]]) -> tuple[Callable[[], None], tuple[Tensor, ...]]:
        results, first = work(), [True]

        def replay() -> None:
            if first:
                first.clear()
                return
            for to, t in zip(results, work(), strict=True):
                to.copy_(t)

        return replay, results
