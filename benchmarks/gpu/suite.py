"""The tests marked `gpu`, shared out among several processes: most of their time is compiling, on one core each."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from benchmarks.gpu import plugin, process
from benchmarks.gpu.context import Outcome, Run
from benchmarks.gpu.programs import standin

PLACES = ("tests/ops", "tests/render", "tests/learn", "tests/fields", "tests/test_bench_gpu.py")
CPU_TESTS = ("tests/ops/test_triton_launch.py",)
MOST_STARTS = 5  # of one share, whose process died or met a CUDA error
LOOKS = 15.0  # seconds between two reports of tests that go on


@dataclasses.dataclass(frozen=True)
class Selection:
    """Which tests: places (files, folders), the mark, those that are known already, and whether the first tier alone:
    each value of each parameter once."""

    places: tuple[str, ...]
    marker: str
    known: frozenset[str] = frozenset()
    first: bool = False


@dataclasses.dataclass
class Tally:
    """The outcome of the tests: who passed, who failed or was skipped and why, all of these, how many were not
    reached."""

    passed: list[str] = dataclasses.field(default_factory=list)
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    broken: dict[str, str] = dataclasses.field(default_factory=dict)
    done: set[str] = dataclasses.field(default_factory=set)
    left: int = 0

    @property
    def total(self) -> int:
        """All that were collected."""
        return len(self.passed) + len(self.failed) + self.skipped.total() + self.left

    def text(self) -> str:
        """`9 passed, 0 failed, 2 skipped`."""
        words = [f"{len(self.passed)} passed", f"{len(self.failed)} failed", f"{self.skipped.total()} skipped"]
        words += [f"{self.left} not reached"] * bool(self.left) + [f"{len(self.broken)} files broken"] * bool(
            self.broken
        )
        return ", ".join(words)


def share(number: int, of: int, until: float, root: pathlib.Path, work: pathlib.Path, chosen: Selection) -> str:
    """Run one share to its end, in as many processes as it takes; their output."""
    log = work / f"tests_{number}.jsonl"
    environment = {
        plugin.SHARE: f"{number}/{of}",
        plugin.LOG: str(log),
        plugin.UNTIL: str(time.time() + (until - process.now()) / process.pace),
        plugin.FIRST: "1" if chosen.first else "",
        plugin.KNOWN: str(work / "known.txt"),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // of)),
    }
    words = [sys.executable, "-m", "pytest", "-q", "-m", chosen.marker, "-p", "benchmarks.gpu.plugin"]
    words += ["-p", "no:cacheprovider", "--tb=short", "--continue-on-collection-errors", "-o", "addopts="]
    words += ["-o", "timeout=180", *chosen.places]
    output = ""
    for _ in range(MOST_STARTS):
        left = until - process.now()
        if left <= 0:
            break
        done = process.run(words, left + process.GRACE, root, environment)
        output += done.output
        rows = lines_of(log)
        started = [row["test"] for row in rows if "start" in row]
        known = {row["test"] for row in rows if "outcome" in row}
        if started and started[-1] not in known:
            why = "out of time" if done.late else f"its process died with code {done.code}"
            with log.open("a") as file:
                outcome = "left" if done.late else "failed"
                file.write(json.dumps({"test": started[-1], "outcome": outcome, "why": why}) + "\n")
        if done.late or not unfinished(log):
            break
    return output


def lines_of(log: pathlib.Path) -> list[dict[str, Any]]:
    """Return the log's lines; one that is being written is left out."""
    text = log.read_text() if log.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]


def unfinished(log: pathlib.Path) -> int:
    """Tests of a share that have no outcome."""
    rows = lines_of(log)
    collected = max((row["collected"] for row in rows if "collected" in row), default=0)
    known = {row["test"] for row in rows if row.get("outcome") in ("passed", "failed", "skipped")}
    return max(collected - len(known), 0)


def tally(logs: Iterable[pathlib.Path]) -> Tally:
    """Add the shares up. A test that passed and then failed, in its teardown, failed."""
    found = Tally()
    for log in logs:
        last: dict[str, dict[str, str]] = {}
        for row in lines_of(log):
            if row.get("outcome") == "broken":
                found.broken[row["test"]] = row["why"]
            elif "outcome" in row and last.get(row["test"], {}).get("outcome") != "failed":
                last[row["test"]] = row
        for test, row in last.items():
            if row["outcome"] == "passed":
                found.passed.append(test)
            elif row["outcome"] == "failed":
                found.failed[test] = row["why"]
            elif row["outcome"] == "skipped":
                found.skipped[row["why"]] += 1
            if row["outcome"] != "left":
                found.done.add(test)
        found.left += unfinished(log)
    return found


def run(
    limit: float,
    root: pathlib.Path,
    work: pathlib.Path,
    chosen: Selection,
    processes: int,
    report: Callable[[Tally], None] = lambda found: None,
) -> tuple[Tally, str]:
    """Run all shares side by side, within `limit` seconds; return the outcome of the tests, and the output. What is
    known meanwhile is handed to `report` now and then."""
    until = process.now() + limit
    (work / "known.txt").write_text("".join(f"{name}\n" for name in sorted(chosen.known)))
    logs = [work / f"tests_{k}.jsonl" for k in range(processes)]
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(share, k, processes, until, root, work, chosen) for k in range(processes)]
        while concurrent.futures.wait(futures, timeout=LOOKS / process.pace).not_done:
            report(tally(logs))
        output = "".join(f"--- share {k}\n{future.result()}" for k, future in enumerate(futures))
    return tally(logs), output


def tests(part: str, first: bool) -> Any:
    """Return the part that runs the tests marked `gpu` (on a CPU a few without a mark): the first tier, or all that an
    earlier part has not run."""

    def some(run_: Run, limit: float) -> Outcome:
        if "pytest" in run_.found.get("missing", ()):
            return Outcome(part, "failed", "pytest is not installed")
        places = run_.places or (CPU_TESTS if run_.cpu else tuple(p for p in PLACES if (run_.root / p).exists()))
        end = process.now() + limit - process.GRACE
        with tempfile.TemporaryDirectory() as folder:
            work = pathlib.Path(folder)
            if run_.dry is not None:
                places = (standin.tests(pathlib.Path(run_.scratch.name), run_.dry / process.pace),)
            marker = "not slow" if run_.cpu else "gpu"
            chosen = Selection(places, marker, frozenset(run_.known), first)
            # The sanitizers work beside the first tier.
            processes = max(1, run_.processes * 2 // 3) if first else run_.processes
            found, output = run(
                limit - process.GRACE,
                run_.root,
                work,
                chosen,
                processes,
                lambda so_far: run_.report(told(part, so_far)),
            )
        run_.log(part, output)
        run_.known |= found.done
        outcome = told(part, found)
        if not found.total and process.now() >= end:
            outcome.result, outcome.detail = "cut", "time ran out before the first test"
        elif not found.total and not run_.known:
            last = process.Done(0, False, 0.0, output).last()
            outcome.result, outcome.detail = "failed", f"no test was collected ({last})"
        return outcome

    return some


def told(part: str, found: Tally) -> Outcome:
    """Return a tally as the outcome of a part."""
    result = "failed" if found.failed or found.broken else "cut" if found.left else "ok"
    outcome = Outcome(part, result, found.text())
    both = [*found.broken.items(), *found.failed.items()]
    outcome.lines = [f"{test}: {why}" for test, why in both[:10]] + [f"and {len(both) - 10} more"] * (len(both) > 10)
    most = found.skipped.most_common()
    outcome.skipped = [f"{count} test{'s' * (count > 1)}: {why}" for why, count in most[:8]]
    if len(most) > 8:
        outcome.skipped.append(
            f"{sum(count for _, count in most[8:])} tests for {len(most) - 8} other reasons: see the log"
        )
    outcome.data = {
        "passed": found.passed,
        "failed": found.failed,
        "broken": found.broken,
        "skipped": dict(found.skipped),
        "not_reached": found.left,
    }
    return outcome
