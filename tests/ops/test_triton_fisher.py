"""The Triton Fisher kernels against the reference: on a GPU where there is one, else interpreted on the CPU."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bank_cases import ENCODINGS, Case, assert_no_worse, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops.fisher import reference

pytestmark = pytest.mark.usefixtures("poisoned")
COUNTS = [40, 0, 75, 1]


def random_fisher(case: Case) -> tuple[list[Tensor], list[Tensor]]:
    drawn = [[torch.rand_like(t) + 0.01 for t in tensors] for tensors in (case.weights, case.biases)]
    return drawn[0], drawn[1]


def rays(points: int, device: str) -> Tensor:
    """Rays in any order within a module, crossing modules; 3 has no point."""
    ids = torch.randint(0, 9, (points,), generator=torch.Generator().manual_seed(3))
    return torch.where(ids == 3, 4, ids).to(device)


def flat(result: mf.ops.FisherResult) -> dict[str, Tensor]:
    found = {"scores": result.scores}
    for name, pair in (("grads", result.grads), ("fisher", result.fisher)):
        found |= {f"{name}[{k}][{l}]": t for k in (0, 1) for l, t in enumerate(pair[k])}
    return found


@contextlib.contextmanager
def layers_in(dtype: torch.dtype) -> Iterator[None]:
    """The reference's forward and backward in this dtype, as PyTorch itself would go through a field of it; the squares
    and sums that follow stay in float32."""
    wide = reference.layers_of

    def layers_of(x: Tensor, weights: list[Tensor], biases: list[Tensor], grad_y: Tensor, spec: mf.FieldSpec) -> Any:
        tensors = [[t.to(dtype) for t in ts] for ts in ([x, grad_y], weights, biases)]
        found = wide(tensors[0][0], tensors[1], tensors[2], tensors[0][1], spec)
        return [(a.to(x.dtype), d.to(x.dtype)) for a, d in found]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reference, "layers_of", layers_of)
        yield


def agrees(
    case: Case,
    given: bool,
    ids: Tensor | None,
    rounded: bool,
    grads: bool = True,
    damping: float = 1e-3,
    grad_y: Tensor | None = None,
) -> None:
    exact = case.to(torch.float64)
    if grad_y is None:
        grad_y = torch.randn(case.x.shape[0], case.spec.out_dim, device=case.x.device).to(case.x.dtype)
    fisher = random_fisher(case) if given else None

    def run(c: Case, backend: str) -> dict[str, Tensor]:
        dtype = c.x.dtype
        known = None if fisher is None else tuple([t.to(dtype) for t in ts] for ts in fisher)
        arguments = (c.x, c.offsets, c.weights, c.biases, grad_y.to(dtype), known, c.spec, ids, damping, grads)
        return flat(mf.ops.fisher_scores(*arguments, backend=backend))

    with layers_in(case.x.dtype):
        plain = run(case, "reference")
    found, truth = run(case, "triton"), run(exact, "reference")
    assert found.keys() == truth.keys()
    for name, t in truth.items():
        if rounded:
            assert float((found[name].double() - t).norm()) <= 2e-2 * float(t.norm()) + 1e-12, name
        else:
            assert_no_worse(found[name], plain[name], t, name, terms=100)


@pytest.mark.parametrize("by_ray", [False, True], ids=["points", "rays"])
@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding(need, gpu_or_cpu: str, tf32: bool, encoding: str, given: bool, by_ray: bool) -> None:
    need("fisher_scores", "triton", device=gpu_or_cpu)
    in_dim, kind = ENCODINGS[encoding]
    spec = mf.FieldSpec(in_dim, 3, 20, 2, "tanh", "sigmoid", kind, skips=(1, 2))
    case = make(spec, COUNTS).on(gpu_or_cpu)
    agrees(case, given, rays(sum(COUNTS), gpu_or_cpu) if by_ray else None, rounded=tf32)


@pytest.mark.parametrize("by_ray", [False, True], ids=["points", "rays"])
@pytest.mark.parametrize("width", [7, 64, 100, 130])
def test_every_width(need, gpu_or_cpu: str, width: int, by_ray: bool) -> None:
    need("fisher_scores", "triton", device=gpu_or_cpu)
    case = make(mf.FieldSpec(3, 4, width, 2, encoding=mf.Frequency(10), skips=(2,)), COUNTS).on(gpu_or_cpu)
    agrees(case, True, rays(sum(COUNTS), gpu_or_cpu) if by_ray else None, rounded=False)


@pytest.mark.parametrize("counts", [[1], [0], [0, 0, 5], [3] * 30, [700], []])
def test_every_share(need, gpu_or_cpu: str, counts: list[int]) -> None:
    need("fisher_scores", "triton", device=gpu_or_cpu)
    case = make(mf.FieldSpec(3, 4, 16, 1, encoding=mf.Frequency(3)), counts).on(gpu_or_cpu)
    agrees(case, True, None, rounded=False)
    agrees(case, True, rays(sum(counts), gpu_or_cpu), rounded=False)
    agrees(case, True, None, rounded=False, grads=False)


@pytest.mark.parametrize(("hidden", "out_dim"), [(0, 1), (0, 17), (5, 3)])
@pytest.mark.parametrize("by_ray", [False, True], ids=["points", "rays"])
def test_every_depth(need, gpu_or_cpu: str, hidden: int, out_dim: int, by_ray: bool) -> None:
    need("fisher_scores", "triton", device=gpu_or_cpu)
    case = make(mf.FieldSpec(3, out_dim, 16, hidden, "softplus", encoding=mf.Frequency(2)), [0, 40, 17])
    case = case.on(gpu_or_cpu)
    agrees(case, True, rays(57, gpu_or_cpu) if by_ray else None, rounded=False)


@pytest.mark.parametrize("by_ray", [False, True], ids=["points", "rays"])
@pytest.mark.parametrize("given", [False, True], ids=["own", "given"])
@pytest.mark.parametrize(("activation", "width"), [("relu", 64), ("sine", 100), ("tanh", 130)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types(
    need, gpu_or_cpu: str, dtype: torch.dtype, activation: str, width: int, given: bool, by_ray: bool
) -> None:
    """Errors at most twice those of PyTorch's own forward and backward in that type."""
    need("fisher_scores", "triton", dtype, gpu_or_cpu)
    spec = mf.FieldSpec(3, 4, width, 2, activation, "sigmoid", mf.Frequency(3), w0=2.0, skips=(2,))
    case = make(spec, COUNTS, dtype).on(gpu_or_cpu)
    agrees(case, given, rays(sum(COUNTS), gpu_or_cpu) if by_ray else None, rounded=False, damping=1e-2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("by_ray", [False, True], ids=["points", "rays"])
def test_squares_of_small_gradients_do_not_underflow(need, gpu_or_cpu: str, dtype: torch.dtype, by_ray: bool) -> None:
    """Gradients of 1e-4 in float16, whose smallest normal number is 6e-5: their squares are none of its numbers."""
    need("fisher_scores", "triton", dtype, gpu_or_cpu)
    case = make(mf.FieldSpec(3, 4, 20, 2, "tanh", encoding=mf.Frequency(3)), COUNTS, dtype).on(gpu_or_cpu)
    ids = rays(sum(COUNTS), gpu_or_cpu) if by_ray else None
    grad_y = (torch.randn(sum(COUNTS), 4, device=gpu_or_cpu) * (1e-4 if dtype == torch.float16 else 1e-12)).to(dtype)
    floor = float(grad_y.float().square().mean())

    def scores(c: Case, backend: str) -> Tensor:
        known = tuple(
            [torch.full_like(t, floor, dtype=torch.promote_types(c.x.dtype, torch.float32)) for t in ts]
            for ts in (c.weights, c.biases)
        )
        return mf.ops.fisher_scores(
            c.x, c.offsets, c.weights, c.biases, grad_y.to(c.x.dtype), known, c.spec, ids, 0.0, False,
            backend=backend,
        ).scores  # fmt: skip

    with layers_in(torch.float32):
        plain = scores(case, "reference")
    truth = scores(case.to(torch.float64), "reference")
    assert bool((truth[truth > 0] > 1e-4).all())
    assert_no_worse(scores(case, "triton"), plain, truth, "scores", terms=400)


def test_without_damping_dead_parameters_count_for_nothing(need, gpu_or_cpu: str) -> None:
    need("fisher_scores", "triton", device=gpu_or_cpu)
    case = make(mf.FieldSpec(2, 1, 4, 1), [9]).on(gpu_or_cpu)
    case.biases[0][0, 2] = -1e6  # a unit that never fires: its 2 weights, its bias and its outgoing weight
    result = mf.ops.fisher_scores(
        case.x, case.offsets, case.weights, case.biases, torch.ones(9, 1, device=gpu_or_cpu), None, case.spec,
        damping=0.0, backend="triton",
    )  # fmt: skip
    live = sum(int((f > 0).sum()) for pair in result.fisher for f in pair)
    assert live <= case.spec.num_parameters - 4
    assert float(result.scores.mean()) == pytest.approx(float(live), rel=1e-5)


def test_points_of_a_ray_add_up_before_the_square(need, gpu_or_cpu: str) -> None:
    need("fisher_scores", "triton", device=gpu_or_cpu)
    case = make(mf.FieldSpec(2, 1, 4, 1, "tanh"), [2]).on(gpu_or_cpu)
    case.x[1] = case.x[0]
    opposite = torch.tensor([[1.0], [-1.0]], device=gpu_or_cpu)  # the two gradients cancel exactly

    def score(ids: Tensor | None) -> Tensor:
        return mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, opposite, random_fisher(case), case.spec, ids,
            backend="triton",
        ).scores  # fmt: skip

    assert float(score(torch.zeros(2, dtype=torch.int64, device=gpu_or_cpu))[0]) < 1e-12
    assert float(score(None).min()) > 1e-3


@pytest.mark.parametrize("by_ray", [False, True], ids=["points", "rays"])
def test_many_chunks_and_samples_of_many_steps(
    need, gpu_or_cpu: str, by_ray: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rays longer than the points that go by at a time, chunks of several samples, modules of several chunks."""
    need("fisher_scores", "triton", device=gpu_or_cpu)
    from mclnf_fast.ops.fisher.triton import table

    monkeypatch.setattr(table, "CHUNKS", 12)
    case = make(mf.FieldSpec(2, 3, 8, 1, "tanh"), [500, 0, 90]).on(gpu_or_cpu)
    ids = torch.cat((torch.arange(480) // 160, torch.arange(20), 19 + torch.arange(90) // 7)).to(gpu_or_cpu)
    agrees(case, True, ids if by_ray else None, rounded=False)


@pytest.mark.parametrize("by_ray", [False, True], ids=["points", "rays"])
def test_the_same_bits_twice(need, gpu_or_cpu: str, by_ray: bool) -> None:
    need("fisher_scores", "triton", device=gpu_or_cpu)
    case = make(mf.FieldSpec(3, 4, 16, 1, "tanh"), [400, 0, 90]).on(gpu_or_cpu)
    ids = rays(490, gpu_or_cpu) if by_ray else None
    grad_y = torch.randn(490, 4, device=gpu_or_cpu)

    def run() -> dict[str, Tensor]:
        return flat(
            mf.ops.fisher_scores(
                case.x, case.offsets, case.weights, case.biases, grad_y, None, case.spec, ids, backend="triton"
            )
        )

    first, second = run(), run()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_nan_stays_where_it_is(need, gpu_or_cpu: str) -> None:
    need("fisher_scores", "triton", device=gpu_or_cpu)
    case = make(mf.FieldSpec(2, 3, 16, 2, "tanh"), [30, 20]).on(gpu_or_cpu)
    grad_y, fisher = torch.randn(50, 3, device=gpu_or_cpu), random_fisher(case)

    def run() -> mf.ops.FisherResult:
        return mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, grad_y, fisher, case.spec, backend="triton"
        )

    clean = run()
    case.x[5, 1] = math.nan
    found = run()
    rows = torch.arange(50, device=gpu_or_cpu) != 5
    assert bool(found.scores[5].isnan())
    assert torch.equal(found.scores[rows], clean.scores[rows])
    assert torch.equal(found.grads[0][1][1], clean.grads[0][1][1])


def test_negative_information_is_refused(need, gpu_or_cpu: str) -> None:
    need("fisher_scores", "triton")
    case = make(mf.FieldSpec(3, 4, 16, 1), [5])
    fisher = random_fisher(case)
    fisher[0][1][0, 2, 3] = -1.0
    with pytest.raises(ValueError, match=r"fisher\[0\]\[1\] must not be negative or NaN, got -1"):
        mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, torch.ones(5, 4), fisher, case.spec, backend="triton"
        )
