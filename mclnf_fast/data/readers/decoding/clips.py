"""Decodes the frames of one video."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mclnf_fast.data.readers.decoding.extras import error_reason, import_extra
from mclnf_fast.data.readers.decoding.pictures import MOST_PIXELS, fit, on_white, to_array
from mclnf_fast.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

MOST_ASPECT = 10  # of a pixel's sides
HDR = (16, 18)  # transfer characteristics PQ and HLG (ITU-T H.273)


@dataclass
class Clip:
    """The first frames of a video.

    Attributes:
        frames: float32 [n, height, width, channels] in [0, 1].
        changes: notes on the changes to them.
        rate: the file's frames per second; None: unknown.
        more: whether the file goes on.

    >>> Clip(np.zeros((2, 8, 8, 3), np.float32), [], 25.0, more=False).rate
    25.0
    """

    frames: np.ndarray
    changes: list[str]
    rate: float | None
    more: bool


def decode_clip(path: Path, count: int, stride: int, size: tuple[int, int], channels: int, resize: bool) -> Clip:
    """Return at most `count` frames of a video, every `stride`-th from the first on, each cut to `size`.

    Frames are turned as the file asks, and stretched if its pixels are not square; transparency is put on white. Videos
    of more than 8 bits are rounded to 8.

    Args:
        path: the file.
        count: largest number of frames.
        stride: distance between them, in frames of the file.
        size: (height, width) of the result, pixels.
        channels: 1 or 3.
        resize: see `pictures.fit`.

    Raises:
        InputError: unreadable or corrupt, no video in it, pictures of more than 150 million pixels.
        MissingExtraError: the extra `media` is not installed.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.gif")
    ...     frames = [Image.new("RGB", (8, 8), (90 * k, 0, 0)) for k in range(3)]
    ...     frames[0].save(path, save_all=True, append_images=frames[1:])
    ...     clip = decode_clip(path, count=2, stride=1, size=(4, 4), channels=3, resize=True)
    >>> clip.frames.shape, clip.more
    ((2, 4, 4, 3), True)
    """
    av = import_extra("av", "video")
    frames: list[np.ndarray] = []
    changes: list[str] = []
    decoded_frames, last_time, more = 0, None, False
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise InputError(f"{path}: must hold video, has no such stream")
            stream = container.streams.video[0]
            if stream.codec_context is None:
                raise InputError(f"{path}: must be of a known codec, was not")
            wide, high = stream.codec_context.width, stream.codec_context.height
            aspect = _pixel_aspect(path, stream)
            if wide * high * max(aspect, 1 / aspect) > MOST_PIXELS:
                raise InputError(f"{path}: must have at most {MOST_PIXELS} pixels per frame, has {wide}x{high}")
            rate = float(stream.average_rate) if stream.average_rate else None
            for frame in _decode(container, stream):
                if len(frames) == count:
                    more = True
                    break
                if decoded_frames % stride == 0:
                    picture, changes = fit(_upright(frame, aspect), size, resize)
                    frames.append(to_array(picture, channels))
                    if aspect != 1:
                        changes.append(f"pixels of aspect {aspect} were made square")
                    if int(getattr(frame, "color_trc", 0) or 0) in HDR:
                        changes.append("of a high dynamic range, taken without tone mapping")
                decoded_frames, last_time = decoded_frames + 1, frame.time
            if not more:
                _check_whole(path, stream, rate, last_time)
    except (av.FFmpegError, OSError, ValueError, RuntimeError, IndexError, MemoryError) as error:
        # InputError is a ValueError: its message is better than the general one.
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: must be a whole readable video: {error_reason(error)}") from None
    shape = (*size, channels)
    return Clip(np.stack(frames) if frames else np.zeros((0, *shape), np.float32), changes, rate, more)


def _check_whole(path: Path, stream: Any, rate: float | None, last_time: float | None) -> None:
    """Raise `InputError` if a file that ran out of frames was cut off, since decoders end early without a word.

    `rate` is in frames per second, `last_time` the last frame's time in seconds.
    """
    if path.suffix.lower() == ".gif":
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 64))
            if not file.read().rstrip(b"\0").endswith(b";"):
                raise InputError(f"{path}: must be whole, the file's end is missing")
    entries = getattr(stream, "index_entries", None) or ()  # mp4: position of each frame
    end = max((entry.pos + entry.size for entry in entries), default=0)
    if end > path.stat().st_size:
        raise InputError(f"{path}: must be whole, {end} bytes were promised and {path.stat().st_size} are there")
    duration = re.fullmatch(r"(\d+):(\d+):(\d+\.?\d*)", stream.metadata.get("DURATION", ""))  # Matroska
    if duration and last_time is not None:
        seconds = 3600 * int(duration[1]) + 60 * int(duration[2]) + float(duration[3])
        # The tag may be rounded or that of the sound, so a tenth may be missing before it counts as cut off.
        if last_time + 2 / (rate or 10) < 0.9 * seconds:
            raise InputError(f"{path}: must be whole, {seconds:g} s were promised and {last_time:.3g} s are there")


def _decode(container: Any, stream: Any) -> Iterator[Any]:
    """Yield the stream's frames; for a damaged packet the decoder's error comes through."""
    stream.thread_type = "NONE"  # several files are read at once already, and threads of each would compete
    yield from container.decode(stream)


def _pixel_aspect(path: Path, stream: Any) -> Fraction:
    """Return the width of a pixel over its height, as the file has it."""
    aspect = Fraction(stream.sample_aspect_ratio or 1)
    if aspect <= 0:  # a file that does not know it says 0
        return Fraction(1)
    if not Fraction(1, MOST_ASPECT) <= aspect <= MOST_ASPECT:
        raise InputError(f"{path}: pixels must have an aspect from 1/{MOST_ASPECT} to {MOST_ASPECT}, have {aspect}")
    return aspect


def _converted(frame: Any, form: str) -> Any:
    """Return a frame in another pixel format, by a scaler whose threads end here.

    A frame's own scaler lives as long as the frame. Were that collected in a forked process, such as a worker of a data
    loader, it would wait forever for threads that are not there.
    """
    from av.video.reformatter import VideoReformatter

    return VideoReformatter().reformat(frame, format=form)


def _upright(frame: Any, aspect: Fraction) -> Image.Image:
    """Return a decoded frame as a picture of mode RGB with square pixels, turned as the file asks."""
    from PIL import Image

    is_clear = any(component.is_alpha for component in frame.format.components)
    depth = max(component.bits for component in frame.format.components)
    if depth > 8 and not frame.format.is_rgb and len(frame.format.components) >= 3:
        # Straight to RGB, the library shifts where it must scale if colors have fewer pixels than gray: 2 of 255 less.
        frame = _converted(frame, f"yuv{'a' if is_clear else ''}444p{depth}le")
    if is_clear:
        picture = on_white(_converted(frame, "rgba").to_ndarray())
    else:
        picture = Image.fromarray(_converted(frame, "rgb24").to_ndarray())
    if aspect != 1:
        # The shorter side grows, so that no pixel is lost.
        wide, high = picture.size
        grown = (max(1, round(wide * aspect)), high) if aspect > 1 else (wide, max(1, round(high / aspect)))
        picture = picture.resize(grown, Image.Resampling.BICUBIC)
    rotation = getattr(frame, "rotation", 0) % 360
    return picture.rotate(rotation, expand=True) if rotation in (90, 180, 270) else picture
