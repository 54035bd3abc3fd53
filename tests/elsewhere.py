"""Tensors of a second device that live on the CPU: code that mixes devices fails, without a GPU.

Inside `Elsewhere()` the device `meta` holds values: a tensor that is made there or moved there is a wrapper. An
operator that gets a wrapper and a plain tensor of at least one dimension raises, as it would for CUDA and the CPU, and
so does `.numpy()`. PyTorch's own operators pass, derivatives too, and so the backend `reference`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

aten = torch.ops.aten
DEVICE = torch.device("meta")
# What takes tensors of both devices: copies, and indices on the CPU. The result is where the first one is.
MIXED = {aten.copy_, aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class There(Tensor):
    """A tensor that says that it is elsewhere."""

    inner: Tensor

    @staticmethod
    def __new__(cls, inner: Tensor) -> There:
        layout = {"strides": inner.stride(), "storage_offset": inner.storage_offset(), "dtype": inner.dtype}
        found = Tensor._make_wrapper_subclass(cls, inner.shape, **layout, device=DEVICE)
        found.inner = inner
        return found

    __torch_function__ = torch._C._disabled_torch_function_impl

    def tolist(self) -> Any:
        return self.inner.tolist()

    def new_tensor(self, *args: Any, **kwargs: Any) -> Tensor:
        return There(self.inner.new_tensor(*args, **kwargs))

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"elsewhere {self.inner!r}"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        with Elsewhere():
            return func(*args, **(kwargs or {}))


class _FromValues(TorchFunctionMode):
    """`torch.tensor`, which makes its tensor out of the dispatcher's sight."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is not torch.tensor or torch.device(kwargs.get("device") or "cpu").type != DEVICE.type:
            return func(*args, **kwargs)
        return There(func(*args, **{**kwargs, "device": "cpu"}))


class Elsewhere(TorchDispatchMode):
    """See above."""

    def __enter__(self) -> Elsewhere:
        self.values = _FromValues()
        self.values.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.values.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
        there = [t for t in tensors if isinstance(t, There)]
        here = [t for t in tensors if not isinstance(t, There) and t.dim() > 0]
        made_there = bool(there)
        if kwargs.get("device") is not None:
            made_there = torch.device(kwargs["device"]).type == DEVICE.type
            kwargs["device"] = torch.device("cpu")
        elif func.overloadpacket in MIXED:
            made_there = isinstance(args[0], There)
        elif there and here:
            raise RuntimeError(f"{func} got tensors of two devices, {[tuple(t.shape) for t in here]} on the CPU")
        if func.overloadpacket is aten._local_scalar_dense:
            made_there = False
        plain = tree_map_only(There, lambda t: t.inner, (args, kwargs))
        result = func(*plain[0], **plain[1])
        if not made_there:
            return result
        own = {id(t.inner): t for t in there}
        return tree_map_only(Tensor, lambda t: own[id(t)] if id(t) in own else There(t), result)
