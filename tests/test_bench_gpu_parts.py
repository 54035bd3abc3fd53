"""The parts of `python -m benchmarks.gpu`: traces, the host's share of a call, tiers of tests, its clock and files."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import sys
from typing import Any

import pytest
import torch

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks import cases, device, machine, runner, table  # noqa: E402
from benchmarks.contender import Contender  # noqa: E402
from benchmarks.gpu import command, context, figures, plugin, process, steps, suite, summary  # noqa: E402
from benchmarks.gpu.context import Outcome, Run  # noqa: E402
from benchmarks.gpu.process import Done  # noqa: E402
from benchmarks.gpu.programs import kernels, small, standin, trace  # noqa: E402


def event(name: str, cat: str, ts: float, dur: float, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "name": name, "cat": cat, "ts": ts, "dur": dur, "args": args}


EVENTS = [
    event("cudaDeviceSynchronize", "cuda_runtime", 50, 10),  # before the window
    event("measured", "user_annotation", 100, 100),
    event("cudaLaunchKernel", "cuda_runtime", 101, 2),
    event("cuLaunchKernelEx", "cuda_driver", 110, 2),
    event("cuLaunchKernelEx", "cuda_driver", 115, 2),
    event("cudaMemcpyAsync", "cuda_runtime", 120, 2),
    event("cudaStreamSynchronize", "cuda_runtime", 125, 40),
    event("aten::add", "cpu_op", 100, 20),
    event("fit_kernel", "kernel", 120, 40, **{"registers per thread": 168, "shared memory": 2048}),
    event("fit_kernel", "kernel", 150, 30, **{"registers per thread": 168, "shared memory": 2048}),  # both at once
    event("add", "kernel", 190, 10),
    event("Memcpy DtoH", "gpu_memcpy", 290, 10),
    event("cudaDeviceSynchronize", "cuda_runtime", 210, 10),  # after it
    {"ph": "i", "name": "a mark", "ts": 130},
]


def test_a_trace_is_read() -> None:
    seen = trace.read(EVENTS)
    assert (seen.launches, seen.copies, seen.waits) == (3, 1, 1)
    assert seen.seconds == pytest.approx(200e-6)  # to the end of the last work
    assert seen.busy == pytest.approx((60 + 10 + 10) / 200)
    fit = {"name": "fit_kernel", "count": 2, "us": 35.0, "registers": 168, "shared_bytes": 2048}
    assert seen.kernels == [fit, {"name": "add", "count": 1, "us": 10.0}]
    with pytest.raises(ValueError, match="window 'measured'"):
        trace.read(EVENTS[2:])


def test_a_run_on_the_cpu_has_no_launch() -> None:
    seen = trace.profiled(lambda: torch.ones(3) + 1, "cpu")
    assert (seen.launches, seen.waits, seen.busy, seen.kernels) == (0, 0, 0.0, [])
    assert seen.seconds > 0


@pytest.mark.parametrize(
    ("full", "name"),
    [
        ("void mclnf::(anonymous namespace)::fit_kernel<float, true>(mclnf::FitCall<float>)", "fit_kernel"),
        ("void mclnf::gather<mclnf::(anonymous namespace)::KeptBins>(KeptBins, long*)", "gather"),
        ("_forward_kernel", "_forward_kernel"),
    ],
)
def test_a_kernel_is_called_by_its_name(full: str, name: str) -> None:
    assert trace.short(full) == name
    assert kernels.stacks(f" Function {full}:\n  REG:255 STACK:48 SHARED:0") == {full: 48}


def test_every_kernel_that_is_timed_alone_is_a_case() -> None:
    found = {case.id for case in cases.load_suite("gpu").cases}
    assert set(kernels.CASES) <= found
    assert len(kernels.CASES) >= 12


def test_the_small_problems_differ_by_name() -> None:
    names = [small.label(op, shapes) for op, shapes in small.SHAPES]
    assert len(set(names)) == len(names)


class Device:
    """A queue: the host goes on while the device works off what it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.host = self.end = 0.0
        outer = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                self.at = 0.0

            def record(self) -> None:
                self.at = max(outer.end, outer.host)

            def query(self) -> bool:
                return outer.host >= self.at

            def elapsed_time(self, other: Event) -> float:
                return (other.at - self.at) * 1e3

        class Buffer:
            def zero_(self) -> None:
                outer.queue(1e-6, 1e-4)

        monkeypatch.setattr(torch.cuda, "Event", Event)
        monkeypatch.setattr(torch.cuda, "synchronize", self.wait)
        monkeypatch.setattr(device, "_flushed", Buffer)
        monkeypatch.setattr(device, "perf_counter", lambda: self.host)

    def queue(self, host: float, work: float) -> None:
        self.host += host
        self.end = max(self.end, self.host) + work

    def wait(self) -> None:
        self.host = max(self.host, self.end)


def test_a_call_alone_on_the_device_is_told_from_its_queueing(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Device(monkeypatch)

    def launches() -> None:
        for _ in range(10):  # 300 us to queue, more than one buffer takes to write; 20 us of work
            gpu.queue(3e-5, 2e-6)

    found = device.alone(Contender("a", launches), 3e-4)
    assert found["host_us"] == pytest.approx(300.0)
    assert found["device_seconds"]["median"] == pytest.approx(2e-5)
    assert len(found["device_seconds"]["samples"]) == device.ALONE_TIMES
    half = device.alone(Contender("a", launches, share=0.5), 3e-4)
    assert half["device_seconds"]["median"] == pytest.approx(4e-5)

    def waits() -> None:
        launches()
        gpu.wait()

    assert device.alone(Contender("a", waits), 3e-4)["device_seconds"] is None


def test_the_host_has_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"name": "ours", "host_us": 41.26, "device_seconds": {"median": 2.5e-4}},
        {"name": "loop", "host_us": 900.0, "device_seconds": None},
        {"name": "red"},
    ]
    lines = table.hosts([{"id": "forward", "contenders": rows}, {"id": "other", "contenders": rows[2:]}])
    assert [" ".join(line.split()) for line in lines] == ["forward ours 41.3 us (0.250 ms), loop 900 us (waits)"]


def test_a_red_case_keeps_its_raw_seconds_and_has_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    case = cases.Case("a", "forward", "cpu", {"modules": 2, "points": 64, "width": 16, "hidden": 1, "octaves": 2},
                      peers=("bmm",), limit=None)  # fmt: skip
    problem = runner.work.make(case)
    monkeypatch.setattr(runner.work, "make", lambda case: problem)
    problem.tolerance = {"": 0.0}
    result = runner.run_case(case, 0.0)
    assert result["status"] == "red"
    for row in result["contenders"]:
        assert "seconds" not in row
        assert len(row["seconds_in_a_red_case"]) >= 3
    assert "seconds_in_a_red_case" not in runner.run_case(dataclasses.replace(case, time=False), 0.0)["contenders"][0]


@pytest.mark.parametrize(("seconds", "rounds"), [(0.5, 3), (3.0, 1)])
def test_a_round_that_takes_long_is_made_once(seconds: float, rounds: int) -> None:
    ours = Contender("a", lambda: None)
    found = device.timing.in_turn([ours], 0.0, slot=lambda contender, times: seconds, long=device.LONG)
    assert len(found["a"].seconds) == rounds


def test_a_copy_without_git_has_the_commit_of_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.delenv("MCLNF_COMMIT", raising=False)
    assert machine.commit() == {"hash": None, "dirty": None}
    monkeypatch.setenv("MCLNF_COMMIT", "abc123")
    assert machine.commit() == {"hash": "abc123", "dirty": None}


TESTS = """
import pytest

@pytest.mark.gpu
@pytest.mark.parametrize("a", ["x", "y", "z"])
@pytest.mark.parametrize("b", range(4))
def test_pairs(a, b): pass

@pytest.mark.gpu
def test_plain(): pass
"""


def test_the_first_tier_has_every_value_and_the_rest_what_is_left(tmp_path: pathlib.Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    chosen = suite.Selection((str(tmp_path),), "gpu", first=True)
    first, output = suite.run(60, ROOT, tmp_path, chosen, 2)
    assert first.left == 0, output
    values = [name.partition("[")[2].rstrip("]").split("-") for name in first.passed if "[" in name]
    assert {pair[0] for pair in values} == {"0", "1", "2", "3"}
    assert {pair[1] for pair in values} == {"x", "y", "z"}
    assert 4 <= len(values) < 12
    assert any(name.endswith("::test_plain") for name in first.passed)
    (tmp_path / "again").mkdir()
    every = suite.Selection((str(tmp_path),), "gpu", frozenset(first.done))
    rest, _ = suite.run(60, ROOT, tmp_path / "again", every, 2)
    assert len(rest.passed) + len(first.passed) == 13
    assert not set(rest.passed) & set(first.passed)
    names = ["t.py::a[x-1]", "t.py::a[x-2]", "t.py::a[y-1]", "t.py::a[y-2]", "t.py::b"]
    assert plugin.first_tier(names) == [*names[:3], names[4]]


def test_the_log_stays_small_enough_to_be_carried(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, tmp_path, stem="gpu")
    for k in range(80):
        run.log(f"part {k}", f"begins {k} " + "x" * (1 << 20) + f" ends {k}")
    text = (tmp_path / "gpu.log").read_text()
    assert len(text) <= context.MOST_LOG < context.FILE_BYTES
    assert "begins 3 " in text
    assert "ends 3" in text
    assert "characters left out" in text
    nameless = Run(tmp_path, tmp_path)
    nameless.log("machine", "not known yet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.log"]


def test_rows_are_read_as_far_as_they_go() -> None:
    done = Done(-9, True, 9.0, 'noise\n{"name": "a", "ms": 1.0, "launches": 2}\n{"name": "b", "fai')
    outcome = figures.rows_of("kernels", done)
    assert (outcome.result, outcome.detail, len(outcome.data["rows"])) == ("cut", "time ran out after 1", 1)
    failed = figures.rows_of("kernels", Done(1, False, 9.0, '{"name": "a", "failed": "CUDA error"}\n'))
    assert (failed.result, failed.lines) == ("failed", ["a: CUDA error"])
    assert figures.rows_of("kernels", Done(1, False, 9.0, "Killed")).detail == "Killed"


def test_checks_of_all_shares_are_one_outcome() -> None:
    good, waiting = {"name": "march", "reason": None, "waits": 2}, {"name": "grid", "reason": None, "waits": 0}
    dones = [Done(0, False, 1.0, json.dumps(good)), Done(0, False, 1.0, json.dumps(waiting))]
    outcome = steps.verdict("small", dones)
    assert (outcome.result, outcome.lines) == ("ok", ["calls that wait for the device: march (2)"])
    wrong = Done(1, False, 1.0, json.dumps({"name": "fit", "reason": "error 0.1"}))
    outcome = steps.verdict("small", [*dones, wrong])
    assert (outcome.result, outcome.detail, outcome.lines[0]) == ("failed", "1 of 3 wrong", "fit: error 0.1")
    assert steps.verdict("small", [dones[0], Done(-9, True, 9.0, "")]).result == "cut"
    assert steps.verdict("small", [dones[0], Done(-11, False, 9.0, "fault")]).detail == "fault"


WITHOUT_TYRO = """
import json, sys
sys.modules["tyro"] = None  # as if it were not installed
from benchmarks.gpu.programs import learning
print(json.dumps(learning.report("image mod", "cpu", warm=2, steps=3)))
"""


def test_learning_is_profiled_without_tyro() -> None:
    done = process.run([sys.executable, "-c", WITHOUT_TYRO], 300, ROOT)
    assert done.code == 0, done.output
    row = context.json_lines(done.output)[-1]
    assert (row["name"], row["steps"], row["launches"]) == ("image mod", 3, 0.0)
    assert row["ms"] > 0


def table_of(text: str) -> dict[str, str]:
    lines = text[text.index("part       result") :].splitlines()[1:]
    return {
        line.split()[0]: line.split()[1] for line in lines[:-1] if line[:1].isalpha() and not line.startswith("took")
    }


@pytest.mark.slow
@pytest.mark.parametrize(("costs", "code"), [("0.15", 0), ("1", 3)])
def test_the_clock_in_a_dry_run(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys, costs: str, code: int) -> None:
    """Programs that wait as long as the real ones: those that overrun are cut, and the others have what is left."""
    monkeypatch.setattr(process, "pace", 1.0)
    monkeypatch.setattr(command, "DRY_PACE", 8.0)
    monkeypatch.setenv("MCLNF_GPU_OUT", str(tmp_path))
    ended = command.main(["--dry-run", costs, "--minutes", "2"])
    shown = capsys.readouterr().out
    found = table_of(shown)
    assert list(found) == ["machine", *command.names()], shown
    assert set(found.values()) <= {"ok", "CUT"}, shown
    assert ended == (3 if "CUT" in found.values() else 0)
    if code == 3:
        assert found["bench"] == found["rest"] == "CUT"
    else:
        assert found["bench"] == "ok"
    assert float(shown.rstrip().split()[-2]) < 120 + 60, shown
    written = summary.files(Run(ROOT, tmp_path, stem=f"gpu_dry_{command.today()}"))
    assert len(list(tmp_path.iterdir())) == len(written) <= context.FILES
    assert all(path.stat().st_size < context.FILE_BYTES for path in written)
    parts = {
        part["part"]: part["data"]
        for part in json.loads((tmp_path / f"gpu_dry_{command.today()}.json").read_text())["parts"]
    }
    assert list(parts) == list(found)
    if found["rest"] == "ok":  # no test is run twice, and none is left out
        assert sum(len(parts[name]["passed"]) for name in ("tests", "rest")) == standin.TESTS[0] * standin.TESTS[1]


def test_what_an_earlier_run_has_passed_is_left_out(tmp_path: pathlib.Path) -> None:
    run = Run(tmp_path, tmp_path, stem="gpu")
    tests = Outcome("tests", "cut", "", data={"passed": ["a", "b"], "failed": {"c": "why"}})
    summary.keep(run, [Outcome("machine", "ok", ""), tests], {}, 9.0)
    assert command.passed(tmp_path / "gpu.json") == {"a", "b"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpu.json", "gpu.txt"]
    assert "cut short: tests" in summary.text(run)
