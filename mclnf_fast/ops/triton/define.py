"""Ops of the namespace `mclnf_fast_triton`, defined with their entry in the list of schemas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.library import CustomOpDef, custom_op

from mclnf_fast.ops.schemas import schema

NAMESPACE = "mclnf_fast_triton"


def define(name: str, function: Callable[..., Any]) -> CustomOpDef:
    """Return the op `mclnf_fast_triton::name`, computed by `function`, which changes none of its arguments.

    Raises ValueError if `mclnf_fast.ops.schemas.TRITON` has no such op.
    """
    op: CustomOpDef = custom_op(f"{NAMESPACE}::{name}", function, mutates_args=(), schema=schema(name))
    return op
