"""What is printed last, and the JSON."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.steps import Outcome

SHOWN = {"ok": "ok", "failed": "FAILED", "cut": "CUT", "skipped": "skipped"}


def page(outcomes: Sequence[Outcome], seconds: float) -> str:
    """Return a line per part with the lines below it, the absent peers, and the verdict."""
    lines = ["", f"{'part':<11}{'result':<9}{'s':>5}  what"]
    for o in outcomes:
        lines.append(f"{o.part:<11}{SHOWN[o.result]:<9}{o.seconds:>5.0f}  {o.detail}")
        lines += [f"  {line}" for line in o.lines]
    skipped = list(dict.fromkeys(line for o in outcomes for line in o.skipped))
    lines += ["took no part:", *(f"  {line}" for line in skipped)] if skipped else []
    return "\n".join([*lines, f"{verdict(outcomes)}, {seconds:.0f} s"])


def verdict(outcomes: Sequence[Outcome]) -> str:
    """Return one line: the failures, the parts cut short, or that all is well."""
    failed = [o.part for o in outcomes if o.result == "failed"]
    cut = [o.part for o in outcomes if o.result == "cut"]
    if failed:
        return f"FAILED: {', '.join(failed)}"
    return f"cut short: {', '.join(cut)}; nothing failed" if cut else "all ok"


def code(outcomes: Sequence[Outcome]) -> int:
    """0 all ok, 1 a part failed, 3 nothing failed but a part was cut short."""
    results = {o.result for o in outcomes}
    return 1 if "failed" in results else 3 if "cut" in results else 0


def keep(path: pathlib.Path, outcomes: Sequence[Outcome], more: dict[str, Any]) -> None:
    """Write the JSON."""
    data = {**more, "verdict": verdict(outcomes), "parts": [dataclasses.asdict(o) for o in outcomes]}
    path.write_text(json.dumps(data, indent=1) + "\n")
