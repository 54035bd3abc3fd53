"""What is told how a run goes on: the bar, callbacks of Python callers, writers for other tools."""

from __future__ import annotations

import functools
import io
import itertools
import pathlib
import sys
import types
from typing import Any

import pytest
import torch
import yaml

from mclnf_fast.cli import main
from mclnf_fast.report.record import SignalRecord
from mclnf_fast.systems import Callback, Watched, calling
from mclnf_fast.systems.common import progress as progress_module
from mclnf_fast.systems.common.config_file import with_options
from mclnf_fast.systems.common.progress import progress
from mclnf_fast.systems.signals.job import run_signals
from mclnf_fast.systems.signals.options import quick_config

TINY = {"limit": 4, "size": 16, "width": 8, "steps": 4, "methods": ("mod", "mim"), "meta.steps": 3, "threads": 1}
WORDS = [
    "run", "image", "--quick", "--limit", "4", "--size", "16", "--width", "8", "--steps", "4", "--methods", "mod",
    "--meta.steps", "3", "--threads", "1",
]  # fmt: skip
LABELS = [
    "seed 0: initialization modules",
    "seed 0: mod (1 of 2 methods)",
    "seed 0: mim (2 of 2 methods)",
]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)


class Noted(Callback):
    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.steps: list[Watched] = []
        self.readings: list[dict[str, float]] = []

    def begin(self, config, folder) -> None:
        self.calls.append(("begin", config.kind, folder))

    def step(self, watched: Watched) -> None:
        self.steps.append(watched)
        self.readings.append(dict(watched.reading()))

    def end(self, record) -> None:
        self.calls.append(("end", record))


def test_callbacks_of_python_callers(tmp_path):
    noted = Noted()
    with calling(noted):
        folder = run_signals(with_options(quick_config("image"), {**TINY, "out": tmp_path / "run"}))
    (begin, end) = noted.calls
    assert begin == ("begin", "image", folder)
    assert isinstance(end[1], SignalRecord)
    assert list(dict.fromkeys(w.label for w in noted.steps)) == LABELS
    for label in LABELS:
        calls = [w for w in noted.steps if w.label == label]
        # A call may make several steps: how many depends on how long they take.
        assert [w.step for w in calls] == list(itertools.accumulate(w.new for w in calls))
        assert {w.total for w in calls} == {calls[-1].step}
    assert all(0 < reading["loss"] < 10 for w, reading in zip(noted.steps, noted.readings) if "mod" in w.label)
    run_signals(with_options(quick_config("image"), {**TINY, "out": tmp_path / "other"}))
    assert len(noted.calls) == 2  # outside of the block it is not called


def test_a_run_with_callbacks_has_the_same_result(tmp_path):
    from mclnf_fast.fields import load_bank

    for name, callbacks in (("without", ()), ("with", (Noted(),))):
        with calling(*callbacks):
            run_signals(with_options(quick_config("image"), {**TINY, "out": tmp_path / name}))
    banks = [load_bank(tmp_path / name / "bank.safetensors").state_dict() for name in ("without", "with")]
    assert all(torch.equal(tensor, banks[1][key]) for key, tensor in banks[0].items())


def test_a_run_that_is_stopped_ends_its_callbacks(tmp_path):
    class Stop(Noted):
        def step(self, watched: Watched) -> None:
            raise KeyboardInterrupt

    stop, noted = Stop(), Noted()
    config = with_options(quick_config("image"), {**TINY, "out": tmp_path / "run"})
    with pytest.raises(KeyboardInterrupt), calling(noted, stop):
        run_signals(config)
    assert noted.calls[-1] == stop.calls[-1] == ("end", None)
    again = Noted()
    with calling(again):
        run_signals(with_options(config, {"out": None, "resume": str(tmp_path / "run")}))
    assert again.calls[-1][1] is not None


def test_fine_tuning_is_told_too(tmp_path):
    from mclnf_fast.systems.ct.job import run_ct
    from mclnf_fast.systems.ct.options import CtConfig
    from mclnf_fast.systems.starts.options import preset_config

    noted = Noted()
    values = {
        "count": 6, "test": 1, "size": 16, "width": 8, "frequencies": 4, "steps": 3, "meta.steps": 2, "rates": (1.0,),
        "initializations": ("standard", "meta"), "out": tmp_path / "run", "threads": 1,
    }  # fmt: skip
    with calling(noted):
        run_ct(with_options(preset_config(CtConfig, quick=True), values))
    tuned = [(w, r) for w, r in zip(noted.steps, noted.readings) if w.label in ("standard", "meta")]
    assert [w.step for w, _ in tuned] == [1, 2, 3, 1, 2, 3]
    assert all(r["loss"] > 0 and 0 < r["psnr"] < 60 for _, r in tuned)


def test_the_figures_stand_in_the_bar_and_in_the_lines(capsys, monkeypatch):
    now = 0.0
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    asked = []

    def reading() -> dict[str, float]:
        asked.append(now)
        return {"loss": 0.012345, "psnr": 21.34}

    with progress("learning", 100) as bar:
        for _ in range(100):
            now += 1.0
            bar(1, reading)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "learning: 10 of 100, 10 %, loss 0.012, 21.3 dB, 90 s left"
    assert len(asked) == len(lines)  # a GPU is waited for only when a line is printed
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress_module, "tqdm", functools.partial(progress_module.tqdm, mininterval=0, miniters=1))
    asked.clear()
    with progress("learning", 100) as bar:
        for _ in range(100):
            now += 0.01
            bar(1, reading)
    assert "loss 0.012, 21.3 dB" in terminal.getvalue()
    assert 1 <= len(asked) <= 3


def test_bars_of_runs_show_losses(tmp_path, monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(progress_module, "LOOK", 0.0)
    monkeypatch.setattr(progress_module, "tqdm", functools.partial(progress_module.tqdm, mininterval=0, miniters=1))
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main([*WORDS, "--out", "run"]) == 0, terminal.getvalue()
    shown = terminal.getvalue()
    for label in ("seed 0: initialization modules", "seed 0: mod"):
        assert any(label in line and "loss " in line for line in shown.split("\r")), label


class FakeSummaryWriter:
    made: list[FakeSummaryWriter]

    def __init__(self, folder: str, flush_secs: int = 120) -> None:
        self.folder, self.scalars, self.closed = folder, [], False
        self.made.append(self)

    def add_text(self, tag: str, text: str) -> None:
        self.text = text

    def add_scalar(self, tag: str, value: float, step: int) -> None:
        self.scalars.append((tag, value, step))

    def close(self) -> None:
        self.closed = True


class FakeWandb(types.ModuleType):
    def __init__(self) -> None:
        super().__init__("wandb")
        self.options: dict[str, Any] = {}
        self.rows: list[dict[str, float]] = []
        self.code: int | None = None

    def init(self, **options: Any) -> FakeWandb:
        self.options = options
        return self

    def log(self, row: dict[str, float]) -> None:
        self.rows.append(row)

    def finish(self, exit_code: int) -> None:
        self.code = exit_code


def test_writers(tmp_path, monkeypatch):
    module, wandb = types.ModuleType("torch.utils.tensorboard"), FakeWandb()
    module.SummaryWriter = FakeSummaryWriter  # type: ignore[attr-defined]
    FakeSummaryWriter.made = []
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    assert main([*WORDS, "--out", "run", "--writers", "tensorboard", "wandb"]) == 0
    (writer,) = FakeSummaryWriter.made
    assert writer.folder == str(pathlib.Path("run/tensorboard"))
    assert writer.closed
    assert '"steps": 4' in writer.text
    assert [step for tag, _, step in writer.scalars if tag == "seed 0: initialization modules/loss"] == [1, 2, 3]
    assert wandb.options["name"] == "run"
    assert wandb.options["config"]["steps"] == 4
    assert wandb.code == 0
    figures = {f"seed 0: mod (1 of 1 methods)/{name}" for name in ("loss", "step")}
    assert figures <= {key for row in wandb.rows for key in row}
    assert yaml.safe_load(pathlib.Path("run/config.yaml").read_text())["run"]["writers"] == ["tensorboard", "wandb"]


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_a_missing_package_is_one_line_that_names_the_extra(capsys, monkeypatch, name):
    for module in ("torch.utils.tensorboard", "wandb"):
        monkeypatch.setitem(sys.modules, module, None)
    assert main([*WORDS, "--out", "run", "--writers", name]) == 2
    error = capsys.readouterr().err
    assert error == f"mclnf-fast: writers: {name} needs the package {name}: pip install {name}\n"
    assert not pathlib.Path("run").exists()


def test_real_event_files(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main([*WORDS, "--out", "run", "--writers", "tensorboard"]) == 0
    found = events.EventAccumulator("run/tensorboard")
    found.Reload()
    assert len(found.Scalars("seed 0: initialization modules/loss")) == 3
