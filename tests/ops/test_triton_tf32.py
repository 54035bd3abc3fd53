"""Products in tf32 are of operands rounded to the nearest: the Triton kernels against float64 products of operands that
are rounded so. On a GPU where there is one, else interpreted on the CPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from bank_cases import Case, Rounded
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops.triton.precision import multiplying

pytestmark = pytest.mark.usefixtures("poisoned")
# A value within float32's rounding of the middle between two operands may go to either: so far from the products of
# rounded operands, by the distance of those from the exact ones.
SHARE = 0.2


@pytest.fixture(autouse=True)
def _tf32() -> Iterator[None]:
    with multiplying(True):
        yield


def evaluate(case: Case, backend: str, grad_y: Tensor, second: bool) -> list[Tensor]:
    """Outputs, gradients, and with `second` the gradients of the gradients' squares."""
    y = case.require().run(backend)
    grads = torch.autograd.grad(y, case.leaves, grad_y.to(y.dtype), create_graph=second)
    if not second:
        return [y, *grads]
    return list(torch.autograd.grad(sum(g.square().sum() for g in grads), case.leaves, materialize_grads=True))


def assert_of_rounded_operands(results: list[Tensor], rounded: list[Tensor], exact: list[Tensor]) -> None:
    apart = 0
    for k, (value, near, far) in enumerate(zip(results, rounded, exact, strict=True)):
        error, distance = ((t - near).norm().item() for t in (value.double(), far))
        assert error <= SHARE * distance + 1e-6 * near.norm().item(), (k, error, distance)
        apart += distance > 1e-4 * near.norm().item()
    assert apart > len(results) // 2  # else nothing could be seen


NETWORKS = {
    "fused": (mf.FieldSpec(3, 4, 32, 2, "tanh", encoding=mf.Frequency(4), skips=(1,)), [70, 33]),
    "fused, small modules": (mf.FieldSpec(3, 4, 32, 2, "tanh", encoding=mf.Frequency(4)), [9] * 5),
    "fused forward, backward by layers": (mf.FieldSpec(2, 3, 100, 2, "sine", encoding=mf.Frequency(3), w0=2.0), [40]),
    "layers": (mf.FieldSpec(2, 3, 144, 2, "tanh", encoding=mf.Frequency(4), skips=(1,)), [40]),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_gradients(triton_case, name: str) -> None:
    case = triton_case(*NETWORKS[name])
    grad_y = torch.randn(case.x.shape[0], case.spec.out_dim, device=case.x.device)
    exact = evaluate(case.to(torch.float64), "reference", grad_y, second=False)
    with Rounded(case.spec):
        rounded = evaluate(case.to(torch.float64), "reference", grad_y, second=False)
    assert_of_rounded_operands(evaluate(case, "triton", grad_y, second=False), rounded, exact)


def test_second_derivatives(triton_case) -> None:
    case = triton_case(mf.FieldSpec(2, 3, 24, 2, "tanh", encoding=mf.Frequency(2), skips=(1,)), [40, 21])
    grad_y = torch.randn(case.x.shape[0], case.spec.out_dim, device=case.x.device)
    exact = evaluate(case.to(torch.float64), "reference", grad_y, second=True)
    with Rounded(case.spec):
        rounded = evaluate(case.to(torch.float64), "reference", grad_y, second=True)
    assert_of_rounded_operands(evaluate(case, "triton", grad_y, second=True), rounded, exact)


@pytest.mark.parametrize("samples", [False, True], ids=["points", "samples"])
def test_gradients_of_the_fisher_sweep(triton_case, samples: bool) -> None:
    case = triton_case(mf.FieldSpec(3, 4, 32, 2, "tanh", encoding=mf.Frequency(4), skips=(1,)), [70, 33])
    grad_y = torch.randn(case.x.shape[0], case.spec.out_dim, device=case.x.device)
    ids = torch.arange(case.x.shape[0], device=case.x.device) // 5 if samples else None
    result = mf.ops.fisher_scores(
        case.x, case.offsets, case.weights, case.biases, grad_y, None, case.spec, sample_ids=ids, backend="triton"
    )
    exact = evaluate(case.to(torch.float64), "reference", grad_y, second=False)[2:]
    with Rounded(case.spec):
        rounded = evaluate(case.to(torch.float64), "reference", grad_y, second=False)[2:]
    assert_of_rounded_operands([*result.grads[0], *result.grads[1]], rounded, exact)


def test_what_is_no_number_stays_so(triton_case) -> None:
    case = triton_case(mf.FieldSpec(2, 1, 16, 1, "none"), [20])
    for value in (float("nan"), float("inf"), -float("inf")):
        case.x[3, 0] = value
        assert not bool(case.run("triton")[3].isfinite().any())
        assert bool(case.run("triton")[4].isfinite().all())
