"""Reads a folder of videos as `SignalSets`: `load_videos`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mclnf_fast.data.readers.decoding.clips import decode_clip
from mclnf_fast.data.readers.gather import FileSignals, gather
from mclnf_fast.data.readers.images import check_frame_options
from mclnf_fast.data.readers.layouts import DataFile, Layout
from mclnf_fast.data.readers.options import VideoReadOptions, options_of
from mclnf_fast.data.readers.registry import add_built_in, read_with
from mclnf_fast.data.readers.signal_readers import choose_signals, signal_readers
from mclnf_fast.data.readers.split import split_files
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError


def load_videos(folder: str | Path, options: VideoReadOptions | None = None, **changes: Any) -> SignalSets:
    """Read clips of a number of frames from the beginning of each video, cut to one size around the middle.

    VoxCeleb2 (`{dev,test}/mp4/idXXXXX/<video>/NNNNN.mp4`) and folders with `train/`, `val/`, `test/` keep their own
    split; any other tree is split by seed.

    Args:
        folder: a folder, read with everything below it, or one video.
        options: see `VideoReadOptions`; None: its defaults.
        changes: single fields of `options`, such as `frames=8`.

    Returns:
        Sets of video [S, frames, height, width, channels] named by their paths (and the first frame, when there are
        several clips per file). Their rate is the files' over `stride`, None when files differ.

    Raises:
        InputError: an option out of range, nothing usable there, with `strict` an unusable file.
        MissingExtraError: the extra `media` is not installed.
        TypeError: an unknown option.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     frames = [Image.new("RGB", (16, 16), (90 * k, 0, 0)) for k in range(3)]
    ...     for name in "ab":
    ...         frames[0].save(f"{folder}/{name}.gif", save_all=True, append_images=frames[1:])
    ...     sets = load_videos(folder, frames=2, size=8, test=1)
    >>> sets.test.values.shape
    torch.Size([1, 2, 8, 8, 3])
    """
    settings = options_of(VideoReadOptions, options, changes)
    check_frame_options(settings.size, settings.channels)
    for name in ("frames", "stride", "clips_per_file"):
        value = getattr(settings, name)
        if not 1 <= value <= 100000:
            raise InputError(f"{name}: must be from 1 to 100000, was {value}")
    path = Path(folder)
    return read_with(choose_signals("video", path, settings.reader), path, settings)


def _read_videos(layout: Layout, options: VideoReadOptions) -> SignalSets:
    high, wide = check_frame_options(options.size, options.channels)
    split = split_files(layout, options, options.validation)
    shape = (options.frames, high, wide, options.channels)

    def read(file: DataFile) -> FileSignals:
        return read_clips(file.path, options)

    return gather("video", layout, split, read, shape, options.clips_per_file, options.strict)


def read_clips(path: Path, options: VideoReadOptions) -> FileSignals:
    """Return the clips of one file, float32 [frames, height, width, channels] in [0, 1] each.

    Raises:
        InputError: unusable, or of a single frame when a clip has more.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.gif")
    ...     frames = [Image.new("RGB", (8, 8), (90 * k, 0, 0)) for k in range(3)]
    ...     frames[0].save(path, save_all=True, append_images=frames[1:])
    ...     clips = read_clips(path, VideoReadOptions(frames=2, size=4))
    >>> clips.values[0].shape, clips.changes
    (torch.Size([2, 4, 4, 3]), ['longer than 2 frames, cut'])
    """
    frames, stride = options.frames, options.stride
    at_stride = "" if stride == 1 else f" at stride {stride}"
    size = check_frame_options(options.size, options.channels)
    clip = decode_clip(path, frames * options.clips_per_file, stride, size, options.channels, options.resize)
    count = len(clip.frames)
    # A still picture padded to a clip would be learned as a video in which nothing moves.
    if count == 0 or (count == 1 and frames > 1):
        raise InputError(f"{path}: must have at least {min(frames, 2)} frames{at_stride}, has {count}")
    values, labels, changes = [], [], list(clip.changes)
    for k in range(options.clips_per_file):
        piece = clip.frames[k * frames : (k + 1) * frames]
        # Only the first clip of a file may be padded: padded ends of long videos would be copies of one frame.
        if k and len(piece) < frames:
            break
        if len(piece) < frames:
            changes.append(f"shorter than {frames} frames{at_stride}, padded with its last frame")
            # A still end is closer to a video than black frames, which would be a cut.
            piece = np.concatenate([piece, np.repeat(piece[-1:], frames - len(piece), 0)])
        values.append(torch.from_numpy(piece))
        labels.append(f"@{k * frames * stride}" if options.clips_per_file > 1 else "")
    if clip.more:
        changes.append(f"longer than {frames * options.clips_per_file} frames{at_stride}, cut")
    return FileSignals(values, labels, changes, None if clip.rate is None else clip.rate / stride)


add_built_in(signal_readers("video", _read_videos))
