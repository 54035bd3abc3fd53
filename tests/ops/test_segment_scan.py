"""Scans along segments: plain loops, derivatives of the first two orders, and the CUDA kernel over the emulation."""

from __future__ import annotations

import functools
from typing import Any

import places
import pytest
import torch
from torch import Tensor

from mclnf_fast.ops import segment_scan

backends = places.backends("segment_scan")
compiled = places.backends("segment_scan", reference=False)
OPTIONS = [(exclusive, reverse) for exclusive in (False, True) for reverse in (False, True)]
each_option = pytest.mark.parametrize(("exclusive", "reverse"), OPTIONS)
each_kind = pytest.mark.parametrize("kind", ["sum", "product", "both"])


def loop(
    factor: Tensor | None, term: Tensor | None, packed_info: Tensor, initial: float, exclusive: bool, reverse: bool
) -> list[float]:
    """The recurrence, number by number in fp64."""
    values = factor if factor is not None else term
    assert values is not None
    result = [0.0] * values.shape[0]
    for first, count in packed_info.tolist():
        h, places_ = initial, range(first, first + count)
        for i in reversed(places_) if reverse else places_:
            before = h
            h = (1.0 if factor is None else float(factor[i])) * h + (0.0 if term is None else float(term[i]))
            result[i] = before if exclusive else h
    return result


def segments(counts: list[int], gap: int = 0) -> Tensor:
    starts = [sum(counts[:k]) + k * gap for k in range(len(counts))]
    return torch.tensor([starts, counts], dtype=torch.int64).t().reshape(-1, 2)


def inputs(kind: str, size: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor | None, Tensor | None, float]:
    values = torch.rand(2, size, dtype=dtype) + 0.4
    pairs = {"sum": (None, values[1], 0.0), "product": (values[0], None, 1.0), "both": (values[0], values[1], 0.5)}
    return pairs[kind]


@backends
@each_kind
@each_option
def test_the_loop_in_fp64(backend: str, kind: str, exclusive: bool, reverse: bool) -> None:
    options = {"exclusive": exclusive, "reverse": reverse}
    for counts in ([], [0], [1], [0, 3, 0, 1, 33], [129, 0, 64], [1] * 17):
        for gap in (0, 2):
            info = segments(counts, gap)
            factor, term, initial = inputs(kind, sum(counts) + gap * len(counts))
            wanted = torch.tensor(loop(factor, term, info, initial, exclusive, reverse), dtype=torch.float64)
            result = segment_scan(factor, term, info, initial=initial, backend=backend, **options)
            torch.testing.assert_close(result, wanted, rtol=1e-12, atol=0)
            shuffled = info[torch.randperm(len(counts))]  # segments may come in any order
            again = segment_scan(factor, term, shuffled, initial=initial, backend=backend, **options)
            assert torch.equal(again, result)


@backends
@each_kind
@each_option
def test_derivatives_of_two_orders(backend: str, kind: str, exclusive: bool, reverse: bool) -> None:
    """With a factor of 0 among the others, and samples of no segment."""
    info = segments([3, 0, 1, 4], gap=1)
    factor, term, initial = inputs(kind, 12)
    if factor is not None:
        factor = factor.clone()
        factor[torch.tensor([1, 6, 8])] = 0.0
    given = [t.requires_grad_() for t in (factor, term) if t is not None]

    def call(*values: Tensor) -> Tensor:
        rest = iter(values)
        pair = [None if t is None else next(rest) for t in (factor, term)]
        return segment_scan(
            pair[0], pair[1], info, initial=initial, exclusive=exclusive, reverse=reverse, backend=backend
        )

    assert torch.autograd.gradcheck(call, given)
    assert torch.autograd.gradgradcheck(call, given)


@backends
def test_an_endless_product_or_sum_stays_in_its_segment(backend: str) -> None:
    info, inf = segments([3, 2]), float("inf")
    values = torch.tensor([1.0, inf, 2.0, 3.0, 4.0])
    assert segment_scan(None, values, info, backend=backend).tolist() == [1.0, inf, inf, 3.0, 7.0]
    product = segment_scan(values, None, info, initial=1.0, exclusive=True, backend=backend)
    assert product.tolist() == [1.0, 1.0, inf, 1.0, 3.0]


@compiled
def test_float32_is_summed_in_double_on_the_cpu(backend: str) -> None:
    if places.here() != "cpu":
        pytest.skip("a GPU sums in float32")
    values = torch.rand(100_000, dtype=torch.float32)
    result = segment_scan(None, values, segments([100_000]), backend=backend)
    wanted = values.double().cumsum(0)
    assert float((result - wanted).abs().max() / wanted.max()) < 6e-8


@backends
def test_any_stride(backend: str) -> None:
    wide, info = torch.rand(9, 2, dtype=torch.float64), segments([4, 5])
    wanted = segment_scan(None, wide[:, 1].contiguous(), info, backend=backend)
    assert torch.equal(segment_scan(None, wide[:, 1], info.t().contiguous().t(), backend=backend), wanted)
    one = torch.ones(1, dtype=torch.float64).expand(9)
    assert segment_scan(None, one, info, backend=backend).tolist() == [1, 2, 3, 4, 1, 2, 3, 4, 5]


@backends
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"term": None}, ValueError, "factor or term must be a tensor"),
        ({"term": torch.ones(4, dtype=torch.int64)}, TypeError, "term must have dtype"),
        ({"term": torch.ones(2, 2)}, ValueError, r"term must have shape \[N\]"),
        ({"factor": torch.ones(3)}, ValueError, "term must have shape"),
        ({"packed_info": torch.tensor([[0, 2, 1]])}, ValueError, "packed_info must have shape"),
        (
            {"packed_info": torch.tensor([[0, 1], [1, 4]])},
            ValueError,
            r"packed_info must .* packed_info\[1\] = \[1, 4\]",
        ),
        ({"packed_info": torch.tensor([[-1, 2]])}, ValueError, "packed_info must"),
        ({"packed_info": torch.tensor([[2, 2], [0, 3]])}, ValueError, "packed_info must .* without overlap"),
        ({"exclusive": "no"}, TypeError, "exclusive must be True or False"),
        ({"initial": float("nan")}, ValueError, "initial must be"),
    ],
)
def test_errors_name_the_argument(backend: str, change: dict[str, Any], error: type[Exception], text: str) -> None:
    if places.here() != "cpu" and "packed_info must" in text and "shape" not in text:
        pytest.skip("values are not looked at there")
    good = {"factor": None, "term": torch.ones(4), "packed_info": segments([4])}
    with pytest.raises(error, match=text):
        segment_scan(**{**good, **change}, backend=backend)


@compiled
def test_opcheck_and_compile(backend: str) -> None:
    info = segments([2, 0, 5])
    for kind in ("sum", "product", "both"):
        factor, term, initial = inputs(kind, 7)
        given = [None if t is None else t.clone().requires_grad_() for t in (factor, term)]
        torch.library.opcheck(torch.ops.mclnf_fast.segment_scan_fwd.default, (*given, info, initial, True, False))
    values = torch.rand(7)
    call = functools.partial(segment_scan, packed_info=info, backend=backend)
    assert torch.equal(torch.compile(call, backend="eager", fullgraph=True)(None, values), call(None, values))
