"""The tables of the protocol: the paper's shape, what stands beside it, and the same figures one per line as CSV."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mclnf_fast.report.page.methods import CATEGORIES, in_order
from mclnf_fast.report.page.style import fixed
from mclnf_fast.report.page.tables import Cell, Column, Row, Table, build, column, ranked
from mclnf_fast.report.protocol.counts import DIGITS, FIGURES, METRIC_NAMES, METRIC_UNITS, Estimate, Statistics

THRESHOLDS = tuple(range(10, 61, 5))  # dB, of the table of steps to a PSNR
STATISTICS = (
    "Mean over all pairs of test signal and seed ± standard error over the signals (of their means over the seeds). "
    "Best: the highest mean of the logged steps, with its step."
)
EXACT = (
    "Exact: the error is below what the file can hold, which of 8 bits is 58.9 dB. Such signals are left out of means "
    "and of forgetting."
)
MILESTONES = (0, 1, 16)  # steps of the table, besides the best and the last
TRIVIAL = "trivial"  # the key of the row that nobody has to learn


@dataclass(frozen=True)
class Labelled:
    """A run and its name in the tables and figures of several."""

    label: str
    run: Statistics


def results(runs: Sequence[Labelled]) -> Table:
    """Return the paper's table: a row per method, by category; per run PSNR at steps 0, 1 and 16, the best, and at the
    last step; above them what nobody has to learn.

    >>> results([]).heads
    ()
    """
    looks = {m: r.run.looks[m] for r in runs for m in r.run.methods}
    # A stable sort: within a category the methods keep the order that they have everywhere.
    keys = sorted(in_order(looks), key=lambda m: list(CATEGORIES).index(looks[m].category))
    columns: list[tuple[str, dict[str, Cell]]] = []
    groups: list[tuple[str, int]] = []
    for r in runs:
        run, prefix = r.run, f"{r.label}: " if len(runs) > 1 else ""
        best = {m: run.best(m) for m in run.methods}
        steps = {m: f" ({pair[0]})" if pair else "" for m, pair in best.items()}
        before = len(columns)
        for step in MILESTONES:
            estimates = {m: run.at(m, step) for m in run.methods}
            # The last step has a column of its own; of steps that were not logged there is nothing to show.
            if step != run.last and any(estimates.values()):
                columns.append((f"{prefix}step {step}", _ranked(estimates)))
        columns.append((f"{prefix}best (step)", _ranked({m: p[1] if p else None for m, p in best.items()}, steps)))
        last = _ranked({m: run.final(m) for m in run.methods})
        columns.append((f"{prefix}step {run.last}", last | {TRIVIAL: Cell(text(run.trivial()))}))
        groups.append((r.label, len(columns) - before))
    names = dict.fromkeys(r.run.record.trivial.name for r in runs if r.run.record.trivial is not None)
    rows = [
        Row(looks[m].category, m, looks[m].name, tuple(cells.get(m, Cell("-")) for _, cells in columns)) for m in keys
    ]
    if names:
        cells = tuple(cells.get(TRIVIAL, Cell("-")) for _, cells in columns)
        rows.insert(0, Row("", TRIVIAL, ", ".join(names), cells))
    counts = "; ".join((f"{r.label}: " if len(runs) > 1 else "") + sizes(r.run) for r in runs)
    notes: tuple[str, ...] = (
        "PSNR in dB over the whole signal, after all tasks, at so many steps per task. " + STATISTICS,
        f"{counts}.",
    )
    if names:
        notes += (f"{', '.join(names).capitalize()}: without learning anything; it takes no steps.",)
    if any("exact" in cell.text for row in rows for cell in row.cells):
        notes += (EXACT,)
    heads = tuple(head for head, _ in columns)
    return Table("PSNR", heads, tuple(rows), notes, tuple(groups))


def _ranked(estimates: dict[str, Estimate | None], after: dict[str, str] | None = None) -> dict[str, Cell]:
    tail = after or {}
    means = {m: None if e is None else e.level for m, e in estimates.items()}
    return ranked(means, lambda m: text(estimates[m]) + tail.get(m, ""), DIGITS["psnr"])


def details(run: Statistics, label: str) -> Table:
    """Return what stands beside the PSNR of a run: other metrics, forgetting, transfer, parameters, time.

    Columns that no method fills are left out.
    """
    methods = run.methods
    columns = [_measure(run, measure) for measure in run.measures[1:]]
    columns += [
        # A bare 0 only if no task changed: losses and gains may cancel in the mean.
        column("forgetting (dB)", methods, lambda m: "0" if run.largest_change(m) == 0 else text(run.forgetting(m))),
        column("backward transfer (dB)", methods, lambda m: text(run.backward_transfer(m)), None),
        column("forward transfer (dB)", methods, lambda m: text(run.forward_transfer(m)), None),
        column("steps in all", methods, lambda m: fixed(run.figure(m, "steps"), ",.0f"), None),
        column("samples", methods, lambda m: fixed(run.figure(m, "samples"), ",.0f"), None),
        column("GFLOP", methods, lambda m: _billions(run.figure(m, "operations"))),
        column("parameters", methods, lambda m: fixed(run.figure(m, "parameters"), ",.0f")),
        column("ms per step", methods, lambda m: _milliseconds(run.figure(m, "seconds_per_step")), "ms/step"),
        column("points per step", methods, lambda m: fixed(run.figure(m, "points_per_step"), ",.0f"), None),
        column("seconds", methods, lambda m: fixed(run.figure(m, "seconds"), ".1f")),
    ]
    notes: tuple[str, ...] = (
        "Forgetting: mean of R[k, k] - R[T-1, k] over all tasks, more is worse; a bare 0 is exactly zero, bit for bit. "
        "Backward transfer: mean of R[T-1, k] - R[k, k] over the tasks but the last. Forward transfer: mean of "
        "R[i-1, i] - R_0[i] over the tasks but the first, R_0 being that of the initialization. R[k, i] is the PSNR of "
        "task i after task k; methods that see all tasks at once have none.",
        "Steps in all: over all tasks, the same for every method; samples: those that one signal is trained on; GFLOP: "
        "what forward and backward of these take, more of one wide network than of a module per task.",
        "Parameters: of one signal, all its modules. A step trains all test signals side by side.",
    )
    for measure in run.measures:
        for m, (count, of) in run.left_out(measure).items():
            name = METRIC_NAMES.get(measure, measure)
            notes += (f"{name} of {run.looks[m].name}: {count} of {of} values were not finite and are left out.",)
    return build(f"{label}: beside the PSNR", run.looks, columns, notes=notes)


def _measure(run: Statistics, measure: str) -> Column:
    name, unit = METRIC_NAMES.get(measure, measure), " (dB)" if measure in METRIC_UNITS else ""
    cells = column(f"{name}{unit}, step {run.last}", run.methods, lambda m: text(run.final(m, measure), measure))
    return Column(cells.head, cells.cells, f"{name}{unit}")


def steps_to_reach(run: Statistics, label: str) -> Table | None:
    """Return the steps per task until the mean PSNR reaches so many dB; None if no threshold separates the methods."""
    reached = {t: {m: run.steps_to(m, float(t)) for m in run.methods} for t in THRESHOLDS}
    # A threshold that all have passed at step 1 tells no methods apart.
    useful = [t for t in THRESHOLDS if any(v is not None and v > 1 for v in reached[t].values())]
    if not useful:
        return None

    def threshold(t: int) -> Column:
        return column(f"{t} dB", run.methods, lambda m: _steps(reached[t][m]))

    note = (
        "Steps per task until the mean PSNR over signals and seeds reaches it, interpolated between the logged steps "
        "along log2 of the step and rounded up; - if no logged step does."
    )
    return build(f"{label}: steps to a PSNR", run.looks, list(map(threshold, useful)), (note,))


def signal_csv_lines(r: Labelled) -> Iterator[list[object]]:
    """Yield the figures of a run for `page.tables.csv_text`, one per line."""
    run = r.run
    answer = run.record.trivial
    for measure in answer.measures if answer is not None else ():
        e = run.trivial(measure)
        if e is not None and answer is not None:
            error = "" if e.error is None else repr(e.error)
            yield [r.label, "", answer.name, measure, "no steps", 0, repr(e.mean), error, e.signals, "", run.command]
    for m in run.methods:
        head = [r.label, run.looks[m].category, m]
        for metric, statistic, step, e in _estimates(run, m):
            error = "" if e.error is None else repr(e.error)
            yield [*head, metric, statistic, step, repr(e.mean), error, e.signals, e.seeds, run.command]
            if e.exact:
                yield [*head, metric, f"{statistic}, exact", step, e.exact, "", "", e.seeds, run.command]
        for name in FIGURES:
            value = run.figure(m, name)
            if value is not None:
                yield [*head, name, "mean over seeds", "", repr(value), "", "", len(run.rows[m]), run.command]


SIGNAL_HEADS = ("run", "method", "metric", "step", "seed", "signal", "value")


def each_signal(r: Labelled) -> Iterator[list[object]]:
    """Yield what the tables' means are of, one per line under `SIGNAL_HEADS`: each method's value of every signal with
    every seed, from which errors and paired differences can be formed again."""
    run = r.run
    for m, measure in itertools.product(run.methods, run.measures):
        best = run.best(m)
        shown = {*MILESTONES, run.last, best[0] if best else run.last} if measure == "psnr" else {run.last}
        for step, values in run.values(m, measure).items():
            for seed, row in zip(run.rows[m] if step in shown else (), values):
                for name, value in zip(run.signals, row.tolist(), strict=True):
                    yield [r.label, m, measure, step, seed, name, f"{value:.4f}"]


def _estimates(run: Statistics, m: str) -> Iterator[tuple[str, str, int | str, Estimate]]:
    for measure in run.measures:
        for step, e in run.curve(m, measure).items():
            yield measure, "logged", step, e
        best = run.best(m, measure)
        if best:
            yield measure, "best", *best
    transfer = {
        "forgetting": run.forgetting(m),
        "backward_transfer": run.backward_transfer(m),
        "forward_transfer": run.forward_transfer(m),
    }
    for statistic, transferred in transfer.items():
        if transferred is not None:
            yield "psnr", statistic, "", transferred


def sizes(run: Statistics) -> str:
    """Return the size of a run, such as `12 test signals, 3 seeds`.

    >>> from mclnf_fast.report.record import SignalRecord
    >>> sizes(Statistics(SignalRecord(system="image")))
    '0 test signals, 0 seeds'
    """
    signals, seeds = len(run.signals), len(run.seeds)
    return f"{signals} test signal{'s' * (signals != 1)}, {seeds} seed{'s' * (seeds != 1)}"


def text(e: Estimate | None, measure: str = "psnr") -> str:
    """Return an estimate as text: without the error for a single signal, `-` if it was not measured.

    >>> text(Estimate(36.76, 0.3, 2, 1)), text(None)
    ('36.76 ± 0.30', '-')
    """
    if e is None:
        return "-"
    if e.exact and not e.signals:
        return "exact"
    tail = f", {e.exact} exact" if e.exact else ""
    digits = DIGITS.get(measure, 3)
    mean = f"{e.mean:.{digits}f}"
    # `-0.00` would read as a loss.
    mean = mean.lstrip("-") if float(mean) == 0 else mean
    return (mean if e.error is None else f"{mean} ± {e.error:.{digits}f}") + tail


def _billions(operations: float | None) -> str:
    return (
        "-" if operations is None else f"{operations * 1e-9:,.3g}" if operations < 1e12 else f"{operations * 1e-9:,.0f}"
    )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f}"


def _steps(value: float | None) -> str:
    # Up: at the whole step below, the PSNR is not reached yet.
    return "-" if value is None else f"{-int(-value // 1):,}"
