"""The Triton Fisher kernels against the reference: on a GPU where there is one, else interpreted on the CPU."""

from __future__ import annotations

import pytest
import torch
from bank_cases import ENCODINGS, Case, assert_no_worse, make
from torch import Tensor

import mclnf_fast as mf

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


def agrees(case: Case, given: bool, ids: Tensor | None, rounded: bool, grads: bool = True) -> None:
    exact = case.to(torch.float64)
    grad_y = torch.randn(case.x.shape[0], case.spec.out_dim, device=case.x.device)
    fisher = random_fisher(case) if given else None

    def run(c: Case, backend: str) -> dict[str, Tensor]:
        dtype = c.x.dtype
        known = None if fisher is None else tuple([t.to(dtype) for t in ts] for ts in fisher)
        arguments = (c.x, c.offsets, c.weights, c.biases, grad_y.to(dtype), known, c.spec, ids, 1e-3, grads)
        return flat(mf.ops.fisher_scores(*arguments, backend=backend))

    found, plain, truth = run(case, "triton"), run(case, "reference"), run(exact, "reference")
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


def test_negative_information_is_refused(need, gpu_or_cpu: str) -> None:
    need("fisher_scores", "triton")
    case = make(mf.FieldSpec(3, 4, 16, 1), [5])
    fisher = random_fisher(case)
    fisher[0][1][0, 2, 3] = -1.0
    with pytest.raises(ValueError, match=r"fisher\[0\]\[1\] must not be negative or NaN, got -1"):
        mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, torch.ones(5, 4), fisher, case.spec, backend="triton"
        )
