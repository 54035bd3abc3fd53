"""Weights of half types beside float32 points, which the Triton kernels never round: against float64, and against the
reference with the same weights. On a GPU where there is one, else interpreted on the CPU."""

from __future__ import annotations

import pytest
import torch
from bank_cases import ENCODINGS, Case, assert_no_worse, rms
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops.triton.precision import multiplying

pytestmark = pytest.mark.usefixtures("poisoned")
NETWORKS = {
    "fused": mf.FieldSpec(3, 4, 32, 2, "tanh", encoding=mf.Frequency(6), skips=(1,)),
    "more than 64 features": mf.FieldSpec(3, 4, 32, 2, "softplus", encoding=mf.LogFrequency(12, 2.0), skips=(2,)),
    "layers": mf.FieldSpec(3, 4, 144, 2, "tanh", encoding=mf.Frequency(6), skips=(1,)),
    "one layer": mf.FieldSpec(3, 4, 32, 0, encoding=mf.Frequency(6)),
    "relu": mf.FieldSpec(3, 4, 32, 1, encoding=mf.Frequency(2)),
}


@pytest.fixture(params=[torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture
def half_case(need, triton_case, gpu_or_cpu: str, dtype: torch.dtype):
    """`half_case(spec, counts)`: float32 points that no half type holds, and weights of a half type."""

    def case(spec: mf.FieldSpec, counts: list[int]) -> Case:
        need("bank_mlp", "triton", dtype, gpu_or_cpu)
        return triton_case(spec, counts).mixed(dtype)

    return case


def exact(case: Case) -> Case:
    return case.to(torch.float64)


def evaluate(case: Case, backend: str, grad_y: Tensor, second: bool = False) -> list[Tensor]:
    """Outputs and gradients, or with `second` the gradients of the gradients' squares."""
    y = case.require().run(backend)
    grads = torch.autograd.grad(y, case.leaves, grad_y.to(y.dtype), create_graph=second)
    if not second:
        return [y, *grads]
    return list(torch.autograd.grad(sum(g.double().square().sum() for g in grads), case.leaves, materialize_grads=True))


def near(results: list[Tensor], truth: list[Tensor], dtype: torch.dtype) -> None:
    """Root mean square errors of at most two units of the half type: of what the reference rounds less of."""
    for k, (value, right) in enumerate(zip(results, truth, strict=True)):
        assert rms(value.double() - right) <= 2 * torch.finfo(dtype).eps * rms(right), k


@pytest.mark.parametrize("name", NETWORKS)
def test_no_worse_than_the_reference(half_case, name: str) -> None:
    case = half_case(NETWORKS[name], [70, 0, 33])
    grad_y = torch.randn(103, 4, device=case.x.device)
    results, same = (evaluate(case, backend, grad_y) for backend in ("triton", "reference"))
    assert results[0].dtype == torch.float32
    truth = evaluate(exact(case), "reference", grad_y)
    for k, (value, reference, right) in enumerate(zip(results, same, truth, strict=True)):
        assert_no_worse(value, reference, right, str(k), terms=103)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "relu"])
def test_second_derivatives(half_case, dtype: torch.dtype, name: str) -> None:
    """The reference rounds no gradients of pre-activations, the kernels those that a product takes."""
    case = half_case(NETWORKS[name], [70, 0, 33])
    grad_y = torch.randn(103, 4, device=case.x.device) / 16  # float16 holds their squares
    truth = evaluate(exact(case), "reference", grad_y, second=True)
    near(evaluate(case, "triton", grad_y, second=True), truth, dtype)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_features_are_float32(half_case, encoding: str) -> None:
    """Of one layer nothing is rounded but sums in float32: points a thousandth of a half type's step apart are told
    apart, and a wave of the fast sine is off by less than a hundredth of it."""
    in_dim, kind = ENCODINGS[encoding]
    case = half_case(mf.FieldSpec(in_dim, 3, 16, 0, encoding=kind), [40, 9])
    case.x = (1.0 + case.x * 2.0**-12).detach()
    y, truth = case.run("triton"), exact(case).run("reference")
    assert rms(y.double() - truth) <= 2.0**-19 * rms(truth)


@pytest.mark.parametrize("turns", [0.2, 40.0, 4000.0])
def test_the_fast_sine_far_from_zero(half_case, dtype: torch.dtype, turns: float) -> None:
    """Sines and cosines one by one, to 2^-18: the product with a frequency is rounded once, as the reference does."""
    spec = mf.FieldSpec(1, 2, 16, 0, encoding=mf.Frequency(1))
    case = half_case(spec, [500])
    case.x = torch.linspace(-2 * turns, 2 * turns, 500, device=case.x.device)[:, None]
    case.weights = [torch.eye(2, dtype=dtype, device=case.x.device)[None]]
    case.biases = [torch.zeros(1, 2, dtype=dtype, device=case.x.device)]
    angles = case.x * torch.tensor(torch.pi)
    waves = torch.cat((angles.double().sin(), angles.double().cos()), 1)
    assert float((case.run("triton").double() - waves).abs().max()) <= 2.0**-18


@pytest.mark.parametrize("samples", [False, True], ids=["points", "samples"])
def test_scores(half_case, dtype: torch.dtype, samples: bool) -> None:
    case = half_case(NETWORKS["fused"], [70, 33])
    grad_y = torch.randn(103, 4, device=case.x.device)
    ids = torch.arange(103, device=case.x.device) // 5 if samples else None

    def sweep(case: Case, backend: str) -> list[Tensor]:
        bank = (case.x, case.offsets, case.weights, case.biases, grad_y.to(case.x.dtype), None, case.spec)
        result = mf.ops.fisher_scores(*bank, sample_ids=ids, backend=backend)
        return [result.scores, *result.grads[0], *result.grads[1], *result.fisher[0], *result.fisher[1]]

    near(sweep(case, "triton"), sweep(exact(case), "reference"), dtype)


@pytest.mark.parametrize("weighted", [False, True])
def test_squared_errors(half_case, dtype: torch.dtype, weighted: bool) -> None:
    case = half_case(NETWORKS["fused"], [70, 33]).require(x=False)
    target = torch.randn(103, 4, device=case.x.device)
    weight = torch.rand(103, device=case.x.device) if weighted else None

    def sweep(case: Case, backend: str) -> list[Tensor]:
        own = [None if t is None else t.to(case.x.dtype) for t in (target, weight)]
        loss = mf.ops.bank_mse(
            case.x, case.offsets, case.weights, case.biases, own[0], case.spec, sample_weight=own[1], backend=backend
        )
        return [loss, *torch.autograd.grad(loss.sum(), case.leaves)]

    near(sweep(case, "triton"), sweep(exact(case).require(x=False), "reference"), dtype)


def test_tf32_rounds_no_coordinate(triton_case) -> None:
    case = triton_case(mf.FieldSpec(2, 3, 16, 0, encoding=mf.Identity()), [40, 9])
    case.x = (1.0 + case.x * 2.0**-12).detach()
    case.weights = [w.half().float() for w in case.weights]  # 10 bits, which tf32 has
    with multiplying(True):
        y = case.run("triton")
    truth = case.to(torch.float64).run("reference")
    assert rms(y.double() - truth) <= 2.0**-21 * rms(truth)
