"""What a GPU's user relies on: the current stream, graph capture, a second device, memory that runs out, offsets that
are wrong where nobody looks at them."""

from __future__ import annotations

from collections.abc import Callable

import places
import pytest
import torch
from bank_cases import Case, make
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops import DeviceMemoryError, _constants, _memory
from mclnf_fast.ops.bank_fit import Draws, FitData, FitState, Guide, GuideState
from mclnf_fast.ops.triton import launch

SPEC = mf.FieldSpec(3, 4, 32, 2, encoding=mf.Frequency(4), skips=(1,))
COUNTS = [300, 0, 129]
Run = Callable[[Tensor], list[Tensor]]


def bank(spec: mf.FieldSpec, device: str) -> tuple[Tensor, Run]:
    case = make(spec, COUNTS).on(device)
    leaves = [t.requires_grad_() for t in (*case.weights, *case.biases)]
    grad_y = torch.randn(429, spec.out_dim, device=device)

    def run(x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        y = mf.ops.bank_mlp(x, case.offsets, case.weights, case.biases, spec)
        return [y.detach(), *torch.autograd.grad(y, [x, *leaves], grad_y)]

    return case.x, run


def fisher(device: str) -> tuple[Tensor, Run]:
    case = make(SPEC, COUNTS).on(device)
    grad_y = torch.randn(429, 4, device=device)

    def run(x: Tensor) -> list[Tensor]:
        found = mf.ops.fisher_scores(x, case.offsets, case.weights, case.biases, grad_y, None, SPEC)
        return [found.scores, *found.grads[0], *found.fisher[1]]

    return case.x, run


def composited(device: str) -> tuple[Tensor, Run]:
    first = torch.arange(40, device=device) * 10
    packed_info = torch.stack((first, torch.full_like(first, 10)), 1)
    color, starts = torch.rand(400, 3, device=device), torch.arange(400, device=device) * 0.1

    def run(density: Tensor) -> list[Tensor]:
        density = density.detach().requires_grad_()
        found = mf.ops.composite(density, color, starts, starts + 0.1, packed_info, color[0])
        return [t.detach() for t in found] + list(torch.autograd.grad(found.color.sum(), density))

    return torch.rand(400, device=device), run


def gridded(device: str) -> tuple[Tensor, Run]:
    grid = mf.HashGrid(3, 2, 8, base=3, finest=17)
    tables = torch.randn(3, grid.layout(3).entries, 2, device=device, requires_grad=True)
    offsets = torch.tensor([0, 300, 300, 429], device=device)

    def run(x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        y = mf.ops.grid_encode(x, offsets, tables, grid)
        return [y.detach(), *torch.autograd.grad(y.square().sum(), (x, tables))]

    return torch.rand(429, 3, device=device), run


def stepped(device: str) -> tuple[Tensor, Run]:
    start = torch.randn(5, 300, device=device)
    rates = torch.rand(5, dtype=torch.float64, device=device)

    def run(grad: Tensor) -> list[Tensor]:
        changed = [start.clone(), torch.zeros_like(start), torch.zeros_like(start), torch.zeros_like(rates)]
        p, m, v, step = changed
        mf.ops.bank_step([p], [grad], [m], [v], step, rates)
        return changed

    return torch.randn(5, 300, device=device), run


OPS: dict[str, Callable[[str], tuple[Tensor, Run]]] = {
    "bank": lambda device: bank(SPEC, device),
    "wide bank": lambda device: bank(mf.FieldSpec(3, 4, 200, 2, encoding=mf.Frequency(4)), device),
    "harmonics": lambda device: bank(
        mf.FieldSpec(6, 4, 32, 1, encoding=mf.Composite(((mf.Frequency(3), 3), (mf.SphericalHarmonics(3), 3)))), device
    ),
    "fisher": fisher,
    "composite": composited,
    "grid": gridded,
    "step": stepped,
}


def fitted(device: str, guide: Guide | None = None) -> tuple[Tensor, Run]:
    spec = mf.FieldSpec(2, 3, 64, 2, activation="sine(10)")
    start = [torch.randn(2, *shape, device=device) * 0.1 for shape in spec.layer_shapes]
    start += [torch.zeros(2, shape[1], device=device) for shape in spec.layer_shapes]
    target = torch.rand(2, 90, 3, device=device)

    def run(x: Tensor) -> list[Tensor]:
        state, data = FitState.begin([t.clone() for t in start]), FitData(x, target)
        state.guide = None if guide is None else GuideState.begin(state.params, data, guide)
        mf.ops.bank_fit(state, data, spec, 3, draws=Draws("even" if guide is None else "guided", 40, guide=guide))
        return [*state.params, *(() if state.guide is None else (state.guide.scores, *state.guide.fisher))]

    return torch.rand(90, 2, device=device), run


# Those that wait for the device, once a call: a graph captures none.
WAITING: dict[str, Callable[[str], tuple[Tensor, Run]]] = {
    "fit": fitted,
    "guided fit": lambda device: fitted(device, Guide(refresh=1)),
}
ALL = OPS | WAITING
on_gpu = pytest.mark.parametrize("op", [pytest.param(name, marks=places.gpu) for name in ALL])
captured = pytest.mark.parametrize("op", [pytest.param(name, marks=places.gpu) for name in OPS])


def close(found: list[Tensor], wanted: list[Tensor]) -> None:
    # The references of ops without a kernel add in any order on a GPU.
    for k, (a, b) in enumerate(zip(found, wanted, strict=True)):
        torch.testing.assert_close(
            a, b, rtol=1e-4, atol=1e-5 * float(b.abs().max()) + 1e-12, msg=lambda t, k=k: f"{k}: {t}"
        )


@on_gpu
def test_an_op_runs_on_the_current_stream(op: str) -> None:
    """Its input is written there, behind a kernel that takes its time: on another stream an op would read zeros."""
    given, run = ALL[op]("cuda")
    wanted, late = run(given), torch.zeros_like(given)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(200_000_000)  # a tenth of a second
        late.copy_(given)
        found = run(late)
    stream.synchronize()
    close(found, wanted)


@captured
def test_a_graph_captures_forward_and_backward(op: str) -> None:
    given, run = ALL[op]("cuda")
    static, other = given.clone(), given.flip(0)
    wanted = run(other)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # compiles, and copies the constants
        for _ in range(2):
            run(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run(static)
    static.copy_(other)
    for _ in range(2):
        graph.replay()
    torch.cuda.synchronize()
    close(found, wanted)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="there is no second CUDA device")
@on_gpu
def test_a_device_that_is_not_the_current_one(op: str) -> None:
    torch.manual_seed(0)
    given, run = ALL[op]("cuda:0")
    wanted = run(given)
    torch.manual_seed(0)
    given, run = ALL[op]("cuda:1")
    found = run(given)
    assert torch.cuda.current_device() == 0
    assert all(t.device == torch.device("cuda", 1) for t in found)
    close([t.to("cuda:0") for t in found], wanted)


@places.devices
def test_the_runs_above_are_sound(device: str) -> None:
    """Each gives something, and something else for another input: the tests of streams and graphs see a difference."""
    for name, build in ALL.items():
        given, run = build(device)
        found, other = run(given), run(torch.zeros_like(given))
        assert all(bool(t.isfinite().all()) for t in found), name
        assert not all(torch.equal(a, b) for a, b in zip(found, other)), name


@pytest.mark.parametrize(
    "offsets", [[0, 90, 50, 60], [0, 20, 20, 1 << 40], [-5, 20, 40, 60], [30, 10, 70, -1], [0] * 4]
)
def test_wrong_offsets_never_lead_outside(need, gpu_or_cpu: str, poisoned: None, offsets: list[int]) -> None:
    """The raw ops look at no values: what they read and write is what they would with the offsets put right."""
    need("bank_mlp", "triton", device=gpu_or_cpu)
    from mclnf_fast.ops.bank_mlp.triton import ops

    case = make(SPEC, [20, 20, 20]).on(gpu_or_cpu)
    wrong = torch.tensor(offsets, device=gpu_or_cpu)
    right = launch.inside(wrong, 60)
    assert int(right.min()) >= 0
    assert int(right.max()) <= 60
    assert bool((right.diff() >= 0).all())
    found, wanted = (everything(ops, case, given) for given in (wrong, right))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def everything(ops, case: Case, offsets: Tensor) -> list[Tensor]:
    bank, net = (case.x, offsets, case.weights, case.biases), [list(part) for part in case.spec.packed]
    grad_x, grad_w, grad_b = ops.backward(*bank, torch.ones_like(case.x[:, :1]).expand(-1, 4), *net, True, True)
    return [ops.forward(*bank, *net), grad_x, *grad_w, *grad_b]


def test_right_offsets_stay_as_they_are() -> None:
    for offsets in ([0], [0, 0], [0, 5, 5, 60], [0, 60]):
        given = torch.tensor(offsets)
        assert torch.equal(launch.inside(given, 60), given)


def test_constants_are_copied_once_and_not_within_a_transform() -> None:
    x = torch.zeros(2)
    assert _constants.constant((1.0, 2.0), x) is not _constants.constant((1.0, 2.0), x)  # on the CPU a copy is cheap
    kept = _constants.saved_constant((1.0, 2.5), torch.float16, x.device)
    assert kept is _constants.saved_constant((1.0, 2.5), torch.float16, x.device)
    assert kept.tolist() == [1.0, 2.5]
    with torch.inference_mode():
        assert not _constants.saved_constant((3.0,), torch.float32, x.device).is_inference()


SAID = "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB."


@pytest.mark.parametrize("op", ["forward", "backward", "second", "squared error", "fisher"])
def test_memory_that_runs_out_is_explained(need, gpu_or_cpu: str, op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need("bank_mlp", "triton", device=gpu_or_cpu)
    case = make(SPEC, [20, 20]).on(gpu_or_cpu).require()

    def none_left(*args: object, **kwargs: object) -> Tensor:
        raise torch.OutOfMemoryError(SAID)

    y = case.run("triton")
    first = torch.autograd.grad(y.square().sum(), case.weights, create_graph=True)
    bank = case.x.detach(), case.offsets, case.weights, case.biases
    monkeypatch.setattr(launch, "starts", none_left)
    call: dict[str, Callable[[], object]] = {
        "forward": lambda: case.run("triton"),
        "backward": lambda: y.sum().backward(),
        "second": lambda: sum(g.sum() for g in first).backward(),
        "squared error": lambda: mf.ops.bank_mse(*bank, y.detach(), SPEC, backend="triton"),
        "fisher": lambda: mf.ops.fisher_scores(
            case.x, case.offsets, case.weights, case.biases, torch.ones_like(y), None, SPEC, backend="triton"
        ),
    }
    with pytest.raises(torch.OutOfMemoryError) as caught:
        call[op]()
    assert isinstance(caught.value, DeviceMemoryError)
    said = str(caught.value)
    name = {
        "forward": "bank_mlp, forward",
        "backward": "bank_mlp, backward",
        "second": "bank_mlp, second derivative",
        "squared error": "bank_mse, forward",
        "fisher": "fisher_scores",
    }[op]
    assert said.startswith(f"{name}: 20.00 GiB asked for, where ")
    assert f"for 40 points of 2 modules in {torch.float32} with layers of 24 to 32, 56 to 32, 32 to 4" in said
    assert said.endswith(f"Remedy: {_memory.REMEDY}")


def test_the_properties_of_a_gpu_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (3 << 30, 140 << 30))
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 100 << 30)

    class OnGpu:
        device, shape, dtype = torch.device("cuda", 0), (8, 3), torch.float16

    case = make(SPEC, [8])
    said = _memory._message("bank_mlp, forward", torch.OutOfMemoryError(SAID), OnGpu(), case.offsets, case.weights)
    assert "3.00 GiB of 140.00 GiB were free on cuda:0, tensors held 100.00 GiB; for 8 points of 1 modules" in said
