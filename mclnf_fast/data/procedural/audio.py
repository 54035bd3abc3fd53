"""Generates speech-like sound from a seed: voices with moving pitch and formants, consonants of noise, and pauses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from mclnf_fast.data.procedural.checks import check_count_and_seed
from mclnf_fast.data.signals import Signals, SignalSets, split_procedural
from mclnf_fast.errors import InputError

CLIPS = 4  # per speaker
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
# Consonants: center and width of their noise, Hz; seconds; loudness; whether the voice goes on below it.
CONSONANTS = (
    (6200.0, 1800.0, 0.11, 0.30, False),
    (3300.0, 1100.0, 0.10, 0.32, False),
    (5000.0, 3500.0, 0.07, 0.10, False),
    (5500.0, 1500.0, 0.07, 0.15, True),
    (2600.0, 1400.0, 0.020, 0.50, False),
    (4200.0, 1800.0, 0.018, 0.45, False),
    (900.0, 700.0, 0.016, 0.5, False),
)
FIRST_STOP = 4  # this consonant and those behind it are stops: silence, then a burst
CONTROL_RATE = 200  # values per second of loudness, pitch and formants, which change slowly


@dataclass(frozen=True)
class Speaker:
    """The properties of one person's voice.

    Attributes:
        pitch: the middle of its range, Hz.
        tract: formants relative to `VOWELS`.
        tilt: dB per octave that the voice's overtones fall.
        breath: noise in the voice.
        pace: syllables per second.
        accent: [6, 4], the speaker's shift of each formant.

    >>> 80 < draw_speaker(0, 0).pitch < 240
    True
    """

    pitch: float
    tract: float
    tilt: float
    breath: float
    pace: float
    accent: np.ndarray


def draw_speaker(seed: int, index: int) -> Speaker:
    """Return speaker `index` of the family `seed`; the same two numbers give the same voice.

    >>> draw_speaker(0, 1).accent.shape
    (6, 4)
    """
    rng = np.random.default_rng([seed, index, 3])
    is_high = bool(rng.random() < 0.5)
    return Speaker(
        pitch=rng.uniform(165, 240) if is_high else rng.uniform(85, 140),
        tract=rng.uniform(1.08, 1.22) if is_high else rng.uniform(0.92, 1.06),
        tilt=rng.uniform(-15, -9),
        breath=rng.uniform(0.02, 0.10),
        pace=rng.uniform(3.5, 5.5),
        accent=rng.uniform(0.93, 1.07, (6, 4)),
    )


def _score(rng: np.random.Generator, speaker: Speaker, seconds: float) -> list[tuple[str, float, float, int]]:
    """Return the sounds of a clip in order: (kind, start, seconds, which), the kind "vowel", "noise" or "pause"."""
    sounds: list[tuple[str, float, float, int]] = []
    time = rng.uniform(0.0, 0.06)
    in_phrase = 0
    while time < seconds:
        if in_phrase and rng.random() < 0.10 * in_phrase:
            length = rng.uniform(0.10, 0.28)
            sounds.append(("pause", time, length, 0))
            time, in_phrase = time + length, 0
        if rng.random() < 0.8:
            which = int(rng.integers(len(CONSONANTS)))
            if which >= FIRST_STOP:  # silence before its burst
                time += rng.uniform(0.03, 0.06)
            length = CONSONANTS[which][2] * rng.uniform(0.8, 1.2)
            sounds.append(("noise", time, length, which))
            time += 0.9 * length
        length = rng.uniform(0.55, 1.3) / speaker.pace
        sounds.append(("vowel", time, length, int(rng.integers(len(VOWELS)))))
        time, in_phrase = time + length, in_phrase + 1
    return sounds


def speak(speaker: Speaker, rng: np.random.Generator, seconds: float, rate: int) -> np.ndarray:
    """Return a clip of a voice, float32 [L] in [-1, 1], its peak between -9 and -1 dB of full scale.

    Args:
        speaker: the voice.
        rng: generator of the words.
        seconds: length of the clip.
        rate: samples per second; L = round(seconds * rate).

    >>> speak(draw_speaker(0, 0), np.random.default_rng(0), seconds=0.1, rate=8000).shape
    (800,)
    """
    length = round(seconds * rate)
    frames = int(np.ceil(seconds * CONTROL_RATE)) + 2
    sounds = _score(rng, speaker, seconds)
    time = np.arange(frames) / float(CONTROL_RATE)
    loudness, keys, targets = np.zeros(frames), [0.0], [VOWELS[5] * speaker.tract]
    phrase = np.interp(time, *_contour(rng, seconds))
    for kind, start, duration, which in sounds:
        if kind == "vowel":
            rise = np.clip((time - start) / 0.045 + 0.2, 0, 1) * np.clip(
                (start + duration - time) / (0.6 * duration) + 0.15, 0, 1
            )
            loudness = np.maximum(loudness, np.sin(0.5 * np.pi * rise) ** 1.5 * rng.uniform(0.35, 1.0))
            voiced = VOWELS[which] * speaker.accent[which] * speaker.tract
            keys += [start + 0.25 * duration, start + 0.7 * duration]
            targets += [voiced, voiced * rng.uniform(0.95, 1.05, 4)]
    formants = np.stack([np.interp(time, keys, [t[k] for t in targets]) for k in range(4)])
    pitch = speaker.pitch * phrase * (1 + 0.012 * np.sin(2 * np.pi * 5.2 * time) + 0.006 * rng.standard_normal(frames))
    sample_time = np.arange(length) / rate
    phase = 2 * np.pi * np.cumsum(np.interp(sample_time, time, pitch)) / rate
    # Overtones beyond half the rate would fold back as wrong tones; beyond the 60th they are too weak to matter.
    top = min(60, int(0.48 * rate / pitch.min()))
    overtone = np.arange(1, top + 1)[:, None]
    gains = (
        _resonance(overtone * pitch, formants) * overtone ** (speaker.tilt / 6.02) * (overtone * pitch < 0.48 * rate)
    )
    gains *= loudness * overtone  # lips radiate high tones better
    # Real voices are never exactly periodic.
    shimmer = 1 + 0.04 * rng.standard_normal(gains.shape)
    sound = np.zeros(length)
    left = np.clip((sample_time * CONTROL_RATE).astype(int), 0, frames - 2)
    fraction = sample_time * CONTROL_RATE - left
    for k in range(top):
        row = gains[k] * shimmer[k]
        sound += (row[left] + fraction * (row[left + 1] - row[left])) * np.sin((k + 1) * phase + 0.3 * k * k)
    # Consonants have loudness relative to the voice, so the voice is scaled first.
    sound /= max(np.abs(sound).max(), 1e-9)
    envelope = np.interp(sample_time, time, loudness)
    sound += (
        speaker.breath
        * _hiss(rng, length, rate, 2500.0 * speaker.tract, 2200.0)
        * envelope
        * (0.6 + 0.4 * np.sin(phase))
    )
    for kind, start, duration, which in sounds:
        if kind == "noise":
            sound += _consonant(rng, sample_time, rate, start, duration, which, speaker)
    return _room(rng, sound, rate)


def _contour(rng: np.random.Generator, seconds: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the pitch over time (times, factors of the voice's own): it wanders, and falls over a phrase."""
    times = np.arange(0.0, seconds + 0.3, 0.18)
    return times, np.exp(0.14 * rng.standard_normal(len(times)) - 0.15 * np.mod(times, 1.6) + 0.1)


def _resonance(frequency: np.ndarray, formants: np.ndarray) -> np.ndarray:
    """Return the gain of the vocal tract at frequencies [n, frames], Hz, with its formants [4, frames]."""
    gain = np.zeros_like(frequency)
    for k in range(4):
        width = WIDTHS[k] * (1 + formants[k] / 4000)
        gain += 0.55**k * (1 + ((frequency - formants[k]) / width) ** 2) ** -0.85
    return gain


def _hiss(rng: np.random.Generator, length: int, rate: int, center: float, width: float) -> np.ndarray:
    """Return noise around a frequency, Hz, with a peak of about 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency = np.fft.rfftfreq(length, 1 / rate)
    noise = np.fft.irfft(spectrum * np.exp(-(((frequency - min(center, 0.42 * rate)) / width) ** 2)), length)
    return noise / max(3.0 * noise.std(), 1e-9)


def _consonant(
    rng: np.random.Generator,
    sample_time: np.ndarray,
    rate: int,
    start: float,
    duration: float,
    which: int,
    speaker: Speaker,
) -> np.ndarray:
    """Return one consonant at its place in a clip of the times `sample_time` [L], seconds."""
    center, width, _, loudness, voiced = CONSONANTS[which]
    is_stop = which >= FIRST_STOP
    result = np.zeros_like(sample_time)
    tail = 4 * duration if is_stop else duration
    place = slice(*np.searchsorted(sample_time, (start, start + tail)))
    count = place.stop - place.start
    if count < 8:
        return result
    progress = np.linspace(0, 1, count)
    shape = np.exp(-4 * progress) * np.clip(progress * 40, 0, 1) if is_stop else np.sin(np.pi * progress) ** 0.7
    noise = _hiss(rng, max(count, 64), rate, center * speaker.tract, width)[:count]
    result[place] = loudness * rng.uniform(0.5, 1.1) * shape * noise
    if voiced:
        result[place] += 0.15 * shape * np.sin(2 * np.pi * speaker.pitch * sample_time[place])
    return result


def _room(rng: np.random.Generator, sound: np.ndarray, rate: int) -> np.ndarray:
    """Return the sound with a small room's first echoes, its noise, and the level of a recording."""
    # Real recordings have echoes and noise; without them the clips would be sums of a few sines.
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
    """Generate clips of voices, four per speaker.

    No speaker is in two of the sets if their sizes are multiples of four. Clip k depends on the seed and k alone, so
    those of a smaller count are the first of a larger one.

    Args:
        count: number of clips in total, at least 1.
        seconds: length of a clip, at most 60.
        rate: samples per second, at least 4000.
        seed: seed of all voices.
        test: number of clips, the last, to test on.
        validation: number of clips, those before, for the validation curve; the rest is to train.

    Returns:
        Sets of audio [S, L, 1], L = round(seconds * rate), 0.5 is silence.

    Raises:
        InputError: a count, length, rate or seed out of range.

    >>> procedural_audio(8, 0.1, rate=8000, test=4, validation=0).test.values.shape
    torch.Size([4, 800, 1])
    """
    check_count_and_seed(count, seed)
    if not 4000 <= rate <= 192000:
        raise InputError(f"rate: must be from 4000 to 192000 samples per second, was {rate}")
    if not (64 / rate <= seconds <= 60):
        raise InputError(f"seconds: must be from {64 / rate:g} to 60, was {seconds}")
    clips = [
        speak(draw_speaker(seed, k // CLIPS), np.random.default_rng([seed, k, 4]), seconds, rate) for k in range(count)
    ]
    names = tuple(f"speaker {k // CLIPS:02d} clip {k % CLIPS}" for k in range(count))
    values = torch.from_numpy(np.stack(clips)).mul_(0.5).add_(0.5).clamp_(0.0, 1.0)[..., None]
    signals = Signals("audio", names, values, float(rate))
    notes = (f"{count} clips of procedural voices of seed {seed}",)
    return split_procedural("procedural voices", signals, test, validation, notes)
