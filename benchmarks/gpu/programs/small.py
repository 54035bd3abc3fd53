"""Every op of ours once, small, on a device: what the sanitizer watches.

`python -m benchmarks.gpu.programs.small cuda`. Sizes that are no multiple of any tile, modules of unequal shares; the
results must be finite and, with `--check`, right (and the calls are counted that wait for the device). Under the
sanitizer it is run without: the truth would take longer than what it is held against. With `1/3` the second of three
shares. A line of JSON per op.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks import cases, correctness, work
from benchmarks.contender import Contender

BANK = {"modules": 3, "points": 301, "hidden": 2, "octaves": 3, "shares": "zipf"}
EQUAL = {"modules": 3, "points": 303, "hidden": 2, "octaves": 3, "width": 32}
FIT = {"modules": 3, "samples": 99, "batch": 71, "steps": 3, "hidden": 3, "octaves": 0, "w0": 10.0, "dtype": "float32"}
RAYS = {"modules": 3, "rays": 33, "samples": 9, "bins": 9, "resolution": 7, "hidden": 2, "octaves": 3, "width": 32}
GRID = {"points": 301, "modules": 1, "levels": 3, "features": 2, "log2_size": 9, "resolution": 9}
SHAPES: tuple[tuple[str, dict[str, Any]], ...] = (
    *(("forward", {**BANK, "width": width, "dtype": dtype}) for width, dtype in ((32, "bfloat16"), (64, "tf32"))),
    *(
        ("forward_backward", {**BANK, "width": width, "dtype": dtype})
        for width, dtype in ((32, "float32"), (64, "tf32"))
    ),
    ("squared_error", {**EQUAL, "dtype": "float32"}),
    ("fisher_all", {**EQUAL, "dtype": "float32"}),
    ("fisher_rays", {**EQUAL, "ray_points": 101, "peer_points": 101, "dtype": "float32"}),
    ("march", RAYS),
    ("composite", RAYS),
    ("composite_backward", RAYS),
    ("grid", {**GRID, "kind": "hash"}),
    ("grid_backward", {**GRID, "kind": "hash"}),
    ("grid_backward", {**GRID, "kind": "triplane"}),
    ("bank_step", {**BANK, "width": 32, "dtype": "float32"}),
    *(("fit_loop", {**FIT, "width": width}) for width in (37, 64, 128)),
    *(("fit_loop", {**FIT, "width": 64, "precision": precision}) for precision in ("tf32", "bf16", "fp16")),
    ("fit_guided", {**FIT, "width": 32}),
    ("fit_loop", {**FIT, "width": 64, "modules": 1, "samples": 1999, "batch": 1025}),
    *(("fit_rays", {**RAYS, "batch": 11, "steps": 3, "precision": p}) for p in ("fp32", "tf32")),
    ("maml", {**EQUAL, "dtype": "float32", "steps": 2, "lr": 0.01}),
    ("render_rays", {**RAYS, "dtype": "float32"}),
    ("nerf_step", {**RAYS, "dtype": "float32"}),
)
LABELS = ("kind", "width", "dtype", "precision", "modules")


def problems(device: str, first: int = 0, of: int = 1) -> Iterator[tuple[str, work.Work, Contender]]:
    """Return every problem of a share that this checkout can do, and ours."""
    for op, shapes in SHAPES[first::of]:
        if work.missing(op) is None:
            problem = work.make(cases.Case(op, op, device, shapes))
            yield label(op, shapes), problem, problem.prepared(problem.ours()[0])


def label(op: str, shapes: dict[str, Any]) -> str:
    """Return an op and the sizes by which its problems differ.

    >>> label("march", {"modules": 3, "rays": 33}), label("fit_loop", {"width": 64, "modules": 1})
    ('march', 'fit_loop 64 1')
    """
    return " ".join([op, *(str(shapes[k]) for k in LABELS if k in shapes and (k, shapes[k]) != ("modules", 3))])


def waits(ours: Contender) -> int:
    """Return how often torch waits for the device in a run, after one that has made what is made once."""
    ours.run()
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            ours.run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(one.message) for one in caught)


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 all is well, 1 something is not finite or not right."""
    device, checked = arguments[0], "--check" in arguments
    share = next((word for word in arguments if "/" in word), "0/1")
    wrong = 0
    for name, problem, ours in problems(device, *map(int, share.split("/"))):
        row: dict[str, Any] = {"name": name}
        try:
            if checked:
                reason = correctness.judge(ours, problem.truth(), problem.verify()).reason
            else:
                bad = [key for key, value in ours.values().items() if not bool(value.isfinite().all())]
                reason = f"{', '.join(bad)}: not finite" if bad else None
            if checked and device == "cuda":
                row["waits"] = waits(ours)
            elif ours.check is not None:
                ours.run()  # another call than that of the check
        except Exception as error:  # the others go on, unless the error stays, and then each reports it
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        wrong += reason is not None
        print(json.dumps({**row, "reason": reason}), flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
