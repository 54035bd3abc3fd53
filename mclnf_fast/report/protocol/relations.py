"""The relations that must hold between the methods of a run, each with its figures and a verdict.

A figure that is missing is "not measured"; a relation whose measured part already fails does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

from mclnf_fast.report.page.blocks import UNMEASURED, Check, Relation
from mclnf_fast.report.page.style import db
from mclnf_fast.report.protocol.counts import Statistics
from mclnf_fast.report.protocol.reach import Reach, reach

MODULES = ("mod", "mim")
RIVALS = ("maml_cl", "oml", "er", "ewc")
PAIRS = {  # methods with a meta-learned initialization, and those with a random one that learn in the same way
    "maml_offline": ("offline",),
    "maml_cl": ("finetune",),
    "oml": ("finetune",),
    "mod": ("offline", "finetune"),
    "mim": ("offline", "finetune"),
}
LEAD, LOSS, GAIN = 1.0, 3.0, 5.0  # dB: over rivals, of fine-tuning, by the initialization
EARLY = (1, 2, 4)  # steps
LATER = 256  # the step from which on the modules must still improve
SIGNALS = 0.60  # share of the signals on which `mim` must be the quicker one
PAPERS_FORM = "The paper's form, shown as it is: nothing is required of it."


def relations(run: Statistics) -> list[Relation]:
    """Return the relations (a) to (d) and that of `mim` to `mod`; variants of `mim` have one each.

    >>> from mclnf_fast.report.record import SignalRecord
    >>> [r.verdict for r in relations(Statistics(SignalRecord(system="image")))]
    ['not measured', 'not measured', 'not measured', 'not measured', 'not measured']
    """
    # `mim` also if it did not run: `not measured` stands in the report, a missing line would pass unnoticed.
    variants = [m for m in run.methods if m.startswith("mim")] or ["mim"]
    return [_ahead(run), _kept(run), _gained(run), _improving(run), *(_quicker(run, m) for m in variants)]


def _ahead(run: Statistics) -> Relation:
    statement = f"(a) mod and mim at the last step above MAML + CL, OML, ER and EWC by at least {LEAD:g} dB each"
    checks = []
    for m in MODULES:
        gaps = [_gap(run, m, rival, run.last) for rival in RIVALS]
        checks.append(_least(f"{m} minus {', '.join(RIVALS)} at step {run.last}", gaps, LEAD))
    return Relation("a", statement, tuple(checks))


def _kept(run: Statistics) -> Relation:
    statement = f"(b) forgetting of mod and mim exactly zero, of fine-tuning at least {LOSS:g} dB"
    checks = []
    for m in MODULES:
        change = run.largest_change(m)
        text = UNMEASURED if change is None else "0, bit for bit" if change == 0 else f"changed by {change:.3g} dB"
        checks.append(Check(f"{m} forgets", text, None if change is None else change == 0.0))
    lost = run.forgetting("finetune") if "finetune" in run.looks else None
    checks.append(
        Check(
            "finetune forgets",
            UNMEASURED if lost is None else db(lost.mean, unit=True),
            None if lost is None else lost.mean >= LOSS,
        )
    )
    return Relation("b", statement, tuple(checks))


def _gained(run: Statistics) -> Relation:
    statement = f"(c) every meta-learned initialization at least {GAIN:g} dB above random at steps 1, 2 and 4"
    checks = []
    for key, others in PAIRS.items():
        gaps = [_lowest(_gap(run, key, other, step) for other in others) for step in EARLY]
        names = " and ".join(others)
        label = f"{key} minus {names if len(others) == 1 else f'the better of {names}'} at steps 1, 2, 4"
        checks.append(_least(label, gaps, GAIN))
    note = "Joint learning against joint, sequential against sequential; modules against the better of the two."
    return Relation("c", statement, tuple(checks), note)


def _improving(run: Statistics) -> Relation:
    statement = f"(d) mod and mim still improve from step {LATER} to the last"
    checks = []
    for m in MODULES:
        early, late = (_mean(run, m, s) for s in (LATER, run.last))
        # A run of no more than 256 steps shows nothing of what comes after them.
        gain = None if early is None or late is None or run.last <= LATER else late - early
        text = UNMEASURED if gain is None else db(gain, sign=True, unit=True)
        label = f"{m}, step {LATER} to {run.last}" if run.last > LATER else f"{m} after step {LATER}"
        checks.append(Check(label, text, None if gain is None else gain > 0))
    return Relation("d", statement, tuple(checks))


def _quicker(run: Statistics, key: str) -> Relation:
    statement = (
        f"({key} : mod) {key} reaches mod's final PSNR in at most 75 % of its steps on at least "
        f"{100 * SIGNALS:.0f} % of the test signals, and not later in wall-clock"
    )
    race = reach(run, key)
    if race is None:
        return Relation(key, statement, (Check(f"steps of {key}", UNMEASURED, None),))
    pairs = f"of {race.pairs} pairs of signal and seed"
    checks = [Check("in at most 75 % of the steps", f"{100 * race.share:.0f} % {pairs}", race.share >= SIGNALS)]
    if race.timed:
        text = f"{100 * race.share_in_time:.0f} % {pairs}"
        checks.append(Check("and not later in wall-clock", text, race.share_in_time >= SIGNALS))
    else:
        checks.append(Check("and not later in wall-clock", UNMEASURED, None))
    note = " ".join([*_beside(race), *_even(run, key)])
    return Relation(key, statement, tuple(checks), f"{PAPERS_FORM} {note}" if key == "mim_weight" else note)


def _beside(race: Reach) -> Iterator[str]:
    """Yield what belongs beside the shares: how often at all, the medians, and when mod itself is first there."""
    yield f"Reached at all in {race.reached} of {race.pairs}."
    steps, times = race.median(race.steps), race.median(race.times)
    if math.isfinite(steps):
        yield f"Median: step {steps:,.0f} of {race.last:,}" + (
            f", {100 * times:.0f} % of the time." if math.isfinite(times) else "."
        )
    first = race.median(race.other_steps)
    if math.isfinite(first):
        yield f"mod itself first touches its own final PSNR at step {first:,.0f} (median)."


def _even(run: Statistics, key: str) -> Iterator[str]:
    """Yield how much of the lead over mod even draws have without any scores: what is left is Fisher information's."""
    lead, even = (_gap(run, m, "mod", run.last) for m in (key, "mod_even"))
    if lead is not None and even is not None:
        yield (
            f"At the last step it is {db(lead, sign=True, unit=True)} against mod; even draws without scores "
            f"(mod_even) are {db(even, sign=True, unit=True)}."
        )


def _gap(run: Statistics, key: str, other: str, step: int) -> float | None:
    """Return `key` minus `other` at a step, in dB; None if either was not measured."""
    mean, rival = _mean(run, key, step), _mean(run, other, step)
    return None if mean is None or rival is None or step < 1 else mean - rival


def _lowest(gaps: Iterable[float | None]) -> float | None:
    """Return the lowest; None if one is missing, since it might be lower still."""
    every = list(gaps)
    known = [g for g in every if g is not None]
    return min(known) if known and len(known) == len(every) else None


def _least(label: str, gaps: Sequence[float | None], least: float) -> Check:
    """Return the check whether each of several gaps in dB is at least `least`."""
    value = ", ".join(UNMEASURED if g is None else db(g, sign=True) for g in gaps)
    if all(g is None for g in gaps):
        return Check(label, UNMEASURED, None)
    # One gap that is too small fails it; missing ones leave it open, since they might be too small as well.
    failed = any(g is not None and g < least for g in gaps)
    return Check(label, f"{value} dB", False if failed else None if None in gaps else True)


def _mean(run: Statistics, key: str, step: int) -> float | None:
    estimate = run.at(key, step) if key in run.looks else None
    return None if estimate is None else estimate.level
