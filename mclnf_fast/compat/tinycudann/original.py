"""The real package, where it is installed, behind the same modules."""

from __future__ import annotations

import importlib
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import BackendError


def original_module(kind: str, *arguments: Any, **options: Any) -> Any:
    """Return the module of tiny-cuda-nn's own class `kind`.

    Raises BackendError with the reason and the remedy if the package can't be imported.
    """
    try:
        package = importlib.import_module("tinycudann")
    except (ImportError, OSError) as error:  # it raises an OSError where it finds no GPU
        raise BackendError(
            f"backend 'tinycudann' can't serve: {error}. Install tiny-cuda-nn's PyTorch extension for this GPU, or "
            "take backend='auto', which needs neither."
        ) from error
    return getattr(package, kind)(*arguments, **options)


class _Refused(torch.autograd.Function):
    """A gradient that has no gradient."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise BackendError(
            "backend 'tinycudann' can't serve: it leaves out the derivative of the gradient of params, so that a loss "
            "made of that gradient would be trained wrongly without a word. Take backend='auto'."
        )


class _FirstOrder(torch.autograd.Function):
    """The identity, whose gradient refuses a derivative."""

    @staticmethod
    def forward(ctx: Any, params: Tensor) -> Tensor:
        return params.view_as(params)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        refused: Tensor = _Refused.apply(grad)
        return refused


def evaluate(module: Any, x: Tensor, params: Tensor) -> Tensor:
    """Return what the real module computes of x with `params` in place of its own."""
    guarded = _FirstOrder.apply(params)
    y: Tensor = torch.func.functional_call(module, {"params": guarded}, (x,))
    return y
