"""`load_audio`: a folder of files of sound as `SignalSets`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from mclnf_fast.data.readers.gather import Read, gather
from mclnf_fast.data.readers.layouts import Found, Item, find
from mclnf_fast.data.readers.sound import MOST_SECONDS, decode_sound, reach, resample
from mclnf_fast.data.readers.split import Plan, plan
from mclnf_fast.data.signals import SignalSets
from mclnf_fast.errors import InputError

Start = Literal["first", "sound", "loudest"]
SILENT = 1e-4  # half the span of full scale, -80 dB: below it a window is silent
FRAME = 0.02  # seconds over which loudness is taken
QUIET = 0.01  # loudness relative to the loudest frame, -40 dB: below it sound has not begun


def load_audio(
    folder: str | Path,
    *,
    seconds: float = 1.0,
    rate: int = 16000,
    start: Start = "first",
    windows_per_file: int = 1,
    peak: bool = False,
    by_folder: bool = True,
    test: float | int = 0.25,
    validation: int | None = None,
    limit: int | None = None,
    seed: int = 0,
    strict: bool = False,
) -> SignalSets:
    """Read windows of sound, one channel, all at one rate.

    LibriSpeech (`train-clean-100/<speaker>/<chapter>/`, ...), VoxCeleb2 (`{dev,test}/aac/idXXXXX/`) and folders with
    `train/`, `val/`, `test/` keep their own split. Any other tree is split by seed, and whole folders (speakers) go to
    test, so that those of the test are unseen in training; files named as LibriSpeech's go by their speaker.

    A sample x in [-1, 1] becomes (x + 1) / 2: 0.5 is silence and loudness is kept. Floats beyond full scale are
    scaled down to it. Other rates are resampled (see `sound.resample`); several channels are averaged; of a file the
    first ten minutes are read.

    Args:
        folder: a folder, read with all below it, or one file.
        seconds: length of a window. A shorter file is padded with its last value, and noted.
        rate: samples a second.
        start: where a file's window begins. "first": at the beginning, or where sound begins if that window is silent;
            "sound": where its loudness first comes within 40 dB of the loudest; "loudest": the window of most energy.
        windows_per_file: so many windows of a file, one after another, as far as they fit.
        peak: scale each window to a peak of 0.95 of full scale.
        by_folder: whether folders and speakers stay together in the split by seed.
        test: share, or count of files, to test on; see `split.plan`.
        validation: how many files of those to train on (of their speakers) are held back for the validation curve;
            None: 4, or fewer of few.
        limit: at most so many files in all, chosen by seed.
        seed: of the split and of the choice.
        strict: refuse an unusable file instead of skipping it with a warning. A silent file is unusable.

    Returns:
        Sets of audio [S, L, 1], L = round(seconds * rate), named by their paths (and the window's start in seconds
        where there are several).

    Raises:
        InputError: an option out of range, nothing usable there, with `strict` an unusable file, or the extra `media`
            is missing.
    """
    if not (1000 <= rate <= 192000):
        raise InputError(f"rate: must be from 1000 to 192000 samples a second, was {rate}")
    length = round(seconds * rate) if 0 < seconds <= MOST_SECONDS else 0
    if length < 1:
        raise InputError(f"seconds: must be > 0 and at most {MOST_SECONDS:g}, was {seconds}")
    if start not in ("first", "sound", "loudest"):
        raise InputError(f"start: must be first, sound or loudest, was {start!r}")
    if windows_per_file < 1:
        raise InputError(f"windows_per_file: must be >= 1, was {windows_per_file}")
    found = find(folder, "audio")
    if not by_folder:
        found.pools = {k: [Item(x.path, x.name) for x in items] for k, items in found.pools.items()}
    split = plan(found, test, validation, limit, seed)
    _name_speakers(found, split)

    def read(item: Item) -> Read:
        return read_windows(item.path, length, rate, start, windows_per_file, peak)

    return gather("audio", found, split, read, (length, 1), windows_per_file, strict)


def _name_speakers(found: Found, split: Plan) -> None:
    groups = sorted({item.group for item in split.test} - {"", *(item.name for item in split.test)})
    if len(found.pools) == 1 and groups and not any(item.group in groups for item in split.train):
        shown = ", ".join(groups[:5]) + (f" and {len(groups) - 5} more" if len(groups) > 5 else "")
        split.notes.append(f"in test only, unseen in training: {shown}")


def read_windows(path: Path, length: int, rate: int, start: Start, most: int, peak: bool) -> Read:
    """The windows of one file, float32 [length, 1] in [0, 1] each.

    Raises:
        InputError: unusable, or silent.
    """
    samples, own = decode_sound(path)
    done = []
    loudest = float(np.abs(samples).max())
    if loudest > 1:
        samples = samples / np.float32(loudest)
        done.append("scaled down, beyond full scale")
    if _silent(samples):
        raise InputError(f"{path}: must hold sound, is silent")
    span = -(-length * own // rate)
    begin = 0 if start == "first" else _onset(samples, own) if start == "sound" else _loudest(samples, span)
    if _silent(samples[begin : begin + span]):
        begin = _onset(samples, own)
        if _silent(samples[begin : begin + span]):  # a window shorter than the frames that the onset is found by
            begin = _loudest(samples, span)
        done.append("taken from where sound begins, the first window is silent")
    long = len(samples) - begin > most * span
    label = begin / own
    samples = _from(samples, begin, most * span, own, rate)
    if own != rate:
        done.append(f"resampled from {own} to {rate} samples a second")
    values, labels = [], []
    for k in range(most):
        window = samples[k * length : (k + 1) * length]
        if k and (len(window) < length or _silent(window)):
            continue
        if len(window) < length:
            done.append("shorter than the window, padded with its last value")
            window = np.pad(window, (0, length - len(window)), mode="edge")
        elif k == 0 and long:
            done.append("longer than the window, cut")
        if peak:
            window = window * np.float32(0.95 / np.abs(window).max())
        values.append(torch.from_numpy((0.5 * window + 0.5).clip(0, 1).astype(np.float32))[:, None])
        labels.append(f"@{label + k * length / rate:g}s" if most > 1 else "")
    return Read(values, labels, done, float(rate))


def _from(samples: np.ndarray, begin: int, span: int, own: int, rate: int) -> np.ndarray:
    """`span` samples from `begin` on, at `rate`; what stands before and after takes part in the resampling."""
    if own == rate:
        return samples[begin : begin + span]
    common = math.gcd(own, rate)
    before = min(begin, -(-reach(own, rate) // (own // common)) * (own // common))
    before -= before % (own // common)  # a whole number of samples at both rates
    made = resample(samples[begin - before : begin + span + reach(own, rate)], own, rate)
    return made[before * rate // own :][: -(-min(span, len(samples) - begin) * rate // own)]


def _silent(window: np.ndarray) -> bool:
    """No wave in it: a constant is silence too."""
    return 0.5 * float(window.max() - window.min()) < SILENT


def _onset(samples: np.ndarray, rate: int) -> int:
    """Where sound begins: one frame before loudness first comes within 40 dB of the loudest frame's."""
    frame = max(1, round(FRAME * rate))
    whole = np.pad(samples - samples.mean(), (0, -len(samples) % frame))
    loud = np.square(whole).reshape(-1, frame).mean(1)
    first = int(np.argmax(loud >= QUIET**2 * loud.max()))
    return max(0, first - 1) * frame


def _loudest(samples: np.ndarray, length: int) -> int:
    """Where the window of most energy begins."""
    if len(samples) <= length:
        return 0
    level = samples - samples.mean(dtype=np.float64)
    total = np.concatenate([[0.0], np.cumsum(np.square(level))])
    return int(np.argmax(total[length:] - total[:-length]))
