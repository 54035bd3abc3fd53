"""The bank MLP's Triton kernels against the reference: on a GPU where there is one, else interpreted on the CPU."""

from __future__ import annotations

import math

import pytest
import torch
from bank_cases import ACTIVATIONS, ENCODINGS, Case, Rounded, assert_no_worse
from torch import Tensor
from torch.library import opcheck

import mclnf_fast as mf
from mclnf_fast.ops import _dispatch, _triton

pytestmark = pytest.mark.usefixtures("poisoned")
COUNTS = [70, 0, 33, 1]


def gradients(case: Case, backend: str, grad_y: Tensor) -> list[Tensor]:
    y = case.require().run(backend)
    return list(torch.autograd.grad(y, case.leaves, grad_y.to(y.dtype), materialize_grads=True))


def agrees(case: Case, rounded: bool = False) -> None:
    """Value and gradients are no worse than the reference's in the same dtype; `rounded`: what the layers read has 10
    bits or 7, whose errors are held against the values, and in tf32 against twice those of the reference with operands
    rounded so: a relu that a rounding turns on or off moves the gradients of few points by much."""
    exact = case.to(torch.float64)
    grad_y = torch.randn(case.x.shape[0], case.spec.out_dim, device=case.x.device)
    names = ["y", "x", *(f"weights[{l}]" for l in range(len(case.weights)))]
    names += [f"biases[{l}]" for l in range(len(case.biases))]
    found, plain, truth = (
        [c.run(b), *gradients(c, b, grad_y)]
        for c, b in ((case, "triton"), (case, "reference"), (exact, "reference"))
    )  # fmt: skip
    tf32 = truth
    if rounded and case.x.dtype == torch.float32:
        with Rounded(case.spec):
            tf32 = [exact.run("reference"), *gradients(exact, "reference", grad_y)]
    for name, a, r, t, near in zip(names, found, plain, truth, tf32):
        if rounded:
            assert a.dtype == r.dtype
            allowed = 2e-2 * float(t.norm()) + 2 * float((near - t).norm()) + 1e-12
            assert float((a.double() - t).norm()) <= allowed, name
        else:
            assert_no_worse(a, r, t, name, terms=max(100, case.x.shape[0]))


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_and_activation(triton_case, tf32: bool, encoding: str, activation: str) -> None:
    in_dim, kind = ENCODINGS[encoding]
    # One layer of exponentials: two amplify every rounding by their slopes.
    hidden = 1 if activation == "exp" else 2
    output = "none" if activation in ("relu", "exp") else activation
    spec = mf.FieldSpec(in_dim, 3, 20, hidden, activation, output, kind, w0=2.0, skips=(1,))
    agrees(triton_case(spec, COUNTS), rounded=tf32)


@pytest.mark.parametrize("width", [7, 16, 48, 64, 128, 144, 200])
def test_every_width(triton_case, tf32: bool, width: int) -> None:
    agrees(triton_case(mf.FieldSpec(3, 4, width, 3, encoding=mf.Frequency(10)), [150, 0, 60]), rounded=tf32)


@pytest.mark.parametrize(("out_dim", "hidden"), [(1, 0), (17, 0), (3, 1), (1, 6), (140, 1)])
def test_every_depth(triton_case, tf32: bool, out_dim: int, hidden: int) -> None:
    skips = (hidden,) if hidden else ()
    spec = mf.FieldSpec(2, out_dim, 32, hidden, encoding=mf.LogFrequency(20), skips=skips)
    agrees(triton_case(spec, [0, 40, 17]), rounded=tf32)


@pytest.mark.parametrize("counts", [[1], [0], [0, 0, 5], [16] * 40, [129, 128, 127], [3000], []])
def test_every_share(triton_case, counts: list[int]) -> None:
    agrees(triton_case(mf.FieldSpec(3, 4, 16, 1, encoding=mf.Frequency(3)), counts))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [32, 100, 160])
def test_half_types(triton_case, dtype: torch.dtype, width: int) -> None:
    agrees(triton_case(mf.FieldSpec(3, 4, width, 2, encoding=mf.Frequency(3)), [50, 60], dtype), rounded=True)


def test_chunks_of_many_tiles_and_modules_of_many_chunks(
    triton_case, tf32: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mclnf_fast.ops.triton import launch

    monkeypatch.setattr(launch, "CHUNKS", 4)
    assert launch.tiles_per_chunk(400 // 16) > 1
    case = triton_case(mf.FieldSpec(3, 4, 16, 1, encoding=mf.Frequency(3)), [400, 0, 90])
    agrees(case, rounded=tf32)


def test_the_same_bits_twice(triton_case) -> None:
    case = triton_case(mf.FieldSpec(3, 4, 32, 2, encoding=mf.Frequency(3)), [400, 0, 90])
    grad_y = torch.randn(490, 4, device=case.x.device)
    first, second = ([case.run("triton"), *gradients(case, "triton", grad_y)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


def test_second_derivatives(triton_case) -> None:
    case = triton_case(mf.FieldSpec(3, 2, 16, 1, "tanh", encoding=mf.Frequency(2)), [9, 0, 4]).require()
    grad_y = torch.randn(13, 2, device=case.x.device)

    def second(backend: str) -> list[Tensor]:
        first = torch.autograd.grad(case.run(backend), case.leaves, grad_y, create_graph=True)
        total = sum((t * t).sum() for t in first)
        return list(torch.autograd.grad(total, case.leaves, materialize_grads=True))

    for a, b in zip(second("triton"), second("reference")):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()) + 1e-7)


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
def test_nan_stays_nan_and_stays_where_it_is(triton_case, activation: str) -> None:
    case = triton_case(mf.FieldSpec(2, 3, 16, 2, activation, "none"), [70])
    clean = case.run("triton")
    case.x[5, 1] = math.nan
    y = case.run("triton")
    assert bool(y[5].isnan().all())
    rows = torch.arange(70, device=y.device) != 5
    assert torch.equal(y[rows], clean[rows])


def test_opcheck(triton_case) -> None:
    case = triton_case(mf.FieldSpec(3, 2, 16, 1, encoding=mf.Frequency(2)), [5, 0, 3]).require()
    from mclnf_fast.ops.bank_mlp.triton import ops  # noqa: F401 (registers the op)

    arguments = (case.x, case.offsets, case.weights, case.biases, *case.spec.packed)
    opcheck(torch.ops.mclnf_fast_triton.bank_mlp_fwd.default, arguments)


def test_who_serves(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    cpu = torch.device("cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert _triton.why_not(cpu, torch.float32) is None
    assert "multiplies no bfloat16" in str(_triton.why_not(cpu, torch.bfloat16))
    assert "got torch.float64" in str(_triton.why_not(cpu, torch.float64))
    monkeypatch.delenv("TRITON_INTERPRET")
    assert "works on CUDA tensors, got cpu" in str(_triton.why_not(cpu, torch.float32))
    monkeypatch.setattr(_triton, "_installed", lambda: False)
    assert "pip install triton" in str(_triton.why_not(torch.device("cuda"), torch.float32))


def test_auto_never_interprets(need) -> None:
    need("bank_mlp", "triton")
    assert _dispatch.select("bank_mlp", "auto", torch.device("cpu"), torch.float32) in ("cpu", "reference")


def test_a_device_too_old_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(_triton, "_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Old One")
    said = _triton.why_not(torch.device("cuda"), torch.float32)
    assert said == "it needs compute capability 8.0, Old One has 7.5"
