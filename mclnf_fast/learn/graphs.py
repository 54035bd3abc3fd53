"""Replay a step that does the same work every time as one CUDA graph: one launch in place of hundreds.

A graph repeats the kernels of one step on the memory of that step. So a step is *static* if it reads what changes from
its declared inputs or from tensors that it changes in place, copies nothing from the host, waits for nothing and
decides nothing on the host. `tests/test_launches.py` shows this of every step that is handed to `GraphedStep`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mclnf_fast import ops

log = logging.getLogger("mclnf_fast")

Tensors = tuple[Tensor, ...]

# Calls before a step is recorded. The first one compiles kernels, copies constants and makes the state that later ones
# change in place; the second goes the way that all go from then on.
WARM_UP = 2
MOST_SHAPES = 4  # of inputs; each has a graph, which keeps the memory of its step


class Recorder(Protocol):
    """Records the work of a device."""

    def warm_up(self, work: Callable[[], Tensors]) -> Tensors:
        """Do the work, where a record of it will be made."""

    def record(self, work: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        """Return what does the recorded work again, and its results, which each replay overwrites; the work itself is
        not done. Raises RuntimeError if it cannot be recorded."""


class CudaGraphs:
    """Records CUDA graphs, on a stream of its own as they need."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)

    def warm_up(self, work: Callable[[], Tensors]) -> Tensors:
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            results = work()
        current.wait_stream(self.stream)
        return results

    def record(self, work: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        graph = torch.cuda.CUDAGraph()
        # Other threads may allocate meanwhile.
        captured = torch.cuda.graph(graph, stream=self.stream, capture_error_mode="thread_local")
        # The outer context: the end of a capture that failed raises before it has left its stream.
        with torch.cuda.stream(self.stream), captured:
            results = work()
        return graph.replay, results


def recorder(device: torch.device) -> Recorder | None:
    """Return what records the work of a device; None if nothing does.

    >>> recorder(torch.device("cpu")) is None
    True
    """
    return CudaGraphs(device) if device.type == "cuda" else None


class _Recorded(NamedTuple):
    inputs: Tensors
    replay: Callable[[], None]
    results: Tensors


class GraphedStep:
    """A static step that is replayed as a graph from its third call on, with the same bits; on the CPU it is called.

    If it can't be recorded, the log says why, once, and it is called as before.

    Args:
        step: tensors -> tensors; static, see above. What it changes on the host is changed in the first calls alone.
        name: for the log.
        device: of the step.

    Attributes:
        reason: why nothing is replayed; None: nothing is known that forbids it.

    >>> total = torch.zeros(2)
    >>> step = GraphedStep(lambda x: (total.add_(x).sum(),), "sum", total.device)
    >>> [step(torch.ones(2))[0].item() for _ in range(3)]
    [2.0, 4.0, 6.0]
    """

    def __init__(self, step: Callable[..., Tensors], name: str, device: torch.device) -> None:
        self.step, self.name, self.device = step, name, device
        self._recorder = recorder(device)
        self.reason: str | None = None if self._recorder else f"{device.type} has no graphs"
        # By shapes and types of the inputs.
        self._calls: dict[tuple[object, ...], int] = {}
        self._recorded: dict[tuple[object, ...], _Recorded] = {}

    def __call__(self, *inputs: Tensor) -> Tensors:
        """Return the results of a step. A later call may overwrite them.

        inputs: on the step's device, or on the CPU: they are copied up without a wait.
        """
        key = tuple((t.shape, t.dtype) for t in inputs)
        recorded = self._recorded.get(key)
        if recorded is None:
            return self._first(key, tuple(ops.uploaded(t, self.device) for t in inputs))
        for to, t in zip(recorded.inputs, inputs, strict=True):
            # From pinned memory, straight to where the graph reads.
            pinned = t.pin_memory() if t.device != to.device else t
            to.copy_(pinned, non_blocking=True)
        recorded.replay()
        return recorded.results

    def _first(self, key: tuple[object, ...], inputs: Tensors) -> Tensors:
        """Make a step of inputs of shapes that are not recorded yet, and record it if it is warm."""
        if self.reason is not None or self._recorder is None:
            return self.step(*inputs)
        self._calls[key] = self._calls.get(key, 0) + 1
        if len(self._calls) > MOST_SHAPES:
            return self._give_up(f"its inputs have more than {MOST_SHAPES} shapes", inputs)
        if self._calls[key] <= WARM_UP:
            return self._recorder.warm_up(lambda: self.step(*inputs))
        inputs = tuple(t.clone() for t in inputs)  # nobody else writes to them
        try:
            replay, results = self._recorder.record(lambda: self.step(*inputs))
        except RuntimeError as error:
            return self._give_up(str(error).partition("\n")[0], inputs)
        self._recorded[key] = _Recorded(inputs, replay, results)
        replay()
        return results

    def _give_up(self, reason: str, inputs: Tensors) -> Tensors:
        self.reason = reason
        log.warning("%s: its steps are not replayed as a CUDA graph: %s", self.name, reason)
        return self.step(*inputs)
