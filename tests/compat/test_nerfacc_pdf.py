"""compat.nerfacc: searches and importance sampling, against plain loops in fp64."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mclnf_fast.compat import nerfacc
from mclnf_fast.compat.nerfacc import RayIntervals, RaySamples

COUNTS = [4, 1, 9, 2]
PACKED = torch.tensor([[sum(COUNTS[:k]), count] for k, count in enumerate(COUNTS)])
RAYS = torch.arange(len(COUNTS)).repeat_interleave(torch.tensor(COUNTS))


def rising(*size: int) -> Tensor:
    return torch.rand(*size, dtype=torch.float64).sort(-1)[0]


def packed_rising() -> Tensor:
    return torch.cat([rising(count) for count in COUNTS])


def neighbors(keys: list[float], value: float) -> tuple[int, int]:
    place = min(bisect.bisect_right(keys, value), len(keys) - 1)
    # Beyond the last key both are the last two.
    return max(place - 1, 0), place


def test_search_in_dense_rays() -> None:
    keys, values = rising(5, 9), torch.rand(5, 7, dtype=torch.float64) * 1.2 - 0.1
    values[0, 0] = keys[0, 3]  # a value that is a key: it is the left one
    left, right = nerfacc.searchsorted(RayIntervals(keys), RaySamples(values))
    wanted = [[neighbors(k, v) for v in row] for k, row in zip(keys.tolist(), values.tolist())]
    assert torch.stack([left, right], -1).tolist() == [[list(pair) for pair in row] for row in wanted]
    assert left[0, 0] == 3
    one = nerfacc.searchsorted(RayIntervals(keys[:, :1]), RaySamples(values))
    assert not one[0].any()
    assert not one[1].any()


def test_search_in_packed_rays() -> None:
    keys = packed_rising()
    queries = torch.tensor([2, 0, 0, 3, 3, 1])
    values = torch.rand(6, dtype=torch.float64) * 1.2 - 0.1
    sequence = RayIntervals(keys, packed_info=PACKED)
    left, right = nerfacc.searchsorted(sequence, RaySamples(values, ray_indices=queries))
    for ray, value, l, r in zip(queries.tolist(), values.tolist(), left.tolist(), right.tolist()):
        first, count = PACKED[ray].tolist()
        pair = neighbors(keys[first : first + count].tolist(), value)
        assert (l - first, r - first) == pair
    # The rays of packed values by packed_info, and dense values, which count within their ray.
    info = torch.tensor([[0, 2], [2, 0], [2, 3], [5, 1]])
    by_info = nerfacc.searchsorted(sequence, RaySamples(values, packed_info=info))
    by_rays = nerfacc.searchsorted(sequence, RaySamples(values, ray_indices=torch.tensor([0, 0, 2, 2, 2, 3])))
    for a, b in zip(by_info, by_rays):
        assert torch.equal(a, b)
    dense = nerfacc.searchsorted(sequence, RaySamples(values[:4, None].expand(4, 3)))
    for ray in range(4):
        first, count = PACKED[ray].tolist()
        assert (int(dense[0][ray, 0]), int(dense[1][ray, 2])) == neighbors(
            keys[first : first + count].tolist(), float(values[ray])
        )
    nothing = nerfacc.searchsorted(sequence, RaySamples(values[:0], ray_indices=queries[:0]))
    assert nothing[0].shape == nothing[1].shape == (0,)


def sampled(edges: list[float], cdfs: list[float], n: int, bias: float) -> tuple[list[float], list[float]]:
    """The edges and the samples of one ray."""
    found = []
    for k in range(n):
        u = cdfs[0] + (k + bias) * (cdfs[-1] - cdfs[0]) / n
        l, r = neighbors(cdfs, u)
        rise = cdfs[r] - cdfs[l]
        inside = edges[l] + (u - cdfs[l]) * (edges[r] - edges[l]) / rise if rise >= 1e-10 else (edges[l] + edges[r]) / 2
        found.append(inside)
    if n == 1:
        return [edges[0], edges[-1]], found
    middles = [(a + b) / 2 for a, b in itertools.pairwise(found)]
    lower = max(found[0] - (found[1] - found[0]) / 2, edges[0])
    upper = min(found[-1] + (found[-1] - found[-2]) / 2, edges[-1])
    return [lower, *middles, upper], found


@pytest.mark.parametrize("n", [1, 2, 13])
@pytest.mark.parametrize("packed", [False, True])
def test_importance_sampling(n: int, packed: bool) -> None:
    edges, cdfs = (packed_rising(), packed_rising()) if packed else (rising(4, 9), rising(4, 9))
    if not packed:
        cdfs[1] = 0.5  # nothing anywhere
        cdfs[2, 3:7] = cdfs[2, 3]
    intervals, samples = nerfacc.importance_sampling(RayIntervals(edges, PACKED if packed else None), cdfs, n)
    assert intervals.vals.shape == (4, n + 1)
    assert samples.vals.shape == (4, n)
    for ray, (first, count) in enumerate(PACKED.tolist()):
        part = slice(first, first + count)
        row = (edges[part], cdfs[part]) if packed else (edges[ray], cdfs[ray])
        wanted = sampled(row[0].tolist(), row[1].tolist(), n, 0.5)
        assert intervals.vals[ray].tolist() == pytest.approx(wanted[0], abs=1e-12)
        assert samples.vals[ray].tolist() == pytest.approx(wanted[1], abs=1e-12)


@pytest.mark.parametrize("packed", [False, True])
def test_another_number_for_each_ray(packed: bool) -> None:
    edges, cdfs = (packed_rising(), packed_rising()) if packed else (rising(4, 9), rising(4, 9))
    numbers = torch.tensor([3, 1, 0, 6])
    intervals, samples = nerfacc.importance_sampling(RayIntervals(edges, PACKED if packed else None), cdfs, numbers)
    assert samples.packed_info is not None
    assert intervals.packed_info is not None
    assert samples.packed_info.tolist() == [[0, 3], [3, 1], [4, 0], [4, 6]]
    assert intervals.packed_info.tolist() == [[0, 4], [4, 2], [6, 0], [6, 7]]
    assert samples.ray_indices is not None
    assert samples.ray_indices.tolist() == [0] * 3 + [1] + [3] * 6
    assert intervals.ray_indices is not None
    assert intervals.ray_indices.tolist() == [0] * 4 + [1] * 2 + [3] * 7
    assert intervals.is_left is not None
    assert intervals.is_right is not None
    assert intervals.is_left.tolist() == [*[True] * 3, False, True, False, *[True] * 6, False]
    assert intervals.is_right.tolist() == [False, *[True] * 3, False, True, False, *[True] * 6]
    for ray, n in enumerate(numbers.tolist()):
        first, count = PACKED[ray].tolist()
        part = slice(first, first + count)
        row = (edges[part], cdfs[part]) if packed else (edges[ray], cdfs[ray])
        wanted = sampled(row[0].tolist(), row[1].tolist(), n, 0.5) if n else ([], [])
        for segments, values in zip((intervals, samples), wanted):
            assert segments.packed_info is not None
            first, count = segments.packed_info[ray].tolist()
            assert segments.vals[first : first + count].tolist() == pytest.approx(values, abs=1e-12)


def test_stratified_samples_shift_each_ray_as_a_whole() -> None:
    edges = torch.tensor([[0.0, 1.0]]).expand(2000, 2)
    torch.manual_seed(0)
    _, samples = nerfacc.importance_sampling(RayIntervals(edges), edges, 4, stratified=True)
    torch.testing.assert_close(samples.vals.diff(dim=1), torch.full((2000, 3), 0.25))
    shift = samples.vals[:, 0]
    assert 0 <= float(shift.min()) < 0.01 < 0.24 < float(shift.max()) < 0.25
    assert float(shift.mean()) == pytest.approx(0.125, abs=0.006)
    assert samples.vals.dtype == torch.float32


def test_no_rays_and_rays_without_edges() -> None:
    intervals, samples = nerfacc.importance_sampling(RayIntervals(torch.zeros(0, 5)), torch.zeros(0, 5), 3)
    assert (intervals.vals.shape, samples.vals.shape) == ((0, 4), (0, 3))
    info = torch.tensor([[0, 2], [2, 0]])
    edges = torch.tensor([0.0, 2.0])
    intervals, samples = nerfacc.importance_sampling(RayIntervals(edges, info), edges / 2, 2)
    assert samples.vals.tolist() == [[0.5, 1.5], [0.0, 0.0]]
    assert intervals.vals.tolist() == [[0.0, 1.0, 2.0], [0.0, 0.0, 0.0]]
    intervals, samples = nerfacc.importance_sampling(RayIntervals(edges, info), edges / 2, torch.tensor([1, 1]))
    assert samples.vals.tolist() == [1.0, 0.0]
    assert intervals.vals.tolist() == [0.0, 2.0, 0.0, 0.0]
    none = nerfacc.importance_sampling(RayIntervals(edges[:0], info[:0]), edges[:0], torch.zeros(0, dtype=torch.int64))
    assert none[0].vals.shape == none[1].vals.shape == (0,)


EDGES = RayIntervals(torch.tensor([[0.0, 1.0]]))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: nerfacc.importance_sampling(EDGES, EDGES.vals, 0),
            ValueError,
            "n_intervals_per_ray must be an int of",
        ),
        (lambda: nerfacc.importance_sampling(EDGES, EDGES.vals[0], 2), ValueError, "cdfs must have shape"),
        (
            lambda: nerfacc.importance_sampling(EDGES, EDGES.vals, torch.tensor([1, 2])),
            ValueError,
            "n_intervals_per_ray must have shape",
        ),
        (
            lambda: nerfacc.importance_sampling(RayIntervals(torch.zeros(3)), torch.zeros(3), 2),
            TypeError,
            "intervals.packed_info must be a tensor",
        ),
        (
            lambda: nerfacc.searchsorted(EDGES, RaySamples(torch.zeros(2, 3))),
            ValueError,
            "sorted_sequence.vals must be",
        ),
        (
            lambda: nerfacc.searchsorted(
                RayIntervals(torch.zeros(1), torch.tensor([[0, 1], [1, 0]])),
                RaySamples(torch.zeros(1), ray_indices=torch.tensor([1])),
            ),
            ValueError,
            "sorted_sequence must hold a value for each ray",
        ),
    ],
)
def test_errors_name_the_argument(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
