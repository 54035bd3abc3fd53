"""Weights of a half type beside float32 points: coordinates are never rounded, in no op and no backend."""

from __future__ import annotations

from typing import Any

import places
import pytest
import torch
from bank_cases import Case, assert_no_worse, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops._rounding import PRECISIONS
from mclnf_fast.ops.bank_mlp.reference import mlp
from mclnf_fast.packing import Precision
from mclnf_fast.shading import Shading

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_mlp")
halves = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
SKIPS = mf.FieldSpec(3, 4, 32, 3, "sine", "sigmoid", mf.Frequency(6, include_input=True), 2.0, (1, 3))


def relative_rms(found: Tensor, truth: Tensor) -> float:
    return float((found.detach().double() - truth).square().mean().sqrt() / truth.square().mean().sqrt())


@backends
@halves
@pytest.mark.parametrize("way", ["weights", "autocast", "module"])
def test_ten_octaves_of_an_encoding_survive_half_weights(need, backend: str, half: torch.dtype, way: str) -> None:
    """Coordinates of 8 bits, which the weights' type had asked for, made the result wrong by 27 to 29 % of its size."""
    need("bank_mlp", backend, half)
    torch.manual_seed(0)
    spec = mf.FieldSpec(3, 4, 64, 4, encoding=mf.Frequency(10, include_input=True))
    bank = mf.FieldBank(spec, 3)
    x, offsets = torch.rand(999, 3) * 2 - 1, torch.tensor([0, 333, 700, 999])
    wide = [[t.detach().double() for t in ts] for ts in (bank.weight, bank.bias)]
    truth = mf.ops.bank_mlp(x.double(), offsets, *wide, spec, backend="reference")
    if way == "weights":  # those of a bank that was saved whole in a half type
        low = [[t.detach().to(half) for t in ts] for ts in (bank.weight, bank.bias)]
        found = mf.ops.bank_mlp(x, offsets, *low, spec, backend=backend)
    else:
        with torch.autocast(places.here(), half, enabled=way == "autocast"):
            module = bank if way == "autocast" else bank.to(half)
            found = module(x, offsets=offsets, backend=backend)
    assert found.dtype == torch.float32
    assert relative_rms(found, truth) < 0.012
    # What it would be: the rounding of the coordinates alone.
    assert relative_rms(mf.ops.bank_mlp(x.bfloat16().double(), offsets, *wide, spec, backend="reference"), truth) > 0.2


@backends
@halves
@pytest.mark.parametrize("activation", ["sine", "relu", "softplus"])
def test_outputs_and_gradients_of_skips(need, backend: str, half: torch.dtype, activation: str) -> None:
    need("bank_mlp", backend, half)
    spec = mf.FieldSpec(3, 4, 33, 3, activation, "sigmoid", SKIPS.encoding, 2.0, (1, 3))
    low = make(spec, [300, 0, 75]).mixed(half)
    if activation == "relu":  # one whose sign a rounding changes has another gradient, in PyTorch as well
        low.biases = [2 * b.sign() for b in low.biases]
        low.weights = [0.15 * w for w in low.weights]
    cotangent = torch.randn(375, 4)

    def values(case: Case, name: str) -> list[Tensor]:
        y = case.require().run(name)
        return [y, *torch.autograd.grad(y, case.leaves, cotangent.to(y.dtype))]

    found, same, truth = values(low, backend), values(low, "reference"), values(low.to(torch.float64), "reference")
    kinds = [torch.float32] + [t.dtype for t in low.leaves]
    assert [t.dtype for t in found] == kinds == [t.dtype for t in same]
    for k, (f, s, t) in enumerate(zip(found, same, truth)):
        assert_no_worse(f, s, t, "output" if k == 0 else f"gradient {k - 1}")


@backends
@halves
def test_second_derivatives(need, backend: str, half: torch.dtype) -> None:
    need("bank_mlp", backend, half)
    low = make(mf.FieldSpec(3, 2, 24, 2, "tanh", encoding=mf.Frequency(3, True), skips=(1,)), [200, 56]).mixed(half)

    def values(case: Case, name: str) -> list[Tensor]:
        first = torch.autograd.grad(case.require().run(name).square().sum(), case.leaves, create_graph=True)
        return list(torch.autograd.grad(sum(g.to(case.x.dtype).square().sum() for g in first), case.leaves))

    found, same, truth = values(low, backend), values(low, "reference"), values(low.to(torch.float64), "reference")
    assert [t.dtype for t in found] == [t.dtype for t in low.leaves]
    for k, (f, s, t) in enumerate(zip(found, same, truth)):
        assert_no_worse(f, s, t, f"gradient {k}")


@backends
@halves
def test_points_of_a_half_type_are_widened(need, backend: str, half: torch.dtype) -> None:
    """What they have lost is lost; nothing more is. The result is rounded once."""
    need("bank_mlp", backend, half)
    low = make(SKIPS, [30, 12]).to(half)
    wide = Case(low.spec, low.x.float(), low.offsets, low.weights, low.biases)
    y = low.run(backend)
    assert y.dtype == half
    assert torch.equal(y, wide.run(backend).to(half))


def losses(case: Case, op: str, backend: str) -> Any:
    """A loss [M], and what autograd finds for the parameters."""
    g = torch.Generator().manual_seed(5)
    n, dtype = case.x.shape[0], case.x.dtype

    def drawn(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)

    bank = (case.weights, case.biases)
    if op == "bank_mse":
        target, weight = drawn(n, 4), drawn(n)
        loss = mf.ops.bank_mse(case.x, case.offsets, *bank, target, case.spec, weight, backend=backend)
    else:
        rays = case.offsets.new_tensor([*range(0, n, 5), n])
        counts = torch.searchsorted(rays, case.offsets)
        loss = mf.ops.bank_ray_mse(
            case.x, rays, counts, *bank, drawn(n) * 0.3, drawn(len(rays) - 1, 3), case.spec,
            Shading(background=(0.2, 0.4, 0.9)), ray_weight=drawn(len(rays) - 1), backend=backend,
        )  # fmt: skip
    cotangent = torch.linspace(0.5, 1.5, len(loss), dtype=loss.dtype)
    return [loss, *torch.autograd.grad(loss, [*case.weights, *case.biases], cotangent)]


@pytest.mark.parametrize("op", ["bank_mse", "bank_ray_mse"])
@backends
@halves
@pytest.mark.parametrize("autocast", [False, True])
def test_losses(need, op: str, backend: str, half: torch.dtype, autocast: bool) -> None:
    if backend == "triton" and op == "bank_ray_mse":
        pytest.skip("no Triton kernel")
    need(op, backend, half)
    low = make(SKIPS, [100, 0, 25]).mixed(half).require(x=False)
    truth = losses(low.to(torch.float64).require(x=False), op, "reference")
    same = losses(low, op, "reference")
    if autocast:  # of the very weights that it casts to
        wide = low.to(torch.float32).require(x=False)
        with torch.autocast(places.here(), half):
            found = losses(wide, op, backend)
        assert all(g.dtype == torch.float32 for g in found)
        found = [f.to(s.dtype) for f, s in zip(found, same)]
    else:
        found = losses(low, op, backend)
        assert [g.dtype for g in found] == [torch.float32] + [t.dtype for t in low.leaves]
    for k, (f, s, t) in enumerate(zip(found, same, truth)):
        assert_no_worse(f, s, t, f"result {k}")


@places.backends("fisher_scores")
@halves
@pytest.mark.parametrize("given", [False, True])
def test_fisher_scores_have_the_dtype_of_the_points(need, backend: str, half: torch.dtype, given: bool) -> None:
    need("fisher_scores", backend, half)
    low = make(SKIPS, [100, 0, 25]).mixed(half)
    grad_y = torch.randn(125, 4) * 1e-3  # whose squares float16 does not hold
    fisher = tuple([torch.rand_like(t, dtype=torch.float32) for t in ts] for ts in (low.weights, low.biases))

    def scored(case: Case, name: str) -> list[Tensor]:
        cast = [[t.to(case.x.dtype) for t in ts] for ts in fisher] if given else None
        result = mf.ops.fisher_scores(case.x, case.offsets, case.weights, case.biases, grad_y.to(case.x.dtype), cast,
                                      case.spec, backend=name)  # fmt: skip
        return [result.scores, *result.grads[0], *result.grads[1], *result.fisher[0], *result.fisher[1]]

    found, truth = scored(low, backend), scored(low.to(torch.float64), "reference")
    assert all(t.dtype == torch.float32 for t in found)
    for f, t in zip(found, truth):
        assert relative_rms(f, t) < 0.03


@places.backends("grid_encode")
@halves
def test_half_tables_of_grids(need, backend: str, half: torch.dtype) -> None:
    """Read in float32, at unrounded points."""
    need("grid_encode", backend)
    grid = mf.HashGrid(levels=4, features=2, base=8, finest=512)
    tables = torch.rand(2, grid.layout(3).entries, 2).to(half).requires_grad_()
    x, offsets = torch.rand(40, 3), torch.tensor([0, 25, 40])
    found = mf.ops.grid_encode(x, offsets, tables, grid, backend)
    wide = tables.detach().float().requires_grad_()
    want = mf.ops.grid_encode(x, offsets, wide, grid, backend)
    assert torch.equal(found, want)
    (gradient,), (all_bits,) = (torch.autograd.grad(y.square().sum(), t) for y, t in ((found, tables), (want, wide)))
    assert torch.equal(gradient, all_bits.to(half))


def test_what_is_refused() -> None:
    case = make(SKIPS, [4])
    low = case.to(torch.bfloat16)

    def run(x: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        return mf.ops.bank_mlp(x, case.offsets, weights, biases, case.spec)

    run(case.x, low.weights, low.biases)
    run(case.x, low.weights, case.biases)
    with pytest.raises(TypeError, match=r"biases\[0\] must have dtype .*bfloat16 or .*float32, got torch.float16"):
        run(case.x, low.weights, case.to(torch.float16).biases)
    with pytest.raises(TypeError, match=r"weights\[1\] must have dtype torch.bfloat16, got torch.float32"):
        run(case.x, [*case.weights[:2], *low.weights[2:]], case.biases)
    with pytest.raises(TypeError, match=r"biases\[0\] must have dtype torch.float32, got torch.bfloat16"):
        run(case.x, case.weights, low.biases)
    with pytest.raises(TypeError, match=r"weights\[0\] must have dtype torch.float64, got torch.bfloat16"):
        run(case.x.double(), low.weights, low.biases)
    with pytest.raises(TypeError, match=r"weights\[0\] must have dtype torch.float16, got torch.bfloat16"):
        run(case.x.half(), low.weights, low.biases)
    with pytest.raises(TypeError, match=r"weights\[0\] must have dtype .*float32.*bfloat16.*got torch.float64"):
        run(case.x, [w.double() for w in case.weights], case.biases)


@halves
def test_half_banks_and_fits_round_the_same(half: torch.dtype) -> None:
    """Weights of a half type, and float32 ones of a fit whose products have that format: one definition."""
    low = make(mf.FieldSpec(3, 2, 24, 2, "tanh", encoding=mf.Frequency(3, True)), [37]).mixed(half)

    def values(case: Case, precision: Precision | None) -> list[Tensor]:
        weights, biases = ([t[0] for t in ts] for ts in (case.weights, case.biases))
        y = mlp(case.x, weights, biases, case.spec, precision)
        return [y, *torch.autograd.grad(y.square().sum(), case.leaves)]

    found = values(low.require(), None)
    same = values(low.to(torch.float32).require(), PRECISIONS[half])
    for f, s in zip(found, same):
        assert torch.equal(f, s.to(f.dtype))
    # Of one point, the gradients of the biases are those of the pre-activations.
    one = make(low.spec, [1]).mixed(half).require()
    gradients = torch.autograd.grad(one.run("reference").square().sum(), one.biases)
    assert [torch.equal(g, g.to(half).float()) for g in gradients] == [False, True, True]


@halves
def test_the_reference_of_half_weights_passes_transforms(half: torch.dtype) -> None:
    low = make(mf.FieldSpec(3, 2, 24, 2, "tanh", encoding=mf.Frequency(3, True)), [5, 5]).mixed(half)
    bank = (low.offsets, low.weights, low.biases, low.spec)

    def outputs(x: Tensor) -> Tensor:
        return mf.ops.bank_mlp(x, *bank)

    def sums(x: Tensor) -> Tensor:
        return outputs(x).sum()

    want = torch.autograd.grad(mf.ops.bank_mlp(low.require().x, *bank, "reference").sum(), low.x)[0]
    low = low.require(False, False)
    x = low.x.detach()
    assert torch.equal(torch.func.grad(sums)(x), want)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(sums))(torch.stack((x, x)))[1], want)
    tangent = torch.randn_like(x)
    y, along = torch.func.jvp(outputs, (x,), (tangent,))
    assert torch.equal(y, mf.ops.bank_mlp(x, *bank, "reference"))
    # The tangent is rounded less than the gradient.
    torch.testing.assert_close(along.sum(), (want * tangent).sum(), rtol=0.05, atol=0.05)
