"""Pictures that move: a GIF, which any page shows, and an MP4 if PyAV is installed."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.fields.io import write_atomically

if TYPE_CHECKING:
    from PIL import Image as PilImage

COLORS, FEWEST_COLORS = 128, 32
MOST_BYTES = 1_000_000  # of a GIF, which report.html carries inside
SAMPLES = 8  # frames that the palette is made of
QUALITY = "20"  # x264's constant rate factor
CODECS = ("libx264", "mpeg4")


def write_gif(frames: Sequence[PilImage.Image], path: Path, milliseconds: int) -> Path:
    """Write an endless GIF of at least one RGB frame, all of one size; return the path.

    All frames have one palette and no dithering, so that what stands still in the picture does so in the file. Above a
    megabyte the palette is halved, down to 32 colors. `milliseconds` is the time of a frame.
    """
    from PIL import Image

    chosen = [frames[k] for k in np.unique(np.linspace(0, len(frames) - 1, min(SAMPLES, len(frames))).round())
              .astype(int)]  # fmt: skip
    width, height = frames[0].size
    strip = Image.new("RGB", (width, height * len(chosen)))
    for k, frame in enumerate(chosen):
        strip.paste(frame, (0, k * height))
    colors, content = COLORS, b""
    while not content or (len(content) > MOST_BYTES and colors >= FEWEST_COLORS):
        palette = strip.quantize(colors, dither=Image.Dither.NONE)
        plain = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
        buffer = io.BytesIO()
        plain[0].save(buffer, "GIF", save_all=True, append_images=plain[1:], duration=milliseconds, loop=0)
        content, colors = buffer.getvalue(), colors // 2
    write_atomically(path, content)
    return path


def write_mp4(frames: Sequence[PilImage.Image], path: Path, milliseconds: int, turns: int = 2) -> Path | None:
    """Write the same as an H.264 film that is played `turns` times; return its path, or None without PyAV.

    PyAV comes with the extra `media`. Sides of odd length are cut by a pixel, since the codec has even ones only.
    """
    try:
        av = importlib.import_module("av")
    except ImportError:
        return None
    # x264 is not in every build of FFmpeg; mpeg4 is its own.
    codec = next((name for name in CODECS if name in av.codecs_available), None)
    if codec is None:
        return None
    width, height = (side - side % 2 for side in frames[0].size)
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as film:
        options = {"crf": QUALITY} if codec == "libx264" else {"q": "3"}
        stream = film.add_stream(codec, rate=max(1, round(1000 / milliseconds)), options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for frame in list(frames) * turns:
            pixels = np.ascontiguousarray(np.asarray(frame)[:height, :width])
            film.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        film.mux(stream.encode())
    write_atomically(path, buffer.getvalue())
    return path
