"""`load_images`: what a picture of each kind becomes, crops, and files that are corrupt or lie."""

import os
import struct
import warnings
import zlib

import media_trees as make
import numpy as np
import pytest
from PIL import Image

from mclnf_fast.data import load_images
from mclnf_fast.errors import InputError


def test_a_crop_is_the_middle_at_the_pictures_own_scale(tmp_path):
    path = make.picture(tmp_path / "a.png", 1, (13, 10))
    np.testing.assert_array_equal(make.read(path, size=4), make.pixels(1, (13, 10))[3:7, 4:8] / np.float32(255))
    np.testing.assert_array_equal(make.read(path, size=(10, 3)), make.pixels(1, (13, 10))[:, 5:8] / np.float32(255))
    assert any("was cut out: a.png" in note for note in load_images(path, size=4).notes)
    assert not load_images(path, size=(10, 13)).notes


def test_resize_scales_the_shorter_side_to_the_crop(tmp_path):
    ramp = np.tile(np.arange(0, 240, 2, dtype=np.uint8)[None, :, None], (60, 1, 3))  # 120 wide
    Image.fromarray(ramp).save(tmp_path / "a.png")
    got = make.read(tmp_path / "a.png", size=30, resize=True)
    # Half the size: the middle 30 of 60 columns, whose values are the mean of two neighbors'.
    expected = (np.arange(0, 240, 4)[15:45] + 1) / 255
    assert np.abs(got[:, :, 0] - expected).max() < 1.5 / 255
    assert got.shape == (30, 30, 3)


def test_a_smaller_picture_is_scaled_up_and_noted(tmp_path):
    for k, size in enumerate(((5, 4), (1, 1), (20, 4), (9, 9))):
        make.picture(tmp_path / f"{k}.png", k, size)
    sets = load_images(tmp_path, size=8, test=1)
    assert make.set_sizes(sets) == (3, 0, 1)
    (note,) = [note for note in sets.notes if "scaled up" in note]
    assert [f"{k}.png" in note for k in range(4)] == [True, True, True, False]
    flat = make.read(tmp_path / "1.png", size=8)
    assert np.ptp(flat, axis=(0, 1)).max() == 0  # one pixel everywhere
    np.testing.assert_allclose(flat[0, 0], make.pixels(1, (1, 1))[0, 0] / 255, atol=1e-6)


def test_every_mode_becomes_the_picture_that_it_shows(tmp_path):
    rgb = make.pixels(3, (6, 5))
    gray = rgb[..., 0]
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(
        make.read(tmp_path / "gray.png", size=(5, 6)), np.repeat(gray[..., None] / np.float32(255), 3, -1)
    )
    np.testing.assert_array_equal(
        make.read(tmp_path / "gray.png", size=(5, 6), channels=1)[..., 0], gray / np.float32(255)
    )
    deep = (np.arange(30, dtype=np.uint16) * 2184 + 7).reshape(5, 6)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(make.read(tmp_path / "deep.png", size=(5, 6))[..., 1], deep / 65535, atol=1e-7)
    Image.fromarray(deep).save(tmp_path / "deep.tif")
    np.testing.assert_allclose(make.read(tmp_path / "deep.tif", size=(5, 6))[..., 1], deep / 65535, atol=1e-7)
    Image.fromarray(deep.astype(np.float32) / 65535).save(tmp_path / "float.tif")
    np.testing.assert_allclose(make.read(tmp_path / "float.tif", size=(5, 6))[..., 1], deep / 65535, atol=1e-7)
    Image.new("CMYK", (6, 5), (0, 255, 255, 0)).save(tmp_path / "cmyk.jpg", quality=95)  # red
    np.testing.assert_allclose(make.read(tmp_path / "cmyk.jpg", size=5)[2, 2], [1, 0, 0], atol=0.03)
    Image.fromarray(rgb).quantize(256).save(tmp_path / "palette.png")
    np.testing.assert_allclose(make.read(tmp_path / "palette.png", size=(5, 6)), rgb / 255, atol=0.02)
    Image.fromarray(gray > 127).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(
        make.read(tmp_path / "bits.png", size=(5, 6))[..., 2], (gray > 127).astype(np.float32)
    )
    luma = make.read(make.picture(tmp_path / "luma.png", 3, (6, 5)), size=(5, 6), channels=1)
    np.testing.assert_allclose(luma[..., 0], rgb @ np.array([0.299, 0.587, 0.114]) / 255, atol=1e-6)


def test_transparency_lies_on_white(tmp_path):
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[..., 0], rgba[..., 3] = 255, 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    np.testing.assert_allclose(make.read(tmp_path / "a.png", size=4)[0, 0], [1, 0.498, 0.498], atol=0.003)
    keyed = Image.fromarray(np.zeros((4, 4), np.uint8))
    keyed.save(tmp_path / "k.png", transparency=0)
    np.testing.assert_array_equal(make.read(tmp_path / "k.png", size=4), np.ones((4, 4, 3), np.float32))


def test_a_phones_picture_stands_upright(tmp_path):
    shown = np.zeros((8, 4, 3), np.uint8)
    shown[:4] = 250  # the upper half is bright
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its left side
    Image.fromarray(np.rot90(shown).copy()).save(tmp_path / "a.png", exif=exif)
    got = make.read(tmp_path / "a.png", size=(8, 4))
    assert got[:4].min() > 0.9
    assert got[4:].max() < 0.1


def test_the_first_of_several_frames_is_taken(tmp_path):
    frames = [Image.fromarray(frame) for frame in make.shades(3, (8, 8), 100)]
    frames[1].save(tmp_path / "a.gif", save_all=True, append_images=[frames[2], frames[0]])
    sets = load_images(tmp_path / "a.gif", size=8)
    np.testing.assert_allclose(sets.test.values.numpy(), 100 / 255, atol=0.01)
    assert any("first of several frames" in note for note in sets.notes)


def test_the_content_of_a_file_decides_its_kind(tmp_path):
    path = make.picture(tmp_path / "a.png", 4)
    path.rename(tmp_path / "a.jpg")
    np.testing.assert_array_equal(make.read(tmp_path / "a.jpg", size=(10, 12)), make.pixels(4) / np.float32(255))


def test_a_corrupt_file_is_skipped_with_its_name_or_refused(tmp_path, caplog):
    for k in range(6):
        make.picture(tmp_path / f"{k}.{'jpg' if k % 2 else 'png'}", k, (40, 40))
    good = load_images(tmp_path, size=32)
    make.tear(tmp_path / "3.jpg")
    make.tear(tmp_path / "4.png", 0.9)
    (tmp_path / "5.jpg").write_bytes(b"")
    turned = bytearray((tmp_path / "0.png").read_bytes())
    turned[-14] ^= 1  # the checksum of what the picture holds
    (tmp_path / "6.png").write_bytes(turned)
    sets = load_images(tmp_path, size=32)
    assert make.set_names(sets) == ["0.png", "1.jpg", "2.png"]
    # Each of the others stays in the set that it was in.
    assert set(sets.test.names) <= set(good.test.names)
    (note,) = [note for note in sets.notes if "skipped" in note]
    for name in ("3.jpg", "4.png", "5.jpg", "6.png"):
        assert name in note
        assert sum(str(tmp_path / name) in record.getMessage() for record in caplog.records) == 1
    assert all("\n" not in record.getMessage() for record in caplog.records)
    with pytest.raises(InputError, match=r"(3.jpg|4.png|5.jpg|6.png): must be a whole readable image"):
        load_images(tmp_path, size=32, strict=True)
    with pytest.raises(InputError, match=r"4.png: must be a whole readable image"):
        load_images(tmp_path / "4.png", size=32)


def bomb(path, side: int) -> None:
    """A PNG that says it is side x side and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("side", [13000, 60000])
def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    bomb(tmp_path / "a.png", side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of the smaller one
        with pytest.raises(InputError, match=r"a.png: must have at most 150000000 pixels"):
            load_images(tmp_path, size=8)


def test_folders_without_pictures_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"must hold images .* has none"):
        load_images(tmp_path)
    (tmp_path / "readme.txt").write_text("no picture")
    (tmp_path / "empty" / "deep").mkdir(parents=True)
    with pytest.raises(InputError, match="must hold images"):
        load_images(tmp_path)
    with pytest.raises(InputError, match="was not there"):
        load_images(tmp_path / "nowhere")
    with pytest.raises(InputError, match="must be a folder or one of"):
        load_images(tmp_path / "readme.txt")
    make.tear(make.picture(tmp_path / "a.png"))
    with pytest.raises(InputError, match=r"^\S*a.png: must be a whole readable image"):
        load_images(tmp_path)
    make.tear(make.picture(tmp_path / "b.png"))
    with pytest.raises(InputError, match=r"none of the 1 images to train is usable; .*(a|b).png"):
        load_images(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="everything is readable to root")
def test_unreadable_files_are_named(tmp_path):
    path = make.picture(tmp_path / "a" / "x.png")
    path.chmod(0)
    with pytest.raises(InputError, match=r"x.png"):
        load_images(tmp_path)
    path.parent.chmod(0)
    try:
        with pytest.raises(InputError, match="cannot be listed"):
            load_images(tmp_path)
    finally:
        path.parent.chmod(0o700)
