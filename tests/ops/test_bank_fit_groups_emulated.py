"""Several blocks with one module in the kernels of fits, on the emulation of CUDA's blocks: the bits of one block,
whatever the device, in several orders of blocks and threads; and how the shares of a step and the blocks are chosen."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any

import fit_cases
import pytest
import test_bank_fit
import test_bank_fit_emulated as points
import test_bank_ray_fit_emulated as rays
import torch
from fit_cases import assert_same
from test_bank_fit_emulated import ORDERS, WIDE

import mclnf_fast as mf
from mclnf_fast.ops.bank_fit import Draws, FitData, FitEnd, FitLog, FitRule, FitState, Schedule, Watch, api, compiled
from mclnf_fast.packing import Precision

# Tiles of 32 points, since its outputs are many, and few parameters: a step of many tiles is quick here.
MANY = mf.FieldSpec(2, 70, width=8, hidden_layers=1, activation="tanh")
SKIPS = dataclasses.replace(MANY, width=9, hidden_layers=2, encoding=mf.Frequency(2), skips=(1,))
CITY = mf.FieldSpec(3, 4, width=64, hidden_layers=4, encoding=mf.Frequency(10, include_input=True))
PER_RAY = ("origins", "directions", "colors", "view", "weight")

Result = tuple[FitState, FitLog]


@pytest.fixture(autouse=True)
def _on_the_emulation(need, emulated: Any, poisoned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """`backend="cpu"` runs the kernels of csrc/cuda, with rounded operands too."""
    need("bank_fit", "cpu")
    monkeypatch.setattr(compiled, "OPS", emulated)
    monkeypatch.setattr(api, "_ROUNDED_OP", api._OP)
    monkeypatch.setattr(api, "_ROUNDED_RAY_OP", api._RAY_OP)


@dataclasses.dataclass
class Groups:
    """What `fit_groups` of csrc/cuda/fit/plan.h decides."""

    shares: int
    samples: int
    blocks: int
    groups: int
    bytes: int


@pytest.fixture
def groups_of(emulated: Any):
    def decide(
        spec: mf.FieldSpec, batch: int, modules: int = 1, processors: int = 4, *, bins: int = 0,
        block: int = 227 << 10, precision: str = "fp32", bytes_each: int = 4,
    ) -> Groups:  # fmt: skip
        sizes = bytes_each, batch, bins, block, Precision[precision.upper()], modules, processors
        return Groups(*emulated.fit_groups(*spec.packed, *sizes))

    return decide


def assert_equal(result: Result, expected: Result) -> None:
    """All that two fits leave, bit for bit."""
    (state, log), (known, known_log) = result, expected
    assert_same(state, known)
    assert torch.equal(log.ends, known_log.ends)
    for a, b in zip(
        (log.losses, log.checked, *(t for copied in log.params for t in copied)),
        (known_log.losses, known_log.checked, *(t for copied in known_log.params for t in copied)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


WATCH = Watch((1, 2, 3), (2,), stop_loss=0.0, check_every=2)


def on(monkeypatch: pytest.MonkeyPatch, processors: int, order: str = "forward") -> None:
    monkeypatch.setenv("MCLNF_EMULATION_PROCESSORS", str(processors))
    monkeypatch.setenv("MCLNF_EMULATION_ORDER", order)


def check_bits(
    monkeypatch: pytest.MonkeyPatch, orders: tuple[str, ...], run: Callable[[], Result], processors: int = 8
) -> Result:
    """Return the result of one multiprocessor, of which those of more must have the bits, in every order."""
    on(monkeypatch, 1)
    expected = run()
    for order in orders:
        on(monkeypatch, processors, order)
        assert_equal(run(), expected)
    return expected


@pytest.mark.parametrize(
    ("spec", "batch", "samples", "kind"),
    [(WIDE, 300, 400, "adam"), (MANY, 1000, 1100, "sgd"), (MANY, 4200, 4300, "adam"), (SKIPS, 600, 700, "adam")],
    ids=["wide", "many", "shares of two", "skips"],
)
def test_bits_of_one_block(
    groups_of: Any, monkeypatch: pytest.MonkeyPatch, spec: mf.FieldSpec, batch: int, samples: int, kind: Any
) -> None:
    """With as many blocks as a device has for two modules: a share for each, several, or for some of them none; losses,
    copies and the losses over all samples included."""
    case = fit_cases.make(spec, 2, samples, weighted=True)
    options = {"draws": Draws("even", batch), "rule": FitRule(Schedule(1e-3), kind), "watch": WATCH}
    assert groups_of(spec, batch, 2, 1).blocks == 1
    sizes = [groups_of(spec, batch, 2, processors).blocks for processors in (5, 12)]
    assert 1 < min(sizes) <= max(sizes) <= groups_of(spec, batch).shares
    for processors in (5, 12):
        check_bits(
            monkeypatch, ORDERS if processors == 5 else ("forward",), lambda: points.fit(case, 3, **options), processors
        )


@pytest.mark.parametrize("draws", test_bank_fit.DRAWS)
@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_agrees_with_the_definition(groups_of: Any, monkeypatch: pytest.MonkeyPatch, draws: str, kind: Any) -> None:
    """Every rule of draws, warm steps, weights, trust regions, frozen layers, modules that make other steps."""
    shared, weighted = draws != "uniform", draws in ("even", "whole")
    case = fit_cases.make(MANY, 3, 950, shared=shared, weighted=weighted, dtype=torch.float64)
    on(monkeypatch, 12)
    chosen = test_bank_fit.DRAWS[draws]
    if chosen.ids is not None:  # more of them
        weights = None if chosen.weights is None else chosen.weights.double().repeat(1, 1, 20)
        chosen = dataclasses.replace(chosen, ids=chosen.ids.repeat(1, 1, 20), weights=weights)
    elif chosen.rule != "whole":
        chosen = dataclasses.replace(chosen, batch=900)
    batch = 950 if chosen.rule == "whole" else 900 if chosen.ids is None else chosen.ids.shape[2]
    assert groups_of(MANY, batch, 3, 12, bytes_each=8).blocks > 1
    for frozen in (0, 1):
        rule = FitRule(test_bank_fit.SCHEDULES["warm"], kind, trust=case.trust(), frozen_layers=frozen)
        watch = Watch((1, 4, 6, 9), (3, 6), stop_loss=0.0, check_every=3)
        points.check(case, torch.tensor([6, 0, 4]), 1e-11, draws=chosen, rule=rule, watch=watch)


def uneven(sizes: tuple[int, ...], dtype: torch.dtype = torch.float32) -> fit_cases.Case:
    """Modules of these numbers of samples."""
    case = fit_cases.make(MANY, len(sizes), max(sizes), shared=False, dtype=dtype)
    offsets = torch.tensor([0, *sizes]).cumsum(0)
    return dataclasses.replace(case, data=FitData(case.data.x[: sum(sizes)], case.data.target[: sum(sizes)], offsets))


def test_modules_of_other_sizes_wait_for_a_group(groups_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """All samples in every step: modules of many tiles, of shares of two, of a single tile, and of none to do; more of
    them than groups; to the bit what each learns alone, and near to the definition."""
    sizes, steps = (700, 4200, 20, 1500, 900), torch.tensor([3, 3, 3, 0, 2])
    case = uneven(sizes)
    options = {"draws": Draws("whole"), "rule": FitRule(Schedule(1e-2), "sgd"), "watch": WATCH}
    block = 20 << 10  # of which a multiprocessor runs one
    monkeypatch.setenv("MCLNF_EMULATION_SHARED", str(block))
    plan = groups_of(MANY, sum(sizes), 5, 4, block=block)
    assert plan.blocks > 1
    assert plan.groups < 5
    expected = check_bits(monkeypatch, ("forward", *ORDERS), lambda: points.fit(case, steps, **options), 4)
    points.assert_near(expected, points.fit(case, steps, "reference", **options), 2e-5)
    for m, size in enumerate(sizes):
        x, target, _ = case.data.module(m)
        alone = FitData(x, target, torch.tensor([0, size]))
        one = dataclasses.replace(case, params=tuple(p[m : m + 1] for p in case.params), data=alone)
        state, log = points.fit(one, steps[m : m + 1], **options)
        for a, b in zip(state.params, expected[0].params, strict=True):
            assert torch.equal(a[0], b[m])
        torch.testing.assert_close(log.losses[:, 0], expected[1].losses[:, m], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("spec", "batch"), [(WIDE, 300), (SKIPS, 900)], ids=["wide", "skips"])
@pytest.mark.parametrize("name", ["tf32", "bf16", "fp16"])
def test_rounded_operands(
    groups_of: Any, monkeypatch: pytest.MonkeyPatch, name: Any, spec: mf.FieldSpec, batch: int
) -> None:
    """What blocks read of each other is rounded as what a block keeps; the parameters are not."""
    case = fit_cases.make(spec, 2, batch)
    rule = FitRule(Schedule(1e-3), precision=name, trust=case.trust(), frozen_layers=1)
    assert groups_of(spec, batch, 2, 8, precision=name).blocks > 1
    options = {"draws": Draws("uniform", batch), "rule": rule, "watch": WATCH}
    check_bits(monkeypatch, ORDERS[:2], lambda: points.fit(case, 3, **options))


@pytest.mark.parametrize("name", ["fp32", "tf32"])
@pytest.mark.parametrize("samples", [13, 130])
def test_rays(groups_of: Any, monkeypatch: pytest.MonkeyPatch, samples: int, name: Any) -> None:
    """Whole rays in every share: several in a tile, or one in several tiles; some miss the box."""
    block = (227 if samples == 13 else 30) << 10  # with 30 KiB tiles have 32 points
    monkeypatch.setenv("MCLNF_EMULATION_SHARED", str(block))
    case = rays.make(rays.VIEWS, modules=2, samples_per_ray=samples, weighted=True)
    if samples == 130:  # fewer
        offsets = torch.tensor([0, 40, 90])
        case.rays = case.rays._replace(offsets=offsets, **{n: getattr(case.rays, n)[:90] for n in PER_RAY})
    case.rays.origins[:20] = 5.0  # and a share whose rays all miss
    rule = FitRule(Schedule(1e-3), "sgd", precision=name)
    options = {"draws": Draws("whole"), "rule": rule, "watch": WATCH}
    plan = groups_of(rays.VIEWS, int(case.rays.offsets[-1]), 2, 8, bins=samples, block=block, precision=name)
    assert plan.samples == (19 if samples == 13 else 4)
    assert plan.blocks > 1
    _, log = check_bits(monkeypatch, ORDERS[1:2], lambda: rays.run(case, 3, **options))
    _, known = rays.run(case, 3, "reference", **options)
    torch.testing.assert_close(log.losses, known.losses, rtol=1e-4, atol=0)
    torch.testing.assert_close(log.checked, known.checked, rtol=1e-4, atol=0)


def test_how_modules_end(monkeypatch: pytest.MonkeyPatch, groups_of: Any) -> None:
    """All blocks of a module take the same decision: at a target, at a number that is none in the share of one block,
    at a step that leaves no finite numbers, before the first step; and the next module begins as if alone."""
    case = fit_cases.make(MANY, 5, 1000, shared=False)
    start = case.data.offsets.tolist()
    case.data.target[start[1] + 517] = torch.nan
    case.params[3][2] = 1e38  # biases of the outputs: their errors overflow
    fits = {"draws": Draws("whole"), "rule": FitRule(Schedule(1e-2))}
    assert groups_of(MANY, start[-1], 5, 8).blocks > 1
    on(monkeypatch, 1)
    _, log = points.fit(case, 6, **fits, watch=Watch((1, 2, 6), stop_loss=0.0, check_every=1))
    target = torch.zeros(5, dtype=torch.float64)
    target[3] = 2 * log.checked[3]  # that comes down to it in between
    fits["watch"] = Watch((1, 2, 6), (1, 4), stop_loss=target, check_every=1)
    steps = torch.tensor([6, 6, 6, 6, 0])
    state, log = check_bits(monkeypatch, ("forward", *ORDERS), lambda: points.fit(case, steps, **fits), 8)
    assert log.ends.tolist()[:3] == [FitEnd.STEPS, FitEnd.DIVERGED, FitEnd.DIVERGED]
    assert log.ends.tolist()[4] == FitEnd.FROZEN
    assert state.steps.tolist()[1:3] == [0, 0]
    for a, b in zip(state.params, case.params, strict=True):
        assert torch.equal(a[1:3], b[1:3])


def test_a_step_that_is_not_taken_leaves_the_state_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of modules that diverge in the third step of a call, when both places of the state have been written."""
    case = fit_cases.make(MANY, 2, 1000)
    rule = FitRule(Schedule(1e30, sgd_steps=2, sgd_lr=1e-2), trust=case.trust())
    state, log = check_bits(
        monkeypatch, ORDERS, lambda: points.fit(case, 6, draws=Draws("even", 900), rule=rule, watch=Watch((1, 2, 3, 4)))
    )
    assert log.modules(FitEnd.DIVERGED) == [0, 1]
    assert 2 <= int(state.steps.min()) < 6
    for name, value in state.tensors().items():
        assert bool(value.isfinite().all()), name


@pytest.mark.parametrize("draws", [Draws("even", 900), Draws("whole")], ids=["even", "whole"])
def test_any_cut_into_calls(monkeypatch: pytest.MonkeyPatch, draws: Draws) -> None:
    """Odd and even numbers of steps, on other devices."""
    case = fit_cases.make(MANY, 2, 1000)
    rule = FitRule(test_bank_fit.SCHEDULES["warm"], trust=case.trust())
    on(monkeypatch, 8)
    whole, _ = points.fit(case, 8, draws=draws, rule=rule)
    cut = case.state()
    for steps, processors in ((1, 8), (2, 1), (torch.tensor([1, 4]), 3), (torch.tensor([4, 1]), 16)):
        on(monkeypatch, processors)
        mf.ops.bank_fit(cut, case.data, MANY, steps, backend="cpu", draws=draws, rule=rule)
    assert_same(cut, whole)


@pytest.mark.parametrize(
    ("spec", "batch", "bins", "shares", "samples"),
    [
        (MANY, 32, 0, 1, 32),
        (MANY, 33, 0, 2, 32),
        (MANY, 4096, 0, 128, 32),  # a tile each
        (MANY, 4097, 0, 65, 64),  # two
        (MANY, 1 << 20, 0, 128, 8192),
        (CITY, 512, 16, 128, 4),  # tiles of 32 points: two rays
        (CITY, 3, 100, 1, 4),  # rays of several tiles
        (CITY, 512, 100, 128, 4),
        (CITY, 4096, 100, 128, 32),
    ],
)
def test_shares_of_a_step(groups_of: Any, spec: mf.FieldSpec, batch: int, bins: int, shares: int, samples: int) -> None:
    """Whatever the modules and the device."""
    for modules in (1, 3, 200):
        for processors in (1, 16, 132):
            plan = groups_of(spec, batch, modules, processors, bins=bins)
            assert (plan.shares, plan.samples) == (shares, samples)
            assert plan.blocks <= min(shares, 2 * processors)
            assert plan.blocks == 1 or plan.groups * plan.blocks <= 2 * processors
            assert plan.groups * plan.bytes <= 1 << 30


def test_how_many_blocks(groups_of: Any) -> None:
    """As many as there are for a module that is alone; one if there are modules enough, or too little to do."""
    city = [groups_of(CITY, 512, modules, 132, bins=16).blocks for modules in (1, 2, 8, 100, 132, 1000)]
    assert city == sorted(city, reverse=True)
    assert city[0] == 128
    assert city[4:] == [1, 1]
    assert groups_of(CITY, 512, 1, 1, bins=16).blocks == 1
    assert groups_of(MANY, 64, 1, 132).blocks == 1
    few = groups_of(CITY, 512, 20, 132, bins=16)  # in equal turns
    assert -(-few.shares // few.blocks) < -(-few.shares // (few.blocks - 1))
    large = mf.FieldSpec(3, 4, width=512, hidden_layers=9)  # whose gradients are more than there is memory for
    assert groups_of(large, 1 << 16, 1, 132).blocks == 1


SIREN = mf.FieldSpec(2, 3, width=64, hidden_layers=3, activation="sine")


@pytest.mark.parametrize(
    ("name", "spec", "batch", "bins"),
    [
        ("512 rays of 16 points, width 64", CITY, 512, 16),
        ("512 rays of 16 points, width 128", dataclasses.replace(CITY, width=128), 512, 16),
        ("1024 rays of 128 points, width 64", CITY, 1024, 128),
        ("16384 points, width 64", SIREN, 16384, 0),
        ("256 points, width 64", SIREN, 256, 0),
    ],
)
def test_the_table_of_blocks(groups_of: Any, name: str, spec: mf.FieldSpec, batch: int, bins: int) -> None:
    """That of docs/gpu.md is what the code decides."""
    plans = [groups_of(spec, batch, modules, 132, bins=bins) for modules in (1, 4, 16, 64, 132)]
    unit = "rays" if bins else "points"
    blocks = ", ".join(str(plan.blocks) for plan in plans)
    row = f"| {name} | {plans[0].shares} of {plans[0].samples} {unit} | {blocks} |"
    text = (pathlib.Path(__file__).parents[2] / "docs" / "gpu.md").read_text(encoding="utf-8")
    assert row in text, row
