"""Which backend serves, and what bad arguments of the bank's ops get."""

from __future__ import annotations

import logging

import places
import pytest
import torch

import mclnf_fast as mf
from mclnf_fast.errors import BackendError
from mclnf_fast.ops import _dispatch
from mclnf_fast.ops._dispatch import Backend

CPU = torch.device("cpu")


def no(device: torch.device, dtype: torch.dtype) -> str | None:
    return "it is broken today"


def served() -> str:
    return "reference"


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> str:
    """An op whose fast backend cannot serve."""
    monkeypatch.setitem(_dispatch._registry, "toy", {})  # taken out again after the test
    monkeypatch.setattr(_dispatch, "_logged", set())
    monkeypatch.delenv(_dispatch.VARIABLE, raising=False)
    _dispatch.register("toy", triton=Backend(no, "nowhere:at_all"), reference=Backend(_dispatch.always, served))
    return "toy"


def test_auto_passes_over_a_backend_and_reports_why_once(toy: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="mclnf_fast"):
        for _ in range(3):
            assert _dispatch.select(toy, "auto", CPU, torch.float32) == "reference"
    assert [r.getMessage() for r in caplog.records] == ["toy: triton passed over on cpu: it is broken today"]


def test_a_name_that_cannot_serve_raises_with_reason_and_remedy(toy: str) -> None:
    text = r"toy: backend 'triton' .*float32 on cpu: it is broken today. Remedy: .*one of: reference"
    with pytest.raises(BackendError, match=text):
        _dispatch.select(toy, "triton", CPU, torch.float32)
    with pytest.raises(BackendError, match=r"toy has no cuda backend \(it has triton, reference\)"):
        _dispatch.select(toy, "cuda", CPU, torch.float32)


@pytest.mark.parametrize("asked", ["auto", None])
def test_the_variable_sets_the_default(toy: str, asked: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_dispatch.VARIABLE, "triton")
    with pytest.raises(BackendError, match=r"from the environment variable MCLNF_FAST_BACKEND"):
        _dispatch.select(toy, asked, CPU, torch.float32)
    assert _dispatch.select(toy, "reference", CPU, torch.float32) == "reference"
    monkeypatch.setenv(_dispatch.VARIABLE, "fastest")
    with pytest.raises(ValueError, match=r"MCLNF_FAST_BACKEND must be one of auto, .*got 'fastest'"):
        _dispatch.select(toy, asked, CPU, torch.float32)


def test_a_kept_answer_does_not_outlive_the_variable(toy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choose = _dispatch.Op(toy, False).serving
    for _ in range(2):
        assert choose("auto", CPU, torch.float32)() == "reference"
        monkeypatch.setenv(_dispatch.VARIABLE, "triton")
        for _ in range(2):
            with pytest.raises(BackendError, match="broken today"):
                choose("auto", CPU, torch.float32)
        monkeypatch.delenv(_dispatch.VARIABLE)


def test_unknown_names(toy: str) -> None:
    with pytest.raises(ValueError, match=r"backend must be one of .*got 'gpu'"):
        _dispatch.select(toy, "gpu", CPU, torch.float32)
    with pytest.raises(ValueError, match=r"backend must be one of .*got 'auto'"):
        _dispatch.register(toy, auto=Backend(no, served))


def arguments() -> dict[str, object]:
    spec = mf.FieldSpec(3, 4, 8, 1)
    bank = mf.FieldBank(spec, 2)
    weights, biases = [w.detach() for w in bank.weight], [b.detach() for b in bank.bias]
    return {
        "x": torch.rand(5, 3), "offsets": torch.tensor([0, 2, 5]), "weights": weights, "biases": biases,
        "spec": spec,
    }  # fmt: skip


W, B = [torch.ones(2, 3, 8), torch.ones(2, 8, 4)], [torch.ones(2, 8), torch.ones(2, 4)]
O = torch.tensor([0, 2, 5])


@places.backends("bank_mlp", auto=True)
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"x": [1.0]}, TypeError, r"x must be a tensor \[N, in_dim\], got list"),
        ({"x": torch.rand(5, 2)}, ValueError, r"x must have shape \[N, in_dim\] = \[\*, 3\], got \[5, 2\]"),
        ({"x": torch.rand(2, 5, 3)}, ValueError, r"x must have shape .*got \[2, 5, 3\]"),
        ({"x": torch.ones(5, 3).long()}, TypeError, r"x must have dtype torch.float32 or .*got torch.int64"),
        ({"x": torch.ones(5, 3).double()}, TypeError, r"weights\[0\] must have dtype .*64, got .*32"),
        ({"x": torch.ones(5, 3, device="meta")}, ValueError, r"weights\[0\] must be on meta .*got cpu"),
        ({"weights": None}, TypeError, r"weights must be a sequence of tensors, .*got NoneType"),
        ({"weights": W[0]}, TypeError, r"weights must be a sequence of tensors, .*got Tensor"),
        ({"weights": W[:1]}, ValueError, r"weights must hold 2 tensors, one per layer, got 1"),
        ({"biases": [*B, B[0]]}, ValueError, r"biases must hold 2 tensors, one per layer, got 3"),
        ({"biases": [B[0], 3]}, TypeError, r"biases\[1\] must be a tensor, got int"),
        ({"weights": [W[0], W[1].mT]}, ValueError, r"weights\[1\] must .*\[2, 8, 4\], got \[2, 4, 8\]"),
        ({"weights": [W[0], W[1][:1]]}, ValueError, r"weights\[1\] must have shape .*got \[1, 8, 4\]"),
        ({"weights": [torch.tensor(1.0), W[1]]}, ValueError, r"weights\[0\] must have shape .*got \[\]"),
        ({"biases": [B[0], B[1].half()]}, TypeError, r"biases\[1\] must have dtype .*got torch.float16"),
        ({"biases": [B[0].to("meta"), B[1]]}, ValueError, r"biases\[0\] must be on cpu .*got meta"),
        ({"offsets": [0, 2, 5]}, TypeError, r"offsets must be a tensor \[M \+ 1\], got list"),
        ({"offsets": O.int()}, TypeError, r"offsets must have dtype torch.int64, got torch.int32"),
        ({"offsets": O[1:]}, ValueError, r"offsets must have shape \[M \+ 1\] = \[3\], got \[2\]"),
        ({"offsets": O[None]}, ValueError, r"offsets must have shape .*got \[1, 3\]"),
        ({"offsets": O + 1}, ValueError, r"offsets must start at 0, got offsets\[0\] = 1"),
        ({"offsets": O * 2}, ValueError, r"offsets must end at the number of points, 5, got .*= 10"),
        (
            {"offsets": torch.tensor([0, 7, 5])},
            ValueError,
            r"offsets must not go down, got offsets\[1\] = 7 > offsets\[2\] = 5",
        ),
        ({"spec": "mlp"}, TypeError, r"spec must be a FieldSpec, got str"),
        ({"backend": "fast"}, ValueError, r"backend must be one of .*got 'fast'"),
    ],
)
def test_bad_arguments(need, backend: str, change: dict[str, object], error: type, text: str) -> None:
    if backend != "auto":
        need("bank_mlp", backend)
    if places.here() == "cuda" and text.startswith(("offsets must start", "offsets must end", "offsets must not")):
        pytest.skip("the values of offsets are looked at on the CPU alone")
    given = places.put(arguments() | {"backend": backend} | change)
    with pytest.raises(
        error, match=text.replace("on cpu", rf"on {places.here()}\S*").replace("got cpu", "got " + places.here())
    ):
        mf.ops.bank_mlp(**given)


def test_offsets_of_many_modules_that_go_down() -> None:
    spec = mf.FieldSpec(1, 1, 2, 0)
    bank = mf.FieldBank(spec, 200)
    offsets = torch.arange(201)
    offsets[150] = 3
    with pytest.raises(ValueError, match=r"offsets\[149\] = 149 > offsets\[150\] = 3"):
        bank(torch.rand(200, 1), offsets=offsets)
