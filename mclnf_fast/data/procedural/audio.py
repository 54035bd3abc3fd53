"""Speech-like sound, made by a seed: voices with moving pitch and formants, consonants of noise, and pauses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mclnf_fast.data.procedural.faces.faces import check_made
from mclnf_fast.data.signals import Signals, SignalSets, split_procedural
from mclnf_fast.errors import InputError

CLIPS = 4  # a speaker
# First four formants of vowels, Hz: a i u e o schwa, of a grown man.
VOWELS = np.array(
    [
        [730, 1090, 2440, 3400],
        [270, 2290, 3010, 3600],
        [300, 870, 2240, 3300],
        [530, 1840, 2480, 3500],
        [570, 840, 2410, 3350],
        [500, 1500, 2500, 3450],
    ]
)
WIDTHS = np.array([70.0, 90.0, 130.0, 180.0])
# Consonants: centre and width of their noise, Hz; seconds; loudness; whether the voice goes on below it.
CONSONANTS = (
    (6200.0, 1800.0, 0.11, 0.30, False),
    (3300.0, 1100.0, 0.10, 0.32, False),
    (5000.0, 3500.0, 0.07, 0.10, False),
    (5500.0, 1500.0, 0.07, 0.15, True),
    (2600.0, 1400.0, 0.020, 0.50, False),
    (4200.0, 1800.0, 0.018, 0.45, False),
    (900.0, 700.0, 0.016, 0.5, False),
)


@dataclass(frozen=True)
class Speaker:
    """What makes a voice one person's."""

    pitch: float  # Hz, the middle of its range
    tract: float  # formants relative to `VOWELS`
    tilt: float  # dB an octave that the voice's overtones fall
    breath: float  # noise in the voice
    pace: float  # syllables a second
    accent: np.ndarray  # [6, 4], its own shift of each formant


def draw_speaker(seed: int, index: int) -> Speaker:
    rng = np.random.default_rng([seed, index, 3])
    high = bool(rng.random() < 0.5)
    return Speaker(
        pitch=rng.uniform(165, 240) if high else rng.uniform(85, 140),
        tract=rng.uniform(1.08, 1.22) if high else rng.uniform(0.92, 1.06),
        tilt=rng.uniform(-15, -9),
        breath=rng.uniform(0.02, 0.10),
        pace=rng.uniform(3.5, 5.5),
        accent=rng.uniform(0.93, 1.07, (6, 4)),
    )


def _score(rng: np.random.Generator, who: Speaker, seconds: float) -> list[tuple[str, float, float, int]]:
    """What is said: (what, start, seconds, which), where what is "vowel", "noise" or "pause"."""
    said: list[tuple[str, float, float, int]] = []
    at = rng.uniform(0.0, 0.06)
    in_phrase = 0
    while at < seconds:
        if in_phrase and rng.random() < 0.10 * in_phrase:
            length = rng.uniform(0.10, 0.28)
            said.append(("pause", at, length, 0))
            at, in_phrase = at + length, 0
        if rng.random() < 0.8:
            which = int(rng.integers(len(CONSONANTS)))
            if which >= 4:  # a stop: silence before its burst
                at += rng.uniform(0.03, 0.06)
            length = CONSONANTS[which][2] * rng.uniform(0.8, 1.2)
            said.append(("noise", at, length, which))
            at += 0.9 * length
        length = rng.uniform(0.55, 1.3) / who.pace
        said.append(("vowel", at, length, int(rng.integers(len(VOWELS)))))
        at, in_phrase = at + length, in_phrase + 1
    return said


def speak(who: Speaker, rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """A clip of a voice, float32 [L] in [-1, 1], its peak between -9 and -1 dB of full scale."""
    length = round(seconds * rate)
    frames = int(np.ceil(seconds * 200)) + 2  # 5 ms apart: the slow things
    said = _score(rng, who, seconds)
    at = np.arange(frames) / 200.0
    loud, keys, targets = np.zeros(frames), [0.0], [VOWELS[5] * who.tract]
    phrase = np.interp(at, *_contour(rng, seconds))
    for what, start, lasts, which in said:
        if what == "vowel":
            rise = np.clip((at - start) / 0.045 + 0.2, 0, 1) * np.clip(
                (start + lasts - at) / (0.6 * lasts) + 0.15, 0, 1
            )
            loud = np.maximum(loud, np.sin(0.5 * np.pi * rise) ** 1.5 * rng.uniform(0.35, 1.0))
            voiced = VOWELS[which] * who.accent[which] * who.tract
            keys += [start + 0.25 * lasts, start + 0.7 * lasts]
            targets += [voiced, voiced * rng.uniform(0.95, 1.05, 4)]
    formants = np.stack([np.interp(at, keys, [t[k] for t in targets]) for k in range(4)])
    pitch = who.pitch * phrase * (1 + 0.012 * np.sin(2 * np.pi * 5.2 * at) + 0.006 * rng.standard_normal(frames))
    fine = np.arange(length) / rate
    phase = 2 * np.pi * np.cumsum(np.interp(fine, at, pitch)) / rate
    top = min(60, int(0.48 * rate / pitch.min()))
    number = np.arange(1, top + 1)[:, None]
    gains = _resonance(number * pitch, formants) * number ** (who.tilt / 6.02) * (number * pitch < 0.48 * rate)
    gains *= loud * number  # lips radiate high tones better
    shimmer = 1 + 0.04 * rng.standard_normal(gains.shape)
    sound = np.zeros(length)
    place = np.clip((fine * 200).astype(int), 0, frames - 2)
    share = fine * 200 - place
    for k in range(top):
        row = gains[k] * shimmer[k]
        sound += (row[place] + share * (row[place + 1] - row[place])) * np.sin((k + 1) * phase + 0.3 * k * k)
    sound /= max(np.abs(sound).max(), 1e-9)
    envelope = np.interp(fine, at, loud)
    sound += who.breath * _hiss(rng, length, rate, 2500.0 * who.tract, 2200.0) * envelope * (0.6 + 0.4 * np.sin(phase))
    for what, start, lasts, which in said:
        if what == "noise":
            sound += _consonant(rng, fine, rate, start, lasts, which, who)
    return _room(rng, sound, rate)


def _contour(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Pitch over time relative to the voice's own: it wanders, and falls over a phrase."""
    times = np.arange(0.0, seconds + 0.3, 0.18)
    return times, np.exp(0.14 * rng.standard_normal(len(times)) - 0.15 * np.mod(times, 1.6) + 0.1)


def _resonance(f: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Gain of the vocal tract at `f` [n, frames]."""
    gain = np.zeros_like(f)
    for k in range(4):
        width = WIDTHS[k] * (1 + formants[k] / 4000)
        gain += 0.55**k * (1 + ((f - formants[k]) / width) ** 2) ** -0.85
    return gain


def _hiss(rng: np.random.Generator, length: int, rate: int, center: float, width: float) -> np.ndarray:
    """Noise about a frequency, peak about 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    f = np.fft.rfftfreq(length, 1 / rate)
    noise = np.fft.irfft(spectrum * np.exp(-(((f - min(center, 0.42 * rate)) / width) ** 2)), length)
    return noise / max(3.0 * noise.std(), 1e-9)


def _consonant(
    rng: np.random.Generator, fine: np.ndarray, rate: int, start: float, lasts: float, which: int, who: Speaker
) -> np.ndarray:
    center, width, _, loudness, voiced = CONSONANTS[which]
    stop = which >= 4
    out = np.zeros_like(fine)
    tail = 4 * lasts if stop else lasts
    here = slice(*np.searchsorted(fine, (start, start + tail)))
    count = here.stop - here.start
    if count < 8:
        return out
    t = np.linspace(0, 1, count)
    shape = np.exp(-4 * t) * np.clip(t * 40, 0, 1) if stop else np.sin(np.pi * t) ** 0.7
    noise = _hiss(rng, max(count, 64), rate, center * who.tract, width)[:count]
    out[here] = loudness * rng.uniform(0.5, 1.1) * shape * noise
    if voiced:
        out[here] += 0.15 * shape * np.sin(2 * np.pi * who.pitch * fine[here])
    return out


def _room(rng: np.random.Generator, sound: np.ndarray, rate: int) -> np.ndarray:
    """A small room's first echoes, its noise, and the level of the recording."""
    wet = sound.copy()
    for _ in range(4):
        delay = int(rng.uniform(0.004, 0.03) * rate)
        if delay < len(sound):
            wet[delay:] += rng.uniform(-0.16, 0.16) * sound[: len(sound) - delay]
    wet += 10 ** rng.uniform(-3.6, -2.8) * rng.standard_normal(len(wet))
    return (wet / np.abs(wet).max() * rng.uniform(0.35, 0.89)).astype(np.float32)


def procedural_audio(
    count: int = 48, seconds: float = 1.0, *, rate: int = 16000, seed: int = 0, test: int = 12, validation: int = 4
) -> SignalSets:
    """Clips of made voices, four a speaker; no speaker is in two of the sets where their sizes are multiples of four.

    Args:
        count: clips in all, at least 1; those of a smaller count are the first of a larger one.
        seconds: length of a clip, at most 60.
        rate: samples a second, at least 4000.
        seed: of all voices.
        test: how many of them, the last, to test on.
        validation: how many, those before, for the validation curve; the rest is to train.

    Returns:
        Sets of audio [S, L, 1], L = round(seconds * rate), 0.5 is silence.

    Raises:
        InputError: a count, length, rate or seed out of range.
    """
    check_made(count, seed)
    if not 4000 <= rate <= 192000:
        raise InputError(f"rate: must be from 4000 to 192000 samples a second, was {rate}")
    if not (64 / rate <= seconds <= 60):
        raise InputError(f"seconds: must be from {64 / rate:g} to 60, was {seconds}")
    clips = [
        speak(draw_speaker(seed, k // CLIPS), np.random.default_rng([seed, k, 4]), seconds, rate) for k in range(count)
    ]
    names = tuple(f"speaker {k // CLIPS:02d} clip {k % CLIPS}" for k in range(count))
    values = torch.from_numpy(np.stack(clips)).mul_(0.5).add_(0.5).clamp_(0.0, 1.0)[..., None]
    made = Signals("audio", names, values, float(rate))
    return split_procedural("made voices", made, test, validation, (f"{count} clips of made voices, by seed {seed}",))
