"""The parts of `mclnf-fast bench`: cases as data, operations counted, timing in turn, bars, peak memory."""

from __future__ import annotations

import dataclasses
import pathlib
import sys
from typing import Any

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))  # benchmarks/ is no part of the package

from benchmarks import bars, cases, limit, memory, peers, timing, work
from benchmarks.contender import Contender

TINY = {"modules": 2, "points": 64, "width": 8, "hidden": 1, "octaves": 2}


def case_of(**changed: Any) -> cases.Case:
    return dataclasses.replace(cases.Case("tiny", "forward_backward", "cpu", TINY), **changed)


def test_the_shipped_cases_fit_together() -> None:
    suite = cases.load_suite("cpu")
    for case in suite.cases:
        assert case.op in work.FILES
        names = {"ours", "ours, first order", "ours, forward + backward", "ours, op by op", *case.peers}
        names |= {variant["name"] for variant in case.variants}
        for peer in case.peers:
            assert case.op in peers._file(peer).OPS, (case.id, peer)
        for bar in case.bars:
            assert set(bar.against) <= names, case.id
        assert set(case.memory) <= names
    assert cases.pick(suite, None, quick=True)
    assert [c.id for c in cases.pick(suite, "forward/*64, maml", quick=False)] == [
        "forward/16x64",
        "forward/1024x64",
        "maml",
    ]


def test_operations_are_counted_as_stated() -> None:
    shapes = {"modules": 16, "points": 1000, "width": 64, "hidden": 4, "octaves": 10}
    weights, first = 60 * 64 + 3 * 64 * 64 + 64 * 4, 60 * 64
    for op, products in (("forward", 1), ("forward_backward", 3), ("fisher_scores", 3), ("fisher_all", 5)):
        problem = work.make(case_of(op=op, shapes={**shapes, "peer_points": 8}))
        left_out = 0 if op == "forward" else first
        assert problem.flops == 2 * 1000 * (products * weights - left_out)


def test_rounds_are_in_turn_and_scaled_by_share(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, order = [0.0], []

    def takes(name: str, seconds: float) -> Any:
        def run() -> None:
            order.append(name)
            clock[0] += seconds

        return run

    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])
    found = timing.in_turn(
        [Contender("a", takes("a", 2.0)), Contender("b", takes("b", 6.0), share=0.5)], 0.0, lambda: clock[0]
    )
    assert found["a"].seconds == [2.0] * 3
    assert found["b"].seconds == [12.0] * 3
    assert timing.ratio(found["b"], found["a"]) == 6.0
    # A run to warm up before each that is timed; the first of each shows how long it takes; the order moves on.
    assert "".join(order) == "aabb" + "aabb" + "bbaa" + "aabb"
    assert found["a"].limits[0] == 18.0  # the mean of 16 s, when it began, and 20 s


def test_quartiles_by_linear_interpolation() -> None:
    assert timing.quartiles([4.0, 1.0, 3.0, 2.0]) == (1.75, 2.5, 3.25)
    assert timing.quartiles([7.0]) == (7.0, 7.0, 7.0)


def test_bars_in_both_directions() -> None:
    def judged(what: str, must: float, times: dict[str, float]) -> dict[str, Any]:
        case = case_of(bars=(cases.Bar(what, must, must, ("peer",)),))
        series = {name: timing.Series([t] * 3, [1.0] * 3) for name, t in times.items()}
        return bars.evaluate(case, [{"name": name} for name in times], series, ["ours"])[0]

    assert judged("speedup", 3.0, {"ours": 1.0, "peer": 3.0})["passed"] is True
    assert judged("speedup", 3.0, {"ours": 1.0, "peer": 2.9})["passed"] is False
    assert judged("time_ratio", 1.5, {"ours": 3.0, "peer": 2.0})["passed"] is True
    assert judged("time_ratio", 1.5, {"ours": 3.1, "peer": 2.0})["passed"] is False
    assert judged("seconds", 0.2, {"ours": 0.2})["passed"] is True
    assert judged("seconds", 0.2, {"ours": 0.21, "peer": 1.0})["passed"] is False
    case = case_of(bars=(cases.Bar("speedup", 1.0, needs="bf16_dot"),))
    row = bars.evaluate(case, [{"name": "ours"}], {}, ["ours"])[0]
    assert (row["void"] == "this machine has no bf16_dot") == (not limit.has("bf16_dot"))


@pytest.mark.skipif(not pathlib.Path("/proc/self/clear_refs").exists(), reason="peak memory is exact on Linux only")
def test_peak_memory_counts_the_memory_of_a_run() -> None:
    points = 1 << 19
    case = case_of(op="forward", shapes={**TINY, "points": points}, memory=("ours",))
    found = memory.in_fresh_process(case, "ours")
    assert found["how"] == "VmHWM"
    result = points * 4 * 4  # y [N, 4], which is all that a forward must hold
    # The kernel counts pages in batches a processor, so that what it says may be some hundred KiB off.
    assert result - (1 << 20) <= found["bytes"] < result + (4 << 20)


def test_the_suite_file_is_checked() -> None:
    rows = [{"id": "a", "op": "forward"}, {"id": "b", "op": "forward"}]

    def read(**changed: Any) -> None:
        cases.read_suite({"device": "cpu", "seconds": 1, "cases": [{**rows[0], **changed}, rows[1]]}, "tiny")

    with pytest.raises(ValueError, match=r"keys must be of .*bars.*, got \['colour'\]"):
        read(colour="red")
    with pytest.raises(ValueError, match="'b' twice"):
        read(id="b")
    with pytest.raises(ValueError, match=r"a bar must be one of limit_share, .*, got 'beauty'"):
        read(bars=[{"what": "beauty", "must": 1}])
    with pytest.raises(ValueError, match=r"op must be one of forward, .*, got 'nothing'"):
        work.make(case_of(op="nothing"))
