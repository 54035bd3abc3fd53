"""The squared error of composited rays: the definition against a loop over points, the fused sweep against it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import places
import pytest
import torch
from bank_cases import ENCODINGS, Case, assert_no_worse, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.errors import BackendError
from mclnf_fast.ops import Shading

backends = places.backends("bank_ray_mse")
compiled = places.backends("bank_ray_mse", reference=False)
COUNTS = [[5, 0, 40, 1], [], [130, 17, 0, 300, 64, 0], [0, 0]]  # points of each module's rays
SPECS = {
    "relu": mf.FieldSpec(3, 4, 24, 3, "relu", encoding=mf.LogFrequency(5, 3.0)),
    "skip": mf.FieldSpec(6, 4, 12, 2, "tanh", encoding=ENCODINGS["composite"][1], skips=(1,)),
    "sigmoid": mf.FieldSpec(3, 4, 20, 1, "sine", w0=3.0, output_activation="softplus"),
    "linear": mf.FieldSpec(3, 4, 8, 0),
}
SHADINGS = {
    "bins": Shading(detach_last_density=True),
    "city": Shading("exp", density_first=True, max_raw_density=0.4, background="last_sample"),
    "plain": Shading("exp"),
    "first": Shading(density_first=True, max_raw_density=-3.0),
}


@dataclass
class Problem:
    case: Case
    rays: Tensor
    ray_offsets: Tensor
    deltas: Tensor
    target: Tensor
    weight: Tensor | None
    background: Tensor | None
    shading: Shading

    def loss(self, backend: str, reduction: str = "mean", **change: Any) -> Tensor:
        case = self.case
        given: dict[str, Any] = {
            "x": case.x, "rays": self.rays, "ray_offsets": self.ray_offsets, "weights": case.weights,
            "biases": case.biases, "deltas": self.deltas, "target": self.target, "spec": case.spec,
            "shading": self.shading, "ray_weight": self.weight, "background": self.background,
        }  # fmt: skip
        return mf.ops.bank_ray_mse(**{**given, "reduction": reduction, "backend": backend, **change})

    def to(self, dtype: torch.dtype) -> Problem:
        real = {
            k: None if (t := getattr(self, k)) is None else t.to(dtype)
            for k in ("deltas", "target", "weight", "background")
        }
        return replace(self, case=self.case.to(dtype).require(x=False), **real)


def problem(spec: str, shading: str, dtype: torch.dtype = torch.float64, counts: Any = COUNTS) -> Problem:
    """Some rays have no point, some are longer than what is worked on at once, one module has neither."""
    g = torch.Generator().manual_seed(1)
    flat = torch.tensor([0, *(c for module in counts for c in module)])
    owned = torch.tensor([0, *(len(module) for module in counts)])
    case = make(SPECS[spec], [sum(module) for module in counts], dtype).require(x=False)
    rays, points = len(flat) - 1, int(flat.sum())

    def real(*shape: int) -> Tensor:
        return torch.rand(shape, generator=g, dtype=torch.float64).to(dtype)

    background = None if SHADINGS[shading].background == "last_sample" or shading == "plain" else real(3)
    return Problem(
        case, flat.cumsum(0), owned.cumsum(0), 0.3 * real(points), real(rays, 3), real(rays), background,
        SHADINGS[shading],
    )  # fmt: skip


def by_hand(p: Problem, reduction: str) -> Tensor:
    """The formulas of arXiv 2003.08934, eq. 3, point by point."""
    case, shading = p.case, p.shading
    raw = mf.ops.bank_mlp(case.x, case.offsets, case.weights, case.biases, case.spec, "reference")
    totals = []
    for m in range(len(p.ray_offsets) - 1):
        total = raw.sum() * 0
        for r in range(int(p.ray_offsets[m]), int(p.ray_offsets[m + 1])):
            through, pixel = raw.new_ones(()), raw.new_zeros(3)
            begin, end = int(p.rays[r]), int(p.rays[r + 1])
            behind = raw.new_zeros(3) if p.background is None else p.background
            for i in range(begin, end):
                dense, color = (raw[i, 0], raw[i, 1:]) if shading.density_first else (raw[i, 3], raw[i, :3])
                sigma = (
                    dense.clamp(min=0)
                    if shading.density_activation == "relu"
                    else dense.clamp(max=shading.max_raw_density).exp()
                )
                if i + 1 == end:
                    sigma = sigma.detach() if shading.detach_last_density else sigma
                    behind = color.sigmoid() if shading.background == "last_sample" else behind
                alpha = 1 - torch.exp(-sigma * p.deltas[i])
                pixel = pixel + through * alpha * color.sigmoid()
                through = through * (1 - alpha)
            error = (pixel + through * behind - p.target[r]).square().sum()
            total = total + (error if p.weight is None else p.weight[r] * error)
        rays = int(p.ray_offsets[m + 1] - p.ray_offsets[m])
        totals.append(total / max(1, 3 * rays) if reduction == "mean" else total)
    return torch.stack(totals)


def everything(p: Problem, loss: Tensor) -> list[Tensor]:
    """Losses, gradients with factors and without, and second derivatives through both cotangent and parameters."""
    leaves = [*p.case.weights, *p.case.biases]
    factors = torch.linspace(0.5, 2, len(loss), dtype=loss.dtype)
    plain = torch.autograd.grad(loss.sum(), leaves, retain_graph=True)
    again = torch.autograd.grad(loss.sum(), leaves, retain_graph=True)
    scaled = torch.autograd.grad((loss * factors).sum(), leaves, create_graph=True)
    second = torch.autograd.grad(sum((g * g.detach().cos()).sum() for g in scaled), leaves, retain_graph=True)
    curved = torch.autograd.grad(loss.square().sum(), leaves, create_graph=True)
    mixed = torch.autograd.grad(sum(g.sum() for g in curved), leaves)
    return [loss, *plain, *again, *scaled, *second, *mixed]


@pytest.mark.parametrize("shading", SHADINGS)
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_definition_is_the_formula(shading: str, reduction: str) -> None:
    p = problem("sigmoid", shading, counts=[[4, 0, 3], [], [1, 6]])
    for f, w in zip(everything(p, p.loss("reference", reduction)), everything(p, by_hand(p, reduction)), strict=True):
        torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-11)


@compiled
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("shading", SHADINGS)
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_derivatives(need, poisoned, backend: str, spec: str, shading: str, weighted: bool) -> None:
    need("bank_ray_mse", backend, torch.float64)
    p = problem(spec, shading)
    p.weight = p.weight if weighted else None
    reduction = "sum" if weighted else "mean"
    found, want = (everything(p, p.loss(b, reduction)) for b in (backend, "reference"))
    for f, w in zip(found, want, strict=True):
        torch.testing.assert_close(f, w, rtol=1e-9, atol=1e-10)


@compiled
@pytest.mark.parametrize("shading", SHADINGS)
def test_float32_is_as_near_the_truth_as_pytorch(need, backend: str, shading: str) -> None:
    need("bank_ray_mse", backend)
    exact = problem("relu", shading, counts=[[32] * 90, [128] * 20])
    p = exact.to(torch.float32)
    exact = p.to(torch.float64)
    found, same, truth = (everything(q, q.loss(b)) for q, b in ((p, backend), (p, "reference"), (exact, "reference")))
    for k, (f, s, t) in enumerate(zip(found, same, truth, strict=True)):
        assert_no_worse(f, s, t, str(k), terms=3000)


@compiled
@pytest.mark.parametrize("shading", [Shading(), Shading("exp", max_raw_density=0.5)], ids=["relu", "exp"])
def test_derivatives_at_the_kink_of_the_density(need, backend: str, shading: Shading) -> None:
    """Raw density 0 under relu: no gradient, as torch has it; the bound itself under exp: the whole one."""
    need("bank_ray_mse", backend, torch.float64)
    p = problem("linear", "plain", counts=[[3, 4]])
    p.shading, p.background = shading, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    kink = 0.0 if shading.density_activation == "relu" else shading.max_raw_density
    with torch.no_grad():
        p.case.weights[0].zero_()
        p.case.biases[0].copy_(torch.tensor([0.3, -0.2, 0.1, kink]))
    found, want = (torch.autograd.grad(p.loss(b).sum(), p.case.biases)[0] for b in (backend, "reference"))
    assert bool(found[0, 3] == 0) == (shading.density_activation == "relu")
    torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_density_that_is_no_number_is_not_taken_for_an_empty_one(need, backend: str, dtype: torch.dtype) -> None:
    need("bank_ray_mse", backend, dtype)
    p = problem("linear", "plain", dtype, counts=[[3, 4], [5]])
    p.shading = Shading()
    with torch.no_grad():
        p.case.biases[0][0, 3] = torch.nan
    assert p.loss(backend).isnan().tolist() == [True, False]


@backends
def test_the_last_bin_may_be_endless(need, backend: str) -> None:
    need("bank_ray_mse", backend)
    p = problem("relu", "bins", torch.float32, counts=[[16, 16]])
    p.deltas[15::16] = 1e10
    loss = p.loss(backend)
    grads = torch.autograd.grad(loss.sum(), [*p.case.weights, *p.case.biases])
    assert all(bool(t.isfinite().all()) for t in (loss.detach(), *grads))
    exact = p.to(torch.float64)
    torch.testing.assert_close(loss.detach().double(), by_hand(exact, "mean").detach(), rtol=1e-5, atol=1e-7)


@backends
@pytest.mark.parametrize("background", ["white", (0.25, 0.5, 1.0)])
def test_the_background_of_the_shading_is_that_of_the_argument(need, backend: str, background: Any) -> None:
    need("bank_ray_mse", backend, torch.float64)
    p = problem("relu", "plain", counts=[[4, 0, 3], [2]])
    named = replace(p, shading=replace(p.shading, background=background))
    assert named.shading.background_color is not None
    given = replace(p, background=torch.tensor(named.shading.background_color, dtype=torch.float64))
    assert torch.equal(named.loss(backend), given.loss(backend))
    assert not torch.equal(named.loss(backend), p.loss(backend))


@compiled
@pytest.mark.parametrize("which", ["x", "deltas", "target", "weight", "background"])
def test_other_inputs_that_require_a_gradient(need, backend: str, which: str) -> None:
    need("bank_ray_mse", backend, torch.float64)
    p = problem("skip", "bins")
    leaf = (p.case.x if which == "x" else getattr(p, which)).requires_grad_()
    found, want = (torch.autograd.grad(p.loss(b).square().sum(), leaf)[0] for b in (backend, "reference"))
    torch.testing.assert_close(found, want, rtol=1e-9, atol=1e-12)


def test_bits_do_not_depend_on_threads_or_neighbors(need) -> None:
    need("bank_ray_mse", "cpu")
    p = problem("relu", "city", torch.float32, counts=[[16] * 300, [3] * 20, [130] * 150])

    def run(threads: int, q: Problem) -> list[Tensor]:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            loss = q.loss("cpu")
            return [loss, *torch.autograd.grad(loss.sum(), [*q.case.weights, *q.case.biases])]
        finally:
            torch.set_num_threads(before)

    for a, b, c in zip(run(1, p), run(2, p), run(2, p), strict=True):
        assert torch.equal(a, b)
        assert torch.equal(b, c)
    points, bank = int(p.rays[300]), p.case
    one = {
        name: [t[:1].detach().requires_grad_() for t in part]
        for name, part in (("weights", bank.weights), ("biases", bank.biases))
    }
    rays = {"rays": p.rays[:301], "ray_offsets": p.ray_offsets[:2], "deltas": p.deltas[:points]}
    case = replace(bank, x=bank.x[:points], offsets=torch.tensor([0, points]), **one)
    first = replace(p, case=case, target=p.target[:300], weight=p.weight[:300], **rays)
    for a, b in zip(run(1, p), run(2, first), strict=True):
        assert torch.equal(a[:1], b)


@backends
def test_modules_without_a_ray_and_rays_without_a_point(need, backend: str) -> None:
    need("bank_ray_mse", backend)
    p = problem("relu", "bins", torch.float32, counts=[[], [0, 0, 0]])
    loss = p.loss(backend)
    each = (p.background - p.target).square().sum(-1) * p.weight
    torch.testing.assert_close(loss.detach(), torch.stack((torch.zeros(()), each.sum() / 9)))
    assert all(bool((g == 0).all()) for g in torch.autograd.grad(loss.sum(), p.case.weights))
    behind = problem("relu", "city", torch.float32, counts=[[0]])
    torch.testing.assert_close(behind.loss(backend, "sum"), behind.weight * behind.target.square().sum(-1))


@compiled
def test_a_point_that_is_no_number_spoils_its_own_module_alone(need, backend: str) -> None:
    need("bank_ray_mse", backend)
    p = problem("relu", "city", torch.float32, counts=[[20, 5], [20, 5]])
    p.case.x[3, 1] = float("nan")
    loss = p.loss(backend)
    grads = torch.autograd.grad(loss.sum(), p.case.weights)
    assert math.isnan(loss.detach()[0])
    assert math.isfinite(loss.detach()[1])
    assert all(bool(g[1].isfinite().all()) and not bool(g[0].isfinite().all()) for g in grads)


@compiled
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_composite_in_float32(need, backend: str, dtype: torch.dtype) -> None:
    need("bank_ray_mse", backend, dtype)
    p = problem("relu", "city", torch.float32)
    half = p.to(dtype)
    loss = half.loss(backend)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), p.loss(backend).detach(), rtol=0.05, atol=0.05)
    grads = torch.autograd.grad(loss.sum(), (*half.case.weights, *half.case.biases))
    # Against float64 at the same rounded numbers: what is left is the rounding of what is between.
    wide = half.to(torch.float64)
    truth = torch.autograd.grad(wide.loss("reference").sum(), (*wide.case.weights, *wide.case.biases))
    for g, t in zip(grads, truth, strict=True):
        assert g.dtype == dtype
        assert float((g.double() - t).norm() / t.norm()) < 8 * torch.finfo(dtype).eps


def test_inside_a_transform_and_compiled(need) -> None:
    need("bank_ray_mse", "cpu")
    p = problem("skip", "bins", counts=[[12], [9, 2]])

    def f(weights: list[Tensor]) -> Tensor:
        return p.loss("auto", weights=weights).sum()

    plain = [w.detach() for w in p.case.weights]
    want = torch.autograd.grad(f(p.case.weights), p.case.weights)
    for a, b in zip(torch.func.grad(f)(plain), want, strict=True):
        torch.testing.assert_close(a, b)
    graph = torch.compile(f, fullgraph=True, backend="aot_eager")(p.case.weights)
    for a, b in zip(torch.autograd.grad(graph, p.case.weights), want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("requires", [False, True])
def test_opcheck(need, requires: bool) -> None:
    need("bank_ray_mse", "cpu")
    p = problem("skip", "bins", counts=[[4, 0], [], [5]])
    case = p.case.require(x=False) if requires else p.case.to(torch.float64)
    bank = [case.x, case.offsets, case.weights, case.biases, p.rays, p.ray_offsets]
    asked = [p.deltas, p.target, p.weight, p.background, *case.spec.packed, False, True, False, False, math.inf, True]
    torch.library.opcheck(torch.ops.mclnf_fast.bank_ray_mse_fwd, (*bank, *asked, requires))


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"rays": torch.tensor([0, 4, 8])}, ValueError, "rays must end at the number of points, 9"),
        ({"rays": torch.zeros(0, dtype=torch.int64)}, ValueError, "rays must have at least one entry, got none"),
        ({"rays": torch.tensor([0.0, 4.0, 9.0])}, TypeError, "rays must have dtype torch.int64"),
        (
            {"ray_offsets": torch.tensor([0, 1, 3])},
            ValueError,
            r"ray_offsets must end at the number of rays, 2, got ray_offsets\[-1\] = 3",
        ),
        (
            {"ray_offsets": torch.tensor([0, 2])},
            ValueError,
            r"ray_offsets must have shape \[M \+ 1\] = \[3\], got \[2\]",
        ),
        ({"deltas": torch.zeros(9, 1)}, ValueError, r"deltas must have shape \[N\] = \[9\], got \[9, 1\]"),
        ({"target": torch.zeros(2, 4)}, ValueError, r"target must have shape \[R, 3\] = \[2, 3\], got \[2, 4\]"),
        ({"target": torch.zeros(2, 3).double()}, TypeError, "target must have dtype torch.float32"),
        ({"ray_weight": torch.zeros(3)}, ValueError, r"ray_weight must have shape \[R\] = \[2\]"),
        ({"background": torch.zeros(4)}, ValueError, r"background must have shape \[3\] = \[3\]"),
        ({"shading": SHADINGS["city"]}, ValueError, "background must be None if shading.background is 'last_sample'"),
        ({"reduction": "none"}, ValueError, "reduction must be one of mean, sum, got 'none'"),
        ({"backend": "triton"}, BackendError, "bank_ray_mse has no triton backend"),
    ],
)
def test_misuse(change: dict[str, object], error: type[Exception], match: str) -> None:
    p = problem("relu", "bins", torch.float32, counts=[[4], [5]])
    with pytest.raises(error, match=match):
        p.loss(**{"backend": "auto", **change})


def test_misuse_of_fields_and_shadings() -> None:
    spec = mf.FieldSpec(3, 3, 8, 1)
    case = make(spec, [4], torch.float32)
    with pytest.raises(ValueError, match="spec must have out_dim 4, a density and three colors, got 3"):
        mf.ops.bank_ray_mse(
            case.x, torch.tensor([0, 4]), torch.tensor([0, 1]), case.weights, case.biases, torch.ones(4),
            torch.zeros(1, 3), spec,
        )  # fmt: skip
    with pytest.raises(ValueError, match="density_activation must be one of relu, exp, got 'softplus'"):
        Shading("softplus")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="max_raw_density must be a number, got nan"):
        Shading(max_raw_density=float("nan"))


@backends
@pytest.mark.parametrize("kept", ["weights", "biases"])
def test_second_derivatives_in_some_of_the_parameters(need, backend: str, kept: str) -> None:
    need("bank_ray_mse", backend, torch.float64)
    p = problem("relu", "city", torch.float64, counts=[[20, 5]])
    for t in (*p.case.weights, *p.case.biases):
        t.requires_grad_(False)
    leaf = getattr(p.case, kept)[-1].requires_grad_()

    def gradient(backend: str) -> torch.Tensor:
        (first,) = torch.autograd.grad(p.loss(backend).sum(), leaf, create_graph=True)
        return torch.autograd.grad(first.square().sum(), leaf)[0]

    torch.testing.assert_close(gradient(backend), gradient("reference"))
