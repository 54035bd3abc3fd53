"""Maps over a picture as PNG: the Fisher score of each pixel, and the module that owns it."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mclnf_fast.report.page.canvas import (
    BODY,
    GAP,
    HEADING,
    INK,
    MARGIN,
    Array,
    Sheet,
    as_numpy,
    enlarge,
    factor,
    heat,
    text_width,
    to_rgb8,
)

# Okabe and Ito's set again, in an order in which neighbors differ.
_TINTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a7f00", "#5b5bd6")
_LEGEND = 16  # the most modules with a legend: more would be taller than the picture
_LABEL = 34
_BAR = 76  # pixels for an upright color bar and its figures


def fisher_map(path: str | Path, image: Array, scores: Array, *, title: str = "", cell: int = 480) -> Path:
    """Write a picture, and beside it the same in gray under its Fisher scores; return the path.

    Args:
        path: of the PNG.
        image: [H, W, 3].
        scores: [H, W], 0 or more, on a log scale; scores that are 0 or not finite are shown as the lowest.
        title, cell: see `pictures.triptych`.

    Raises: ValueError, if the scores are not [H, W] of the picture.

    >>> import tempfile
    >>> folder, picture = Path(tempfile.mkdtemp()), np.zeros((12, 16, 3))
    >>> fisher_map(folder / "fisher.png", picture, np.ones((12, 16))).name
    'fisher.png'
    """
    true = to_rgb8(image)
    values = _plane(scores, true, "scores").astype(np.float64)
    level, low, high = _log_levels(values)
    # As bright as the eye sees them: in the mean of the channels blue would look as bright as green.
    gray = true.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    shade = (0.35 + 0.65 * gray / 255.0)[..., None]
    over = np.clip(0.25 * gray[..., None] * shade + 0.80 * heat(level) * shade, 0, 255)
    scale = factor(true.shape[1], cell)
    h, w = true.shape[0] * scale, true.shape[1] * scale
    head = 40 if title else 0
    sheet = Sheet(2 * MARGIN + 2 * w + GAP + 12 + _BAR, 2 * MARGIN + head + h + _LABEL - 8)
    y = MARGIN + head
    if title:
        sheet.text(MARGIN, MARGIN + 12, title, size=HEADING, room=sheet.image.width - 2 * MARGIN)
    sheet.put(enlarge(true, scale), MARGIN, y)
    sheet.label(MARGIN, y + h + _LABEL // 2, w, "truth")
    x = MARGIN + w + GAP
    sheet.put(enlarge(over.astype(np.uint8), scale), x, y)
    sheet.label(x, y + h + _LABEL // 2, w, "Fisher score of each ray", "log scale")
    sheet.bar(x + w + 12, y, 16, h, _log_ticks(low, high))
    return sheet.save(path)


def module_map(
    path: str | Path,
    image: Array,
    owners: Array,
    names: Sequence[str],
    cells: Sequence[tuple[float, float, float, float]] | None = None,
    *,
    title: str = "",
    cell: int = 640,
) -> Path:
    """Write a map of the modules: the picture tinted by owner, with borders and names; return the path.

    Args:
        path: of the PNG.
        image: [H, W, 3], usually a view from above.
        owners: int [H, W], the module of each pixel; below 0: none.
        names: one per module; modules without one are numbered.
        cells: (x0, y0, x1, y1) in pixels of the picture, outlines to draw as well, such as the modules' cells beside
            the wider ones that they learned from.
        title, cell: see `pictures.triptych`.

    Raises: ValueError, if owners are not whole numbers [H, W] of the picture.

    >>> import tempfile
    >>> folder, picture = Path(tempfile.mkdtemp()), np.zeros((12, 16, 3))
    >>> module_map(folder / "modules.png", picture, np.zeros((12, 16), dtype=int), ["north"]).name
    'modules.png'
    """
    true = to_rgb8(image)
    ids = _plane(owners, true, "owners")
    if not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(f"owners must be whole numbers, got {ids.dtype}")
    present = [int(i) for i in np.unique(ids) if i >= 0]
    scale = factor(true.shape[1], cell)
    h, w = true.shape[0] * scale, true.shape[1] * scale
    labels = {i: str(names[i]) if i < len(names) else f"module {i}" for i in present}
    legend_of = present if len(present) <= _LEGEND else []
    legend = 46 + round(max(text_width(labels[i], BODY) for i in legend_of)) if legend_of else 0
    head = 40 if title else 0
    tall = max(h, 26 * len(legend_of)) if legend_of else h + _LABEL - 8
    sheet = Sheet(2 * MARGIN + w + legend, 2 * MARGIN + head + tall)
    if title:
        sheet.text(MARGIN, MARGIN + 12, title, size=HEADING, room=sheet.image.width - 2 * MARGIN)
    y = MARGIN + head
    sheet.put(enlarge(_tinted(true, ids, present, scale), 1), MARGIN, y)
    for box in cells or ():
        corners = [round(float(v) * scale) for v in box]
        sheet.draw.rectangle(
            (MARGIN + corners[0], y + corners[1], MARGIN + corners[2] - 1, y + corners[3] - 1), outline=INK
        )
    for i in present:
        cx, cy, room = _middle(ids == i, scale)
        label = next((t for t in (labels[i], str(i)) if text_width(t, BODY) + 8 <= room), None)
        if label:
            sheet.text(MARGIN + cx, y + cy, label, anchor="mm", fill="#ffffff", halo=INK)
    for row, i in enumerate(legend_of):
        sheet.swatch(MARGIN + w + 14, y + 13 + 26 * row, _tint(i))
        sheet.text(MARGIN + w + 34, y + 13 + 26 * row, labels[i])
    if not legend_of:
        sheet.label(MARGIN, y + h + _LABEL // 2, w, f"{len(present)} modules")
    return sheet.save(path)


def _plane(values: Array, true: np.ndarray, name: str) -> np.ndarray:
    plane = as_numpy(values)
    if plane.shape != true.shape[:2]:
        raise ValueError(f"{name} must be {true.shape[:2]} like image, got {plane.shape}")
    return plane


def _log_levels(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return places in 0..1 on a log scale without the outermost 1 % (six decades at most), and its ends."""
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size == 0:
        return np.zeros(values.shape), 0.0, 0.0
    # A single ray far from the others would stretch the scale until they share a few colors.
    low, high = (math.log10(float(v)) for v in np.percentile(positive, [1.0, 99.0]))
    # Scores of almost 0 would otherwise take most of the colors.
    low = max(low, high - 6.0)
    # Equal scores: levels are divided by the length of the scale.
    if high - low < 1e-6:
        low, high = low - 0.5, high + 0.5
    floor = 10.0**low
    safe = np.where(np.isnan(values) | (values < floor), floor, values)
    return np.clip((np.log10(safe) - low) / (high - low), 0.0, 1.0), low, high


def _log_ticks(low: float, high: float) -> list[tuple[float, str]]:
    if high <= low:
        return [(0.0, "0")]
    whole = list(range(math.ceil(low), math.floor(high) + 1))
    if len(whole) >= 2:
        return [((e - low) / (high - low), _power(10.0**e)) for e in whole]
    # Too short for two powers of ten: with a single tick no other value could be read.
    steps = [m * 10.0**e for e in range(math.floor(low), math.ceil(high) + 1) for m in (1, 2, 5)]
    inside = [(math.log10(v) - low) / (high - low) for v in steps]
    ticks = [(p, _power(v)) for p, v in zip(inside, steps) if 0.0 <= p <= 1.0]
    return ticks if len(ticks) >= 2 else [(0.0, _power(10.0**low)), (1.0, _power(10.0**high))]


def _power(value: float) -> str:
    if 10 <= value < 1e4:  # else 1,000 would be 1e+03 beside 1e4
        return f"{value:,.0f}"
    return f"{value:.2g}" if 1e-3 <= value < 10 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _tint(module: int) -> str:
    if module < len(_TINTS):
        return _TINTS[module]
    # Steps of the golden ratio: modules next in number differ in hue, however many there are.
    hue = (module * 0.61803398875) % 1.0
    red, green, blue = colorsys.hls_to_rgb(hue, 0.42 + 0.16 * (module % 2), 0.55)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


def _tinted(true: np.ndarray, ids: np.ndarray, present: Sequence[int], scale: int) -> np.ndarray:
    """Return the enlarged picture, uint8, in the modules' colors, with a white line wherever the owner changes."""
    out = true.astype(np.float64)
    gray = (out @ np.array([0.299, 0.587, 0.114]))[..., None]
    for i in present:
        mask = (ids == i)[..., None]
        tint = np.array([int(_tint(i)[k : k + 2], 16) for k in (1, 3, 5)], dtype=np.float64)
        # A part of the picture stays: under a full tint nothing would show what a module holds.
        mixed = 0.42 * tint + 0.35 * out + 0.30 * gray
        out = np.where(mask, mixed, out)
    big = np.clip(out, 0, 255).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
    owner = ids.repeat(scale, 0).repeat(scale, 1)
    edge = np.zeros(owner.shape, dtype=bool)
    across, down = np.diff(owner, axis=1) != 0, np.diff(owner, axis=0) != 0
    # Both sides of a border, since a line of one pixel is too thin at this size.
    edge[:, :-1] |= across
    edge[:, 1:] |= across
    edge[:-1] |= down
    edge[1:] |= down
    big[edge] = 255
    return big


def _middle(mask: np.ndarray, scale: int) -> tuple[float, float, float]:
    """Return a point inside a region near its middle, and how many pixels of the region run there; enlarged."""
    ys, xs = np.nonzero(mask)
    cy, cx = ys.mean(), xs.mean()
    # The mean of a bent region may lie outside it, where its name would stand in another module.
    nearest = int(np.argmin((ys - cy) ** 2 + (xs - cx) ** 2))
    py, px = int(ys[nearest]), int(xs[nearest])
    row = mask[py]
    left, right = px, px
    while left > 0 and row[left - 1]:
        left -= 1
    while right < len(row) - 1 and row[right + 1]:
        right += 1
    return (left + right + 1) / 2 * scale, (py + 0.5) * scale, (right - left + 1) * scale
