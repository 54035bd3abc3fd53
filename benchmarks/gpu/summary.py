"""What is printed last, and what is kept."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

from benchmarks.gpu.context import FILE_BYTES, FILES, Outcome, Run

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


def keep(run: Run, outcomes: Sequence[Outcome], more: dict[str, Any], seconds: float) -> None:
    """Write the JSON and the table; whenever the run is killed, those of the parts before are whole."""
    data = {**more, "verdict": verdict(outcomes), "parts": [dataclasses.asdict(o) for o in outcomes]}
    for suffix, text in ((".json", json.dumps(data, indent=1)), (".txt", page(outcomes, seconds))):
        path = run.out / f"{run.stem}{suffix}"
        new = path.with_suffix(".new")
        new.write_text(text + "\n", encoding="utf-8")
        os.replace(new, path)


def text(run: Run) -> str:
    """Return the table as it is kept, and what a machine that carries few and small files would leave behind."""
    written = files(run)
    large = [
        f"{path.name} is larger than {FILE_BYTES >> 20} MiB" for path in written if path.stat().st_size > FILE_BYTES
    ]
    large += [f"{len(written)} files, more than {FILES}"] * (len(written) > FILES)
    table = run.out / f"{run.stem}.txt"
    return "\n".join([*large, table.read_text(encoding="utf-8").rstrip() if table.exists() else ""])


def files(run: Run) -> list[pathlib.Path]:
    """Return the files of a run."""
    return sorted(path for path in run.out.iterdir() if path.stem in (run.stem, f"bench_{run.stem}"))
