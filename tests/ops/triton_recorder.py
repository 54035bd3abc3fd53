"""Records which kernels Triton would compile for the calls that its interpreter runs: the function, its constants, the
types and alignments of its arguments, what Triton tells apart of its numbers, and the options of the compiler.

    MCLNF_TRITON_KERNELS=FILE python -m pytest tests/ops/test_triton_*.py

writes them as JSON: for each function how many there are, and of each of its parameters the values that it was
compiled for.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import json
import pathlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

from triton.backends.compiler import GPUTarget
from triton.compiler import make_backend
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction, create_function_from_signature

Kernels = dict[str, set[tuple[tuple[str, str], ...]]]
"""By function: for each kernel, (parameter or option, what the kernel was compiled for)."""


@functools.cache
def _binder(function: Any, options: tuple[tuple[str, Any], ...]) -> Any:
    """Return Triton's own binding of a function's arguments."""
    compiled = JITFunction(function, **dict(options))
    backend = make_backend(GPUTarget("cuda", 90, 32))
    return create_function_from_signature(compiled.signature, compiled.params, backend)


@contextlib.contextmanager
def recorded(run: bool = True) -> Iterator[Kernels]:
    """Give the kernels of the launches within the context, as they come; unless `run`, nothing is computed."""
    kernels: Kernels = collections.defaultdict(set)
    interpret = InterpretedFunction.run

    def recording(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        options = {name: tuple(value) for name, value in self.kwargs.items() if isinstance(value, list)}
        bound, kinds, rest = _binder(self.fn, tuple(options.items()))(*args, **kwargs)
        key = [(name, str(kind)) for name, kind in zip(bound, kinds)]
        kernels[self.fn.__name__].add((*key, *((name, str(value)) for name, value in sorted(rest.items()))))
        return interpret(self, *args, grid=grid, warmup=warmup, **kwargs) if run else None

    with mock.patch.object(InterpretedFunction, "run", recording):
        yield kernels


def count(kernels: Kernels) -> int:
    """Return the number of kernels of all functions."""
    return sum(map(len, kernels.values()))


def write(path: pathlib.Path, kernels: Kernels) -> None:
    """Write the number of kernels, and by function the values of every parameter that has several, as JSON."""
    report: dict[str, Any] = {"kernels": count(kernels), "functions": {}}
    for function, keys in sorted(kernels.items(), key=lambda item: -len(item[1])):
        values: dict[str, set[str]] = collections.defaultdict(set)
        for key in keys:
            for name, value in key:
                values[name].add(value)
        several = {name: sorted(found) for name, found in values.items() if len(found) > 1}
        report["functions"][function] = {"kernels": len(keys), "values": several}
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
