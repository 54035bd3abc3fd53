"""Numbers as tensors on a device."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Sequence

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from mclnf_fast.ops._checks import in_transform, transform_level


def constant(values: Sequence[float] | tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """Return the values as a tensor [len(values)], or of two axes, with the dtype and device of `like`.

    It must not be changed: to a GPU the values are copied once per process. A copy in every call would wait for the
    device, and a CUDA graph, which can't hold one, reads them for as long as it lives.

    >>> constant((1.0, 2.0), torch.zeros(3))
    tensor([1., 2.])
    """
    plain = like.device.type == "cuda" and type(like) in (Tensor, torch.nn.Parameter)
    if not plain or torch.compiler.is_compiling() or in_transform():
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return saved_constant(tuple(values), like.dtype, like.device)


def uploaded(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on a device; on its way from the CPU to a GPU without a wait of the host.

    From pageable memory the host would wait until the device has come to the copy. So the values are copied to pinned
    memory first, which the allocator of pinned memory holds until the device is through with it.

    >>> uploaded(torch.tensor([1, 2]), "cpu")
    tensor([1, 2])
    """
    if torch.device(device).type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    if torch.cuda.is_current_stream_capturing():
        # It would read this buffer at every replay, when others have it.
        raise RuntimeError(f"a CUDA graph holds no copy from the host, got one of {list(tensor.shape)}")
    return tensor.pin_memory().to(device, non_blocking=True)


_of_graphs: list[Tensor] = []


def held(tensor: Tensor) -> Tensor:
    """Return a tensor of a cache that forgets. What a CUDA graph reads of it, which is captured now, lives as long as
    the process: nobody knows when the graph ends, and it would go on to read memory that others have.

    >>> held(torch.ones(1))
    tensor([1.])
    """
    if tensor.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _of_graphs.append(tensor)
    return tensor


@functools.cache
def saved_constant(
    values: tuple[float, ...] | tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the values as a tensor that lives as long as the process, one for all calls."""
    with torch.inference_mode(False):  # an inference tensor could not be saved for a backward
        return torch.tensor(values, dtype=dtype).to(device)


def offsets_of_equal_shares(modules: int, share: int, device: torch.device) -> Tensor:
    """Return the offsets of modules with one share each, int64 [M + 1].

    It must not be changed: it is one tensor for all calls, and what follows from it is computed once.

    >>> offsets_of_equal_shares(2, 5, torch.device("cpu")).tolist()
    [0, 5, 10]
    """
    traced = torch.compiler.is_compiling() or transform_level() or _fake()
    # While a graph is captured, memory is the graph's.
    on_gpu = device.type == "cuda" and not torch.cuda.is_current_stream_capturing()
    if traced or not (on_gpu or device.type == "cpu"):
        return torch.arange(modules + 1, device=device) * share
    # By stream: another one would have to wait for what this one computes.
    key = (modules, share, device, torch.cuda.current_stream(device).cuda_stream if on_gpu else 0)
    offsets = shared_offsets(*key)
    if offsets._version:  # somebody has changed it after all
        shared_offsets.cache_clear()
        offsets = shared_offsets(*key)
    return offsets


def _fake() -> bool:
    """Return whether tensors that are made now have no values."""
    return torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE) is not None


@functools.lru_cache(maxsize=64)
def shared_offsets(modules: int, share: int, device: torch.device, stream: int = 0) -> Tensor:
    """Return the offsets of equal shares as a tensor that later calls on the stream get too."""
    with torch.inference_mode(False):  # an inference tensor could not be saved for a backward
        offsets = torch.arange(modules + 1, device=device) * share
    _following[offsets] = {}
    return offsets


# Of offsets that nobody changes alone: whether others have changed is not known, when a CUDA graph writes to them.
_following: WeakIdKeyDictionary = WeakIdKeyDictionary()


def following(offsets: Tensor, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
    """Return what `make` computes from the offsets, computed once for shared ones."""
    known: dict[Hashable, Tensor] | None = _following.get(offsets)
    if known is None or offsets._version:
        return make()
    if key not in known:
        made = make()
        # A graph that is captured owns its memory: what it computes is for its own launches.
        if offsets.device.type == "cuda" and torch.cuda.is_current_stream_capturing():
            return made
        known[key] = made
    return known[key]
