"""A command with a time limit, its output kept; it ends with everything that it started."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
import signal
import subprocess
import time
from collections.abc import Sequence

GRACE = 20.0  # seconds to end in after the interrupt


@dataclasses.dataclass
class Done:
    """code: the exit code, negative for a signal. late: whether the limit ended it. output: both streams."""

    code: int
    late: bool
    seconds: float
    output: str

    def last(self) -> str:
        """Return the last line that is not empty."""
        lines = [line.strip() for line in self.output.splitlines() if line.strip()]
        return lines[-1][:200] if lines else "no output"


def run(words: Sequence[str], limit: float, root: pathlib.Path, environment: dict[str, str] | None = None) -> Done:
    """Run `words` in `root`, which is on Python's path. At the limit it is interrupted, as Ctrl-C would, and killed
    where it goes on for another `GRACE` seconds. A command that can't be started has code 127."""
    given = {**os.environ, **(environment or {})}
    given["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    begin = time.monotonic()
    try:
        process = subprocess.Popen(
            words,
            cwd=root,
            env=given,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return Done(127, False, 0.0, str(error))
    late, output = False, ""
    for sign, seconds in ((None, limit), (signal.SIGINT, GRACE), (signal.SIGKILL, GRACE)):
        if sign is not None:
            late = True
            _signal(process.pid, sign)
        try:
            output, _ = process.communicate(timeout=max(seconds, 0.1))
            break
        except subprocess.TimeoutExpired:
            continue
    _signal(process.pid, signal.SIGKILL)  # what it left behind
    code = process.poll()
    return Done(-signal.SIGKILL if code is None else code, late, time.monotonic() - begin, output or "")


def _signal(group: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, sign)
