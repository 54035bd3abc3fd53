"""Sound as pictures: a waveform over the truth's, and a spectrogram."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.report.page.canvas import PAPER, RULE, heat

if TYPE_CHECKING:
    from PIL import Image as PilImage

_FLOOR = 70.0  # dB below the loudest of the truth that a spectrogram still tells from silence
_TRUTH = "#c6cbd4"


def waveform(values: np.ndarray, truth: np.ndarray, top: float, colour: str, size: tuple[int, int]) -> PilImage.Image:
    """The lowest and the highest value of each column's samples as an upright stroke, over the truth's in gray.

    Args:
        values, truth: [L], silence is 0.5.
        top: the amplitude that reaches the edge; more is cut.
        size: (width, height) in pixels.
    """
    from PIL import Image, ImageDraw

    width, height = size
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    middle = (height - 1) / 2
    draw.line((0, middle, width, middle), fill=RULE)
    for samples, fill in ((truth, _TRUTH), (values, colour)):
        edges = np.linspace(0, len(samples), width + 1).astype(int)
        for x in range(width):
            part = samples[edges[x] : max(edges[x + 1], edges[x] + 1)]
            ends = [middle - middle * float(np.clip((v - 0.5) / top, -1, 1)) for v in (part.max(), part.min())]
            draw.line((x, round(ends[0]), x, round(ends[1])), fill=fill)
    return image


def spectrogram(values: np.ndarray, rate: float | None) -> tuple[np.ndarray, float]:
    """(dB [bands, frames], highest frequency in kHz or 0 without a rate) of sound [L], silence 0.5, by Hann windows."""
    signal = np.asarray(values, dtype=np.float64) - 0.5
    length = 512
    while length > 16 and length * 8 > len(signal):
        length //= 2
    hop = max(1, length // 4)
    padded = np.pad(signal, (length // 2, length // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(length), axis=1)) ** 2
    return 10.0 * np.log10(power.T + 1e-12), (rate or 0.0) / 2000.0


def bands_picture(bands: np.ndarray, loudest: float, size: tuple[int, int]) -> PilImage.Image:
    """A spectrogram in colours, low tones below; `loudest` dB is the brightest, 70 dB less the darkest; in steps of
    2 dB, which PNG packs well."""
    from PIL import Image

    levels = Image.fromarray(np.ascontiguousarray(bands[::-1] - loudest + _FLOOR).astype(np.float32))
    resized = np.asarray(levels.resize(size, Image.Resampling.BOX))
    return Image.fromarray(heat(np.round(resized / 2) * 2 / _FLOOR))
