"""Decodes the frames of one video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mclnf_fast.data.readers.extras import extra, reason
from mclnf_fast.data.readers.pictures import MOST_PIXELS, fit, on_white, to_array
from mclnf_fast.errors import InputError

if TYPE_CHECKING:
    from PIL import Image


@dataclass
class Clip:
    """Frames [n, height, width, channels] float32 in [0, 1]; what was done to them; the file's frames a second;
    whether the file goes on."""

    frames: np.ndarray
    done: list[str]
    rate: float | None
    more: bool


def decode_clip(path: Path, count: int, stride: int, size: tuple[int, int], channels: int, resize: bool) -> Clip:
    """At most `count` frames of a video, every `stride`-th from the first on, each cut to `size` (height, width).

    Turned as the file says; transparency on white.

    Raises:
        InputError: unreadable or torn, no video in it, pictures of more than 150 million pixels, or the extra `media`
            is missing.
    """
    av = extra("av", "video")
    frames: list[np.ndarray] = []
    done: list[str] = []
    seen, last, more = 0, None, False
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: must hold video, has no such stream")
            stream = container.streams.video[0]
            wide, high = stream.codec_context.width, stream.codec_context.height
            if wide * high > MOST_PIXELS:
                raise InputError(f"{path}: must have at most {MOST_PIXELS} pixels a frame, has {wide}x{high}")
            rate = float(stream.average_rate) if stream.average_rate else None
            for frame in _decoded(container, stream):
                if len(frames) == count:
                    more = True
                    break
                if seen % stride == 0:
                    picture, what = fit(_upright(frame), size, resize)
                    frames.append(to_array(picture, channels))
                    done = what
                seen, last = seen + 1, frame.time
            if not more:
                _check_whole(path, stream, rate, last)
    except (av.FFmpegError, OSError, ValueError, RuntimeError, IndexError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: must be a whole readable video: {reason(error)}") from None
    shape = (*size, channels)
    return Clip(np.stack(frames) if frames else np.zeros((0, *shape), np.float32), done, rate, more)


def _check_whole(path: Path, stream: Any, rate: float | None, last: float | None) -> None:
    """Where a file ran out of frames: was it cut off? Decoders end early without a word."""
    if path.suffix.lower() == ".gif":
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64))
            if not file.read().rstrip(b"\0").endswith(b";"):
                raise InputError(f"{path}: must be whole, the file's end is missing")
    entries = getattr(stream, "index_entries", None) or ()  # mp4: where each frame stands
    end = max((entry.pos + entry.size for entry in entries), default=0)
    if end > path.stat().st_size:
        raise InputError(f"{path}: must be whole, {end} bytes were promised and {path.stat().st_size} are there")
    clock = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # Matroska
    if clock and last is not None:
        seconds = 3600 * int(clock[1]) + 60 * int(clock[2]) + float(clock[3])
        if last + 2 / (rate or 10) < 0.9 * seconds:
            raise InputError(f"{path}: must be whole, {seconds:g} s were promised and {last:.3g} s are there")


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """The stream's frames; of a damaged packet the decoder's error comes through."""
    stream.thread_type = "NONE"  # files are read side by side already
    yield from container.decode(stream)


def _upright(frame: Any) -> Image.Image:
    """A decoded frame as a picture of mode RGB."""
    from PIL import Image

    if any(part.is_alpha for part in frame.format.components):
        picture = on_white(frame.to_ndarray(format="rgba"))
    else:
        picture = Image.fromarray(frame.to_ndarray(format="rgb24"))
    turn = getattr(frame, "rotation", 0) % 360
    return picture.rotate(turn, expand=True) if turn in (90, 180, 270) else picture
