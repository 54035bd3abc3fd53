"""The signals of a bank as files: pictures, sounds, clips."""

from __future__ import annotations

import io
import math
import pathlib
import wave
from collections.abc import Callable, Sequence

import numpy as np
import torch

from mclnf_fast.data.readers.files import safe_path
from mclnf_fast.errors import InputError
from mclnf_fast.fields import FieldDataset
from mclnf_fast.fields.io import write_atomically
from mclnf_fast.ops import bank_mlp
from mclnf_fast.systems.fit.places import Places

POINTS = 1 << 18  # evaluated at once
FRAMES_PER_SECOND = 25.0  # of clips whose files name no rate


def decode_bank(
    file: str | pathlib.Path, folder: str | pathlib.Path, show: Callable[[int], object] = lambda _: None
) -> list[pathlib.Path]:
    """Write the signals of a bank that was fitted to a folder as files under the names that they had there.

    Pictures become PNG, sound WAV of 16 bits, clips MP4, or a folder of PNG files each without the extra `media`.

    Args:
        file: the bank.
        folder: for the files; its folders are made.
        show: called with the number of signals that were just written.

    Returns: the files, and folders of frames.

    Raises:
        InputError: the bank was not fitted to a folder, or a name in it leads out of `folder`.
        OSError: a file cannot be written.
    """
    dataset, folder = FieldDataset(file), pathlib.Path(folder)
    try:
        source = dataset.meta["fit"]["source"]
        kind, places = source["kind"], Places.from_plain(**source["places"])
        about = list(dataset.meta["about"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"decode: {file} must be a bank that was fitted to a folder, but has no {error!s:.60}"
        ) from None
    if kind not in WRITERS or len(about) != len(dataset):
        raise InputError(f"decode: {file} must hold the kind and size of each signal, but does not")
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index, name in enumerate(dataset.names):
        path = safe_path(folder, folder, name, pathlib.Path(file))
        try:
            size, rate = tuple(int(side) for side in about[index]["size"]), about[index].get("rate")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"decode: {file} must hold the size of {name}, but: {error!r:.60}") from None
        written.append(WRITERS[kind](_values(dataset, index, places, size), path, rate))
        show(1)
    return written


@torch.no_grad()
def _values(dataset: FieldDataset, index: int, places: Places, size: tuple[int, ...]) -> np.ndarray:
    """Return the signal of a module, float32 [*size, C] in 0 ... 1."""
    bank = dataset.bank([index])
    x = places.grid(size).to(bank.weight[0].dtype)
    weights, biases = list(bank.weight), list(bank.bias)
    pieces = [bank_mlp(p, torch.tensor([0, len(p)]), weights, biases, dataset.spec) for p in x.split(POINTS)]
    return torch.cat(pieces).reshape(*size, -1).clamp(0, 1).float().numpy()


def _named(path: pathlib.Path, ending: str) -> pathlib.Path:
    # a.jpg and a.png of one folder must not become one file.
    return path if path.suffix.lower() == ending else path.with_name(path.name + ending)


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.asarray((values * 255 + 0.5).astype(np.uint8))


def _write_picture(values: np.ndarray, path: pathlib.Path, rate: float | None) -> pathlib.Path:
    from PIL import Image

    pixels, buffer = _bytes(values), io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(buffer, "PNG")
    path = _named(path, ".png")
    write_atomically(path, buffer.getvalue())
    return path


def _write_sound(values: np.ndarray, path: pathlib.Path, rate: float | None) -> pathlib.Path:
    samples = ((values[..., 0].astype(np.float64) * 2 - 1) * 32767).round().astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, round(rate or 16000), 0, "NONE", ""))
        file.writeframes(samples.tobytes())
    path = _named(path, ".wav")
    write_atomically(path, buffer.getvalue())
    return path


def _write_clip(values: np.ndarray, path: pathlib.Path, rate: float | None) -> pathlib.Path:
    from PIL import Image

    frames = _bytes(values)
    if frames.shape[-1] == 1:
        frames = frames.repeat(3, -1)
    pictures = [Image.fromarray(frame) for frame in frames]
    film = _write_film(pictures, _named(path, ".mp4"), rate or FRAMES_PER_SECOND)
    if film is not None:
        return film
    for k, frame in enumerate(frames):
        _write_picture(frame / np.float32(255), path / f"{k:0{max(4, len(str(len(frames))))}d}.png", None)
    return path


def _write_film(pictures: Sequence, path: pathlib.Path, rate: float) -> pathlib.Path | None:
    try:
        from mclnf_fast.report.page.film import write_mp4
    except ImportError:  # without the extra `report`
        return None
    # Sides of odd length, or shorter than a block, are none for the codec.
    if min(pictures[0].size) < 16 or any(side % 2 for side in pictures[0].size):
        return None
    return write_mp4(pictures, path, max(1, math.floor(1000 / rate + 0.5)), turns=1)


WRITERS: dict[str, Callable[[np.ndarray, pathlib.Path, float | None], pathlib.Path]] = {
    "image": _write_picture,
    "audio": _write_sound,
    "video": _write_clip,
}
