"""Reads a folder of sound files as `SignalSets`: `load_audio`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from mclnf_fast.data.readers.decoding.sound import MOST_SECONDS, decode_sound, kernel_reach, resample
from mclnf_fast.data.readers.gather import FileSignals, gather
from mclnf_fast.data.readers.layouts import DataFile, Layout
from mclnf_fast.data.readers.options import AudioReadOptions, WindowStart, options_of
from mclnf_fast.data.readers.registry import add_built_in, read_with
from mclnf_fast.data.readers.signal_readers import choose_signals, signal_readers
from mclnf_fast.data.readers.split import FileSplit, split_files
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError

SILENT = 1e-4  # half the range of full scale, -80 dB: below it a window is silent
FRAME_SECONDS = 0.02  # over which loudness is taken
QUIET = 0.01  # loudness relative to the loudest frame, -40 dB: below it sound has not begun


def load_audio(folder: str | Path, options: AudioReadOptions | None = None, **changes: Any) -> SignalSets:
    """Read windows of sound, one channel, all at one rate.

    LibriSpeech (`train-clean-100/<speaker>/<chapter>/`, ...), VoxCeleb2 (`{dev,test}/aac/idXXXXX/`) and folders with
    `train/`, `val/`, `test/` keep their own split. Any other tree is split by seed, and whole folders (speakers) go to
    test, so that those of the test are unseen in training; files named as LibriSpeech's go by their speaker.

    A sample x in [-1, 1] becomes (x + 1) / 2: 0.5 is silence and loudness is kept. Floats beyond full scale are scaled
    down to it. Other rates are resampled (see `sound.resample`); several channels are averaged; of a file the first ten
    minutes are read.

    Args:
        folder: a folder, read with everything below it, or one file.
        options: see `AudioReadOptions`; None: its defaults.
        changes: single fields of `options`, such as `seconds=0.5`.

    Returns:
        Sets of audio [S, L, 1], L = round(seconds * rate), named by their paths (and the window's start in seconds,
        when there are several per file).

    Raises:
        InputError: an option out of range, nothing usable there, with `strict` an unusable file (a silent one is
            unusable).
        MissingExtraError: the extra `media` is not installed.
        TypeError: an unknown option.

    >>> import tempfile, wave
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in "ab":
    ...         with wave.open(f"{folder}/{name}.wav", "wb") as file:
    ...             file.setparams((1, 2, 8000, 0, "NONE", ""))
    ...             file.writeframes((1000 * np.sin(np.arange(800.0))).astype("<i2").tobytes())
    ...     sets = load_audio(folder, seconds=0.05, rate=8000, test=1)
    >>> sets.test.values.shape
    torch.Size([1, 400, 1])
    """
    settings = options_of(AudioReadOptions, options, changes)
    window_length(settings)
    path = Path(folder)
    return read_with(choose_signals("audio", path, settings.reader), path, settings)


def window_length(options: AudioReadOptions) -> int:
    """Return the samples per window.

    Raises:
        InputError: an option out of range.

    >>> window_length(AudioReadOptions(seconds=0.5))
    8000
    """
    rate, seconds = options.rate, options.seconds
    if not (1000 <= rate <= 192000):
        raise InputError(f"rate: must be from 1000 to 192000 samples per second, was {rate}")
    length = round(seconds * rate) if 0 < seconds <= MOST_SECONDS else 0
    if length < 1:
        raise InputError(f"seconds: must be > 0 and at most {MOST_SECONDS:g}, was {seconds}")
    if options.start not in get_args(WindowStart):
        raise InputError(f"start: must be first, sound or loudest, was {options.start!r}")
    if options.windows_per_file < 1:
        raise InputError(f"windows_per_file: must be >= 1, was {options.windows_per_file}")
    return length


def _read_audio(layout: Layout, options: AudioReadOptions) -> SignalSets:
    length = window_length(options)
    if not options.by_folder:
        layout.pools = {k: [DataFile(x.path, x.name) for x in files] for k, files in layout.pools.items()}
    split = split_files(layout, options, options.validation)
    _note_speakers(layout, split)

    def read(file: DataFile) -> FileSignals:
        return read_windows(file.path, options)

    return gather("audio", layout, split, read, (length, 1), options.windows_per_file, options.strict)


def _note_speakers(layout: Layout, split: FileSplit) -> None:
    """Add a note on the groups that are in the test set only, if the split by seed has such."""
    groups = sorted({file.group for file in split.test} - {"", *(file.name for file in split.test)})
    if len(layout.pools) == 1 and groups and not any(file.group in groups for file in split.train):
        shown = ", ".join(groups[:5]) + (f" and {len(groups) - 5} more" if len(groups) > 5 else "")
        split.notes.append(f"in test only, unseen in training: {shown}")


def read_windows(path: Path, options: AudioReadOptions) -> FileSignals:
    """Return the windows of one file, float32 [L, 1] in [0, 1] each.

    Raises:
        InputError: unusable, or silent.

    >>> import tempfile, wave
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.wav")
    ...     with wave.open(str(path), "wb") as file:
    ...         file.setparams((1, 2, 8000, 0, "NONE", ""))
    ...         file.writeframes((1000 * np.sin(np.arange(800.0))).astype("<i2").tobytes())
    ...     windows = read_windows(path, AudioReadOptions(seconds=0.05, rate=8000, windows_per_file=2))
    >>> len(windows.values), windows.labels
    (2, ['@0s', '@0.05s'])
    """
    length, rate, most = window_length(options), options.rate, options.windows_per_file
    samples, file_rate = decode_sound(path)
    changes = []
    peak = float(np.abs(samples).max())
    if peak > 1:
        samples = samples / np.float32(peak)
        changes.append("scaled down, beyond full scale")
    # A silent window is fitted by a constant: its PSNR has no bound and would decide the mean of all.
    if _is_silent(samples):
        raise InputError(f"{path}: must hold sound, is silent")
    span = -(-length * file_rate // rate)  # a window's samples in the file, rounded up
    begin = 0
    if options.start == "sound":
        begin = _onset(samples, file_rate)
    elif options.start == "loudest":
        begin = _loudest(samples, span)
    if _is_silent(samples[begin : begin + span]):
        begin = _onset(samples, file_rate)
        if _is_silent(samples[begin : begin + span]):  # a window shorter than the frames that the onset is taken from
            begin = _loudest(samples, span)
        changes.append("taken from where sound begins, the first window is silent")
    goes_on = len(samples) - begin > most * span
    begin_seconds = begin / file_rate
    samples = _resampled(samples, begin, most * span, file_rate, rate)
    if file_rate != rate:
        changes.append(f"resampled from {file_rate} to {rate} samples per second")
    values, labels = [], []
    for k in range(most):
        window = samples[k * length : (k + 1) * length]
        if k and (len(window) < length or _is_silent(window)):
            continue
        if len(window) < length:
            changes.append("shorter than the window, padded with its last value")
            # Zeros instead would be a click, the loudest thing in a quiet window.
            window = np.pad(window, (0, length - len(window)), mode="edge")
        elif k == 0 and goes_on:
            changes.append("longer than the window, cut")
        if options.peak:
            # Below full scale, so that a reconstruction that overshoots a little is not clipped when it is played.
            window = window * np.float32(0.95 / np.abs(window).max())
        values.append(torch.from_numpy((0.5 * window + 0.5).clip(0, 1).astype(np.float32))[:, None])
        labels.append(f"@{begin_seconds + k * length / rate:g}s" if most > 1 else "")
    return FileSignals(values, labels, changes, float(rate))


def _resampled(samples: np.ndarray, begin: int, span: int, file_rate: int, rate: int) -> np.ndarray:
    """Return `span` samples from `begin` on at `rate`; those before and after them take part in the resampling."""
    if file_rate == rate:
        return samples[begin : begin + span]
    period = file_rate // math.gcd(file_rate, rate)  # samples of the file after which both rates meet again
    reach = kernel_reach(file_rate, rate)
    before = min(begin, -(-reach // period) * period)
    before -= before % period  # a whole number of samples at both rates, or the window would move by a fraction
    result = resample(samples[begin - before : begin + span + reach], file_rate, rate)
    return result[before * rate // file_rate :][: -(-min(span, len(samples) - begin) * rate // file_rate)]


def _is_silent(window: np.ndarray) -> bool:
    """Return whether a window has no wave in it; a constant is silence too."""
    return 0.5 * float(window.max() - window.min()) < SILENT


def _onset(samples: np.ndarray, rate: int) -> int:
    """Return the begin of sound: one frame before loudness first comes within 40 dB of the loudest frame's."""
    frame = max(1, round(FRAME_SECONDS * rate))
    # Without the mean, since a constant offset of the recorder has energy but is no sound.
    whole = np.pad(samples - samples.mean(), (0, -len(samples) % frame))
    energy = np.square(whole).reshape(-1, frame).mean(1)
    onset = int(np.argmax(energy >= QUIET**2 * energy.max()))
    return max(0, onset - 1) * frame


def _loudest(samples: np.ndarray, length: int) -> int:
    """Return the begin of the window of most energy."""
    if len(samples) <= length:
        return 0
    level = samples - samples.mean(dtype=np.float64)
    # Differences of a running sum, in double precision: every window at once, in one pass over the file.
    total = np.concatenate([[0.0], np.cumsum(np.square(level))])
    return int(np.argmax(total[length:] - total[:-length]))


add_built_in(signal_readers("audio", _read_audio))
