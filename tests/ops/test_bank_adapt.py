"""The inner loop of meta-learning in one call: its definition, its derivative, its bits, what it stores."""

from __future__ import annotations

import dataclasses
from typing import Any

import fit_cases
import places
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import mclnf_fast as mf
from mclnf_fast import ops
from mclnf_fast.learn import adapt
from mclnf_fast.ops.bank_adapt import Adapted, Batches
from mclnf_fast.ops.bank_fit import FitData

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_adapt")
cpu = pytest.mark.parametrize("backend", [pytest.param(("cpu", "cpu"), id="cpu")], indirect=True)

SMALL = mf.FieldSpec(2, 3, width=5, hidden_layers=2, activation="tanh", encoding=mf.Frequency(1), skips=(1,))
SPECS = {
    "skip": SMALL,
    "sine": fit_cases.SINE,
    "softplus": mf.FieldSpec(2, 1, width=37, hidden_layers=1, activation="softplus", output_activation="sigmoid"),
    "linear": mf.FieldSpec(2, 2, hidden_layers=0),
}
STEPS, RATE = 3, 0.05


@dataclasses.dataclass
class Call:
    """An inner loop on a bank of `fit_cases`."""

    case: fit_cases.Case
    batches: Batches | None = None
    lr: float | Tensor = RATE
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    steps: int = STEPS

    def run(self, params: tuple[Tensor, ...], lr: Any = None, backend: str = "auto") -> Adapted:
        half, lr = len(params) // 2, self.lr if lr is None else lr
        return ops.bank_adapt(
            params[:half], params[half:], self.case.data, self.case.spec, self.steps, lr,
            batches=self.batches, backend=backend, **self.options,
        )  # fmt: skip

    def flat(self, params: tuple[Tensor, ...], lr: Any = None, backend: str = "auto") -> tuple[Tensor, ...]:
        weights, biases, losses = self.run(params, lr, backend)
        return (*weights, *biases, losses)


def batches_of(rule: str, modules: int, samples: int, dtype: torch.dtype) -> Batches:
    if rule == "whole":
        return Batches()
    if rule == "in order":
        return Batches(size=samples // STEPS)
    generator = torch.Generator().manual_seed(8)
    ids = torch.randint(samples, (STEPS, modules, 6), generator=generator)
    weights = torch.rand(STEPS, modules, 6, generator=generator, dtype=dtype) if rule == "ids with weights" else None
    return Batches(ids=ids, weights=weights)


RULES = ("whole", "in order", "ids", "ids with weights")


def leaves(case: fit_cases.Case) -> tuple[Tensor, ...]:
    return tuple(p.clone().requires_grad_() for p in case.params)


def outer(call: Call, params: tuple[Tensor, ...], backend: str, lr: Any = None) -> list[Tensor]:
    """All results, and the gradients of a function of them in the parameters (and in lr, if it is a tensor)."""
    results = call.flat(params, lr, backend)
    generator = torch.Generator().manual_seed(9)
    value = sum((t * torch.rand(t.shape, generator=generator, dtype=t.dtype)).sum() for t in results if t.requires_grad)
    wanted = [*params, *([lr] if isinstance(lr, Tensor) and lr.requires_grad else [])]
    return [*(t.detach() for t in results), *torch.autograd.grad(value, wanted)]


@backends
def test_a_linear_field_descends_as_its_hessian_has_it(need, backend: str) -> None:
    """On a quadratic loss theta^(K) = theta* + (1 - lr H)^K (theta^(0) - theta*), and so is its derivative."""
    need("bank_adapt", backend, torch.float64)
    spec, n, lr, steps = mf.FieldSpec(2, 1, hidden_layers=0), 9, 0.3, 5
    x, target = torch.rand(n, 2, dtype=torch.float64), torch.rand(1, n, 1, dtype=torch.float64)
    start = torch.rand(3, dtype=torch.float64, requires_grad=True)
    adapted = ops.bank_adapt(
        [start[:2].reshape(1, 2, 1)], [start[2:].reshape(1, 1)], FitData(x, target), spec, steps, lr, backend=backend
    )
    result = torch.cat([adapted.weights[0].flatten(), adapted.biases[0].flatten()])
    rows = torch.cat((x, x.new_ones(n, 1)), 1)
    hessian = 2 * rows.T @ rows / n
    best = torch.linalg.lstsq(rows, target[0]).solution[:, 0]
    power = torch.linalg.matrix_power(torch.eye(3, dtype=torch.float64) - lr * hessian, steps)
    torch.testing.assert_close(result, best + power @ (start - best))
    losses = (rows @ start - target[0, :, 0]).square().mean()
    torch.testing.assert_close(adapted.losses[0, 0], losses)
    for i in range(3):
        torch.testing.assert_close(torch.autograd.grad(result[i], start, retain_graph=True)[0], power[i])


@backends
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shared", [True, False], ids=["shared", "grouped"])
@pytest.mark.parametrize("extra", ["plain", "frozen", "clipped", "one start"])
def test_gradcheck(need, backend: str, rule: str, shared: bool, extra: str) -> None:
    """In the parameters and in rates of every layer, of the adapted parameters and of the losses on the way."""
    need("bank_adapt", backend, torch.float64)
    case = fit_cases.make(SMALL, 2, 12, shared=shared, weighted=rule != "in order", dtype=torch.float64)
    options = {"frozen": {"frozen_layers": 1}, "clipped": {"clip_value": 0.05}}.get(extra, {})
    call = Call(case, batches_of(rule, 2, 12, torch.float64), options=options)
    params = tuple(p[:1].clone().requires_grad_() for p in case.params) if extra == "one start" else leaves(case)
    lr = (0.1 + 0.2 * torch.rand(STEPS, 2, 3, dtype=torch.float64)).requires_grad_()
    if extra == "clipped":  # it must happen, to some entries
        gradients = [a - b for a, b in zip(call.flat(params, 1.0)[:-1], params, strict=True)]
        moved = torch.cat([g.detach().abs().flatten() for g in gradients])
        assert 0 < int((moved > 0.04).sum()) < len(moved)
    assert gradcheck(lambda lr, *p: call.flat(p, lr, backend), (lr, *params))


@cpu
@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rule", RULES)
def test_agrees_with_the_reference(need, backend: str, spec: str, dtype: torch.dtype, rule: str) -> None:
    need("bank_adapt", backend, dtype)
    case = fit_cases.make(SPECS[spec], 3, 63, shared=rule == "ids", weighted=rule != "whole", dtype=dtype)
    call = Call(case, batches_of(rule, 3, 63, dtype), options={"clip_value": 0.5})
    rates = torch.full((STEPS, 3), RATE, dtype=dtype, requires_grad=True)
    double = fit_cases.make(SPECS[spec], 3, 63, shared=rule == "ids", weighted=rule != "whole", dtype=dtype)
    truth = outer(call, leaves(double), "reference", rates)
    close = {"rtol": 1e-9, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-3, "atol": 2e-5}
    for result, known in zip(outer(call, leaves(case), backend, rates), truth, strict=True):
        torch.testing.assert_close(result, known, **close)


@cpu
@pytest.mark.parametrize("samples", [1, 15, 17, 129, 511, 513, 1000, 2050])
def test_batches_of_any_size(need, backend: str, samples: int) -> None:
    """Large ones are cut into runs, whose partial sums are added."""
    need("bank_adapt", backend, torch.float64)
    case = fit_cases.make(fit_cases.SINE, 2, samples, shared=False, dtype=torch.float64)
    call = Call(case, steps=2)
    for result, known in zip(outer(call, leaves(case), backend), outer(call, leaves(case), "reference"), strict=True):
        torch.testing.assert_close(result, known, rtol=1e-9, atol=1e-12)


@backends
def test_modules_without_samples_stay(need, backend: str) -> None:
    need("bank_adapt", backend)
    case = fit_cases.make(modules=3, samples=8, shared=False)
    data = FitData(case.data.x[:20], case.data.target[:20], torch.tensor([0, 8, 8, 20]))
    call = Call(dataclasses.replace(case, data=data))
    params = leaves(case)
    results = call.flat(params, backend=backend)
    grads = torch.autograd.grad(sum(t.sum() for t in results), params)
    assert results[-1][:, 1].tolist() == [0.0] * STEPS
    for p, result, grad in zip(params, results, grads):
        assert torch.equal(result[1], p[1])
        assert not torch.equal(result[0], p[0])
        torch.testing.assert_close(grad[1], torch.ones_like(grad[1]))
    none = FitData(case.data.x[:0], case.data.target[:0], torch.zeros(1, dtype=torch.int64))
    empty = ops.bank_adapt([p[:0] for p in params[:3]], [p[:0] for p in params[3:]], none, case.spec, 2, 0.1)
    assert empty.losses.shape == (2, 0)


@cpu
@pytest.mark.parametrize(("modules", "samples"), [(1, 3000), (3, 40), (40, 40)])
def test_bits_do_not_depend_on_the_threads(need, backend: str, modules: int, samples: int) -> None:
    """One large module that the threads share, a few of which each step is a job, and many that a core keeps."""
    need("bank_adapt", backend)
    case = fit_cases.make(fit_cases.SINE, modules, samples)
    rates, found = torch.full((STEPS, modules), RATE, requires_grad=True), []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(outer(Call(case), leaves(case), backend, rates))
            one = tuple(p[:1].clone().requires_grad_() for p in case.params)
            found[-1] += outer(Call(case), one, backend, rates)
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@cpu
def test_bits_do_not_depend_on_the_modules_beside_it(need, backend: str) -> None:
    need("bank_adapt", backend)
    case = fit_cases.make(fit_cases.SINE, 3, 700)
    alone = dataclasses.replace(case, params=tuple(p[1:2] for p in case.params))
    alone.data = FitData(case.data.x, case.data.target[1:2])
    *whole, losses = Call(case).flat(case.params, backend=backend)
    *own, own_losses = Call(alone).flat(alone.params, backend=backend)
    assert torch.equal(losses[:, 1:2], own_losses)
    assert all(torch.equal(t[1:2], known) for t, known in zip(whole, own, strict=True))


def _loss(case: fit_cases.Case) -> Any:
    modules, n = case.data.target.shape[:2]
    x, offsets, target = case.data.x.repeat(modules, 1), torch.arange(modules + 1) * n, case.data.target.flatten(0, 1)
    return lambda p, step: ops.bank_mse(
        x, offsets, p[: len(p) // 2], p[len(p) // 2 :], target, case.spec, backend="reference"
    )


@backends
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("slow", [False, True])
def test_equals_the_loop_of_learn(need, backend: str, first_order: bool, slow: bool) -> None:
    need("bank_adapt", backend, torch.float64)
    case = fit_cases.make(SMALL, 3, 21, dtype=torch.float64)
    options = {"frozen_layers": 2, "clip_value": 0.03} if slow else {}
    call = Call(case, options={**options, "first_order": first_order})
    update = [False, False, True] * 2 if slow else None
    clip = 0.03 if slow else None
    params, twin = leaves(case), leaves(case)
    loop = adapt(twin, _loss(case), STEPS, RATE, first_order=first_order, update=update, clip_value=clip)
    results = call.flat(params, backend=backend)[:-1]
    direction = [torch.rand_like(p) for p in params]
    for result, known in zip(results, loop, strict=True):
        torch.testing.assert_close(result, known, rtol=1e-9, atol=1e-12)
    found, known = (
        torch.autograd.grad(sum((t * d).sum() for t, d in zip(ends, direction)), start)
        for ends, start in ((results, params), (loop, twin))
    )
    for a, b, d in zip(found, known, direction, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
        assert torch.equal(a, d) == first_order


@backends
def test_first_order_still_has_the_gradient_of_the_rate(need, backend: str) -> None:
    """d theta^(K) / d lr = - the sum of the gradients; the losses carry no graph."""
    need("bank_adapt", backend, torch.float64)
    case = fit_cases.make(SMALL, 2, 10, dtype=torch.float64)
    call = Call(case, options={"first_order": True})
    lr = torch.tensor(RATE, dtype=torch.float64, requires_grad=True)
    *ends, losses = call.flat(leaves(case), lr, backend)
    assert not losses.requires_grad
    slope = torch.autograd.grad(sum(t.sum() for t in ends), lr)[0]
    moved = sum((t.detach() - p).sum() for t, p in zip(ends, case.params, strict=True))
    torch.testing.assert_close(slope, moved / RATE)


@cpu
@pytest.mark.parametrize("samples", [10, 500])
def test_memory_is_that_of_the_parameters(need, backend: str, samples: int) -> None:
    """Stored are the parameters before each step but the first, whatever the number of samples."""
    need("bank_adapt", backend)
    case = fit_cases.make(fit_cases.SINE, 3, samples)
    sizes: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        sizes[t.data_ptr()] = t.numel()
        return t

    params = leaves(case)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        Call(case).run(params, backend=backend)
    known = {t.data_ptr() for t in (*params, *case.data) if t is not None}
    others = [size for at, size in sizes.items() if at not in known]
    bank = sum(p.numel() for p in params)
    assert sum(others) == (STEPS - 1) * bank + STEPS * 3 * 3  # and the rates
    sizes.clear()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        Call(case, options={"first_order": True}).run(params, backend=backend)
    assert sum(size for at, size in sizes.items() if at not in known) <= STEPS * 3 * 3


@backends
def test_nan_stays_in_its_module(need, backend: str) -> None:
    need("bank_adapt", backend)
    case = fit_cases.make(SMALL, 3, 20)
    case.data.target[1, 4] = float("nan")
    params = leaves(case)
    results = Call(case, options={"clip_value": 1.0}).flat(params, backend=backend)
    assert results[-1].isnan().all(0).tolist() == [False, True, False]
    grads = torch.autograd.grad(sum(t.sum() for t in results[:-1]), params)
    for t in (*results[:-1], *grads):
        assert not bool(t[0].isnan().any())
        assert not bool(t[2].isnan().any())
    assert bool(results[0][1].isnan().all())


@pytest.mark.parametrize("requires", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("one", [False, True])
def test_opcheck(need, requires: bool, first_order: bool, one: bool) -> None:
    need("bank_adapt", "cpu", torch.float64)
    case = fit_cases.make(SMALL, 2, 12, weighted=True, dtype=torch.float64)
    params = [p[: 1 if one else 2].clone().requires_grad_(requires) for p in case.params]
    rates = torch.full((STEPS, 2, 3), RATE, dtype=torch.float64, requires_grad=requires)
    x, target, offsets, weight = case.data
    ids = torch.randint(12, (STEPS, 2, 5))
    shared = (params[:3], params[3:], rates, x, offsets, target, weight, ids, None, 5, 1, 0.1, first_order)
    forward, backward = torch.ops.mclnf_fast.bank_adapt_fwd, torch.ops.mclnf_fast.bank_adapt_bwd
    torch.library.opcheck(forward, (*shared, *case.spec.packed, True))
    with torch.no_grad():
        *adapted, losses, starts = forward(*shared, *case.spec.packed, True)
        plain = ([p.detach() for p in params[:3]], [p.detach() for p in params[3:]], rates.detach(), *shared[3:])
        cotangents = ([torch.rand_like(t) for t in ts] for ts in adapted)
        arguments = (*plain, *case.spec.packed, starts, *cotangents, torch.rand_like(losses), True)
    torch.library.opcheck(backward, arguments)


def test_compiled_by_torch(need) -> None:
    need("bank_adapt", "cpu")
    case = fit_cases.make(SMALL, 2, 12)
    call, params = Call(case), leaves(case)

    def value(*params: Tensor) -> Tensor:
        return sum(t.square().sum() for t in call.flat(params, backend="cpu"))

    known = torch.autograd.grad(value(*params), params)
    found = torch.autograd.grad(torch.compile(value, backend="aot_eager", fullgraph=True)(*params), params)
    assert all(torch.equal(a, b) for a, b in zip(found, known, strict=True))


@cpu
def test_a_second_derivative_is_refused(need, backend: str) -> None:
    need("bank_adapt", backend)
    case = fit_cases.make(SMALL, 2, 12)
    params = leaves(case)
    result = Call(case).run(params, backend=backend).weights[0].square().sum()
    first = torch.autograd.grad(result, params, create_graph=True)
    with pytest.raises(RuntimeError, match=r"bank_adapt: third derivatives .* use backend='reference'"):
        torch.autograd.grad(first[0].sum(), params)


def test_what_is_refused() -> None:
    case = fit_cases.make(SMALL, 2, 12)
    run = Call(case).run
    for lr, message in (
        (torch.ones(3), r"lr must be a number, \[2\], \[3, 2\] or \[3, 2, 3\] .* got \[3\]"),
        (torch.ones(2, dtype=torch.float64), "lr must have dtype torch.float32"),
        (-0.1, "lr must be finite and at least 0"),
    ):
        with pytest.raises((TypeError, ValueError), match=message):
            run(case.params, lr)
    for batches, message in (
        (Batches(size=5), "batches.size must leave each of 3 steps its samples, got 5 of 12"),
        (Batches(size=4, ids=torch.zeros(3, 2, 4).long()), "batches.size must be None beside batches.ids"),
        (Batches(weights=torch.ones(3, 2, 4)), "batches.weights must be None without batches.ids"),
        (Batches(ids=torch.full((3, 2, 4), 12)), r"batches.ids must be in \[0, 12\) for module 0"),
        (Batches(ids=torch.zeros(3, 2, 0).long()), "batches.ids must name at least one sample"),
    ):
        with pytest.raises((ValueError, IndexError), match=message):
            Call(case, batches).run(case.params)
    with pytest.raises(ValueError, match="weights must be of the 2 modules of data or of one for all, got 3"):
        run(tuple(torch.cat((p, p[:1])) for p in case.params))
    case.data.target.requires_grad_()
    with pytest.raises(ValueError, match=r"data.target must not require a gradient.*learn.meta.adapt"):
        run(case.params)
