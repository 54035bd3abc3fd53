"""Our kernels alone: what a call takes by events, and each of its kernels with registers, spills and occupancy.

`python -m benchmarks.gpu.programs.kernels cuda`: a line of JSON per case of the suite `gpu`. Registers, shared memory
and occupancy are those that the profiler reports; bytes spilled those of the driver (Triton) or of the library's stack
frames (CUDA, if cuobjdump is there).
"""

from __future__ import annotations

import functools
import gc
import json
import pathlib
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch

import mclnf_fast
from benchmarks import cases, device, timing, work
from benchmarks.gpu.context import tool
from benchmarks.gpu.programs import trace

CASES: tuple[str, ...] = (
    "forward/16x64/bf16",
    "forward/16x128/bf16",
    "backward/16x64/bf16",
    "fit/16x64/tf32",
    "fisher/all/tf32",
    "nerf/tf32",
    "render/tf32",
    "loop/132x64/fp32",
    "loop/132x64/tf32",
    "loop/rays/fp32",
    "march",
    "composite/forward",
    "composite/backward",
    "adam/1024x64",
    "hash/forward",
    "hash/backward",
)
LEAST_SHARE = 0.03  # of a call's time on the device, of a kernel that is named
PROFILED = 3  # calls


def triton_spills() -> dict[tuple[str, int], int]:
    """Return the bytes that Triton's kernels of this process spill per thread, by name and registers."""
    try:
        from triton.compiler import CompiledKernel
    except ImportError:
        return {}
    loaded = [k for k in gc.get_objects() if type(k) is CompiledKernel and getattr(k, "n_regs", None)]
    return {(kernel.name, kernel.n_regs): 4 * kernel.n_spills for kernel in loaded}


def cuda_stacks() -> dict[str, int]:
    """Return the bytes of the stack frames of the CUDA library's kernels per thread, by full name; empty without the
    tools that read them."""
    library = pathlib.Path(mclnf_fast.__file__).parent / "_C_cuda.so"
    reader, filt = _cuobjdump(), shutil.which("c++filt") or tool("cu++filt")
    if reader is None or filt is None or not library.exists():
        return {}
    read = functools.partial(subprocess.run, capture_output=True, text=True, check=False, timeout=60)
    return stacks(read([filt], input=read([reader, "-res-usage", str(library)]).stdout).stdout)


def stacks(text: str) -> dict[str, int]:
    """Return the stack frames of an output of `cuobjdump -res-usage`.

    >>> stacks(" Function void fit<float>(int):\\n  REG:255 STACK:48 SHARED:0 LOCAL:0 CONSTANT[0]:900 TEXTURE:0")
    {'void fit<float>(int)': 48}
    """
    return {name: int(stack) for name, stack in re.findall(r"Function (.+):\n\s+REG:\d+ STACK:(\d+)", text)}


def _cuobjdump() -> str | None:
    try:
        import triton
    except ImportError:
        return tool("cuobjdump")
    own = pathlib.Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return tool("cuobjdump") or (str(own) if own.exists() else None)


def measure(case: cases.Case, frames: dict[str, int]) -> dict[str, Any]:
    """Return the figures of a case's first contender of ours and of its kernels."""
    problem = work.make(case)
    ours = problem.prepared(problem.ours()[0])
    ours.run()
    if case.device == "cuda":
        seconds = device.slot(ours, 1)
        times = 1 if seconds > device.SHORT else 20
        row = {"name": case.id, "seconds": device.slot(ours, times), **device.alone(ours, seconds)}
    else:
        row = {"name": case.id, "seconds": timing.in_turn([ours], 0.0)[ours.name].seconds[0]}

    def several() -> None:
        for _ in range(PROFILED):
            ours.run()

    seen = trace.profiled(several, case.device)
    spills, total = triton_spills(), sum(k["us"] * k["count"] for k in seen.kernels)
    row |= {"launches": seen.launches / PROFILED, "waits": seen.waits / PROFILED, "kernels": []}
    for kernel in seen.kernels:
        if kernel["us"] * kernel["count"] < LEAST_SHARE * total:
            continue
        name, full = trace.short(kernel["name"]), kernel["name"]
        spilled = spills.get((name, kernel.get("registers", 0)), frames.get(full))
        known = {"name": name, "full_name": full[:200], "count": kernel["count"] / PROFILED, "spilled_bytes": spilled}
        row["kernels"].append({**kernel, **known})
    return row


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 all is well, 1 a case broke."""
    suite, names = cases.load_suite("gpu"), CASES
    if arguments[0] != "cuda":  # does it hold together?
        suite, names = cases.tiny(suite), CASES[:3]
    frames, code = cuda_stacks(), 0
    for case in sorted((case for case in suite.cases if case.id in names), key=lambda case: names.index(case.id)):
        torch.manual_seed(0)
        try:
            row = measure(case, frames)
        except Exception as error:  # the others go on
            row, code = {"name": case.id, "failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}, 1
        print(json.dumps(row), flush=True)
        gc.collect()
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
