"""One case from end to end: contenders, correctness, timing in turn, memory, bars -> plain data."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import bars, correctness, device, limit, memory, peers, timing, variants, work
from benchmarks.cases import Case
from benchmarks.contender import Contender, Unsupported
from benchmarks.work import Work

Say = Callable[[str], None]


def contenders_of(case: Case, problem: Work, skip: tuple[str, ...] = ()) -> tuple[list[Contender], dict[str, str]]:
    """Ours and the peers, and why a peer of the case takes no part."""
    absent: dict[str, str] = {}
    found = [problem.prepared(c) for c in problem.ours()]
    for name in case.peers:
        reason = "left out of a quick run" if name in skip else peers.missing(name)
        if reason is None:
            try:
                found.append(problem.prepared(peers.contender(name, case.op, problem)))
                continue
            except Unsupported as error:
                reason = str(error)
            except Exception as error:  # a peer that breaks is a result, not the end of the run
                reason = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        absent[name] = reason
    return found, absent


def check(found: list[Contender], problem: Work) -> dict[str, correctness.Verdict]:
    """Return the verdict on every contender. One that raises is red, with what it said."""
    truth, tolerance = problem.truth(), problem.verify()
    verdicts = {}
    for contender in found:
        try:
            verdicts[contender.name] = correctness.judge(contender, truth, tolerance)
        except Exception as error:
            said = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            verdicts[contender.name] = correctness.Verdict({}, said)
    return verdicts


def run_case(case: Case, seconds: float, skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the result of a case.

    Correctness is checked first: a contender that is wrong is named and gets no figure, and if one of ours is wrong
    the whole case gets none. `status` is `ok`, `red` or `skipped`. What was measured of a red case is only kept, as
    `seconds_in_a_red_case`: on a machine that is lent for minutes, a tolerance that is wrong must not cost the figures.
    """
    result: dict[str, Any] = {
        "id": case.id,
        "op": case.op,
        "title": case.title,
        "shapes": case.shapes,
        "limit": case.limit,
        "status": "ok",
        "reason": None,
        "contenders": [],
        "absent": {},
        "bars": [],
    }
    if (reason := work.missing(case.op)) is not None:
        return {**result, "status": "skipped", "reason": reason}
    torch.manual_seed(0)
    problem = variants.Variants(case) if case.variants else work.make(case)
    if isinstance(problem, variants.Variants):
        found, result["absent"] = problem.contenders(skip)
    else:
        found, result["absent"] = contenders_of(case, problem, skip)
    verdicts = check(found, problem)
    right = [c for c in found if verdicts[c.name].reason is None]
    ours = [c.name for c in found if not c.peer]
    wrong = [f"{name}: {verdicts[name].reason}" for name in ours if verdicts[name].reason is not None]
    if wrong:
        result |= {"status": "red", "reason": "; ".join(wrong)}
    gc.collect()
    series, raw = {}, {}
    if case.time and not wrong:
        meter = limit.meter(case.limit, case.device, case.shapes.get("dtype", "float32"))
        series = timing.in_turn(right, seconds, meter, **device.clock(case.device))
    elif case.time:
        raw = raw_seconds([c for c in found if verdicts[c.name].errors], seconds, case.device)
    for contender in found:
        row = describe(contender, problem, verdicts[contender.name])
        if contender.name in series:
            row |= figures(contender, series[contender.name], beside(contender, ours, series), problem, case)
            if case.device == "cuda":
                row |= device.alone(contender, row["seconds"]["median"] * contender.share)
        if contender.name in raw:
            row["seconds_in_a_red_case"] = raw[contender.name]
        result["contenders"].append(row)
    del problem, found, right
    gc.collect()
    if case.memory and not wrong:
        for row in result["contenders"]:
            if row["name"] in case.memory:
                row["memory"] = memory.in_fresh_process(case, row["name"])
    result["bars"] = [] if wrong else bars.evaluate(case, result["contenders"], series, ours)
    return result


def raw_seconds(ran: list[Contender], seconds: float, where: str) -> dict[str, list[float]]:
    """Return the seconds of every run of contenders of which one is wrong; nothing if they can't be timed."""
    try:
        series = timing.in_turn(ran, seconds, **device.clock(where)) if ran else {}
    except Exception:  # the case is red already, and says why
        return {}
    return {name: own.seconds for name, own in series.items()}


def beside(contender: Contender, ours: list[str], series: dict[str, timing.Series]) -> timing.Series | None:
    """Return the series of ours that a contender is compared with: that of its variant, or the first."""
    return series.get(contender.variant if contender.variant in ours else ours[0])


def describe(contender: Contender, problem: Work, verdict: correctness.Verdict) -> dict[str, Any]:
    """Return the facts of a contender before it is timed."""
    return {
        "name": contender.name,
        "peer": contender.peer,
        "variant": contender.variant,
        "status": "ok" if verdict.reason is None else "wrong",
        "reason": verdict.reason,
        "errors": verdict.errors,
        "points": problem.points,
        "share": contender.share,
        "note": contender.note,
    }


def figures(
    contender: Contender, mine: timing.Series, own: timing.Series | None, problem: Work, case: Case
) -> dict[str, Any]:
    """Return the seconds of the whole problem, rates, share of the limit and time over ours, with every raw number."""
    low, middle, high = timing.quartiles(mine.seconds)
    flops = contender.flops if contender.flops is not None else problem.flops
    moved = contender.moved if contender.moved is not None else problem.moved
    counted = {"fma": flops, "matmul": flops, "copy": moved}.get(case.limit or "")
    rates = [counted / s * limit.SCALE[case.limit or ""] for s in mine.seconds] if counted else []
    known = [r / l for r, l in zip(rates, mine.limits) if l == l and l > 0]
    return {
        "seconds": {"median": middle, "q1": low, "q3": high, "samples": mine.seconds},
        "limits": [l for l in mine.limits if l == l],
        "rate": timing.median(rates) if rates else None,  # GFLOP/s, TFLOP/s or GB/s, as the case's limit
        "limit_share": timing.median(known) if known else None,
        "times_ours": timing.ratio(mine, own) if own is not None else None,
    }
