"""What the reports of initializations that are fine-tuned on rays share: their words, table and figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mclnf_fast.report.page.blocks import Tile
from mclnf_fast.report.page.leads import lead_tile, paired
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.page.page import Section
from mclnf_fast.report.page.style import db
from mclnf_fast.report.page.tables import Column, Table, column
from mclnf_fast.report.record import InitializationRecord, InitializationResults
from mclnf_fast.report.starts.columns import (
    TRIVIAL,
    capped,
    care_columns,
    mean_error,
    milestone_columns,
    psnr_text,
    time_column,
)
from mclnf_fast.report.starts.initializations import (
    LOOKS,
    MEAN,
    WHITE,
    Description,
    looks_of,
    results_table,
    terminal_text,
)

ROWS = (WHITE, MEAN, *LOOKS)


@dataclass(frozen=True)
class Wording:
    """The words of a report on initializations that are fine-tuned on rays.

    Attributes:
        ends: what stands beside the steps: head of the column, and field of `InitializationResults`.
        scored: what the PSNR of the table's steps is measured on.
        headline: the label of the PSNR after the last step, `{steps}` and `{name}` in it.
        intro: what was done, in a sentence or two.
        unit: what a test task is; `unit_scored`: what its PSNR is measured on.
        note: what stands below the table.
    """

    ends: tuple[tuple[str, str], ...]
    scored: str
    headline: str
    intro: str
    unit: str
    unit_scored: str
    note: str


def describe(record: InitializationRecord, wording: Wording, between: Section | None = None) -> Description:
    """Return what the report of initializations that are fine-tuned on rays shows and says."""
    record, looks = capped(record), looks_of(record, ROWS)
    note = f"PSNR in dB, mean ± standard error over the test {wording.unit}s. {wording.note}".rstrip()
    return Description(
        looks,
        _table(record, looks, wording, note),
        tiles(record, wording),
        f" on {wording.scored}",
        wording.intro,
        wording.unit,
        f"PSNR in dB on {wording.unit_scored}.",
        between,
    )


def _table(record: InitializationRecord, looks: dict[str, Look], wording: Wording, note: str) -> Table:
    columns = milestone_columns(record, looks)

    def end(head: str, field: str) -> Column:
        rows = record.initializations
        return column(head, looks, lambda key: psnr_text(record, mean_error(_figures(rows[key], field))))

    columns += [end(head, field) for head, field in wording.ends]
    return results_table(record, looks, [*columns, *care_columns(record, looks), time_column(record, looks)], note)


def _figures(results: InitializationResults, field: str) -> Sequence[float | None] | None:
    return {"after": results.after, "input": results.input, "whole": results.whole, "others": results.others}[field]


def tiles(record: InitializationRecord, wording: Wording) -> list[Tile]:
    """Return the figures of the head: the meta-learned initialization's PSNR, and its lead over each other one."""
    looks = looks_of(record, ROWS)
    ends = {key: mean_error(record.initializations[key].after) for key in looks}
    steps = max(record.steps, default=0)
    meta = ends.get("meta")
    if meta is None:
        alone = next(iter(looks)) if len(looks) == 1 else None
        end = ends[alone] if alone is not None else None
        if alone is None or end is None:
            return []
        return [Tile(db(end[0], unit=True), wording.headline.format(steps=steps, name=looks[alone].name))]
    out = [Tile(db(meta[0], unit=True), wording.headline.format(steps=steps, name="meta-learned"))]
    for key in ("matched", "standard", "constant", "shuffled", *TRIVIAL):
        other = ends.get(key)
        if other is not None:
            label = f"against the {looks[key].name}" + " initialization" * (key not in TRIVIAL)
            pairs = paired(record.initializations["meta"].after, record.initializations[key].after)
            out.append(lead_tile(*(pairs or (meta[0] - other[0], None)), label))
    return out


def ray_table(record: InitializationRecord, wording: Wording) -> str:
    """Return the initializations side by side, for a terminal.

    >>> words = Wording((), "views", "", "", "object", "other views", "")
    >>> ray_table(InitializationRecord(system="single-view"), words)
    'no results yet'
    """
    description = describe(record, wording)
    return terminal_text(record, description, description.tiles[1:])
