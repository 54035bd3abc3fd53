"""Compositing: closed forms, derivatives, agreement of the backends, and what it refuses."""

from __future__ import annotations

import math

import hypothesis
import hypothesis.strategies as st
import places
import pytest
import torch
from torch import Tensor

from mclnf_fast.errors import BackendError
from mclnf_fast.ops import _dispatch
from mclnf_fast.ops.composite import Composite, composite

ODD_COUNTS = [0, 1, 15, 16, 17, 63, 129, 1000, 0, 64, 65, 0]
backends = places.backends("composite")
compiled = places.backends("composite", reference=False)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def need(backend: str, dtype: torch.dtype = torch.float32) -> str:
    reason = _dispatch.why_not("composite", backend, torch.device(places.here()), dtype)
    if reason is not None:
        pytest.skip(f"{backend}: {reason}")
    return backend


def pack(counts: list[int], gap: int = 0) -> Tensor:
    """packed_info of rays with these counts, `gap` unused samples before each."""
    count = torch.tensor(counts, dtype=torch.int64)
    return torch.stack([(count + gap).cumsum(0) - count, count], dim=1)


def packed_case(counts: list[int], channels: int, dtype: torch.dtype, gap: int = 0) -> tuple[Tensor, ...]:
    n = sum(counts) + gap * len(counts) + gap
    starts = torch.rand(n, dtype=dtype)
    return (
        torch.rand(n, dtype=dtype) * 2,
        torch.rand(n, channels, dtype=dtype),
        starts,
        starts + torch.rand(n, dtype=dtype) * 0.3,
        pack(counts, gap),
    )


def dense_case(rays: int, samples: int, channels: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    edges = torch.rand(rays, samples + 1, dtype=dtype).cumsum(1)
    density, color = torch.rand(rays, samples, dtype=dtype), torch.rand(rays, samples, channels, dtype=dtype)
    return density, color, edges[:, :-1], edges[:, 1:]


def assert_close(found: Composite, wanted: Composite, **tolerance: float) -> None:
    for name, a, b in zip(Composite._fields, found, wanted):
        torch.testing.assert_close(a, b, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


@backends
def test_homogeneous_medium(backend: str) -> None:
    """A uniform medium of length L has opacity 1 - exp(-sigma L) however it is cut."""
    need(backend, torch.float64)
    sigma, samples = 0.7, 50
    edges = torch.cat([torch.zeros(1), torch.rand(samples).cumsum(0)]).double()[None]
    density = torch.full((1, samples), sigma, dtype=torch.float64)
    color = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64).expand(1, samples, 3)
    background = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
    found = composite(density, color, edges[:, :-1], edges[:, 1:], None, background, backend=backend)
    through = math.exp(-sigma * float(edges[0, -1]))
    torch.testing.assert_close(found.opacity, torch.tensor([1 - through], dtype=torch.float64))
    torch.testing.assert_close(found.color[0], (1 - through) * color[0, 0] + through * background)
    torch.testing.assert_close(found.weights[0].sum(), found.opacity[0])


@backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opaque_sample_hides_the_rest(backend: str, dtype: torch.dtype) -> None:
    need(backend, dtype)
    density, color, starts, ends = dense_case(1, 5, 3, dtype)
    density = torch.tensor([[0.0, 0.0, math.inf, 3.0, 1.0]], dtype=dtype)
    found = composite(density, color, starts, ends, background=torch.ones(3, dtype=dtype), backend=backend)
    assert found.weights.tolist() == [[0.0, 0.0, 1.0, 0.0, 0.0]]
    assert torch.equal(found.color[0], color[0, 2])
    torch.testing.assert_close(found.depth[0], 0.5 * (starts[0, 2] + ends[0, 2]))


@backends
def test_thin_samples_keep_their_weight(backend: str) -> None:
    """1 - exp(-s) of a tiny s is s, not a rounding of 0."""
    need(backend)
    s = torch.tensor([[1e-9, 1e-7, 1e-5]])
    found = composite(s, torch.ones(1, 3, 1), torch.zeros(1, 3), torch.ones(1, 3), backend=backend)
    torch.testing.assert_close(found.weights, s, rtol=2e-5, atol=0)


@backends
def test_float_exponentials_are_right_to_the_last_bits(backend: str) -> None:
    """Of a sample of optical depth s and an opaque one behind it: weights 1 - exp(-s) and exp(-s), within 3 ulp."""
    need(backend)
    s = torch.cat([torch.logspace(-6, 1.25, 2000), torch.linspace(0.01, 80, 2000)])
    density, starts = torch.stack([s, torch.full_like(s, 200.0)], 1), torch.tensor([0.0, 1.0]).expand(len(s), 2)
    found = composite(density, torch.zeros(len(s), 2, 3), starts, starts + 1, backend=backend).weights.double()
    exact = torch.stack([-torch.expm1(-s.double()), torch.exp(-s.double())], 1)
    assert float((found / exact - 1).abs().max()) <= 6 * 2.0**-24


@backends
def test_rays_without_samples_see_the_background(backend: str) -> None:
    need(backend)
    background = torch.rand(3)
    found = composite(*packed_case([0, 4, 0], 3, torch.float32), background, backend=backend)
    assert torch.equal(found.color[0], background)
    assert torch.equal(found.color[2], background)
    assert found.opacity[0] == 0
    assert found.depth[2] == 0
    for case in (packed_case([], 2, torch.float32), dense_case(0, 4, 2, torch.float32)):
        nothing = composite(*case, backend=backend)
        assert nothing.color.shape == (0, 2)
        assert nothing.weights.shape == case[0].shape
    no_samples = composite(*dense_case(3, 0, 2, torch.float32), background=background[:2], backend=backend)
    assert torch.equal(no_samples.color, background[:2].expand(3, 2))


@backends
@pytest.mark.parametrize("eps", [0.0, 0.3])
@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_first_and_second_derivatives(backend: str, eps: float, channels: int, layout: str) -> None:
    need(backend, torch.float64)
    if layout == "packed":
        *tensors, packed_info = packed_case([0, 3, 1, 4], channels, torch.float64, gap=1)
        background = torch.rand(channels, dtype=torch.float64)
    else:
        tensors, packed_info = list(dense_case(2, 4, channels, torch.float64)), None
        background = torch.rand(2, channels, dtype=torch.float64)
    leaves = [t.clone().requires_grad_() for t in (*tensors, background)]

    def call(*given: Tensor) -> tuple[Tensor, ...]:
        return tuple(composite(*given[:4], packed_info, given[4], early_stop_eps=eps, backend=backend))

    assert torch.autograd.gradcheck(call, leaves)
    assert torch.autograd.gradgradcheck(call, leaves)


def all_derivatives(case: tuple, background: Tensor | None, backend: str, **options: float) -> list[Tensor]:
    """Values, first and second derivatives through every output."""
    *tensors, packed_info = case if len(case) == 5 else (*case, None)
    leaves = [t.detach().clone().requires_grad_() for t in (*tensors, *([] if background is None else [background]))]
    found = composite(*leaves[:4], packed_info, *leaves[4:], backend=backend, **options)
    loss = sum((i + 1) * t.square().sum() for i, t in enumerate(found))
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    second = torch.autograd.grad(sum(g.square().sum() for g in first), leaves)
    return [*found, *first, *second]


@compiled
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("background", ["none", "one", "each"])
def test_agrees_with_reference(backend: str, dtype: torch.dtype, channels: int, background: str) -> None:
    need(backend, dtype)
    behind = {"none": None, "one": torch.rand(channels), "each": torch.rand(len(ODD_COUNTS), channels)}[background]
    behind = None if behind is None else behind.to(dtype)
    for gap in (0, 2):
        case = packed_case(ODD_COUNTS, channels, dtype, gap)
        found, wanted = (all_derivatives(case, behind, b) for b in (backend, "reference"))
        for i, (a, b) in enumerate(zip(found, wanted)):
            scale = float(b.detach().abs().max().clamp_min(1e-30))
            assert float((a - b).detach().abs().max()) <= scale * (2e-5 if dtype == torch.float32 else 1e-12), i


@compiled
@pytest.mark.parametrize("samples", [1, 15, 64, 65, 1000])
def test_float_is_as_good_as_the_reference(backend: str, samples: int) -> None:
    """Against float64, the error is at most twice that of PyTorch in float32."""
    need(backend)
    case = dense_case(9, samples, 3, torch.float32)
    exact = composite(*(t.double() for t in case), backend="reference")
    ours, theirs = composite(*case, backend=backend), composite(*case, backend="reference")
    for truth, a, b in zip(exact, ours, theirs):
        rounding = 4 * torch.finfo(torch.float32).eps * float(truth.abs().max())
        assert float((a - truth).abs().max()) <= 2 * float((b - truth).abs().max()) + rounding


@backends
def test_early_stop_is_a_truncation(backend: str) -> None:
    need(backend, torch.float64)
    case = dense_case(6, 40, 3, torch.float64)
    plain = composite(*case, backend="reference")
    before = torch.cat([torch.ones(6, 1).double(), (1 - plain.weights.cumsum(1))[:, :-1]], dim=1)
    lit = before >= 0.05
    assert 0 < int(lit.sum()) < lit.numel()
    density = case[0].clone().requires_grad_()
    found = composite(density, *case[1:], early_stop_eps=0.05, backend=backend)
    truncated = composite(torch.where(lit, case[0], 0.0), *case[1:], backend="reference")
    assert_close(found, truncated)
    (grad,) = torch.autograd.grad(found.color.sum(), density)
    assert bool((grad[~lit] == 0).all())
    assert bool((grad[lit] != 0).all())


@backends
def test_gradient_of_the_background(backend: str) -> None:
    need(backend)
    case = packed_case([200] * 50 + [0] * 5, 3, torch.float32)
    one, each = torch.rand(3, requires_grad=True), torch.rand(55, 3, requires_grad=True)
    found = composite(*case, one, backend=backend)
    (grad,) = torch.autograd.grad(found.color.sum(), one)
    torch.testing.assert_close(grad, (1 - found.opacity).sum().expand(3))
    found = composite(*case, each, backend=backend)
    (grad,) = torch.autograd.grad(found.color.sum(), each)
    torch.testing.assert_close(grad, (1 - found.opacity)[:, None].expand(55, 3))


@backends
def test_gradient_of_a_background_that_many_rays_share(backend: str) -> None:
    """Summed in blocks of rays, of which the last is not full."""
    need(backend)
    density, color, starts, ends = dense_case(10_001, 1, 3, torch.float32)
    background = torch.zeros(3, requires_grad=True)
    grad = torch.rand(10_001, 3)
    found = composite(density, color, starts, ends, background=background, backend=backend).color
    (found * grad).sum().backward()
    through = torch.exp(-(density * (ends - starts)).double())
    torch.testing.assert_close(background.grad.double(), (through * grad.double()).sum(0), rtol=1e-5, atol=0)


def test_two_runs_and_two_thread_counts_give_the_same_bits() -> None:
    need("cpu")
    case = packed_case([*ODD_COUNTS, *[100] * 1000], 3, torch.float32)
    background, threads = torch.rand(3), torch.get_num_threads()
    runs = []
    try:
        for count in (threads, threads, 1):
            torch.set_num_threads(count)
            runs.append(all_derivatives(case, background, "cpu"))
    finally:
        torch.set_num_threads(threads)
    for run in runs[1:]:
        assert all(torch.equal(a, b) for a, b in zip(runs[0], run))


@compiled
def test_any_strides(backend: str) -> None:
    need(backend)
    density, color, starts, ends = dense_case(7, 33, 3, torch.float32)
    wanted = composite(density, color, starts, ends, backend=backend)
    transposed = color.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    offset = torch.cat([torch.zeros(7, 1), density], dim=1)[:, 1:]
    assert_close(composite(offset, transposed, starts, ends, backend=backend), wanted, rtol=0, atol=0)
    expanded = composite(density, color[:, :1].expand(-1, 33, -1), starts[:1].expand(7, -1), ends, backend=backend)
    copied = composite(density, color[:, :1].repeat(1, 33, 1), starts[:1].repeat(7, 1), ends, backend=backend)
    assert_close(expanded, copied, rtol=0, atol=0)
    info = pack([3, 4]).t().contiguous().t()
    packed = packed_case([3, 4], 2, torch.float32)
    assert_close(composite(*packed[:4], info, backend=backend), composite(*packed, backend=backend), rtol=0, atol=0)


@backends
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float(backend: str, dtype: torch.dtype) -> None:
    need(backend, dtype)
    density, color, starts, ends = dense_case(4, 30, 3, torch.float32)
    density, color = density.to(dtype).requires_grad_(), color.to(dtype)
    found = composite(density, color, starts, ends, backend=backend)
    wanted = composite(density.float(), color.float(), starts, ends, backend="reference")
    assert all(t.dtype == dtype for t in found)
    assert_close(found, Composite(*(t.to(dtype) for t in wanted)))
    made = torch.autograd.grad(found.color.sum(), density)[0]
    wide = density.detach().double().requires_grad_()
    exact = composite(wide, color.double(), starts.double(), ends.double(), backend="reference")
    truth = torch.autograd.grad(exact.color.sum(), wide)[0]
    assert made.dtype == dtype
    assert float((made.double() - truth).norm() / truth.norm()) < 2 * torch.finfo(dtype).eps


@compiled
@hypothesis.settings(
    max_examples=40, deadline=None, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture]
)
@hypothesis.given(
    counts=st.lists(st.integers(0, 9), max_size=8),
    gap=st.integers(0, 2),
    seed=st.integers(0, 99),
    eps=st.sampled_from([0, 0.5]),
)
def test_packing(backend: str, counts: list[int], gap: int, seed: int, eps: float) -> None:
    """A packed batch is its rays one by one; samples of no ray have no weight."""
    need(backend, torch.float64)
    torch.manual_seed(seed)
    case = packed_case(counts, 2, torch.float64, gap)
    found = composite(*case, backend=backend, early_stop_eps=eps)
    covered = torch.zeros(case[0].shape[0], dtype=torch.bool)
    for r, (first, count) in enumerate(case[4].tolist()):
        part = slice(first, first + count)
        covered[part] = True
        alone = composite(*(t[part][None] for t in case[:4]), backend="reference", early_stop_eps=eps)
        torch.testing.assert_close(found.color[r], alone.color[0])
        torch.testing.assert_close(found.weights[part], alone.weights[0])
    assert bool((found.weights[~covered] == 0).all())


@compiled
@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_opcheck(backend: str, layout: str) -> None:
    need(backend)
    case = (
        packed_case([0, 3, 2], 3, torch.float32) if layout == "packed" else (*dense_case(3, 4, 3, torch.float32), None)
    )
    tensors = [t if t is None or t.dtype == torch.int64 else t.clone().requires_grad_() for t in case]
    inputs = (*tensors, torch.rand(3, requires_grad=True))
    ops = torch.ops.mclnf_fast
    torch.library.opcheck(ops.composite_fwd.default, (*inputs, 0.1))
    cotangents = (torch.rand(3, 3, requires_grad=True), torch.rand(3), None, torch.rand_like(case[0]))
    for needs in ((True, True, True), (False, False, False)):
        torch.library.opcheck(ops.composite_bwd.default, (*inputs, *cotangents, 0.1, *needs))
    constants = [None if t is None else t.detach() for t in (*inputs, *cotangents)]
    tangents = [torch.rand_like(constants[i]) for i in (0, 1, 2, 3, 5)]
    torch.library.opcheck(ops.composite_bwd_bwd.default, (*constants, *tangents, 0.1))


@compiled
@pytest.mark.parametrize("layout", ["packed", "dense"])
def test_compiles_whole(backend: str, layout: str) -> None:
    need(backend)
    case = (
        packed_case([3, 0, 5], 3, torch.float32) if layout == "packed" else (*dense_case(3, 4, 3, torch.float32), None)
    )

    behind = torch.ones(3)

    def loss(density: Tensor, color: Tensor) -> Tensor:
        found = composite(density, color, *case[2:], behind, backend=backend)
        return found.color.square().sum() + found.depth.sum()

    leaves = [t.clone().requires_grad_() for t in case[:2]]
    wanted = torch.autograd.grad(loss(*leaves), leaves)
    with places.unaided():
        found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves), leaves)
    for a, b in zip(found, wanted):
        torch.testing.assert_close(a, b)


@compiled
def test_third_order_is_refused(backend: str) -> None:
    need(backend, torch.float64)
    density, *rest = dense_case(2, 3, 1, torch.float64)
    density.requires_grad_()
    value = composite(density, *rest, backend=backend).color.sum()
    for _ in range(2):
        (grad,) = torch.autograd.grad(value, density, create_graph=True)
        value = grad.square().sum()
    with pytest.raises(RuntimeError, match="third derivatives are not implemented"):
        torch.autograd.grad(value, density)


BAD = [
    ({"density": torch.rand(3)}, ValueError, "density must have shape"),
    ({"density": [1.0]}, TypeError, "density must be a tensor"),
    ({"density": torch.ones(2, 4, dtype=torch.int64)}, TypeError, "density must have dtype"),
    ({"color": torch.rand(2, 4)}, ValueError, "color must have shape"),
    ({"color": torch.rand(2, 4, 0)}, ValueError, "color must have at least 1 channel"),
    ({"color": torch.rand(2, 4, 3).double()}, TypeError, "color must have dtype"),
    ({"t_starts": torch.rand(2, 5)}, ValueError, "t_starts must have shape"),
    ({"t_ends": torch.rand(4, 2)}, ValueError, "t_ends must have shape"),
    ({"background": torch.rand(4)}, ValueError, "background must have shape"),
    ({"background": torch.rand(3, 3)}, ValueError, "background must have shape"),
    ({"background": 1.0}, TypeError, "background must be a tensor"),
    ({"early_stop_eps": 1.0}, ValueError, "early_stop_eps must be at least 0 and below 1, got 1.0"),
    ({"backend": "cuda"}, BackendError, "CUDA"),
    ({"backend": "fast"}, ValueError, "backend must be one of"),
]


@pytest.mark.parametrize(("change", "error", "text"), BAD, ids=[f"{next(iter(b[0]))}-{i}" for i, b in enumerate(BAD)])
def test_refuses(change: dict, error: type[Exception], text: str) -> None:
    good = dict(zip(("density", "color", "t_starts", "t_ends"), dense_case(2, 4, 3, torch.float32)))
    with pytest.raises(error, match=text):
        composite(**{**good, **change})


@pytest.mark.parametrize(
    "rows", [[[-1, 2]], [[0, -1]], [[0, 7]], [[9, 0]], [[0, 3], [2, 2]], [[3, 2], [0, 3]], [[0, 2**62]]]
)
def test_refuses_packed_info(rows: list[list[int]]) -> None:
    *tensors, _ = packed_case([6], 3, torch.float32)
    with pytest.raises(ValueError, match=r"packed_info\["):
        composite(*tensors, torch.tensor(rows))
    with pytest.raises(TypeError, match="packed_info must have dtype"):
        composite(*tensors, torch.tensor(rows, dtype=torch.float32))
    need("cpu")
    with pytest.raises(RuntimeError, match=r"packed_info\["):  # the kernel looks for itself, also under torch.compile
        torch.ops.mclnf_fast.composite_fwd(*tensors, torch.tensor(rows), None, 0.0)
