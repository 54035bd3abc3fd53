"""The columns of a table of initializations: PSNR over steps, and what each was given before them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.page.style import db, duration, number
from mclnf_fast.report.page.tables import Column, column
from mclnf_fast.report.record import InitializationRecord

TRIVIAL = ("white", "mean")  # they take no steps: their PSNR is shown at the last step alone
MILESTONES = (0, 1, 16)  # steps of every table, besides the best and the last: before anything is seen, and soon after
Mean = tuple[float, float | None]  # a mean over test tasks, and its standard error (None for a single task)


def mean_error(values: Iterable[float | None] | None) -> Mean | None:
    """Return the mean over test tasks and its standard error (None for one task); None if nothing was measured.

    >>> mean_error([1.0, None, 3.0])
    (2.0, 1.0)
    """
    known = [v for v in values or () if v is not None]
    if not known:
        return None
    # One task has no spread: an error of 0 would claim that the mean is exact.
    return statistics.fmean(known), statistics.stdev(known) / len(known) ** 0.5 if len(known) > 1 else None


def estimate(mean: Mean | None) -> str:
    """Return a mean and its standard error as text, `-` for None.

    >>> estimate((20.0, 0.5)), estimate((20.0, None)), estimate(None)
    ('20.00 ± 0.50', '20.00', '-')
    """
    if mean is None:
        return "-"
    return db(mean[0]) if mean[1] is None else f"{db(mean[0])} ± {db(mean[1])}"


def capped(record: InitializationRecord) -> InitializationRecord:
    """Return the record with no PSNR above what the files of its test tasks can hold: beyond it, dB mean nothing.

    >>> capped(InitializationRecord(system="ct")).exact_from
    ()
    """
    ceilings = [c for c in record.exact_from if c is not None]

    def cap(values: Sequence[float | None]) -> tuple[float | None, ...]:
        if len(values) != len(ceilings):
            return tuple(values)
        return tuple(None if v is None else min(v, c) for v, c in zip(values, ceilings))

    if not ceilings:
        return record
    rows = {
        key: replace(
            row,
            after=cap(row.after),
            input=None if row.input is None else cap(row.input),
            whole=None if row.whole is None else cap(row.whole),
            others=None if row.others is None else cap(row.others),
            curve={step: cap(values) for step, values in row.curve.items()},
        )
        for key, row in record.initializations.items()
    }
    return replace(record, initializations=rows)


def psnr_text(record: InitializationRecord, mean: Mean | None) -> str:
    """Return a mean PSNR over the test tasks as text: `exact` if all of them are, in a `capped` record.

    >>> psnr_text(InitializationRecord(system="ct", exact_from=(58.92, 58.92)), (58.92, 0.0))
    'exact'
    """
    ceilings = [c for c in record.exact_from if c is not None]
    exact = bool(ceilings) and mean is not None and mean[0] >= statistics.fmean(ceilings) - 1e-6
    return "exact" if exact else estimate(mean)


def curves_of(record: InitializationRecord, looks: Mapping[str, Look]) -> dict[str, dict[int, Mean]]:
    """Return step -> mean PSNR and standard error over the test tasks, of each initialization.

    >>> from mclnf_fast.report.record import InitializationResults
    >>> results = InitializationResults(curve={0: (10.0, 12.0)})
    >>> look = Look("meta", "meta-learned", "", "#c44e00", "#ff9a57", "o")
    >>> curves_of(InitializationRecord(system="ct", initializations={"meta": results}), {"meta": look})
    {'meta': {0: (11.0, 1.0)}}
    """
    curves: dict[str, dict[int, Mean]] = {}
    record = capped(record)
    for key in looks:
        rows = sorted(record.initializations[key].curve.items())
        curves[key] = {step: mean for step, values in rows if (mean := mean_error(values)) is not None}
    return curves


def step_columns(record: InitializationRecord, looks: Mapping[str, Look], steps: Sequence[int]) -> list[Column]:
    """Return a column of PSNR for each of `steps`."""
    curves = curves_of(record, looks)

    def at_step(step: int) -> Column:
        return column(f"step {step:,}", looks, lambda key: psnr_text(record, curves[key].get(step)))

    return list(map(at_step, steps))


def milestone_columns(
    record: InitializationRecord,
    looks: Mapping[str, Look],
    without_steps: Iterable[str] = TRIVIAL,
    more: Sequence[int] = (),
) -> list[Column]:
    """Return the columns that every table of initializations has: steps 0, 1 and 16, the best one and the last.

    Args:
        record: of the run.
        looks: its rows.
        without_steps: those that take none: their figure stands in the last column alone.
        more: further steps.
    """
    curves = curves_of(record, looks)
    known = sorted({step for curve in curves.values() for step in curve})
    if not known:
        return []
    chosen = sorted({s for s in (*MILESTONES, *more) if s in known[:-1]})
    moving = {key: look for key, look in looks.items() if key not in set(without_steps)}

    def best(key: str) -> str:
        steps = curves[key]
        step = max(steps, key=lambda k: (steps[k][0], -k), default=None)
        return "-" if step is None else f"{psnr_text(record, (steps[step][0], None))} ({step:,})"

    # A figure without steps in an earlier column would read as one at that step.
    columns = [Column(c.head, {k: c.cells[k] for k in moving}) for c in step_columns(record, looks, chosen)]
    return [*columns, column("best (step)", moving, best), *step_columns(record, looks, known[-1:])]


def care_columns(record: InitializationRecord, looks: Mapping[str, Look]) -> list[Column]:
    """Return the columns of what each initialization was given before its steps: its rate and its density bias."""
    rows = record.initializations
    return [
        column("rate", looks, lambda key: number(rows[key].lr)),
        column("density bias", looks, lambda key: number(rows[key].density_bias)),
    ]


def care_note(record: InitializationRecord) -> str:
    """Return what went into the initializations besides the steps that the table counts, in sentences; "" if nothing.

    >>> care_note(InitializationRecord(system="ct"))
    ''
    """
    sentences = []
    for key, row in record.initializations.items():
        if row.distilled_steps is not None and row.residual is not None:
            left = f"{100 * row.residual:.2g} % of the outputs' variance is left"
            sentences.append(f"{key}: distilled in {row.distilled_steps:,} Adam steps, {left}.")
    tried = record.trials
    if tried is not None:
        sentences.append(
            f"Each initialization has the best of {tried.choices} choices of its rate (and density bias), tried for "
            f"{tried.steps:,} steps on {tried.tasks} that are not tested on."
        )
    return " ".join(sentences)


def time_column(record: InitializationRecord, looks: Mapping[str, Look]) -> Column:
    """Return the column of the seconds that the steps took."""
    return column("time", looks, lambda key: duration(record.initializations[key].seconds))
