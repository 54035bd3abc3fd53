"""The pictures of a run of photos: a contact sheet, and the way from one photo to another."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mclnf_fast.report.page.canvas import BODY, GAP, MARGIN, PAPER, SOFT, Sheet, enlarge, factor, text_width
from mclnf_fast.report.page.film import write_gif
from mclnf_fast.report.page.methods import Look
from mclnf_fast.report.starts.initializations import saved_values

_STILLS = 6  # of the way
_LABEL = 26  # pixels
_FRAME = 120  # milliseconds


def photo_sheet(folder: Path, looks: Mapping[str, Look], middle: int) -> Path | None:
    """Write `images/sheet.png`; return its path, or None if there are no photos.

    Rows: unseen photos, the half of each that is learned from, and each initialization before and after its steps; the
    last row of the meta-learned one is of the whole photo. `middle` is the first column that is not learned from.
    """
    truth = saved_values(folder, "truth")
    if truth is None:
        return None
    half = truth.copy()
    half[:, :, middle:] = np.array([int(PAPER[i : i + 2], 16) for i in (1, 3, 5)], np.uint8)
    rows: list[tuple[str, str | None, np.ndarray]] = [("photo", None, truth), ("learned from", None, half)]
    for key, look in looks.items():
        values = saved_values(folder, key)
        if values is not None:
            rows += [(f"{look.name}, before", look.color, values[0]), ("after", look.color, values[1])]
            if key == "meta":
                rows.append(("whole photo", look.color, values[2]))
    return _grid(rows).save(folder / "images" / "sheet.png")


def way_strip(folder: Path, looks: Mapping[str, Look]) -> Path | None:
    """Write `images/strip.png`, stills of the way from one photo to another, the truth above if it is known.

    Returns its path, or None if the run kept no way.
    """
    panels = _way(folder, looks)
    if not panels:
        return None
    frames = len(panels[0][2])
    chosen = sorted({round(k * (frames - 1) / (_STILLS - 1)) for k in range(_STILLS)})
    heads = [f"{k / (frames - 1):.1f}" for k in chosen]
    sheet = _grid([(label, fill, pictures[chosen]) for label, fill, pictures in panels], heads)
    return sheet.save(folder / "images" / "strip.png")


def way_gif(folder: Path, looks: Mapping[str, Look]) -> Path | None:
    """Write `images/way.gif`, there and back between the two photos, the truth beside it if it is known.

    Returns its path, or None if the run kept no way.
    """
    panels = _way(folder, looks)
    ends = saved_values(folder, "ends")
    if not panels or ends is None:
        return None
    frames, height, width = panels[0][2].shape[:3]
    scale = factor(width, 224)
    w, h = width * scale, height * scale
    images = []
    # Each end once: shown twice, the film would halt there.
    for k in [*range(frames), *range(frames - 2, 0, -1)]:
        shown = [("from", ends[0]), *((label, pictures[k]) for label, _, pictures in panels), ("to", ends[1])]
        sheet = Sheet(2 * MARGIN + len(shown) * (w + GAP) - GAP, 2 * MARGIN + h + _LABEL)
        for c, (label, picture) in enumerate(shown):
            x = MARGIN + c * (w + GAP)
            sheet.put(enlarge(np.ascontiguousarray(picture), scale, smooth=True), x, MARGIN)
            sheet.label(x, MARGIN + h + _LABEL // 2 + 4, w, label)
        images.append(sheet.image)
    return write_gif(images, folder / "images" / "way.gif", _FRAME)


def _way(folder: Path, looks: Mapping[str, Look]) -> list[tuple[str, str | None, np.ndarray]]:
    """Return label, color and frames [F, H, W, 3]: the truth, the meta-learned one, and one to compare with."""
    panels: list[tuple[str, str | None, np.ndarray]] = []
    truth = saved_values(folder, "between_truth")
    if truth is not None:
        panels.append(("truth", None, truth))
    best = "meta" if "meta" in looks else next(iter(looks), "")
    for key in dict.fromkeys((best, "standard")):
        values = saved_values(folder, f"between_{key}") if key in looks else None
        if values is not None:
            panels.append((looks[key].name, looks[key].color, values))
    return panels if any(fill for _, fill, _ in panels) else []


def _grid(rows: list[tuple[str, str | None, np.ndarray]], heads: list[str] | None = None) -> Sheet:
    """Return a sheet of rows of pictures [N, H, W, 3], each with its label and color; `heads` over the columns."""
    count, height, width = rows[0][2].shape[:3]
    scale = factor(width, 160)
    w, h = width * scale, height * scale
    gutter = round(max(text_width(label, BODY) for label, _, _ in rows)) + 35
    top = MARGIN + (_LABEL if heads else 0)
    sheet = Sheet(MARGIN + gutter + count * (w + GAP) - GAP + MARGIN, top + len(rows) * (h + GAP) - GAP + MARGIN)
    for c, head in enumerate(heads or ()):
        sheet.text(MARGIN + gutter + c * (w + GAP) + w // 2, MARGIN + _LABEL // 2, head, fill=SOFT, anchor="mm")
    for r, (label, fill, pictures) in enumerate(rows):
        y = top + r * (h + GAP)
        if fill:
            sheet.swatch(MARGIN, y + h / 2, fill)
        sheet.text(MARGIN + 19, y + h / 2, label)
        for c in range(count):
            sheet.put(
                enlarge(np.ascontiguousarray(pictures[c]), scale, smooth=True), MARGIN + gutter + c * (w + GAP), y
            )
    return sheet
