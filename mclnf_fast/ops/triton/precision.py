"""How float32 is multiplied on a GPU: read from torch's setting, and set for a while. It needs no Triton."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


def precision(dtype: torch.dtype) -> str:
    """Return how the Triton kernels multiply the float32 operands of a bank whose weights behind the first layer have
    this type: `tf32` beside a half type, or if torch's own products on CUDA are set to it, else `ieee`.

    Beside a half type these are the first layer's weights and the gradients of its pre-activations. Rounded to tf32
    they keep the 11 bits of float16; exact ones would take a third product beside the two by which features stay
    unrounded.

    Every interface of torch's ends in the property that is read here, with its inheritance (of the product, of CUDA,
    of everything). The legacy flag `allow_tf32` raises as soon as the present interface has been used.
    """
    wide = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision != "tf32"
    return "ieee" if wide else "tf32"


@contextlib.contextmanager
def multiplying(tf32: bool) -> Iterator[None]:
    """Make torch and the Triton kernels multiply float32 as tf32, or exactly, within the context.

    Afterwards the setting is what it was. Torch does not tell a value that is set from an inherited one: where the two
    are equal, it is left inherited. The legacy flags are not touched.
    """
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if tf32 else "ieee"
    try:
        yield
    finally:
        inherited = torch.backends.cudnn.fp32_precision  # of all of CUDA's operations, whatever its name
        torch.backends.cuda.matmul.fp32_precision = "none" if before == inherited else before
