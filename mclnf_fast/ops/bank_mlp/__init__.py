"""Batched per-module MLP with a fused encoding."""

from mclnf_fast.ops.bank_mlp.api import bank_mlp

__all__ = ["bank_mlp"]
