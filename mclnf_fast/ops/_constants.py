"""Numbers as tensors on a device."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops._checks import in_transform


def constant(values: Sequence[float] | tuple[tuple[float, ...], ...], like: Tensor) -> Tensor:
    """The values as a tensor [len(values)], or of two axes, with the dtype and device of `like`; not to be changed.

    To a GPU they are copied once and kept for good: a copy in every call would wait for the device, and a CUDA graph,
    which can't hold one, reads them for as long as it lives.
    """
    plain = like.device.type == "cuda" and type(like) in (Tensor, torch.nn.Parameter)
    if not plain or torch.compiler.is_compiling() or in_transform():
        return torch.tensor(values, dtype=like.dtype, device=like.device)
    return saved_constant(tuple(values), like.dtype, like.device)


@functools.cache
def saved_constant(
    values: tuple[float, ...] | tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Return the values as a tensor that lives as long as the process, one for all calls."""
    with torch.inference_mode(False):  # such a tensor could be saved for no backward
        return torch.tensor(values, dtype=dtype).to(device)
