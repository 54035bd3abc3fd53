"""Rendering rays as one op: closed forms, the kernel against the ops that it fuses, its independence of order,
errors."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from render_cases import BOX, OPTIONS, SPEC, SPECS, Call, blobs, call, worst
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops.render_rays import api


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.usefixtures("poisoned")
def test_the_kernel_agrees_with_the_ops(need: Callable[..., str], gpu_or_cpu: str, options: Call) -> None:
    need("render_rays", "triton", device=gpu_or_cpu)
    given = call(SPEC, device=gpu_or_cpu, **options)
    wanted = mf.ops.render_rays(**given, backend="reference")
    found = mf.ops.render_rays(**given, backend="triton")
    assert worst(found, wanted) < 5e-6
    again = mf.ops.render_rays(**given, backend="triton")
    assert all(torch.equal(a, b) for a, b in zip(found, again))


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_every_network(need: Callable[..., str], gpu_or_cpu: str, tf32: bool, spec: mf.FieldSpec) -> None:
    need("render_rays", "triton", device=gpu_or_cpu)
    given = call(spec, (3, 17), gpu_or_cpu, bins=4, last_behind=True)
    wanted = mf.ops.render_rays(**given, backend="reference")
    found = mf.ops.render_rays(**given, backend="triton")
    assert worst(found, wanted) < (3e-2 if tf32 else 5e-6)


def test_half_weights_round_features_and_not_places(need: Callable[..., str], gpu_or_cpu: str) -> None:
    need("render_rays", "triton", device=gpu_or_cpu)
    given = call(SPEC, (20,), gpu_or_cpu, bins=6)
    wanted = mf.ops.render_rays(**given, backend="reference")
    given |= {name: [t.half() for t in given[name]] for name in ("weights", "biases")}
    rounded = mf.ops.render_rays(**given, backend="reference")  # weights alone are rounded there
    assert worst(mf.ops.render_rays(**given, backend="triton"), rounded) < 1e-2
    assert 0 < worst(rounded, wanted) < 1e-2


@pytest.mark.parametrize("rays", [0, 1, 15, 17, 63])
def test_sizes(need: Callable[..., str], gpu_or_cpu: str, rays: int) -> None:
    need("render_rays", "triton", device=gpu_or_cpu)
    given = call(SPEC, (0, rays), gpu_or_cpu, bins=3)
    found = mf.ops.render_rays(**given, backend="triton")
    assert [t.shape for t in found] == [(rays, 3), (rays,), (rays,)]
    assert rays == 0 or worst(found, mf.ops.render_rays(**given, backend="reference")) < 5e-6


def test_a_pixel_does_not_depend_on_its_neighbors(
    need: Callable[..., str], gpu_or_cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other neighbors in the tile, another order, other chunks: the same bits on a GPU. The interpreter's matrix
    product rounds a row by where it stands."""
    need("render_rays", "triton", device=gpu_or_cpu)
    from mclnf_fast.ops.render_rays.triton import ops

    most = 0.0 if gpu_or_cpu == "cuda" else 1e-6
    given = call(SPEC, (30,), gpu_or_cpu, bins=8, occupancy=blobs(4, 4, 4).to(gpu_or_cpu))
    whole = mf.ops.render_rays(**given, backend="triton")
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0)).to(gpu_or_cpu)
    given |= {name: given[name][order] for name in ("origins", "directions")}
    shuffled = mf.ops.render_rays(**given, backend="triton")
    assert worst(mf.ops.Pixels(*(t[order] for t in whole)), shuffled) <= most
    monkeypatch.setattr(ops, "CHUNKS_A_PROGRAM", 10**6)
    cut = mf.ops.render_rays(**given, backend="triton")
    assert worst(cut, shuffled) <= most


def test_rays_that_see_nothing(need: Callable[..., str], gpu_or_cpu: str) -> None:
    """Past the box, of no length, not finite: what stands behind, and no NaN for the neighbors in the tile."""
    need("render_rays", "triton", device=gpu_or_cpu)
    background = torch.tensor([0.25, 0.5, 0.75], device=gpu_or_cpu)
    given = call(SPEC, (20,), gpu_or_cpu, bins=5, background=background)
    whole = mf.ops.render_rays(**given, backend="triton")
    given["origins"][3] = torch.tensor([0.0, 0.0, 5.0])
    given["directions"][3] = torch.tensor([1.0, 0.0, 0.0])
    given["directions"][4] = 0.0
    blind = [3, 4]
    if gpu_or_cpu == "cuda":  # refused where values can be looked at
        given["origins"][5, 1], given["directions"][6, 2] = math.nan, math.inf
        blind += [5, 6]
    found = mf.ops.render_rays(**given, backend="triton")
    assert torch.equal(found.color[blind], background.expand(len(blind), 3))
    assert not torch.stack((found.opacity[blind], found.depth[blind])).any()
    rest = [r for r in range(20) if r not in (3, 4, 5, 6)]
    assert all(torch.equal(a[rest], b[rest]) for a, b in zip(found, whole))


@pytest.mark.parametrize("backend", ["reference", "cpu", "triton"])
def test_a_homogeneous_medium(need: Callable[..., str], gpu_or_cpu: str, backend: str) -> None:
    """Opacity 1 - exp(-density length) along the axis of the box, whatever the bins; raw values are clamped."""
    device = gpu_or_cpu if backend == "triton" else "cpu"
    need("render_rays", backend, device=device)
    given = call(SPEC, (4,), device, bins=6, max_raw_density=-0.5)
    given["weights"] = [torch.zeros_like(t) for t in given["weights"]]
    given["biases"][-1][:] = torch.tensor([4.0, 1.0, -2.0, 0.0])
    given["origins"][:] = torch.tensor([-3.0, 0.1, 0.2])
    given["directions"][:] = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [-1.0, 0, 0], [0.5, 0, 0]])
    out = mf.ops.render_rays(**given, backend=backend)
    length = torch.tensor([2.0, 1.0, 0.0, 4.0], dtype=torch.float64)  # in units of t
    opacity = 1 - torch.exp(-math.exp(-0.5) * length)
    torch.testing.assert_close(out.opacity.double().cpu(), opacity, atol=1e-6, rtol=1e-6)
    colors = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64).sigmoid()
    torch.testing.assert_close(out.color.double().cpu(), opacity[:, None] * colors, atol=1e-6, rtol=1e-6)


def test_early_stop_leaves_out_at_most_its_share(need: Callable[..., str], gpu_or_cpu: str) -> None:
    need("render_rays", "triton", device=gpu_or_cpu)
    given = call(SPEC, (30,), gpu_or_cpu, bins=32, max_raw_density=3.0)
    whole = mf.ops.render_rays(**given, backend="triton")
    short = mf.ops.render_rays(**given, backend="triton", early_stop_eps=0.3)
    gap = whole.opacity - short.opacity
    assert float(gap.min()) >= 0
    assert 0.01 < float(gap.max()) <= 0.3


@pytest.mark.parametrize("backend", ["reference"])
def test_op_by_op_in_pieces(need: Callable[..., str], backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("render_rays", backend)
    given = call(SPEC, bins=9, background=torch.rand(23, 3))
    whole = mf.ops.render_rays(**given, backend=backend)
    monkeypatch.setattr(api, "SAMPLES", 40)
    assert worst(mf.ops.render_rays(**given, backend=backend), whole) < 1e-6


def test_float64_rays_are_rendered_in_float64() -> None:
    given = call(SPEC, bins=6)
    single = mf.ops.render_rays(**given)
    given = {k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in given.items()}
    given |= {name: [t.double() for t in given[name]] for name in ("weights", "biases")}
    double = mf.ops.render_rays(**given)
    assert double.color.dtype == torch.float64
    assert 0 < worst(single, double) < 1e-5


def test_asking_for_a_gradient_is_an_error() -> None:
    given = call(SPEC, bins=3)
    given["weights"][0].requires_grad_()
    with pytest.raises(RuntimeError, match="has no gradient"):
        mf.ops.render_rays(**given)
    with torch.no_grad():
        assert not mf.ops.render_rays(**given).color.requires_grad


def test_a_graph_of_torch_compile_holds_it_whole(need: Callable[..., str], gpu_or_cpu: str) -> None:
    need("render_rays", "triton", device=gpu_or_cpu)
    given = call(SPECS["view"], (3, 9), gpu_or_cpu, bins=3, occupancy=blobs(3, 3, 3).to(gpu_or_cpu))
    wanted = mf.ops.render_rays(**given, backend="triton")
    compiled = torch.compile(lambda o: mf.ops.render_rays(**(given | {"origins": o}), backend="triton"), fullgraph=True)
    assert worst(compiled(given["origins"]), wanted) <= 1e-6


WRONG: dict[str, tuple[Call, type[Exception], str]] = {
    "bins and step": ({"step": 0.1}, ValueError, "exactly one of bins and step"),
    "no bins": ({"bins": 0}, ValueError, "bins must be an int of 1"),
    "near": ({"near": math.nan}, ValueError, "near must be a number, got nan"),
    "a head": ({"density": "sine"}, ValueError, "density must be one of none, relu"),
    "both behind": ({"background": torch.zeros(3), "last_behind": True}, ValueError, "background must be None if"),
    "background": ({"background": torch.zeros(4)}, ValueError, r"background must have shape .*\[3\], got \[4\]"),
    "early stop": ({"early_stop_eps": 1.0}, ValueError, "early_stop_eps must be at least 0 and below 1, got 1.0"),
    "offsets": ({"ray_offsets": torch.tensor([0, 5, 5, 9, 22])}, ValueError, "ray_offsets must end at the"),
    "directions": ({"view_directions": torch.zeros(23, 1)}, ValueError, r"view_directions must .*\] = \[23, 0\], got"),
    "occupancy": ({"occupancy": torch.ones(2, 2)}, ValueError, r"occupancy must be \[X, Y, Z\]"),
    "box": ({"aabb": BOX.flip(0)}, ValueError, "aabb must be finite with"),
    "origins": ({"origins": torch.zeros(23, 2)}, ValueError, r"origins must have shape \[R, 3\]"),
    "dtype": ({"biases": [torch.zeros(4, 16).int()] * 3}, TypeError, r"biases\[0\] must have dtype"),
    "plane": ({"spec": mf.FieldSpec(2, 4, 16, 2)}, ValueError, "spec must take a position"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "kind", "said"), WRONG.values(), ids=WRONG)
def test_wrong_input_is_named(change: Call, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        mf.ops.render_rays(**(call(SPEC, bins=3) | change))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_graph_captures_it(need: Callable[..., str]) -> None:
    need("render_rays", "triton", device="cuda")
    given = call(SPEC, (4000,), "cuda", bins=16, occupancy=blobs(8, 8, 8), last_behind=True)
    wanted = mf.ops.render_rays(**given, backend="triton")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = mf.ops.render_rays(**given, backend="triton")
    for t in found:
        t.fill_(-1)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(found, wanted))


@pytest.mark.parametrize("backend", ["triton", "cpu", "reference"])
def test_a_density_that_overflows_is_opaque(need: Callable[..., str], gpu_or_cpu: str, backend: str) -> None:
    """Nothing is seen behind it, and no pixel is anything but a number."""
    device = gpu_or_cpu if backend == "triton" else "cpu"
    need("render_rays", backend, device=device)
    arguments = call(mf.FieldSpec(3, 4, 16, 1), device=device, bins=6, max_raw_density=math.inf)
    arguments["biases"][-1][:, 0] = 1e3
    with torch.no_grad():
        pixels = mf.ops.render_rays(**arguments, backend=backend)
        once = mf.ops.render_rays(**arguments | {"max_raw_density": 80.0}, backend=backend)
    assert all(bool(t.isfinite().all()) for t in pixels)
    assert worst(pixels, once) < 1e-5
