"""Numbers as tensors on a device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops._checks import in_transform


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
    return tensor.pin_memory().to(device, non_blocking=True)


@functools.cache
def saved_constant(
    values: tuple[float, ...] | tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the values as a tensor that lives as long as the process, one for all calls."""
    with torch.inference_mode(False):  # an inference tensor could not be saved for a backward
        return torch.tensor(values, dtype=dtype).to(device)
