"""Leads of one method over another, with their error: a lead within its error is none."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from mclnf_fast.report.page.blocks import Tile
from mclnf_fast.report.page.style import db

Figures = Sequence[float | None] | None


def paired(ours: Figures, other: Figures) -> tuple[float, float | None] | None:
    """Return the mean of the differences, task by task, and its standard error (None of one task); None without any.

    Of pairs, since tasks differ by more than methods do: the errors of two means would hide every lead.

    >>> paired([20.0, 30.0], [19.0, 28.0])
    (1.5, 0.5)
    """
    gaps = [a - b for a, b in zip(ours or (), other or ()) if a is not None and b is not None]
    if not gaps:
        return None
    return statistics.fmean(gaps), statistics.stdev(gaps) / len(gaps) ** 0.5 if len(gaps) > 1 else None


def lead_tile(gap: float, error: float | None, label: str) -> Tile:
    """Return the tile of a lead in dB: green only above its standard error, red only below minus that.

    >>> lead_tile(0.47, 0.6, "against matched")
    Tile(value='+0.47 dB', label='against matched (within the error, ± 0.60 dB)', good=None)
    >>> lead_tile(0.47, 0.1, "against matched").good, lead_tile(0.47, None, "against matched").good
    (True, None)
    """
    value = db(gap, sign=True, unit=True)
    if error is None:  # a single task or signal
        return Tile(value, f"{label} (its error is unknown)")
    if abs(gap) <= error:
        return Tile(value, f"{label} (within the error, ±\u00a0{db(error, unit=True)})")
    return Tile(value, f"{label} (±\u00a0{db(error, unit=True)})", gap > 0)
