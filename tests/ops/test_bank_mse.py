"""The squared error of a bank: values, both derivatives, fused and one step after the other, misuse."""

from __future__ import annotations

import math

import places
import pytest
import torch
from bank_cases import ENCODINGS, Case, assert_no_worse, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.errors import BackendError

OPS = torch.ops.mclnf_fast
backends = places.backends("bank_mse")
compiled = places.backends("bank_mse", reference=False)
NAMES = ("bank_mse_fwd", "bank_mse_bwd", "bank_mse_bwd_bwd")

SPECS = {
    "relu": mf.FieldSpec(2, 3, 24, 3, "relu", encoding=ENCODINGS["frequency"][1], output_activation="sigmoid"),
    "tanh": mf.FieldSpec(6, 3, 12, 2, "tanh", encoding=ENCODINGS["composite"][1], skips=(1,)),
    "skip": mf.FieldSpec(3, 3, 20, 3, "relu", skips=(2,)),
    "linear": mf.FieldSpec(3, 3, 8, 0),
    "sine": mf.FieldSpec(3, 3, 16, 2, "sine", w0=3.0, output_activation="softplus"),
}


def problem(spec: mf.FieldSpec, counts: list[int], dtype: torch.dtype) -> tuple[Case, Tensor, Tensor]:
    """Bank, targets and weights, some of them 0."""
    g = torch.Generator().manual_seed(1)
    points = sum(counts)
    target = torch.randn(points, spec.out_dim, generator=g, dtype=torch.float64).to(dtype)
    weight = torch.rand(points, generator=g, dtype=torch.float64).sub(0.2).clamp(min=0).to(dtype)
    return make(spec, counts, dtype), target, weight


def loss_of(case: Case, target: Tensor, weight: Tensor | None, reduction: str, backend: str) -> Tensor:
    return mf.ops.bank_mse(
        case.x, case.offsets, case.weights, case.biases, target, case.spec, weight, reduction, backend
    )


def everything(case: Case, target: Tensor, weight: Tensor | None, reduction: str, backend: str) -> list[Tensor]:
    """Losses, gradients with factors and without, and second derivatives through both cotangent and parameters."""
    leaves = [*case.weights, *case.biases]
    factors = torch.linspace(0.5, 2, case.offsets.numel() - 1, dtype=case.x.dtype)
    loss = loss_of(case, target, weight, reduction, backend)
    plain = torch.autograd.grad(loss.sum(), leaves, retain_graph=True)
    again = torch.autograd.grad(loss.sum(), leaves, retain_graph=True)
    scaled = torch.autograd.grad((loss * factors).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum((g * g.detach().cos()).sum() for g in scaled), leaves, retain_graph=True)
    curved = torch.autograd.grad(loss.square().sum(), leaves, create_graph=True)
    mixed = torch.autograd.grad(sum(g.sum() for g in curved), leaves)
    return [loss, *plain, *again, *scaled, *second, *mixed]


@compiled
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_values_and_derivatives(need, backend: str, name: str, weighted: bool, reduction: str) -> None:
    need("bank_mse", backend, torch.float64)
    case, target, weight = problem(SPECS[name], [70, 0, 9, 140], torch.float64)
    case.require(x=False)
    own = weight if weighted else None
    found = everything(case, target, own, reduction, backend)
    want = everything(case, target, own, reduction, "reference")
    for f, w in zip(found, want, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-10)


@compiled
def test_float32_is_as_near_the_truth_as_pytorch(need, backend: str) -> None:
    need("bank_mse", backend)
    spec = mf.FieldSpec(3, 4, 64, 4, encoding=mf.Frequency(4))
    case, target, weight = problem(spec, [3000, 500], torch.float32)
    case.require(x=False)
    exact = case.to(torch.float64).require(x=False)
    found = everything(case, target, weight, "mean", backend)
    same = everything(case, target, weight, "mean", "reference")
    truth = everything(exact, target.double(), weight.double(), "mean", "reference")
    for k, (f, s, t) in enumerate(zip(found, same, truth, strict=True)):
        assert_no_worse(f, s, t, str(k), terms=3000)


@compiled
def test_gradgradcheck(need, backend: str) -> None:
    need("bank_mse", backend, torch.float64)
    case, target, weight = problem(mf.FieldSpec(2, 2, 5, 1, "tanh"), [5, 0, 3], torch.float64)
    case.require(x=False)

    def f(*leaves: Tensor) -> Tensor:
        bank = (case.x, case.offsets, leaves[:2], leaves[2:])
        return mf.ops.bank_mse(*bank, target[:, :2], case.spec, weight, backend=backend)

    assert torch.autograd.gradcheck(f, (*case.weights, *case.biases))
    assert torch.autograd.gradgradcheck(f, (*case.weights, *case.biases))


@compiled
@pytest.mark.parametrize("which", ["x", "target", "weight"])
def test_other_inputs_that_require_a_gradient(need, backend: str, which: str) -> None:
    need("bank_mse", backend, torch.float64)
    case, target, weight = problem(SPECS["tanh"], [30, 10], torch.float64)
    leaf = {"x": case.x, "target": target, "weight": weight}[which].requires_grad_()
    found, want = (
        torch.autograd.grad(loss_of(case, target, weight, "mean", b).square().sum(), leaf)[0]
        for b in (backend, "reference")
    )
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-12)


def test_bits_do_not_depend_on_threads_or_neighbors(need) -> None:
    need("bank_mse", "cpu")
    case, target, weight = problem(SPECS["relu"], [1500, 40, 900], torch.float32)
    case.require(x=False)

    def run(threads: int) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            loss = loss_of(case, target, weight, "mean", "cpu")
            return [loss, *torch.autograd.grad(loss.sum(), [*case.weights, *case.biases])]
        finally:
            torch.set_num_threads(before)

    for a, b, c in zip(run(1), run(2), run(2), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(b, c)


@backends
def test_an_empty_bank_and_empty_modules(need, backend: str) -> None:
    need("bank_mse", backend)
    case, target, weight = problem(SPECS["relu"], [0, 0], torch.float32)
    case.require(x=False)
    loss = loss_of(case, target, weight, "mean", backend)
    assert loss.tolist() == [0, 0]
    assert all(bool((g == 0).all()) for g in torch.autograd.grad(loss.sum(), case.weights))


@compiled
def test_a_point_that_is_no_number_spoils_its_own_module_alone(need, backend: str) -> None:
    need("bank_mse", backend)
    case, target, weight = problem(SPECS["relu"], [20, 20], torch.float32)
    case.require(x=False)
    target[3, 1] = float("nan")
    loss = loss_of(case, target, weight + 1, "mean", backend)
    assert math.isnan(loss.detach()[0])
    grads = torch.autograd.grad(loss.sum(), case.weights)
    assert math.isfinite(loss.detach()[1])
    assert all(bool(g[1].isfinite().all()) and not bool(g[0].isfinite().all()) for g in grads)


@compiled
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_square_and_sum_in_float32(need, backend: str, dtype: torch.dtype) -> None:
    need("bank_mse", backend, dtype)
    case, target, weight = problem(SPECS["relu"], [50, 20], torch.float32)
    half = case.to(dtype).require(x=False)
    loss = loss_of(half, target.to(dtype), weight.to(dtype), "mean", backend)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), loss_of(case, target, weight, "mean", backend), rtol=0.05, atol=0.05)
    grads = torch.autograd.grad(loss.sum(), (*half.weights, *half.biases))
    # Against float64 at the same rounded numbers: what is left is the rounding of what is between.
    wide = half.to(torch.float64).require(x=False)
    exact = loss_of(wide, target.to(dtype).double(), weight.to(dtype).double(), "mean", "reference")
    truth = torch.autograd.grad(exact.sum(), (*wide.weights, *wide.biases))
    for g, t in zip(grads, truth, strict=True):
        assert g.dtype == dtype
        assert float((g.double() - t).norm() / t.norm()) < 4 * torch.finfo(dtype).eps


def test_inside_a_transform_and_compiled(need) -> None:
    need("bank_mse", "cpu")
    case, target, weight = problem(SPECS["tanh"], [12, 9], torch.float64)

    def f(weights: list[Tensor]) -> Tensor:
        return mf.ops.bank_mse(case.x, case.offsets, weights, case.biases, target, case.spec, weight).sum()

    found = torch.func.grad(f)(case.weights)
    case.require(x=False)
    want = torch.autograd.grad(f(case.weights), case.weights)
    for a, b in zip(found, want, strict=True):
        torch.testing.assert_close(a, b)
    compiled = torch.compile(f, fullgraph=True, backend="aot_eager")(case.weights)
    for a, b in zip(torch.autograd.grad(compiled, case.weights), want, strict=True):
        torch.testing.assert_close(a, b)


def arguments(op: str, requires: bool) -> list[object]:
    case, target, weight = problem(SPECS["tanh"], [4, 0, 5], torch.float64)
    if requires:
        case.require(x=False)
    bank = [case.x, case.offsets, case.weights, case.biases, target, weight]
    like = [[torch.rand_like(t) for t in ts] for ts in (case.weights, case.biases)]
    cotangent, net = torch.rand(3, dtype=torch.float64), list(case.spec.packed)
    return {
        "bank_mse_fwd": [*bank, *net, True, requires],
        "bank_mse_bwd": [*bank, cotangent, [], [], *net, True],
        "bank_mse_bwd_bwd": [*bank, cotangent, *like, *net, False],
    }[op]


@pytest.mark.parametrize("op", NAMES)
@pytest.mark.parametrize("requires", [False, True])
def test_opcheck(need, op: str, requires: bool) -> None:
    need("bank_mse", "cpu")
    torch.library.opcheck(getattr(OPS, op), tuple(arguments(op, requires and op != "bank_mse_bwd_bwd")))


def test_the_error_of_the_third_derivative_names_the_remedy(need) -> None:
    need("bank_mse", "cpu")
    case, target, weight = problem(SPECS["tanh"], [4, 5], torch.float64)
    case.require(x=False)
    loss = loss_of(case, target, weight, "mean", "cpu")
    first = torch.autograd.grad(loss.sum(), case.weights, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), case.weights, create_graph=True)
    with pytest.raises(RuntimeError, match=r"third derivatives.*reference"):
        torch.autograd.grad(sum(g.sum() for g in second), case.weights)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"target": torch.zeros(9, 2)}, ValueError, r"target must have shape \[N, out_dim\] = \[9, 3\], got \[9, 2\]"),
        ({"target": torch.zeros(9, 3).double()}, TypeError, "target must have dtype torch.float32"),
        ({"target": None}, TypeError, "target must be a tensor"),
        ({"sample_weight": torch.zeros(9, 1)}, ValueError, r"sample_weight must have shape \[N\] = \[9\]"),
        ({"sample_weight": torch.zeros(9, dtype=torch.int64)}, TypeError, "sample_weight must have dtype"),
        ({"reduction": "none"}, ValueError, "reduction must be one of mean, sum, got 'none'"),
        ({"backend": "cuda"}, BackendError, "bank_mse has no cuda backend"),
        ({"offsets": torch.tensor([0, 4, 8])}, ValueError, "offsets must end at the number of points, 9"),
    ],
)
def test_misuse(change: dict[str, object], error: type[Exception], match: str) -> None:
    case, target, _ = problem(SPECS["skip"], [4, 5], torch.float32)
    given = {
        "x": case.x,
        "offsets": case.offsets,
        "weights": case.weights,
        "biases": case.biases,
        "target": target,
        "spec": case.spec,
    }
    with pytest.raises(error, match=match):
        mf.ops.bank_mse(**{**given, **change})
