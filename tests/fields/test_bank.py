"""FieldBank: three ways to call it, modules that come and go, and parameters as ordinary modules see them."""

from __future__ import annotations

import copy
import io
import pickle

import places
import pytest
import torch
from torch import nn

import mclnf_fast as mf
from mclnf_fast.fields import FieldModule, initial_parameters

SPEC = mf.FieldSpec(3, 4, 16, 2, "sine", encoding=mf.Frequency(2, scale=1.0), skips=(1,))


def bank_of(modules: int, spec: mf.FieldSpec = SPEC, dtype: torch.dtype = torch.float32) -> mf.FieldBank:
    """A bank whose modules differ.

    w0 = 30 magnifies a rounding at every layer: what is not compared bit for bit is compared in float64.
    """
    bank = mf.FieldBank(spec, modules, dtype, generator=torch.Generator().manual_seed(1)).to(places.here())
    g = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in bank.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g).to(dtype)
    return bank


@places.backends("bank_mlp")
def test_three_ways_to_call_agree(need, backend: str) -> None:
    need("bank_mlp", backend)
    bank, x = bank_of(3), torch.randn(3, 5, 3)
    dense = bank(x, backend=backend)
    assert dense.shape == (3, 5, 4)
    packed = bank(x.flatten(0, 1), offsets=torch.arange(4) * 5, backend=backend)
    assert torch.equal(packed.unflatten(0, (3, 5)), dense)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(3))
    ids = torch.arange(3).repeat_interleave(5)[order]
    routed = bank(x.flatten(0, 1)[order], module_ids=ids, backend=backend)
    torch.testing.assert_close(routed, packed[order])


@places.devices
def test_routed_gradients_are_those_of_grouped_points() -> None:
    bank, x = bank_of(3), torch.randn(15, 3)
    ids = torch.arange(15) % 3
    bank(x, module_ids=ids).square().sum().backward()
    routed = [p.grad.clone() for p in bank.parameters()]
    bank.zero_grad()
    order = torch.argsort(ids, stable=True)
    bank(x[order], offsets=torch.tensor([0, 5, 10, 15])).square().sum().backward()
    for r, p in zip(routed, bank.parameters()):
        torch.testing.assert_close(r, p.grad)


def test_names_shapes_and_equal_start() -> None:
    bank = mf.FieldBank(SPEC, 5)
    named = dict(bank.named_parameters())
    assert list(named) == [f"{kind}.{l}" for kind in ("weight", "bias") for l in range(3)]
    for l, (rows, columns) in enumerate(SPEC.layer_shapes):
        assert named[f"weight.{l}"].shape == (5, rows, columns)
        assert named[f"bias.{l}"].shape == (5, columns)
    for p, s in zip(bank.stacked, bank.shared):
        assert torch.equal(p, s.expand_as(p))
    assert len(bank) == 5
    assert sum(p.numel() for p in bank.parameters()) == 5 * SPEC.num_parameters


@pytest.mark.parametrize("modules", [0, 1, 4])
def test_append_keeps_the_others_bit_equal(modules: int) -> None:
    bank = bank_of(modules, dtype=torch.float64)
    before = [p.detach().clone() for p in bank.stacked]
    assert bank.append() == modules
    assert len(bank) == modules + 1
    for old, new, shared in zip(before, bank.stacked, bank.shared):
        assert torch.equal(new[:modules], old)
        assert torch.equal(new[modules:], shared)
        assert new.requires_grad
    donor = bank_of(1, dtype=torch.float64).to_module(0)
    bank.append(donor)
    bank.append(tuple(t[:1] for t in bank_of(1, dtype=torch.float64).stacked))
    x = torch.randn(modules + 3, 7, 3, dtype=torch.float64)
    y = bank(x)
    torch.testing.assert_close(y[modules + 1], donor(x[modules + 1]))
    torch.testing.assert_close(y[modules + 2], donor(x[modules + 2]))


def test_to_and_from_ordinary_modules() -> None:
    bank, x = bank_of(3, dtype=torch.float64), torch.randn(3, 6, 3, dtype=torch.float64)
    modules = [bank.to_module(i) for i in range(3)]
    y = bank(x)
    for i, module in enumerate(modules):
        torch.testing.assert_close(module(x[i]), y[i])
    again = mf.FieldBank.from_modules(modules)
    assert again.spec == bank.spec
    assert all(map(torch.equal, again.stacked, bank.stacked))
    with torch.no_grad():
        modules[0].layers[0].weight.zero_()  # copies: the bank does not see it
    assert torch.equal(bank(x), y)


def test_from_modules_of_other_code() -> None:
    spec = mf.FieldSpec(2, 3, 8, 1, "relu")
    plain = [nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 3, bias=k > 0)) for k in range(2)]
    bank, x = mf.FieldBank.from_modules(plain, spec), torch.randn(2, 9, 2)
    torch.testing.assert_close(bank(x), torch.stack([m(p) for m, p in zip(plain, x)]))
    with pytest.raises(ValueError, match="spec must be given"):
        mf.FieldBank.from_modules([nn.ModuleList(plain[0])])
    assert mf.FieldBank.from_modules(plain).spec == spec
    with pytest.raises(ValueError, match=r"layer 0 must be Linear\(2, 9\), got Linear\(2, 8\)"):
        mf.FieldBank.from_modules(plain, mf.FieldSpec(2, 3, 9, 1))
    with pytest.raises(ValueError, match="must have 3 Linear layers, got 2"):
        mf.FieldBank.from_modules(plain, mf.FieldSpec(2, 3, 8, 2))
    with pytest.raises(ValueError, match="modules must hold at least one"):
        mf.FieldBank.from_modules([], spec)


def test_state_dict_deepcopy_and_pickle() -> None:
    bank, x = bank_of(2), torch.randn(2, 4, 3)
    y = bank(x)
    other = mf.FieldBank(SPEC, 2)
    other.load_state_dict(bank.state_dict())
    assert torch.equal(other(x), y)
    assert all(map(torch.equal, other.shared, bank.shared))
    assert torch.equal(copy.deepcopy(bank)(x), y)
    again = pickle.loads(pickle.dumps(bank))
    assert torch.equal(again(x), y)
    assert again.spec == SPEC
    assert again.spec.packed == SPEC.packed
    file = io.BytesIO()
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    module = pickle.loads(pickle.dumps(bank.to_module(1)))
    assert isinstance(module, FieldModule)
    torch.testing.assert_close(module(x[1]), y[1])


def test_parameters_alone_keep_the_present_shared_initialization() -> None:
    bank, other = bank_of(2), mf.FieldBank(SPEC, 2)
    shared = [s.clone() for s in other.shared]
    state = {k: v for k, v in bank.state_dict().items() if not k.startswith("shared")}
    given = dict(state)
    other.load_state_dict(state)
    assert all(map(torch.equal, other.stacked, bank.stacked))
    assert all(map(torch.equal, other.shared, shared))
    assert state.keys() == given.keys()  # the caller's mapping is not added to


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_and_generator(dtype: torch.dtype) -> None:
    banks = [mf.FieldBank(SPEC, 2, dtype, generator=torch.Generator().manual_seed(7)) for _ in range(2)]
    assert all(map(torch.equal, banks[0].stacked, banks[1].stacked))
    assert banks[0](torch.zeros(2, 1, 3, dtype=dtype)).dtype == dtype


def test_sine_initialization_is_that_of_siren() -> None:
    spec = mf.FieldSpec(2, 1, 64, 2, "sine", w0=30.0)
    parameters = initial_parameters(spec, 50, generator=torch.Generator().manual_seed(0))
    bounds = [1 / 2, (6 / 64) ** 0.5 / 30, (6 / 64) ** 0.5 / 30]
    for weight, bound in zip(parameters[:3], bounds):
        assert bound * 0.95 < float(weight.abs().max()) <= bound


@pytest.mark.parametrize(
    ("x", "call", "error", "text"),
    [
        (
            torch.zeros(4, 3),
            {},
            ValueError,
            r"x must have shape \[M, n, in_dim\] = \[2, \*, 3\].*got \[4, 3\]",
        ),
        (torch.zeros(3, 4, 3), {}, ValueError, r"x must have shape .*got \[3, 4, 3\]"),
        ([1], {}, TypeError, r"x must be a tensor, got list"),
        (
            torch.zeros(2, 3),
            {"module_ids": torch.tensor([0, 2])},
            IndexError,
            r"module_ids must .*\[0, 2\), got 2",
        ),
        (
            torch.zeros(2, 3),
            {"module_ids": torch.tensor([0, -1])},
            IndexError,
            r"module_ids must lie .*got -1",
        ),
        (
            torch.zeros(2, 3),
            {"module_ids": torch.zeros(2)},
            TypeError,
            r"module_ids must have dtype torch.int64",
        ),
        (
            torch.zeros(2, 3),
            {"module_ids": torch.zeros(3).long()},
            ValueError,
            r"module_ids must .*\[2\], got \[3\]",
        ),
        (torch.zeros(2, 3), {"module_ids": [0, 0.5]}, TypeError, r"module_ids must hold ints, got \[0, 0.5\]"),
        (
            torch.zeros(2, 3),
            {"offsets": torch.tensor([0, 2])},
            ValueError,
            r"offsets must have shape .*\[3\]",
        ),
        (torch.zeros(1, 3), {"offsets": 1, "module_ids": 2}, ValueError, "offsets or module_ids, not both"),
    ],
)
def test_bad_calls(x: object, call: dict[str, object], error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        bank_of(2)(x, **call)


def test_bad_construction() -> None:
    with pytest.raises(TypeError, match="spec must be a FieldSpec, got int"):
        mf.FieldBank(3)
    with pytest.raises(ValueError, match="modules must be an int of at least 0, got -1"):
        mf.FieldBank(SPEC, -1)
    with pytest.raises(ValueError, match=r"init must hold 6 tensors .*got 1"):
        mf.FieldBank(SPEC, 1, init=[torch.zeros(1)])
    with pytest.raises(ValueError, match=r"state\[0\] must have shape .*got \[2, "):
        mf.FieldBank(SPEC, 1).append(bank_of(2).stacked)
    with pytest.raises(IndexError, match=r"index must lie in \[0, 1\), got 1"):
        mf.FieldBank(SPEC, 1).to_module(1)
