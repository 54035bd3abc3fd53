"""Decodes one sound file to one channel, and resamples it."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np

from mclnf_fast.data.readers.decoding.extras import error_reason, import_extra
from mclnf_fast.errors import InputError

MOST_SECONDS = 600.0  # no more of a file is read
BY_AV = (".m4a", ".aac")  # libsndfile, which is faster, does not know these
ZERO_CROSSINGS = 32  # of the sinc on each side
CUTOFF = 0.95  # frequency at which the gain is a half, relative to half of the lower rate
BLOCK = 16384  # output samples at a time: the kernel of a whole file would take gigabytes


def decode_sound(path: Path) -> tuple[np.ndarray, int]:
    """Return a file's sound, its channels averaged, and its rate in samples per second.

    The sound is float32 [L] as stored, in -1 ... 1 when it was stored in whole numbers. An ogg file that ends early
    looks like a short one and is read as one.

    Raises:
        InputError: unreadable, corrupt, empty, or not finite.
        MissingExtraError: the extra `media` is not installed.

    >>> import tempfile, wave
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.wav")
    ...     with wave.open(str(path), "wb") as file:
    ...         file.setparams((1, 2, 8000, 0, "NONE", ""))
    ...         file.writeframes((1000 * np.sin(np.arange(800.0))).astype("<i2").tobytes())
    ...     samples, rate = decode_sound(path)
    >>> samples.shape, rate
    ((800,), 8000)
    """
    samples, rate = _by_av(path) if path.suffix.lower() in BY_AV else _by_soundfile(path)
    if not len(samples):
        raise InputError(f"{path}: must hold sound, holds no samples")
    # Float files may hold NaN, and one NaN in a batch ends a training run.
    if not np.isfinite(samples).all():
        raise InputError(f"{path}: samples must be finite, some are not")
    return samples, rate


def _by_soundfile(path: Path) -> tuple[np.ndarray, int]:
    soundfile = import_extra("soundfile", "sound")
    try:
        promised, size = _promised_bytes(path)
        with soundfile.SoundFile(str(path)) as file:
            count = min(file.frames, int(MOST_SECONDS * file.samplerate))
            samples = file.read(count, dtype="float32", always_2d=True)
            rate = int(file.samplerate)
    except (soundfile.SoundFileError, OSError, RuntimeError, ValueError, MemoryError) as error:
        raise InputError(f"{path}: must be a readable file of sound: {error_reason(error)}") from None
    if size < promised:
        raise InputError(f"{path}: must be whole, {promised} bytes were promised and {size} are there")
    if len(samples) < 0.98 * count:  # an mp3 may promise only about its length
        raise InputError(f"{path}: must be whole, {count} samples were promised and {len(samples)} are there")
    return samples.mean(1), rate


def _promised_bytes(path: Path) -> tuple[int, int]:
    """Return the length in bytes that the header of a wav or aiff file promises (0: none) and the file's length.

    libsndfile passes over a missing end in silence, so this looks at the header itself.
    """
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
    av = import_extra("av", f"{path.suffix} files")
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path}: must hold sound, has no such stream")
            stream = container.streams.audio[0]
            rate = int(stream.rate)
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate)
            pieces: list[np.ndarray] = []
            count = 0
            for frame in container.decode(stream):
                for mono in resampler.resample(frame):
                    pieces.append(mono.to_ndarray()[0])
                    count += len(pieces[-1])
                if count >= MOST_SECONDS * rate:
                    break
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: must be a readable file of sound: {error_reason(error)}") from None
    return (np.concatenate(pieces) if pieces else np.zeros(0, np.float32)).astype(np.float32), rate


def _band(rate: int, new_rate: int) -> float:
    """Return the frequency at which the sinc cuts, relative to half of `rate`."""
    return CUTOFF * min(1.0, new_rate / rate)


def kernel_reach(rate: int, new_rate: int) -> int:
    """Return how many samples at `rate` on each side take part in one at `new_rate`.

    >>> kernel_reach(16000, 16000)
    34
    """
    return math.ceil(ZERO_CROSSINGS / _band(rate, new_rate))


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Return `samples` [L] at `rate` as they would be at `new_rate`, float32 [ceil(L * new_rate / rate)].

    A sinc under a Hann window, 32 zero crossings per side, cut at 95 % of half the lower rate; evaluated at each
    output's own time, so that any two rates do. Silence is assumed beyond the ends.

    >>> resample(np.zeros(8, np.float32), 8000, 16000).shape
    (16,)
    """
    if rate == new_rate:
        return samples.astype(np.float32)
    band, reach = _band(rate, new_rate), kernel_reach(rate, new_rate)
    count = -(-len(samples) * new_rate // rate)
    padded = np.pad(samples.astype(np.float64), (reach, reach + 1))
    taps = np.arange(-reach + 1, reach + 1)
    result = np.empty(count, np.float32)
    for begin in range(0, count, BLOCK):
        times = np.arange(begin, min(begin + BLOCK, count), dtype=np.int64) * rate
        whole, fraction = times // new_rate, (times % new_rate) / new_rate  # in whole numbers there is no drift
        distance = taps - fraction[:, None]
        window = np.where(np.abs(distance) < reach, 0.5 + 0.5 * np.cos(np.pi * distance / reach), 0.0)
        kernel = band * np.sinc(band * distance) * window
        result[begin : begin + len(times)] = (padded[whole[:, None] + taps + reach] * kernel).sum(1)
    return result
