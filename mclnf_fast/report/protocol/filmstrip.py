"""The filmstrip of a video: a row for the truth and for each method, a column per frame, PSNR under each frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.report.page.canvas import (
    BODY,
    GAP,
    INK,
    MARGIN,
    SMALL,
    SOFT,
    Array,
    Sheet,
    as_array,
    resize,
    small_print,
    text_width,
    to_rgb8,
)
from mclnf_fast.report.page.methods import in_order
from mclnf_fast.report.page.style import db
from mclnf_fast.report.protocol.qualitative import Labels

if TYPE_CHECKING:
    from PIL import Image as PilImage

_CELL, _UNDER, _FOOT = 112, 22, 18  # pixels


def filmstrip(
    truth: Array, predictions: Mapping[str, Array], frames: int = 8, labels: Labels | None = None
) -> PilImage.Image:
    """Return a picture of one video's frames, evenly spread from the first, which was learned first, to the last.

    Args:
        truth: [F, H, W, C], values in [0, 1].
        predictions: method -> values like truth.
        frames: the most frames.
        labels: the methods' looks, a title above, lines of small type below.

    Raises: ValueError, if a shape does not fit.

    >>> filmstrip(np.zeros((4, 8, 8, 3)), {"mod": np.zeros((4, 8, 8, 3))}).height > 16
    True
    """
    true, labels = as_array(truth), labels or Labels()
    if true.ndim != 4 or 0 in true.shape:
        raise ValueError(f"truth must be [F, H, W, C] with at least one frame, got {true.shape}")
    videos = {m: as_array(predictions[m]) for m in in_order(predictions)}
    for m, values in videos.items():
        if values.shape != true.shape:
            raise ValueError(f"predictions[{m!r}] must be {true.shape} like truth, got {values.shape}")
    looks, title, lines = {m: labels.look(m) for m in videos}, labels.title, labels.lines
    picked = np.unique(np.linspace(0, len(true) - 1, max(1, min(frames, len(true)))).round().astype(int))
    height, width = true.shape[1:3]
    scale = max(1, round(_CELL / width)) if width <= _CELL else _CELL / width
    w, h = round(width * scale), round(height * scale)
    gutter = round(max(text_width(t, BODY) for t in ["truth", *(look.name for look in looks.values())])) + 32
    top = MARGIN + (34 if title else 0)
    total = 2 * MARGIN + gutter + len(picked) * (w + GAP) - GAP
    high = top + 26 + (h + GAP) + len(videos) * (h + _UNDER + GAP) + _FOOT * len(lines) + MARGIN
    sheet = Sheet(total, high)
    if title:
        sheet.text(MARGIN, MARGIN + 8, title, size=BODY + 2, room=total - 2 * MARGIN)
    for c, f in enumerate(picked):
        head = f"frame {f + 1}" if c == 0 else str(f + 1)
        sheet.text(MARGIN + gutter + c * (w + GAP) + w / 2, top + 8, head, size=SMALL, fill=SOFT, anchor="mm")
    y = top + 26
    sheet.text(MARGIN + 18, y + h / 2, "truth")
    for c, f in enumerate(picked):
        sheet.put(resize(to_rgb8(true[f]), scale), MARGIN + gutter + c * (w + GAP), y)
    y += h + GAP
    best = _best({m: [_psnr(values[f], true[f]) for f in picked] for m, values in videos.items()})
    for m, values in videos.items():
        sheet.swatch(MARGIN, y + h / 2, looks[m].color)
        sheet.text(MARGIN + 18, y + h / 2, looks[m].name)
        for c, f in enumerate(picked):
            x = MARGIN + gutter + c * (w + GAP)
            sheet.put(resize(to_rgb8(values[f]), scale), x, y)
            figure = _psnr(values[f], true[f])
            # A method that stands alone has beaten none.
            is_best = figure == best[c] and len(videos) > 1
            # An exact frame has no finite PSNR; `-` would read as not measured.
            text = db(figure, unit=True) if np.isfinite(figure) else "exact"
            sheet.text(x + w / 2, y + h + 11, text, size=SMALL, fill=INK if is_best else SOFT, anchor="mm")
            if is_best:
                half = text_width(text, SMALL) / 2
                sheet.draw.line((x + w / 2 - half, y + h + 20, x + w / 2 + half, y + h + 20), fill=INK)
        y += h + _UNDER + GAP
    for k, line in enumerate(lines):
        small_print(sheet, MARGIN, high - MARGIN - _FOOT * (len(lines) - 1 - k), line)
    return sheet.image


def _psnr(values: np.ndarray, true: np.ndarray) -> float:
    error = float(np.square(values.astype(np.float64) - true).mean())
    return -10.0 * float(np.log10(error)) if error > 0 else float("inf")


def _best(figures: Mapping[str, Sequence[float]]) -> list[float]:
    return [max(column) for column in zip(*figures.values())]
