"""Decodes one file of sound to one channel, and resamples it."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from mclnf_fast.data.readers.extras import extra, reason
from mclnf_fast.errors import InputError

MOST_SECONDS = 600.0  # no more of a file is read
BY_AV = (".m4a", ".aac")
CROSSINGS = 32  # zero crossings of the sinc on each side
CUT = 0.95  # where the gain is a half, relative to half of the lower rate
BLOCK = 16384


def decode_sound(path: Path) -> tuple[np.ndarray, int]:
    """A file's sound, its channels averaged: float32 [L] as stored (-1 to 1 where whole numbers were), and its rate.

    An ogg that ends early cannot be told from a short one, and is one.

    Raises:
        InputError: unreadable, torn, empty, not finite, or the extra `media` is missing.
    """
    samples, rate = _by_av(path) if path.suffix.lower() in BY_AV else _by_soundfile(path)
    if not len(samples):
        raise InputError(f"{path}: must hold sound, holds no samples")
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: samples must be finite, some are not")
    return samples, rate


def _by_soundfile(path: Path) -> tuple[np.ndarray, int]:
    soundfile = extra("soundfile", "sound")
    try:
        promised, there = _promised_bytes(path)
        with soundfile.SoundFile(str(path)) as file:
            wanted = min(file.frames, int(MOST_SECONDS * file.samplerate))
            samples = file.read(wanted, dtype="float32", always_2d=True)
            rate = int(file.samplerate)
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: must be a readable file of sound: {reason(error)}") from None
    if there < promised:
        raise InputError(f"{path}: must be whole, {promised} bytes were promised and {there} are there")
    if len(samples) < 0.98 * wanted:  # an mp3 may say about how long it is
        raise InputError(f"{path}: must be whole, {wanted} samples were promised and {len(samples)} are there")
    return samples.mean(1), rate


def _promised_bytes(path: Path) -> tuple[int, int]:
    """How long the header of a wav or aiff file says it must be (0: it does not say), and how long it is; libsndfile
    passes over what is missing."""
    with path.open("rb") as file:
        head = file.read(12)
    order = {b"RIFF": "<I", b"FORM": ">I"}.get(head[:4])
    if order is not None and head[8:] in (b"WAVE", b"AIFF", b"AIFC"):
        (rest,) = struct.unpack(order, head[4:8])
        # Written to a pipe, it is 0 or about the largest number; and some leave out the odd byte at the end.
        if 0 < rest < 0xFFFFF000:
            return rest + 8, path.stat().st_size + 1
    return 0, 0


def _by_av(path: Path) -> tuple[np.ndarray, int]:
    av = extra("av", f"{path.suffix} files")
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path}: must hold sound, has no such stream")
            stream = container.streams.audio[0]
            rate = int(stream.rate)
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
            parts: list[np.ndarray] = []
            held = 0
            for frame in container.decode(stream):
                for mono in resampler.resample(frame):
                    parts.append(mono.to_ndarray()[0])
                    held += len(parts[-1])
                if held >= MOST_SECONDS * rate:
                    break
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: must be a readable file of sound: {reason(error)}") from None
    return (np.concatenate(parts) if parts else np.zeros(0, np.float32)).astype(np.float32), rate


def _band(rate: int, wanted: int) -> float:
    """Where the sinc cuts, relative to half of `rate`."""
    return CUT * min(1.0, wanted / rate)


def reach(rate: int, wanted: int) -> int:
    """How many samples at `rate` on each side take part in one at `wanted`."""
    return math.ceil(CROSSINGS / _band(rate, wanted))


def resample(samples: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """`samples` [L] at `rate` as they would be at `wanted`, float32 [ceil(L * wanted / rate)].

    A sinc under a Hann window, 32 zero crossings a side, cut at 95 % of half the lower rate; evaluated at each
    output's own time, so that any two rates do. Silence is assumed beyond the ends.
    """
    if rate == wanted:
        return samples.astype(np.float32)
    low, far = _band(rate, wanted), reach(rate, wanted)
    count = -(-len(samples) * wanted // rate)
    padded = np.pad(samples.astype(np.float64), (far, far + 1))
    taps = np.arange(-far + 1, far + 1)
    out = np.empty(count, np.float32)
    for start in range(0, count, BLOCK):
        step = np.arange(start, min(start + BLOCK, count), dtype=np.int64) * rate
        first, part = step // wanted, (step % wanted) / wanted  # whole numbers: no drift
        apart = taps - part[:, None]
        window = np.where(np.abs(apart) < far, 0.5 + 0.5 * np.cos(np.pi * apart / far), 0.0)
        kernel = low * np.sinc(low * apart) * window
        out[start : start + len(step)] = (padded[first[:, None] + taps + far] * kernel).sum(1)
    return out
