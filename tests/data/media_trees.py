"""Writes small pictures, sounds and videos, and the public layouts' trees of them."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mclnf_fast.data import load_images
from mclnf_fast.data.signals import SignalSets


def pixels(seed: int, size=(12, 10)) -> np.ndarray:
    """uint8 [h, w, 3] of `size` (width, height)."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def picture(path: Path, seed: int = 0, size=(12, 10), **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels(seed, size)).save(path, **options)
    return path


def read(path: Path, **options: Any) -> np.ndarray:
    """Return a picture as `load_images` reads it, [h, w, c]."""
    return load_images(path, **options).test.values[0].numpy()


def set_sizes(sets: SignalSets) -> tuple[int, int, int]:
    """Return the numbers of signals to train on, to validate on and to test on."""
    return len(sets.train), len(sets.validation), len(sets.test)


def set_names(sets: SignalSets) -> list[str]:
    """Return the names of all signals, sorted."""
    return sorted([*sets.train.names, *sets.validation.names, *sets.test.names])


def tear(path: Path, share: float = 0.5) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def tone(seconds: float, rate: int, hertz: float = 440.0, loud: float = 0.5) -> np.ndarray:
    return (loud * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def sound(path: Path, samples: np.ndarray, rate: int = 16000, **options) -> Path:
    """Written by soundfile, or by PyAV where the ending is .m4a."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix != ".m4a":
        soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (extra media)")
        soundfile.write(path, samples, rate, **options)
        return path
    av = pytest.importorskip("av", reason="PyAV is not installed (extra media)")
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate)
        stream.layout = "mono"
        for start in range(0, len(samples), 1024):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 1024], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def video(path: Path, frames: np.ndarray, rate: int = 10, options: dict | None = None) -> Path:
    """uint8 [F, h, w, 3] as H.264 (lossless in color, nearly), or a GIF by its ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".gif":
        images = [Image.fromarray(frame) for frame in frames]
        images[0].save(path, save_all=True, append_images=images[1:], duration=1000 // rate, loop=0)
        return path
    av = pytest.importorskip("av", reason="PyAV is not installed (extra media)")
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt = frames.shape[2], frames.shape[1], "yuv420p"
        stream.bit_rate = 8_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def shades(count: int, size=(32, 24), step: int = 20) -> np.ndarray:
    """Frames of one gray each, k * step: uint8 [count, h, w, 3]."""
    return np.stack([np.full((size[1], size[0], 3), step * k, np.uint8) for k in range(count)])


def celeba(root: Path, counts=(6, 3, 2), ending: str = ".txt", flat: bool = True) -> Path:
    """`img_align_celeba/000001.jpg`, ... and the list of partitions."""
    images = root / ("img_align_celeba" if flat else "Img/img_align_celeba")
    lines, number = [], 0
    for partition, count in enumerate(counts):
        for _ in range(count):
            number += 1
            name = f"{number:06d}.jpg"
            picture(images / name, number, (18, 22))
            lines.append(f"{name},{partition}" if ending == ".csv" else f"{name} {partition}")
    if ending == ".csv":
        lines.insert(0, "image_id,partition")
    listed = root if flat else root / "Eval"
    listed.mkdir(exist_ok=True)
    (listed / f"list_eval_partition{ending}").write_text("\n".join(lines) + "\n")
    return root


def ffhq(root: Path, numbers=(0, 1, 2, 1000, 60000, 69999), inside: str = "") -> Path:
    for number in numbers:
        picture(root / inside / f"{number // 1000 * 1000:05d}" / f"{number:05d}.png", number, (32, 32))
    return root


def imagenette(root: Path) -> Path:
    for split, count in (("train", 3), ("val", 2)):
        for wnid in ("n01440764", "n03888257"):
            for k in range(count):
                picture(root / split / wnid / f"{wnid}_{k}.JPEG", k, (20, 16), format="JPEG")
    return root


def librispeech(root: Path, splits=("train-clean-100", "dev-clean", "test-clean"), seconds: float = 0.1) -> Path:
    speaker = 100
    for split in splits:
        for _ in range(2):
            speaker += 1
            for k in range(2):
                path = root / "LibriSpeech" / split / str(speaker) / "77" / f"{speaker}-77-{k:04d}.flac"
                sound(path, tone(seconds, 16000, 200 + speaker))
    return root


def voxceleb(root: Path, kind: str) -> Path:
    speaker = 0
    for split, people in (("dev", 3), ("test", 2)):
        for _ in range(people):
            speaker += 1
            for k in range(2):
                inner, ending = ("mp4", ".mp4") if kind == "video" else ("aac", ".m4a")
                path = root / split / inner / f"id{speaker:05d}" / "Ab-_0xYz" / f"{k + 1:05d}{ending}"
                if kind == "video":
                    video(path, shades(4))
                else:
                    sound(path, tone(0.2, 16000, 300 + speaker))
    return root
