"""One kind of table for every report, and its four forms: terminal, Markdown, HTML (by the page's template) and CSV."""

from __future__ import annotations

import csv
import io
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mclnf_fast.report.page.methods import Look

BOLD, DIM, RED, GREEN, OFF = "\033[1m", "\033[2m", "\033[31m", "\033[32m", "\033[0m"
CSV_HEADS = (
    *("run", "category", "method", "metric", "statistic", "step"),
    *("mean", "standard_error", "signals", "seeds", "command"),
)


@dataclass(frozen=True)
class Cell:
    """A figure as text.

    `rank` is 1 for the best of its column, 2 for the second, 0 for others; `good` colors it (None: neither color).
    """

    text: str
    rank: int = 0
    good: bool | None = None


@dataclass(frozen=True)
class Row:
    """The line of a method or an initialization: its category (may be ""), its key, its name, its figures."""

    category: str
    key: str
    name: str
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: above it, on pages with several.
        heads: of its cells; `rows`: one per method, initialization or object.
        notes: below it.
        groups: (title, columns) above the heads, if several runs stand side by side.
        first: the head of the first column.
        short: the heads in a terminal, None for columns that are left out there; () for the same heads.
    """

    title: str
    heads: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    groups: tuple[tuple[str, int], ...] = ()
    first: str = "method"
    short: tuple[str | None, ...] = ()

    @property
    def has_categories(self) -> bool:
        """Whether any row has a category, which then gets a column."""
        return any(row.category for row in self.rows)


@dataclass(frozen=True)
class Column:
    """A column to build a table from: its head, its cell per key, and its head in a terminal (None: left out there)."""

    head: str
    cells: Mapping[str, Cell]
    short: str | None = ""


def column(head: str, keys: Iterable[str], show: Callable[[str], str], short: str | None = "") -> Column:
    """Return a column of plain cells: `show` makes the text of each key.

    >>> column("steps", ["a"], lambda key: "64").cells["a"].text
    '64'
    """
    return Column(head, {key: Cell(show(key)) for key in keys}, short)


def build(
    title: str,
    looks: Mapping[str, Look],
    columns: Sequence[Column],
    notes: tuple[str, ...] = (),
    first: str = "method",
) -> Table:
    """Return the table of some columns, a row per look; columns in which every cell is `-` are left out.

    Args:
        title, notes, first: see `Table`.
        looks: of the rows, in their order.
        columns: a key that is missing in one has `-`.

    >>> from mclnf_fast.report.page.methods import method
    >>> build("", {"mod": method("mod")}, [column("steps", ["mod"], lambda key: "64")]).rows[0].name
    'ours (mod)'
    """
    kept = [c for c in columns if any(c.cells.get(key, Cell("-")).text != "-" for key in looks)]
    rows = tuple(
        Row(look.category, key, look.name, tuple(c.cells.get(key, Cell("-")) for c in kept))
        for key, look in looks.items()
    )
    short = tuple(c.head if c.short == "" else c.short for c in kept)
    return Table(title, tuple(c.head for c in kept), rows, notes, first=first, short=short)


def ranked(values: Mapping[str, float | None], text: Callable[[str], str], digits: int = 2) -> dict[str, Cell]:
    """Return cells with the best and the second marked; figures that are equal as shown share their rank.

    Args:
        values: key -> figure, more is better; None has no rank, and a figure that stands alone has none either.
        text: makes the text of each key.
        digits: decimals as shown.

    >>> {k: c.rank for k, c in ranked({"a": 1.0, "b": 2.0, "c": 1.001}, str).items()}
    {'a': 2, 'b': 1, 'c': 2}
    """
    # As shown: of two figures that look the same, neither may be called the better one.
    shown = {key: round(value, digits) for key, value in values.items() if value is not None}
    order = sorted(set(shown.values()), reverse=True)
    ranks = {key: order.index(v) + 1 for key, v in shown.items()} if len(shown) > 1 else {}
    return {key: Cell(text(key), rank if (rank := ranks.get(key, 0)) <= 2 else 0) for key in values}


def markdown(table: Table) -> str:
    """Return a table as Markdown, its notes below: the best in bold, the second in italics.

    >>> print(markdown(Table("", ("PSNR",), (Row("CL", "er", "ER", (Cell("20.00", 1),)),))))
    |  | method | PSNR |
    | --- | --- | ---: |
    | CL | ER | **20.00** |
    """
    marks = {0: "{}", 1: "**{}**", 2: "*{}*"}
    lines, before = [], ""
    for row in table.rows:
        category = [row.category if row.category != before else ""] if table.has_categories else []
        before = row.category
        lines.append([*category, markdown_cell(row.name), *(marks[c.rank].format(c.text) for c in row.cells)])
    left = ["", table.first] if table.has_categories else [table.first]
    return "\n\n".join([markdown_table([*left, *map(markdown_cell, table.heads)], lines, len(left)), *table.notes])


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a Markdown table whose first `left` columns are aligned to the left, figures to the right.

    >>> print(markdown_table(["method", "dB"], [["ER", "20.00"]]))
    | method | dB |
    | --- | ---: |
    | ER | 20.00 |
    """
    rule = ["---" if c < left else "---:" for c in range(len(heads))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (heads, rule, *rows))


def markdown_cell(text: str) -> str:
    r"""Return text for a cell of a Markdown table: on one line, its marks escaped.

    >>> markdown_cell("a|b")
    'a\\|b'
    """
    flat = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")
    return flat.replace("<", "&lt;").replace(">", "&gt;").replace("`", "'")


def terminal_width() -> int:
    """Return the columns of this terminal; 80 if the output is none.

    >>> terminal_width() > 0
    True
    """
    return shutil.get_terminal_size((80, 24)).columns


def terminal(table: Table, *, color: bool = False, width: int | None = None) -> str:
    """Return a table for a terminal, its columns aligned; the best of a column carries a star.

    Columns whose head is None in `table.short` are left out, since a terminal is narrow. Those that do not fit beside
    each other follow below, with the names of the rows again.

    Args:
        table: to show.
        color: use the terminal's colors.
        width: in characters; None: of this terminal.

    >>> print(terminal(Table("", ("PSNR",), (Row("", "er", "ER", (Cell("20.00", 1),)),))))
    method   PSNR
    ER      20.00*
    """
    # Markdown and HTML show every column: their readers can scroll, a terminal would wrap.
    heads = table.short or table.heads
    kept = [c for c, head in enumerate(heads) if head is not None]
    stars = any(row.cells[c].rank == 1 for row in table.rows for c in kept)
    left = 2 if table.has_categories else 1
    lines = [[""] * (left - 1) + [table.first, *(f"{heads[c]}{' ' * stars}" for c in kept)]]
    for row in table.rows:
        names = [row.category, row.name] if table.has_categories else [row.name]
        # A blank in the place of the star, or the digits of a column would not stand below each other.
        cells = [row.cells[c].text + ("*" if row.cells[c].rank == 1 else " " * stars) for c in kept]
        lines.append([*(one_line(name) if name else "" for name in names), *cells])  # a baseline has no category
    widths = [max(len(line[c]) for line in lines) for c in range(len(lines[0]))]
    groups = _fitting(widths[:left], widths[left:], width or terminal_width())
    blocks = []
    for group in groups:
        text = []
        for r, line in enumerate(lines):
            cells = [t.ljust(w) for t, w in zip(line[:left], widths)]
            for c in group:
                cell = line[left + c].rjust(widths[left + c])
                # After the padding: color codes count as characters, and colored cells would be too narrow.
                good = table.rows[r - 1].cells[kept[c]].good if r else None
                cells.append(cell if good is None else paint(cell, GREEN if good else RED, color))
            text.append(paint("  ".join(cells).rstrip(), DIM, color and r == 0))
        blocks.append("\n".join(text))
    return "\n\n".join(blocks)


def _fitting(names: Sequence[int], widths: Sequence[int], room: int) -> list[list[int]]:
    """Return the columns in groups that fit beside the names, at least one column each."""
    groups: list[list[int]] = [[]]
    taken = start = sum(names) + 2 * (len(names) - 1)
    for c, width in enumerate(widths):
        if groups[-1] and taken + 2 + width > room:
            groups.append([])
            taken = start
        groups[-1].append(c)
        taken += 2 + width
    return groups


def one_line(text: str) -> str:
    """Return text on one line, without control characters; `?` if nothing is left.

    >>> one_line("a\\n b")
    'a b'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "?"


def paint(text: str, code: str, color: bool) -> str:
    """Return text in a terminal's color, or as it is without `color`.

    >>> paint("x", BOLD, False)
    'x'
    """
    return f"{code}{text}{OFF}" if color else text


def csv_text(lines: Iterable[Sequence[object]], *, heads: bool = True, names: Sequence[str] | None = None) -> str:
    """Return rows of figures as CSV under `names`, or `CSV_HEADS`.

    >>> csv_text([["a run", "CL", "er", "psnr", "last", 64, "20.0", "", 1, 1, ""]], heads=False)
    'a run,CL,er,psnr,last,64,20.0,,1,1,\\n'
    """
    out = io.StringIO()
    # The writer's default is CR LF, unlike every other text file of a run.
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([names or CSV_HEADS] if heads else [])
    writer.writerows(lines)
    return out.getvalue()
