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

GRACE = 15.0  # seconds to end in after the interrupt
pace = 1.0
"""Seconds of this module's clock per second: a dry run, whose commands only wait, goes faster."""
_alive: set[int] = set()  # the process groups that run
_stopped = False


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


def now() -> float:
    """Return the seconds of the clock that all limits are measured by."""
    return time.monotonic() * pace


def run(words: Sequence[str], limit: float, root: pathlib.Path, environment: dict[str, str] | None = None) -> Done:
    """Run `words` in `root`, which is on Python's path. At the limit it is interrupted, as Ctrl-C would, and killed
    where it goes on for another `GRACE` seconds. A command that can't be started has code 127."""
    given = {**os.environ, **(environment or {})}
    given["PYTHONPATH"] = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    begin = now()
    if _stopped:
        return Done(-signal.SIGKILL, True, 0.0, "")
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
    _alive.add(process.pid)
    late, output = False, ""
    for sign, seconds in ((None, limit), (signal.SIGINT, GRACE), (signal.SIGKILL, GRACE)):
        if sign is not None:
            late = True
            _signal(process.pid, sign)
        try:
            output, _ = process.communicate(timeout=max(seconds, 0.1) / pace)
            break
        except subprocess.TimeoutExpired:
            continue
    _signal(process.pid, signal.SIGKILL)  # what it left behind
    _alive.discard(process.pid)
    code = process.poll()
    return Done(-signal.SIGKILL if code is None else code, late or _stopped, now() - begin, output or "")


def stop() -> None:
    """Kill all that runs; nothing is started any more."""
    global _stopped
    _stopped = True
    for group in tuple(_alive):
        _signal(group, signal.SIGKILL)


def _signal(group: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, sign)
