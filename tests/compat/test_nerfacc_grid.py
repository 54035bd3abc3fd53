"""compat.nerfacc: boxes, the traversal of grids in nerfacc's shapes, and the occupancy grid estimator."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from mclnf_fast.compat import nerfacc
from mclnf_fast.compat.nerfacc import OccGridEstimator
from mclnf_fast.compat.nerfacc.grid import _query

BOX = torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])
LEVELS = torch.stack([BOX, 2 * BOX, 4 * BOX])


def random_rays(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    origins = torch.randn(count, 3, dtype=dtype) * 2
    towards = torch.rand(count, 3, dtype=dtype) - 0.5 - origins
    return origins, torch.nn.functional.normalize(towards, dim=1)


def crossing(origin: list[float], direction: list[float], box: list[float]) -> tuple[float, float] | None:
    """Where a ray enters and leaves a box, by its three pairs of planes; None: it misses it, or has left it."""
    enter, leave = -math.inf, math.inf
    for axis in range(3):
        low, high, o, d = box[axis], box[3 + axis], origin[axis], direction[axis]
        if d == 0:
            if not low <= o <= high:
                return None
            continue
        near, far = sorted(((low - o) / d, (high - o) / d))
        enter, leave = max(enter, near), min(leave, far)
    return (enter, leave) if enter <= leave and leave > 0 and any(direction) else None


def test_boxes() -> None:
    origins, directions = random_rays(40, torch.float64)
    directions[::5, 1] = 0.0
    directions[::10, 2] = -0.0
    origins[::5, 1] = 0.3
    origins[0] = torch.tensor([-3.0, 1.0, 1.0])  # along an edge of the first box
    directions[0] = torch.tensor([1.0, 0.0, 0.0])
    directions[1] = 0.0
    low = torch.rand(6, 3, dtype=torch.float64) * 2 - 1
    boxes = torch.cat([BOX[None].double(), torch.cat([low, low + 0.8], 1)])
    enters, exits, hits = nerfacc.ray_aabb_intersect(origins, directions, boxes, miss_value=-7.0)
    assert 20 < int(hits.sum()) < hits.numel()
    for r in range(40):
        for b in range(7):
            wanted = crossing(origins[r].tolist(), directions[r].tolist(), boxes[b].tolist())
            assert bool(hits[r, b]) == (wanted is not None)
            assert (float(enters[r, b]), float(exits[r, b])) == pytest.approx(wanted or (-7.0, -7.0))
    clamped = nerfacc.ray_aabb_intersect(origins, directions, boxes, near_plane=0.2, far_plane=2.0)
    assert bool(((clamped[0] >= 0.2) & (clamped[1] <= 2.0) | ~hits).all())
    assert torch.equal(clamped[2], hits)
    assert [t.shape for t in nerfacc.ray_aabb_intersect(origins[:0], directions[:0], boxes)] == [(0, 7)] * 3
    assert [t.shape for t in nerfacc.ray_aabb_intersect(origins, directions, boxes[:0])] == [(40, 0)] * 3


def test_intervals_and_samples_of_a_traversal() -> None:
    origins, directions = random_rays(33)
    cells = torch.rand(3, 8, 8, 8) < 0.5
    intervals, samples, stops = nerfacc.traverse_grids(origins, directions, cells, LEVELS, step_size=0.05)
    assert intervals.is_left is not None
    assert intervals.is_right is not None
    assert intervals.ray_indices is not None
    assert intervals.packed_info is not None
    assert samples.packed_info is not None
    assert samples.is_valid is not None
    starts, ends = intervals.vals[intervals.is_left], intervals.vals[intervals.is_right]
    assert torch.equal(samples.vals, (starts + ends) / 2)
    assert bool(samples.is_valid.all())
    for left_or_right in (intervals.is_left, intervals.is_right):
        assert torch.equal(intervals.ray_indices[left_or_right], samples.ray_indices)
    assert intervals.packed_info.tolist() == nerfacc.pack_info(intervals.ray_indices, 33).tolist()
    assert samples.packed_info.tolist() == nerfacc.pack_info(samples.ray_indices, 33).tolist()
    assert bool((intervals.is_left | intervals.is_right).all())
    torch.testing.assert_close(ends - starts, torch.full_like(starts, 0.05), rtol=1e-4, atol=1e-6)
    # Edges rise along a ray, but where one sample ends and another begins at a gap.
    same = intervals.ray_indices[1:] == intervals.ray_indices[:-1]
    assert bool((intervals.vals.diff()[same] > 0).all())
    points = origins[samples.ray_indices] + directions[samples.ray_indices] * samples.vals[:, None]
    occupied, inside = _query(points, cells, BOX)
    assert len(points) > 100
    assert float(occupied.float().mean()) > 0.999  # a point on the border of two cells may round to the other
    assert float(inside.float().mean()) > 0.999
    # With the intersections given, the same.
    enters, exits, hits = nerfacc.ray_aabb_intersect(origins, directions, LEVELS)
    t_sorted, t_indices = torch.cat([enters, exits], 1).sort(1)
    again = nerfacc.traverse_grids(
        origins, directions, cells, LEVELS, step_size=0.05, t_sorted=t_sorted, t_indices=t_indices, hits=hits
    )
    assert torch.equal(again[0].vals, intervals.vals)
    assert torch.equal(again[2], stops)


def test_room_for_all_samples_of_each_ray() -> None:
    origins, directions = random_rays(9)
    cells, mask = torch.rand(3, 8, 8, 8) < 0.5, torch.rand(9) < 0.7
    plain = nerfacc.traverse_grids(
        origins, directions, cells, LEVELS, step_size=0.1, traverse_steps_limit=5, rays_mask=mask
    )
    roomy = nerfacc.traverse_grids(
        origins, directions, cells, LEVELS, step_size=0.1, traverse_steps_limit=5, over_allocate=True, rays_mask=mask
    )
    rays = int(mask.sum())
    intervals, samples, stops = roomy
    assert samples.vals.shape == samples.is_valid.shape == samples.ray_indices.shape == (5 * rays,)
    assert intervals.vals.shape == intervals.is_left.shape == intervals.is_right.shape == (10 * rays,)
    assert torch.equal(samples.vals[samples.is_valid], plain[1].vals)
    assert torch.equal(samples.ray_indices[samples.is_valid], plain[1].ray_indices)
    assert torch.equal(intervals.vals[intervals.is_left], plain[0].vals[plain[0].is_left])
    assert torch.equal(intervals.vals[intervals.is_right], plain[0].vals[plain[0].is_right])
    assert torch.equal(samples.packed_info, plain[1].packed_info)
    assert torch.equal(intervals.packed_info, plain[0].packed_info)
    assert torch.equal(stops, plain[2])
    assert not samples.packed_info[~mask, 1].any()
    with pytest.raises(ValueError, match="traverse_steps_limit must be above 0 with over_allocate, got None"):
        nerfacc.traverse_grids(origins, directions, cells, LEVELS, over_allocate=True)


def test_a_traversal_of_nothing() -> None:
    nothing = torch.zeros(0, 3)
    cells = torch.ones(3, 2, 2, 2, dtype=torch.bool)
    for rays in ((nothing, nothing), (torch.full((4, 3), 9.0), torch.ones(4, 3))):
        for options in ({}, {"over_allocate": True, "traverse_steps_limit": 3}, {"step_size": 0.0}):
            intervals, samples, stops = nerfacc.traverse_grids(*rays, cells, LEVELS, **options)
            assert not samples.is_valid.any()
            assert stops.tolist() == [0.0] * len(rays[0])
            assert intervals.packed_info.shape == samples.packed_info.shape == (len(rays[0]), 2)
            assert not intervals.packed_info[:, 1].any()


def filled(levels: int = 2, resolution: int | list[int] = 8) -> OccGridEstimator:
    estimator = OccGridEstimator(BOX, resolution, levels)
    estimator.binaries = torch.rand(estimator.binaries.shape) < 0.5
    return estimator


def test_sampling_is_the_traversal() -> None:
    origins, directions = random_rays(33)
    estimator = filled()
    near, far = torch.rand(33), 2 + torch.rand(33)
    rays, starts, ends = estimator.sampling(
        origins,
        directions,
        near_plane=0.1,
        far_plane=4.0,
        t_min=near,
        t_max=far,
        render_step_size=0.05,
        cone_angle=0.02,
    )
    intervals, samples, _ = nerfacc.traverse_grids(
        origins, directions, estimator.binaries, estimator.aabbs, near.clamp_min(0.1), far, 0.05, 0.02
    )
    assert torch.equal(rays, samples.ray_indices)
    assert torch.equal(starts, intervals.vals[intervals.is_left])
    assert torch.equal(ends, intervals.vals[intervals.is_right])
    assert (rays.dtype, starts.dtype) == (torch.int64, torch.float32)
    torch.manual_seed(0)
    shifted = estimator.sampling(origins, directions, t_min=near, render_step_size=0.05, stratified=True)[1]
    assert shifted.numel() > 100
    for rays_ in (origins[:0], origins.double(), origins.half()):
        found = estimator.sampling(rays_, directions[: len(rays_)].to(rays_.dtype), render_step_size=0.05)
        assert found[1].dtype == (torch.float64 if rays_.dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("kind", ["sigma_fn", "alpha_fn"])
def test_sampling_leaves_out_what_is_not_seen(kind: str) -> None:
    origins, directions = random_rays(9)
    estimator = filled()
    estimator.occs.fill_(0.3)
    options = {"render_step_size": 0.1, "early_stop_eps": 0.05, "alpha_thre": 0.5}  # at most the mean, 0.3
    everything = estimator.sampling(origins, directions, render_step_size=0.1)
    alphas = torch.rand(len(everything[0]))
    sigmas = -torch.log1p(-alphas) / (everything[2] - everything[1])
    calls = []

    def field(starts: Tensor, ends: Tensor, rays: Tensor) -> Tensor:
        calls.append(rays)
        return sigmas if kind == "sigma_fn" else alphas

    found = estimator.sampling(origins, directions, **{kind: field}, **options)
    wanted, left = [], {}
    for k, ray in enumerate(everything[0].tolist()):
        trans = left.get(ray, 1.0)
        if trans >= 0.05 and float(alphas[k]) >= 0.3:
            wanted.append(k)
        left[ray] = trans * (1 - float(alphas[k]))
    assert 0 < len(wanted) < len(alphas)
    for values, whole in zip(found, everything):
        assert torch.equal(values, whole[wanted])
    far = torch.full_like(origins, 99.0)
    assert estimator.sampling(far, far, **{kind: field}, **options)[0].shape == (0,)
    assert len(calls) == 1  # not asked about nothing


def test_updates_of_the_grid() -> None:
    estimator = OccGridEstimator(BOX, [4, 5, 6], levels=2)
    points = []

    def field(x: Tensor) -> Tensor:
        points.append(x)
        return (x[:, :1] > 0).float() * 0.5

    estimator.update_every_n_steps(5, field)
    assert not points
    estimator.update_every_n_steps(16, field, occ_thre=0.01)
    assert [len(x) for x in points] == [120, 120]
    assert float(points[0].abs().max()) <= 1.0 < 1.5 < float(points[1].abs().max()) <= 2.0
    on = estimator.binaries
    assert on.shape == (2, 4, 5, 6)
    assert bool(on[:, 2:].all())
    assert not on[:, :2].any()
    occs = estimator.occs.clone()
    estimator.update_every_n_steps(32, lambda x: torch.zeros(len(x)), ema_decay=0.5)
    torch.testing.assert_close(estimator.occs, occs * 0.5)
    # After the warm-up: every chosen cell is lowered once, however often it was drawn, and takes the largest value.
    torch.manual_seed(0)
    occs = estimator.occs.clone()
    estimator.update_every_n_steps(1024, lambda x: torch.full((len(x), 1), 0.2), ema_decay=0.5)
    # 0.25 halved is less than what was seen; a cell that was not drawn is as it was.
    assert estimator.occs[occs == 0].unique().tolist() == pytest.approx([0.0, 0.2])
    assert estimator.occs[occs == 0.25].unique().tolist() == pytest.approx([0.2, 0.25])
    estimator.update_every_n_steps(1024, lambda x: torch.zeros(len(x)), ema_decay=0.5)
    assert estimator.occs.unique().tolist() == pytest.approx([0.0, 0.1, 0.125, 0.2, 0.25])  # lowered once
    estimator.eval()
    with pytest.raises(RuntimeError, match="update_every_n_steps must be called in training mode"):
        estimator.update_every_n_steps(0, field)


def test_a_grid_that_no_camera_sees_stays_empty() -> None:
    estimator = OccGridEstimator(BOX, 4)
    estimator.occs.fill_(-1.0)
    for step in (0, 512):
        estimator.update_every_n_steps(step, lambda x: torch.ones(len(x), 1))
        assert bool((estimator.occs == -1).all())
        assert not estimator.binaries.any()


def test_cells_that_cameras_see() -> None:
    estimator = OccGridEstimator(BOX, [3, 4, 5], levels=2)
    K = torch.tensor([[[80.0, 0.0, 32.0], [0.0, 80.0, 24.0], [0.0, 0.0, 1.0]]])
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, -1.0]])
    poses = torch.stack([torch.cat([turn, torch.tensor([[x], [0.13], [3.07]])], 1) for x in (-0.43, 0.31)])
    estimator.mark_invisible_cells(K, poses, 64, 48, near_plane=1.5, chunk=7)
    for level in range(2):
        for i in range(3):
            for j in range(4):
                for k in range(5):
                    scale = 2.0**level
                    corner = torch.tensor([i / 2, j / 3, k / 4]) * 2 * scale - scale
                    seen, near = False, False
                    for pose in poses:
                        x, y, z = (pose[:, :3].T @ (corner - pose[:, 3])).tolist()
                        if z >= 0 and 0 <= 80 * x + 32 * z < 64 * z and 0 <= 80 * y + 24 * z < 48 * z:
                            seen, near = seen or z >= 1.5, near or z < 1.5
                    number = ((level * 3 + i) * 4 + j) * 5 + k
                    assert estimator.occs[number] == (0.0 if seen and not near else -1.0)
    assert 0 < int((estimator.occs == 0).sum()) < 100
    estimator.update_every_n_steps(0, lambda x: torch.ones(len(x), 1))
    assert torch.equal(estimator.binaries.flatten(), estimator.occs > 0)


def test_the_state_is_that_of_the_original() -> None:
    """Its buffers by name, shape and dtype, so that a grid trained there loads here."""
    state = OccGridEstimator([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], 6, levels=2).state_dict()
    assert {name: (tuple(t.shape), t.dtype) for name, t in state.items()} == {
        "resolution": ((3,), torch.int32),
        "aabbs": ((2, 6), torch.float32),
        "occs": ((432,), torch.float32),
        "binaries": ((2, 6, 6, 6), torch.bool),
    }
    estimator = filled(resolution=6)
    estimator.load_state_dict({**state, "occs": torch.arange(432.0)})
    assert estimator.occs[7] == 7
    assert not estimator.binaries.any()
    assert estimator.to(torch.float64).device.type == "cpu"


RAY = (torch.zeros(1, 3), torch.ones(1, 3))
CELLS = torch.ones(1, 2, 2, 2, dtype=torch.bool)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: nerfacc.ray_aabb_intersect(torch.zeros(3), *RAY[1:], BOX), ValueError, "rays_o must have shape"),
        (lambda: nerfacc.ray_aabb_intersect(*RAY, BOX), ValueError, "aabbs must have shape"),
        (
            lambda: nerfacc.ray_aabb_intersect(RAY[0] * math.nan, RAY[1], BOX[None]),
            ValueError,
            "rays_o must hold no NaN",
        ),
        (lambda: nerfacc.traverse_grids(*RAY, CELLS, LEVELS), ValueError, "binaries must have shape"),
        (lambda: nerfacc.traverse_grids(*RAY, CELLS.float(), BOX[None]), TypeError, "binaries must have dtype"),
        (
            lambda: nerfacc.traverse_grids(*RAY, CELLS, BOX[None], near_planes=torch.tensor([-math.inf])),
            ValueError,
            "near_planes must be finite",
        ),
        (
            lambda: nerfacc.traverse_grids(*RAY, CELLS, BOX[None], far_planes=torch.zeros(2)),
            ValueError,
            "far_planes must have shape",
        ),
        (
            lambda: nerfacc.traverse_grids(*RAY, CELLS, BOX[None], step_size=None),
            TypeError,
            "step_size must be a number",
        ),
        (lambda: nerfacc.traverse_grids(*RAY, CELLS, BOX[None], cone_angle=-1.0), ValueError, "cone_angle must be"),
        (lambda: OccGridEstimator(BOX[:5]), ValueError, "roi_aabb must have shape"),
        (lambda: OccGridEstimator(-BOX), ValueError, "roi_aabb must have its lowest corner first"),
        (lambda: OccGridEstimator(BOX, [4, 4]), ValueError, "resolution must have shape"),
        (lambda: OccGridEstimator(BOX, 0), ValueError, "resolution must be at least 1"),
        (lambda: OccGridEstimator(BOX, 2, 0), ValueError, "levels must be at least 1"),
        (lambda: OccGridEstimator(BOX, contraction_type=1), TypeError, "contraction_type"),
        (lambda: filled().sampling(*RAY, near_plane=-math.inf), ValueError, "near_plane must be finite"),
        (lambda: filled().sampling(*RAY, t_min=torch.zeros(2)), ValueError, "t_min must have shape"),
        (
            lambda: filled().sampling(*RAY, sigma_fn=lambda s, e, i: s[:, None]),
            ValueError,
            "the result of sigma_fn must have shape",
        ),
        (lambda: filled().update_every_n_steps(0, lambda x: x), ValueError, r"occ_eval_fn must return \[N, 1\]"),
        (lambda: filled().update_every_n_steps(0, lambda x: x[:, 0] * math.nan), ValueError, "occ_eval_fn .* with NaN"),
        (
            lambda: filled().mark_invisible_cells(torch.eye(3), torch.eye(4)[None], 4, 4),
            ValueError,
            "K must have shape",
        ),
        (
            lambda: filled().mark_invisible_cells(torch.eye(3)[None], torch.eye(3)[None], 4, 4),
            ValueError,
            "c2w must have shape",
        ),
    ],
)
def test_errors_name_the_argument(call: Callable[[], object], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
