"""The bank in bfloat16 on the CPU: over the dot product of bf16 pairs where the processor has it, between
conversions elsewhere. Both must stay within twice PyTorch's own error.

MCLNF_EMULATE_TESTS=1 runs these tests, and the bank's, over emulated instructions as well
(test_bank_emulated.py)."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest
import torch
from bank_cases import ACTIVATIONS, ENCODINGS, Case, assert_no_worse, make, spread
from torch import Tensor

import mclnf_fast as mf

pytestmark = pytest.mark.usefixtures("poisoned")
BF16 = torch.bfloat16
ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _cpu(need) -> None:
    need("bank_mlp", "cpu", BF16)


def values(case: Case, backend: str) -> list[Tensor]:
    """The output and the gradients of x, weights and biases."""
    y = case.require().run(backend)
    cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(BF16).to(y.dtype)
    return [y, *torch.autograd.grad(y, case.leaves, cotangent)]


def decided(case: Case) -> Case:
    """The same bank with every relu's input far from 0: one that a rounding carries across 0 changes its gradient by
    a whole term, in PyTorch as well, and comparing two such errors is a matter of luck."""
    if case.spec.activation == "relu" or case.spec.output_activation == "relu":
        case.weights = [0.15 * w for w in case.weights]
        case.biases = [2 * b.sign() for b in case.biases]
    return case


def agree(*cases: Case) -> None:
    """Judges all cases as one: the rounding errors of a handful of numbers are a matter of luck."""
    given = [decided(case).mixed(BF16) for case in cases]
    found = [values(case, "cpu") for case in given]
    same = [values(case, "reference") for case in given]
    truth = [values(case.to(torch.float64), "reference") for case in given]
    for k, (f, s, t) in enumerate(zip(zip(*found), zip(*same), zip(*truth))):
        assert_no_worse(torch.cat(f), torch.cat(s), torch.cat(t), "output" if k == 0 else f"gradient {k - 1}")


@pytest.mark.parametrize("modules", [1, 3, 257])
@pytest.mark.parametrize("points", [0, 1, 15, 17, 63, 129, 1000])
def test_every_number_of_points(points: int, modules: int) -> None:
    spec = mf.FieldSpec(3, 4, 16, 2, "relu", encoding=mf.Frequency(2, scale=1.0))
    agree(*(make(spec, spread(points, modules), seed=seed) for seed in range(8 if points < 64 else 1)))


@pytest.mark.parametrize(
    ("width", "out_dim", "hidden", "skips"),
    [
        (16, 1, 0, ()),
        (37, 3, 1, (1,)),
        (37, 17, 4, (2, 4)),
        (64, 4, 2, ()),
        (128, 3, 3, (3,)),
        (5, 70, 2, (1, 2)),
        (131, 131, 1, ()),
    ],
)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_every_width_and_depth(activation: str, width: int, out_dim: int, hidden: int, skips: tuple[int, ...]) -> None:
    encoding = mf.Composite(((mf.Frequency(3, True, scale=1.0), 3), (mf.SphericalHarmonics(4), 3)))
    spec = mf.FieldSpec(6, out_dim, width, hidden, activation, "sigmoid", encoding, 2.0, skips)
    agree(make(spec, [65, 0, 33, 300]))


@pytest.mark.parametrize("activation", ["none", *ACTIVATIONS])
def test_every_activation_inside_and_at_the_end(activation: str) -> None:
    agree(make(mf.FieldSpec(3, 5, 37, 2, activation, "none", skips=(1,), w0=2.0), [200, 0, 57]))
    agree(make(mf.FieldSpec(3, 5, 37, 1, "relu", activation, w0=2.0), [200, 0, 57]))


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding(encoding: str) -> None:
    in_dim, kind = ENCODINGS[encoding]
    agree(make(mf.FieldSpec(in_dim, 3, 20, 2, "softplus", encoding=kind, skips=(1,)), [100, 0, 29]))


@pytest.mark.parametrize("counts", [[1], [15, 0, 17], [63, 129], [1000]])
@pytest.mark.parametrize(("width", "hidden", "skips"), [(6, 1, ()), (37, 2, (1, 2)), (64, 2, ()), (70, 1, (1,))])
def test_small_integers_are_exact(counts: list[int], width: int, hidden: int, skips: tuple[int, ...]) -> None:
    """Every number and every sum fits bf16 or fp32: a value in a wrong place can't pass for a rounding error."""
    spec = mf.FieldSpec(5, 19, width, hidden, "relu", skips=skips)
    case = make(spec, counts)
    g = torch.Generator().manual_seed(2)

    def integers(*shape: int, nonzero: float = 1.0) -> Tensor:
        kept = torch.rand(shape, generator=g) < nonzero
        return torch.randint(-2, 3, shape, generator=g) * kept

    case.x = integers(*case.x.shape).float()
    # Two or three terms a sum: activations and their gradients stay integers below 256, which bf16 has.
    case.weights = [integers(*w.shape, nonzero=min(1.0, 1.5 / max(w.shape[1:]))).float() for w in case.weights]
    case.biases = [integers(*b.shape).float() for b in case.biases]
    case = case.mixed(BF16)
    found, truth = ([], [])
    for backend, into, given in (("cpu", found, case), ("reference", truth, case.to(torch.float64))):
        y = given.require().run(backend)
        cotangent = torch.randint(-2, 3, y.shape, generator=torch.Generator().manual_seed(3)).to(y.dtype)
        into += [y, *torch.autograd.grad(y, given.leaves, cotangent)]
    assert float(truth[0].detach().abs().max()) > 4
    for f, t in zip(found, truth):
        assert torch.equal(f, t.to(f.dtype))


def test_same_bits_for_every_run_and_thread_count() -> None:
    # 3000 points are cut into several runs of the work plan, whose sums are added in the plan's order.
    case = make(mf.FieldSpec(3, 4, 32, 2, "tanh"), [3000, 0, 129]).mixed(BF16)
    first = values(case, "cpu")
    threads = torch.get_num_threads()
    try:
        for count in (threads, 1, 2):
            torch.set_num_threads(count)
            assert all(map(torch.equal, values(case, "cpu"), first)), f"{count} threads"
    finally:
        torch.set_num_threads(threads)


def test_a_point_does_not_depend_on_its_neighbors() -> None:
    case = make(mf.FieldSpec(3, 4, 64, 2, "relu", encoding=mf.Frequency(4)), [777]).mixed(BF16)
    y = case.run("cpu")
    for cut in (1, 63, 700):
        rest = Case(case.spec, case.x[cut:], torch.tensor([0, 777 - cut]), case.weights, case.biases)
        assert torch.equal(rest.run("cpu"), y[cut:])


def test_strided_inputs() -> None:
    case = make(mf.FieldSpec(3, 4, 37, 2, "relu"), [40, 0, 33]).mixed(BF16)
    plain = values(case, "cpu")
    moved = case.mixed(BF16)
    moved.weights = [w.mT.contiguous().mT for w in moved.weights]
    moved.x = moved.x.T.contiguous().T
    moved.biases = [torch.stack((b, b), -1)[..., 0] for b in moved.biases]
    assert all(map(torch.equal, values(moved, "cpu"), plain))


def test_nan_and_infinity_stay_where_they_are() -> None:
    case = make(mf.FieldSpec(3, 4, 37, 2, "relu"), [70, 71]).mixed(BF16)
    clean = case.run("cpu")
    case.x[5, 1] = torch.nan
    case.x[69, 2] = torch.inf
    y = case.run("cpu")
    assert bool(y[5].isnan().all())
    assert not bool(y[69].isfinite().any())
    rows = torch.tensor([i for i in range(141) if i not in (5, 69)])
    assert torch.equal(y[rows], clean[rows])
    # The other module's gradients do not meet them.
    grads = torch.autograd.grad(case.require().run("cpu").float().sum(), case.leaves)
    assert all(bool(g[1].isfinite().all()) for g in grads[1:])
    assert bool(grads[0][70:].isfinite().all())


def test_requested_outputs() -> None:
    spec = mf.FieldSpec(3, 2, 20, 2, "relu", encoding=mf.Frequency(2, True, scale=1.0), skips=(1,))
    case = make(spec, [40, 0, 9]).mixed(BF16)
    both = values(case, "cpu")[1:]
    for x, parameters in ((True, False), (False, True)):
        y = case.require(x, parameters).run("cpu")
        cotangent = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(BF16).to(y.dtype)
        found = torch.autograd.grad(y, case.leaves, cotangent)
        assert all(map(torch.equal, found, both[:1] if x else both[1:]))


def test_inner_step_of_maml() -> None:
    """Exact second order through two inner steps."""
    spec = mf.FieldSpec(2, 3, 32, 2, "softplus", encoding=mf.Frequency(2, scale=1.0))
    case = make(spec, [60, 0, 40])
    layers = len(case.weights)

    def outer(given: Case, backend: str) -> tuple[Tensor, ...]:
        start = [*given.weights, *given.biases]
        parameters = [t.requires_grad_() for t in start]
        for _ in range(2):
            y = mf.ops.bank_mlp(given.x, given.offsets, parameters[:layers], parameters[layers:], spec, backend=backend)
            grads = torch.autograd.grad((y - 0.3).square().mean(), parameters, create_graph=True)
            parameters = [p - 0.25 * g for p, g in zip(parameters, grads)]
        y = mf.ops.bank_mlp(given.x, given.offsets, parameters[:layers], parameters[layers:], spec, backend=backend)
        return torch.autograd.grad(y.square().mean(), start)

    low = case.mixed(BF16)
    found, same = outer(low, "cpu"), outer(low.mixed(BF16), "reference")
    truth = outer(low.to(torch.float64), "reference")
    for k, (f, s, t) in enumerate(zip(found, same, truth)):
        assert_no_worse(f, s, t, f"gradient {k}")


def test_opcheck() -> None:
    spec = mf.FieldSpec(6, 3, 5, 2, "tanh", encoding=ENCODINGS["composite"][1], skips=(1,))
    case = make(spec, [4, 0, 5]).mixed(BF16)
    bank, net = [case.x, case.offsets, case.weights, case.biases], list(spec.packed)
    grad_y = torch.randn(9, 3)
    like = [[torch.rand_like(t) for t in ts] for ts in (case.weights, case.biases)]
    ops = torch.ops.mclnf_fast
    for requires in (False, True):
        if requires:
            case.require()
        torch.library.opcheck(ops.bank_mlp_fwd, (*bank, *net))
        for need_x, need_params in ((True, True), (False, True), (True, False)):
            torch.library.opcheck(ops.bank_mlp_bwd, (*bank, grad_y, *net, need_x, need_params, None))
    free = case.mixed(BF16)
    bank = [free.x, free.offsets, free.weights, free.biases]
    torch.library.opcheck(ops.bank_mlp_bwd_bwd, (*bank, grad_y, torch.rand_like(free.x), *like, *net, True))


def test_mixed_dtypes_are_refused() -> None:
    case = make(mf.FieldSpec(3, 2, 8, 1), [4])
    low = case.to(BF16)
    with pytest.raises(TypeError, match=r"weights\[0\]"):
        mf.ops.bank_mlp(low.x, case.offsets, case.weights, case.biases, case.spec, backend="cpu")
    for x, parameters in ((low.x, case), (low.x, low), (case.x.double(), low), (case.x.double(), case)):
        given = (x, case.offsets, parameters.weights, parameters.biases, *case.spec.packed)
        with pytest.raises(RuntimeError, match=r"x must be float32|take float32 and float64|a dtype other than"):
            torch.ops.mclnf_fast.bank_mlp_fwd(*given)


def run(code: str, **variables: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "ops")])
    environment = {**os.environ, **variables, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


def test_info_lists_the_backend_that_serves() -> None:
    dot = torch.ops.mclnf_fast.cpu_bf16_dot()
    found = mf.info()
    assert found["bf16_dot"] is dot
    assert f"dot product of bf16 pairs: {'yes' if dot else 'no'}" in str(found)
    if torch.ops.mclnf_fast.cpu_instruction_set() != "avx512":
        assert not dot
    code = "import torch, mclnf_fast; print(torch.ops.mclnf_fast.cpu_bf16_dot())"
    done = run(code, MCLNF_FAST_BF16_DOT="0")
    assert done.stdout.strip() == "False", done.stderr
    done = run(code, MCLNF_FAST_BF16_DOT="yes")
    assert "MCLNF_FAST_BF16_DOT must be 0 or 1, got yes" in done.stderr
    done = run(code, MCLNF_FAST_BF16_DOT="1", MCLNF_FAST_ISA="portable")
    assert "lacks AVX512-BF16" in done.stderr


CONVERTED = """
import torch
import mclnf_fast as mf
from bank_cases import make

assert not torch.ops.mclnf_fast.cpu_bf16_dot()
encoding = mf.Composite(((mf.Frequency(3, True, scale=1.0), 3), (mf.SphericalHarmonics(4), 3)))
for activation in ("relu", "sine", "softplus", "exp"):
    for counts in ([65, 0, 17, 1], [3001, 0, 400], [0], []):
        spec = mf.FieldSpec(6, 5, 37, 2, activation, "sigmoid", encoding, w0=2.0, skips=(1,))
        low = make(spec, counts).mixed(torch.bfloat16)
        wide = low.to(torch.float32)
        results = []
        for case in (low, wide):
            y = case.require().run("cpu")
            cotangent = torch.linspace(-1, 1, y.numel()).view_as(y)
            first = torch.autograd.grad(y, case.leaves, cotangent)
            assert [t.dtype for t in (y, *first)] == [torch.float32] + [t.dtype for t in case.leaves]
            only_x = torch.autograd.grad(case.require(True, False).run("cpu"), case.x, cotangent)
            ops, net = torch.ops.mclnf_fast, case.spec.packed
            plain = case.to(case.x.dtype)
            bank = (plain.x, plain.offsets, plain.weights, plain.biases)
            second = ops.bank_mlp_bwd_bwd(*bank, cotangent, bank[0] * 0.5, bank[2], bank[3], *net, True)
            grads = ops.bank_mlp_bwd(*bank, cotangent, *net, True, True, None)
            raw = [ops.bank_mlp_fwd(*bank, *net), grads[0], *grads[1], *grads[2]]
            results.append([y, *first, *only_x, *raw, second[0], *second[1], *second[2], second[3]])
        for found, want in zip(*results):
            assert torch.equal(found, want.to(found.dtype)), (activation, counts)
"""


@pytest.mark.parametrize("isa", ["avx2", "neon", "portable"])
def test_without_the_instruction_one_rounding_of_float32(isa: str) -> None:
    done = run(CONVERTED, MCLNF_FAST_ISA=isa)
    if "this processor" in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
