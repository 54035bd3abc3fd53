"""The qualitative grid: a row per test signal, the truth and each method side by side, PSNR under each.

Images and frames of videos are shown whole, and below them, enlarged, the detail in which the methods differ most.
Sound is shown as a waveform over the truth's and as a spectrogram.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.report.page.canvas import (
    BODY,
    GAP,
    INK,
    MARGIN,
    RULE,
    SMALL,
    SOFT,
    Array,
    Sheet,
    as_array,
    encoded,
    enlarge,
    resize,
    small_print,
    text_width,
    to_rgb8,
)
from mclnf_fast.report.page.methods import Look, in_order, method
from mclnf_fast.report.page.style import db, finite
from mclnf_fast.report.protocol.waves import bands_picture, spectrogram, waveform

if TYPE_CHECKING:
    from PIL import Image as PilImage

_HEAD, _LABEL, _FOOT = 50, 26, 18  # pixels: heads of the columns, a label under a picture, a line at the bottom
_CELL, _SOUND = 128, 176  # pixels, about the width of a picture and of a waveform; a larger picture is shrunk
Figures = Mapping[str, Sequence[float | None]]


@dataclass(frozen=True)
class Labels:
    """The texts of a picture.

    Attributes:
        names: of the signals, shown under the truth.
        looks: how the methods are shown, if they are not those of `page.methods`.
        title: above; `lines`: below, in small type (the commands that made it).

    >>> Labels(title="faces").look("mod").name
    'ours (mod)'
    """

    names: Sequence[str] = ()
    looks: Mapping[str, Look] = field(default_factory=dict)
    title: str = ""
    lines: Sequence[str] = ()

    def look(self, key: str) -> Look:
        """Return how a method is shown."""
        return self.looks.get(key) or method(key)


@dataclass(frozen=True)
class Sound:
    """What the grid shows of sound besides: samples per second, and method -> SI-SDR in dB of each signal."""

    rate: float | None = None
    si_sdr: Figures = field(default_factory=dict)


def qualitative_picture(
    kind: str,
    truth: Array,
    predictions: Mapping[str, Array],
    psnrs: Figures,
    labels: Labels | None = None,
    *,
    sound: Sound | None = None,
    detail: bool = True,
) -> PilImage.Image:
    """Return the grid as a Pillow image.

    Args:
        kind: "image", "video" or "audio".
        truth: values of S signals in [0, 1]: [S, H, W, C], [S, F, H, W, C] or [S, L, 1].
        predictions: method -> values like truth; of a video the middle frame is shown.
        psnrs: method -> dB of each signal; a missing one is shown as `-`, the best is underlined.
        labels: the texts around the pictures.
        sound: rate and SI-SDR, for kind "audio".
        detail: whether the detail in which the methods differ most is shown enlarged.

    Raises: ValueError, if a prediction has another shape than the truth, or there is no signal.

    >>> truth = np.zeros((1, 16, 16, 3))
    >>> qualitative_picture("image", truth, {"mod": truth}, {"mod": [None]}).mode
    'RGB'
    """
    true = as_array(truth)
    ranks = {"image": 4, "video": 5, "audio": 3}
    if kind not in ranks or true.ndim != ranks[kind] or 0 in true.shape:
        raise ValueError(f"truth must hold signals of kind image, video or audio, got {kind!r} of shape {true.shape}")
    values = {m: as_array(predictions[m]) for m in in_order(predictions)}
    for m, prediction in values.items():
        if prediction.shape != true.shape:
            raise ValueError(f"predictions[{m!r}] must be {true.shape} like truth, got {prediction.shape}")
    labels, sound = labels or Labels(), sound or Sound()
    looks = {m: labels.look(m) for m in values}
    if kind == "video":
        middle = true.shape[1] // 2
        true, values = true[:, middle], {m: v[:, middle] for m, v in values.items()}
    grid = _Audio(true, sound) if kind == "audio" else _Pictures(true, list(looks.values()), detail)
    columns = 1 + len(values)
    wide = 2 * MARGIN + columns * (grid.width + GAP) - GAP
    top = MARGIN + (34 if labels.title else 0)
    high = top + _HEAD + len(true) * grid.height + _FOOT * len(labels.lines) + MARGIN - 8
    sheet = Sheet(wide, high)
    if labels.title:
        sheet.text(MARGIN, MARGIN + 8, labels.title, size=BODY + 2, room=wide - 2 * MARGIN)
    _heads(sheet, MARGIN, top, grid.width, list(looks.values()))
    for s in range(len(true)):
        y = top + _HEAD + s * grid.height
        figures = {m: finite(psnrs[m][s]) if s < len(psnrs.get(m, ())) else None for m in values}
        grid.row(sheet, s, y, {m: v[s] for m, v in values.items()}, looks)
        name = labels.names[s] if s < len(labels.names) else f"signal {s + 1}"
        # Smaller before it is cut: names of files differ at their ends.
        sizes = [size for size in (BODY, SMALL, 11) if text_width(name, size) <= grid.width]
        sheet.text(MARGIN, y + grid.under, name, size=sizes[0] if sizes else 11, room=grid.width)
        _psnrs(sheet, y + grid.under, grid.width, figures)
    for k, line in enumerate(labels.lines):
        small_print(sheet, MARGIN, high - MARGIN - _FOOT * (len(labels.lines) - 1 - k), line)
    if kind == "audio":  # a palette, since waves have few colors: a third of the bytes
        from PIL import Image

        return sheet.image.quantize(256, dither=Image.Dither.NONE)
    return sheet.image


def small_enough(draw: Callable[[int], PilImage.Image], rows: int, most: int = 1_040_000) -> tuple[PilImage.Image, int]:
    """Return `draw(count)` and the count, the largest up to `rows` whose PNG has at most `most` bytes, or 1.

    Reports carry their pictures inside; a larger one makes the page slow to open and hard to send.

    >>> from PIL import Image
    >>> small_enough(lambda count: Image.new("RGB", (count, 1)), 4)[1]
    4
    """
    # By trial: how well the rows compress is not known before they are drawn.
    for count in range(rows, 0, -1):
        image = draw(count)
        if len(encoded(image)) <= most or count == 1:
            return image, count
    raise ValueError(f"rows must be at least 1, got {rows}")


class _Pictures:
    """Rows of pictures with an enlarged detail below; `under` is the middle of the labels in a row, in pixels."""

    def __init__(self, truth: np.ndarray, looks: Sequence[Look], detail: bool = True) -> None:
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

    def row(self, sheet: Sheet, s: int, y: int, values: Mapping[str, np.ndarray], looks: Mapping[str, Look]) -> None:
        truth = to_rgb8(self.truth[s])
        pixels = [truth, *(to_rgb8(v) for v in values.values())]
        place = _most_different(truth, pixels[1:], self.side) if self.factor else None
        for c, picture in enumerate(pixels):
            x = MARGIN + c * (self.width + GAP)
            sheet.put(resize(picture, self.scale), x, y)
            if place is None:
                continue
            (top, left), (high, wide) = place, self.side
            cut = np.ascontiguousarray(picture[top : top + high, left : left + wide])
            sheet.put(enlarge(cut, self.factor), x, y + self.picture + GAP)
            if c == 0:
                box = [round(v * self.scale) for v in (left, top, left + wide, top + high)]
                rectangle = (x + box[0], y + box[1], x + box[2] - 1, y + box[3] - 1)
                # White below the dark line: one of the two shows on any picture.
                sheet.draw.rectangle(rectangle, outline="#ffffff", width=3)
                sheet.draw.rectangle(rectangle, outline=INK, width=1)


class _Audio:
    """Rows of waveforms and spectrograms, SI-SDR under PSNR."""

    def __init__(self, truth: np.ndarray, sound: Sound) -> None:
        self.truth, self.rate, self.si_sdr = truth[..., 0], sound.rate, sound.si_sdr
        self.width, self.wave, self.bands = _SOUND, 84, 104
        self.under = self.wave + self.bands + 4 + _LABEL // 2
        self.height = self.under + _LABEL // 2 + (24 if self.si_sdr else 0) + 12

    def row(self, sheet: Sheet, s: int, y: int, values: Mapping[str, np.ndarray], looks: Mapping[str, Look]) -> None:
        truth = self.truth[s]
        # The truth's scale for all methods: on its own one that is too quiet would look right. Silence has none.
        top = float(np.abs(truth - 0.5).max()) * 1.1 or 0.5
        reference, _ = spectrogram(truth, self.rate)
        loudest = float(reference.max())
        for c, (m, samples) in enumerate([("", truth), *((m, v[..., 0]) for m, v in values.items())]):
            x = MARGIN + c * (self.width + GAP)
            color = looks[m].color if m else INK
            sheet.put(waveform(samples, truth, top, color, (self.width, self.wave)), x, y)
            bands, highest = spectrogram(samples, self.rate)
            sheet.put(bands_picture(bands, loudest, (self.width, self.bands)), x, y + self.wave + 4)
            if c == 0 and highest:
                edge = y + self.wave + 4
                for level, anchor, text in ((edge + 3, "la", f"{highest:g} kHz"), (edge + self.bands - 3, "ld", "0")):
                    sheet.text(x + 4, level, text, size=12, fill="#ffffff", anchor=anchor)
            if m and self.si_sdr:
                figures = self.si_sdr.get(m, ())
                figure = db(figures[s] if s < len(figures) else None, unit=True)
                sheet.text(
                    x + self.width / 2, y + self.under + 24, f"SI-SDR {figure}", size=SMALL, fill=SOFT, anchor="mm"
                )


def _heads(sheet: Sheet, x: int, y: int, width: int, looks: Sequence[Look]) -> None:
    """Draw the names of the columns, and above them a rule with the category over those that share it."""
    sheet.text(x, y + 34, "truth")
    start = 0
    for c, look in enumerate(looks, start=1):
        left = x + c * (width + GAP)
        sheet.swatch(left, y + 34, look.color)
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


def _most_different(truth: np.ndarray, pictures: Sequence[np.ndarray], size: tuple[int, int]) -> tuple[int, int]:
    """Return (top, left) of the rectangle of `size` in which the methods' absolute errors differ most.

    Of those in which the truth shows something: black or plain ones are passed over.
    """
    high, wide = size

    def sums(values: np.ndarray) -> np.ndarray:
        # A table of sums: each rectangle costs four entries, however large it is.
        table = np.pad(values.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        return table[high:, wide:] - table[:-high, wide:] - table[high:, :-wide] + table[:-high, :-wide]

    errors = [np.abs(m.astype(np.float64) - truth).mean(-1) for m in pictures] or [np.zeros(truth.shape[:2])]
    totals = [sums(e) for e in errors]
    spread = np.stack(totals).std(0) if len(totals) > 1 else totals[0]  # of a single method: its error
    gray = truth.astype(np.float64).mean(-1)
    contrast = sums(gray**2) - sums(gray) ** 2 / (high * wide)
    least = max(float(np.median(contrast)), 0.1 * float(contrast.max()))
    spread = np.where(contrast >= least, spread, -1.0)
    top, left = np.unravel_index(int(spread.argmax()), spread.shape)
    return int(top), int(left)
