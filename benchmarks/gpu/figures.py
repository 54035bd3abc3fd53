"""The parts that measure, each alone on the machine: the benchmark, kernels one by one, steps of learning."""

from __future__ import annotations

import json
from typing import Any

from benchmarks import cases, table
from benchmarks.gpu import process
from benchmarks.gpu.context import PROGRAMS, Outcome, Run, json_lines

CPU_CASES = "backward/16x64/bf16,composite/forward,render/fp32"


def bench(run: Run, limit: float) -> Outcome:
    """`mclnf-fast bench --suite gpu --quick`: what is done when the time is out is kept."""
    path = run.out / f"bench_{run.stem}.json"
    words = ["--suite", "gpu", "--quick", "--out", str(path)]
    words += ["--dry-run", "--only", CPU_CASES] if run.cpu else []
    done = run.python("bench", "benchmarks", *words, limit=limit - process.GRACE)
    wanted = cases.pick(cases.load_suite("gpu"), CPU_CASES if run.cpu else None, quick=True)
    try:
        data: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return Outcome("bench", "failed", "time ran out in the first case" if done.late else done.last(), done.seconds)
    return measured(data, [case.id for case in wanted], done)


def measured(data: dict[str, Any], wanted: list[str], done: process.Done) -> Outcome:
    """Return the bars of a result, and who took no part."""
    results = data["cases"]
    red = [f"{r['id']}: {r['reason']}" for r in results if r["status"] == "red"]
    left = len(wanted) - len(results)
    passed, judged_bars, aims, aimed = table.count(results)
    dry = data["settings"].get("dry_run")
    reached = f"{passed} of {judged_bars} bars and {aims} of {aimed} aims reached"
    detail = f"{len(results)} cases, {'a dry run at tiny sizes' if dry else reached}"
    outcome = Outcome("bench", "ok", detail, done.seconds, [*red, *([] if dry else bars(results))])
    outcome.lines += ["host us a call (ms on the device alone):", *table.hosts(results)] if table.hosts(results) else []
    if left:
        outcome.result, outcome.detail = "cut", f"{detail}, {left} cases not reached"
    if red or (done.code != 0 and not done.late):
        outcome.result = "failed"
        outcome.detail = f"{len(red)} cases wrong, {detail}" if red else done.last()
    outcome.skipped = [f"{r['id']}: {r['reason']}" for r in results if r["status"] == "skipped"]
    outcome.skipped += absent(results)
    outcome.data = {"limits": data["limits"], "not_reached": wanted[len(results) :]}
    return outcome


def absent(results: list[dict[str, Any]]) -> list[str]:
    """Return the contenders that took no part, or were wrong and got no figure, and why; what a quick run leaves out
    aside."""
    lines: dict[str, None] = {}
    for r in results:
        for peer, reason in r["absent"].items():
            if "quick run" not in reason:
                lines[f"{peer}: {reason}" if "not installed" in reason else f"{r['id']}, {peer}: {reason}"] = None
        for row in r["contenders"]:
            if row["reason"] and row["peer"]:
                lines[f"{r['id']}, {row['name']}: no figure, {row['reason']}"] = None
    return list(lines)


def bars(results: list[dict[str, Any]]) -> list[str]:
    """Return every bar with its value against what it must reach and what is aimed at."""
    rows = [
        [r["id"], table.bar_name(b), table.figure(b["what"], b["value"]), table.goal(b, "must"), table.goal(b, "aim"),
         table.verdict(b)]
        for r in results for b in r["bars"]
    ]  # fmt: skip
    return table.aligned(["case", "bar", "got", "must", "aim", "verdict"], rows, {2, 3, 4}) if rows else []


def kernels(run: Run, limit: float) -> Outcome:
    """Time our kernels alone, with what each takes of the machine."""
    done = run.python("kernels", f"{PROGRAMS}.kernels", run.device, limit=limit)
    outcome = rows_of("kernels", done)
    rows = [
        [row["name"], kernel["name"], table.number(kernel["count"]), table.number(kernel["us"])]
        + [str(kernel.get(key, "-")) for key in ("registers", "spilled_bytes", "shared_bytes", "occupancy")]
        for row in outcome.data["rows"]
        for kernel in row.get("kernels", ())
    ]
    head = ["case", "kernel", "a call", "us", "registers", "spilled", "shared", "occupancy %"]
    outcome.lines += table.aligned(head, rows, set(range(2, 8))) if rows else []
    return outcome


def learning(run: Run, limit: float) -> Outcome:
    """Profile twenty steps of the quick city and of the quick images, method by method."""
    done = run.python("learning", f"{PROGRAMS}.learning", run.device, limit=limit)
    outcome = rows_of("learning", done)
    keys = ("ms", "launches", "copies", "waits")
    rows = [
        [row["name"], *(table.number(row[key]) for key in keys), f"{100 * row['busy']:.0f}"]
        for row in outcome.data["rows"]
        if "ms" in row
    ]
    head = ["steps of", "ms a step", "launches", "copies", "waits", "busy %"]
    outcome.lines += table.aligned(head, rows, set(range(1, 6))) if rows else []
    return outcome


def rows_of(part: str, done: process.Done) -> Outcome:
    """Return the outcome of a program that prints a row of figures per job, or the reason that it failed."""
    rows = json_lines(done.output)
    failed = [f"{row['name']}: {row['failed']}" for row in rows if "failed" in row]
    outcome = Outcome(part, "ok", f"{len(rows) - len(failed)} measured", done.seconds, failed, data={"rows": rows})
    if failed or (done.code != 0 and not done.late):
        outcome.result, outcome.detail = "failed", f"{len(failed)} of {len(rows)} failed" if failed else done.last()
    elif done.late:
        outcome.result, outcome.detail = "cut", f"time ran out after {len(rows)}"
    return outcome
