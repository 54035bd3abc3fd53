"""The results of a city run as tables: block by block, method by method, over the steps; and as lines of a CSV."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from mclnf_fast.metrics import EIGHT_BITS
from mclnf_fast.report.city.claims import changed, curve
from mclnf_fast.report.page.blocks import HeatCell, HeatPanel
from mclnf_fast.report.page.methods import Look, looks
from mclnf_fast.report.page.style import db, duration, fixed
from mclnf_fast.report.page.tables import (
    Cell,
    Column,
    Row,
    Table,
    build,
    column,
    markdown,
    one_line,
    ranked,
)
from mclnf_fast.report.record import CityRecord, CityResults

Methods = Mapping[str, CityResults]

LOSS = 0.5  # dB below the block's first figure from which a cell is marked as lost
NAME = 12  # characters of the longest block name in a terminal: six blocks fit into 100 columns
_CSV = (("psnr_mean", "psnr", "last"), ("ssim_mean", "ssim", "last"), ("forgetting", "psnr", "forgetting"))
TRIVIAL = "mean color"
TRIVIAL_NOTE = "Mean color: pictures of the mean color of the training views, which nobody has to learn."
BUDGET = (
    "Steps in all and rays: over all blocks, those of a joint method too; replay takes twice as many rays per step. "
    "GFLOP: forward and backward of all samples of these rays, more of one wide network than of a module per block."
)
NOTE = (
    "PSNR of held-out views, mean over the blocks after the last one was learned. Forgetting: the mean loss of a block "
    "from when it was learned to the end; a bare 0 is exactly zero, bit for bit."
)


def city_looks(methods: Methods) -> dict[str, Look]:
    """Return how the methods of a city are shown, in order.

    >>> list(city_looks({"mim": CityResults(), "er": CityResults()}))
    ['er', 'mim']
    """
    return looks({key: results.category for key, results in methods.items()})


def city_table(
    title: str,
    methods: Methods,
    blocks: Sequence[str],
    across: Mapping[str, float | None] | None = None,
    trivial: float | None = None,
) -> Table:
    """Return the table of a city, a row per method: PSNR, SSIM, the first block, forgetting, time, budget, parameters.

    Args:
        title: of the table.
        methods: method -> results.
        blocks: their names, in the order in which they were learned.
        across: method -> PSNR of views over the whole city.
        trivial: mean PSNR of what nobody has to learn, the mean color of the training pictures; None: no such row.

    >>> city_table("", {"mod": CityResults(psnr_mean=20.0)}, ["north"]).heads
    ('mean PSNR (dB)',)
    """
    shown, first = city_looks(methods), one_line(blocks[0]) if blocks else "first block"
    views = across or {}

    def cells(values: Mapping[str, float | None]) -> dict[str, Cell]:
        return ranked(values, lambda key: psnr_text(values[key]))

    short = short_name(first)
    columns = [
        Column("mean PSNR (dB)", cells({key: r.psnr_mean for key, r in methods.items()}), "mean"),
        column("SSIM", methods, lambda key: fixed(methods[key].ssim_mean, ".3f")),
        column(
            f"{first}, when learned (dB)", methods, lambda key: psnr_text(methods[key].psnr_first_task_after_own), short
        ),
        column(
            f"{first}, at the end (dB)",
            methods,
            lambda key: psnr_text(methods[key].psnr_first_task_after_all),
            "at end",
        ),
        Column("forgetting (dB)", {key: _forgetting(r) for key, r in methods.items()}, "forgotten"),
        Column("whole-city views (dB)", cells({key: views.get(key) for key in methods}), "city"),
        column("time", methods, lambda key: duration(methods[key].seconds)),
        column("steps per block", methods, lambda key: fixed(methods[key].steps_per_block, ",.0f"), None),
        column("steps in all", methods, lambda key: fixed(methods[key].steps_total, ",.0f"), None),
        column("rays", methods, lambda key: fixed(methods[key].rays, ",.0f"), None),
        column("GFLOP", methods, lambda key: _billions(methods[key].operations), None),
        column("parameters", methods, lambda key: fixed(methods[key].parameters, ",.0f")),
    ]
    note = f"{len(blocks)} blocks, one after another. {NOTE}" if blocks else NOTE
    budget = any(results.operations is not None for results in methods.values())
    table = build(title, shown, columns, notes=(note, BUDGET) if budget else (note,))
    return _with_trivial(table, {"mean PSNR (dB)": trivial})


def _billions(count: int | None) -> str:
    return fixed(None if count is None else count / 1e9, ",.0f")


def _with_trivial(table: Table, values: Mapping[str, float | None]) -> Table:
    """Return a table with a row above the methods: head -> PSNR of what nobody has to learn; as it is without any."""
    cells = tuple(Cell(psnr_text(values.get(head))) for head in table.heads)
    if all(cell.text == "-" for cell in cells):
        return table
    rows = (Row("", "trivial", TRIVIAL, cells), *table.rows)
    return replace(table, rows=rows, notes=(*table.notes, TRIVIAL_NOTE))


def _forgetting(results: CityResults) -> Cell:
    value = results.forgetting
    # Gains and losses may cancel in the mean: a bare 0 only if no block changed.
    text = "0" if value == 0 and not changed(results) else db(value)
    return Cell(text, good=None if value is None else False if value >= LOSS else True if value <= 0.005 else None)


def steps_table(methods: Methods, trivial: float | None = None) -> Table | None:
    """Return PSNR over the steps of a block, a row per method; None if no method has a curve. `trivial`: see
    `city_table`.

    >>> steps_table({"mod": CityResults(psnr_at_step={1: 10.0})}).heads
    ('step 1',)
    """
    curves = {key: c for key, results in methods.items() if (c := curve(results))}
    steps = sorted({step for c in curves.values() for step in c})

    def at_step(step: int) -> Column:
        return column(f"step {step:,}", curves, lambda key: psnr_text(curves[key].get(step)))

    note = "PSNR in dB of held-out views after so many steps on a block, mean over the blocks."
    shown = {key: look for key, look in city_looks(methods).items() if key in curves}
    if not steps:
        return None
    table = build("PSNR over steps", shown, list(map(at_step, steps)), (note,))
    return _with_trivial(table, dict.fromkeys(table.heads, trivial))


def summary_markdown(record: CityRecord) -> str:
    """Return the results as Markdown, for a README, an issue or a note: one row per method, then PSNR over steps.

    >>> print(summary_markdown(CityRecord(system="city")).splitlines()[0])
    | method |
    """
    trivial = record.trivial
    parts = [markdown(city_table(record.title, record.methods, record.tasks, record.across, trivial))]
    over_steps = steps_table(record.methods, trivial)
    parts += [markdown(over_steps)] if over_steps else []
    tail = [record.machine] * bool(record.machine)
    tail += [f"{duration(record.seconds_total)} in all"] if record.seconds_total is not None else []
    return "\n\n".join([*parts, *(["; ".join(tail) + "."] if tail else [])]) + "\n"


def city_csv_lines(label: str, record: CityRecord) -> Iterator[list[object]]:
    """Yield the figures of a city for `page.tables.csv_text`, one per line, under the `label` of the run.

    >>> next(city_csv_lines("a city", CityRecord(system="city", methods={"mod": CityResults(psnr_mean=20.0)})))[:4]
    ['a city', 'MCL', 'mod', 'psnr']
    """
    for key, look in city_looks(record.methods).items():
        results = record.methods[key]
        figures = {(metric, kind): getattr(results, name) for name, metric, kind in _CSV}
        figures |= {("seconds", "last"): results.seconds, ("parameters", "last"): results.parameters}
        for (metric, kind), value in figures.items():
            if value is not None:
                steps = "" if kind != "last" or results.steps_per_block is None else results.steps_per_block
                line = [label, look.category, key, metric, kind, steps, repr(float(value)), "", "", 1]
                yield [*line, record.command]


def heat_panels(methods: Methods, blocks: Sequence[str]) -> list[HeatPanel]:
    """Return the matrices of the methods for a page; one scale of colors for all of them.

    >>> heat_panels({"mod": CityResults(matrix=((20.0,),))}, ["north"])[0].rows[0][1][0].text
    '20.00'
    """
    # Blocks that are not learned yet are left out: their PSNR would take a part of the colors.
    values = [v for r in methods.values() for k, row in enumerate(r.matrix) for v in row[: k + 1] if v is not None]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    panels = []
    for key, look in city_looks(methods).items():
        matrix = methods[key].matrix
        names = block_names(matrix, blocks)
        rows = [
            (names[k], [_heat_cell(matrix, k, i, (low, high)) for i in range(len(names))])
            for k, row in enumerate(matrix)
            if any(v is not None for v in row)  # a method that meets all blocks at once has only the last row
        ]
        if rows:
            panels.append(HeatPanel(key, look.name, names, rows))
    return panels


def _heat_cell(matrix: Sequence[Sequence[float | None]], k: int, i: int, scale: tuple[float, float]) -> HeatCell:
    low, high = scale
    value = matrix[k][i] if i <= k and i < len(matrix[k]) else None
    if value is None:
        return HeatCell("-" if i <= k else "")
    first = matrix[i][i] if i < k and i < len(matrix[i]) else None
    change = None if first is None else value - first
    text = "" if change is None else "no change" if change == 0 else db(change, sign=True)
    heat = 0.5 if high <= low else (value - low) / (high - low)
    return HeatCell(psnr_text(value), f"{100 * heat:.0f}", text, change is not None and change <= -LOSS)


def block_names(matrix: Sequence[Sequence[float | None]], blocks: Sequence[str]) -> list[str]:
    """Return a name for every block of a matrix.

    >>> block_names([[20.0], [20.0, 21.0]], ["north"])
    ['north', 'block 2']
    """
    count = max([len(matrix), *map(len, matrix)]) if matrix else 0
    return [blocks[i] if i < len(blocks) else f"block {i + 1}" for i in range(count)]


def psnr_text(value: float | None) -> str:
    """Return a PSNR as text: `exact` from what pictures of 8 bits can hold.

    >>> psnr_text(20.0), psnr_text(EIGHT_BITS)
    ('20.00', 'exact')
    """
    return "exact" if value is not None and value >= EIGHT_BITS - 1e-6 else db(value)


def short_name(text: str, room: int = NAME) -> str:
    """Return a name on one line, cut to `room` characters.

    >>> short_name("a very long name")
    'a very long~'
    """
    clean = one_line(text)
    return clean if len(clean) <= room else clean[: room - 1] + "~"
