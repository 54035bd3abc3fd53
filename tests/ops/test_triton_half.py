"""Weights of half types behind a first layer in float32, and points that the Triton kernels never round: against
float64, and against the reference with the same weights. On a GPU where there is one, else interpreted on the CPU."""

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
    """`half_case(spec, counts)`: float32 points that no half type holds, and weights of a half type behind the first
    layer."""

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
    """The reference does not round the tangents, the kernels those that a product takes."""
    case = half_case(NETWORKS[name], [70, 0, 33])
    grad_y = torch.randn(103, 4, device=case.x.device) / 16  # float16 holds their squares
    truth = evaluate(exact(case), "reference", grad_y, second=True)
    near(evaluate(case, "triton", grad_y, second=True), truth, dtype)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_features_are_float32(half_case, encoding: str) -> None:
    """Points a thousandth of a half type's step apart are told apart by the first layer, and a wave of the fast sine is
    off by less than a hundredth of it: in the gradient of its weights, which nothing else rounds."""
    in_dim, kind = ENCODINGS[encoding]
    case = through(half_case(mf.FieldSpec(in_dim, 16, 16, 1, "none", encoding=kind), [40, 9]))
    case.x = (1.0 + case.x * 2.0**-12).detach()
    signs = torch.randn(49, 16, device=case.x.device).sign()
    gradient, truth = (first_gradient(c, b, signs) for c, b in ((case, "triton"), (exact(case), "reference")))
    assert rms(gradient.double() - truth) <= 2.0**-19 * rms(truth)


def through(case: Case) -> Case:
    """The same with a second layer that changes nothing, so that the first one's gradients are the outputs'."""
    size = case.spec.width
    eye = torch.eye(size, dtype=case.weights[1].dtype, device=case.x.device)
    case.weights[1] = eye.expand(len(case.weights[1]), size, size).contiguous()
    case.biases[1] = torch.zeros_like(case.biases[1])
    return case


def first_gradient(case: Case, backend: str, grad_y: Tensor) -> Tensor:
    y = case.require(x=False).run(backend)
    return torch.autograd.grad(y, case.weights[0], grad_y.to(y.dtype))[0]


def test_the_first_layer_of_the_forward_is_float32(half_case, dtype: torch.dtype) -> None:
    """Points that differ by a thousandth of a half type's step, and biases that leave nothing else of them: the outputs
    are as near as the rounding of the hidden layer lets them be."""
    case = half_case(mf.FieldSpec(3, 4, 32, 1, "none"), [70, 33])
    case.weights[0] = case.weights[0].half().float()  # 10 bits, which tf32 has
    case.biases[0] = -case.weights[0].sum(1)
    case.x = (1.0 + case.x * 2.0**-12).detach()
    y, truth = case.run("triton"), exact(case).run("reference")
    assert rms(y.double() - truth) <= 2 * torch.finfo(dtype).eps * rms(truth)


@pytest.mark.parametrize("turns", [0.2, 40.0, 4000.0])
def test_the_fast_sine_far_from_zero(half_case, dtype: torch.dtype, turns: float) -> None:
    """Sines and cosines one by one, to 2^-18: the product with a frequency is rounded once, as the reference does. A
    neuron per point, so that they are the gradient of its weights."""
    spec = mf.FieldSpec(1, 64, 64, 1, "none", encoding=mf.Frequency(1))
    case = through(half_case(spec, [64]))
    case.x = torch.linspace(-2 * turns, 2 * turns, 64, device=case.x.device)[:, None]
    angles = case.x * torch.tensor(torch.pi)
    waves = torch.cat((angles.double().sin(), angles.double().cos()), 1)
    gradient = first_gradient(case, "triton", torch.eye(64, device=case.x.device))
    assert float((gradient[0].mT.double() - waves).abs().max()) <= 2.0**-18


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
