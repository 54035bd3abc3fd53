"""The plugin of pytest in each process of the tests: its share of them, and a line per test as soon as it is done.

A line is kept whatever becomes of the process: of one that is killed, what it had done is known, and which test it was
at. A CUDA error stays in its process for good, so the process ends after the test that met it, and another goes on.
"""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import re
import time
from collections.abc import Iterable
from typing import Any

import pytest

SHARE, LOG, UNTIL = "MCLNF_TEST_SHARE", "MCLNF_TEST_LOG", "MCLNF_TEST_UNTIL"
FIRST, KNOWN = "MCLNF_TEST_FIRST", "MCLNF_TEST_KNOWN"
# What every later call of the process would meet too; memory that ran out is not of that kind.
STICKY = re.compile(r"illegal memory access|illegal instruction|misaligned address|device-side assert|launch failure"
                    r"|unspecified launch|CUDA_ERROR_(?!OUT_OF_MEMORY|INVALID_VALUE)")  # fmt: skip


def mixed(nodeid: str) -> bytes:
    """Return the place of a test in the order that mixes the files: no process has all that compile for long, and what
    time does not reach is some of everything."""
    return hashlib.sha1(nodeid.encode()).digest()


def first_tier(names: Iterable[str]) -> list[str]:
    """Return the tests that together have each value of each parameter of each test once: a few of the many
    combinations, which reach every kernel.

    >>> first_tier(["t.py::a[x-1]", "t.py::a[x-2]", "t.py::a[y-1]", "t.py::a[y-2]", "t.py::b"])
    ['t.py::a[x-1]', 't.py::a[x-2]', 't.py::a[y-1]', 't.py::b']
    """
    seen: set[tuple[str, int, str]] = set()
    taken = []
    for name in names:
        test, _, values = name.partition("[")
        new = {(test, place, value) for place, value in enumerate(values.rstrip("]").split("-"))} - seen
        if new:
            seen |= new
            taken.append(name)
    return taken


class Share:
    """Takes every `of`th test from `first` on, leaving those out that the log has; of the first tier alone if that is
    asked for, and none that is known."""

    def __init__(self) -> None:
        self.first, self.of = (int(n) for n in os.environ[SHARE].split("/"))
        self.path, self.until = pathlib.Path(os.environ[LOG]), float(os.environ[UNTIL])
        self.known = set(pathlib.Path(os.environ[KNOWN]).read_text().splitlines()) if os.environ.get(KNOWN) else set()
        self.session: Any = None

    def write(self, **line: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")

    def done(self) -> set[str]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return {row["test"] for row in map(json.loads, lines) if "outcome" in row}

    def pytest_sessionstart(self, session: Any) -> None:
        self.session = session

    @pytest.hookimpl(trylast=True)  # after those that leave out what is not asked for
    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        names = sorted((item.nodeid for item in items), key=mixed)
        if os.environ.get(FIRST):
            names = first_tier(names)
        chosen = set([name for name in names if name not in self.known][self.first :: self.of])
        mine = sorted((item for item in items if item.nodeid in chosen), key=lambda item: mixed(item.nodeid))
        self.write(collected=len(mine))
        done = self.done()
        left = [item for item in mine if item.nodeid not in done]
        keep = {id(item) for item in left}
        config.hook.pytest_deselected(items=[item for item in items if id(item) not in keep])
        items[:] = left

    def pytest_collectreport(self, report: Any) -> None:
        if report.failed and self.first == 0:  # every process collects all
            self.write(test=report.nodeid, outcome="broken", why=last_line(report.longreprtext))

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.write(test=nodeid, start=True)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" or report.outcome != "passed":
            if report.skipped and isinstance(report.longrepr, tuple):
                why = str(report.longrepr[2]).removeprefix("Skipped: ")
            else:
                why = last_line(report.longreprtext) if report.failed else ""
            self.write(test=report.nodeid, outcome=report.outcome, why=why, seconds=round(report.duration, 3))
            if report.failed and STICKY.search(report.longreprtext):
                self.session.shouldstop = "a CUDA error stays in this process"

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        if time.time() > self.until:
            self.session.shouldstop = "out of time"


def last_line(text: str) -> str:
    """Return the error of a report: its last line marked E, or the last one."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line[1:].strip() for line in lines if line.startswith("E ")]
    return (errors or lines or ["no message"])[-1][:200]


def pytest_configure(config: Any) -> None:
    """Register the share."""
    config.pluginmanager.register(Share(), "mclnf_share")
