"""`mclnf-fast table`: the tables and figures of one or more finished runs, as Markdown, CSV, PNG and HTML."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import write_atomically
from mclnf_fast.report.city.strips import city_strips
from mclnf_fast.report.city.tables import city_csv_lines, city_looks, city_table
from mclnf_fast.report.page.blocks import (
    Block,
    ListBlock,
    PairsBlock,
    PictureBlock,
    Relation,
    RelationsBlock,
    TableBlock,
    TextBlock,
)
from mclnf_fast.report.page.page import Page, Section, inline, time_fact, write_page
from mclnf_fast.report.page.style import check_extra
from mclnf_fast.report.page.tables import Table, csv_text, markdown, markdown_cell
from mclnf_fast.report.protocol.counts import Statistics
from mclnf_fast.report.protocol.relations import relations
from mclnf_fast.report.protocol.report import NOT_CLAIMED
from mclnf_fast.report.protocol.run_folder import FinishedRun, read_runs
from mclnf_fast.report.protocol.run_pictures import Drawing, draw_figures, draw_signals
from mclnf_fast.report.protocol.tables import (
    SIGNAL_HEADS,
    Labelled,
    details,
    each_signal,
    results,
    signal_csv_lines,
    sizes,
    steps_to_reach,
)
from mclnf_fast.report.record import CityRecord, InitializationRecord, SignalRecord
from mclnf_fast.report.starts.descriptions import DESCRIPTIONS, initialization_csv_lines

WRITES = "the tables and figures of one or more finished runs, as Markdown, CSV, PNG and HTML"
RANKS = "In each column the best is bold, the second in italics (underlined on the page); equal as shown is equal."


@dataclass(frozen=True)
class Figure:
    """A picture of the tables: its drawing, its file, and the commands of its runs."""

    drawing: Drawing
    file: str
    commands: tuple[str, ...]


@dataclass(frozen=True)
class Tables:
    """Everything that the files hold: the runs by kind, the figures, the command that writes them, and whether the
    relations are checked."""

    runs: Sequence[FinishedRun]
    signals: Sequence[Labelled]
    cities: Sequence[tuple[Table, str]]  # and the command of its run
    initializations: Sequence[tuple[Table, str]]  # the same
    figures: Sequence[Figure]
    command: str
    check: bool

    def of(self, signal: Labelled) -> list[Table]:
        """Return the tables of a run beside its PSNR."""
        reached = steps_to_reach(signal.run, signal.label)
        return [details(signal.run, signal.label), *([reached] if reached else [])]

    @property
    def notes(self) -> list[str]:
        """The notes of all runs, each with its label if there are several."""
        several = len(self.runs) > 1
        notes = [f"{run.label}: {note}" if several else note for run in self.runs for note in run.record.notes]
        return [*notes, NOT_CLAIMED]


def write_tables(runs: Sequence[str | Path], out: str | Path, command: str, *, check: bool = False) -> list[Path]:
    """Write `table.md`, `table.csv`, `table.html` and the figures into `out`; return their paths.

    Of runs that learn signals also `signals.csv`: what the means in their tables are of, signal by signal.

    Files of these names are replaced, others in `out` are left alone; nothing is written before everything is drawn.

    Args:
        runs: folders of finished runs; they may differ in kind, methods, seeds and last step.
        out: a folder, which is made if it is missing.
        command: this command, which stands beside every table and figure.
        check: also the relations that are expected of the methods, and whether they hold.

    Raises: InputError that names the folder or file, if it is no run or not finished, or `out` can't be written.
    """
    target = Path(out)
    if target.exists() and not target.is_dir():
        raise InputError(f"out: {target} must be a folder, but it is a file")
    check_extra()
    tables = _draw(read_runs(runs), command, check)
    text = "\n\n".join(_markdown(tables)) + "\n"
    lines = [line for signal in tables.signals for line in signal_csv_lines(signal)]
    for run in tables.runs:
        if isinstance(run.record, CityRecord):
            lines += city_csv_lines(run.label, run.record)
        elif isinstance(run.record, InitializationRecord):
            lines += initialization_csv_lines(run.label, run.record)
    written: list[Path] = []
    try:
        # Figures first: a table.md that is there never links to one that is not.
        written += [figure.drawing.save(target / figure.file) for figure in tables.figures]
        files = {"table.md": text, "table.csv": csv_text(lines)}
        if tables.signals:
            each = itertools.chain.from_iterable(map(each_signal, tables.signals))
            files["signals.csv"] = csv_text(each, names=SIGNAL_HEADS)
        for name, content in files.items():
            write_atomically(target / name, content.encode("utf-8"))
            written.append(target / name)
        written.append(write_page(target / "table.html", _page(target, tables)))
    except OSError as error:
        raise InputError(f"out: {target} must be a folder that can be written, but: {error}") from None
    return written


def _draw(runs: Sequence[FinishedRun], command: str, check: bool) -> Tables:
    """Return the tables of some runs with their figures drawn."""
    signals: list[Labelled] = []
    cities: list[tuple[Table, str]] = []
    starts: list[tuple[Table, str]] = []
    figures: list[Figure] = []
    for run in runs:
        record = run.record
        if isinstance(record, SignalRecord):
            signals.append(Labelled(run.label, Statistics(record)))
            drawings = draw_signals(run.folder, signals[-1], command)
            drawings = [replace(d, caption=f"{run.label}. {d.caption}") for d in drawings]
        elif isinstance(record, CityRecord):
            table = city_table(run.label, record.methods, record.tasks, record.across, record.trivial)
            cities.append((table, record.command))
            drawings = city_strips(run.folder, run.label, record, command)
        else:
            assert isinstance(record, InitializationRecord)  # `read_runs` refuses others
            table = replace(DESCRIPTIONS[record.system](record).table, title=run.label)
            starts.append((table, record.command))
            drawings = []
        figures += [Figure(d, f"{run.stem}_{d.stem}.png", (record.command,)) for d in drawings]
    if signals:
        commands = tuple(signal.run.command for signal in signals)
        # In front of those of single runs: they compare all of them.
        figures[:0] = [Figure(d, f"{d.stem}.png", commands) for d in draw_figures(signals, command)]
    return Tables(runs, signals, cities, starts, figures, command, check)


def _markdown(tables: Tables) -> Iterator[str]:
    command = tables.command
    yield "# Results"
    yield f"Made by `{_code(command)}` from these runs:"
    yield "\n".join(f"- {_run_line(run)}" for run in tables.runs)
    if tables.signals:
        yield "## PSNR"
        yield markdown(results(tables.signals))
        yield RANKS
        yield _made("", command)
        yield from ["## Relations that must hold"] * tables.check
        for signal in tables.signals if tables.check else ():
            yield f"### {markdown_cell(signal.label)} ({sizes(signal.run)})"
            yield "\n".join(_relation(relation) for relation in relations(signal.run))
        yield "## Beside the PSNR"
        for signal in tables.signals:
            for table in tables.of(signal):
                yield f"### {markdown_cell(table.title)}"
                yield markdown(table)
                yield _made(signal.run.command, command)
    for heading, ones in (("Cities", tables.cities), ("Initializations", tables.initializations)):
        yield from [f"## {heading}"] * bool(ones)
        for table, run_command in ones:
            yield f"### {markdown_cell(table.title)}"
            yield markdown(table)
            yield _made(run_command, command)
    yield from ["## Figures"] * bool(tables.figures)
    for figure in tables.figures:
        yield f"![{figure.drawing.stem.replace('_', ' ')}]({figure.file})"
        yield figure.drawing.caption
        yield "  \n".join(_made(c, command if c == figure.commands[-1] else "") for c in figure.commands)
    yield "## Notes"
    yield "\n".join(f"- {note}" for note in tables.notes)


def _page(target: Path, tables: Tables) -> Page:
    signals, command = tables.signals, tables.command
    looks = {key: look for signal in signals for key, look in signal.run.looks.items()}
    for run in tables.runs:
        if isinstance(run.record, CityRecord):
            looks |= city_looks(run.record.methods)
        elif isinstance(run.record, InitializationRecord):
            looks |= DESCRIPTIONS[run.record.system](run.record).looks
    # Two runs side by side at most: more columns do not fit on a page. Ranks are those of a column.
    psnr: list[Block] = [TableBlock(results(signals[k : k + 2])) for k in range(0, len(signals), 2)]
    psnr += [TextBlock(RANKS)] if signals else []
    beside = [
        TableBlock(t, t.title, _made_plain(signal.run.command, command))
        for signal in signals
        for t in tables.of(signal)
    ]
    pictures = [
        PictureBlock(
            inline(target, figure.file),
            figure.file,
            figure.drawing.caption,
            [*(f"run: {c}" for c in figure.commands if c), f"figure: {command}"],
        )
        for figure in tables.figures
    ]
    return Page(
        "Results",
        looks,
        [
            Section("PSNR", psnr),
            Section(
                "Relations that must hold",
                [RelationsBlock(relations(s.run), f"{s.label} ({sizes(s.run)})") for s in signals if tables.check],
            ),
            Section("Beside the PSNR", beside),
            Section("Cities", [TableBlock(t, t.title, _made_plain(c, command)) for t, c in tables.cities]),
            Section(
                "Initializations", [TableBlock(t, t.title, _made_plain(c, command)) for t, c in tables.initializations]
            ),
            Section("Figures", pictures),
            Section("Notes", [ListBlock(tables.notes)]),
        ],
        [f"Made by {command} from these runs:"],
        lead=[PairsBlock([(run.label, _run_text(run)) for run in tables.runs], code=True)],
    )


def _facts(run: FinishedRun) -> list[str]:
    """Return the machine and the time that a run took."""
    return [run.record.machine] * bool(run.record.machine) + time_fact(run.record)


def _run_line(run: FinishedRun) -> str:
    facts = "; ".join(_facts(run))
    return f"{markdown_cell(run.label)}: `{_code(run.record.command or 'unknown command')}`" + f" ({facts})" * bool(
        facts
    )


def _run_text(run: FinishedRun) -> str:
    return "; ".join([run.record.command or "unknown command", *_facts(run)])


def _relation(relation: Relation) -> str:
    checks = "; ".join(f"{c.label}: {'**' + c.value + '**' if c.holds is False else c.value}" for c in relation.checks)
    return f"- **{relation.verdict}**: {relation.statement}. {checks}." + f" {relation.note}" * bool(relation.note)


def _made(run: str, command: str) -> str:
    parts = [f"Run: `{_code(run)}`."] * bool(run) + [f"Made by `{_code(command)}`."] * bool(command)
    return " ".join(parts)


def _made_plain(run: str, command: str) -> str:
    return " ".join([f"Run: {run}."] * bool(run) + [f"Made by {command}."])


def _code(text: str) -> str:
    # A backtick would end the span of code in which the command stands.
    return " ".join(text.split()).replace("`", "'")
