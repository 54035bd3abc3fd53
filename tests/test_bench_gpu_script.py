"""`python -m benchmarks.gpu`: every part is told of, whatever becomes of the others, and none runs on for ever."""

from __future__ import annotations

import json
import pathlib
import sys
import time
from typing import Any

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # benchmarks/ is no part of the package

from benchmarks.gpu import command, figures, process, steps, suite, summary  # noqa: E402
from benchmarks.gpu.command import Part  # noqa: E402
from benchmarks.gpu.context import Outcome, Run  # noqa: E402
from benchmarks.gpu.process import Done  # noqa: E402

FOUND = {
    "python": "3.12.3",
    "torch": "2.11.0",
    "triton": "3.6.0",
    "unfit": None,
    "gpu": {"name": "NVIDIA H200", "short": "h200", "capability": "9.0", "driver_version": "580.1"},
    "libraries": {"cpu": None, "cuda": None},
    "missing": [],
}


@pytest.fixture
def run(tmp_path: pathlib.Path) -> Run:
    return Run(tmp_path, tmp_path, found=dict(FOUND))


def answer(monkeypatch: pytest.MonkeyPatch, done: Done) -> list[list[str]]:
    """Every command ends like this; the commands."""
    asked: list[list[str]] = []

    def fake(words: Any, limit: float, root: Any, environment: Any = None) -> Done:
        asked.append([*words, *(f"{k}={v}" for k, v in (environment or {}).items())])
        return done

    monkeypatch.setattr(process, "run", fake)
    return asked


@pytest.mark.slow
def test_the_whole_script_on_a_cpu(tmp_path: pathlib.Path) -> None:
    done = process.run([sys.executable, "-m", "benchmarks.gpu", "--cpu", "--out", str(tmp_path)], 300, ROOT)
    assert done.code == 0, done.output
    table = done.output[done.output.index("part       result") :].splitlines()
    assert [line.split()[0] for line in table if line[:1].isalpha()][1:-2] == ["machine", *command.names()]
    assert table[-1].startswith("all ok, ")
    assert "  memcheck: it watches a GPU" in table
    kept = json.loads(next(tmp_path.glob("gpu_cpu_*.json")).read_text())
    results = {part["part"]: part["result"] for part in kept["parts"]}
    skipped = dict.fromkeys(("memcheck", "racecheck"), "skipped")
    assert results == {**dict.fromkeys(("machine", *command.names()), "ok"), **skipped}
    assert len({part["part"]: part for part in kept["parts"]}["tests"]["data"]["passed"]) > 5
    assert len(list(tmp_path.glob("bench_gpu_cpu_*.json"))) == 1
    assert "=== small -m benchmarks.gpu.programs.small cpu --check 0/1" in next(tmp_path.glob("*.log")).read_text()


def test_without_a_gpu_it_reports_that_and_stops(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    unfit = "needs a CUDA GPU of compute capability 8.0 or newer; torch 2.11.0+cpu is a build without CUDA"
    monkeypatch.setattr(steps, "look", lambda run, limit: ({**FOUND, "gpu": None, "unfit": unfit}, ""))
    assert command.main(["--out", str(tmp_path)]) == 2
    shown = capsys.readouterr().out
    assert f"a GPU is needed: it {unfit}" in shown
    assert "\nbuild" not in shown


def test_a_part_that_breaks_does_not_hide_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    seen = []

    def part(name: str, result: str) -> Any:
        def of(run: Run, limit: float) -> Outcome:
            seen.append(name)
            if result == "raise":
                raise RuntimeError("no luck")
            return Outcome(name, result, f"{name}'s detail")

        return of

    monkeypatch.setattr(steps, "look", lambda run, limit: (FOUND, ""))
    for results, code, last in (
        (("ok", "raise", "ok"), 1, "FAILED: tests"),
        (("failed", "ok", "cut"), 1, "FAILED: build"),
        (("ok", "cut", "ok"), 3, "cut short: tests; nothing failed"),
        (("ok", "ok", "skipped"), 0, "all ok"),
    ):
        seen.clear()
        named = zip(("build", "tests", "bench"), results)
        monkeypatch.setattr(command, "STAGES", tuple((Part(name, part(name, r), 0.5, 60.0),) for name, r in named))
        assert command.main(["--out", str(tmp_path)]) == code
        assert seen == ["build", "tests", "bench"]
        assert capsys.readouterr().out.splitlines()[-1].startswith(last)
    assert len(list(tmp_path.glob("gpu_h200_*.json"))) == 4


def test_parts_share_the_time(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    limits: dict[str, float] = {}

    def part(name: str, share: float, most: float) -> Part:
        return Part(name, lambda run, limit: limits.update({name: limit}) or Outcome(name, "ok", ""), share, most)

    monkeypatch.setattr(steps, "look", lambda run, limit: (FOUND, ""))
    stages = ((part("a", 0.5, 40.0),), (part("b", 0.5, 600.0), part("beside", 0.5, 600.0)), (part("c", 1.0, 600.0),))
    monkeypatch.setattr(command, "STAGES", stages)
    assert command.main(["--out", str(tmp_path), "--minutes", "2", "--only", "a,b,beside,c"]) == 0
    assert limits["a"] == 40.0
    assert 55 < limits["b"] == limits["beside"] <= 60.0
    assert 115 < limits["c"] <= 120.0
    assert command.main(["--out", str(tmp_path), "--minutes", "0.05", "--only", "a,b,c"]) == 3


def test_a_command_ends_at_its_limit_with_its_children(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr(process, "GRACE", 0.5)
    begin = time.monotonic()
    # In the background of a shell SIGINT is ignored, and a child would inherit that.
    polite = "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    polite += "try: time.sleep(60)\nexcept KeyboardInterrupt: print('ending')"
    done = process.run([sys.executable, "-c", polite], 1.0, tmp_path)
    assert (done.late, done.code, done.last()) == (True, 0, "ending")
    deaf = "trap '' INT; echo started; sleep 60 & sleep 60; sleep 60"
    done = process.run(["bash", "-c", deaf], 0.5, tmp_path)
    assert (done.late, done.code) == (True, -9)
    assert "started" in done.output
    assert time.monotonic() - begin < 30
    assert process.run(["no such command"], 5, tmp_path).code == 127
    assert process.run(["bash", "-c", "exit 7"], 5, tmp_path).code == 7


TESTS = """
import os, signal, time
import pytest

pytestmark = pytest.mark.gpu

@pytest.mark.parametrize("k", range(8))
def test_good(k): pass

def test_bad(): assert 1 == 2, "one is not two"

def test_left_out(): pytest.skip("no such device")

def test_dies(): os.kill(os.getpid(), signal.SIGKILL)

def test_meets_an_error_that_stays():
    vars(os)["spoilt"] = True
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

@pytest.mark.parametrize("k", range(6))
def test_later(k): assert not hasattr(os, "spoilt")

@pytest.fixture
def breaks_later():
    yield
    raise RuntimeError("in the teardown")

def test_teardown(breaks_later): pass
"""


def test_every_test_has_an_outcome_though_processes_die(tmp_path: pathlib.Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "test_broken.py").write_text("import no_such_package")
    (tmp_path / "test_other.py").write_text("def test_without_the_mark(): assert False")
    found, output = suite.run(120, ROOT, tmp_path, suite.Selection((str(tmp_path),), "gpu"), 2)
    assert len(found.passed) == 8 + 6, output
    assert {test.rpartition("::")[2]: why for test, why in found.failed.items()} == {
        "test_bad": "assert 1 == 2",
        "test_dies": "its process died with code -9",
        "test_meets_an_error_that_stays": "RuntimeError: CUDA error: an illegal memory access was encountered",
        "test_teardown": "RuntimeError: in the teardown",
    }
    assert dict(found.skipped) == {"no such device": 1}
    assert list(found.broken.values()) == ["ModuleNotFoundError: No module named 'no_such_package'"]
    assert (found.left, found.total) == (0, 19)
    assert found.text() == "14 passed, 4 failed, 1 skipped, 1 files broken"


def test_tests_that_time_does_not_reach_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(process, "GRACE", 1.0)
    (tmp_path / "test_it.py").write_text(
        "import pytest, time\n@pytest.mark.gpu\n@pytest.mark.parametrize('k', range(40))\n"
        "def test_long(k): time.sleep(1 if k < 2 else 60)\n"
    )
    found, output = suite.run(8, ROOT, tmp_path, suite.Selection((str(tmp_path),), "gpu"), 1)
    assert (found.failed, len(found.passed) + found.left) == ({}, 40), output
    assert found.left >= 38


def test_tests_without_a_test_failed(run: Run, tmp_path: pathlib.Path) -> None:
    run.places = (str(tmp_path),)
    run.root = ROOT
    (tmp_path / "test_it.py").write_text("def test_without_the_mark(): pass")
    outcome = suite.tests("tests", first=True)(run, 60)
    assert outcome.result == "failed"
    assert outcome.detail.startswith("no test was collected")


def test_a_build_is_for_this_gpu_and_must_leave_both_libraries(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    monkeypatch.setattr(steps, "look", lambda run, limit: (FOUND, ""))
    run.found = {**FOUND, "libraries": {"cpu": None, "cuda": "it does not load"}}
    asked = answer(monkeypatch, Done(0, False, 1.0, "noise\nmclnf_fast: CUDA library not built: nvcc was not found\n"))
    (run.root / "mclnf_fast").mkdir()
    (run.root / steps.LIBRARIES["cpu"]).touch()
    outcome = steps.build(run, 60)
    assert "TORCH_CUDA_ARCH_LIST=9.0" in asked[0]
    reason = "cuda library not built: CUDA library not built: nvcc was not found"
    assert (outcome.result, outcome.detail) == ("failed", reason)
    (run.root / steps.LIBRARIES["cuda"]).touch()
    outcome = steps.build(run, 60)
    assert (outcome.result, outcome.lines) == ("ok", ["cuda before: it does not load"])
    run.build = True
    late = {**FOUND, "libraries": {"cpu": None, "cuda": "too new"}}
    monkeypatch.setattr(steps, "look", lambda run, limit: (late, ""))
    assert steps.build(run, 60).detail == "cuda: too new"
    answer(monkeypatch, Done(-9, True, 60.0, ""))
    assert "it took too long" in steps.build(run, 60).detail


def test_libraries_that_load_are_not_built_again(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    asked = answer(monkeypatch, Done(0, False, 1.0, ""))
    assert steps.build(run, 60).detail == "not needed: cpu and cuda libraries built beforehand, loaded"
    assert asked == []


ROW = '{"name": "forward", "reason": null}\n'
CLEAN = f"{ROW}{ROW}========= ERROR SUMMARY: 0 errors\n"
BAD = (
    f"{ROW}========= Invalid __global__ write of size 4 bytes\n=========     at k+0x10\n"
    "========= ERROR SUMMARY: 1 error\n"
)
RACE = (
    "========= Error: Race reported between Write access at k and Read access at k [64 hazards]\n"
    "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n"
)
WARN = f"{ROW}========= RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)\n"
BLIND = "========= Error: Device not supported\nRuntimeError: CUDA error 999\n========= ERROR SUMMARY: 1 error\n"


@pytest.mark.parametrize(
    ("done", "result", "detail"),
    [
        (Done(0, False, 1, CLEAN), "ok", "ERROR SUMMARY: 0 errors"),
        (Done(66, False, 1, BAD), "failed", "ERROR SUMMARY: 1 error"),
        (Done(66, False, 1, RACE), "failed", "RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"),
        (Done(0, False, 1, WARN), "ok", "RACECHECK SUMMARY: 2 hazards displayed (0 errors, 2 warnings)"),
        (Done(1, False, 1, BLIND), "skipped", "compute-sanitizer can't watch here: Error: Device not supported"),
        (Done(-9, True, 1, ROW), "cut", "time ran out, no error until then"),
        (Done(-9, True, 1, BAD.rpartition("=========")[0]), "failed", "1 errors"),
        (Done(1, False, 1, CLEAN + "KeyError: 7\n"), "failed", "exit code 1: KeyError: 7"),
        (Done(0, False, 1, "forward"), "failed", "exit code 0: forward"),
    ],
)
def test_the_report_of_the_sanitizer(done: Done, result: str, detail: str) -> None:
    found = steps.judged("memcheck", done)
    assert (found.result, found.detail) == (result, detail)


def test_without_the_sanitizer_it_is_skipped_and_reported(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    monkeypatch.setattr(steps, "tool", lambda name: None)
    found = steps.sanitizer("racecheck")(run, 60)
    assert (found.result, found.skipped) == ("skipped", ["racecheck: compute-sanitizer is not found"])
    monkeypatch.setattr(steps, "tool", lambda name: f"/cuda/{name}")
    asked = answer(monkeypatch, Done(0, False, 1.0, CLEAN))
    outcome = steps.sanitizer("memcheck")(run, 60)
    assert (outcome.result, outcome.detail) == ("ok", "ERROR SUMMARY: 0 errors, 6 ops")
    assert sorted(words[-2] for words in asked) == ["0/3", "1/3", "2/3"]
    assert asked[0][:3] == ["/cuda/compute-sanitizer", "--tool", "memcheck"]
    assert asked[0][-1] == "PYTORCH_NO_CUDA_MEMORY_CACHING=1"


def result(name: str, status: str = "ok", bar: dict[str, Any] | None = None) -> dict[str, Any]:
    absent = {"tinycudann": "tinycudann is not installed", "compile": "left out of a quick run", "func": "failed: no"}
    return {"id": name, "status": status, "reason": None if status == "ok" else "because", "contenders": [],
            "absent": absent, "bars": [bar] if bar else []}  # fmt: skip


def test_every_bar_is_shown_and_every_case_is_listed() -> None:
    bar = {"what": "limit_share", "must": 0.25, "aim": 0.45, "value": 0.312, "against": "matmul", "passed": True,
           "reached": False, "void": None}  # fmt: skip
    data = {"cases": [result("a", bar=bar), result("b", "skipped")], "settings": {}, "limits": {}}
    done = Done(0, False, 9.0, "")
    found = figures.measured(data, ["a", "b"], done)
    assert (found.result, found.detail) == ("ok", "2 cases, 1 of 1 bars and 0 of 1 aims reached")
    words = "a of the matmul limit 31 % >= 25 % >= 45 % ok"
    assert " ".join(found.lines[1].split()) == words
    assert found.skipped == [
        "b: because",
        "tinycudann: tinycudann is not installed",
        "a, func: failed: no",
        "b, func: failed: no",
    ]
    assert figures.measured(data, ["a", "b", "c"], Done(130, True, 9.0, "")).result == "cut"
    red = figures.measured({**data, "cases": [result("a", "red")]}, ["a"], Done(1, False, 9.0, ""))
    assert (red.result, red.lines) == ("failed", ["a: because"])


def test_the_table_ends_with_the_verdict() -> None:
    outcomes = [
        Outcome("build", "ok", "both", 3.0),
        Outcome("tests", "failed", "1 failed", 4.0, ["test_x: why"], ["2 tests: no"]),
        Outcome("bench", "ok", "2 cases", 5.0, skipped=["2 tests: no"]),
    ]
    assert summary.page(outcomes, 12.0).splitlines() == [
        "",
        "part       result       s  what",
        "build      ok           3  both",
        "tests      FAILED       4  1 failed",
        "  test_x: why",
        "bench      ok           5  2 cases",
        "took no part:",
        "  2 tests: no",
        "FAILED: tests, 12 s",
    ]
