"""Sound as pictures, a waveform over the truth's and a spectrogram, and as something to listen to."""

from __future__ import annotations

import base64
import io
import wave
from typing import TYPE_CHECKING

import numpy as np

from mclnf_fast.report.page.canvas import PAPER, RULE, heat

if TYPE_CHECKING:
    from PIL import Image as PilImage

_FLOOR = 70.0  # dB below the loudest of the truth down to which a spectrogram is not silent
_TRUTH = "#c6cbd4"


def wav_uri(values: np.ndarray, rate: float) -> str:
    """Return sound as a WAV file of 16 bits in a data URI, which every browser plays.

    Args:
        values: [L], silence is 0.5, full range 0 ... 1.
        rate: samples per second.

    >>> wav_uri(np.full(4, 0.5), 8000)[:22]
    'data:audio/wav;base64,'
    """
    samples = np.rint((np.clip(np.nan_to_num(values, nan=0.5), 0, 1) - 0.5) * 65534).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(max(1, round(rate)))
        file.writeframes(samples.tobytes())
    return "data:audio/wav;base64," + base64.b64encode(buffer.getvalue()).decode()


def waveform(values: np.ndarray, truth: np.ndarray, top: float, color: str, size: tuple[int, int]) -> PilImage.Image:
    """Return a waveform: the range of each column's samples as an upright stroke, over the truth's in gray.

    Args:
        values, truth: [L], silence is 0.5.
        top: the amplitude that reaches the edge; more is cut.
        color: of the strokes.
        size: (width, height) in pixels.

    >>> waveform(np.full(100, 0.5), np.full(100, 0.5), 0.5, "#000000", (50, 20)).size
    (50, 20)
    """
    from PIL import Image, ImageDraw

    width, height = size
    image = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(image)
    middle = (height - 1) / 2
    draw.line((0, middle, width, middle), fill=RULE)
    for samples, fill in ((truth, _TRUTH), (values, color)):
        edges = np.linspace(0, len(samples), width + 1).astype(int)
        for x in range(width):
            # At least one sample: a clip may have fewer than the picture has columns.
            column = samples[edges[x] : max(edges[x + 1], edges[x] + 1)]
            ends = [middle - middle * float(np.clip((v - 0.5) / top, -1, 1)) for v in (column.max(), column.min())]
            draw.line((x, round(ends[0]), x, round(ends[1])), fill=fill)
    return image


def spectrogram(values: np.ndarray, rate: float | None) -> tuple[np.ndarray, float]:
    """Return dB [bands, frames], and the highest frequency in kHz (0 without a rate), of sound [L] by Hann windows.

    Silence is 0.5; `rate` is in samples per second.

    >>> spectrogram(np.full(800, 0.5), 8000.0)[1]
    4.0
    """
    signal = np.asarray(values, dtype=np.float64) - 0.5
    length = 512
    # Shorter windows for short clips, of which the long ones would leave a few frames.
    while length > 16 and length * 8 > len(signal):
        length //= 2
    hop = max(1, length // 4)
    # By half a window, so that the first and the last samples are in the middle of one too.
    padded = np.pad(signal, (length // 2, length // 2 + hop))
    frames = np.lib.stride_tricks.sliding_window_view(padded, length)[::hop]
    power = np.abs(np.fft.rfft(frames * np.hanning(length), axis=1)) ** 2
    # Silence has no power, and 0 no logarithm.
    return 10.0 * np.log10(power.T + 1e-12), (rate or 0.0) / 2000.0


def bands_picture(bands: np.ndarray, loudest: float, size: tuple[int, int]) -> PilImage.Image:
    """Return a spectrogram in colors, low tones below; `loudest` dB is the brightest, 70 dB less the darkest."""
    from PIL import Image

    levels = Image.fromarray(np.ascontiguousarray(bands[::-1] - loudest + _FLOOR).astype(np.float32))
    # The mean of the cells in a pixel: the nearest one alone would drop short sounds and narrow tones.
    resized = np.asarray(levels.resize(size, Image.Resampling.BOX))
    # In steps of 2 dB: a third of the colors, and of the bytes of a PNG.
    return Image.fromarray(heat(np.round(resized / 2) * 2 / _FLOOR))
