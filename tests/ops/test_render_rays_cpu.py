"""Rendering rays on the CPU in one op: against the ops that it fuses, in any order, and what it leaves out."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from render_cases import OPTIONS, SPEC, SPECS, Call, blobs, call, worst
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.errors import BackendError

pytestmark = pytest.mark.usefixtures("poisoned")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(autouse=True)
def _compiled(need: Callable[..., str]) -> None:
    need("render_rays", "cpu")


def cast(given: Call, dtype: torch.dtype) -> Call:
    def to(value: object) -> object:
        if isinstance(value, list):
            return [t.to(dtype) for t in value]
        return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value

    occupancy = given.get("occupancy")  # a density grid stays float32
    return {name: to(value) for name, value in given.items()} | ({} if occupancy is None else {"occupancy": occupancy})


def both(given: Call) -> tuple[mf.ops.Pixels, mf.ops.Pixels]:
    return mf.ops.render_rays(**given, backend="cpu"), mf.ops.render_rays(**given, backend="reference")


@DTYPES
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_agrees_with_the_ops(options: Call, dtype: torch.dtype) -> None:
    """In double, what is left of a pixel that light no longer reaches shows: less than 2^-24."""
    pixels, wanted = both(cast(call(SPEC, **options), dtype))
    assert worst(pixels, wanted) < (2e-6 if dtype == torch.float32 else 6e-7)
    assert all(t.dtype == dtype for t in pixels)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_network(spec: mf.FieldSpec) -> None:
    pixels, wanted = both(call(spec, (3, 17), bins=4, last_behind=True))
    assert worst(pixels, wanted) < 2e-6


@pytest.mark.parametrize("density", ["none", "relu", "softplus", "tanh", "sigmoid", "exp"])
@pytest.mark.parametrize("color", ["none", "relu", "softplus", "tanh", "sigmoid", "exp"])
def test_every_head(density: str, color: str) -> None:
    given = call(SPEC, (20,), bins=6, density=density, color=color, max_raw_density=1.5)
    given["biases"][-1][:, 0] += 1.5  # below 0, densities make pixels of differences of large numbers
    pixels, wanted = both(given)
    for got, known in zip(pixels, wanted):
        torch.testing.assert_close(got, known, rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("rays", [0, 1, 15, 17, 63, 64, 65, 129, 1025, 2100])
@pytest.mark.parametrize("bins", [1, 63, 64, 65, 130])
def test_sizes(rays: int, bins: int) -> None:
    if rays > 129 and bins > 1:
        bins = 7
    given = call(SPEC, (0, rays, 2), bins=bins, occupancy=blobs(9, 9, 9) if bins > 64 else None)
    pixels, wanted = both(given)
    assert [t.shape for t in pixels] == [(rays + 2, 3), (rays + 2,), (rays + 2,)]
    assert worst(pixels, wanted) < 2e-6


def test_dense_fields_end_early() -> None:
    """Fields behind which nothing is seen: the pixels of all samples, from a part of them."""
    given = call(SPEC, (40, 40), bins=200, last_behind=True, max_raw_density=8.0)
    given["biases"][-1][:, 0] += 6.0
    pixels, wanted = both(given)
    assert float(wanted.opacity.max()) > 0.999
    assert worst(pixels, wanted) < 2e-6


def test_a_pixel_does_not_depend_on_its_neighbors() -> None:
    given = call(SPEC, (30, 200), bins=8, occupancy=blobs(4, 4, 4))
    whole = mf.ops.render_rays(**given, backend="cpu")
    order = torch.cat((torch.randperm(30), 30 + torch.randperm(200)))
    given |= {name: given[name][order] for name in ("origins", "directions")}
    shuffled = mf.ops.render_rays(**given, backend="cpu")
    assert worst(mf.ops.Pixels(*(t[order] for t in whole)), shuffled) < 1e-6


def test_any_number_of_threads() -> None:
    given, before = call(SPEC, (3000, 700), bins=9), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(mf.ops.render_rays(**given, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))


def test_rays_that_see_nothing() -> None:
    background = torch.tensor([0.25, 0.5, 0.75])
    given = call(SPEC, (20,), bins=5, background=background)
    whole = mf.ops.render_rays(**given, backend="cpu")
    given["origins"][3] = torch.tensor([0.0, 0.0, 5.0])
    given["directions"][3] = torch.tensor([1.0, 0.0, 0.0])
    given["directions"][4] = 0.0
    pixels = mf.ops.render_rays(**given, backend="cpu")
    assert torch.equal(pixels.color[[3, 4]], background.expand(2, 3))
    assert not torch.stack((pixels.opacity[[3, 4]], pixels.depth[[3, 4]])).any()
    rest = [r for r in range(20) if r not in (3, 4)]
    torch.testing.assert_close(pixels.color[rest], whole.color[rest], rtol=0, atol=1e-6)


def test_early_stop_leaves_out_at_most_its_share() -> None:
    given = call(SPEC, (30,), bins=32, max_raw_density=3.0)
    whole = mf.ops.render_rays(**given, backend="cpu")
    gap = whole.opacity - mf.ops.render_rays(**given, backend="cpu", early_stop_eps=0.3).opacity
    assert float(gap.min()) >= 0
    assert 0.01 < float(gap.max()) <= 0.3


def test_fields_that_are_not_finite() -> None:
    """NaN in one module stays in its rays; an endless density is a wall."""
    given = call(SPEC, (10, 10), bins=6)
    given["weights"][0][0, 0, 0] = math.nan
    pixels, wanted = both(given)
    assert bool(pixels.color[:10].isnan().any())
    assert not bool(pixels.color[10:].isnan().any())
    assert worst(*(mf.ops.Pixels(*(t[10:] for t in p)) for p in (pixels, wanted))) < 2e-6
    wall = call(SPEC, (10,), bins=6, density="none", max_raw_density=math.inf)
    wall["biases"][-1][:, 0] = math.inf
    pixels, wanted = both(wall)
    assert worst(pixels, wanted) < 2e-6


def test_steps_too_many_to_number() -> None:
    given = call(SPEC, (3,), step=1e-9)
    with pytest.raises(RuntimeError, match="step must give at most 16777216 bins"):
        mf.ops.render_rays(**given, backend="cpu")


def test_constants_inside_a_transform() -> None:
    """`vmap` over something else: PyTorch's own operators serve, and a backend by name says that it can't."""
    given = call(SPEC, (4,), bins=3)
    wanted = mf.ops.render_rays(**given, backend="reference").color
    found = torch.func.vmap(lambda a: a + mf.ops.render_rays(**given).color)(torch.zeros(2, 1, 1))
    torch.testing.assert_close(found[1], wanted, rtol=0, atol=2e-6)
    with pytest.raises(BackendError, match="transform"):
        torch.func.vmap(lambda a: a + mf.ops.render_rays(**given, backend="cpu").color)(torch.zeros(2, 1, 1))


def test_opcheck() -> None:
    given = call(SPEC, (3, 2), bins=4, background=torch.rand(5, 3))
    bank = (
        given["origins"],
        given["directions"],
        given["ray_offsets"],
        given["weights"],
        given["biases"],
        given["aabb"],
    )
    numbers = (4, 0.0, 0.0, math.inf, False, 6, 5, 9.0, 0.0)
    arguments = (*bank, blobs(1, 2, 2, 2), None, given["background"], *SPEC.packed, *numbers)
    torch.library.opcheck(torch.ops.mclnf_fast.render_rays_fwd.default, arguments)
