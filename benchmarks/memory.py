"""Peak memory of one run of a contender, in a process of its own: `python -m benchmarks.memory`, used by the runner.

The peak of the resident set (VmHWM), reset just before the run, less what was resident then: inputs, parameters and
libraries are not counted, results and every buffer are, those of C++ containers too. The process is started so that
malloc gives every block of 64 KiB or more its own mapping and returns it when it is freed, and without huge pages, so
that the figure is what was held and not what the allocator kept, nor our own pool of large blocks; the kernel counts
it to some hundred KiB. A run on a few points comes first: it loads what is loaded once and starts the threads.

On a GPU it is the peak of what torch's allocator had handed out (`torch.cuda.max_memory_allocated`), less what it had
before the run; what a peer takes from the driver on its own is not in it.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

import mclnf_fast
from benchmarks.cases import Bar, Case

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
    # Large blocks of our own that the run on a few points has left would not be counted again.
    "MCLNF_FAST_POOL_MB": "0",
}
NO_HUGE_PAGES = 41  # PR_SET_THP_DISABLE


def in_fresh_process(case: Case, contender: str) -> dict[str, Any]:
    """`bytes` and `how` they were read; or `reason` where the process failed."""
    import torch

    given = {"case": dataclasses.asdict(case), "contender": contender, "threads": torch.get_num_threads()}
    # The library that is loaded here, and these files: they need not lie in one place.
    places = [pathlib.Path(mclnf_fast.__file__).parents[1], pathlib.Path(__file__).parents[1]]
    path = os.pathsep.join([*(str(p.resolve()) for p in places), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "benchmarks.memory"],
        input=json.dumps(given),
        env={**os.environ, **ENVIRONMENT, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        return {"reason": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def status(key: str) -> int:
    """Return a size of /proc/self/status, in bytes."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}")


def peak_of(case: Case, name: str) -> dict[str, Any]:
    """Run a contender once and read its peak."""
    _find(shrunk(case), name).run()
    contender = _find(case, name)
    gc.collect()
    if case.device == "cuda":
        return _peak_on_gpu(contender)
    try:
        ctypes.CDLL(None).malloc_trim(0)
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts anew
        before, how = status("VmHWM"), "VmHWM"
    except (OSError, AttributeError):
        import resource

        before, how = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT, "ru_maxrss"
    result = contender.run()
    if how == "VmHWM":
        after = status("VmHWM")
    else:
        after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT
    del result
    return {"bytes": max(after - before, 0), "how": how}


def _peak_on_gpu(contender: Any) -> dict[str, Any]:
    import torch

    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = contender.run()
    torch.cuda.synchronize()
    after = torch.cuda.max_memory_allocated()
    del result
    return {"bytes": max(after - before, 0), "how": "torch.cuda.max_memory_allocated"}


_UNIT = 1 if sys.platform == "darwin" else 1024


def shrunk(case: Case) -> Case:
    """Return the same case on a few points per module."""
    shapes = dict(case.shapes)
    modules = int(shapes.get("modules", 1))
    for key in ("points", "rays"):
        if key in shapes:
            shapes[key] = modules * 8
    return dataclasses.replace(case, shapes=shapes)


def _find(case: Case, name: str) -> Any:
    from benchmarks import peers, work

    problem = work.make(case)
    for contender in problem.ours():
        if contender.name == name:
            return problem.prepared(contender)
    return problem.prepared(peers.contender(name, case.op, problem))


def main() -> None:
    """Read a case, a contender and a number of threads from stdin; write the figure as JSON."""
    import torch

    given = json.load(sys.stdin)
    if hasattr(ctypes.CDLL(None), "prctl"):
        ctypes.CDLL(None).prctl(NO_HUGE_PAGES, 1, 0, 0, 0)
    torch.set_num_threads(given["threads"])
    row = given["case"]
    row |= {key: tuple(row[key]) for key in ("peers", "variants", "memory")}
    row["bars"] = tuple(Bar(**{**bar, "against": tuple(bar["against"])}) for bar in row["bars"])
    print(json.dumps(peak_of(Case(**row), given["contender"])))


if __name__ == "__main__":
    main()
