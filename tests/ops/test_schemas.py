"""The list of schemas and the table of numbers are those of the compiled library, word for word."""

from __future__ import annotations

import importlib

import pytest
import torch

from mclnf_fast import ops, packing
from mclnf_fast.ops import _library, schemas
from mclnf_fast.spec import ACTIVATIONS

compiled = pytest.mark.skipif(ops.why_not_loaded("cpu") is not None, reason=str(ops.why_not_loaded("cpu")))


def defined(namespace: str) -> set[str]:
    """The names of the ops of a namespace."""
    whole = (schema.name for schema in torch._C._jit_get_all_schemas())
    return {name.removeprefix(f"{namespace}::") for name in whole if name.startswith(f"{namespace}::")}


@compiled
def test_the_compiled_ops_are_those_of_the_list() -> None:
    assert defined("mclnf_fast") == set(map(schemas.name_of, schemas.COMPILED))
    assert schemas.difference("mclnf_fast", schemas.COMPILED) is None


def test_the_triton_ops_are_those_of_the_list() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    for op in ("bank_mlp", "bank_mse", "render_rays"):
        importlib.import_module(f"mclnf_fast.ops.{op}.triton.ops")
    assert defined("mclnf_fast_triton") == set(map(schemas.name_of, schemas.TRITON))
    assert schemas.difference("mclnf_fast_triton", schemas.TRITON) is None
    with pytest.raises(ValueError, match="name must be an op of TRITON, got 'skin'"):
        schemas.schema("skin")


@compiled
def test_the_numbers_are_those_of_the_library() -> None:
    assert torch.ops.mclnf_fast.name_table().split(";") == packing.name_table().split(";")


@compiled
def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(schemas, "COMPILED", ("bank_mlp_fwd(Tensor x) -> Tensor", *schemas.COMPILED[1:]))
        assert "its op bank_mlp_fwd differs" in str(_library._stale())
    with monkeypatch.context() as patch:
        patch.setattr(schemas, "COMPILED", (*schemas.COMPILED[:-1], "table_of_names() -> str"))
        assert "its op table_of_names differs" in str(_library._stale())  # an older library that lacks an op
    with monkeypatch.context() as patch:
        patch.setitem(packing.LIMITS, "grid_levels", 65)
        assert "numbers the names of csrc/names.h otherwise" in str(_library._stale())
    assert _library._stale() is None


def test_the_kernels_constants_are_those_of_the_table() -> None:
    pytest.importorskip("triton", reason="triton is not installed")
    from mclnf_fast.ops.triton import functions

    for number, name in enumerate(ACTIVATIONS):
        assert getattr(functions, name.upper()).value == packing.Activation[name.upper()] == number
