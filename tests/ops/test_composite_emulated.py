"""The CUDA kernels of compositing on the CPU (cuda_emulation), a warp a ray and a thread a ray, against derivatives of
the reference in float64."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import Tensor

from mclnf_fast.ops.composite.reference import composite

LONG = [0, 1, 15, 16, 17, 31, 32, 33, 63, 129, 1000, 0, 64, 65, 0]  # a warp a ray
SHORT = [0, 1, 2, 3, 7, 40, 0, 5, 6, 1, 0, 0, 2, 3, 3]  # a thread a ray
# One is enough for the address sanitizer, which is slow (test_cuda_emulated.py).
ORDERS = ("forward", "reverse", "random:1")[: 1 if os.environ.get("MCLNF_EMULATION_SANITIZE") == "1" else 3]
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
Case = dict[str, Tensor | None]


def packed(counts: list[int], channels: int, gap: int = 0) -> Case:
    """Rays with these counts, `gap` samples of no ray before each and behind the last; numbers in float64."""
    count = torch.tensor(counts, dtype=torch.int64)
    n = sum(counts) + gap * (len(counts) + 1)
    starts = torch.rand(n, dtype=torch.float64)
    return {
        "density": torch.rand(n).double() * 0.2,
        "color": torch.rand(n, channels).double(),
        "t_starts": starts,
        "t_ends": starts + torch.rand(n).double() * 0.3,
        "packed_info": torch.stack([(count + gap).cumsum(0) - count, count], dim=1),
    }


def dense(rays: int, samples: int, channels: int) -> Case:
    edges = torch.rand(rays, samples + 1).double().cumsum(1) * 0.1
    return {
        "density": torch.rand(rays, samples).double(),
        "color": torch.rand(rays, samples, channels).double(),
        "t_starts": edges[:, :-1],
        "t_ends": edges[:, 1:],
        "packed_info": None,
    }


def with_others(case: Case, background: str, missing: tuple[int, ...] = ()) -> tuple[list, list, list]:
    """The inputs with a background; cotangents of the four outputs and tangents of the five inputs that can have one,
    without the `missing` ones of the nine."""
    color, info = case["color"], case["packed_info"]
    assert color is not None
    rays, channels = (color if info is None else info).shape[0], color.shape[-1]
    behind = {"none": None, "one": torch.rand(channels).double(), "each": torch.rand(rays, channels).double()}
    inputs = [*case.values(), behind[background]]
    values = [torch.empty(rays, channels), torch.empty(rays), torch.empty(rays), case["density"]]
    others = [None if t is None else torch.randn(t.shape).double() for t in [*values, *inputs[:4], inputs[5]]]
    others = [None if i in missing else t for i, t in enumerate(others)]
    return inputs, others[:4], others[4:]


def truth(inputs: list, cotangents: list, tangents: list, eps: float) -> list[Tensor | None]:
    """The outputs of composite_fwd, _bwd and _bwd_bwd by autograd over the reference."""

    def leaf(t: Tensor | None) -> Tensor | None:
        return t if t is None or t.dtype == torch.int64 else t.detach().clone().requires_grad_()

    inputs, cotangents = [leaf(t) for t in inputs], [leaf(t) for t in cotangents]
    values = composite(*inputs, eps)
    by = [t for i, t in enumerate(inputs) if i != 4 and t is not None]
    value = sum((v * g).sum() for v, g in zip(values, cotangents) if g is not None)
    first = torch.autograd.grad(value, by, create_graph=True, materialize_grads=True)
    present = [v for v, t in zip(tangents, (*inputs[:4], inputs[5])) if t is not None]
    along = sum((g * v).sum() for g, v in zip(first, present) if v is not None)
    back = [*by, *(g for g in cotangents if g is not None)]
    second = list(torch.autograd.grad(along, back, materialize_grads=True))
    by_input = [second.pop(0) for _ in by]
    by_cotangent = [None if g is None else second.pop(0) for g in cotangents]
    if inputs[5] is None:
        first, by_input = (*first, None), [*by_input, None]
    return [None if t is None else t.detach() for t in (*values, *first, *by_input, *by_cotangent)]


def all_ops(ops: Any, inputs: list, cotangents: list, tangents: list, eps: float, dtype: torch.dtype) -> list[Tensor]:
    def cast(given: list) -> list:
        return [t if t is None or t.dtype == torch.int64 else t.to(dtype) for t in given]

    inputs, cotangents, tangents = cast(inputs), cast(cotangents), cast(tangents)
    return [
        *ops.composite_fwd(*inputs, eps),
        *ops.composite_bwd(*inputs, *cotangents, eps, True, True, inputs[5] is not None),
        *ops.composite_bwd_bwd(*inputs, *cotangents, *tangents, eps),
    ]


def assert_true(found: list[Tensor], wanted: list[Tensor | None], dtype: torch.dtype) -> None:
    for i, (a, b) in enumerate(zip(found, wanted, strict=True)):
        if b is None:
            continue
        assert a.shape == b.shape, i
        scale = float(b.abs().max().clamp_min(1e-30)) if b.numel() else 0.0
        tolerance = 2e-5 if dtype == torch.float32 else 1e-12  # as of the CPU's kernels
        assert b.numel() == 0 or float((a.double() - b).abs().max()) <= scale * tolerance, i


def check(emulated: Any, monkeypatch: pytest.MonkeyPatch, case: tuple, eps: float, dtype: torch.dtype) -> None:
    """Right, and the same bits whatever order the threads come in."""
    first: list[Tensor] = []
    for order in ORDERS:
        monkeypatch.setenv("MCLNF_EMULATION_ORDER", order)
        found = all_ops(emulated, *case, eps, dtype)
        first = first or found
        assert all(torch.equal(a, b) for a, b in zip(found, first, strict=True)), order
    assert_true(first, truth(*case, eps), dtype)


@pytest.mark.usefixtures("poisoned")
@dtypes
@pytest.mark.parametrize("counts", [LONG, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize(("background", "gap"), [("none", 0), ("one", 2), ("each", 0)])
@pytest.mark.parametrize("eps", [0.0, 0.2])
def test_packed(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, counts: list[int], channels: int,
    background: str, gap: int, eps: float,
) -> None:  # fmt: skip
    check(emulated, monkeypatch, with_others(packed(counts, channels, gap), background), eps, dtype)


@pytest.mark.usefixtures("poisoned")
@dtypes
@pytest.mark.parametrize("size", [(0, 5), (3, 0), (1, 1), (200, 3), (5, 32), (9, 129)])
@pytest.mark.parametrize("eps", [0.0, 0.5])
def test_dense(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, size: tuple[int, int], eps: float
) -> None:
    check(emulated, monkeypatch, with_others(dense(*size, 3), "one"), eps, dtype)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("counts", [[], [0], [0] * 300, [3] * 1000, [40] * 50], ids=len)
def test_many_rays_and_none(emulated: Any, monkeypatch: pytest.MonkeyPatch, counts: list[int]) -> None:
    check(emulated, monkeypatch, with_others(packed(counts, 3), "each"), 0.0, torch.float32)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("counts", [[], [9, 0, 5], [3, 0, 1]], ids=str)
def test_samples_of_no_ray_read_zero(emulated: Any, monkeypatch: pytest.MonkeyPatch, counts: list[int]) -> None:
    """Some before each ray and more behind the last than there are threads."""
    case = packed(counts, 3, gap=1)
    for name, t in case.items():
        if name != "packed_info" and t is not None:
            case[name] = torch.cat([t, t.new_ones(1000, *t.shape[1:])])
    check(emulated, monkeypatch, with_others(case, "one"), 0.0, torch.float64)


@pytest.mark.parametrize("counts", [LONG, SHORT], ids=["long", "short"])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("missing", [(0,), (1, 2), (3, 4), (0, 5, 8), (6, 7), (0, 1, 2, 5, 6, 7, 8)], ids=str)
def test_cotangents_and_tangents_that_are_zero(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, counts: list[int], channels: int, missing: tuple[int, ...]
) -> None:
    check(emulated, monkeypatch, with_others(packed(counts, channels), "one", missing), 0.1, torch.float64)


@pytest.mark.parametrize("counts", [LONG, SHORT], ids=["long", "short"])
def test_unneeded_gradients_are_not_computed(emulated: Any, counts: list[int]) -> None:
    inputs, cotangents, _ = with_others(packed(counts, 3), "one")
    whole = emulated.composite_bwd(*inputs, *cotangents, 0.0, True, True, True)
    for needs in ((False, False, False), (True, False, False), (False, True, False), (False, False, True)):
        part = emulated.composite_bwd(*inputs, *cotangents, 0.0, *needs)
        color, t, background = needs
        for a, b, needed in zip(part, whole, (True, color, t, t, background)):
            assert torch.equal(a, b) if needed else a.numel() == 0


@dtypes
def test_an_opaque_sample_hides_the_rest(emulated: Any, dtype: torch.dtype) -> None:
    """An infinite optical depth leaves what is before it finite, in every place of a group."""
    for samples in (5, 40, 70):
        for opaque in range(samples):
            density = torch.rand(1, samples, dtype=dtype)
            density[0, opaque] = torch.inf
            starts = torch.arange(samples, dtype=dtype)[None]
            found = emulated.composite_fwd(
                density, torch.rand(1, samples, 3, dtype=dtype), starts, starts + 1, None, None, 0.0
            )
            assert all(t.isfinite().all() for t in found)
            assert (found[3][0, opaque + 1 :] == 0).all()
            torch.testing.assert_close(found[1], torch.ones(1, dtype=dtype))


@dtypes
def test_light_ends_in_every_place_of_a_group(emulated: Any, dtype: torch.dtype) -> None:
    """The first sample in the dark is the first without a weight."""
    starts = torch.arange(70, dtype=dtype)[None]
    for lit in range(1, 70):
        density = torch.full((1, 70), 0.01, dtype=dtype)
        density[0, lit - 1] = 5.0
        arguments = (density, torch.rand(1, 70, 3, dtype=dtype), starts, starts + 1, None, None)
        weights = emulated.composite_fwd(*arguments, 0.1)[3][0]
        assert (weights[:lit] > 0).all()
        assert (weights[lit:] == 0).all()
        grads = emulated.composite_bwd(
            *arguments, torch.ones(1, 3, dtype=dtype), None, None, None, 0.1, True, True, False
        )
        assert all((g[0, lit:] == 0).all() and (g[0, :lit] != 0).any() for g in grads[:2])


@pytest.mark.parametrize("samples", [8, 64, 65, 1000])
def test_float_is_as_good_as_the_reference(emulated: Any, samples: int) -> None:
    """Against float64, the error is at most twice that of PyTorch in float32."""
    inputs, _, _ = with_others(dense(9, samples, 3), "none")
    single = [None if t is None else t.float() for t in inputs]
    exact = composite(*(None if t is None else t.double() for t in single))
    for truth_, a, b in zip(exact, emulated.composite_fwd(*single, 0.0), composite(*single)):
        rounding = 4 * torch.finfo(torch.float32).eps * float(truth_.abs().max())
        assert float((a - truth_).abs().max()) <= 2 * float((b - truth_).abs().max()) + rounding


@pytest.mark.parametrize("counts", [LONG, SHORT], ids=["long", "short"])
def test_packed_info_that_lies_stays_inside_the_arrays(emulated: Any, counts: list[int]) -> None:
    """Its values are not checked on a GPU; the address sanitizer looks on."""
    inputs, cotangents, tangents = with_others(packed(counts, 3), "one")
    n = sum(counts)
    for row in ([-5, 3], [n - 1, 2**40], [n + 7, 5], [2**62, 2**62], [-(2**62), -1]):
        inputs[4] = inputs[4].clone()
        inputs[4][4] = torch.tensor(row)
        all_ops(emulated, inputs, cotangents, tangents, 0.0, torch.float32)


@dtypes
@pytest.mark.parametrize("counts", [[40, 33, 12], [3, 5, 2]])
def test_an_endless_density_over_no_length(
    emulated: Any, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, counts: list[int]
) -> None:
    """No weight and nothing that is not finite, with a warp a ray and a thread a ray."""
    case = packed(counts, 3)
    density, starts, ends = case["density"], case["t_starts"], case["t_ends"]
    assert density is not None
    assert starts is not None
    assert ends is not None
    density[1], density[sum(counts) - 1] = torch.inf, torch.inf
    ends[1] = starts[1]
    check(emulated, monkeypatch, with_others(case, "one"), 0.0, dtype)
    inputs, cotangents, tangents = with_others(case, "one")
    results = all_ops(emulated, inputs, cotangents, tangents, 0.0, dtype)
    assert all(bool(t.isfinite().all()) for t in results)
    assert float(results[3][1]) == 0
