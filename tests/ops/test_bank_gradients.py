"""Derivatives of the bank MLP: against finite differences in float64, and the kernels against the
reference."""

from __future__ import annotations

import math

import places
import pytest
import torch
from bank_cases import ACTIVATIONS, ENCODINGS, Case, assert_no_worse, make, spread
from torch import Tensor

import mclnf_fast as mf

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_mlp")
compiled = places.backends("bank_mlp", reference=False)


def checks(case: Case, backend: str) -> None:
    """gradcheck and gradgradcheck of everything that requires a gradient."""
    layers = len(case.weights)
    tensors = [case.x, *case.weights, *case.biases]

    def f(*leaves: Tensor) -> Tensor:
        given = iter(leaves)
        x, *rest = (next(given) if t.requires_grad else t for t in tensors)
        return mf.ops.bank_mlp(x, case.offsets, rest[:layers], rest[layers:], case.spec, backend=backend)

    assert torch.autograd.gradcheck(f, case.leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(f, case.leaves, fast_mode=True)


# Autograd itself joins the reference's parts: each part once is enough there.
PARTS = [
    (backend, encoding, activation)
    for backend in ("reference", "cpu")
    for encoding in ENCODINGS
    for activation in ACTIVATIONS
    if backend == "cpu" or activation == "tanh" or encoding == "identity"
]


@pytest.mark.parametrize(("backend", "encoding", "activation"), PARTS)
def test_first_and_second_derivatives(need, backend: str, encoding: str, activation: str) -> None:
    need("bank_mlp", backend, torch.float64)
    in_dim, kind = ENCODINGS[encoding]
    output = "none" if activation == "relu" else activation  # each as an output activation as well
    spec = mf.FieldSpec(in_dim, 2, 5, 2, activation, output, kind, w0=2.0, skips=(1, 2))
    checks(make(spec, [3, 0, 2], torch.float64).require(), backend)


@backends
@pytest.mark.parametrize(("x", "parameters"), [(True, False), (False, True), (True, True)])
@pytest.mark.parametrize(("hidden", "skips"), [(0, ()), (1, ()), (3, (2,)), (3, ())])
def test_requested_outputs(need, backend: str, x: bool, parameters: bool, hidden: int, skips: tuple[int, ...]) -> None:
    need("bank_mlp", backend, torch.float64)
    spec = mf.FieldSpec(3, 2, 4, hidden, "tanh", encoding=mf.Frequency(2, True, scale=1.0), skips=skips)
    checks(make(spec, [4, 1], torch.float64).require(x, parameters), backend)


@backends
def test_the_full_jacobian_once(need, backend: str) -> None:
    # fast_mode above checks one random direction a test; here every entry.
    need("bank_mlp", backend, torch.float64)
    case = make(mf.FieldSpec(2, 2, 3, 1, "softplus", skips=(1,)), [2, 0, 1], torch.float64).require()
    layers = len(case.weights)

    def f(x: Tensor, *rest: Tensor) -> Tensor:
        return mf.ops.bank_mlp(x, case.offsets, rest[:layers], rest[layers:], case.spec, backend=backend)

    assert torch.autograd.gradcheck(f, case.leaves)
    assert torch.autograd.gradgradcheck(f, case.leaves)


def gradients(case: Case, backend: str, second: bool = False) -> list[Tensor]:
    """Gradients of a loss, or of a function of those gradients (as MAML and gradient penalties need)."""
    y = case.require().run(backend)
    grads = torch.autograd.grad(y.square().sum(), case.leaves, create_graph=second)
    if second:
        total = sum((g.square() * (k + 1)).sum() for k, g in enumerate(grads))
        grads = torch.autograd.grad(total, case.leaves)
    return list(grads)


def agree(cases: Case | list[Case], second: bool, backend: str) -> None:
    """Judges all cases as one: the rounding errors of a handful of numbers are a matter of luck."""
    cases = cases if isinstance(cases, list) else [cases]
    found = [gradients(case, backend, second) for case in cases]
    same = [gradients(case, "reference", second) for case in cases]
    truth = [gradients(case.to(torch.float64), "reference", second) for case in cases]
    for k, (f, s, t) in enumerate(zip(zip(*found), zip(*same), zip(*truth))):
        assert_no_worse(torch.cat(f), torch.cat(s), torch.cat(t), f"gradient {k}")


@compiled
@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
@pytest.mark.parametrize("modules", [1, 3, 257])
@pytest.mark.parametrize("points", [0, 1, 15, 17, 64, 129, 1000])
def test_agrees_at_every_number_of_points(need, backend: str, points: int, modules: int, second: bool) -> None:
    need("bank_mlp", backend)
    spec = mf.FieldSpec(3, 4, 16, 2, "softplus", encoding=mf.Frequency(2, scale=1.0))
    agree([make(spec, spread(points, modules), seed=seed) for seed in range(8 if points < 16 else 1)], second, backend)


@compiled
@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
@pytest.mark.parametrize(
    ("width", "out_dim", "hidden", "skips"),
    [
        (16, 1, 0, ()),
        (37, 3, 1, (1,)),
        (37, 17, 4, (2, 4)),
        (64, 4, 2, ()),
        (128, 3, 3, (3,)),
        (32, 17, 6, ()),
    ],
)
def test_agrees_at_every_width_and_depth(
    need, backend: str, width: int, out_dim: int, hidden: int, skips: tuple[int, ...], second: bool
) -> None:
    need("bank_mlp", backend)
    encoding = mf.Composite(((mf.Frequency(3, True, scale=1.0), 3), (mf.SphericalHarmonics(4), 3)))
    agree(
        make(mf.FieldSpec(6, out_dim, width, hidden, "sine", "sigmoid", encoding, 2.0, skips), [65, 0, 33]),
        second,
        backend,
    )


@compiled
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision(need, backend: str, dtype: torch.dtype) -> None:
    need("bank_mlp", backend, dtype)
    case = make(mf.FieldSpec(3, 4, 32, 2, "softplus"), [50, 0, 14]).to(dtype)
    found, same = gradients(case, backend), gradients(case.to(dtype), "reference")
    truth = gradients(case.to(torch.float64), "reference")
    for k, (f, s, t) in enumerate(zip(found, same, truth)):
        assert_no_worse(f, s, t, f"gradient {k}")


@pytest.mark.parametrize("second", [False, True], ids=["first", "second"])
def test_same_bits_for_every_run_and_thread_count(need, second: bool) -> None:
    need("bank_mlp", "cpu")
    # 3000 points are cut into several runs of the work plan, whose sums are added in the plan's order.
    case = make(mf.FieldSpec(3, 4, 32, 2, "tanh"), [3000, 0, 129])
    first = gradients(case, "cpu", second)
    threads = torch.get_num_threads()
    try:
        for count in (threads, 1, 2):
            torch.set_num_threads(count)
            assert all(map(torch.equal, gradients(case, "cpu", second), first)), f"{count} threads"
    finally:
        torch.set_num_threads(threads)


@compiled
def test_strided_cotangents_and_inputs(need, backend: str) -> None:
    need("bank_mlp", backend)
    case = make(mf.FieldSpec(3, 4, 37, 2, "tanh"), [40, 0, 33]).require()
    cotangent = torch.randn(4, 73).T
    plain = torch.autograd.grad(case.run(backend), case.leaves, cotangent.contiguous())
    assert all(map(torch.equal, torch.autograd.grad(case.run(backend), case.leaves, cotangent), plain))
    # An expanded cotangent is what .sum().backward() gives.
    ones = torch.autograd.grad(case.run(backend).sum(), case.leaves)
    want = torch.autograd.grad(case.run(backend), case.leaves, torch.ones(73, 4))
    assert all(map(torch.equal, ones, want))
    moved = make(case.spec, [40, 0, 33])
    moved.weights = [w.mT.contiguous().mT for w in moved.weights]
    moved.x = moved.x.T.contiguous().T
    moved.require()
    assert all(map(torch.equal, torch.autograd.grad(moved.run(backend), moved.leaves, cotangent), plain))


@backends
def test_empty_bank_and_empty_modules_have_zero_gradients(need, backend: str) -> None:
    need("bank_mlp", backend)
    for counts in ([0, 0], [0, 5], [0]):
        case = make(mf.FieldSpec(3, 2, 16, 1, "tanh"), counts).require()
        grads = torch.autograd.grad(case.run(backend).square().sum(), case.leaves)
        assert [g.shape for g in grads] == [t.shape for t in case.leaves]
        assert all(bool((g[0] == 0).all()) for g in grads[1:])
    none = make(mf.FieldSpec(3, 2, 16, 1), []).require()
    assert none.run(backend).shape == (0, 2)
    assert all(g.numel() == 0 for g in torch.autograd.grad(none.run(backend).sum(), none.leaves))


@backends
def test_inner_step_of_maml(need, backend: str) -> None:
    """Exact second order through two inner steps: some cotangents are missing (x needs no gradient)."""
    need("bank_mlp", backend, torch.float64)
    case = make(mf.FieldSpec(2, 1, 4, 1, "tanh"), [3, 0, 4], torch.float64).require(x=False)
    layers = len(case.weights)

    def outer(*start: Tensor) -> Tensor:
        parameters = list(start)
        for _ in range(2):
            y = mf.ops.bank_mlp(
                case.x, case.offsets, parameters[:layers], parameters[layers:], case.spec, backend=backend
            )
            loss = (y - 0.3).square().sum()
            grads = torch.autograd.grad(loss, parameters, create_graph=True)
            parameters = [p - 0.1 * g for p, g in zip(parameters, grads)]
        y = mf.ops.bank_mlp(case.x, case.offsets, parameters[:layers], parameters[layers:], case.spec, backend=backend)
        return y.square().sum()

    assert torch.autograd.gradcheck(outer, case.leaves)


@compiled
def test_second_derivative_with_one_cotangent_at_a_time(need, backend: str) -> None:
    need("bank_mlp", backend, torch.float64)
    case = make(mf.FieldSpec(3, 2, 8, 2, "sine", w0=2.0, skips=(1,)), [5, 0, 6], torch.float64).require()
    rows = {}
    for name in (backend, "reference"):
        grads = torch.autograd.grad(case.run(name).square().sum(), case.leaves, create_graph=True)
        rows[name] = [
            torch.autograd.grad(g.square().sum(), leaf, retain_graph=True, allow_unused=True)[0]
            for g in grads
            for leaf in case.leaves
        ]
    for found, want in zip(rows[backend], rows["reference"]):
        want = torch.zeros_like(found) if want is None else want
        torch.testing.assert_close(found, want, rtol=1e-10, atol=1e-12)


@compiled
def test_graph_can_be_used_twice_and_inputs_are_not_overwritten(need, backend: str) -> None:
    need("bank_mlp", backend)
    case = make(mf.FieldSpec(3, 2, 16, 1, "tanh"), [20]).require()
    before = [t.detach().clone() for t in case.leaves]
    loss = case.run(backend).square().sum()
    first = torch.autograd.grad(loss, case.leaves, retain_graph=True)
    assert all(map(torch.equal, torch.autograd.grad(loss, case.leaves), first))
    assert all(map(torch.equal, case.leaves, before))


def test_third_derivative(need) -> None:
    need("bank_mlp", "cpu")
    for backend in ("reference", "cpu"):
        case = make(mf.FieldSpec(2, 1, 8, 1, "tanh"), [4]).require()
        value = case.run(backend).sum()
        for _ in range(2):
            value = torch.autograd.grad(value, case.x, create_graph=True)[0].square().sum()
        if backend == "cpu":
            with pytest.raises(RuntimeError, match=r"third derivatives .* use backend='reference'"):
                torch.autograd.grad(value, case.x)
        else:
            assert bool(torch.autograd.grad(value, case.x)[0].isfinite().all())


@compiled
@pytest.mark.parametrize("activation", ["relu", "sine", "softplus", "tanh", "sigmoid"])
def test_gradients_far_out_are_finite(need, backend: str, activation: str) -> None:
    need("bank_mlp", backend)
    if (backend, activation) == ("triton", "sine"):
        pytest.skip("the sine of the Triton kernels is good up to 2^13 pi")
    case = make(mf.FieldSpec(1, 1, 16, 0, "none", activation), [64])
    case.x = torch.cat((torch.logspace(0, 30, 32), -torch.logspace(0, 30, 32)))[:, None]
    case.weights = [torch.ones(1, 1, 1)]
    case.biases = [torch.zeros(1, 1)]
    grads = {b: torch.autograd.grad(case.require().run(b).sum(), case.leaves) for b in (backend, "reference")}
    assert all(bool(g.isfinite().all()) for g in grads[backend])
    scale = 30.0 if activation == "sine" else 1.0
    torch.testing.assert_close(grads[backend][0], grads["reference"][0], rtol=1e-5, atol=1e-6 * scale)
    assert not any(math.isnan(float(g.sum())) for g in grads["reference"])
