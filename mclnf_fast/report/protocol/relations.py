"""The relations that must hold between the methods, counted from a run: each with its figures and a plain yes or no.

What was not measured is said to be so; a relation whose measured part already fails does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from mclnf_fast.report.page.style import db
from mclnf_fast.report.protocol.counts import Protocol
from mclnf_fast.report.protocol.reach import Reach, reach

MODULES = ("mod", "mim")
RIVALS = ("maml_cl", "oml", "er", "ewc")
STARTS = {  # methods with a meta-learned start, and those with a random one that learn in the same way
    "maml_offline": ("offline",),
    "maml_cl": ("finetune",),
    "oml": ("finetune",),
    "mod": ("offline", "finetune"),
    "mim": ("offline", "finetune"),
}
AHEAD, LOST, START = 1.0, 3.0, 5.0  # dB
EARLY = (1, 2, 4)  # steps
LATER = 256  # the step from which on the modules must still improve
SIGNALS = 0.60  # share of the signals on which `mim` must be the quicker one
UNMEASURED = "not measured"
PAPERS_FORM = "The paper's form, shown as it is: nothing is asked of it."


@dataclass(frozen=True)
class Check:
    """One figure of a relation: what it is, as text, and whether it is as it must be (None: not measured)."""

    what: str
    value: str
    holds: bool | None


@dataclass(frozen=True)
class Relation:
    """A relation with its figures; `holds` is None where nothing fails but something was not measured."""

    key: str
    statement: str
    checks: tuple[Check, ...]
    note: str = ""

    @property
    def holds(self) -> bool | None:
        """False if any figure fails, else None if any is missing, else True."""
        if any(c.holds is False for c in self.checks):
            return False
        return True if self.checks and all(c.holds for c in self.checks) else None

    @property
    def verdict(self) -> str:
        """`holds`, `does not hold` or `not measured` (in part, where some figures are there)."""
        if self.holds is not None:
            return "holds" if self.holds else "does not hold"
        return f"{UNMEASURED} in full" if any(c.value != UNMEASURED for c in self.checks) else UNMEASURED


def relations(run: Protocol) -> list[Relation]:
    """The relations (a) to (d) and that of `mim` to `mod`; variants of `mim` have one each."""
    variants = [m for m in run.methods if m.startswith("mim")] or ["mim"]
    return [_ahead(run), _kept(run), _start(run), _improving(run), *(_quicker(run, m) for m in variants)]


def _ahead(run: Protocol) -> Relation:
    statement = f"(a) mod and mim at the last step above MAML + CL, OML, ER and EWC by at least {AHEAD:g} dB each"
    checks = []
    for m in MODULES:
        gaps = [_gap(run, m, rival, run.last) for rival in RIVALS]
        checks.append(_least(f"{m} minus {', '.join(RIVALS)} at step {run.last}", gaps, AHEAD))
    return Relation("a", statement, tuple(checks))


def _kept(run: Protocol) -> Relation:
    statement = f"(b) forgetting of mod and mim exactly zero, of fine-tuning at least {LOST:g} dB"
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
            None if lost is None else lost.mean >= LOST,
        )
    )
    return Relation("b", statement, tuple(checks))


def _start(run: Protocol) -> Relation:
    statement = f"(c) every meta-learned start at least {START:g} dB above random at steps 1, 2 and 4"
    checks = []
    for one, others in STARTS.items():
        gaps = [_lowest(_gap(run, one, other, step) for other in others) for step in EARLY]
        named = " and ".join(others)
        what = f"{one} minus {named if len(others) == 1 else f'the better of {named}'} at steps 1, 2, 4"
        checks.append(_least(what, gaps, START))
    note = "Joint learning against joint, sequential against sequential; modules against the better of the two."
    return Relation("c", statement, tuple(checks), note)


def _improving(run: Protocol) -> Relation:
    statement = f"(d) mod and mim still improve from step {LATER} to the last"
    checks = []
    for m in MODULES:
        early, late = (_mean(run, m, s) for s in (LATER, run.last))
        gain = None if early is None or late is None or run.last <= LATER else late - early
        text = UNMEASURED if gain is None else db(gain, sign=True, unit=True)
        what = f"{m}, step {LATER} to {run.last}" if run.last > LATER else f"{m} after step {LATER}"
        checks.append(Check(what, text, None if gain is None else gain > 0))
    return Relation("d", statement, tuple(checks))


def _quicker(run: Protocol, one: str) -> Relation:
    statement = (
        f"({one} : mod) {one} reaches mod's final PSNR in at most 75 % of its steps on at least "
        f"{100 * SIGNALS:.0f} % of the test signals, and not later in wall-clock"
    )
    found = reach(run, one)
    if found is None:
        return Relation(one, statement, (Check(f"steps of {one}", UNMEASURED, None),))
    pairs = f"of {found.pairs} pairs of signal and seed"
    checks = [Check("in at most 75 % of the steps", f"{100 * found.share:.0f} % {pairs}", found.share >= SIGNALS)]
    if found.timed:
        text = f"{100 * found.share_in_time:.0f} % {pairs}"
        checks.append(Check("and not later in wall-clock", text, found.share_in_time >= SIGNALS))
    else:
        checks.append(Check("and not later in wall-clock", UNMEASURED, None))
    note = " ".join(_beside(found))
    return Relation(one, statement, tuple(checks), f"{PAPERS_FORM} {note}" if one == "mim_weight" else note)


def _beside(found: Reach) -> Iterator[str]:
    """What belongs beside the shares: how often at all, the medians, and mod's own first touch."""
    yield f"Reached at all in {found.reached} of {found.pairs}."
    steps, times = found.median(found.steps), found.median(found.times)
    if math.isfinite(steps):
        yield f"Median: step {steps:,.0f} of {found.last:,}" + (
            f", {100 * times:.0f} % of the time." if math.isfinite(times) else "."
        )
    own = found.median(found.own)
    if math.isfinite(own):
        yield f"mod itself first touches its own final PSNR at step {own:,.0f} (median)."


def _gap(run: Protocol, one: str, other: str, step: int) -> float | None:
    """`one` minus `other` at a step, in dB; None where either was not measured."""
    mine, theirs = _mean(run, one, step), _mean(run, other, step)
    return None if mine is None or theirs is None or step < 1 else mine - theirs


def _lowest(gaps: Iterable[float | None]) -> float | None:
    """The lowest; None where one is missing: it might be lower still."""
    given = list(gaps)
    known = [g for g in given if g is not None]
    return min(known) if known and len(known) == len(given) else None


def _least(what: str, gaps: Sequence[float | None], least: float) -> Check:
    """Whether each of several gaps in dB is at least `least`."""
    value = ", ".join(UNMEASURED if g is None else db(g, sign=True) for g in gaps)
    if all(g is None for g in gaps):
        return Check(what, UNMEASURED, None)
    failed = any(g is not None and g < least for g in gaps)
    return Check(what, f"{value} dB", False if failed else None if None in gaps else True)


def _mean(run: Protocol, key: str, step: int) -> float | None:
    found = run.at(key, step) if key in run.looks else None
    return None if found is None else found.mean
