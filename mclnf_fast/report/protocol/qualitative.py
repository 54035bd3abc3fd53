"""The qualitative grid: a row a test signal, the truth and each method side by side, its PSNR under each.

Images and frames of videos are shown whole, and below them the place where the methods differ most, enlarged. Sound
is shown as a waveform over the truth's and as a spectrogram.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mclnf_fast.report.page.canvas import (
    BODY,
    GAP,
    INK,
    MARGIN,
    RULE,
    SMALL,
    SOFT,
    Sheet,
    enlarge,
    fit,
    font,
    text_width,
    to_rgb8,
)
from mclnf_fast.report.page.methods import Method, in_order, method
from mclnf_fast.report.page.style import db, finite
from mclnf_fast.report.protocol.waves import bands_picture, spectrogram, waveform

if TYPE_CHECKING:
    from PIL import Image as PilImage

_HEAD, _LABEL, _FOOT = 50, 26, 18  # pixels: heads of the columns, a label under a picture, a line at the bottom
_CELL, _SOUND = 128, 176  # pixels, about the width of a picture and of a waveform; a larger picture is shrunk
Figures = Mapping[str, Sequence[float | None]]


def qualitative_picture(
    kind: str,
    truth: Any,
    predictions: Mapping[str, Any],
    psnrs: Figures,
    rate: float | None = None,
    *,
    names: Sequence[str] = (),
    second: Figures | None = None,
    looks: Mapping[str, Method] | None = None,
    title: str = "",
    lines: Sequence[str] = (),
    detail: bool = True,
) -> PilImage.Image:
    """The grid as a Pillow image.

    Args:
        kind: "image", "video" or "audio".
        truth: values of S signals in [0, 1]: [S, H, W, C], [S, F, H, W, C] or [S, L, 1].
        predictions: method -> values like truth; of a video the middle frame is shown.
        psnrs: method -> dB of each signal; a missing one is shown as `-`, the best is underlined.
        rate: samples a second of sound.
        names: of the signals, shown under the truth.
        second: method -> SI-SDR in dB of each signal, shown below the PSNR; sound only.
        looks: how the methods are shown, where they are not those of the paper.
        title, lines: above the grid, and in small type below it (the commands that made it).
        detail: whether the place where the methods differ most is shown enlarged.

    Raises: ValueError, if a prediction has another shape than the truth, or there is no signal.
    """
    true = as_array(truth)
    ranks = {"image": 4, "video": 5, "audio": 3}
    if kind not in ranks or true.ndim != ranks[kind] or 0 in true.shape:
        raise ValueError(f"truth must hold signals of kind image, video or audio, got {kind!r} of shape {true.shape}")
    made = {m: as_array(predictions[m]) for m in in_order(predictions)}
    for m, values in made.items():
        if values.shape != true.shape:
            raise ValueError(f"predictions[{m!r}] must be {true.shape} like truth, got {values.shape}")
    shown = {m: (looks or {}).get(m) or method(m) for m in made}
    if kind == "video":
        middle = true.shape[1] // 2
        true, made = true[:, middle], {m: v[:, middle] for m, v in made.items()}
    grid = _Audio(true, rate, second or {}) if kind == "audio" else _Pictures(true, list(shown.values()), detail)
    columns = 1 + len(made)
    wide = 2 * MARGIN + columns * (grid.width + GAP) - GAP
    top = MARGIN + (34 if title else 0)
    high = top + _HEAD + len(true) * grid.height + _FOOT * len(lines) + MARGIN - 8
    sheet = Sheet(wide, high)
    if title:
        sheet.text(MARGIN, MARGIN + 8, title, size=BODY + 2, room=wide - 2 * MARGIN)
    _heads(sheet, MARGIN, top, grid.width, list(shown.values()))
    for s in range(len(true)):
        y = top + _HEAD + s * grid.height
        figures = {m: finite(psnrs[m][s]) if s < len(psnrs.get(m, ())) else None for m in made}
        grid.row(sheet, s, y, {m: v[s] for m, v in made.items()}, shown)
        sheet.text(MARGIN, y + grid.under, names[s] if s < len(names) else f"signal {s + 1}", room=grid.width)
        _psnrs(sheet, y + grid.under, grid.width, figures)
    for k, line in enumerate(lines):
        small_print(sheet, MARGIN, high - MARGIN - _FOOT * (len(lines) - 1 - k), line)
    if kind == "audio":  # few colours: a third of the bytes
        from PIL import Image

        return sheet.image.quantize(256, dither=Image.Dither.NONE)
    return sheet.image


def small_print(sheet: Sheet, x: float, y: float, line: str) -> None:
    """A command in small type; the two hyphens of an option stay two."""
    face = font(12)
    for part in re.split("(-)", fit(line, 12, sheet.image.width - x - MARGIN)):
        sheet.draw.text((x, y), part, font=face, fill=SOFT, anchor="lm")
        x += face.getlength(part) + (1.5 if part == "-" else 0.0)


def small_enough(make: Callable[[int], PilImage.Image], rows: int, most: int = 1_040_000) -> tuple[PilImage.Image, int]:
    """A picture of as many rows, at most `rows`, as a PNG of `most` bytes holds, and how many: `make(rows)`."""
    import io

    for count in range(rows, 0, -1):
        image = make(count)
        buffer = io.BytesIO()
        image.save(buffer, format="PNG", optimize=True)
        if len(buffer.getvalue()) <= most or count == 1:
            return image, count
    raise ValueError(f"rows must be at least 1, got {rows}")


class _Pictures:
    """Rows of pictures with an enlarged detail below; `under` is where the labels' middle lies in a row."""

    def __init__(self, truth: np.ndarray, looks: Sequence[Method], detail: bool = True) -> None:
        self.truth = truth
        height, width = truth.shape[1:3]
        self.scale = max(1, round(_CELL / width)) if width <= _CELL else _CELL / width
        self.shown, self.picture = round(width * self.scale), round(height * self.scale)
        names = max((text_width(look.name, BODY) + 24 for look in looks), default=0)
        self.width = max(self.shown, round(names), 96)
        # A detail a quarter as wide as the picture, but at least 12 pixels; each is shown as a square, and all of them
        # are as wide as the column at most.
        self.factor = max(2, self.shown // max(12, width // 4)) if detail and min(width, height) >= 16 else 0
        self.side = (
            (min(height, self.shown * 3 // 4 // self.factor), self.shown // self.factor) if self.factor else (0, 0)
        )
        below = GAP + self.side[0] * self.factor if self.factor else 0
        self.under = self.picture + below + _LABEL // 2 + 1
        self.height = self.under + _LABEL // 2 + 12

    def row(self, sheet: Sheet, s: int, y: int, made: Mapping[str, np.ndarray], looks: Mapping[str, Method]) -> None:
        truth = to_rgb8(self.truth[s])
        pixels = [truth, *(to_rgb8(v) for v in made.values())]
        place = _telling(truth, pixels[1:], self.side) if self.factor else None
        for c, one in enumerate(pixels):
            x = MARGIN + c * (self.width + GAP)
            sheet.put(resize(one, self.scale), x, y)
            if place is None:
                continue
            (top, left), (high, wide) = place, self.side
            cut = np.ascontiguousarray(one[top : top + high, left : left + wide])
            sheet.put(enlarge(cut, self.factor), x, y + self.picture + GAP)
            if c == 0:
                box = [round(v * self.scale) for v in (left, top, left + wide, top + high)]
                rectangle = (x + box[0], y + box[1], x + box[2] - 1, y + box[3] - 1)
                sheet.draw.rectangle(rectangle, outline="#ffffff", width=3)
                sheet.draw.rectangle(rectangle, outline=INK, width=1)


class _Audio:
    """Rows of waveforms and spectrograms; a second figure under the first."""

    def __init__(self, truth: np.ndarray, rate: float | None, second: Figures) -> None:
        self.truth, self.rate, self.second = truth[..., 0], rate, second
        self.width, self.wave, self.bands = _SOUND, 84, 104
        self.under = self.wave + self.bands + 4 + _LABEL // 2
        self.height = self.under + _LABEL // 2 + (24 if second else 0) + 12

    def row(self, sheet: Sheet, s: int, y: int, made: Mapping[str, np.ndarray], looks: Mapping[str, Method]) -> None:
        truth = self.truth[s]
        top = float(np.abs(truth - 0.5).max()) * 1.1 or 0.5
        reference, _ = spectrogram(truth, self.rate)
        loudest = float(reference.max())
        for c, (m, values) in enumerate([("", truth), *((m, v[..., 0]) for m, v in made.items())]):
            x = MARGIN + c * (self.width + GAP)
            colour = looks[m].colour if m else INK
            sheet.put(waveform(values, truth, top, colour, (self.width, self.wave)), x, y)
            bands, highest = spectrogram(values, self.rate)
            sheet.put(bands_picture(bands, loudest, (self.width, self.bands)), x, y + self.wave + 4)
            if c == 0 and highest:
                at = y + self.wave + 4
                for level, anchor, text in ((at + 3, "la", f"{highest:g} kHz"), (at + self.bands - 3, "ld", "0")):
                    sheet.text(x + 4, level, text, size=12, fill="#ffffff", anchor=anchor)
            if m and self.second:
                found = self.second.get(m, ())
                figure = db(found[s] if s < len(found) else None, unit=True)
                at = y + self.under + 24
                sheet.text(x + self.width / 2, at, f"SI-SDR {figure}", size=SMALL, fill=SOFT, anchor="mm")


def _heads(sheet: Sheet, x: int, y: int, width: int, looks: Sequence[Method]) -> None:
    """The names of the columns, and above them a rule with the category over those that share it."""
    sheet.text(x, y + 34, "truth")
    start = 0
    for c, look in enumerate(looks, start=1):
        left = x + c * (width + GAP)
        sheet.swatch(left, y + 34, look.colour)
        sheet.text(left + 18, y + 34, look.name, room=width - 18)
        if c == 1 or look.category != looks[c - 2].category:
            start = left
        if c == len(looks) or look.category != looks[c].category:
            end = left + width - 1
            taken = text_width(look.category, SMALL)
            sheet.text(start, y + 8, look.category, size=SMALL, fill=SOFT)
            sheet.draw.line((start + taken + 6, y + 8, end, y + 8), fill=RULE)


def _psnrs(sheet: Sheet, y: int, width: int, figures: Mapping[str, float | None]) -> None:
    known = [round(v, 2) for v in figures.values() if v is not None]
    for c, value in enumerate(figures.values(), start=1):
        x = MARGIN + c * (width + GAP) + width / 2
        best = value is not None and len(known) > 1 and round(value, 2) == max(known)
        text = db(value, unit=True)
        sheet.text(x, y, text, fill=INK if best else SOFT, anchor="mm")
        if best:
            half = text_width(text, BODY) / 2
            sheet.draw.line((x - half, y + 12, x + half, y + 12), fill=INK, width=2)


def _telling(truth: np.ndarray, made: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[int, int]:
    """(top, left) of the rectangle of `size` in which the methods' absolute errors differ most from each other."""
    high, wide = size
    errors = [np.abs(m.astype(np.float64) - truth).mean(-1) for m in made] or [np.zeros(truth.shape[:2])]
    totals = []
    for e in errors:
        table = np.pad(e.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        totals.append(table[high:, wide:] - table[:-high, wide:] - table[high:, :-wide] + table[:-high, :-wide])
    spread = np.stack(totals).std(0) if len(totals) > 1 else totals[0]  # one alone: where it is wrong
    top, left = np.unravel_index(int(spread.argmax()), spread.shape)
    return int(top), int(left)


def resize(pixels: np.ndarray, scale: float) -> PilImage.Image:
    """A uint8 picture [H, W, 3] `scale` times as large, smoothly."""
    from PIL import Image

    image = Image.fromarray(pixels)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def as_array(values: Any) -> np.ndarray:
    """float32 of a tensor or an array."""
    return np.asarray(values.detach().cpu().numpy() if hasattr(values, "detach") else values, dtype=np.float32)
