"""A turn around one object: as a film, and as a strip of stills."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.report.page.canvas import BODY, GAP, MARGIN, Sheet, resize, text_width
from mclnf_fast.report.page.film import write_gif, write_mp4
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.record import InitializationRecord
from mclnf_fast.report.starts.initializations import saved_values

if TYPE_CHECKING:
    from PIL import Image as PilImage

_CELL, _STILL = 128, 96  # pixels of a picture's longer side, in the film and in the strip
_STILLS = 8  # columns of the strip
_LABEL = 26  # pixels
_FRAME = 100  # milliseconds


@dataclass(frozen=True)
class Turn:
    """One field around the object: its label, its color (None: the truth), pictures [frames, h, w, 3]."""

    label: str
    color: str | None
    frames: np.ndarray


def orbit_rows(folder: Path, looks: Mapping[str, Look], record: InitializationRecord) -> list[Turn]:
    """Return the turns of a run, none if it kept none.

    First the truth (or, of an object that can't be rendered, its views nearest to each frame), then the meta-learned
    initialization before and after its steps, and the others after theirs.
    """
    truth = saved_values(folder, "orbit_truth")
    if truth is None:
        return []
    rendered = record.orbit is not None and record.orbit.rendered
    rows = [Turn("truth" if rendered else "nearest of its views", None, truth)]
    # A stable sort: the meta-learned one comes first, the others keep their order.
    for key in sorted(looks, key=lambda k: k != "meta"):
        turns = saved_values(folder, f"orbit_{key}")
        if turns is None:
            continue
        names = ("before", "after")[-len(turns) :]
        rows += [Turn(f"{looks[key].name}, {name}", looks[key].color, turn) for name, turn in zip(names, turns)]
    return rows


def orbit_film(folder: Path, rows: list[Turn], record: InitializationRecord) -> tuple[Path, Path | None]:
    """Write `images/turntable.gif`, and the same as an .mp4 if PyAV is installed; return their paths.

    The view that was learned from stands still at the left, the rows turn beside it.
    """
    truth = saved_values(folder, "truth")
    count = record.views.known[0] if record.views is not None and record.views.known else 1
    label = "learned from" if count == 1 else f"1 of {count} learned from"
    still = [] if truth is None else [Turn(label, None, np.repeat(truth[0, :1], len(rows[0].frames), 0))]
    panels = [*still, *rows]
    frames = [_side_by_side(panels, f) for f in range(len(rows[0].frames))]
    place = folder / "images"
    return write_gif(frames, place / "turntable.gif", _FRAME), write_mp4(frames, place / "turntable.mp4", _FRAME)


def _side_by_side(panels: list[Turn], frame: int) -> PilImage.Image:
    pictures = [resize(np.ascontiguousarray(p.frames[frame]), _CELL / max(p.frames.shape[1:3])) for p in panels]
    # At least as wide as the label, which tells the fields apart and is therefore not cut.
    widths = [max(picture.width, round(text_width(p.label, BODY)) + 4) for picture, p in zip(pictures, panels)]
    height = max(picture.height for picture in pictures)
    sheet = Sheet(2 * MARGIN + sum(widths) + GAP * (len(panels) - 1), 2 * MARGIN + height + _LABEL)
    x = MARGIN
    for picture, panel, width in zip(pictures, panels, widths):
        sheet.put(picture, x + (width - picture.width) // 2, MARGIN)
        sheet.text(x + width / 2, MARGIN + height + _LABEL // 2 + 4, panel.label, anchor="mm")
        x += width + GAP
    return sheet.image


def orbit_strip(folder: Path, rows: list[Turn]) -> Path:
    """Write `images/orbit.png`, the turn as stills, a row per field, a column per eighth of it; return its path."""
    count = len(rows[0].frames)
    # Without the end: a whole turn ends where it began, and two stills would be one.
    shown = [k * count // _STILLS for k in range(_STILLS)] if count >= _STILLS else list(range(count))
    scale = _STILL / max(rows[0].frames.shape[1:3])
    height, width = (max(1, round(side * scale)) for side in rows[0].frames.shape[1:3])
    gutter = round(max(text_width(row.label, BODY) for row in rows)) + 35
    sheet = Sheet(2 * MARGIN + gutter + len(shown) * (width + GAP) - GAP, 2 * MARGIN + len(rows) * (height + GAP) - GAP)
    for r, row in enumerate(rows):
        y = MARGIN + r * (height + GAP)
        if row.color:
            sheet.swatch(MARGIN, y + height / 2, row.color)
        sheet.text(MARGIN + 19, y + height / 2, row.label)
        for c, frame in enumerate(shown):
            sheet.put(resize(np.ascontiguousarray(row.frames[frame]), scale), MARGIN + gutter + c * (width + GAP), y)
    return sheet.save(folder / "images" / "orbit.png")
