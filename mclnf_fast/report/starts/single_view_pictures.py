"""The contact sheet of a run of single-view fields."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mclnf_fast.report.page.canvas import BODY, GAP, MARGIN, SOFT, Sheet, enlarge, factor, text_width
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.starts.initializations import saved_values

_OBJECTS, _VIEWS = 2, 4  # of the contact sheet; the first view is the one learned from
_LABEL = 26  # pixels


def contact_sheet(folder: Path, looks: Mapping[str, Look]) -> Path | None:
    """Write `images/sheet.png`, two unseen objects, a view learned from and three others of each; return its path.

    The truth is in the first row, then each initialization before and after its steps. None if there is no truth.
    """
    truth = saved_values(folder, "truth")
    if truth is None:
        return None
    objects, views, height, width = truth.shape[:4]
    count, columns = min(_OBJECTS, objects), min(_VIEWS, views)
    # Spread over all views: the first few may all lie on the side that was learned from.
    chosen = [0, *(round((k + 1) * (views - 1) / (columns - 1)) for k in range(columns - 1))]
    rows: list[tuple[str, str | None, np.ndarray]] = [("truth", None, truth)]
    for key, look in looks.items():
        values = saved_values(folder, key)
        if values is not None:
            rows += [(f"{look.name}, before", look.color, values[0]), ("after", look.color, values[1])]
    scale = factor(width, 112)
    w, h = width * scale, height * scale
    gutter = round(max(text_width(label, BODY) for label, _, _ in rows)) + 35
    block = columns * (w + GAP)
    sheet = Sheet(MARGIN + gutter + count * block + (count - 1) * 2 * GAP + MARGIN - GAP,
                  2 * MARGIN + _LABEL + len(rows) * (h + GAP) - GAP)  # fmt: skip
    for r, (label, fill, pictures) in enumerate(rows):
        y = MARGIN + _LABEL + r * (h + GAP)
        if fill:
            sheet.swatch(MARGIN, y + h / 2, fill)
        sheet.text(MARGIN + 19, y + h / 2, label)
        for o in range(count):
            for c, view in enumerate(chosen):
                x = MARGIN + gutter + o * (block + 2 * GAP) + c * (w + GAP)
                sheet.put(enlarge(np.ascontiguousarray(pictures[o, view]), scale, smooth=True), x, y)
                if r == 0:
                    head = "learned from" if c == 0 else "not seen"
                    sheet.text(x + w // 2, MARGIN + _LABEL // 2, head, fill=SOFT, anchor="mm")
    return sheet.save(folder / "images" / "sheet.png")
