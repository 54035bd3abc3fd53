"""The tests marked `gpu`, shared out among several processes: most of their time is compiling, on one core each."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import sys
import time
from collections import Counter
from collections.abc import Sequence

from benchmarks.gpu import plugin, process

PLACES = ("tests/ops", "tests/render", "tests/learn", "tests/fields", "tests/test_bench_gpu.py")
MOST_PROCESSES = 12
MOST_STARTS = 5  # of one share, whose process died or met a CUDA error


@dataclasses.dataclass
class Tally:
    """The outcome of the tests: how many passed, who failed or was skipped and why, how many were not reached."""

    passed: int = 0
    failed: dict[str, str] = dataclasses.field(default_factory=dict)
    skipped: Counter[str] = dataclasses.field(default_factory=Counter)
    broken: dict[str, str] = dataclasses.field(default_factory=dict)
    left: int = 0

    @property
    def total(self) -> int:
        """All that were collected."""
        return self.passed + len(self.failed) + self.skipped.total() + self.left

    def text(self) -> str:
        """`9 passed, 0 failed, 2 skipped`."""
        words = [f"{self.passed} passed", f"{len(self.failed)} failed", f"{self.skipped.total()} skipped"]
        words += [f"{self.left} not reached"] * bool(self.left) + [f"{len(self.broken)} files broken"] * bool(
            self.broken
        )
        return ", ".join(words)


def share(
    number: int, of: int, until: float, root: pathlib.Path, work: pathlib.Path, places: Sequence[str], marker: str
) -> str:
    """Run one share to its end, in as many processes as it takes; their output."""
    log = work / f"tests_{number}.jsonl"
    environment = {
        plugin.SHARE: f"{number}/{of}",
        plugin.LOG: str(log),
        plugin.UNTIL: str(time.time() + until - time.monotonic()),
        "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // of)),
    }
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        marker,
        "-p",
        "benchmarks.gpu.plugin",
        "-p",
        "no:cacheprovider",
    ]
    words += ["--tb=short", "--continue-on-collection-errors", "-o", "addopts=", "-o", "timeout=180", *places]
    output = ""
    for _ in range(MOST_STARTS):
        left = until - time.monotonic()
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


def lines_of(log: pathlib.Path) -> list[dict[str, object]] | list:
    """Return the log's lines."""
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def unfinished(log: pathlib.Path) -> int:
    """Tests of a share that have no outcome."""
    rows = lines_of(log)
    collected = max((row["collected"] for row in rows if "collected" in row), default=0)
    known = {row["test"] for row in rows if row.get("outcome") in ("passed", "failed", "skipped")}
    return max(collected - len(known), 0)


def tally(logs: Sequence[pathlib.Path]) -> Tally:
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
                found.passed += 1
            elif row["outcome"] == "failed":
                found.failed[test] = row["why"]
            elif row["outcome"] == "skipped":
                found.skipped[row["why"]] += 1
        found.left += unfinished(log)
    return found


def run(
    limit: float, root: pathlib.Path, work: pathlib.Path, places: Sequence[str], marker: str, processes: int
) -> tuple[Tally, str]:
    """Run all shares side by side, within `limit` seconds; return the outcome of the tests, and the output."""
    until = time.monotonic() + limit
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
        futures = [pool.submit(share, k, processes, until, root, work, places, marker) for k in range(processes)]
        output = "".join(f"--- share {k}\n{future.result()}" for k, future in enumerate(futures))
    return tally([work / f"tests_{k}.jsonl" for k in range(processes)]), output
