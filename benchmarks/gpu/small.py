"""Every op of ours once, small, on a device: what the sanitizer watches. `python -m benchmarks.gpu.small cuda`.

Sizes that are no multiple of any tile, modules of unequal shares; what comes out must be finite and, with `--check`,
right. Under the sanitizer it is run without: the truth would take longer than what it is held against.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

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
    ("render_rays", {**RAYS, "dtype": "float32"}),
    ("nerf_step", {**RAYS, "dtype": "float32"}),
)


def problems(device: str) -> Iterator[tuple[str, work.Work, Contender]]:
    """Return every problem that this checkout can do, and ours."""
    for op, shapes in SHAPES:
        if work.missing(op) is None:
            problem = work.make(cases.Case(op, op, device, shapes))
            yield op, problem, problem.prepared(problem.ours()[0])


def main(arguments: Sequence[str]) -> int:
    """Exit codes: 0 all is well, 1 something is not finite or not right."""
    device, checked = arguments[0], "--check" in arguments
    wrong = 0
    for op, problem, ours in problems(device):
        if checked:
            reason = correctness.judge(ours, problem.truth(), problem.verify()).reason
        else:
            bad = [name for name, value in ours.values().items() if not bool(value.isfinite().all())]
            reason = f"{', '.join(bad)}: not finite" if bad else None
        wrong += reason is not None
        print(f"{op}: {reason or 'ok'}", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
