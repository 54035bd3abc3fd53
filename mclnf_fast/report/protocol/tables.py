"""The tables of the protocol: the paper's shape, what stands beside it, and the same figures one a line as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from mclnf_fast.report.page.methods import CATEGORIES, in_order
from mclnf_fast.report.page.tables import markdown_cell, markdown_table
from mclnf_fast.report.protocol.counts import DIGITS, METRIC_NAMES, METRIC_UNITS, Estimate, Protocol

THRESHOLDS = tuple(range(10, 61, 5))  # dB, of the table of steps to a PSNR
CSV_HEADS = (
    *("run", "category", "method", "metric", "statistic", "step"),
    *("mean", "standard_error", "signals", "seeds", "command"),
)
STATISTICS = (
    "Mean over all pairs of test signal and seed ± standard error over the signals (of their means over the seeds). "
    "Best: the highest mean of the logged steps, with its step."
)


@dataclass(frozen=True)
class Cell:
    """A figure as text; `rank` 1 is the best of its column, 2 the second, 0 neither."""

    text: str
    rank: int = 0


@dataclass(frozen=True)
class Row:
    """A method's line: its category, its key, what it is called, its figures."""

    category: str
    key: str
    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table with heads for its cells, and what must be said under it. `groups`: (title, columns) above the heads."""

    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    groups: tuple[tuple[str, int], ...] = field(default=())


@dataclass(frozen=True)
class Labelled:
    """A run and the name by which it goes in the tables and figures of several."""

    label: str
    run: Protocol


def results(runs: Sequence[Labelled]) -> Table:
    """The paper's shape: a row a method, by category; for each run PSNR at step 1, the best, and at the last step."""
    looks = {m: r.run.looks[m] for r in runs for m in r.run.methods}
    keys = sorted(in_order(looks), key=lambda m: list(CATEGORIES).index(looks[m].category))
    columns: list[tuple[str, dict[str, Cell]]] = []
    for r in runs:
        run, prefix = r.run, f"{r.label}: " if len(runs) > 1 else ""
        first = {m: run.at(m, 1) for m in run.methods}
        best = {m: run.best(m) for m in run.methods}
        last = {m: run.final(m) for m in run.methods}
        columns.append((f"{prefix}step 1", _ranked(first)))
        steps = {m: f" ({b[0]})" for m, b in best.items() if b}
        columns.append((f"{prefix}best (step)", _ranked({m: b[1] if b else None for m, b in best.items()}, steps)))
        columns.append((f"{prefix}step {run.last}", _ranked(last)))
    rows = [
        Row(looks[m].category, m, looks[m].name, tuple(column.get(m, Cell("-")) for _, column in columns)) for m in keys
    ]
    said = "; ".join((f"{r.label}: " if len(runs) > 1 else "") + sizes(r.run) for r in runs)
    notes = ("PSNR in dB over the whole signal, after all tasks, at so many steps a task. " + STATISTICS, f"{said}.")
    heads = tuple(head for head, _ in columns)
    return Table("PSNR", heads, tuple(rows), notes, tuple((r.label, 3) for r in runs))


def details(run: Protocol, label: str) -> Table:
    """What stands beside the PSNR of one run: other metrics, forgetting, transfer, parameters, time, memory.

    Columns that no method fills are left out.
    """
    columns: list[tuple[str, Callable[[str], str]]] = []
    for measure in run.measures[1:]:
        unit = f" (dB), step {run.last}" if measure in METRIC_UNITS else f", step {run.last}"
        columns.append((METRIC_NAMES.get(measure, measure) + unit, lambda m, k=measure: text(run.final(m, k), k)))  # type: ignore[misc]
    columns += [
        ("forgetting (dB)", lambda m: "0" if run.largest_change(m) == 0 else text(run.forgetting(m))),
        ("backward transfer (dB)", lambda m: text(run.backward_transfer(m))),
        ("forward transfer (dB)", lambda m: text(run.forward_transfer(m))),
        ("parameters", lambda m: _number(run.figure(m, "parameters"), 1.0, ",.0f")),
        ("ms a step", lambda m: _number(run.figure(m, "seconds_per_step"), 1e3, ".2f")),
        ("points a step", lambda m: _number(run.figure(m, "points_per_step"), 1.0, ",.0f")),
        ("peak MB a step", lambda m: _megabytes(run.figure(m, "peak_bytes_per_step"))),
        ("seconds", lambda m: _number(run.figure(m, "seconds"), 1.0, ".1f")),
    ]
    rows = [
        Row(run.looks[m].category, m, run.looks[m].name, tuple(Cell(show(m)) for _, show in columns))
        for m in run.methods
    ]
    heads = tuple(head for head, _ in columns)
    kept = [c for c in range(len(heads)) if any(row.cells[c].text != "-" for row in rows)]
    notes: tuple[str, ...] = (
        "Forgetting: mean of R[k, k] - R[T-1, k] over all tasks, more is worse; a bare 0 is exactly zero, bit for bit. "
        "Backward transfer: mean of R[T-1, k] - R[k, k] over the tasks but the last. Forward transfer: mean of "
        "R[i-1, i] - R_start[i] over the tasks but the first. R[k, i] is the PSNR of task i after task k; methods that "
        "see all tasks at once have none.",
        "Parameters: of one signal, all its modules. A step trains all test signals side by side; "
        "1 MB = 1,000,000 bytes.",
    )
    for measure in run.measures:
        for m, (count, of) in run.left_out(measure).items():
            shown = METRIC_NAMES.get(measure, measure)
            notes += (f"{shown} of {run.looks[m].name}: {count} of {of} values were not finite and are left out.",)
    picked = [Row(r.category, r.key, r.name, tuple(r.cells[c] for c in kept)) for r in rows]
    return Table(f"{label}: beside the PSNR", tuple(heads[c] for c in kept), tuple(picked), notes)


def steps_to_reach(run: Protocol, label: str) -> Table | None:
    """Steps a task until the mean PSNR reaches so many dB; None where no threshold tells the methods apart."""
    found = {t: {m: run.steps_to(m, float(t)) for m in run.methods} for t in THRESHOLDS}
    useful = [t for t in THRESHOLDS if any(v is not None and v > 1 for v in found[t].values())]
    if not useful:
        return None
    rows = [
        Row(run.looks[m].category, m, run.looks[m].name, tuple(Cell(_steps(found[t][m])) for t in useful))
        for m in run.methods
    ]
    note = (
        "Steps a task until the mean PSNR over signals and seeds reaches it, interpolated between the logged steps "
        "along log2 of the step and rounded up; - where no logged step does."
    )
    return Table(f"{label}: steps to a PSNR", tuple(f"{t} dB" for t in useful), tuple(rows), (note,))


def markdown(table: Table) -> str:
    """The table as Markdown: the category where it begins, the best bold, the second in italics."""
    marks = {0: "{}", 1: "**{}**", 2: "*{}*"}
    lines, before = [], ""
    for row in table.rows:
        shown = row.category if row.category != before else ""
        before = row.category
        lines.append([shown, markdown_cell(row.name), *(marks[c.rank].format(c.text) for c in row.cells)])
    head = ["", "method", *(markdown_cell(h) for h in table.heads)]
    aligned = markdown_table(head, lines).replace("| --- | ---: |", "| --- | --- |", 1)
    return "\n\n".join([aligned, *table.notes])


def aligned(table: Table) -> str:
    """The table for a terminal, columns aligned; the best of a column carries a star."""
    body = [[r.category, r.name, *(c.text + ("*" if c.rank == 1 else " ") for c in r.cells)] for r in table.rows]
    lines = [["", "method", *(h + " " for h in table.heads)], *body]
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    return "\n".join(
        "  ".join(t.ljust(w) if c < 2 else t.rjust(w) for c, (t, w) in enumerate(zip(line, widths))).rstrip()
        for line in lines
    )


def csv_text(runs: Sequence[Labelled]) -> str:
    """Every figure one a line: run, category, method, metric, statistic, step, mean, standard error, signals, seeds."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    lines.writerow(CSV_HEADS)
    for r in runs:
        for m in r.run.methods:
            lines.writerows(_csv_lines(r, m))
    return out.getvalue()


def _csv_lines(r: Labelled, m: str) -> Iterator[list[object]]:
    run = r.run
    found: list[tuple[str, str, int | str, Estimate | None]] = []
    for measure in run.measures:
        found += [(measure, "logged", step, e) for step, e in run.curve(m, measure).items()]
        if best := run.best(m, measure):
            found.append((measure, "best", *best))
    found += [
        ("psnr", "forgetting", "", run.forgetting(m)),
        ("psnr", "backward_transfer", "", run.backward_transfer(m)),
        ("psnr", "forward_transfer", "", run.forward_transfer(m)),
    ]
    head = [r.label, run.looks[m].category, m]
    for metric, statistic, step, e in found:
        if e is not None:
            error = "" if e.error is None else repr(e.error)
            yield [*head, metric, statistic, step, repr(e.mean), error, e.signals, e.seeds, run.command]
    for name in ("parameters", "seconds_per_step", "points_per_step", "peak_bytes_per_step", "seconds"):
        value = run.figure(m, name)
        if value is not None:
            yield [*head, name, "mean over seeds", "", repr(value), "", "", len(run.rows[m]), run.command]


def sizes(run: Protocol) -> str:
    """`12 test signals, 3 seeds`."""
    signals, seeds = len(run.signals), len(run.seeds)
    return f"{signals} test signal{'s' * (signals != 1)}, {seeds} seed{'s' * (seeds != 1)}"


def text(e: Estimate | None, measure: str = "psnr") -> str:
    """`36.76 ± 0.30`; without the error for a single signal; `-` where it was not measured."""
    if e is None:
        return "-"
    digits = DIGITS.get(measure, 3)
    mean = f"{e.mean:.{digits}f}"
    mean = mean.lstrip("-") if float(mean) == 0 else mean
    return mean if e.error is None else f"{mean} ± {e.error:.{digits}f}"


def _ranked(column: dict[str, Estimate | None], after: dict[str, str] | None = None) -> dict[str, Cell]:
    """Cells of a column with the best and the second marked; what is equal as shown shares its rank."""
    shown = {m: round(e.mean, DIGITS["psnr"]) for m, e in column.items() if e is not None}
    order = sorted(set(shown.values()), reverse=True)
    ranks = {m: order.index(v) + 1 for m, v in shown.items()}
    if len(shown) < 2:
        ranks = {}
    tail = after or {}
    return {m: Cell(text(e) + tail.get(m, ""), r if (r := ranks.get(m, 0)) <= 2 else 0) for m, e in column.items()}


def _number(value: float | None, scale: float, form: str) -> str:
    return "-" if value is None else format(value * scale, form)


def _megabytes(value: float | None) -> str:
    """Three digits, never fewer than those before the point; the system counts pages, and hands some out again."""
    if value is None:
        return "-"
    if value < 1e5:
        return "< 0.1"
    return f"{value * 1e-6:.3g}" if value < 999.5e6 else f"{value * 1e-6:,.0f}"


def _steps(value: float | None) -> str:
    return "-" if value is None else f"{-int(-value // 1):,}"
