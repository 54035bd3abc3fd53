"""Second derivatives by the Triton kernels against the reference: on a GPU where there is one, else interpreted."""

from __future__ import annotations

import pytest
import torch
from bank_cases import ACTIVATIONS, ENCODINGS, Case, assert_no_worse
from torch import Tensor
from torch.library import opcheck

import mclnf_fast as mf

pytestmark = pytest.mark.usefixtures("poisoned")
COUNTS = [70, 0, 33, 1]


def names(case: Case) -> list[str]:
    return [
        "x", *(f"weights[{l}]" for l in range(len(case.weights))), *(f"biases[{l}]" for l in range(len(case.biases)))
    ]  # fmt: skip


def second(case: Case, backend: str, grad_y: Tensor, along: list[Tensor | None], x: bool = True) -> list[Tensor]:
    """Gradients of <first derivatives, along> in x (if asked for), weights, biases and grad_y."""
    case.require(x=x)
    dtype = case.x.dtype
    grad_y = grad_y.detach().to(dtype).requires_grad_()
    wanted = [*([case.x] if x else []), *case.weights, *case.biases]
    first = torch.autograd.grad(case.run(backend), wanted, grad_y, create_graph=True)
    pairs = [(f, a.to(dtype)) for f, a in zip(first, along if x else along[1:]) if a is not None]
    outputs, cotangents = zip(*pairs)
    return list(torch.autograd.grad(outputs, [*wanted, grad_y], cotangents, materialize_grads=True))


def directions(case: Case) -> list[Tensor | None]:
    g = torch.Generator().manual_seed(5)
    device = case.x.device
    return [torch.randn(t.shape, generator=g).to(device) for t in (case.x, *case.weights, *case.biases)]


def agrees(case: Case, along: list[Tensor | None] | None = None, x: bool = True, rounded: bool = False) -> None:
    """No worse than the reference in the same dtype; `rounded`: what the layers read has 10 bits or so, whose errors
    are held against the values alone."""
    along = directions(case) if along is None else along
    g = torch.Generator().manual_seed(6)
    grad_y = torch.randn(case.x.shape[0], case.spec.out_dim, generator=g).to(case.x.device)
    found, plain, truth = (
        second(c, b, grad_y, along, x)
        for c, b in ((case, "triton"), (case, "reference"), (case.to(torch.float64), "reference"))
    )
    for name, a, r, t in zip([*names(case)[not x :], "grad_y"], found, plain, truth, strict=True):
        if rounded:
            assert a.dtype == r.dtype
            assert float((a.double() - t).norm()) <= 4e-2 * float(t.norm()) + 1e-12, name
        else:
            assert_no_worse(a, r, t, name, terms=max(100, case.x.shape[0]))


@pytest.mark.parametrize(
    ("activation", "output"), [*((a, "none") for a in ("none", *ACTIVATIONS)), *(("tanh", a) for a in ACTIVATIONS)]
)
def test_every_activation(triton_case, activation: str, output: str) -> None:
    # One layer of exponentials: two amplify every rounding by their slopes.
    hidden = 1 if "exp" in (activation, output) else 2
    spec = mf.FieldSpec(2, 3, 20, hidden, activation, output, mf.Frequency(2), w0=2.0, skips=(1,))
    agrees(triton_case(spec, COUNTS))


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("skips", [(), (1, 2)])
def test_every_encoding(triton_case, tf32: bool, encoding: str, skips: tuple[int, ...]) -> None:
    in_dim, kind = ENCODINGS[encoding]
    agrees(triton_case(mf.FieldSpec(in_dim, 12, 20, 2, "tanh", "sigmoid", kind, skips=skips), COUNTS), rounded=tf32)


@pytest.mark.parametrize("width", [7, 64, 130])
def test_every_width(triton_case, tf32: bool, width: int) -> None:
    agrees(triton_case(mf.FieldSpec(3, 4, width, 2, "softplus", encoding=mf.Frequency(10)), [90, 0, 60]), rounded=tf32)


@pytest.mark.parametrize(("in_dim", "out_dim", "hidden"), [(1, 1, 0), (2, 17, 0), (3, 1, 6), (70, 140, 1)])
def test_every_depth(triton_case, in_dim: int, out_dim: int, hidden: int) -> None:
    skips = (hidden,) if hidden else ()
    agrees(triton_case(mf.FieldSpec(in_dim, out_dim, 32, hidden, "tanh", skips=skips), [0, 40, 17]))


@pytest.mark.parametrize("counts", [[1], [0], [0, 0, 5], [3] * 20, [129, 128, 127], []])
def test_every_share(triton_case, counts: list[int]) -> None:
    agrees(triton_case(mf.FieldSpec(3, 4, 16, 1, "sine", encoding=mf.Frequency(3), w0=2.0), counts))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [32, 100])
def test_half_types(triton_case, dtype: torch.dtype, width: int) -> None:
    case = triton_case(mf.FieldSpec(3, 4, width, 2, "tanh", encoding=mf.Frequency(3), skips=(2,)), [50, 60], dtype)
    agrees(case, rounded=True)


@pytest.mark.parametrize("which", ["x", "weights", "one bias"])
def test_a_direction_that_is_missing_is_zeros(triton_case, which: str) -> None:
    case = triton_case(mf.FieldSpec(3, 4, 20, 2, "tanh", encoding=mf.Frequency(3), skips=(1,)), COUNTS)
    along = directions(case)
    layers = len(case.weights)
    keep = {"x": [0], "weights": range(1, 1 + layers), "one bias": [2 + layers]}[which]
    agrees(case, [t if k in keep else None for k, t in enumerate(along)])


@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_x_that_needs_no_gradient(triton_case, activation: str) -> None:
    agrees(triton_case(mf.FieldSpec(3, 4, 20, 2, activation, encoding=mf.Frequency(3), skips=(1,)), COUNTS), x=False)


def test_the_gradient_of_x_alone(triton_case) -> None:
    """What an eikonal loss or a normal takes: parameters that require gradients where x alone was derived."""
    case = triton_case(mf.FieldSpec(3, 1, 20, 2, "softplus", encoding=mf.Frequency(2)), COUNTS)

    def loss(c: Case, backend: str) -> list[Tensor]:
        c.require()
        (normal,) = torch.autograd.grad(c.run(backend).sum(), c.x, create_graph=True)
        return list(torch.autograd.grad((normal.norm(dim=1) - 1).square().sum(), c.leaves, materialize_grads=True))

    exact = loss(case.to(torch.float64), "reference")
    for name, a, r, t in zip(names(case), loss(case, "triton"), loss(case, "reference"), exact, strict=True):
        assert_no_worse(a, r, t, name, terms=104)


def test_steps_of_meta_learning(triton_case) -> None:
    """Two inner steps, and the gradient of what they lead to in the parameters that they began with."""
    case = triton_case(mf.FieldSpec(2, 3, 16, 2, "relu", "sigmoid", mf.Frequency(3)), [40, 0, 25])
    target = torch.rand(65, 3, device=case.x.device)

    def outer(c: Case, backend: str) -> list[Tensor]:
        c.require(x=False)
        layers = len(c.weights)
        begin = own = [*c.weights, *c.biases]
        for _ in range(2):
            y = mf.ops.bank_mlp(c.x, c.offsets, own[:layers], own[layers:], c.spec, backend)
            steps = torch.autograd.grad((y - target.to(y.dtype)).square().mean(), own, create_graph=True)
            own = [t - 5.0 * s for t, s in zip(own, steps)]
        y = mf.ops.bank_mlp(c.x, c.offsets, own[:layers], own[layers:], c.spec, backend)
        return list(torch.autograd.grad((y - target.to(y.dtype)).square().mean(), begin))

    exact = outer(case.to(torch.float64), "reference")
    for name, a, r, t in zip(names(case)[1:], outer(case, "triton"), outer(case, "reference"), exact, strict=True):
        assert_no_worse(a, r, t, name, terms=100)


def all_three(case: Case) -> list[Tensor]:
    """Values, first and second derivatives."""
    y = case.require().run("triton")
    grad_y = torch.linspace(-1, 1, y.numel(), device=y.device).view_as(y).to(y.dtype)
    return [y, *torch.autograd.grad(y, case.leaves, grad_y), *second(case, "triton", grad_y, directions(case))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_pieces_against_the_whole(triton_case, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    from mclnf_fast.ops.triton import launch

    case = triton_case(mf.FieldSpec(3, 2, 132, 1, "tanh"), [140, 0, 30, 0, 100, 30], dtype)
    whole = all_three(case)
    monkeypatch.setattr(launch, "PIECE_VALUES", 1)
    monkeypatch.setattr(launch, "PIECE_POINTS", 128)
    assert len(launch.pieces(300, 1000)) == 3
    eps = torch.finfo(dtype).eps
    for a, b in zip(all_three(case), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=8 * eps, atol=8 * eps * float(b.detach().abs().max()))


def test_modules_of_many_chunks(triton_case, monkeypatch: pytest.MonkeyPatch) -> None:
    from mclnf_fast.ops.triton import launch

    monkeypatch.setattr(launch, "CHUNKS", 3)
    agrees(triton_case(mf.FieldSpec(3, 4, 16, 1, "tanh"), [300, 0, 90]))


def test_the_same_bits_twice(triton_case) -> None:
    case = triton_case(mf.FieldSpec(3, 4, 32, 2, "tanh"), [150, 0, 50])
    for a, b in zip(all_three(case), all_three(case), strict=True):
        assert torch.equal(a, b)


def test_no_number_in_one_module_leaves_the_others_alone(triton_case) -> None:
    case = triton_case(mf.FieldSpec(3, 4, 16, 1, "tanh", encoding=mf.Frequency(2)), [20, 30, 10])
    clean = all_three(case)
    case.x.data[25, 1] = float("nan")
    for a, b in zip(all_three(case), clean, strict=True):
        per_module = a.shape[0] == 3
        others = [0, 2] if per_module else [k for k in range(60) if k != 25]
        assert torch.equal(a[others], b[others])
    assert bool(all_three(case)[-1][25].isnan().all())


def test_the_error_of_the_third_derivative_names_the_remedy(triton_case) -> None:
    case = triton_case(mf.FieldSpec(2, 2, 8, 1, "tanh"), [5]).require()
    first = torch.autograd.grad(case.run("triton").sum(), case.leaves, create_graph=True)
    again = torch.autograd.grad(sum(t.square().sum() for t in first), case.leaves, create_graph=True)
    with pytest.raises(RuntimeError, match=r"third derivatives.*backend='reference'"):
        torch.autograd.grad(sum(t.square().sum() for t in again), case.leaves)


@pytest.mark.parametrize("requires", [False, True])
def test_opcheck(triton_case, requires: bool) -> None:
    case = triton_case(mf.FieldSpec(3, 2, 16, 1, "tanh", encoding=mf.Frequency(2)), [5, 0, 3])
    from mclnf_fast.ops.bank_mlp.triton import ops  # noqa: F401 (registers the ops)

    case.require(requires, requires)
    bank = (case.x, case.offsets, case.weights, case.biases)
    grad_y = torch.randn(8, 2, device=case.x.device, requires_grad=requires)
    ops_ = torch.ops.mclnf_fast_triton
    opcheck(ops_.bank_mlp_bwd.default, (*bank, grad_y, *case.spec.packed, True, True))
    if not requires:
        tangents = [torch.randn_like(t) for t in (*case.weights, *case.biases)]
        layers = len(case.weights)
        for given in (
            (torch.randn_like(case.x), tangents[:layers], tangents[layers:]),
            (None, tangents[:layers], tangents[layers:]),
            (torch.randn_like(case.x), [], []),
        ):
            opcheck(ops_.bank_mlp_bwd_bwd.default, (*bank, grad_y, *given, *case.spec.packed, given[0] is not None))


def test_compiled(triton_case) -> None:
    case = triton_case(mf.FieldSpec(2, 2, 16, 1, "tanh", encoding=mf.Frequency(2)), [6, 0, 3]).require(x=False)
    layers = len(case.weights)

    def first(*leaves: Tensor) -> Tensor:
        y = mf.ops.bank_mlp(case.x, case.offsets, leaves[:layers], leaves[layers:], case.spec, "triton")
        return y.square().sum()

    leaves = [*case.weights, *case.biases]
    compiled = torch.compile(first, fullgraph=True, backend="aot_eager")(*leaves)
    for a, b in zip(torch.autograd.grad(compiled, leaves), torch.autograd.grad(first(*leaves), leaves), strict=True):
        assert torch.equal(a, b)
