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
from typing import Any

import pytest

SHARE, LOG, UNTIL = "MCLNF_TEST_SHARE", "MCLNF_TEST_LOG", "MCLNF_TEST_UNTIL"
# What every later call of the process would meet too; memory that ran out is not of that kind.
STICKY = re.compile(r"illegal memory access|illegal instruction|misaligned address|device-side assert|launch failure"
                    r"|unspecified launch|CUDA_ERROR_(?!OUT_OF_MEMORY|INVALID_VALUE)")  # fmt: skip


class Share:
    """Takes every `of`th test from `first` on, leaving those out that the log has.

    In an order that follows from the tests' names and mixes the files, so that no process has all that compile for
    long, and what time does not reach is some of everything.
    """

    def __init__(self) -> None:
        self.first, self.of = (int(n) for n in os.environ[SHARE].split("/"))
        self.path, self.until = pathlib.Path(os.environ[LOG]), float(os.environ[UNTIL])
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
        mine = sorted(items, key=lambda item: hashlib.sha1(item.nodeid.encode()).digest())[self.first :: self.of]
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
