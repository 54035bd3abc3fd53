"""A GPU that is not there: tensors that say they are on CUDA, and a record of what a GPU would have been given.

Inside `SimulatedGpu()` a tensor that is made on `cuda` or moved there is a wrapper around one on the CPU. The package
then takes the way that it takes on a GPU: the CUDA library and Triton count as there, values are not read, constants
are copied once. Each operator is recorded as the kernels and copies that it starts, and as a wait if the host would
have to wait for the device. The Triton kernels are recorded in place of run, with the operators around them, so that
their outputs are zeros; nothing that is counted may depend on values, or it would be a wait.

A CUDA graph is captured as a GPU does it: what would wait, or copy from the host, is refused, and a replay is one
launch. What a replay would do is compared with what the step does at that time without a graph (`Recorded`).
"""

from __future__ import annotations

import collections
import contextlib
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_map_only

from benchmarks.launches.tape import Tape, first_difference
from mclnf_fast.learn import graphs
from mclnf_fast.learn.graphs import Tensors

aten = torch.ops.aten
CUDA = torch.device("cuda", 0)
BELOW = torch.device("meta")  # what a wrapper is for the dispatcher, which must not look for CUDA
FREE = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "detach", "alias")
# Kernels of an operator of PyTorch on CUDA, of those that start more than one; a lower bound.
SEVERAL = {
    "constant_pad_nd": 2,
    "pad": 2,
    "nonzero": 2,
    "repeat_interleave": 2,
    "sort": 2,
    "index_put": 3,
    "_index_put_impl_": 3,
    "unique_consecutive": 3,
    "_unique2": 4,
}
# Operators whose result has a shape or a value that the host needs.
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "equal")
# Kernels and copies of the ops of the CUDA library, and waits, as csrc/cuda/*.cu has them.
LIBRARY = {
    "bank_step": (2, 0),  # the clocks, then all values
    # The list of features, copied without a wait; the rates; all steps.
    "bank_fit": (3, 0),
    "bank_ray_fit": (3, 0),
    "bank_guided_fit": (3, 0),
    "composite_fwd": (1, 0),
    "composite_bwd": (1, 0),
    "composite_bwd_bwd": (1, 0),
    "march_rays_fwd": (4, 1),  # count, sum, write; the host reads the sum
}


class OnGpu(Tensor):
    """A tensor that says that it is on CUDA."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> OnGpu:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        wrapper: OnGpu = Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=BELOW)  # type: ignore[attr-defined]
        wrapper.inner = inner
        return wrapper

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True

    def tolist(self) -> Any:
        _record().wait("tolist")
        return self.inner.tolist()

    def new_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        return _record().upload(self.inner.new_tensor(*args, **{**kwargs, "device": "cpu"}), "new_tensor")

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"on a simulated GPU {self.inner!r}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func} on a simulated GPU must run inside SimulatedGpu()")


class SimulatedGpu:
    """See above; `launches` and `waits` count by the name of what was started."""

    def __init__(self) -> None:
        self.launches: collections.Counter[str] = collections.Counter()
        self.waits: collections.Counter[str] = collections.Counter()
        self.tape: Tape | None = None  # of the CUDA graph that is being captured

    def __enter__(self) -> SimulatedGpu:
        _active.append(self)
        self._within = contextlib.ExitStack()
        for context in (_installed(), _Factories(), _Operators(self)):
            self._within.enter_context(context)
        return self

    def __exit__(self, *error: Any) -> None:
        self._within.close()
        _active.pop()

    def start(self, name: str, count: int = 1) -> None:
        """Record kernels or copies."""
        if self.tape is None:
            self.launches[name] += count
        elif name.endswith("(copy)"):
            raise RuntimeError(f"operation not permitted when stream is capturing: {name} from or to the host")

    def wait(self, name: str) -> None:
        """Record a wait of the host for the device."""
        if self.tape is not None:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name} waits for the device")
        self.waits[name] += 1

    def note(self, name: str, args: Any, kwargs: dict[str, Any], results: Any) -> None:
        """Add to the tape, if one runs, what was started with which arguments."""
        if self.tape is not None:
            self.tape.note(name, args, kwargs, results)

    def upload(self, tensor: Tensor, name: str) -> Tensor:
        """Return a tensor of the host on the device: a copy from pageable memory, for which the host waits."""
        self.start(f"{name} (copy)")
        self.wait(f"{name} (copy)")
        return OnGpu(tensor)


class Recorded:
    """The recorder of a simulated GPU (`learn.graphs.Recorder`): a replay does the work, and raises AssertionError if
    that is other work, or on other memory, than was recorded."""

    def warm_up(self, work: Callable[[], Tensors]) -> Tensors:
        return work()

    def record(self, work: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        tape, results = self._taped(work)

        def replay() -> None:
            _record().start("graph")
            again, now = self._taped(work)
            difference = first_difference(tape, again)
            assert difference is None, f"a replay would not be the step: {difference}"
            for to, t in zip(results, now, strict=True):
                _inner(to).copy_(_inner(t))

        return replay, results

    def _taped(self, work: Callable[[], Tensors]) -> tuple[Tape, Tensors]:
        tape = _record().tape = Tape()
        try:
            return tape, work()
        finally:
            _record().tape = None


def _inner(tensor: Tensor) -> Tensor:
    assert isinstance(tensor, OnGpu)
    return tensor.inner


class _Operators(TorchDispatchMode):
    """Records every operator, and runs it on the wrapped tensors."""

    def __init__(self, record: SimulatedGpu) -> None:
        super().__init__()
        self.record = record

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        on_gpu = any(isinstance(t, OnGpu) for t in tensors)
        asked = kwargs.get("device")
        if asked is not None:
            asked = "gpu" if torch.device(asked).type in (BELOW.type, "cuda") else "cpu"
        if not on_gpu and asked != "gpu":
            return func(*args, **kwargs)
        if func.namespace == "mclnf_fast_triton":
            with _Factories(), self:  # the op's own operators and kernels
                return _body(func)(*args, **kwargs)
        return self._run(func, args, kwargs, tensors, asked)

    def _run(self, func: Any, args: Any, kwargs: dict[str, Any], tensors: list[Tensor], asked: str | None) -> Any:
        name = func.overloadpacket.__name__
        if asked is not None:
            kwargs["device"] = torch.device("cpu")
        plain_args, plain_kwargs = tree_map_only(OnGpu, lambda t: t.inner, (args, kwargs))
        result = func(*plain_args, **plain_kwargs)
        if name.startswith(("empty", "new_empty")):  # what Triton's kernels would fill
            result.zero_()
        on_gpu = asked != "cpu" if asked is not None else True
        if name == "copy_":
            on_gpu = isinstance(args[0], OnGpu)
        self._count(func, name, args, kwargs, tensors, result, on_gpu)
        self.record.note(str(func), args, kwargs, result)
        if not on_gpu or name == "_local_scalar_dense":
            return result
        own = {id(t.inner): t for t in tensors if isinstance(t, OnGpu)}
        return tree_map_only(Tensor, lambda t: own.get(id(t)) if id(t) in own else OnGpu(t), result)

    def _count(
        self, func: Any, name: str, args: Any, kwargs: Any, tensors: list[Tensor], result: Any, on_gpu: bool
    ) -> None:
        if func.namespace == "mclnf_fast":
            launches, waits = LIBRARY[name]
            self.record.start(name, launches)
            for _ in range(waits):
                self.record.wait(name)
            return
        if name in ("_to_copy", "copy_") and (not on_gpu or any(_of_host(t) for t in tensors)):
            self.record.start(f"{name} (copy)")
            # `copy_` has it behind both tensors.
            at_once = kwargs.get("non_blocking") or (name == "copy_" and args[2:] == (True,))
            if not (at_once and on_gpu and all(hasattr(t, "simulated_pin") for t in tensors if _of_host(t))):
                self.record.wait(f"{name} (copy)")
            return
        waits = name in WAITS or (name == "repeat_interleave" and kwargs.get("output_size") is None)
        if name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            indices = [i for i in args[1] if i is not None]
            if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
                self.record.start("nonzero", SEVERAL["nonzero"])
                self.record.wait("nonzero of a mask")
            for index in indices:
                if not isinstance(index, OnGpu):
                    self.record.start(f"{name} (copy)")
                    self.record.wait(f"{name} (copy of indices)")
        if waits:
            self.record.wait(name)
        made = [t for t in tree_flatten(result)[0] if isinstance(t, Tensor)]
        free = name in FREE or func.is_view or not any(t.numel() for t in made)
        if name == "_local_scalar_dense":
            self.record.start(f"{name} (copy)")
        elif not free:
            self.record.start(name, SEVERAL.get(name, 1))


_active: list[SimulatedGpu] = []


def _record() -> SimulatedGpu:
    return _active[-1]


def _of_host(tensor: Tensor) -> bool:
    return not isinstance(tensor, OnGpu)


def _body(func: Any) -> Callable[..., Any]:
    """Return the function that an op of ours was defined by."""
    from torch._library.custom_ops import OPDEFS

    body: Callable[..., Any] = OPDEFS[func._schema.name]._init_fn
    return body


class _Factories(TorchFunctionMode):
    """What looks for CUDA before the dispatcher sees it: every device `cuda` becomes the wrappers' own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        def below(value: Any) -> Any:
            if isinstance(value, torch.device) and value.type == "cuda":
                return BELOW
            return BELOW if isinstance(value, str) and value.split(":")[0] == "cuda" else value

        if func is torch.device or getattr(func, "__self__", None) is OnGpu.device:
            return func(*args, **(kwargs or {}))
        if func is Tensor.pin_memory:
            pinned = args[0].clone()
            pinned.simulated_pin = True
            return pinned
        args, kwargs = tree_map(below, (args, dict(kwargs or {})))
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == BELOW:
            if isinstance(args[0], OnGpu):
                return func(*args, **{k: v for k, v in kwargs.items() if k != "device"})
            return _record().upload(func(*args, **{**kwargs, "device": "cpu"}), func.__name__)
        return func(*args, **kwargs)


@contextlib.contextmanager
def _installed() -> Iterator[None]:
    """Let the package find a GPU of compute capability 9.0, its library and Triton's kernels, which are recorded."""
    from triton.runtime.jit import JITFunction

    from mclnf_fast.ops import _constants, _library

    def run(kernel: Any, *args: Any, **kwargs: Any) -> None:
        name = f"{kernel.fn.__name__} (Triton)"
        _record().start(name)
        _record().note(name, args, kwargs, ())

    properties = types.SimpleNamespace(multi_processor_count=132, major=9, minor=0)
    with contextlib.ExitStack() as stack:
        for where, name, value in (
            (JITFunction, "run", run),
            (_constants, "Tensor", OnGpu),
            (_library, "why_not", lambda library: None),
            (torch.cuda, "is_available", lambda: True),
            (torch.cuda, "device_count", lambda: 1),
            (torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
            (torch.cuda, "get_device_properties", lambda device=None: properties),
            (torch.cuda, "device", lambda device: contextlib.nullcontext()),
            (torch.cuda, "current_stream", lambda device=None: types.SimpleNamespace(cuda_stream=0)),
            (torch.cuda, "is_current_stream_capturing", lambda: _record().tape is not None),
            (graphs, "recorder", lambda device: Recorded() if device.type == "cuda" else None),
            (torch.cuda, "synchronize", lambda device=None: _record().wait("synchronize")),
            (torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext()),
        ):
            stack.enter_context(_patched(where, name, value))
        yield


@contextlib.contextmanager
def _patched(where: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(where, name)
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, before)
