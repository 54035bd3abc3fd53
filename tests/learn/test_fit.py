"""Fits of many signals: any cut into chunks, calls and processes gives the same bits, and what is wrong is named."""

from __future__ import annotations

import errno
import math
import pathlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.fields import load_bank, save_bank
from mclnf_fast.learn.fit import FitOptions, FitProgress, Samples, Skipped, TensorSource
from mclnf_fast.learn.fit import store as stores
from mclnf_fast.learn.fit.options import usual_rate
from mclnf_fast.learn.sampling.even import curve_order
from mclnf_fast.ops.bank_fit import Draws, FitData, FitEnd, FitRule, FitState, Schedule, bank_fit

SPEC = mf.FieldSpec(2, 1, width=8, hidden_layers=2, activation="sine(10)")
STEPS = 40


def signals(modules: int = 5, samples: int = 90) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = 2 * torch.rand(samples, 2, generator=generator) - 1
    return x, torch.stack([0.5 + 0.5 * torch.sin((k + 1) * x.sum(1, keepdim=True)) for k in range(modules)])


def fit(x: Any, y: Any = None, **options: Any) -> tuple[mf.FieldBank, Any]:
    return mf.fit(SPEC, x, y, **{"steps": STEPS, "batch": 32, **options})


def assert_same(a: mf.FieldBank, b: mf.FieldBank) -> None:
    assert len(a) == len(b)
    assert all(torch.equal(p, q) for p, q in zip(a.stacked, b.stacked, strict=True))


class Stop:
    """Interrupts a fit at a call of its progress."""

    def __init__(self, call: int) -> None:
        self.left = call

    def __call__(self, progress: FitProgress) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_the_steps_are_those_of_bank_fit() -> None:
    x, y = signals()
    bank, summary = fit(x, y, seed=3)
    start = mf.FieldBank(SPEC, 5, generator=torch.Generator().manual_seed(3))
    state = FitState.begin(start.stacked)
    draws = Draws("even", 32, seed=3)
    rule = FitRule(Schedule(2e-3, "cosine", lr_end=2e-5, steps=STEPS))
    order = curve_order(x)
    bank_fit(state, FitData(x[order], y[:, order]), SPEC, STEPS, draws=draws, rule=rule)
    assert_same(bank, start)
    assert all(torch.equal(a, b) for a, b in zip(bank.shared, mf.FieldBank(SPEC, init=bank.shared).shared, strict=True))
    errors = (bank(x.expand(5, -1, -1)) - y).square().mean((1, 2))
    torch.testing.assert_close(summary.psnr, -10 * errors.detach().double().log10(), rtol=1e-4, atol=1e-3)
    assert summary.steps.tolist() == [STEPS] * 5
    assert summary.losses_at == (1, 2, 4, 8, 16, 32, 40)
    assert bool((summary.losses[-1] < summary.losses[0]).all())
    assert summary.modules(FitEnd.STEPS) == [0, 1, 2, 3, 4]
    assert not summary.notes


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_any_chunks_and_any_form_of_the_data(chunk: int) -> None:
    x, y = signals()
    expected, known = fit(x, y)
    pairs = [(x, values) for values in y]
    forms: list[tuple[Any, Any]] = [
        (x, y),
        (x.expand(5, -1, -1), y),
        ([x.clone() for _ in range(5)], list(y)),
        (iter(pairs), None),
        (x, iter(y)),
        ((Samples(x, values, str(k)) for k, values in enumerate(y)), None),
    ]
    for form in forms:
        bank, summary = fit(*form, chunk=chunk)
        assert_same(bank, expected)
        assert torch.equal(summary.losses, known.losses)
        torch.testing.assert_close(summary.psnr, known.psnr, rtol=1e-4, atol=1e-4)
    assert summary.names == ["0", "1", "2", "3", "4"]


def test_modules_of_different_sizes_are_as_they_are_alone() -> None:
    x, y = signals()
    sizes = [90, 20, 31, 33, 32]  # with fewer than a batch, as many, and more
    xs, ys = [x[:n] for n in sizes], [values[:n] for values, n in zip(y, sizes)]
    bank, summary = fit(xs, ys)
    assert summary.notes == ["modules with fewer than 32 samples took all of them in every step"]
    one = torch.arange(5)
    for m, n in enumerate(sizes):
        state = FitState.begin(mf.FieldBank(SPEC, 1, generator=torch.Generator().manual_seed(0)).stacked)
        draws = Draws("even" if n > 32 else "whole", 32, modules=one[m : m + 1])
        rule = FitOptions().rule_for(SPEC, STEPS)
        order = curve_order(xs[m]) if n > 32 else slice(None)
        bank_fit(state, FitData(xs[m][order], ys[m][order][None]), SPEC, STEPS, draws=draws, rule=rule)
        assert all(torch.equal(p[m], q[0]) for p, q in zip(bank.stacked, state.params, strict=True))


def test_one_signal_and_all_of_its_samples() -> None:
    x, y = signals(1)
    bank, summary = fit(x, y[0], draws="whole")
    assert len(bank) == 1
    assert not summary.notes  # whole batches were asked for


def test_fp64() -> None:
    x, y = signals(2)
    bank, _ = fit(x.double(), y.double())
    assert bank.weight[0].dtype == torch.float64


def test_modules_stop_at_a_psnr() -> None:
    x, y = signals()
    y[2] = 0.5
    _, summary = fit(x, y, steps=400, target_psnr=33.0, check_every=5, chunk=3)
    assert 2 in summary.modules(FitEnd.TARGET)
    assert int(summary.steps[2]) < 400
    assert int(summary.steps[2]) % 5 == 0
    reached = summary.psnr[summary.modules(FitEnd.TARGET)]
    assert bool((reached >= 33.0 - 1e-3).all())
    late = summary.losses[-1]
    assert math.isnan(late[2])


def test_faulty_modules_are_named_and_stop_no_other() -> None:
    x, y = signals()
    expected, _ = fit(x, y)
    y = y.clone()
    y[1, 7], y[3, 0] = math.nan, math.inf
    bank, summary = fit(x, y)
    assert sorted(summary.faults) == [1, 3]
    assert "its samples are not all finite" in summary.faults[1]
    assert summary.modules(FitEnd.DIVERGED) == [1, 3]
    assert math.isnan(summary.psnr[1])
    assert "2 faulty" in str(summary)
    for p, q, s in zip(bank.stacked, expected.stacked, bank.shared, strict=True):
        assert torch.equal(p[[0, 2, 4]], q[[0, 2, 4]])
        assert torch.equal(p[1], s[0])


def test_a_rate_that_diverges_is_named_by_module() -> None:
    x, y = signals(3)
    y = y.clone()
    y[1] = 1e18
    rule = FitRule(Schedule(1e25), "sgd")
    relu = mf.FieldSpec(2, 1, width=8, hidden_layers=1)
    bank, summary = mf.fit(relu, x, y, steps=STEPS, batch=32, rule=rule)
    assert 1 in summary.faults
    assert "diverged after" in summary.faults[1]
    assert "smaller lr" in summary.faults[1]
    assert all(bool(p.isfinite().all()) for p in bank.stacked)


@pytest.mark.parametrize("call", [1, 3, 5, 7])
def test_resumed_to_the_same_bits(tmp_path: pathlib.Path, call: int) -> None:
    x, y = signals()
    expected, known = fit(x, y, chunk=2)
    file = tmp_path / "bank"
    with pytest.raises(KeyboardInterrupt):
        fit(x, y, chunk=2, file=file, progress=Stop(call))
    assert not file.exists()
    assert (tmp_path / "bank.parts").is_dir()
    bank, summary = fit(x, y, chunk=3, file=file, resume=True)
    assert_same(bank, expected)
    assert summary.steps.tolist() == [STEPS] * 5
    torch.testing.assert_close(summary.psnr, known.psnr)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bank", "bank.json"]
    again, summary = fit(x, y, chunk=3, file=file, resume=True)
    assert_same(again, expected)


def test_a_stream_is_read_as_it_is_needed_and_goes_on_where_it_was(tmp_path: pathlib.Path) -> None:
    x, y = signals(6)
    read: list[int] = []

    def stream() -> Iterator[tuple[Tensor, Tensor]]:
        for k in range(6):
            read.append(k)
            yield x, y[k]

    seen: list[FitProgress] = []

    def show(progress: FitProgress) -> None:
        seen.append(progress)
        assert len(read) <= 2 + 2 * int(progress.done / 2 + 1e-9), "read before it is needed"

    expected, _ = fit(x, y)
    bank, _ = fit(stream(), chunk=2, progress=show)
    assert_same(bank, expected)
    assert seen[-1].done == 6
    assert seen[-1].total is None
    assert [p.done for p in seen] == sorted(p.done for p in seen)
    file = tmp_path / "bank"
    with pytest.raises(RuntimeError, match="the disk of the stream"):
        fit(_broken(x, y), chunk=2, file=file)
    bank, _ = fit(stream(), chunk=2, file=file, resume=True)
    assert_same(bank, expected)


def _broken(x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    yield from ((x, values) for values in y[:5])
    raise RuntimeError("the disk of the stream")


def test_memory_decides_the_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = signals()
    expected, _ = fit(x, y)
    from mclnf_fast.learn.fit import run

    monkeypatch.setattr(run, "CHUNK_BYTES", 2 * y[0].nbytes + x.nbytes)
    seen: list[float] = []
    bank, _ = fit(iter([(x, values) for values in y]), progress=lambda p: seen.append(p.done))
    assert_same(bank, expected)
    assert {2.0, 4.0, 5.0} <= set(seen)


class WithHoles:
    """A source of which every second signal cannot be read."""

    total: int | None = 6
    about: dict[str, object] = {"kind": "holes"}  # noqa: RUF012

    def __init__(self) -> None:
        self.x, self.y = signals(6)

    def read(self, begin: int) -> Iterator[Samples | Skipped]:
        for k in range(begin, 6):
            yield Skipped(f"{k}", "it is corrupt") if k % 2 else Samples(self.x, self.y[k], f"{k}")


def test_signals_that_cannot_be_read_get_no_module(tmp_path: pathlib.Path) -> None:
    expected, known = fit(WithHoles())
    assert known.names == ["0", "2", "4"]
    assert [skipped.name for skipped in known.skipped] == ["1", "3", "5"]
    file = tmp_path / "bank"
    with pytest.raises(KeyboardInterrupt):
        fit(WithHoles(), chunk=1, file=file, progress=Stop(5))
    bank, summary = fit(WithHoles(), chunk=1, file=file, resume=True)
    assert_same(bank, expected)
    assert summary.names == known.names
    assert summary.skipped == known.skipped


def test_a_full_disk_leaves_what_is_written_usable(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = signals()
    expected, _ = fit(x, y)
    write, written = stores.save_tensors, []

    def full(path: pathlib.Path, *rest: Any) -> None:
        if len(written) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        write(path, *rest)

    monkeypatch.setattr(stores, "save_tensors", full)
    file = tmp_path / "bank"
    with pytest.raises(OSError, match=r"4 finished fields stay in .*parts, each file a bank of its own") as error:
        fit(x, y, chunk=2, file=file)
    assert error.value.errno == errno.ENOSPC
    part = load_bank(written[1])
    assert all(torch.equal(p, q[2:4]) for p, q in zip(part.stacked, expected.stacked, strict=True))
    monkeypatch.setattr(stores, "save_tensors", write)
    bank, _ = fit(x, y, chunk=2, file=file, resume=True)
    assert_same(bank, expected)


def test_what_a_killed_process_left_is_removed(tmp_path: pathlib.Path) -> None:
    x, y = signals()
    file = tmp_path / "bank"
    with pytest.raises(KeyboardInterrupt):
        fit(x, y, chunk=2, file=file, progress=Stop(1))
    for left in (tmp_path / ".bank.1.tmp", tmp_path / "bank.parts" / ".state.safetensors.1.tmp"):
        left.write_bytes(b"half")
    other = tmp_path / ".other.1.tmp"
    other.write_bytes(b"of another file")
    fit(x, y, file=file, resume=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".other.1.tmp", "bank", "bank.json"]


def test_starts(tmp_path: pathlib.Path) -> None:
    x, y = signals()
    learned, _ = fit(x, y, steps=7)
    initial = mf.FieldBank(SPEC, 1, generator=torch.Generator().manual_seed(8))
    expected, _ = fit(x, y, seed=8)
    save_bank(tmp_path / "start", initial)
    empty = mf.FieldBank(SPEC, 0, init=initial.shared)
    for start in (initial, empty, initial.shared, list(initial.stacked), tmp_path / "start", str(tmp_path / "start")):
        before = [p.clone() for p in initial.stacked]
        bank, _ = mf.fit(None if isinstance(start, mf.FieldBank) else SPEC, x, y, STEPS, start, batch=32, seed=8)
        assert_same(bank, expected)
        assert all(torch.equal(p, q) for p, q in zip(before, initial.stacked, strict=True))
    several, _ = fit(x, y, start=learned, chunk=2)
    again, _ = fit(x, y, start=learned.stacked)
    assert_same(several, again)
    assert not torch.equal(several.weight[0], expected.weight[0])


OTHER = mf.FieldSpec(2, 1, width=9, hidden_layers=2, activation="sine(10)")


@pytest.mark.parametrize(
    ("error", "match", "options"),
    [
        (ValueError, "steps must be at least 1, got 0", {"steps": 0}),
        (TypeError, "steps must be an int", {"steps": 1.5}),
        (ValueError, r"x\[1\] must have at least one sample, got none", {"x": [torch.zeros(3, 2), torch.zeros(0, 2)],
                                                                       "y": [torch.zeros(3, 1), torch.zeros(0, 1)]}),
        (ValueError, "x of signal 1 must have at least one sample", {"x": iter([(torch.zeros(3, 2), torch.zeros(3, 1)),
                                                                     (torch.zeros(0, 2), torch.zeros(0, 1))])}),
        (ValueError, "y must hold at least one signal", {"y": []}),
        (mf.InputError, "x must have at least one usable signal", {"x": iter([])}),
        (ValueError, r"y\[0\] must have shape", {"y": torch.zeros(2, 89, 1)}),
        (TypeError, r"y\[0\] must have dtype", {"y": torch.zeros(2, 90, 1, dtype=torch.uint8)}),
        (TypeError, "y must be given beside x", {"y": None}),
        (TypeError, "the signals must be Samples or pairs", {"x": iter([3])}),
        (mf.InputError, "start must be a bank of .*width=8.* got one of .*width=9", {"start": mf.FieldBank(OTHER)}),
        (mf.InputError, "start must hold the parameters", {"start": mf.FieldBank(OTHER).shared}),
        (mf.InputError, "start must have one module, or 2 for as many signals, got 3",
         {"start": mf.FieldBank(SPEC, 3)}),
        (TypeError, "start must be a FieldBank", {"start": 3}),
        (mf.InputError, "start: nowhere must be", {"start": "nowhere"}),
        (TypeError, "spec must be a FieldSpec", {"spec": None}),
        (ValueError, "target_psnr", {"target_psnr": math.nan}),
        (ValueError, "batch must be at least 1", {"batch": 0}),
        (ValueError, "lr must be above 0", {"lr": 0.0}),
        (ValueError, "draws must be", {"draws": "odd"}),
        (TypeError, "bach must be one of", {"bach": 3}),
        (ValueError, "resume must stand beside file", {"resume": True}),
        (ValueError, "trust region", {"rule": FitRule(trust=(1.0, [], []))}),
    ],
)  # fmt: skip
def test_refuses(error: type[Exception], match: str, options: dict[str, Any]) -> None:
    x, y = signals(2)
    call = {"spec": SPEC, "x": x, "y": None if isinstance(options.get("x"), Iterator) else y, "steps": 2, **options}
    with pytest.raises(error, match=match):
        mf.fit(**call)


def test_files_that_are_there_or_of_another_fit(tmp_path: pathlib.Path) -> None:
    x, y = signals()
    file = tmp_path / "bank"
    with pytest.raises(KeyboardInterrupt):
        fit(x, y, chunk=2, file=file, progress=Stop(3))
    with pytest.raises(mf.InputError, match="holds a fit that was stopped; resume continues it"):
        fit(x, y, file=file)
    with pytest.raises(mf.InputError, match="must have been fitted with steps 41, got 40"):
        fit(x, y, file=file, resume=True, steps=41)
    with pytest.raises(mf.InputError, match="must have been fitted with start"):
        fit(x, y, file=file, resume=True, start=mf.FieldBank(SPEC, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(mf.InputError, match=r"samples of modules 0 \.\.\. 1 must be those"):
        fit(x, y + 1, file=file, resume=True)
    fit(x, y, file=file, resume=True)
    with pytest.raises(mf.InputError, match="must be new, but is there already"):
        fit(x, y, file=file)
    save_bank(file, mf.FieldBank(SPEC, 5))
    with pytest.raises(mf.InputError, match="must hold a fit"):
        fit(x, y, file=file, resume=True)


def test_a_fit_of_another_precision_is_another_fit() -> None:
    plain, bf16 = (
        FitOptions(rule=FitRule(Schedule(1e-3), precision=p)).described(SPEC, 40, None) for p in ("fp32", "bf16")
    )
    assert plain["rule"] != bf16["rule"]
    assert "precision" not in plain["rule"]  # files of former versions have none


def test_a_corrupt_state_is_named(tmp_path: pathlib.Path) -> None:
    x, y = signals()
    with pytest.raises(KeyboardInterrupt):
        fit(x, y, file=tmp_path / "bank", progress=Stop(1))
    state = tmp_path / "bank.parts" / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-3] ^= 1
    state.write_bytes(content)
    with pytest.raises(mf.InputError, match="must match its checksum"):
        fit(x, y, file=tmp_path / "bank", resume=True)


def test_the_joined_file_has_what_came_of_each_module(tmp_path: pathlib.Path) -> None:
    x, y = signals()
    named = (Samples(x, values, f"class{k % 2}/{k}", {"size": [90]}) for k, values in enumerate(y))
    _, summary = fit(named, chunk=2, file=tmp_path / "bank")
    fields = mf.FieldDataset(tmp_path / "bank")
    assert fields.names == summary.names
    assert fields.classes == ["class0", "class1"]
    assert fields.about(3)["psnr"] == pytest.approx(float(summary.psnr[3]))
    assert fields.meta["about"] == [{"size": [90]}] * 5
    assert fields.meta["fit"]["summary"]["steps"] == [STEPS] * 5


def test_a_source_is_a_source() -> None:
    x, y = signals(2)
    expected, _ = fit(x, y)
    bank, _ = fit(TensorSource(SPEC, x, y))
    assert_same(bank, expected)


def test_the_order_of_the_samples_is_no_matter() -> None:
    x, y = signals(2)
    expected, _ = fit(x, y)
    mixed = torch.randperm(len(x), generator=torch.Generator().manual_seed(2))
    assert_same(fit(x[mixed], y[:, mixed])[0], expected)


def test_the_usual_rate_of_a_siren_falls_with_width_depth_and_frequency() -> None:
    usual = usual_rate(mf.FieldSpec(2, 3, 64, 3, activation="sine"))
    for changes in ({"width": 128}, {"hidden_layers": 5}, {"w0": 60.0}):
        assert (
            usual_rate(mf.FieldSpec(2, 3, **{"width": 64, "hidden_layers": 3, "activation": "sine", **changes})) < usual
        )
    for spec in (SPEC, mf.FieldSpec(2, 3, 256), mf.FieldSpec(2, 3, 8, 0, activation="sine")):
        assert usual_rate(spec) == 2e-3
