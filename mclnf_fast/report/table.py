"""`mclnf-fast table`: the tables and figures of one or more finished runs, as Markdown, CSV, PNG and HTML."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from mclnf_fast.errors import InputError
from mclnf_fast.fields.io import write_atomically
from mclnf_fast.report.city.rows import city_csv, city_strips, city_table
from mclnf_fast.report.page.html import inline, write_page
from mclnf_fast.report.page.style import check_extra, duration
from mclnf_fast.report.page.tables import markdown_cell
from mclnf_fast.report.protocol.counts import sequence
from mclnf_fast.report.protocol.relations import Relation, relations
from mclnf_fast.report.protocol.run_folder import Finished, read_runs
from mclnf_fast.report.protocol.run_pictures import Drawn, draw_figures, draw_signals
from mclnf_fast.report.protocol.signals import NOT_CLAIMED, look
from mclnf_fast.report.protocol.tables import (
    Labelled,
    Table,
    csv_text,
    details,
    markdown,
    results,
    sizes,
    steps_to_reach,
)

RANKS = "In each column the best is bold, the second in italics (underlined on the page); equal as shown is equal."


@dataclass(frozen=True)
class Shown:
    """A picture of the tables: what was drawn, under which file name, and the commands that made its runs."""

    drawn: Drawn
    file: str
    commands: tuple[str, ...]


class _Parser(argparse.ArgumentParser):
    """Complains in one line, as every command does."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"table: {message}; see mclnf-fast table --help")


def main(given: Sequence[str]) -> int:
    """Runs the command. Raises: InputError for unusable input."""
    parser = _Parser(prog="mclnf-fast table", description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a finished run (image, video, audio, city)")
    parser.add_argument("--out", required=True, metavar="DIR", help="where table.md, .csv, .html and the figures go")
    arguments = parser.parse_args(list(given))
    command = shlex.join(["mclnf-fast", "table", *given])
    for path in write_tables(arguments.runs, arguments.out, command):
        print(path)
    return 0


def write_tables(runs: Sequence[str | Path], out: str | Path, command: str) -> list[Path]:
    """Writes `table.md`, `table.csv`, `table.html` and the figures into `out`; gives their paths.

    Files of these names are replaced, others in `out` are left alone; nothing is written before everything is drawn.

    Args:
        runs: folders of finished runs; they may differ in kind, methods, seeds and last step.
        command: this command, which stands beside every table and figure.

    Raises: InputError, naming the folder or file, where a run is none or not finished, or `out` can't be written.
    """
    target = Path(out)
    if target.exists() and not target.is_dir():
        raise InputError(f"out: {target} must be a folder, but it is a file")
    check_extra()
    finished = read_runs(runs)
    signals = [f for f in finished if f.run is not None]
    cities = [f for f in finished if f.run is None]
    labelled = [Labelled(f.label, f.run) for f in finished if f.run is not None]
    shown = _draw(signals, labelled, cities, command)
    text = "\n\n".join(_markdown(finished, labelled, cities, shown, command)) + "\n"
    lines = csv_text(labelled) + city_csv(cities)
    written: list[Path] = []
    try:
        written += [s.drawn.save(target / s.file) for s in shown]
        for name, content in (("table.md", text), ("table.csv", lines)):
            write_atomically(target / name, content.encode("utf-8"))
            written.append(target / name)
        content_of_page = _page(target, finished, labelled, cities, shown, command)
        written.append(write_page(target / "table.html", "table.html", content_of_page))
    except OSError as error:
        raise InputError(f"out: {target} must be a folder that can be written, but: {error}") from None
    return written


def _draw(
    signals: Sequence[Finished], labelled: Sequence[Labelled], cities: Sequence[Finished], command: str
) -> list[Shown]:
    out = []
    if labelled:
        commands = tuple(r.run.command for r in labelled)
        out += [Shown(d, f"{d.stem}.png", commands) for d in draw_figures(labelled, command)]
    for f, one in zip(signals, labelled):
        grids = draw_signals(f.folder, one, command)
        for d in grids:
            named = replace(d, caption=f"{f.label}. {d.caption}")
            out.append(Shown(named, f"{f.stem}_{d.stem}.png", (f.command,)))
    for f in cities:
        out += [Shown(d, f"{f.stem}_{d.stem}.png", (f.command,)) for d in city_strips(f, command)]
    return out


def _tables(one: Labelled) -> list[Table]:
    reached = steps_to_reach(one.run, one.label)
    return [details(one.run, one.label), *([reached] if reached else [])]


def _markdown(
    finished: Sequence[Finished],
    labelled: Sequence[Labelled],
    cities: Sequence[Finished],
    shown: Sequence[Shown],
    command: str,
) -> Iterator[str]:
    yield "# Results"
    yield f"Made by `{_code(command)}` from these runs:"
    yield "\n".join(f"- {line}" for f in finished for line in [_run_line(f)])
    if labelled:
        yield "## PSNR"
        yield markdown(results(labelled))
        yield RANKS
        yield _made("", command)
        yield "## What must hold"
        for one in labelled:
            yield f"### {markdown_cell(one.label)} ({sizes(one.run)})"
            yield "\n".join(_relation(r) for r in relations(one.run))
        yield "## Beside the PSNR"
        for one in labelled:
            for table in _tables(one):
                yield f"### {markdown_cell(table.title)}"
                yield markdown(table)
                yield _made(one.run.command, command)
    if cities:
        yield "## Cities"
        for f in cities:
            yield f"### {markdown_cell(f.label)}"
            yield markdown(city_table(f))
            yield _made(f.command, command)
    if shown:
        yield "## Figures"
        for s in shown:
            yield f"![{s.drawn.stem.replace('_', ' ')}]({s.file})"
            yield s.drawn.caption
            yield "  \n".join(_made(c, command if c == s.commands[-1] else "") for c in s.commands)
    yield "## Notes"
    yield "\n".join(f"- {n}" for n in _notes(finished))


def _page(
    target: Path,
    finished: Sequence[Finished],
    labelled: Sequence[Labelled],
    cities: Sequence[Finished],
    shown: Sequence[Shown],
    command: str,
) -> dict[str, object]:
    pictures = [
        {
            "uri": inline(target, s.file),
            "file": s.file,
            "caption": s.drawn.caption,
            "commands": [*(f"run: {c}" for c in s.commands if c), f"figure: {command}"],
        }
        for s in shown
    ]
    tables = [city_table(f) for f in cities]
    looks = {m: k for one in labelled for m, k in one.run.looks.items()}
    return {
        "title": "Results",
        "command": command,
        "runs": [(f.label, f.command, *_facts(f)) for f in finished],
        "results": results(labelled) if labelled else None,
        "ranks": RANKS,
        "relation_lists": [(f"{one.label} ({sizes(one.run)})", relations(one.run)) for one in labelled],
        "tables": [(t, one.run.command) for one in labelled for t in _tables(one)],
        "cities": [(t, f.command) for t, f in zip(tables, cities)],
        "pictures": pictures,
        "notes": _notes(finished),
        **look(looks),
    }


def _run_line(f: Finished) -> str:
    facts = "; ".join(fact for fact in _facts(f) if fact)
    return f"{markdown_cell(f.label)}: `{_code(f.command or 'unknown command')}`" + (f" ({facts})" if facts else "")


def _facts(f: Finished) -> tuple[str, str]:
    """The machine and the time that a run took."""
    seconds = duration(f.metrics.get("seconds_total"))
    return str(f.metrics.get("machine") or ""), "" if seconds == "-" else f"{seconds} in all"


def _notes(finished: Sequence[Finished]) -> list[str]:
    own = [
        f"{f.label}: {n}" if len(finished) > 1 else str(n) for f in finished for n in sequence(f.metrics.get("notes"))
    ]
    return [*own, NOT_CLAIMED]


def _relation(r: Relation) -> str:
    checks = "; ".join(f"{c.what}: {'**' + c.value + '**' if c.holds is False else c.value}" for c in r.checks)
    return f"- **{r.verdict}**: {r.statement}. {checks}." + (f" {r.note}" if r.note else "")


def _made(run: str, command: str) -> str:
    parts = [f"Run: `{_code(run)}`."] * bool(run) + [f"Made by `{_code(command)}`."] * bool(command)
    return " ".join(parts)


def _code(text: str) -> str:
    return " ".join(text.split()).replace("`", "'")
