"""The optimizer step that takes gradients of a half type and writes copies of it beside float32 parameters."""

from __future__ import annotations

import math

import places
import pytest
import torch
from bank_step_cases import State, assert_same

import mclnf_fast as mf

pytestmark = pytest.mark.usefixtures("poisoned")
backends = places.backends("bank_step")
kinds = pytest.mark.parametrize("kind", ["adam", "sgd"])
halves = pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])


@backends
@kinds
@halves
@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_it_is_the_float32_step_and_one_rounding(
    need, backend: str, kind: str, half: torch.dtype, trust: bool, masked: bool
) -> None:
    need("bank_step", backend)
    for modules in (0, 1, 9, 65):
        state = State(modules, ((3, 5), (17,), (0, 2), ()), kind=kind, half=half)
        active = torch.rand(modules) < 0.6 if masked else None
        plain = state.copy()
        scale = state.scale.float()
        plain.grads = [g.float() / scale.view(-1, *[1] * (g.dim() - 1)) for g in state.grads]
        plain.copies, plain.scale = [], None
        options = {"active": active, "trust": state.trust if trust else None}
        state.run(backend, **options)
        plain.run(backend, **options)
        for copy, p in zip(state.copies, plain.params):
            want = p.to(half)
            assert torch.equal(
                copy,
                want
                if active is None
                else torch.where(active.view(-1, *[1] * (p.dim() - 1)), want, torch.full_like(want, 7.0)),
            )
        state.copies = []
        assert_same(state, plain)


@backends
@kinds
@halves
def test_parameters_without_a_copy(need, backend: str, kind: str, half: torch.dtype) -> None:
    """They take float32 gradients of the scaled loss, in the same call and to the same bits as alone."""
    need("bank_step", backend)
    state = State(9, kind=kind, half=half)
    alone = state.copy()
    for i in (0, 2):
        state.grads[i] = torch.randn(state.grads[i].shape)
        # What a scale that is no power of two would round is not asked for here.
        scale = state.scale.float().view(-1, *[1] * (state.grads[i].dim() - 1))
        alone.grads[i] = state.grads[i] / scale
        state.copies[i] = None
    kept = [i for i in range(4) if state.copies[i] is not None]
    for i in kept:
        scale = state.scale.float().view(-1, *[1] * (state.grads[i].dim() - 1))
        alone.grads[i] = state.grads[i].float() / scale
    alone.copies, alone.scale = [], None
    state.run(backend)
    alone.run(backend)
    assert all(torch.equal(state.copies[i], alone.params[i].to(half)) for i in kept)
    state.copies = []
    assert_same(state, alone)


def test_which_copies_are_refused() -> None:
    state = State(2, half=torch.bfloat16)
    whole = state.copies
    for copies, text in (
        ([None] * 4, "copies must be empty or hold at least one tensor, got None alone"),
        (whole[:3], "copies must hold 4 tensors like params, got 3"),
        ([*whole[:3], whole[3].half()], r"copies\[3\] must have dtype torch.bfloat16, got torch.float16"),
        ([None, *whole[1:]], r"grads\[0\] must have dtype torch.float32, got torch.bfloat16"),
    ):
        state.copies = copies
        with pytest.raises((TypeError, ValueError), match=text):
            state.run("auto")


@backends
@halves
def test_every_half_number_and_every_rounding(need, backend: str, half: torch.dtype) -> None:
    """All 65536 gradients; and parameters that lie on, and next to, the middle between two of them."""
    need("bank_step", backend)
    grads = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(half)[None]
    p, copy = torch.zeros(grads.shape), torch.zeros_like(grads)
    step = torch.zeros(1, dtype=torch.float64)
    mf.ops.bank_step([p], [grads], [], [], step, 1.0, kind="sgd", copies=[copy], backend=backend)
    torch.testing.assert_close(p, -grads.float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(copy, -grads, rtol=0, atol=0, equal_nan=True)

    ordered = grads[grads.isfinite()].float().sort().values
    middle = (ordered[1:].double() + ordered[:-1].double()).div(2).float()
    more = torch.tensor([65504.0, 65519.9, 65520.0, 65536.0, 3.4e38, math.inf, -math.inf, math.nan, 0.0, -0.0, 1e-45])
    values = torch.cat([middle, torch.nextafter(middle, torch.tensor(math.inf)),
                        torch.nextafter(middle, torch.tensor(-math.inf)), more])[None]  # fmt: skip
    copy = torch.zeros_like(values, dtype=half)
    mf.ops.bank_step([values], [torch.zeros_like(copy)], [], [], step, 0.0, kind="sgd", copies=[copy], backend=backend)
    torch.testing.assert_close(copy, values.to(half), rtol=0, atol=0, equal_nan=True)
    numbers = ~values.isnan()
    assert torch.equal(copy[numbers].signbit(), values[numbers].signbit())
