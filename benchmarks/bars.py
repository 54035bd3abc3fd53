"""The bars of a case: whether its result reaches what it must, and what it aims at."""

from __future__ import annotations

from typing import Any

from benchmarks import limit, timing
from benchmarks.cases import Bar, Case

Rows = list[dict[str, Any]]


def evaluate(case: Case, rows: Rows, series: dict[str, timing.Series], ours: list[str]) -> list[dict[str, Any]]:
    """Return a row per bar: `what`, `must`, `aim`, `value`, `against` (who it was measured against), `passed`,
    `reached` (the aim), or a `void` reason if the bar does not apply here."""
    return [_one(bar, case, rows, series, ours) for bar in case.bars]


def _one(bar: Bar, case: Case, rows: Rows, series: dict[str, timing.Series], ours: list[str]) -> dict[str, Any]:
    row: dict[str, Any] = {"what": bar.what, "must": bar.must, "aim": bar.aim}
    row |= {"value": None, "against": ", ".join(bar.against) or None, "passed": None, "reached": None, "void": None}
    if bar.needs and not limit.has(bar.needs):
        return {**row, "void": f"this machine has no {bar.needs}"}
    by_name = {r["name"]: r for r in rows}
    mine = by_name[ours[0]]
    if bar.what == "limit_share":
        row |= {"value": mine.get("limit_share"), "against": case.limit}
    elif bar.what == "seconds":
        if ours[0] in series:
            row |= {"value": timing.median(series[ours[0]].seconds), "against": "the clock"}
    elif bar.what == "spread":
        if all(name in series for name in ours):
            ratios = {name: timing.ratio(series[name], series[ours[0]]) for name in ours}
            slowest = max(ratios, key=lambda name: ratios[name])
            row |= {"value": ratios[slowest], "against": f"{slowest} / {ours[0]}"}
    elif bar.what == "memory_ratio":
        other = by_name.get(bar.against[0], {})
        if mine.get("memory") and other.get("memory"):
            row |= {"value": mine["memory"]["bytes"] / other["memory"]["bytes"], "against": other["name"]}
    else:
        names = bar.against or tuple(name for name in by_name if name not in ours)
        timed = [name for name in names if name in series]
        if timed and ours[0] in series:
            best = min(timed, key=lambda name: timing.median(series[name].seconds))
            over, under = (series[best], series[ours[0]]) if bar.at_least else (series[ours[0]], series[best])
            row |= {"value": timing.ratio(over, under), "against": best}
    value = row["value"]
    if value is None:
        return {**row, "void": "nothing to measure against"}
    reached = [
        None if goal is None else (value >= goal if bar.at_least else value <= goal) for goal in (bar.must, bar.aim)
    ]
    return {**row, "passed": reached[0], "reached": reached[1]}
