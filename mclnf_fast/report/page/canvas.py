"""The ground of the pictures: arrays to pixels, one colour map, labels, and a sheet to lay them out on."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mclnf_fast.fields.io import write_atomically

if TYPE_CHECKING:
    from PIL import Image as PilImage
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

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
    """Colours uint8 [..., 3] of `values` [...], clipped to 0..1; NaN gets the lowest."""
    clean = np.clip(np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, neginf=0.0, posinf=1.0), 0.0, 1.0)
    channels = [np.interp(clean, _HEAT[:, 0], _HEAT[:, c]) for c in (1, 2, 3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def to_rgb8(array: Any, what: str = "image") -> np.ndarray:
    """uint8 [H, W, 3] of a picture: floats in 0..1 (clipped; NaN black) or uint8.

    [H, W] and [H, W, 1] are gray. Takes numpy arrays and tensors. Raises: ValueError for any other shape.
    """
    values = np.asarray(array.detach().cpu().numpy() if hasattr(array, "detach") else array)
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3 or values.shape[2] not in (1, 3) or 0 in values.shape:
        raise ValueError(f"{what} must be [H, W, 3] with H, W >= 1, got {values.shape}")
    if values.dtype != np.uint8:
        clean = np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=1.0, neginf=0.0)
        values = np.rint(np.clip(clean, 0.0, 1.0) * 255.0).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(values, (*values.shape[:2], 3)))


def factor(width: int, target: int) -> int:
    """The whole number by which a picture of `width` pixels is enlarged to come near `target` pixels."""
    return max(1, round(target / max(1, width)))


def enlarge(array: np.ndarray, scale: int, *, smooth: bool = False) -> PilImage.Image:
    """A uint8 [H, W, 3] picture, `scale` times as large: every pixel a square, or Lanczos where `smooth`."""
    from PIL import Image

    image = Image.fromarray(array)
    if scale == 1:
        return image
    how = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return image.resize((image.width * scale, image.height * scale), how)


def save_image(path: str | Path, image: PilImage.Image) -> Path:
    """Write a PNG so that at no moment a torn file is there."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    target = Path(path)
    write_atomically(target, buffer.getvalue())
    return target


def font(size: int) -> Font:
    """The typeface that Pillow brings, at `size` pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)


class Sheet:
    """A page to put pictures, labels, swatches and colour bars on; in pixels from the top left."""

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
        """One line at (x, y), anchored as Pillow names it; cut with dots where wider than `room` pixels."""
        face = font(size)
        line = fit(text, size, room) if room is not None else plain(text)
        stroke: dict[str, Any] = {"stroke_width": max(2, size // 8), "stroke_fill": halo} if halo else {}
        self.draw.text((x, y), line, font=face, fill=fill, anchor=anchor, **stroke)

    def swatch(self, x: int, y: float, fill: str, side: int = 12) -> None:
        """A filled square with its left edge at x, centred on y."""
        top = round(y - side / 2)
        self.draw.rectangle((x, top, x + side - 1, top + side - 1), fill=fill)

    def label(self, x: int, y: int, width: int, left: str, right: str = "", *, swatch: str | None = None) -> None:
        """A label bar under a picture: what it is on the left, its figure on the right; centred on y."""
        start = x
        if swatch:
            self.swatch(x, y, swatch)
            start += 19
        taken = text_width(right, BODY) + 10 if right else 0
        self.text(start, y, left, room=max(12, x + width - start - taken))
        if right:
            self.text(x + width, y, right, fill=SOFT, anchor="rm")

    def bar(self, x: int, y: int, width: int, height: int, ticks: list[tuple[float, str]]) -> None:
        """The colour map as a bar, upright where it is taller than wide; `ticks`: (place in 0..1, text)."""
        upright = height > width
        ramp = np.linspace(0.0, 1.0, height if upright else width)
        colours = heat(ramp[::-1, None].repeat(width, 1) if upright else ramp[None].repeat(height, 0))
        self.put(enlarge(colours, 1), x, y)
        for place, text in ticks:
            if upright:
                at = y + round((1.0 - place) * (height - 1))
                self.draw.line((x + width, at, x + width + 5, at), fill=SOFT)
                self.text(x + width + 9, at, text, size=SMALL, fill=SOFT)
            else:
                at = x + round(place * (width - 1))
                self.draw.line((at, y + height, at, y + height + 4), fill=SOFT)
                anchor = "la" if place <= 0.02 else "ra" if place >= 0.98 else "ma"
                self.text(at, y + height + 7, text, size=SMALL, fill=SOFT, anchor=anchor)

    def save(self, path: str | Path) -> Path:
        """Write the sheet as a PNG."""
        return save_image(path, self.image)


def plain(text: str) -> str:
    """`text` on one line, without control characters."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())


def text_width(text: str, size: int) -> float:
    """Pixels that a line takes."""
    return font(size).getlength(plain(text))


def fit(text: str, size: int, room: float) -> str:
    """`text`, cut with dots at the end so that it takes at most `room` pixels."""
    line = plain(text)
    face = font(size)
    if face.getlength(line) <= room:
        return line
    while line and face.getlength(line + "...") > room:
        line = line[:-1]
    return line.rstrip() + "..." if line else ""
