"""The squared error by the Triton kernels against the reference: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from bank_cases import Case, assert_no_worse, make
from test_bank_mse import SPECS
from torch import Tensor
from torch.library import opcheck

import mclnf_fast as mf

pytestmark = pytest.mark.usefixtures("poisoned")
COUNTS = [70, 0, 9, 40]
Problem = tuple[Case, Tensor, Tensor]


@pytest.fixture
def problem(need, gpu_or_cpu: str) -> Callable[..., Problem]:
    def made(spec: mf.FieldSpec, counts: list[int], dtype: torch.dtype = torch.float32) -> Problem:
        need("bank_mse", "triton", dtype, gpu_or_cpu)
        g = torch.Generator().manual_seed(1)
        target = torch.randn(sum(counts), spec.out_dim, generator=g).to(gpu_or_cpu, dtype)
        weight = torch.rand(sum(counts), generator=g).sub(0.2).clamp(min=0).to(gpu_or_cpu, dtype)
        return make(spec, counts, dtype).on(gpu_or_cpu).require(x=False), target, weight

    return made


def loss_of(case: Case, target: Tensor, weight: Tensor | None, reduction: str, backend: str) -> Tensor:
    bank = case.x, case.offsets, case.weights, case.biases
    dtype = case.x.dtype
    own = None if weight is None else weight.to(dtype)
    return mf.ops.bank_mse(*bank, target.to(dtype), case.spec, own, reduction, backend)


def derivatives(case: Case, target: Tensor, weight: Tensor | None, reduction: str, backend: str) -> list[Tensor]:
    """Losses without a graph, with one, gradients of both kinds, and second derivatives through parameters and
    cotangent."""
    leaves = [*case.weights, *case.biases]
    with torch.no_grad():
        alone = loss_of(case, target, weight, reduction, backend)
    loss = loss_of(case, target, weight, reduction, backend)
    factors = torch.linspace(0.5, 2, loss.shape[0], dtype=loss.dtype, device=loss.device)
    plain = torch.autograd.grad((loss * factors).sum(), leaves, retain_graph=True)
    again = torch.autograd.grad(loss.sum(), leaves, retain_graph=True)  # what was kept has been used
    curved = torch.autograd.grad(loss.square().sum(), leaves, create_graph=True)
    # Numbers that every type holds, the half ones too: another direction has another derivative.
    seed = torch.Generator().manual_seed(2)
    along = (torch.randn(g.shape, generator=seed).div(16).half().to(g.device, g.dtype) for g in curved)
    second = torch.autograd.grad(sum((g * v).sum() for g, v in zip(curved, along)), leaves)
    return [alone, loss, *plain, *again, *curved, *second]


def agrees(case: Case, target: Tensor, weight: Tensor | None, reduction: str = "mean", rounded: bool = False) -> None:
    exact = case.to(torch.float64).require(x=False)
    found, same, truth = (
        derivatives(c, target, weight, reduction, b)
        for c, b in ((case, "triton"), (case, "reference"), (exact, "reference"))
    )
    for k, (f, s, t) in enumerate(zip(found, same, truth, strict=True)):
        if rounded:
            assert f.dtype == s.dtype
            assert float((f.double() - t).norm()) <= 4e-2 * float(t.norm()) + 1e-12, k
        else:
            assert_no_worse(f, s, t, str(k), terms=100)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("weighted", "reduction"), [(True, "mean"), (False, "sum")])
def test_values_and_derivatives(problem, tf32: bool, name: str, weighted: bool, reduction: str) -> None:
    case, target, weight = problem(SPECS[name], COUNTS)
    agrees(case, target, weight if weighted else None, reduction, rounded=tf32)


@pytest.mark.parametrize("width", [32, 130])
def test_half_types(problem, width: int) -> None:
    spec = mf.FieldSpec(3, 4, width, 2, "tanh", "sigmoid", mf.Frequency(3), skips=(2,))
    case, target, weight = problem(spec, COUNTS, torch.float16)
    agrees(case, target, weight, rounded=True)


@pytest.mark.parametrize("counts", [[0, 0], [1], [], [3] * 20])
def test_every_share(problem, counts: list[int]) -> None:
    case, target, weight = problem(SPECS["relu"], counts)
    agrees(case, target, weight)


def test_pieces_chunks_and_two_runs(problem, tf32: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """tf32: fused; else a layer at a time."""
    from mclnf_fast.ops.triton import launch

    spec = mf.FieldSpec(3, 2, 12, 1, "tanh", "sigmoid")
    case, target, weight = problem(spec, [140, 0, 40, 0, 30])
    whole = derivatives(case, target, weight, "mean", "triton")
    for a, b in zip(derivatives(case, target, weight, "mean", "triton"), whole, strict=True):
        assert torch.equal(a, b)
    monkeypatch.setattr(launch, "PIECE_VALUES", 1)
    monkeypatch.setattr(launch, "PIECE_POINTS", 128)
    monkeypatch.setattr(launch, "CHUNKS", 3)
    for a, b in zip(derivatives(case, target, weight, "mean", "triton"), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=(1e-3 if tf32 else 1e-5) * float(b.detach().abs().max()))


def test_sums_of_layers_together_or_in_turn_have_the_same_bits(problem, monkeypatch: pytest.MonkeyPatch) -> None:
    from mclnf_fast.ops.triton import bank

    case, target, weight = problem(mf.FieldSpec(3, 2, 12, 1, "tanh", "sigmoid"), COUNTS)
    together = derivatives(case, target, weight, "mean", "triton")
    monkeypatch.setattr(bank, "SUMS_BYTES", 0)
    for a, b in zip(derivatives(case, target, weight, "mean", "triton"), together, strict=True):
        assert torch.equal(a, b)


def test_offsets_whose_tiles_are_known_have_the_same_bits(problem) -> None:
    from mclnf_fast.ops._constants import shared_offsets

    case, target, weight = problem(mf.FieldSpec(3, 2, 12, 1, "tanh", "sigmoid"), [9] * 3)
    expected = derivatives(case, target, weight, "mean", "triton")
    shared = dataclasses.replace(case, offsets=shared_offsets(3, 9, case.offsets.device))
    for _ in range(2):
        for a, b in zip(derivatives(shared, target, weight, "mean", "triton"), expected, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_gradients_are_scaled_by_their_modules_factors(need, gpu_or_cpu: str, dtype: torch.dtype) -> None:
    need("bank_mse", "triton", torch.float32, gpu_or_cpu)
    from mclnf_fast.ops.triton.bank import scaled

    gradients = [torch.randn(5, 30, 41, device=gpu_or_cpu), torch.randn(5, 3, device=gpu_or_cpu)] * 10
    dtypes = [dtype, torch.float32] * 10  # more than a launch takes of either
    factors = torch.linspace(-1, 2, 5, device=gpu_or_cpu)
    for result, g, kind in zip(scaled(gradients, factors, dtypes), gradients, dtypes, strict=True):
        assert torch.equal(result, (g * factors.view(-1, *[1] * (g.dim() - 1))).to(kind))


@pytest.mark.parametrize("which", ["x", "target", "weight"])
def test_other_inputs_that_require_a_gradient(problem, which: str) -> None:
    case, target, weight = problem(SPECS["tanh"], [30, 10])
    leaf = {"x": case.x, "target": target, "weight": weight}[which].requires_grad_()
    found, want = (
        torch.autograd.grad(loss_of(case, target, weight, "mean", b).square().sum(), leaf)[0]
        for b in ("triton", "reference")
    )
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-5 * float(want.abs().max()))


def test_a_point_that_is_no_number_spoils_its_own_module_alone(problem) -> None:
    case, target, weight = problem(SPECS["relu"], [20, 20])
    target[3, 1] = float("nan")
    loss = loss_of(case, target, weight + 1, "mean", "triton")
    assert math.isnan(loss.detach()[0])
    assert math.isfinite(loss.detach()[1])
    for g in torch.autograd.grad(loss.sum(), case.weights):
        assert bool(g[1].isfinite().all())
        assert not bool(g[0].isfinite().all())


def test_steps_of_meta_learning(problem) -> None:
    case, target, weight = problem(SPECS["relu"], [40, 0, 25])

    def outer(c: Case, backend: str) -> list[Tensor]:
        layers, start = len(c.weights), [*c.weights, *c.biases]
        own = start
        for _ in range(2):
            inner = Case(c.spec, c.x, c.offsets, own[:layers], own[layers:])
            loss = loss_of(inner, target, weight, "mean", backend).sum()
            own = [t - 2.0 * g for t, g in zip(own, torch.autograd.grad(loss, own, create_graph=True))]
        inner = Case(c.spec, c.x, c.offsets, own[:layers], own[layers:])
        return list(torch.autograd.grad(loss_of(inner, target, None, "mean", backend).sum(), start))

    exact = outer(case.to(torch.float64).require(x=False), "reference")
    for k, (f, s, t) in enumerate(zip(outer(case, "triton"), outer(case, "reference"), exact, strict=True)):
        assert_no_worse(f, s, t, str(k), terms=100)


@pytest.mark.parametrize("op", ["bank_mse_fwd", "bank_mse_bwd", "bank_mse_bwd_bwd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_opcheck(problem, op: str, dtype: torch.dtype) -> None:
    case, target, weight = problem(SPECS["tanh"], [4, 0, 5], dtype)
    from mclnf_fast.ops.bank_mse.triton import ops  # noqa: F401 (registers the ops)
    from mclnf_fast.ops.triton import plain

    x, spec = plain.without_spherical(case.x, case.spec)
    for requires in (False, True) if op != "bank_mse_bwd_bwd" else (False,):
        case.require(x=False, parameters=requires)
        bank = (x, case.offsets, case.weights, case.biases, target, weight)
        like = [[torch.rand_like(t.detach()) for t in ts] for ts in (case.weights, case.biases)]
        cotangent = torch.rand(3, device=x.device)
        more = {
            "bank_mse_fwd": (*spec.packed, True, requires),
            "bank_mse_bwd": (cotangent, [], [], *spec.packed, True),
            "bank_mse_bwd_bwd": (cotangent, *like, *spec.packed, False),
        }[op]
        opcheck(getattr(torch.ops.mclnf_fast_triton, op).default, (*bank, *more))


def test_compiled(problem) -> None:
    case, target, weight = problem(SPECS["relu"], [12, 0, 9])

    def f(weights: list[Tensor]) -> Tensor:
        bank = case.x, case.offsets, weights, case.biases
        return mf.ops.bank_mse(*bank, target, case.spec, weight, backend="triton").sum()

    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")(case.weights)
    found, want = (torch.autograd.grad(loss, case.weights) for loss in (compiled, f(case.weights)))
    for a, b in zip(found, want, strict=True):
        assert torch.equal(a, b)


def test_the_error_of_the_third_derivative_names_the_remedy(problem) -> None:
    case, target, weight = problem(SPECS["linear"], [4, 5])
    loss = loss_of(case, target, weight, "mean", "triton")
    first = torch.autograd.grad(loss.sum(), case.weights, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), case.weights, create_graph=True)
    with pytest.raises(RuntimeError, match=r"third derivatives.*reference"):
        torch.autograd.grad(sum(g.sum() for g in second), case.weights)
