"""What all parts share: the run that they belong to, and what each reports."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.gpu import process

PROGRAMS = "benchmarks.gpu.programs"
MOST_ENTRY, MOST_LOG = 1 << 19, 12 << 20  # bytes of one part in the log, and of the log
FILES, FILE_BYTES = 8, 16 << 20  # what may be carried off the machine


@dataclasses.dataclass
class Outcome:
    """result: `ok`, `failed`, `cut` (time ran out before the end, nothing failed) or `skipped`. detail: one line.
    lines: what is shown below it. skipped: what took no part, with the reason. data: for the JSON."""

    part: str
    result: str
    detail: str
    seconds: float = 0.0
    lines: list[str] = dataclasses.field(default_factory=list)
    skipped: list[str] = dataclasses.field(default_factory=list)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Run:
    """One call of the script.

    root: the checkout. out: where results go; stem: of their names: nothing is logged before the machine is known.
    cpu: the same parts on a CPU, tiny. dry: programs that only wait, this many times their usual cost, in place of all
    others; None: the real ones. build: whether to build what loads already. places: of the tests. known: tests that an
    earlier run has passed. found: what `look` reported. report: keeps an outcome of a part that goes on.
    """

    root: pathlib.Path
    out: pathlib.Path
    cpu: bool = False
    dry: float | None = None
    build: bool = False
    places: tuple[str, ...] = ()
    known: set[str] = dataclasses.field(default_factory=set)
    stem: str = ""
    found: dict[str, Any] = dataclasses.field(default_factory=dict)
    report: Callable[[Outcome], None] = lambda outcome: None
    _lock: threading.Lock = dataclasses.field(default_factory=threading.Lock)

    @functools.cached_property
    def scratch(self) -> tempfile.TemporaryDirectory[str]:
        """A folder for the run alone."""
        return tempfile.TemporaryDirectory()

    @property
    def device(self) -> str:
        """Of the programs."""
        return "cpu" if self.cpu else "cuda"

    @property
    def processes(self) -> int:
        """Processes that may compile side by side."""
        return 4 if self.dry is not None else 2 if self.cpu else max(2, min(14, (os.cpu_count() or 2) - 2))

    def log(self, title: str, text: str) -> None:
        """Add to the one log: of a long text the first and the last part, and nothing to a log that is full."""
        if not self.stem:
            return
        text = shortened(text.rstrip(), MOST_ENTRY)
        path = self.out / f"{self.stem}.log"
        with self._lock, path.open("a", encoding="utf-8") as file:
            if file.tell() < MOST_LOG - 2 * MOST_ENTRY:
                file.write(f"=== {title}\n{text}\n")

    def start(
        self, part: str, words: Sequence[str], limit: float, environment: dict[str, str] | None = None
    ) -> process.Done:
        """Run a command of a part, logged; in a dry run what stands for it."""
        environment = environment or {}
        if self.dry is not None:
            environment = {**environment, "MCLNF_GPU_PACE": str(process.pace), "MCLNF_GPU_COSTS": str(self.dry)}
            words = [sys.executable, "-m", f"{PROGRAMS}.standin", part, *words]
        done = process.run(words, limit, self.root, environment)
        self.log(" ".join([part, *words[1:]]), done.output)
        return done

    def python(self, part: str, module: str, *words: str, limit: float) -> process.Done:
        """`python -m module words`, logged."""
        return self.start(part, [sys.executable, "-m", module, *words], limit)


def shortened(text: str, most: int) -> str:
    """Return a text of at most about `most` characters: its first quarter and its end.

    >>> shortened("0123456789", 100)
    '0123456789'
    >>> shortened("a" * 50 + "b" * 50, 8)
    'aa\\n... 92 characters left out ...\\nbbbbbb'
    """
    if len(text) <= most:
        return text
    head, tail = text[: most // 4], text[-(most - most // 4) :]
    return f"{head}\n... {len(text) - len(head) - len(tail)} characters left out ...\n{tail}"


def tool(name: str) -> str | None:
    """Return a tool of the CUDA toolkit: on the path, or where the toolkit is."""
    home = pathlib.Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin" / name
    return shutil.which(name) or (str(home) if home.exists() else None)


def json_lines(output: str) -> list[dict[str, Any]]:
    """Return the JSON objects of an output, one per line; other lines, and one that is cut off, are passed over.

    >>> json_lines('compiling\\n{"a": 1}\\n{"b":')
    [{'a': 1}]
    """
    rows = []
    for line in output.splitlines():
        if line.startswith("{"):
            try:
                rows.append(json.loads(line))
            except ValueError:
                continue
    return rows
