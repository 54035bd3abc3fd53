"""`load_videos`: frames in their order, cuts, short and one-frame and corrupt videos, and VoxCeleb2's folders."""

import gc
import os
import signal
import struct
import time
from fractions import Fraction

import media_trees as make
import numpy as np
import pytest
from PIL import Image

from mclnf_fast.data import load_videos
from mclnf_fast.data.readers.decoding import clips
from mclnf_fast.errors import InputError

av = pytest.importorskip("av", reason="PyAV is not installed (extra media)")
CLOSE = 0.03  # what color conversion and coding cost a flat gray


def levels(values) -> np.ndarray:
    """Mean of each frame, on the scale of `shades`' steps of 20."""
    return values.mean((-3, -2, -1)).numpy() * 255 / 20


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "avi", "gif"])
def test_frames_in_their_order(tmp_path, ending):
    path = make.video(tmp_path / f"a.{ending}", make.shades(10))
    sets = load_videos(path, frames=6, size=16)
    assert tuple(sets.test.values.shape) == (1, 6, 16, 16, 3)
    np.testing.assert_allclose(levels(sets.test.values[0]), range(6), atol=0.3)
    assert sets.test.rate == pytest.approx(10.0, rel=0.01)
    assert any("longer than 6 frames, cut" in note for note in sets.notes)
    skipping = load_videos(path, frames=3, stride=4, size=16, channels=1)
    np.testing.assert_allclose(levels(skipping.test.values[0]), (0, 4, 8), atol=0.3)
    assert tuple(skipping.test.values.shape) == (1, 3, 16, 16, 1)
    assert skipping.test.rate == pytest.approx(2.5, rel=0.01)


def test_a_frame_is_scaled_to_cover_the_crop_or_cut(tmp_path):
    wide = np.zeros((2, 32, 64, 3), np.uint8)
    wide[:, :, 16:48] = 200  # the middle half is bright
    wide[1, 0, 0] = 90  # two equal frames would be stored as one
    path = make.video(tmp_path / "a.gif", wide)
    np.testing.assert_allclose(load_videos(path, frames=2, size=16).test.values.numpy(), 200 / 255, atol=0.06)
    both = load_videos(path, frames=2, size=(16, 32)).test.values[0, 0]
    assert float(both[:, :7].max()) < 0.1
    assert float(both[:, 9:23].min()) > 0.7
    cut = load_videos(path, frames=2, size=(8, 40), resize=False).test.values[0, 0]
    np.testing.assert_allclose(cut[:, 4:36].numpy(), 200 / 255, atol=CLOSE)
    assert float(cut[:, :4].max()) < 0.05
    assert any("scaled up" in note for note in load_videos(path, frames=2, size=48).notes)


def test_a_shorter_video_is_padded_with_its_last_frame(tmp_path):
    sets = load_videos(make.video(tmp_path / "a.mp4", make.shades(4)), frames=6, size=16)
    np.testing.assert_allclose(levels(sets.test.values[0]), (0, 1, 2, 3, 3, 3), atol=0.3)
    assert any("shorter than 6 frames, padded with its last frame: a.mp4" in note for note in sets.notes)


def test_a_video_of_one_frame_is_named(tmp_path, caplog):
    for k in range(3):
        make.video(tmp_path / f"{k}.mp4", make.shades(4))
    make.video(tmp_path / "still.mp4", make.shades(1))
    Image.fromarray(make.shades(1)[0]).save(tmp_path / "still.gif")
    sets = load_videos(tmp_path, frames=4, size=16, validation=0, test=2)
    assert {*sets.train.names, *sets.test.names} == {"0.mp4", "1.mp4", "2.mp4"}
    assert "still.mp4: must have at least 2 frames, has 1" in caplog.text
    assert "still.gif: must have at least 2 frames, has 1" in caplog.text
    with pytest.raises(InputError, match=r"still.* must have at least 2 frames, has 1"):
        load_videos(tmp_path, frames=4, size=16, strict=True)
    with pytest.raises(InputError, match=r"0.mp4: must have at least 2 frames at stride 9, has 1"):
        load_videos(tmp_path / "0.mp4", frames=2, stride=9, size=16)
    one = load_videos(tmp_path, frames=1, size=16, strict=True)
    assert len(one.train) + len(one.validation) + len(one.test) == 5


def test_several_clips_of_a_file(tmp_path):
    path = make.video(tmp_path / "a.mp4", make.shades(11))
    sets = load_videos(path, frames=3, stride=1, clips_per_file=9, size=16)
    assert sets.test.names == ("a.mp4@0", "a.mp4@3", "a.mp4@6")
    np.testing.assert_allclose(levels(sets.test.values).flatten(), range(9), atol=0.3)


@pytest.mark.parametrize(
    ("ending", "options"),
    [("mp4", {}), ("mp4", {"movflags": "faststart"}), ("mkv", {}), ("gif", {})],
)
def test_corrupt_videos_are_skipped_with_their_names(tmp_path, caplog, ending, options):
    noise = np.random.default_rng(0).integers(0, 256, (20, 24, 32, 3), dtype=np.uint8)
    for k in range(3):
        make.video(tmp_path / f"{k}.{ending}", noise, options=options)
    corrupt = make.tear(make.video(tmp_path / f"corrupt.{ending}", noise, options=options), 0.4)
    (tmp_path / f"empty.{ending}").write_bytes(b"")
    sets = load_videos(tmp_path, frames=20, size=16, test=2, validation=0)
    assert {*sets.train.names, *sets.test.names} == {f"{k}.{ending}" for k in range(3)}
    assert sum(f"skipped {corrupt}: must" in record.getMessage() for record in caplog.records) == 1
    assert all("\n" not in record.getMessage() for record in caplog.records)
    with pytest.raises(InputError, match=r"(corrupt|empty)\."):
        load_videos(tmp_path, frames=20, size=16, strict=True)


def test_files_that_are_no_video_are_refused(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(InputError, match=r"a.mp4: must be a whole readable video"):
        load_videos(tmp_path / "a.mp4")
    make.sound(tmp_path / "b.m4a", make.tone(0.2, 16000)).rename(tmp_path / "b.mp4")
    with pytest.raises(InputError, match=r"b.mp4: must hold video, has no such stream"):
        load_videos(tmp_path / "b.mp4")
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="must hold videos"):
        load_videos(tmp_path / "none")
    for options, message in (
        ({"frames": 0}, "frames"), ({"stride": 0}, "stride"), ({"clips_per_file": 0}, "clips_per_file"),
        ({"size": -1}, "size"), ({"channels": 4}, "channels"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^{message}: must"):
            load_videos(tmp_path, **options)


def test_a_gifs_transparency_lies_on_white(tmp_path):
    frames = [Image.fromarray(np.full((16, 16), 1, np.uint8), "P") for _ in range(2)]
    for k, frame in enumerate(frames):
        frame.putpalette([255, 0, 0, 0, 0, 255])
        frame.putpixel((0, 0), 0)
        frame.putpixel((1, k), 0)
    frames[0].save(
        tmp_path / "a.gif", save_all=True, append_images=frames[1:], transparency=1, disposal=2, duration=100
    )
    got = load_videos(tmp_path / "a.gif", frames=2, size=16).test.values[0, 0].numpy()
    np.testing.assert_allclose(got[8:, 8:], 1.0, atol=0.01)
    np.testing.assert_allclose(got[0, 0], [1, 0, 0], atol=0.01)


def test_a_phones_video_stands_upright(tmp_path):
    lying = np.zeros((4, 16, 32, 3), np.uint8)
    lying[:, :, :16] = 200  # shown turned a quarter clockwise, as the header says: the left half comes up
    path = make.video(tmp_path / "a.mp4", lying)
    straight = struct.pack(">9i", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)
    turned = struct.pack(">9i", 0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000)
    data = path.read_bytes()
    at = data.index(straight, data.index(b"tkhd"))
    path.write_bytes(data[:at] + turned + data[at + len(turned) :])
    got = load_videos(path, frames=2, size=(32, 16)).test.values[0, 0]
    assert float(got[:14].min()) > 0.7
    assert float(got[18:].max()) < 0.1


def test_voxceleb(tmp_path):
    make.voxceleb(tmp_path, "video")
    sets = load_videos(tmp_path, frames=4, size=16)
    assert sets.title.startswith("VoxCeleb2")
    assert {name.split("/")[2] for name in sets.test.names} == {"id00004", "id00005"}
    assert len(sets.train) + len(sets.validation) == 6
    part = load_videos(tmp_path / "dev" / "mp4", frames=4, size=16)
    assert len({name.split("/")[0] for name in part.test.names}) == 1
    assert not {name.split("/")[0] for name in part.test.names} & {name.split("/")[0] for name in part.train.names}


def test_real_videos(shared_data):
    sets = load_videos(shared_data("video"), frames=8, stride=2)
    assert (len(sets.train) + len(sets.validation), len(sets.test)) == (4, 1)
    assert sets.test.rate is None
    assert any("several frame rates" in note for note in sets.notes)
    signs = load_videos(shared_data("video/asl_gestures"), frames=16, stride=3, test=1)
    assert signs.test.rate == 10.0
    assert tuple(signs.test.values.shape) == (1, 16, 64, 64, 3)
    moved = (signs.test.values[0, 1:] - signs.test.values[0, :-1]).abs().mean((1, 2, 3))
    assert float(moved.max()) > 0.005


@pytest.mark.skipif(not hasattr(os, "fork"), reason="os.fork is not there")
def test_frames_do_not_stop_a_forked_process() -> None:
    """A frame that was left over and is collected in a forked process, such as a data loader's worker: with a scaler of
    its own it would wait for that one's threads, which are not there."""
    frame = av.VideoFrame.from_ndarray(np.zeros((720, 640), dtype=np.uint8), format="yuv420p")
    clips._upright(frame, Fraction(1))
    left_over: list[object] = [frame]
    left_over.append(left_over)  # what the collector alone frees
    del frame, left_over
    child = os.fork()
    if child == 0:
        gc.collect()
        os._exit(0)
    for _ in range(200):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    assert ended
    assert status == 0
