"""Fits with rounded operands by the tensor cores' instructions, on the emulation of CUDA: products of matrices in every
layout, and whole fits against the definition with the same rounding, against float64, and in several orders of
threads."""

from __future__ import annotations

import dataclasses
from typing import Any

import fit_cases
import pytest
import test_bank_fit
import test_bank_fit_emulated as plain
import torch
from fit_cases import assert_same
from test_bank_fit_emulated import SPECS, fit
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.ops._rounding import rounded
from mclnf_fast.ops.bank_fit import Draws, FitData, FitRule, Schedule, Watch, api, compiled
from mclnf_fast.ops.bank_fit.checked import checked
from mclnf_fast.packing import Precision

NAMES = ("tf32", "bf16", "fp16")
UNIT = {"tf32": 2.0**-11, "bf16": 2.0**-8, "fp16": 2.0**-11}
"""Half the distance from 1 to the next number."""
HIDDEN = mf.FieldSpec(2, 3, width=64, hidden_layers=3, activation="sine(10)")


@pytest.fixture(autouse=True)
def _on_the_emulation(need, emulated: Any, poisoned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`backend="cpu"` runs the kernel of csrc/cuda, with rounded operands too."""
    need("bank_fit", "cpu")
    monkeypatch.setattr(compiled, "OPS", emulated)
    monkeypatch.setattr(api, "_ROUNDED_OP", api._OP)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_are_rounded_as_the_formats_say(emulated: Any, name: str) -> None:
    """Ties, subnormals, what overflows, and what is no number."""
    few = torch.tensor(
        [0.0, -0.0, 1.0, torch.inf, -torch.inf, 65504.0, 65519.9, 65520.0, -7e4, 6e-8, 2.9e-8, 3e-8, 6.1e-5]
    )
    ties = torch.tensor([1.0, 3.0, 5.0, -7.0]) * UNIT[name] + torch.tensor([1.0, 1.0, 2.0, -1.0])
    x = torch.cat((few, ties, torch.randn(1000) * 10.0 ** torch.randint(-9, 9, (1000,))))
    precision = Precision[name.upper()]
    assert torch.equal(emulated.fit_rounded(x, precision), rounded(x, precision))
    nan = torch.tensor([torch.nan, 0.0]).view(torch.int32)
    nan[1] = 0x7FFFFFFF  # that of the processor's own
    assert emulated.fit_rounded(nan.view(torch.float32), precision).isnan().all()
    if name == "tf32":
        assert (
            rounded(torch.tensor(1 + 2.0**-11), precision) == 1 + 2.0**-10
        )  # away from 0, where others go to the even one


def rows_of(matrix: Tensor) -> Tensor:
    """In memory as the kernel's: an odd multiple of four numbers between rows, NaN behind them and behind the last."""
    columns = -(-matrix.shape[1] // 4) * 4
    columns += 4 if columns % 8 == 0 else 0
    memory = torch.full((matrix.shape[0] * columns + 32,), torch.nan)[:-32].view(-1, columns)
    memory[:, : matrix.shape[1]] = matrix
    return memory


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("rows", "columns", "k"), [(16, 16, 16), (3, 64, 64), (64, 64, 32), (37, 32, 48), (64, 5, 64), (70, 128, 16)]
)
def test_products(emulated: Any, name: str, rows: int, columns: int, k: int) -> None:
    """Every number of either factor is another one, so that one in a wrong place shows; exact: they are small integers,
    and so are their sums."""
    a = (torch.arange(rows * k).reshape(rows, k) * 7 % 61 - 30).float()
    b = (torch.arange(columns * k).reshape(columns, k) * 11 % 53 - 25).float()
    expected = a.double() @ b.double().T
    for along_a in (False, True):
        for along_b in (False, True):
            memory = []
            for factor, along in ((a, along_a), (b, along_b)):
                view = factor if along else factor.T
                memory.append(rows_of(view))
            for warps in (1, 4, 8):
                out = emulated.fit_product(*memory, along_a, along_b, rows, columns, Precision[name.upper()], warps)
                assert torch.equal(out[:, :columns].double(), expected), (along_a, along_b, warps)


def wide(case: fit_cases.Case) -> fit_cases.Case:
    """In float64."""
    data = FitData(*(t.double() if t is not None and t.is_floating_point() else t for t in case.data))
    return dataclasses.replace(case, params=tuple(p.double() for p in case.params), data=data)


def rule(name: str, schedule: Schedule | None = None, **options: Any) -> FitRule:
    return FitRule(schedule or Schedule(1e-3), precision=name, **options)


def distance(a: Any, b: Any) -> float:
    """The largest difference of parameters."""
    return max(float((x.double() - y.double()).abs().max()) for x, y in zip(a.params, b.params, strict=True))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("spec", SPECS)
def test_networks(name: str, spec: str) -> None:
    """One step of SGD, so that a difference of gradients shows as it is. Both round the same numbers, but for those
    that sums in another order carry over a border: by far less than the format's unit, unless layers behind multiply
    such a difference, as they do those between two dtypes of the definition's sums."""
    case = fit_cases.make(SPECS[spec], 2, 90, shared=False)
    how = {"draws": Draws("uniform", 77), "rule": rule(name, Schedule(1.0), kind="sgd"), "watch": Watch((1,))}
    expected, log = fit(case, 1, "reference", **how)
    double, _ = fit(wide(case), 1, "reference", **how)
    state, result = fit(case, 1, **how)
    torch.testing.assert_close(result.losses, log.losses, rtol=UNIT[name] / 4, atol=0)
    for a, b, c, before in zip(state.params, expected.params, double.params, case.params, strict=True):
        size, noise = float((b - before).abs().mean()), float((b - c).abs().mean())
        assert float((a - b).abs().mean()) < UNIT[name] / 8 * size + 3 * noise + 1e-7, (spec, size, noise)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_are_exact_give_exact_products(name: str) -> None:
    """A network whose products round nothing, since its numbers have few bits: equal to fp32 up to sums' order."""
    spec = mf.FieldSpec(2, 2, width=37, hidden_layers=3, activation="relu")
    case = fit_cases.make(spec, 2, 64)
    few = [torch.round(p * 8) / 8 for p in case.params]
    x, target = torch.round(case.data.x * 4) / 4, torch.round(case.data.target[..., :2] * 4) / 4
    case = dataclasses.replace(case, params=(*few,), data=FitData(x, target))
    case.params[0].clamp_(-0.25, 0.25)
    how = {"draws": Draws("whole"), "watch": Watch((1,))}
    state, log = fit(case, 1, rule=rule(name, Schedule(1.0), kind="sgd"), **how)
    known, known_log = fit(case, 1, rule=rule("fp32", Schedule(1.0), kind="sgd"), **how)
    if name == "tf32":
        torch.testing.assert_close(log.losses, known_log.losses, rtol=1e-6, atol=0)
    assert distance(state, known) < 4 * UNIT[name]
    assert distance(state, known) > 0


def torch_fit(case: fit_cases.Case, steps: int, lr: float, dtype: torch.dtype) -> list[Tensor]:
    """The loop of PyTorch, SGD on fp32 masters, with the layers behind the first one computed in `dtype`."""
    params = [p.clone().requires_grad_() for p in case.params]
    half = case.layers
    for _ in range(steps):
        h = case.data.x.expand(len(params[0]), -1, -1)
        for l in range(half):
            w, b = params[l], params[half + l]
            z = h @ w + b[:, None] if l == 0 else (h.to(dtype) @ w.to(dtype) + b.to(dtype)[:, None]).to(h.dtype)
            h = torch.sin(case.spec.w0 * z) if l + 1 < half else z
        loss = (h - case.data.target).square().mean((1, 2)).sum()
        for p, g in zip(params, torch.autograd.grad(loss, params)):
            p.data -= lr * g
    return [p.detach() for p in params]


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_error_beside_torch(name: str) -> None:
    """Against float64: at most twice that of PyTorch in the same dtype."""
    case = fit_cases.make(HIDDEN, 2, 100)
    dtype = torch.bfloat16 if name == "bf16" else torch.float16
    steps, lr = 3, 0.01
    exact = torch_fit(wide(case), steps, lr, torch.float64)
    theirs = torch_fit(case, steps, lr, dtype)
    state, _ = fit(case, steps, draws=Draws("whole"), rule=rule(name, Schedule(lr), kind="sgd"))

    def error(params: Any) -> float:
        return sum(float((a.double() - b).square().sum()) for a, b in zip(params, exact, strict=True)) ** 0.5

    assert 0 < error(state.params) < 2 * error(theirs)
    tf32, _ = fit(case, steps, draws=Draws("whole"), rule=rule("tf32", Schedule(lr), kind="sgd"))
    assert 0 < error(tf32.params) < error(state.params) * (1 if name == "bf16" else 2)


@pytest.mark.parametrize("order", plain.ORDERS)
@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_the_order_of_threads_does_not_show(monkeypatch: pytest.MonkeyPatch, order: str, name: str) -> None:
    case = fit_cases.make(HIDDEN, 2, 100)
    options = {"draws": Draws("even", 70), "rule": rule(name), "watch": Watch((1, 2), (2,))}
    first, log = fit(case, 2, **options)
    monkeypatch.setenv("MCLNF_EMULATION_ORDER", order)
    again, other = fit(case, 2, **options)
    assert_same(first, again)
    for a, b in zip((log.losses, *log.params[0]), (other.losses, *other.params[0])):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_whole_fits(name: str) -> None:
    """Adam with warm steps, weights, a trust region, frozen layers, copies and modules that make other steps; and the
    same cut into calls, which must not show although operands are rounded anew in each."""
    case = fit_cases.make(fit_cases.SINE, weighted=True, shared=False)
    schedule = test_bank_fit.SCHEDULES["warm"]
    how = {
        "draws": Draws("even", 40),
        "rule": rule(name, schedule, trust=case.trust(), frozen_layers=1),
        "watch": Watch((1, 4, 6), (3, 6), stop_loss=0.0, check_every=3),
    }
    steps = torch.tensor([6, 0, 4])
    state, log = fit(case, steps, **how)
    expected, known = fit(case, steps, "reference", **how)
    assert torch.equal(log.ends, known.ends)
    torch.testing.assert_close(log.losses, known.losses, rtol=UNIT[name], atol=0, equal_nan=True)
    torch.testing.assert_close(log.checked, known.checked, rtol=UNIT[name], atol=0, equal_nan=True)
    moved = distance(expected, case.state())
    assert distance(state, expected) < 16 * UNIT[name] * moved
    for a, b in zip(log.params, known.params, strict=True):
        for x, y in zip(a, b, strict=True):
            torch.testing.assert_close(x, y, rtol=0, atol=16 * UNIT[name] * moved, equal_nan=True)
    parts = case.state()
    for some in ([2, 0, 3], [4, 0, 1]):
        call = checked(parts, case.data, case.spec, torch.tensor(some), how["draws"], how["rule"], Watch())
        compiled.bank_fit(call)
    assert_same(parts, state)


def test_where_numbers_are_kept_does_not_show(emulated: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = mf.FieldSpec(2, 3, width=24, hidden_layers=2, activation="sine(10)")
    case, seen = fit_cases.make(spec, 6, 60), {}
    for kib in (2, 20, 25, 40):
        _, places, *_ = emulated.fit_plan(*spec.packed, 4, True, 30, kib << 10, Precision.BF16, False)
        monkeypatch.setenv("MCLNF_EMULATION_SHARED", str(kib << 10))
        seen[places], _ = fit(case, 3, draws=Draws("uniform", 30), rule=rule("bf16"))
        assert_same(seen[places], next(iter(seen.values())))
    assert len(seen) >= 3, seen.keys()


@pytest.mark.parametrize("what", ["x", "target"])
@pytest.mark.parametrize("name", ["tf32", "fp16"])
def test_a_module_that_is_no_number_ends(name: str, what: str) -> None:
    """Rounding must not make a number of it."""
    case = fit_cases.make(HIDDEN, shared=False)
    getattr(case.data, what)[int(case.data.offsets[1]) + 3] = torch.nan
    state, log = fit(case, 3, draws=Draws("whole"), rule=rule(name))
    assert log.modules(plain.FitEnd.DIVERGED) == [1]
    assert all(bool(p.isfinite().all()) for p in state.params)
