"""Traversal of grids: plain loops in fp64, closed forms, limits and continuation, and the CUDA kernels emulated."""

from __future__ import annotations

import math
from typing import Any

import places
import pytest
import torch
from torch import Tensor

from mclnf_fast.ops import Traversal, traverse_grids

backends = places.backends("traverse_grids")
compiled = places.backends("traverse_grids", reference=False)
Call = dict[str, Any]


def rays_through(boxes: Tensor, count: int, dtype: torch.dtype = torch.float64) -> Call:
    """Random rays towards the boxes, and where they meet them (by the slabs, in fp64)."""
    origins = torch.randn(count, 3, dtype=dtype) * 1.5
    directions = torch.nn.functional.normalize(torch.rand(count, 3, dtype=dtype) - 0.5 - origins, dim=1)
    first, second = ((side - origins[:, None]) / directions[:, None] for side in boxes.to(dtype).split(3, dim=1))
    enters, exits = torch.minimum(first, second).amax(-1), torch.maximum(first, second).amin(-1)
    hits = (enters < exits) & (exits > 0)
    return {
        "origins": origins,
        "directions": directions,
        "aabbs": boxes.to(dtype),
        "enters": torch.where(hits, enters, math.inf),
        "exits": torch.where(hits, exits, math.inf),
        "hits": hits,
        "near": torch.rand(count, dtype=dtype) * 0.3,
        "far": torch.full((count,), math.inf, dtype=dtype),
    }


NESTED = torch.tensor([[-1.0, -1.2, -0.8, 1.0, 0.9, 1.1], [-2.0, -2.0, -2.0, 2.0, 2.0, 2.0]])
APART = torch.tensor([[-1.0, -1.0, -1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 1.5, 1.6, 1.5], [-0.5, -0.5, -0.5, 1, 1, 1]])


def occupied(call: Call, cells: Tensor, ray: int, t: float) -> bool:
    """Whether the point of a ray at t is in an occupied cell of the first grid that holds it."""
    for grid in range(cells.shape[0]):
        if not call["hits"][ray, grid] or not call["enters"][ray, grid] <= t < call["exits"][ray, grid]:
            continue
        index = [grid]
        for axis in range(3):
            low, high = float(call["aabbs"][grid, axis]), float(call["aabbs"][grid, 3 + axis])
            x = float(call["origins"][ray, axis]) + t * float(call["directions"][ray, axis])
            size = cells.shape[axis + 1]
            index.append(min(max(math.floor((x - low) / (high - low) * size), 0), size - 1))
        return bool(cells[tuple(index)])
    return False


def stepped(call: Call, cells: Tensor, ray: int, step: float, cone: float) -> list[tuple[float, float]]:
    """The samples of a ray, step by step from near on."""
    ends = [float(e) for e, hit in zip(call["exits"][ray], call["hits"][ray]) if hit]
    last, t, k, samples = min([max([0.0, *ends]), float(call["far"][ray])]), float(call["near"][ray]), 0, []
    near = t
    while True:
        following = t + max(step, cone * t) if cone else near + (k + 1) * step
        if (t + following) / 2 >= last:
            return samples
        if occupied(call, cells, ray, (t + following) / 2):
            samples.append((t, following))
        t, k = following, k + 1


def assert_samples(result: list[tuple[float, float]], wanted: list[tuple[float, float]], rtol: float) -> None:
    torch.testing.assert_close(
        *(torch.tensor(s, dtype=torch.float64).reshape(-1, 2) for s in (result, wanted)), rtol=rtol, atol=0
    )


def pairs(found: Traversal, ray: int) -> list[tuple[float, float]]:
    first, count = found.packed_info[ray].tolist()
    part = slice(first, first + count)
    assert set(found.ray_ids[part].tolist()) <= {ray}
    return list(zip(found.t_starts[part].tolist(), found.t_ends[part].tolist()))


@backends
@pytest.mark.parametrize("boxes", [NESTED, APART], ids=["nested", "apart"])
@pytest.mark.parametrize(("step", "cone"), [(0.07, 0.0), (0.05, 0.1)])
def test_the_steps_of_a_plain_loop(backend: str, boxes: Tensor, step: float, cone: float) -> None:
    cells = torch.rand(boxes.shape[0], 3, 4, 5) < 0.5
    call = rays_through(boxes.to(places.here()), 17)
    call["far"][::3] = 1.3
    found = traverse_grids(**call, cells=cells, step=step, cone=cone, backend=backend)
    there = 0
    for ray in range(17):
        wanted = stepped(call, cells, ray, step, cone)
        assert_samples(pairs(found, ray), wanted, 1e-12)
        there += len(wanted)
    assert there > 50
    assert int(found.packed_info[:, 1].sum()) == found.t_starts.shape[0]


@backends
def test_cells_as_samples(backend: str) -> None:
    """Their edges are where the ray passes from cell to cell; the samples tile what is occupied."""
    cells = torch.rand(2, 3, 4, 5) < 0.5
    call = rays_through(NESTED.to(places.here()), 17)
    found = traverse_grids(**call, cells=cells, step=0.0, backend=backend)
    assert found.t_starts.shape[0] > 20
    for ray in range(17):
        samples = pairs(found, ray)
        for (left, right), (following, _) in zip(samples, [*samples[1:], (math.inf, 0)]):
            assert float(call["near"][ray]) <= left < right <= following
        # In every sample the cell is one and the same, and between the samples nothing is occupied.
        for left, right in samples:
            assert all(occupied(call, cells, ray, left + (right - left) * w) for w in (0.001, 0.4, 0.999))
        ends = [float(e) for e, hit in zip(call["exits"][ray], call["hits"][ray]) if hit]
        for k in range(400):
            t = float(call["near"][ray]) + (k + 0.5) / 400 * max([0.0, *ends])
            inside = any(left < t < right for left, right in samples)
            assert inside == occupied(call, cells, ray, t) or min(abs(t - e) for s in samples for e in s) < 1e-9


@backends
def test_the_cells_of_a_straight_ray(backend: str) -> None:
    call = {
        "origins": torch.tensor([[-2.0, 0.1, 0.1], [2.0, 0.1, 0.1]]),
        "directions": torch.tensor([[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0]]),
        "aabbs": torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]]),
        "enters": torch.ones(2, 1),
        "exits": torch.full((2, 1), 3.0),
        "hits": torch.ones(2, 1, dtype=torch.bool),
        "near": torch.zeros(2),
        "far": torch.tensor([9.0, 2.75]),
    }
    cells = torch.tensor([True, True, False, True]).reshape(1, 4, 1, 1)
    found = traverse_grids(**call, cells=cells, step=0.0, backend=backend)
    assert pairs(found, 0) == [(1.0, 1.5), (1.5, 2.0), (2.5, 3.0)]
    assert pairs(found, 1) == [(1.0, 1.5), (2.0, 2.5), (2.5, 2.75)]
    assert found.stops.tolist() == [3.0, 2.75]


@backends
@pytest.mark.parametrize("cone", [0.0, 0.05])
def test_a_limit_and_where_it_continues(backend: str, cone: float) -> None:
    cells = torch.rand(2, 4, 4, 4) < 0.6
    call = rays_through(NESTED.to(places.here()), 9)
    whole = traverse_grids(**call, cells=cells, step=0.06, cone=cone, backend=backend)
    collected: list[list[tuple[float, float]]] = [[] for _ in range(9)]
    for _ in range(60):
        found = traverse_grids(**call, cells=cells, step=0.06, cone=cone, limit=3, backend=backend)
        assert int(found.packed_info[:, 1].max()) <= 3
        for ray in range(9):
            collected[ray] += pairs(found, ray)
        call["near"] = found.stops
        if not found.t_starts.numel():
            break
    assert sum(map(len, collected)) == whole.t_starts.shape[0] > 30
    for ray in range(9):
        assert_samples(collected[ray], pairs(whole, ray), 1e-9)


@backends
@pytest.mark.parametrize("step", [0.0, 0.1])
def test_rays_that_have_no_sample(backend: str, step: float) -> None:
    cells = torch.ones(2, 2, 2, 2, dtype=torch.bool)
    call = rays_through(NESTED.to(places.here()), 5)
    mask = torch.tensor([True, False, True, True, True])
    call["hits"][2] = False
    call["far"][3] = -1.0
    call["exits"][4] = math.nan
    found = traverse_grids(**call, cells=cells, step=step, mask=mask, backend=backend)
    assert found.packed_info[1:, 1].tolist() == [0, 0, 0, 0]
    assert torch.equal(found.stops[1:], call["near"][1:])
    none = {name: t if name == "aabbs" else t[:0] for name, t in call.items()}
    empty = traverse_grids(**none, cells=cells, step=step, backend=backend)
    assert [t.shape[0] for t in empty] == [0, 0, 0, 0, 0]
    assert empty.packed_info.shape == (0, 2)


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("boxes", [NESTED, APART], ids=["nested", "apart"])
@pytest.mark.parametrize("options", [{"step": 0.05}, {"step": 0.05, "cone": 0.03, "limit": 7}, {"step": 0.0}], ids=str)
def test_the_very_samples_of_the_reference(
    backend: str, dtype: torch.dtype, boxes: Tensor, options: dict[str, float]
) -> None:
    for rays in (0, 1, 129):
        call = rays_through(boxes.to(places.here()), rays, dtype)
        call |= {"cells": torch.rand(boxes.shape[0], 5, 3, 4) < 0.5, "mask": torch.rand(rays) < 0.9, **options}
        wanted = traverse_grids(**call, backend="reference")
        for name, a, b in zip(wanted._fields, traverse_grids(**call, backend=backend), wanted):
            assert torch.equal(a, b), (name, rays)


@compiled
def test_threads_and_strides_change_nothing(backend: str) -> None:
    call = rays_through(NESTED.to(places.here()), 500, torch.float32)
    cells = torch.rand(2, 4, 4, 4) < 0.5
    wanted = traverse_grids(**call, cells=cells, step=0.02, backend=backend)
    turned = {name: t.t().contiguous().t() if t.dim() == 2 else t for name, t in call.items()}
    turned["near"] = torch.stack([call["near"], call["far"]], 1)[:, 0]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        found = traverse_grids(
            **turned, cells=cells.transpose(1, 3).contiguous().transpose(1, 3), step=0.02, backend=backend
        )
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(found, wanted):
        assert torch.equal(a, b)


GOOD: Call = {
    "origins": torch.zeros(2, 3),
    "directions": torch.ones(2, 3),
    "cells": torch.ones(1, 2, 2, 2, dtype=torch.bool),
    "aabbs": torch.tensor([[-1.0, -1.0, -1.0, 1.0, 1.0, 1.0]]),
    "enters": torch.zeros(2, 1),
    "exits": torch.ones(2, 1),
    "hits": torch.ones(2, 1, dtype=torch.bool),
    "near": torch.zeros(2),
    "far": torch.ones(2),
    "step": 0.1,
}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"origins": torch.zeros(2, 3).half()}, TypeError, "origins must have dtype"),
        ({"directions": torch.ones(3, 3)}, ValueError, "directions must have shape"),
        ({"cells": torch.ones(1, 2, 2, 2)}, TypeError, "cells must have dtype"),
        ({"cells": torch.ones(1, 2, 0, 2, dtype=torch.bool)}, ValueError, "cells must have at least 1"),
        ({"aabbs": torch.ones(2, 6)}, ValueError, "aabbs must have shape"),
        ({"hits": torch.ones(2, 1)}, TypeError, "hits must have dtype"),
        ({"near": torch.tensor([0.0, -math.inf])}, ValueError, "near must be finite"),
        ({"far": torch.ones(1)}, ValueError, "far must have shape"),
        ({"mask": torch.ones(3, dtype=torch.bool)}, ValueError, "mask must have shape"),
        ({"step": -0.1}, ValueError, "step must be"),
        ({"step": 1e-9}, (ValueError, RuntimeError), "step must give at most 16777216 steps"),
        ({"cone": math.nan}, ValueError, "cone must be"),
        ({"limit": -1}, ValueError, "limit must be"),
    ],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_errors_name_the_argument(backend: str, change: Call, error: type[Exception], text: str, need: Any) -> None:
    need("traverse_grids", backend)
    with pytest.raises(error, match=text):
        traverse_grids(**{**GOOD, **change}, backend=backend)


@compiled
def test_opcheck(backend: str) -> None:
    call = rays_through(NESTED.to(places.here()), 5)
    rest = (call["aabbs"], call["enters"], call["exits"], call["hits"], call["near"], call["far"], 0.1, 0.0, 4)
    rays = (call["origins"].requires_grad_(), call["directions"], None, torch.rand(2, 2, 2, 2) < 0.5)
    torch.library.opcheck(torch.ops.mclnf_fast.traverse_grids_fwd.default, (*rays, *rest))
