"""What all pictures share: arrays to pixels, one color map, labels, and a sheet to lay them out on."""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from mclnf_fast.fields.io import write_atomically
from mclnf_fast.report.page.style import PNG_LEVEL

if TYPE_CHECKING:
    from PIL import Image as PilImage
    from PIL.ImageFont import FreeTypeFont, ImageFont
    from torch import Tensor

Array: TypeAlias = "np.ndarray | Tensor"
PAPER, INK, SOFT, RULE = "#ffffff", "#1b1e24", "#6a7080", "#d9dce2"
GAP, MARGIN = 8, 16  # pixels between cells, and around the sheet
BODY, SMALL, HEADING = 17, 14, 19  # pixels, sizes of type

# Dark violet to orange to pale yellow, lightness rising all the way.
_HEAT = np.array(
    [
        [0.00, 12, 7, 36],
        [0.15, 46, 14, 84],
        [0.30, 98, 22, 110],
        [0.45, 152, 37, 98],
        [0.60, 204, 64, 67],
        [0.75, 239, 112, 34],
        [0.88, 250, 175, 52],
        [1.00, 253, 248, 190],
    ]
)


def heat(values: np.ndarray) -> np.ndarray:
    """Return colors uint8 [..., 3] of `values` [...], clipped to 0..1; NaN gets the lowest.

    >>> heat(np.array([0.0, float("nan")])).tolist()
    [[12, 7, 36], [12, 7, 36]]
    """
    clean = np.clip(np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, neginf=0.0, posinf=1.0), 0.0, 1.0)
    channels = [np.interp(clean, _HEAT[:, 0], _HEAT[:, c]) for c in (1, 2, 3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def as_array(values: Array) -> np.ndarray:
    """Return a tensor or an array as float32.

    >>> as_array(np.ones(2, dtype=np.uint8)).dtype
    dtype('float32')
    """
    return as_numpy(values).astype(np.float32, copy=False)


def as_numpy(values: Array) -> np.ndarray:
    """Return a tensor, wherever it lives, as an array of its own type.

    >>> as_numpy(np.arange(2)).tolist()
    [0, 1]
    """
    return values if isinstance(values, np.ndarray) else np.asarray(values.detach().cpu().numpy())


def to_rgb8(array: Array, name: str = "image") -> np.ndarray:
    """Return uint8 [H, W, 3] of a picture: floats in 0..1 (clipped; NaN black) or uint8.

    [H, W] and [H, W, 1] are gray. Raises: ValueError that begins with `name`, for any other shape.

    >>> to_rgb8(np.ones((1, 1))).tolist()
    [[[255, 255, 255]]]
    """
    values = as_numpy(array)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3) or 0 in values.shape:
        raise ValueError(f"{name} must be [H, W, 3] with H, W >= 1, got {values.shape}")
    if values.dtype != np.uint8:
        # Before the cast, in which NaN and values out of range become any number.
        clean = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
        values = np.rint(np.clip(clean, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def factor(width: int, target: int) -> int:
    """Return the whole number by which a picture of `width` pixels is enlarged to come near `target` pixels.

    >>> factor(100, 288)
    3
    """
    return max(1, round(target / max(1, width)))


def enlarge(array: np.ndarray, scale: int, *, smooth: bool = False) -> PilImage.Image:
    """Return a uint8 [H, W, 3] picture `scale` times as large: every pixel a square, or by Lanczos if `smooth`.

    >>> enlarge(np.zeros((2, 3, 3), dtype=np.uint8), 2).size
    (6, 4)
    """
    from PIL import Image

    image = Image.fromarray(array)
    if scale == 1:
        return image
    resampling = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return image.resize((image.width * scale, image.height * scale), resampling)


def resize(pixels: np.ndarray, scale: float) -> PilImage.Image:
    """Return a uint8 picture [H, W, 3] `scale` times as large, smoothly.

    >>> resize(np.zeros((4, 4, 3), dtype=np.uint8), 0.5).size
    (2, 2)
    """
    from PIL import Image

    image = Image.fromarray(pixels)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image if size == image.size else image.resize(size, Image.Resampling.LANCZOS)


def encoded(image: PilImage.Image) -> bytes:
    """Return an image as a PNG.

    >>> encoded(Sheet(1, 1).image)[1:4]
    b'PNG'
    """
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=PNG_LEVEL)
    return buffer.getvalue()


def save_image(path: str | Path, image: PilImage.Image) -> Path:
    """Write a PNG, whole or not at all; return its path."""
    target = Path(path)
    write_atomically(target, encoded(image))
    return target


def font(size: int) -> FreeTypeFont | ImageFont:
    """Return the typeface that Pillow brings, at `size` pixels."""
    from PIL import ImageFont

    # Not one of the system: fonts differ between machines, and so would the widths that a sheet is laid out by.
    return ImageFont.load_default(size=size)


class Sheet:
    """A sheet to put pictures, labels, swatches and color bars on; in pixels from the top left.

    >>> Sheet(10, 20).image.size
    (10, 20)
    """

    def __init__(self, width: int, height: int) -> None:
        from PIL import Image, ImageDraw

        self.image = Image.new("RGB", (int(width), int(height)), PAPER)
        self.draw = ImageDraw.Draw(self.image)

    def put(self, picture: PilImage.Image, x: int, y: int) -> None:
        """Paste a picture with its top left corner at (x, y)."""
        self.image.paste(picture, (x, y))

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        size: int = BODY,
        fill: str = INK,
        anchor: str = "lm",
        room: float | None = None,
        halo: str | None = None,
    ) -> None:
        """Write one line at (x, y), anchored as Pillow names it; cut with dots if wider than `room` pixels."""
        face = font(size)
        # On one line: a break in the name of a file would run into the picture below.
        line = fit(text, size, room) if room is not None else plain(text)
        width = max(2, size // 8) if halo else 0
        self.draw.text((x, y), line, font=face, fill=fill, anchor=anchor, stroke_width=width, stroke_fill=halo)

    def swatch(self, x: int, y: float, fill: str, side: int = 12) -> None:
        """Draw a filled square with its left edge at x, centered on y."""
        top = round(y - side / 2)
        self.draw.rectangle((x, top, x + side - 1, top + side - 1), fill=fill)

    def label(self, x: int, y: int, width: int, left: str, right: str = "", *, swatch: str | None = None) -> None:
        """Write a label bar under a picture: its name on the left, its figure on the right; centered on y."""
        start = x
        if swatch:
            self.swatch(x, y, swatch)
            start += 19
        taken = text_width(right, BODY) + 10 if right else 0
        # The name is cut, never the figure: half a number would be another number.
        self.text(start, y, left, room=max(12, x + width - start - taken))
        if right:
            self.text(x + width, y, right, fill=SOFT, anchor="rm")

    def bar(self, x: int, y: int, width: int, height: int, ticks: list[tuple[float, str]]) -> None:
        """Draw the color map as a bar, upright if it is taller than wide; `ticks`: (place in 0..1, text)."""
        upright = height > width
        ramp = np.linspace(0.0, 1.0, height if upright else width)
        colors = heat(ramp[::-1, None].repeat(width, 1) if upright else ramp[None].repeat(height, 0))
        self.put(enlarge(colors, 1), x, y)
        for place, text in ticks:
            if upright:
                tick = y + round((1.0 - place) * (height - 1))
                self.draw.line((x + width, tick, x + width + 5, tick), fill=SOFT)
                self.text(x + width + 9, tick, text, size=SMALL, fill=SOFT)
            else:
                tick = x + round(place * (width - 1))
                self.draw.line((tick, y + height, tick, y + height + 4), fill=SOFT)
                # At an end the text stands inside: centered there it would reach beyond the bar.
                anchor = "la" if place <= 0.02 else "ra" if place >= 0.98 else "ma"
                self.text(tick, y + height + 7, text, size=SMALL, fill=SOFT, anchor=anchor)

    def save(self, path: str | Path) -> Path:
        """Write the sheet as a PNG; return its path."""
        return save_image(path, self.image)


def plain(text: str) -> str:
    """Return `text` on one line, without control characters.

    >>> plain("a\\n b")
    'a b'
    """
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def text_width(text: str, size: int) -> float:
    """Return how many pixels wide a line is.

    >>> text_width("longer", 12) > text_width("short", 12)
    True
    """
    return font(size).getlength(plain(text))


def fit(text: str, size: int, room: float) -> str:
    """Return `text`, cut with dots at the end if it is wider than `room` pixels.

    >>> fit("short", 12, 100.0)
    'short'
    """
    line = plain(text)
    face = font(size)
    if face.getlength(line) <= room:
        return line
    while line and face.getlength(line + "...") > room:
        line = line[:-1]
    return line.rstrip() + "..." if line else ""


def small_print(sheet: Sheet, x: float, y: float, line: str) -> None:
    """Write a command in small type; the two hyphens of an option stay apart, which the typeface would join."""
    face = font(12)
    for text in re.split("(-)", fit(line, 12, sheet.image.width - x - MARGIN)):
        sheet.draw.text((x, y), text, font=face, fill=SOFT, anchor="lm")
        x += face.getlength(text) + (1.5 if text == "-" else 0.0)
