"""Films of frames: what a reader gets back, their size, and that the package for one of them may be missing."""

import importlib

import numpy as np
import pytest
from PIL import Image

from mclnf_fast.report.page import film


def moving(count: int = 6, size: tuple[int, int] = (41, 30)) -> list[Image.Image]:
    """A dark bar that goes from left to right, on white."""
    frames = []
    for k in range(count):
        pixels = np.full((size[1], size[0], 3), 255, np.uint8)
        pixels[:, 4 * k : 4 * k + 8] = (10, 60, 160)
        frames.append(Image.fromarray(pixels))
    return frames


def test_a_gif_holds_its_frames_and_turns_for_ever(tmp_path):
    frames = moving()
    with Image.open(film.write_gif(frames, tmp_path / "a.gif", 100)) as gif:
        assert (gif.n_frames, gif.size) == (6, (41, 30))
        assert gif.info["loop"] == 0
        for k, frame in enumerate(frames):
            gif.seek(k)
            assert gif.info["duration"] == 100
            away = np.abs(np.asarray(gif.convert("RGB"), np.int16) - np.asarray(frame, np.int16))
            assert away.max() <= 8


def test_a_gif_is_made_small_by_fewer_colors(tmp_path, monkeypatch):
    noise = np.random.default_rng(0)
    frames = [Image.fromarray(noise.integers(0, 256, (40, 40, 3), np.uint8)) for _ in range(4)]
    large = film.write_gif(frames, tmp_path / "a.gif", 100).stat().st_size
    monkeypatch.setattr(film, "MOST_BYTES", large - 1)
    assert film.write_gif(frames, tmp_path / "b.gif", 100).stat().st_size < large
    monkeypatch.setattr(film, "MOST_BYTES", 1)  # never: it ends with the fewest
    with Image.open(film.write_gif(frames, tmp_path / "c.gif", 100)) as gif:
        assert len(gif.convert("RGB").getcolors(1 << 16)) <= film.FEWEST_COLORS


def test_an_mp4_holds_the_turn_twice(tmp_path):
    av = pytest.importorskip("av", reason="the extra 'media' is not installed")
    frames = moving()
    with av.open(str(film.write_mp4(frames, tmp_path / "a.mp4", 100))) as found:
        read = [frame.to_ndarray(format="rgb24") for frame in found.decode(video=0)]
        assert float(found.streams.video[0].average_rate) == 10
    assert len(read) == 12
    assert read[0].shape == (30, 40, 3)
    for k in (0, 5, 6, 11):
        true = np.asarray(frames[k % 6], np.int16)[:, :40]
        assert np.abs(read[k].astype(np.int16) - true).mean() < 12


def test_without_the_package_there_is_no_mp4(tmp_path, monkeypatch):
    real = importlib.import_module

    def missing(name: str, *rest):
        if name == "av":
            raise ModuleNotFoundError("no", name="av")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert film.write_mp4(moving(), tmp_path / "a.mp4", 100) is None
    assert not (tmp_path / "a.mp4").exists()
