"""Decodes one sound file to one channel, and resamples it."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path

import numpy as np

from mclnf_fast.data.readers.decoding.extras import error_reason, import_extra
from mclnf_fast.errors import InputError

MOST_SECONDS = 600.0  # no more of a file is read
UNKNOWN_FRAMES = 1 << 40  # lengths above it stand for "unknown"
MOST_PIPED = 1 << 30  # bytes of a wav file of unknown length, which is read into memory
BY_AV = (".m4a", ".aac")  # libsndfile, which is faster, does not know these
REACH = 512  # samples at the lower rate that the resampler looks at on each side, rounded up


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
        with soundfile.SoundFile(_of_a_pipe(path) or str(path)) as file:
            if file.frames >= UNKNOWN_FRAMES:  # a flac from a pipe does not know its length, and cannot be sought in
                return _by_av(path)
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


def _is_unknown(length: int) -> bool:
    """Return whether a length in a header stands for "unknown": written to a pipe, nobody can go back to fill it in.

    Writers put 0 there, or a little less than the largest number with a sign or without.
    """
    return length == 0 or 0x7FFF0000 <= length <= 0x80000000 or length >= 0xFFFF0000


def _promised_bytes(path: Path) -> tuple[int, int]:
    """Return the length in bytes that the header of a wav or aiff file promises (0: none) and the file's length.

    libsndfile passes over a missing end in silence, so this looks at the header itself.
    """
    with path.open("rb") as file:
        head = file.read(12)
    order = {b"RIFF": "<I", b"FORM": ">I"}.get(head[:4])
    if order is not None and head[8:] in (b"WAVE", b"AIFF", b"AIFC"):
        (rest,) = struct.unpack(order, head[4:8])
        if not _is_unknown(rest):
            return rest + 8, path.stat().st_size + 1  # some leave out the odd byte at the end
    return 0, 0


def _of_a_pipe(path: Path) -> io.BytesIO | None:
    """Return a wav file with its length filled in, if its sound goes on to the end and its header does not say where.

    libsndfile takes a length of 0 for silence.
    """
    with path.open("rb") as file:
        head = file.read(12)
        if head[:4] != b"RIFF" or head[8:] != b"WAVE" or not _is_unknown(struct.unpack("<I", head[4:8])[0]):
            return None
        size = path.stat().st_size
        begin = 12
        while begin + 8 <= size:
            file.seek(begin)
            name, length = struct.unpack("<4sI", file.read(8))
            if name == b"data":
                rest = size - begin - 8
                if not _is_unknown(length) or not 0 < rest <= MOST_PIPED:
                    return None
                file.seek(0)
                content = bytearray(file.read())
                content[4:8], content[begin + 4 : begin + 8] = struct.pack("<I", size - 8), struct.pack("<I", rest)
                return io.BytesIO(bytes(content))
            begin += 8 + length + length % 2
    return None


def _by_av(path: Path) -> tuple[np.ndarray, int]:
    av = import_extra("av", f"{path.suffix} files")
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise InputError(f"{path}: must hold sound, has no such stream")
            stream = container.streams.audio[0]
            if stream.codec_context is None:
                raise InputError(f"{path}: must be of a known codec, was not")
            rate = int(stream.rate)
            # Its own mix of several channels would make them louder: two equal ones by 3 dB.
            resampler = av.AudioResampler(format="fltp")
            pieces: list[np.ndarray] = []
            count = 0
            for frame in container.decode(stream):
                if frame.sample_rate != rate:
                    raise InputError(f"{path}: must be of one rate, was of {rate} and {frame.sample_rate}")
                for floats in resampler.resample(frame):
                    pieces.append(floats.to_ndarray().mean(0))
                    count += len(pieces[-1])
                if count >= MOST_SECONDS * rate:
                    break
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: must be a readable file of sound: {error_reason(error)}") from None
    return (np.concatenate(pieces) if pieces else np.zeros(0, np.float32)).astype(np.float32), rate


def kernel_reach(rate: int, new_rate: int) -> int:
    """Return how many samples at `rate` on each side may take part in one at `new_rate`.

    >>> kernel_reach(16000, 16000)
    512
    """
    return math.ceil(REACH * max(1.0, rate / new_rate))


def resample(samples: np.ndarray, rate: int, new_rate: int) -> np.ndarray:
    """Return `samples` [L] at `rate` as they would be at `new_rate`, float32 [ceil(L * new_rate / rate)].

    By the SoX resampler in its high quality: no phase shift, flat to 0.9 of half the lower rate. Silence is assumed
    beyond the ends.

    Raises:
        MissingExtraError: the extra `media` is not installed.

    >>> resample(np.zeros(8, np.float32), 8000, 16000).shape
    (16,)
    """
    if rate == new_rate:
        return samples.astype(np.float32)
    soxr = import_extra("soxr", f"sound at {rate} samples per second")
    count = -(-len(samples) * new_rate // rate)
    result = np.asarray(soxr.resample(samples.astype(np.float32), rate, new_rate), np.float32)[:count]
    return np.pad(result, (0, count - len(result)))  # it may round the length down
