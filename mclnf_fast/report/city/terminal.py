"""The results of a city run for a terminal: a line per block while it learns, tables at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest

from mclnf_fast.report.city.tables import LOSS, NAME, block_names, city_looks, city_table, short_name, steps_table
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.page.style import db, duration
from mclnf_fast.report.page.tables import BOLD, DIM, OFF, RED, one_line, paint, terminal, terminal_width
from mclnf_fast.report.record import CityRecord, CityResults

Methods = Mapping[str, CityResults]

_GAP = "   "


def block_line(methods: Methods, block: str, learned: int, blocks: int) -> str:
    """Return one line about a block that all methods have just learned: the mean over the blocks so far.

    Args:
        methods: method -> results so far.
        block: its name.
        learned: blocks so far; `blocks`: in all.

    >>> block_line({"mod": CityResults(psnr_mean=20.0)}, "north", 1, 4)
    'learned north (1 of 4), mean PSNR in dB of the blocks so far: mod 20.00'
    """
    # A line, not the matrices: with 64 blocks these alone would print thousands of lines.
    means = [f"{key} {db(methods[key].psnr_mean)}" for key in city_looks(methods)]
    return (
        f"learned {one_line(block)} ({learned} of {blocks}), mean PSNR in dB of the blocks so far: {', '.join(means)}"
    )


def city_text(record: CityRecord, *, color: bool = False) -> str:
    """Return the results of a finished run: the matrices if they fit, a row per method, PSNR over the steps.

    >>> city_text(CityRecord(system="city"))
    'no results yet'
    """
    if not record.methods:
        return "no results yet"
    over_steps, trivial = steps_table(record.methods, record.trivial), record.trivial
    parts = [matrix_table(record.methods, record.tasks, color=color, across=record.across, trivial=trivial)]
    parts += ["PSNR in dB over the steps of a block", terminal(over_steps, color=color)] if over_steps else []
    tail = [record.machine] * bool(record.machine)
    tail += [f"{duration(record.seconds_total)} in all"] if record.seconds_total is not None else []
    return "\n\n".join([*parts, *(["; ".join(tail)] if tail else [])])


def matrix_table(
    methods: Methods,
    blocks: Sequence[str],
    *,
    color: bool = False,
    width: int | None = None,
    across: Mapping[str, float | None] | None = None,
    trivial: float | None = None,
) -> str:
    """Return the block-by-block PSNR of each method for a terminal, then one line per method.

    A panel has a row for each block learned ("after k") and a column for each block's held-out views; a block that is
    not learned yet has an empty cell.

    Args:
        methods: method -> results.
        blocks: their names, in the order in which they were learned.
        color: use the terminal's colors: a block's figure right after it was learned is bold, a loss of 0.5 dB or more
            since then is red.
        width: in characters, of this terminal by default; as many panels stand side by side as fit, and a panel that
            does not fit alone is left out.
        across: method -> PSNR of views over the whole city.
        trivial: mean PSNR of the mean color of the training views; None: no such row.

    >>> "20.00" in matrix_table({"mod": CityResults(matrix=((20.0,),))}, ["north"])
    True
    """
    if not methods:
        return "no results yet"
    width = width or terminal_width()
    panels = [_panel(methods[key], look, blocks, color, width) for key, look in city_looks(methods).items()]
    panels = [panel for panel in panels if panel and _visible(panel[0]) <= width]
    lines = ["Held-out PSNR in dB, block by block (rows: after learning that block)", ""] if panels else []
    while panels:
        group = [panels.pop(0)]
        used = _visible(group[0][0])
        while panels and used + len(_GAP) + _visible(panels[0][0]) <= width:
            used += len(_GAP) + _visible(panels[0][0])
            group.append(panels.pop(0))
        blank = [" " * _visible(panel[0]) for panel in group]
        # Panels of fewer rows are filled up with blank lines, so that those to their right stay in place.
        rows = zip_longest(*group)
        lines += [_GAP.join(line if line is not None else b for line, b in zip(row, blank)).rstrip() for row in rows]
        lines.append("")
    return "\n".join([*lines, terminal(city_table("", methods, blocks, across, trivial), color=color, width=width)])


def _panel(results: CityResults, look: Look, blocks: Sequence[str], color: bool, width: int) -> list[str]:
    matrix = results.matrix
    if not matrix:
        return []
    full = block_names(matrix, blocks)
    count, room = len(full), min(NAME, max(6, (width - NAME) // len(full) - 2))
    names = [short_name(name, room) for name in full]
    if len(set(names)) < count:  # cut to the same text: number them
        names = [short_name(f"{i} {name}", room) for i, name in enumerate(full, start=1)]
    widths = [max(6, len(name)) for name in names]
    left = max(len("after"), *map(len, names))
    total = left + sum(w + 2 for w in widths)
    title = f"{look.name} ({look.key})" if look.name != look.key else look.key
    heads = "after".ljust(left) + "".join("  " + name.rjust(w) for name, w in zip(names, widths))
    lines = [paint(one_line(title)[:total].ljust(total), BOLD, color), paint(heads, DIM, color)]
    for k, row in enumerate(matrix):
        if any(value is not None for value in row):
            cells = ["  " + _cell(matrix, k, i, widths[i], color) for i in range(count)]
            lines.append(names[k].ljust(left) + "".join(cells))
    return lines


def _cell(matrix: Sequence[Sequence[float | None]], k: int, i: int, width: int, color: bool) -> str:
    value = matrix[k][i] if i <= k and i < len(matrix[k]) else None
    text = ("" if i > k else db(value)).rjust(width)
    if value is None:
        return text
    if i == k:
        return paint(text, BOLD, color)
    first = matrix[i][i] if i < len(matrix[i]) else None
    return paint(text, RED, color and first is not None and value <= first - LOSS)


def _visible(line: str) -> int:
    """Return how many characters of a line a terminal shows."""
    for code in (BOLD, DIM, RED, OFF):
        line = line.replace(code, "")
    return len(line)
