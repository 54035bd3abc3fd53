"""`load_videos`: a folder of videos as `SignalSets`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mclnf_fast.data.readers.clips import decode_clip
from mclnf_fast.data.readers.gather import Read, gather
from mclnf_fast.data.readers.images import size_of
from mclnf_fast.data.readers.layouts import Item, find
from mclnf_fast.data.readers.split import plan
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError


def load_videos(
    folder: str | Path,
    *,
    frames: int = 24,
    stride: int = 1,
    size: int | tuple[int, int] = 64,
    resize: bool = True,
    channels: int = 3,
    clips_per_file: int = 1,
    test: float | int = 0.25,
    validation: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    strict: bool = False,
) -> SignalSets:
    """Read clips of so many frames from the beginning of each video, cut to one size about the middle.

    VoxCeleb2 (`{dev,test}/mp4/idXXXXX/<video>/NNNNN.mp4`) and folders with `train/`, `val/`, `test/` keep their own
    split; any other tree is split by seed.

    Args:
        folder: a folder, read with all below it, or one video.
        frames: of a clip. A shorter video is padded with its last frame, and noted; one of a single frame is
            unusable, unless `frames` is 1.
        stride: every so many frames of the file is taken.
        size: side of the crop in pixels, or (height, width).
        resize: first scale each frame, its shape kept, to just cover the crop; False: cut it at its own scale.
            Frames smaller than the crop are scaled up in any case, and noted.
        channels: 3 or 1 (luma).
        clips_per_file: so many clips of a file, one after another, as far as whole ones are there.
        test: share, or count of files, to test on; see `split.plan`.
        validation: how many files of those to train on are held back for the validation curve; None: 4, or fewer.
        limit: at most so many files in all, chosen by seed.
        seed: of the split and of the choice.
        strict: refuse an unusable file instead of skipping it with a warning.

    Returns:
        Sets of video [S, frames, height, width, channels] named by their paths (and the first frame where there are
        several clips of a file). Their rate is the files' over `stride`, None where they differ.

    Raises:
        InputError: an option out of range, nothing usable there, with `strict` an unusable file, or the extra `media`
            is missing.
    """
    high, wide = size_of(size)
    if channels not in (1, 3):
        raise InputError(f"channels: must be 1 or 3, was {channels}")
    for name, value in (("frames", frames), ("stride", stride), ("clips_per_file", clips_per_file)):
        if not 1 <= value <= 100000:
            raise InputError(f"{name}: must be from 1 to 100000, was {value}")
    found = find(folder, "video")
    split = plan(found, test, validation, limit, seed)

    def read(item: Item) -> Read:
        clip = decode_clip(item.path, frames * clips_per_file, stride, (high, wide), channels, resize)
        have = len(clip.frames)
        if have == 0 or (have == 1 and frames > 1):
            raise InputError(f"{item.path}: must have at least {min(frames, 2)} frames{_every(stride)}, has {have}")
        values, labels, done = [], [], list(clip.done)
        for k in range(clips_per_file):
            part = clip.frames[k * frames : (k + 1) * frames]
            if k and len(part) < frames:
                break
            if len(part) < frames:
                done.append(f"shorter than {frames} frames{_every(stride)}, padded with its last frame")
                part = np.concatenate([part, np.repeat(part[-1:], frames - len(part), 0)])
            values.append(torch.from_numpy(part))
            labels.append(f"@{k * frames * stride}" if clips_per_file > 1 else "")
        if clip.more:
            done.append(f"longer than {frames * clips_per_file} frames{_every(stride)}, cut")
        return Read(values, labels, done, None if clip.rate is None else clip.rate / stride)

    return gather("video", found, split, read, (frames, high, wide, channels), clips_per_file, strict)


def _every(stride: int) -> str:
    return "" if stride == 1 else f" at stride {stride}"
