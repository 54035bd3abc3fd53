"""Decodes one picture of any common kind and cuts it to a size."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.data.readers.extras import reason
from mclnf_fast.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

MOST_PIXELS = 150_000_000


def fit(picture: Image.Image, size: tuple[int, int], resize: bool) -> tuple[Image.Image, list[str]]:
    """Cut `size` (height, width) from the middle of a picture (mode L, RGB or F).

    The picture is scaled to just cover the size, its shape kept, where `resize` asks for it or where it is smaller
    than the size; else it is cut at its own scale.

    Returns:
        The cut picture, and what was done to it.
    """
    from PIL import Image

    high, wide = size
    done = []
    factor = max(wide / picture.width, high / picture.height)
    if factor > 1:
        done.append(f"scaled up, smaller than {wide}x{high}")
    if factor > 1 or (resize and factor < 1):
        scaled = max(wide, round(picture.width * factor)), max(high, round(picture.height * factor))
        picture = picture.resize(scaled, Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.LANCZOS)
    if picture.width * picture.height > 10 * wide * high:
        done.append(f"only the middle {wide}x{high}, less than a tenth, was cut out (resize scales down first)")
    elif picture.size != (wide, high):
        done.append(f"the middle {wide}x{high} was cut out")
    left, top = (picture.width - wide) // 2, (picture.height - high) // 2
    return picture.crop((left, top, left + wide, top + high)), done


def to_array(picture: Image.Image, channels: int) -> np.ndarray:
    """A picture of mode L, RGB or F (0 to 1) as float32 [h, w, channels] in [0, 1]."""
    values = np.asarray(picture, np.float32)
    values = values.clip(0.0, 1.0) if picture.mode == "F" else values / np.float32(255.0)
    if values.ndim == 2:
        return np.repeat(values[..., None], channels, -1)
    if channels == 1:
        return np.asarray((values @ np.array([0.299, 0.587, 0.114], np.float32))[..., None].clip(0.0, 1.0))
    return values


def decode_picture(path: Path, size: tuple[int, int], channels: int, resize: bool) -> tuple[np.ndarray, list[str]]:
    """One picture as float32 [height, width, channels] in [0, 1], and what was done to it.

    Turned as its EXIF says; transparency on white; CMYK, palette and the like to RGB; 16 bits and floats (0 to 1) of
    grey kept exact; the first of several frames. What a file is, its content says and not its name.

    Raises:
        InputError: unreadable, torn, or of more than 150 million pixels.
    """
    from PIL import Image

    try:
        with Image.open(path) as opened:
            if opened.width * opened.height > MOST_PIXELS:
                raise InputError(f"{path}: must have at most {MOST_PIXELS} pixels, has {opened.width}x{opened.height}")
            if opened.format == "PNG":
                # Decoding stops at the last pixel: a PNG whose end is missing or damaged shows in its checksums only.
                opened.verify()
        with Image.open(path) as opened:
            opened.load()
            done = ["the first of several frames"] if getattr(opened, "is_animated", False) else []
            picture = _plain(opened, path)
            picture, more = fit(picture, size, resize)
            return to_array(picture, channels), done + more
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: must be an image, was not there") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path}: must have at most {MOST_PIXELS} pixels: {error}") from None
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError, MemoryError) as error:
        raise InputError(f"{path}: must be a whole readable image: {reason(error)}") from None


def _plain(picture: Image.Image, path: Path) -> Image.Image:
    """The picture upright and in mode L, RGB or F (0 to 1)."""
    from PIL import Image, ImageOps

    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16") or picture.mode == "I":
        wide = np.asarray(picture).astype(np.float64)
        if picture.mode == "I" and (wide.min() < 0 or wide.max() > 65535):
            raise InputError(f"{path}: whole numbers must be 8 or 16 bits, were {wide.min():.0f} to {wide.max():.0f}")
        return Image.fromarray((wide / 65535.0).astype(np.float32))
    if picture.mode == "F":
        values = np.asarray(picture)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise InputError(f"{path}: a picture of floats must be finite and in [0, 1], was not")
        return picture
    if picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        return on_white(np.asarray(picture.convert("RGBA")))
    if picture.mode in ("L", "1"):
        return picture.convert("L")
    return picture.convert("RGB")


def on_white(rgba: np.ndarray) -> Image.Image:
    """uint8 [h, w, 4] over white, mode RGB."""
    from PIL import Image

    alpha = rgba[..., 3:].astype(np.float32) / 255.0
    return Image.fromarray((rgba[..., :3] * alpha + 255.0 * (1.0 - alpha) + 0.5).astype(np.uint8))
