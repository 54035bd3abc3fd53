"""The checks of the quick cases and a few steps of each system, so that Triton's cache has what will be measured.

`python -m benchmarks.gpu.programs.compiled cuda 0/10`: a share of it. Each measurement comes alone afterwards, in one
process, where compiling would take most of its time. A line of JSON per case, with the reason if it is wrong.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Sequence

from benchmarks import cases, runner
from benchmarks.gpu.programs import kernels, learning


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 all is well, 1 something is wrong."""
    device, share = arguments
    first, of = map(int, share.split("/"))
    suite = cases.load_suite("gpu") if device == "cuda" else cases.tiny(cases.load_suite("gpu"))
    wanted = [case for case in suite.cases if case.quick or case.id in kernels.CASES]
    jobs: list[cases.Case | str] = [*learning.JOBS, *wanted] if device == "cuda" else [learning.JOBS[0], wanted[0]]
    wrong = 0
    for job in jobs[first::of]:
        begin = time.perf_counter()
        try:
            if isinstance(job, str):
                name, reason = job, None
                learning.report(job, device, warm=2, steps=1)
            else:
                name, alone = job.id, dataclasses.replace(job, time=False, memory=(), bars=())
                result = runner.run_case(alone, 0.0, ("compile",))
                reason = result["reason"] if result["status"] == "red" else None
        except Exception as error:  # the others go on
            name, reason = str(getattr(job, "id", job)), f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        wrong += reason is not None
        seconds = round(time.perf_counter() - begin, 2)
        print(json.dumps({"name": name, "reason": reason, "seconds": seconds}), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
