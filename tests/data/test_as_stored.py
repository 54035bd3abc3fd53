"""Sound, video and pictures come out as they are stored: loudness, lengths, the shape of pixels, more than 8 bits."""

import struct
from fractions import Fraction
from pathlib import Path

import media_trees as make
import numpy as np
import pytest
from PIL import Image

from mclnf_fast.cli import main
from mclnf_fast.data import load_audio, load_images, load_videos
from mclnf_fast.data.readers.decoding import clips
from mclnf_fast.data.readers.decoding.sound import resample
from mclnf_fast.errors import InputError

av = pytest.importorskip("av", reason="av is not installed (extra media)")
soundfile = pytest.importorskip("soundfile", reason="soundfile is not installed (extra media)")

WAVE = make.tone(1.0, 16000, 220)


def heard(path: Path, seconds: float = 1.0) -> np.ndarray:
    return load_audio(path, seconds=seconds).test.values[0, :, 0].double().numpy() * 2 - 1


def riff(path: Path, data: bytes, whole: int, sound: int, behind: bytes = b"") -> Path:
    """A wav file whose header says `whole` of its length and `sound` of its sound's."""
    coding = struct.pack("<HHIIHH", 1, 1, 16000, 32000, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + coding + b"data" + struct.pack("<I", sound) + data + behind
    path.write_bytes(b"RIFF" + struct.pack("<I", whole) + body)
    return path


@pytest.mark.parametrize(
    ("whole", "sound"),
    [
        (0x7FFFF024, 0x7FFFF000),
        (0xFFFFFFFF, 0xFFFFFFFF),
        (0, 0),
        (0xFFFFFFFF, 0),
        (0x7FFFFFFF, 0x7FFFFFFF - 36),
        (0x80000000, 0x7FFFFFDC),
    ],
)
def test_a_wav_from_a_pipe_is_read_to_its_end(tmp_path, whole, sound):
    data = (WAVE * 32767).round().astype("<i2").tobytes()
    np.testing.assert_allclose(heard(riff(tmp_path / "a.wav", data, whole, sound)), WAVE, atol=1e-3)


def test_a_wav_that_is_cut_off_is_refused_still(tmp_path):
    data = (WAVE * 32767).round().astype("<i2").tobytes()
    for whole, sound in ((36 + len(data), len(data)), (0x7FF00024, 0x7FF00000), (0xFFF00024, 0xFFF00000)):
        with pytest.raises(InputError, match=r"a\.wav: must be whole"):
            heard(riff(tmp_path / "a.wav", data[: len(data) // 2], whole, sound))
    with pytest.raises(InputError, match=r"a\.wav: must hold sound"):
        heard(riff(tmp_path / "a.wav", b"", 36, 0, b"LIST" + struct.pack("<I", 0)))


def test_a_flac_from_a_pipe_is_read_to_its_end(tmp_path):
    path = make.sound(tmp_path / "a.flac", WAVE)
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number of samples, 36 bits of the first block
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_allclose(heard(path), WAVE, atol=1e-4)


@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_the_loudness_of_an_m4a_does_not_depend_on_its_channels(tmp_path, layout):
    count = {"mono": 1, "stereo": 2, "5.1": 6}[layout]
    path = tmp_path / "a.m4a"
    with av.open(str(path), "w") as file:
        stream = file.add_stream("aac", rate=48000, layout=layout)
        stream.bit_rate = 64000 * count
        wave = np.tile(make.tone(1.0, 48000, 220)[None], (count, 1))
        wave[3:4] = 0  # of 5.1 this is the channel of low tones, which the coder cuts
        for k in range(0, wave.shape[1], 1024):
            piece = np.ascontiguousarray(wave[:, k : k + 1024])
            frame = av.AudioFrame.from_ndarray(piece, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = 48000, k
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    loud = np.sqrt(np.mean(heard(path, 0.5)[2000:] ** 2))
    assert loud == pytest.approx(0.5 / np.sqrt(2) * (5 / 6 if count == 6 else 1), rel=0.03)


@pytest.mark.parametrize(
    ("rate", "new"), [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 44100), (16001, 16000)]
)
def test_resampling_is_exact_below_and_silent_above(rate, new):
    times, at = np.arange(4 * rate) / rate, np.arange(4 * new) / new
    low = 0.35 * min(rate, new)
    got = resample(np.sin(2 * np.pi * low * times).astype(np.float32), rate, new)
    assert len(got) == 4 * new
    assert np.abs(got - np.sin(2 * np.pi * low * at))[2000:-2000].max() < 1e-3
    if rate > 1.2 * new:
        alias = resample(np.sin(2 * np.pi * 0.55 * new * times).astype(np.float32), rate, new)
        assert np.abs(alias[2000:-2000]).max() < 1e-4


def clip(path: Path, frames=None, planes=None, codec="libx264", kind="yuv420p", **tags) -> Path:
    """Three frames of 64 x 64: a picture, or one value per plane; `tags` go to the coder."""
    with av.open(str(path), "w") as file:
        stream = file.add_stream(
            codec, rate=10, options={"crf": "0", "preset": "ultrafast"} if frames is not None else {}
        )
        stream.width, stream.height, stream.pix_fmt = 64, 64, kind
        for key, value in tags.items():
            setattr(stream.codec_context, key, value)
        for k in range(3):
            if planes is None:
                frame = av.VideoFrame.from_ndarray(frames, format="rgb24")
            else:
                frame = av.VideoFrame(64, 64, kind)
                for plane, value in zip(frame.planes, planes):
                    plane.update(np.full(plane.buffer_size // value.itemsize, value).tobytes())
            frame.pts = k
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("aspect", [Fraction(2), Fraction(1, 2), Fraction(4, 3)])
def test_a_disc_stays_as_wide_as_its_pixels_make_it(tmp_path, aspect):
    y, x = np.indices((64, 64))
    disc = np.repeat((((x - 31.5) ** 2 + (y - 31.5) ** 2 < 400) * 255).astype(np.uint8)[..., None], 3, -1)
    path = clip(tmp_path / "a.mp4", disc, sample_aspect_ratio=aspect)
    size = (64, round(64 * aspect)) if aspect > 1 else (round(64 / aspect), 64)
    sets = load_videos(path, frames=1, size=size)
    seen = sets.test.values[0, 0, ..., 0].numpy() > 0.5
    assert int(seen.any(0).sum()) / int(seen.any(1).sum()) == pytest.approx(float(aspect), rel=0.05)
    assert any(f"pixels of aspect {aspect} were made square" in note for note in sets.notes)


def test_absurd_pixels_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "MOST_ASPECT", 2)
    path = clip(tmp_path / "a.mp4", np.zeros((64, 64, 3), np.uint8), sample_aspect_ratio=Fraction(3))
    with pytest.raises(InputError, match=r"a\.mp4: pixels must have an aspect"):
        load_videos(path, frames=1)


def test_stretched_pixels_count_as_what_they_become(tmp_path, monkeypatch):
    monkeypatch.setattr(clips, "MOST_PIXELS", 64 * 64 * 2)
    for aspect in (Fraction(2), Fraction(1, 2)):
        load_videos(clip(tmp_path / "a.mp4", np.zeros((64, 64, 3), np.uint8), sample_aspect_ratio=aspect), frames=1)
    for aspect in (Fraction(3), Fraction(1, 3)):
        path = clip(tmp_path / "b.mp4", np.zeros((64, 64, 3), np.uint8), sample_aspect_ratio=aspect)
        with pytest.raises(InputError, match=r"b\.mp4: must have at most 8192 pixels per frame, has 64x64"):
            load_videos(path, frames=1)


@pytest.mark.parametrize(
    ("kind", "bits"),
    [("yuv420p", 8), ("yuv420p10le", 10), ("yuv422p10le", 10), ("yuv444p10le", 10), ("yuv420p12le", 12)],
)
def test_grays_of_videos_of_more_bits(tmp_path, kind, bits):
    number = np.uint8 if bits == 8 else np.uint16
    for level in (16, 50, 93, 125, 175, 225, 235):
        planes = [number(level << (bits - 8)), number(128 << (bits - 8)), number(128 << (bits - 8))]
        path = clip(tmp_path / f"{level}.mkv", planes=planes, codec="ffv1", kind=kind)
        got = float(load_videos(path, frames=1, size=32).test.values[0, 0, 16, 16, 0]) * 255
        assert got == pytest.approx((level - 16) * 255 / 219, abs=1.01)


@pytest.mark.parametrize("size", [(1, 60000), (60000, 1), (2, 40000)])
@pytest.mark.parametrize("resize", [True, False])
def test_very_thin_pictures(tmp_path, size, resize):
    Image.new("RGB", size, (200, 100, 50)).save(tmp_path / "a.png")
    got = load_images(tmp_path / "a.png", size=178, resize=resize).test.values[0].numpy()
    assert np.abs(got - np.array([200, 100, 50]) / 255).max() < 0.01


def test_pictures_whose_pixels_are_not_square_are_noted(tmp_path):
    for name, dpi in (("a.png", (100, 200)), ("b.jpg", (100, 50)), ("c.png", (72, 72)), ("d.jpg", (300, 300))):
        Image.new("RGB", (20, 20)).save(tmp_path / name, dpi=dpi)
    (note,) = [note for note in load_images(tmp_path, size=16).notes if "not square" in note]
    assert all((name in note) == (name in ("a.png", "b.jpg")) for name in ("a.png", "b.jpg", "c.png", "d.jpg"))


def test_the_command_line_reads_them_too(tmp_path, capsys):
    data = (WAVE * 32767).round().astype("<i2").tobytes()
    (tmp_path / "in").mkdir()
    for k in range(2):
        riff(tmp_path / f"in/{k}.wav", data[: len(data) // 2], 36 + len(data), len(data))
    assert main(["run", "audio", "--data", str(tmp_path / "in"), "--out", str(tmp_path / "out")]) == 2
    assert "must be whole" in capsys.readouterr().err
