"""The CPUs that this process may use, and how its threads wait for each other.

It imports no torch by itself: `wait_briefly` has to be called before torch starts the threads' library.
"""

from __future__ import annotations

import math
import os
import pathlib
import sys
from collections.abc import Iterator, MutableMapping

CGROUPS = pathlib.Path("/sys/fs/cgroup")
OWN_CGROUPS = pathlib.Path("/proc/self/cgroup")

LOAD = pathlib.Path("/proc/loadavg")

# How often a thread looks whether there is work before it sleeps. GNU's own default is 300,000 times, 5 ms: as soon
# as other processes keep the cores busy, it holds the very core that the thread that it waits for needs, and a
# training step of 2 ms took 390 ms. But a thread that sleeps must be woken: on an idle machine 1,000 cost such a step
# 30 %, 10,000 8 %, 30,000 nothing. Two threads that had to share a core took 11 ms per step with 3,000 and 8 with
# 1,000.
SPINS_ALONE, SPINS_BESIDE_OTHERS = "30000", "1000"
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")  # by either the user has chosen


def usable_cpus() -> int:
    """Return how many CPUs this process may use: by its affinity, and by the CPU limit of its cgroups, rounded up.

    >>> 1 <= usable_cpus() <= (os.cpu_count() or 1)
    True
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = cgroup_limit()
    return allowed if limit is None else max(1, min(allowed, math.ceil(limit)))


def use_threads(asked: int | None = None) -> None:
    """Let torch work with this number of threads; None: as it is set, but with no more than the usable CPUs.

    Torch's own default knows the affinity and OMP_NUM_THREADS, but no CPU limit. OMP_NUM_THREADS and MKL_NUM_THREADS
    ask for a number as well.
    """
    import torch

    if asked is not None:
        torch.set_num_threads(asked)
    elif not any(os.environ.get(name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")):
        usable = usable_cpus()
        if usable < torch.get_num_threads():
            torch.set_num_threads(usable)


def cgroup_limit(own: pathlib.Path = OWN_CGROUPS, mounted: pathlib.Path = CGROUPS) -> float | None:
    """Return the CPUs' time per time that the cgroups of this process grant it, version 1 and 2; None: no limit.

    Args:
        own: lists the process's cgroups, as /proc/self/cgroup.
        mounted: the folder of all cgroups.
    """
    try:
        lines = own.read_text().splitlines()
    except OSError:  # another system than Linux
        return None
    limits = []
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:
            limits += [_granted_v2(folder) for folder in _upwards(mounted, path)]
        elif "cpu" in controllers.split(","):
            for name in (controllers, "cpu"):
                limits += [_granted_v1(folder) for folder in _upwards(mounted / name, path)]
    return min((limit for limit in limits if limit is not None), default=None)


def _upwards(mounted: pathlib.Path, path: str) -> Iterator[pathlib.Path]:
    """Yield the folder of a cgroup and those that it is in: each may have a limit. Inside a container the path may be
    the host's, of which only the last folder, the mounted one, is there."""
    folder = mounted / path.lstrip("/")
    while folder != mounted and mounted in folder.parents:
        yield folder
        folder = folder.parent
    yield mounted


def _granted_v2(folder: pathlib.Path) -> float | None:
    """Return the limit of `cpu.max`, such as `150000 100000`: microseconds of each period."""
    words = _words(folder / "cpu.max")
    return _quotient(words[0], words[1]) if len(words) == 2 else None


def _granted_v1(folder: pathlib.Path) -> float | None:
    quota, period = (_words(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    return _quotient(quota[0], period[0]) if len(quota) == len(period) == 1 else None


def _words(path: pathlib.Path) -> list[str]:
    try:
        return path.read_text().split()
    except (OSError, UnicodeDecodeError):
        return []


def _quotient(quota: str, period: str) -> float | None:
    """Return quota / period; None for `max`, -1 and anything else that is no limit."""
    try:
        value = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):
        return None
    return value if value > 0 else None


def is_command(words: list[str]) -> bool:
    """Return whether a process with these words, `sys.orig_argv`, is our command and not another's program.

    >>> is_command(["python", "/usr/bin/mclnf-fast", "info"]), is_command(["python", "-m", "mclnf_fast.cli"])
    (True, True)
    >>> is_command(["python", "train.py", "mclnf-fast"])
    False
    """
    rest = iter(words[1:])
    for word in rest:
        if word in ("-X", "-W"):  # options of Python with a value
            next(rest, None)
        elif word in ("-m", "-c"):
            return word == "-m" and next(rest, None) == "mclnf_fast.cli"
        elif not word.startswith("-"):
            return pathlib.PurePath(word).stem == "mclnf-fast"
    return False


def others_are_busy(load: pathlib.Path = LOAD) -> bool:
    """Return whether other processes leave us fewer CPUs than we may use; False if that is not known.

    Args:
        load: as /proc/loadavg: what is running now, this process included, and on average over the last minute. The
            lesser counts: what has just ended is on the average still, and what runs for a moment is not.
    """
    try:
        average, _, _, running = load.read_text().split()[:4]
        others = min(float(average), int(running.partition("/")[0]) - 1)
    except (OSError, ValueError):
        return False
    return others + usable_cpus() >= (os.cpu_count() or 1) + 0.5


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let the threads of our command sleep soon when they are without work, unless the user has chosen otherwise: after
    about 0.5 ms, or 20 us if other processes keep the cores busy.

    The threads' library reads the environment when torch is imported, so this comes first. In another's program nothing
    is changed: there GOMP_SPINCOUNT in its environment does the same.
    """
    started = "torch" in sys.modules
    if not started and is_command(sys.orig_argv) and not any(name in environment for name in CHOICES):
        environment[CHOICES[0]] = SPINS_BESIDE_OTHERS if others_are_busy() else SPINS_ALONE
