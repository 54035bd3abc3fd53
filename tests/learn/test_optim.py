"""`mf.optim`: torch's optimizers over banks, whose modules each step by themselves."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mclnf_fast as mf

SPEC = mf.FieldSpec(2, 3, width=8, hidden_layers=1, encoding=mf.Frequency(2))
PAIRS = {"Adam": torch.optim.Adam, "AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}
kinds = pytest.mark.parametrize("kind", PAIRS)
Step = Callable[[mf.FieldBank, list[int]], Tensor]


def bank_of(modules: int = 3, dtype: torch.dtype = torch.float32, seed: int = 0) -> mf.FieldBank:
    return mf.FieldBank(SPEC, modules, dtype, generator=torch.Generator().manual_seed(seed))


def samples(counts: list[int], seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points, targets, offsets."""
    generator = torch.Generator().manual_seed(seed)
    n = sum(counts)
    offsets = torch.tensor([0, *counts]).cumsum(0)
    return torch.rand(n, 2, generator=generator), torch.rand(n, 3, generator=generator), offsets


def by_offsets(bank: mf.FieldBank, counts: list[int], seed: int = 0) -> Tensor:
    x, y, offsets = samples(counts, seed)
    return (bank(x, offsets=offsets) - y).square().mean()


def by_ids(bank: mf.FieldBank, counts: list[int], seed: int = 0) -> Tensor:
    x, y, offsets = samples(counts, seed)
    ids = torch.repeat_interleave(torch.arange(len(counts)), offsets.diff()).flip(0)
    return (bank(x, module_ids=ids) - y).square().mean()


def by_mse(bank: mf.FieldBank, counts: list[int], seed: int = 0) -> Tensor:
    x, y, offsets = samples(counts, seed)
    return bank.mse(x, y, offsets=offsets).sum()


LOSSES = {"offsets": by_offsets, "module_ids": by_ids, "mse": by_mse}


def train(bank: mf.FieldBank, optimizer: Any, steps: int, counts: list[int], seed: int = 0) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        by_mse(bank, counts, seed + step).backward()
        optimizer.step()


def values(bank: mf.FieldBank, modules: Any = slice(None)) -> list[Tensor]:
    return [p.detach()[modules].clone() for p in bank.stacked]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a, b, strict=True))


@kinds
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_is_torchs_optimizer_if_every_module_has_samples(kind: str, decay: float) -> None:
    """With a scheduler, over all of torch's options that it has."""
    ours, theirs = bank_of(dtype=torch.float64), bank_of(dtype=torch.float64)
    options: dict[str, Any] = {"lr": 0.02, "weight_decay": decay}
    if kind != "SGD":
        options |= {"betas": (0.8, 0.97), "eps": 1e-5}
    a, b = getattr(mf.optim, kind)(ours, **options), PAIRS[kind](theirs.parameters(), **options)
    assert isinstance(a, torch.optim.Optimizer)
    schedules = [torch.optim.lr_scheduler.ExponentialLR(o, 0.9) for o in (a, b)]
    for step in range(6):
        for bank, optimizer, schedule in zip((ours, theirs), (a, b), schedules):
            x, y, offsets = samples([4, 5, 6], step)
            optimizer.zero_grad()
            bank.mse(x.double(), y.double(), offsets=offsets).sum().backward()
            optimizer.step()
            schedule.step()
    assert a.param_groups[0]["lr"] == b.param_groups[0]["lr"] < 0.02
    for p, q in zip(ours.stacked, theirs.stacked):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-12)


@kinds
@pytest.mark.parametrize("loss", LOSSES)
def test_a_module_without_a_sample_stays_bit_equal(kind: str, loss: str) -> None:
    """Also with weight decay; torch's optimizer moves it on by the momentum of its own samples, or shrinks it."""
    for ours in (True, False):
        bank = bank_of()
        optimizers = vars(mf.optim) if ours else PAIRS
        params = bank if ours else bank.parameters()
        optimizer = optimizers[kind](params, lr=0.01, weight_decay=0.1)
        train(bank, optimizer, 3, [4, 4, 4])
        before = values(bank)
        for step in range(3):
            optimizer.zero_grad()
            LOSSES[loss](bank, [4, 0, 4], step).backward()
            optimizer.step()
        after = values(bank)
        stays = [same([p[m] for p in before], [p[m] for p in after]) for m in range(3)]
        assert stays == [False, ours, False]
        if ours:
            assert optimizer.state[bank.weight[0]]["step"].tolist() == [6, 3, 6]


def test_a_module_that_comes_back_goes_on_as_if_it_had_been_alone() -> None:
    alone, both = bank_of(1), bank_of(2)
    first, second = mf.optim.Adam(alone), mf.optim.Adam(both)
    for step, together in enumerate([True, False, True, True]):
        x, y, offsets = samples([4, 4], step)
        if together:
            first.zero_grad()
            alone.mse(x[:4], y[:4], offsets=offsets[:2]).sum().backward()
            first.step()
        counts = offsets if together else torch.tensor([0, 0, 4])
        second.zero_grad()
        both.mse(x[: counts[-1]], y[: counts[-1]], offsets=counts).sum().backward()
        second.step()
    assert same(values(alone), values(both, slice(0, 1)))


def test_nothing_at_all_happens_without_a_gradient() -> None:
    bank = bank_of()
    before, optimizer = values(bank), mf.optim.AdamW(bank, weight_decay=0.5)
    optimizer.step()
    assert not optimizer.state
    (bank(torch.rand(3, 4, 2)) * 0).sum().backward()
    optimizer.step()
    assert same(before, values(bank))
    assert optimizer.state[bank.bias[0]]["step"].tolist() == [0, 0, 0]


@kinds
def test_it_follows_append(kind: str) -> None:
    """The new module begins afresh, at the rate in force; the others go on as if nothing had happened."""
    bank, other = bank_of(2), bank_of(3)
    a, b = getattr(mf.optim, kind)(bank, lr=0.01), getattr(mf.optim, kind)(other, lr=0.01)
    train(bank, a, 3, [4, 4])
    for step in range(3):
        b.zero_grad()
        x, y, offsets = samples([4, 4], step)
        other.mse(x, y, offsets=torch.cat((offsets, offsets[-1:]))).sum().backward()
        b.step()
    old = bank.weight[0]
    bank.append()
    for optimizer in (a, b):
        optimizer.param_groups[0]["lr"] = 0.02
    train(bank, a, 3, [4, 4, 4])
    train(other, b, 3, [4, 4, 4])
    assert same(values(bank), values(other))
    assert all(any(p is q for q in a.param_groups[0]["params"]) for p in bank.stacked)
    assert old not in a.state
    assert a.state[bank.weight[0]]["step"].tolist() == [6, 6, 3]
    assert len(a.param_groups[0]["params"]) == len(bank.stacked)


class Model(nn.Module):
    """A bank in front of an ordinary layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bank, self.head = bank_of(2), nn.Linear(3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bank(x)).square().mean()


@kinds
@pytest.mark.parametrize("way", ["module", "parameters", "groups", "list"])
def test_other_parameters_are_torchs(kind: str, way: str) -> None:
    """Bit for bit, with options of their own, however they are handed over."""
    torch.manual_seed(1)
    ours = Model()
    theirs = copy.deepcopy(ours)
    ways: dict[str, Callable[[Model], Any]] = {
        "module": lambda m: m,
        "parameters": lambda m: m.parameters(),
        "groups": lambda m: [{"params": m.bank, "lr": 0.02}, {"params": m.head.parameters()}],
        "list": lambda m: [m.bank, m.head.weight, m.head.bias],
    }
    a = getattr(mf.optim, kind)(ways[way](ours), lr=0.01, weight_decay=0.1)
    groups = [{"params": list(theirs.bank.parameters()), "lr": 0.02 if way == "groups" else 0.01}]
    b = PAIRS[kind]([*groups, {"params": list(theirs.head.parameters())}], lr=0.01, weight_decay=0.1)
    for step in range(3):
        x = torch.rand(2, 5, 2, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((ours, a), (theirs, b)):
            optimizer.zero_grad()
            model(x).backward()
            optimizer.step()
        a.param_groups[-1]["lr"] = b.param_groups[-1]["lr"] = 0.03
        b.param_groups[0]["lr"] = a.param_groups[0]["lr"]
    for p, q in zip(ours.parameters(), theirs.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_group_can_be_added() -> None:
    bank, layer, late = bank_of(2), nn.Linear(2, 2), bank_of(1, seed=3)
    optimizer = mf.optim.Adam(bank)
    optimizer.add_param_group({"params": layer, "lr": 0.5})
    optimizer.add_param_group({"params": [late], "weight_decay": 0.1})
    assert [len(g["params"]) for g in optimizer.param_groups] == [4, 2, 4]
    (layer(torch.ones(1, 2)).sum() + by_mse(bank, [2, 2]) + by_mse(late, [3])).backward()
    before = [p.detach().clone() for p in (*layer.parameters(), *late.parameters())]
    optimizer.step()
    after = [*layer.parameters(), *late.parameters()]
    torch.testing.assert_close((after[0] - before[0]).abs(), torch.full((2, 2), 0.5))
    assert not any(torch.equal(p, q) for p, q in zip(before, after))
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": late})


def test_a_tensor_that_joins_late_counts_its_own_steps() -> None:
    """As torch's, whose steps are a tensor's own."""
    ours, theirs = bank_of(2), bank_of(2)
    a, b = mf.optim.Adam(ours, lr=0.01), torch.optim.Adam(theirs.parameters(), lr=0.01)
    for step in range(4):
        for bank, optimizer in ((ours, a), (theirs, b)):
            bank.weight[0].requires_grad_(step >= 2)
            optimizer.zero_grad()
            by_mse(bank, [4, 4], step).backward()
            optimizer.step()
    for p, q in zip(ours.stacked, theirs.stacked):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
    assert a.state[ours.weight[0]]["step"].tolist() == [2, 2]


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_stopped_run_goes_on_to_the_same_bits(kind: str, dtype: torch.dtype) -> None:
    """Through a file that is read without pickle; masters and moments of half types stay float32."""
    bank = bank_of(dtype=dtype)
    optimizer = getattr(mf.optim, kind)(bank, lr=0.01)
    optimizer.freeze(2)
    optimizer.set_rate([0.5, 2.0], modules=[0, 1])
    train(bank, optimizer, 3, [4, 0, 4])
    file = io.BytesIO()
    torch.save({"bank": bank.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(bank, optimizer, 3, [4, 4, 4], seed=3)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other = bank_of(dtype=dtype)
    other.load_state_dict(saved["bank"])
    resumed = getattr(mf.optim, kind)(other, lr=0.5)
    resumed.load_state_dict(saved["optimizer"])
    assert resumed.param_groups[0]["lr"] == 0.01
    for entries in resumed.state.values():
        assert all(t.dtype in (torch.float32, torch.float64) for t in entries.values())
    train(other, resumed, 3, [4, 4, 4], seed=3)
    assert same(values(bank), values(other))
    assert not same(values(bank), values(bank_of(dtype=dtype)))
    assert resumed.state[other.weight[0]]["step"].tolist() == [6, 3, 0]


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    bank = bank_of()
    optimizer = mf.optim.Adam(bank)
    train(bank, optimizer, 2, [4, 4, 4])
    before = copy.deepcopy(optimizer.state_dict())
    other = mf.optim.Adam(bank_of(2))
    with pytest.raises(ValueError, match=r"banks of \[3\] modules, got \[2\]"):
        optimizer.load_state_dict(other.state_dict())
    wrong = copy.deepcopy(before)
    wrong["state"][0]["exp_avg"] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"state\[0\]\['exp_avg'\] must be a tensor"):
        optimizer.load_state_dict(wrong)
    del wrong["state"][0]["exp_avg"]
    with pytest.raises(ValueError, match=r"state\[0\] must hold"):
        optimizer.load_state_dict(wrong)
    after = optimizer.state_dict()
    assert all(torch.equal(t, after["state"][i][k]) for i, e in before["state"].items() for k, t in e.items())


def test_copies_go_on_by_themselves() -> None:
    bank = bank_of()
    optimizer = mf.optim.Adam(bank, lr=0.01)
    train(bank, optimizer, 2, [4, 4, 4])
    bank2, optimizer2 = copy.deepcopy((bank, optimizer))
    train(bank, optimizer, 2, [4, 0, 4])
    train(bank2, optimizer2, 2, [4, 0, 4])
    assert same(values(bank), values(bank2))


def test_half_parameters_keep_float32_masters() -> None:
    """Steps far below the last bit of a weight add up."""
    bank = bank_of(dtype=torch.bfloat16)
    optimizer = mf.optim.SGD(bank, lr=1e-6)
    for _ in range(50):
        for p in bank.stacked:
            p.grad = torch.ones_like(p)
        optimizer.step()
    for p, start in zip(bank.stacked, bank_of(dtype=torch.bfloat16).stacked):
        master = optimizer.state[p]["master"]
        torch.testing.assert_close(master, start.float() - 50e-6, rtol=0, atol=1e-6)
        assert torch.equal(p, master.to(torch.bfloat16))


def test_modules_are_frozen_reset_and_have_rates() -> None:
    bank = bank_of()
    optimizer = mf.optim.Adam(bank, lr=0.01)
    optimizer.set_rate(0.0, modules=0)
    optimizer.freeze([1])
    before = values(bank)
    train(bank, optimizer, 2, [4, 4, 4])
    assert same(values(bank, slice(0, 2)), [p[:2] for p in before])
    state = optimizer.state[bank.weight[0]]
    assert state["step"].tolist() == [2, 0, 2]
    optimizer.reset(2)
    assert state["step"].tolist() == [2, 0, 0]
    assert not state["exp_avg"][2].any()
    assert state["exp_avg"][0].any()
    optimizer.unfreeze(1)
    optimizer.set_rate(1.0)
    train(bank, optimizer, 1, [4, 4, 4])
    assert state["step"].tolist() == [3, 1, 1]
    # At its first step a module moves by its rate, whatever its gradient.
    moved = (bank.bias[1].detach() - before[3])[1].abs()
    torch.testing.assert_close(moved, torch.full((3,), 0.01), rtol=1e-3, atol=0)


def test_banks_are_told_apart() -> None:
    first, second = bank_of(2), bank_of(1, seed=3)
    optimizer = mf.optim.Adam([first, second])
    optimizer.freeze(0, bank=second)
    before = values(second)
    (by_mse(first, [3, 3]) + by_mse(second, [3])).backward()
    optimizer.step()
    assert same(before, values(second))
    assert not same(values(first), values(bank_of(2)))
    with pytest.raises(ValueError, match="bank must be one of the optimizer's banks, got None"):
        optimizer.freeze(0)
    with pytest.raises(IndexError, match=r"ids in \[0, 1\)"):
        optimizer.freeze(1, bank=second)
    with pytest.raises(ValueError, match="has no bank"):
        mf.optim.Adam(nn.Linear(2, 2)).reset()


@pytest.mark.parametrize("unscale", [False, True])
def test_a_grad_scaler_leaves_out_steps_that_overflow(unscale: bool) -> None:
    """And gives the steps of the losses as they are: scales are powers of two."""
    ours, plain = bank_of(), bank_of()
    a, b = mf.optim.Adam(ours, lr=0.01), mf.optim.Adam(plain, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step, factor in enumerate([1.0, float("inf"), 1.0]):
        a.zero_grad()
        scaler.scale(by_mse(ours, [4, 4, 4], step) * factor).backward()
        if unscale:
            scaler.unscale_(a)
        scaler.step(a)
        scaler.update()
        if factor == 1.0:
            b.zero_grad()
            by_mse(plain, [4, 4, 4], step).backward()
            b.step()
    assert scaler.get_scale() == 2.0**9
    assert same(values(ours), values(plain))
    assert a.state[ours.weight[0]]["step"].tolist() == [2, 2, 2]


def test_a_grad_scaler_unscales_half_gradients() -> None:
    bank, plain = bank_of(dtype=torch.float16), bank_of(dtype=torch.float16)
    a, b = mf.optim.SGD(bank, lr=0.01), mf.optim.SGD(plain, lr=0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for p, q in zip(bank.stacked, plain.stacked):
        p.grad, q.grad = torch.full_like(p, 4.0), torch.ones_like(q)
    scaler.scale(torch.ones(()))
    scaler.step(a)
    b.step()
    assert same(values(bank), values(plain))


def test_closures_hooks_and_tensor_rates() -> None:
    bank = bank_of()
    optimizer = mf.optim.Adam(bank, lr=torch.tensor(0.01))
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = by_mse(bank, [4, 4, 4])
        loss.backward()
        return loss

    assert optimizer.step(closure) > optimizer.step(closure)
    assert calls == ["before", "after"] * 2
    other = bank_of()
    number = mf.optim.Adam(other, lr=0.01)
    for _ in range(2):
        number.zero_grad()
        by_mse(other, [4, 4, 4]).backward()
        number.step()
    for p, q in zip(bank.stacked, other.stacked):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_every_scheduler_of_torch_drives_it() -> None:
    bank = bank_of()
    optimizer = mf.optim.Adam(bank, lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=6)  # betas too
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(5):
            train(bank, optimizer, 1, [4, 4, 4], step)
            schedule.step()
    assert optimizer.param_groups[0]["betas"][0] != 0.9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be finite and at least 0, got -1.0"),
        ({"lr": torch.ones(3)}, r"lr must be a number or a tensor of one, got a tensor \[3\]"),
        ({"betas": (0.9, 1.0)}, r"betas\[1\] must be at least 0 and below 1"),
        ({"eps": -1e-8}, "eps must be"),
        ({"weight_decay": float("nan")}, "weight_decay must be"),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mf.optim.Adam(bank_of(), **options)
    with pytest.raises(ValueError, match=message):
        mf.optim.Adam([{"params": bank_of(), **options}])


def test_wrong_parameters_and_factors_are_named() -> None:
    for wrong in (torch.zeros(2), 3, {"params": bank_of()}):
        with pytest.raises(TypeError, match="params must be a FieldBank"):
            mf.optim.Adam(wrong)
    with pytest.raises(ValueError, match="params must hold at least one"):
        mf.optim.Adam([])
    optimizer = mf.optim.Adam(bank_of())
    with pytest.raises(ValueError, match=r"factor must be a number or \[3\], got 2 numbers"):
        optimizer.set_rate([1.0, 2.0])
    with pytest.raises(ValueError, match="factor must be finite and at least 0"):
        optimizer.set_rate(-1.0)
    with pytest.raises(TypeError, match="momentum"):
        mf.optim.SGD(bank_of(), momentum=0.9)


def test_a_parameter_of_a_bank_alone_is_one_of_its_modules() -> None:
    """Handed over without the bank: `bank.parameters()` and parts of it behave as the bank does."""
    bank = bank_of()
    optimizer = mf.optim.Adam([{"params": bank.weight}, {"params": list(bank.bias), "lr": 0.1}])
    train(bank, optimizer, 2, [4, 0, 4])
    assert same(values(bank, slice(1, 2)), values(bank_of(), slice(1, 2)))
    assert optimizer.state[bank.weight[0]]["step"].tolist() == [2, 0, 2]
