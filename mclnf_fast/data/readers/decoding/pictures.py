"""Decodes one picture of any common kind, and cuts it to a size."""

from __future__ import annotations

import ctypes
import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.data.readers.decoding.extras import error_reason
from mclnf_fast.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 150_000_000  # that are decoded of one picture
BIG_PIXELS = 16_000_000  # pictures above this are decoded one at a time: four at once would take gigabytes
SCALED_PIXELS = 40_000_000  # JPEG files above this are decoded at a fraction of their size if less is wanted
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, as image files use it
WITH_ALPHA = ("RGBA", "RGBa", "LA", "La", "PA")  # Pillow's modes
_BIG = threading.RLock()
_FAULTS = (OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, AttributeError,
           MemoryError, RuntimeError, struct.error, zlib.error)  # fmt: skip


def _return_freed_memory() -> None:
    """Return freed memory to the system if the C library can: it keeps some for each thread, a whole picture here."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def open_picture(
    path: Path, content: bytes | None = None, wanted: Callable[[int, int], tuple[int, int]] | None = None
) -> Iterator[tuple[Image.Image, tuple[int, int]]]:
    """Open a picture, whole and checked, in the file's own mode; errors of Pillow in the body are translated too.

    Args:
        path: the file; with `content` only the name of the picture in errors.
        content: the picture's bytes, when it lies inside another file.
        wanted: function of its width and height that returns the width and height that the caller reduces it to: then a
            large JPEG file is decoded at a fraction of its size, at least four times the wanted one.

    Returns:
        The picture, and its size (width, height) in the file.

    Raises:
        InputError: missing, no image, corrupt, or more than 150 million pixels to decode.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.png")
    ...     Image.new("RGB", (8, 4)).save(path)
    ...     with open_picture(path) as (picture, size):
    ...         print(picture.mode, size)
    RGB (8, 4)
    """
    from PIL import Image

    def source() -> Path | io.BytesIO:
        return path if content is None else io.BytesIO(content)

    try:
        # Decoding stops at the last pixel: a PNG whose end is missing or damaged shows in its checksums only.
        with Image.open(source()) as opened:
            if opened.format == "PNG":
                opened.verify()
        # Pillow cannot go on with a picture that was verified, so it is opened again.
        with Image.open(source()) as opened:
            size = opened.size
            if wanted is not None and opened.format == "JPEG" and size[0] * size[1] > SCALED_PIXELS:
                wide, high = wanted(*size)
                opened.draft(None, (4 * wide, 4 * high))
            count = opened.width * opened.height
            if count > MOST_PIXELS:
                raise InputError(f"{path}: must have at most {MOST_PIXELS} pixels, has {size[0]}x{size[1]}")
            with _BIG if count > BIG_PIXELS else nullcontext():
                if count > BIG_PIXELS:
                    _return_freed_memory()
                opened.load()  # decodes all of it: a corrupt file fails here and not as a gray stripe
                yield opened, size
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: must be an image, was not there") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: must have at most {MOST_PIXELS} pixels: {error_reason(error)}") from None
    except _FAULTS as error:
        raise InputError(f"{path}: must be a whole readable image: {error_reason(error)}") from None


def decoded(path: Path, content: bytes | None = None) -> Image.Image:
    """Return the whole picture in `path`, or in the bytes `content` that errors call `path`, see `common_mode`.

    Raises:
        InputError: missing, no image or corrupt.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.png")
    ...     Image.new("RGB", (8, 4)).save(path)
    ...     print(decoded(path).mode)
    RGB
    """
    with open_picture(path, content) as (picture, _):
        return common_mode(picture, path)


def common_mode(picture: Image.Image, path: Path) -> Image.Image:
    """Return a picture in mode L, RGB, RGBA (if it has transparency) or F (0 to 1, gray of 16 bits and floats).

    Raises:
        InputError: whole numbers beyond 16 bits, floats that are not in [0, 1]; `path` begins the message.

    >>> from PIL import Image
    >>> common_mode(Image.new("I;16", (1, 1), 65535), Path("a.png")).getpixel((0, 0))
    1.0
    """
    from PIL import Image

    if picture.mode.startswith("I;16") or picture.mode == "I":
        # Pillow's own conversion of 16 bits to L clips at 255 instead of scaling: nearly all would be white.
        values = np.asarray(picture).astype(np.float64)
        if picture.mode == "I" and (values.min() < 0 or values.max() > 65535):
            raise InputError(
                f"{path}: whole numbers must be 8 or 16 bits, were {values.min():.0f} to {values.max():.0f}"
            )
        return Image.fromarray((values / 65535.0).astype(np.float32))
    if picture.mode == "F":
        floats = np.asarray(picture)
        if not (np.isfinite(floats).all() and floats.min() >= 0 and floats.max() <= 1):
            raise InputError(f"{path}: a picture of floats must be finite and in [0, 1], was not")
        return picture
    mode = "RGBA" if has_alpha(picture) else "L" if picture.mode in ("L", "1") else "RGB"
    return picture if picture.mode == mode else picture.convert(mode)  # which copies even if there is nothing to do


def eight_bits(picture: Image.Image) -> Image.Image:
    """Return a picture of mode L, RGB, RGBA or F (0 to 1) in mode RGB or RGBA.

    >>> from PIL import Image
    >>> eight_bits(Image.new("F", (1, 1), 0.5)).getpixel((0, 0))
    (128, 128, 128)
    """
    from PIL import Image

    if picture.mode == "F":
        picture = Image.fromarray((np.asarray(picture) * np.float32(255) + np.float32(0.5)).astype(np.uint8))
    return picture if picture.mode in ("RGB", "RGBA") else picture.convert("RGB")


def decode_picture(path: Path, size: tuple[int, int], channels: int, resize: bool) -> tuple[np.ndarray, list[str]]:
    """Return one picture as float32 [height, width, channels] in [0, 1], and notes on the changes to it.

    It is turned as its EXIF data says; transparency is put on white; CMYK, palettes and the like become RGB; gray
    values of 16 bits and floats (0 to 1) stay exact; of several frames the first is taken. A file's content decides its
    format, not its name.

    Args:
        path: the file.
        size: (height, width) of the result, pixels.
        channels: 1 or 3.
        resize: see `fit`.

    Raises:
        InputError: unreadable, corrupt, or of more than 150 million pixels.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.png")
    ...     Image.new("RGB", (8, 4)).save(path)
    ...     values, notes = decode_picture(path, (4, 4), 3, resize=False)
    >>> values.shape, notes
    ((4, 4, 3), ['the middle 4x4 was cut out'])
    """
    from PIL import ImageOps

    def reduced(wide: int, high: int) -> tuple[int, int]:
        # The larger side of both, since the picture may lie on its side in the file.
        return covering_size(wide, high, (max(size), max(size))) if resize else (wide, high)

    with open_picture(path, wanted=reduced) as (opened, _):
        notes = ["the first of several frames"] if getattr(opened, "is_animated", False) else []
        if not has_square_pixels(opened):
            notes.append("pixels that are not square in the file, taken as square")
        upright = common_mode(ImageOps.exif_transpose(opened), path)
        if upright.mode == "RGBA":
            upright = on_white(np.asarray(upright))
        picture, changes = fit(upright, size, resize)
        return to_array(picture, channels), notes + changes


def covering_size(width: int, height: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the size (width, height) of a picture of `width` x `height` scaled to just cover `size` (height, width).

    >>> covering_size(100, 50, (10, 10))
    (20, 10)
    """
    factor = max(size[1] / width, size[0] / height)
    # Rounding may fall one pixel short of the side that the factor comes from.
    return max(size[1], round(width * factor)), max(size[0], round(height * factor))


def fit(picture: Image.Image, size: tuple[int, int], resize: bool) -> tuple[Image.Image, list[str]]:
    """Cut `size` (height, width) from the middle of a picture (mode L, RGB or F).

    The picture is first scaled to just cover the size, aspect ratio kept, if `resize` asks for it or if it is smaller
    than the size; else it is cut at its own scale.

    Returns:
        The cut picture, and notes on the changes to it.

    >>> from PIL import Image
    >>> picture, changes = fit(Image.new("L", (20, 10)), (10, 10), resize=True)
    >>> picture.size, changes
    ((10, 10), ['the middle 10x10 was cut out'])
    """
    from PIL import Image

    high, wide = size
    changes = []
    factor = max(wide / picture.width, high / picture.height)
    if factor > 1:
        changes.append(f"scaled up, smaller than {wide}x{high}")
    scaled = picture.size
    kind = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.LANCZOS
    if factor > 1 or (resize and factor < 1):
        # Lanczos rings around edges when it enlarges; bicubic aliases when it reduces.
        scaled = covering_size(picture.width, picture.height, size)
    if scaled[0] * scaled[1] > 10 * wide * high:
        changes.append(f"only the middle {wide}x{high}, less than a tenth, was cut out (resize scales down first)")
    elif scaled != (wide, high):
        changes.append(f"the middle {wide}x{high} was cut out")
    left, top = (scaled[0] - wide) // 2, (scaled[1] - high) // 2
    if scaled[0] * scaled[1] > BIG_PIXELS:
        # Only the part that is kept is scaled: one column of 60,000 pixels would become 178 x 10,680,000. Not always,
        # since Pillow rounds in another order then, and figures of smaller pictures would change.
        x, y = picture.width / scaled[0], picture.height / scaled[1]
        box = (left * x, top * y, min(picture.width, (left + wide) * x), min(picture.height, (top + high) * y))
        return picture.resize((wide, high), kind, box), changes
    if scaled != picture.size:
        picture = picture.resize(scaled, kind)
    return picture.crop((left, top, left + wide, top + high)), changes


def to_array(picture: Image.Image, channels: int) -> np.ndarray:
    """Return a picture of mode L, RGB or F (0 to 1) as float32 [h, w, channels] in [0, 1].

    >>> from PIL import Image
    >>> to_array(Image.new("L", (2, 1), 255), 3).shape
    (1, 2, 3)
    """
    values = np.asarray(picture, np.float32)
    values = values.clip(0.0, 1.0) if picture.mode == "F" else values / np.float32(255.0)
    if values.ndim == 2:
        return np.repeat(values[..., None], channels, -1)
    if channels == 1:
        return np.asarray((values @ np.array(LUMA, np.float32))[..., None].clip(0.0, 1.0))
    return values


def has_square_pixels(picture: Image.Image) -> bool:
    """Return whether a picture's file gives its pixels the same density in both directions, or none.

    >>> from PIL import Image
    >>> has_square_pixels(Image.new("L", (1, 1)))
    True
    """
    for key in ("aspect", "dpi", "jfif_density"):
        pair = picture.info.get(key)
        if isinstance(pair, tuple) and len(pair) == 2 and min(pair) > 0:
            return bool(abs(float(pair[0]) / float(pair[1]) - 1) < 0.01)
    return True


def has_alpha(picture: Image.Image) -> bool:
    """Return whether a picture has transparency, as a channel or as a transparent color.

    >>> from PIL import Image
    >>> has_alpha(Image.new("RGBA", (1, 1)))
    True
    """
    return picture.mode in WITH_ALPHA or "transparency" in picture.info


def on_white(rgba: np.ndarray) -> Image.Image:
    """Return uint8 [h, w, 4] over white as a picture of mode RGB.

    >>> on_white(np.zeros((1, 1, 4), np.uint8)).getpixel((0, 0))
    (255, 255, 255)
    """
    from PIL import Image

    picture = Image.fromarray(rgba)
    result = Image.new("RGB", picture.size, (255, 255, 255))
    result.paste(picture.convert("RGB"), mask=picture.getchannel("A"))
    return result
