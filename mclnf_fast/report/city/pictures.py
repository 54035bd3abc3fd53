"""The pictures of a run as PNG: truth, renders and errors; the refinement strip; a contact sheet.

Pictures are taken as float [H, W, 3] in 0..1 or uint8 [H, W, 3] and are enlarged by whole factors. Maps over a picture
are in `maps`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mclnf_fast.report.page.canvas import (
    BODY,
    GAP,
    HEADING,
    MARGIN,
    RULE,
    SMALL,
    SOFT,
    Array,
    Sheet,
    enlarge,
    factor,
    heat,
    save_image,
    text_width,
    to_rgb8,
)
from mclnf_fast.report.page.methods import in_order, method
from mclnf_fast.report.page.style import db

_LABEL = 34  # pixels, height of a label bar
_ACROSS, _ROW_GAP = 5, 24  # methods side by side, and pixels between such rows
_ENDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)


def save_png(path: str | Path, array: Array) -> Path:
    """Write a picture at its own size, whole or not at all; return the path.

    >>> import tempfile
    >>> folder, picture = Path(tempfile.mkdtemp()), np.zeros((12, 16, 3))
    >>> save_png(folder / "a.png", picture).name
    'a.png'
    """
    return save_image(path, enlarge(to_rgb8(array), 1))


def triptych(
    path: str | Path,
    truth: Array,
    renders: Mapping[str, Array],
    psnr: Mapping[str, float | None],
    *,
    title: str = "",
    cell: int = 288,
    smooth: bool = True,
) -> Path:
    """Write the truth and each method's render with its PSNR, and under them the absolute errors on one scale.

    Five methods stand side by side, further ones below them. Returns the path.

    Args:
        path: of the PNG.
        truth: [H, W, 3].
        renders: method -> [H, W, 3].
        psnr: method -> dB; a missing one is shown as `-`.
        title: a line above, none if it is empty.
        cell: pixels that a picture's width should come near.
        smooth: enlarge photographs and renders by Lanczos; else a pixel is a square, as in the error maps.

    Raises: ValueError, if a render has another shape than the truth.

    >>> import tempfile
    >>> folder, picture = Path(tempfile.mkdtemp()), np.zeros((12, 16, 3))
    >>> triptych(folder / "a.png", picture, {"mod": picture}, {"mod": None}).name
    'a.png'
    """
    true = to_rgb8(truth, "truth")
    height, width = true.shape[:2]
    shown = {m: _same_shape(to_rgb8(renders[m], f"renders[{m!r}]"), true, m) for m in in_order(renders)}
    errors = {m: _error(r, true) for m, r in shown.items()}
    # One scale for all: each on its own, a good and a poor render would look alike.
    top = _error_top(list(errors.values()))
    scale = factor(width, cell)
    w, h = width * scale, height * scale
    head = 40 if title else 0
    groups = [list(shown)[i : i + _ACROSS] for i in range(0, len(shown), _ACROSS)] or [[]]
    columns, group_height = 1 + len(groups[0]), 2 * h + _LABEL + 6
    size = (
        2 * MARGIN + columns * (w + GAP) - GAP,
        2 * MARGIN + head + len(groups) * (group_height + _ROW_GAP) - _ROW_GAP,
    )
    sheet = Sheet(*size)
    if title:
        sheet.text(MARGIN, MARGIN + 12, title, size=HEADING, room=sheet.image.width - 2 * MARGIN)
    for g, group in enumerate(groups):
        y0 = MARGIN + head + g * (group_height + _ROW_GAP)
        y1 = y0 + h + _LABEL + 6
        sheet.put(enlarge(true, scale, smooth=smooth), MARGIN, y0)
        sheet.label(MARGIN, y0 + h + _LABEL // 2, w, "truth")
        _error_scale(sheet, MARGIN, y1, w, h, top)
        for c, m in enumerate(group, start=1):
            x = MARGIN + c * (w + GAP)
            sheet.put(enlarge(shown[m], scale, smooth=smooth), x, y0)
            sheet.label(x, y0 + h + _LABEL // 2, w, method(m).name, db(psnr.get(m), unit=True), swatch=method(m).color)
            sheet.put(enlarge(heat(errors[m] / top), scale), x, y1)
    return sheet.save(path)


def strip(
    path: str | Path,
    truth: Array,
    rows: Mapping[str, Sequence[Array]],
    steps: Sequence[int],
    psnr: Mapping[str, Sequence[float | None]],
    *,
    title: str = "",
    cell: int = 192,
    smooth: bool = True,
) -> Path:
    """Write the refinement strip: a column per step, the truth last; a row per method; PSNR under each picture.

    Returns the path.

    Args:
        path: of the PNG.
        truth: [H, W, 3].
        rows: method -> one picture [H, W, 3] per step; a method may have fewer pictures than there are steps.
        steps: the step of each column.
        psnr: method -> dB at each step.
        title, cell, smooth: see `triptych`.

    Raises: ValueError, if a picture has another shape than the truth, or a row has more than steps.

    >>> import tempfile
    >>> folder, picture = Path(tempfile.mkdtemp()), np.zeros((12, 16, 3))
    >>> strip(folder / "a.png", picture, {"mod": [picture, picture]}, [1, 4], {"mod": [10.0, 12.0]}).name
    'a.png'
    """
    true = to_rgb8(truth, "truth")
    height, width = true.shape[:2]
    methods = in_order(rows)
    for m in methods:
        if len(rows[m]) > len(steps):
            raise ValueError(f"rows[{m!r}] must have at most {len(steps)} pictures (steps), got {len(rows[m])}")
    scale = factor(width, cell)
    w, h, under = width * scale, height * scale, 28
    gutter = round(max([text_width(t, BODY) for m in methods for t in _two_lines(method(m).name)] or [0])) + 35
    head = 40 if title else 0
    columns = len(steps) + 1
    total = 2 * MARGIN + gutter + columns * (w + GAP) - GAP
    sheet = Sheet(total, MARGIN + head + 30 + len(methods) * (h + under + 6) + MARGIN - 6)
    if title:
        sheet.text(MARGIN, MARGIN + 12, title, size=HEADING, room=total - 2 * MARGIN)
    y = MARGIN + head
    heads = [f"step {s:,}" if i == 0 else f"{s:,}" for i, s in enumerate(steps)]
    for c, line in enumerate([*heads, "truth"]):
        sheet.text(MARGIN + gutter + c * (w + GAP) + w // 2, y + 10, line, anchor="mm")
    y += 30
    for m in methods:
        lines = _two_lines(method(m).name)
        for i, line in enumerate(lines):
            middle = y + h / 2 + 22 * (i - (len(lines) - 1) / 2)
            sheet.text(MARGIN + 19, middle, line)
            if i == 0:
                sheet.swatch(MARGIN, middle, method(m).color)
        values = list(psnr.get(m, ()))
        # Missing pictures leave a gap, so that a column is one step for every method.
        for c, picture in enumerate([*rows[m], *([None] * (len(steps) - len(rows[m]))), true]):
            if picture is None:
                continue
            x = MARGIN + gutter + c * (w + GAP)
            pixels = _same_shape(to_rgb8(picture, f"rows[{m!r}][{c}]"), true, m)
            sheet.put(enlarge(pixels, scale, smooth=smooth), x, y)
            if c < len(steps):
                figure = db(values[c] if c < len(values) else None, unit=True)
                sheet.text(x + w // 2, y + h + under // 2, figure, fill=SOFT, size=SMALL + 1, anchor="mm")
        y += h + under + 6
    return sheet.save(path)


def overview(
    path: str | Path,
    images: Sequence[Array],
    columns: int,
    labels: Sequence[str] = (),
    *,
    title: str = "",
    cell: int = 288,
    smooth: bool = True,
) -> Path:
    """Write a contact sheet, the pictures in rows of `columns`, each with its label under it; return the path.

    Args:
        path: of the PNG.
        images: [H, W, 3] each; their sizes may differ, the largest sets the cell.
        columns: pictures per row.
        labels: one per picture, or none at all.
        title, cell, smooth: see `triptych`.

    Raises: ValueError, if there is no picture, `columns` is below 1 or labels are not one per picture.

    >>> import tempfile
    >>> folder, picture = Path(tempfile.mkdtemp()), np.zeros((12, 16, 3))
    >>> overview(folder / "a.png", [picture] * 3, columns=2, labels=["a", "b", "c"]).name
    'a.png'
    """
    pictures = [to_rgb8(image, f"images[{i}]") for i, image in enumerate(images)]
    if not pictures or columns < 1:
        raise ValueError(f"images and columns must be at least 1, got {len(pictures)} and {columns}")
    if labels and len(labels) != len(pictures):
        raise ValueError(f"labels must be none or {len(pictures)} (one per picture), got {len(labels)}")
    wide, high = max(p.shape[1] for p in pictures), max(p.shape[0] for p in pictures)
    scale = factor(wide, cell)
    w, h, under = wide * scale, high * scale, _LABEL if labels else GAP
    head = 40 if title else 0
    columns = min(columns, len(pictures))
    lines = -(-len(pictures) // columns)
    bottom = MARGIN - (0 if labels else GAP)
    sheet = Sheet(2 * MARGIN + columns * (w + GAP) - GAP, MARGIN + head + lines * (h + under) + bottom)
    if title:
        sheet.text(MARGIN, MARGIN + 12, title, size=HEADING, room=sheet.image.width - 2 * MARGIN)
    for i, picture in enumerate(pictures):
        x = MARGIN + i % columns * (w + GAP)
        y = MARGIN + head + i // columns * (h + under)
        # By a factor of its own, or a picture smaller than the largest would be lost in its cell.
        enlarged = enlarge(picture, max(1, min(w // picture.shape[1], h // picture.shape[0])), smooth=smooth)
        sheet.put(enlarged, x + (w - enlarged.width) // 2, y + (h - enlarged.height) // 2)
        if enlarged.size != (w, h):
            sheet.draw.rectangle((x, y, x + w - 1, y + h - 1), outline=RULE)
        if labels:
            sheet.label(x, y + h + _LABEL // 2, w, labels[i])
    return sheet.save(path)


def _same_shape(picture: np.ndarray, true: np.ndarray, method: str) -> np.ndarray:
    if picture.shape != true.shape:
        raise ValueError(f"the picture of {method!r} must be {true.shape} like truth, got {picture.shape}")
    return picture


def _two_lines(text: str) -> list[str]:
    """Return a method's name for a narrow column: broken after a comma or before a plus."""
    for mark, keep in ((", ", 1), (" + ", 0)):
        index = text.find(mark)
        if index > 0:
            return [text[: index + keep], text[index + keep :].strip()]
    return [text]


def _error(render: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Return the absolute error, mean over the channels, in 0..1; [H, W]."""
    # As floats: the difference of two uint8 values wraps around below 0.
    return np.abs(render.astype(np.float64) - true.astype(np.float64)).mean(-1) / 255.0


def _error_top(errors: Sequence[np.ndarray]) -> float:
    """Return a round upper end of the error scale: at most 1 pixel in 100 lies above it."""
    # Not the largest error: one pixel at an edge would leave all others dark.
    most = max((float(np.percentile(e, 99.0)) for e in errors), default=0.0)
    return next((v for v in _ENDS if v >= most), 1.0)


def _error_scale(sheet: Sheet, x: int, y: int, w: int, h: int, top: float) -> None:
    """Draw the scale of the error maps, in the cell under the truth."""
    length = min(w - 8, 240)
    middle = y + h // 2
    sheet.text(x, middle - 40, "absolute error")
    sheet.text(x, middle - 19, "mean of the three channels", size=SMALL, fill=SOFT, room=w)
    # `+`: larger errors have the color of the end.
    ticks = [(0.0, "0"), (0.5, f"{top / 2:g}"), (1.0, f"{top:g}" + (" +" if top < 1.0 else ""))]
    sheet.bar(x, middle, length, 14, ticks)
