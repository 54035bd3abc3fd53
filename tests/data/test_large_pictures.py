"""Pictures of many pixels take bounded memory, whatever they are reduced to, or are refused by their size."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image
from posed import DOORS, posed, through

from mclnf_fast.data import load_images, load_scene
from mclnf_fast.data.readers.decoding import pictures
from mclnf_fast.errors import InputError


def test_a_large_jpeg_is_decoded_at_a_fraction(tmp_path, monkeypatch):
    root = posed(tmp_path / "one", ending=".jpg")
    small = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    big = Image.fromarray(small).resize((1024, 768), Image.Resampling.NEAREST)
    for k in range(6):
        big.save(root / f"images/{k}.jpg", quality=95)
    whole = load_scene(root, holdout_every=0, max_side=8).blocks[0].train
    monkeypatch.setattr(pictures, "SCALED_PIXELS", 1000)
    monkeypatch.setattr(pictures, "MOST_PIXELS", 128 * 96)  # an eighth of each side is decoded
    scaled = load_scene(root, holdout_every=0, max_side=8).blocks[0].train
    assert int((whole.images.int() - scaled.images.int()).abs().max()) <= 4
    assert scaled.cameras.fx.tolist() == whole.cameras.fx.tolist()
    monkeypatch.setattr(pictures, "SCALED_PIXELS", 1 << 40)
    with pytest.raises(InputError, match=r"0\.jpg: must have at most 12288 pixels, has 1024x768"):
        load_scene(root, holdout_every=0, max_side=8)


@pytest.mark.parametrize("door", DOORS)
def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path, monkeypatch, door):
    posed(tmp_path / "one")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 16 * 12 - 1)
    with pytest.raises(InputError, match=r"images/\d\.png: must have at most 191 pixels, has 16x12"):
        through(door, tmp_path)


def test_too_many_pixels_of_plain_pictures(tmp_path, monkeypatch):
    Image.new("RGB", (16, 12)).save(tmp_path / "a.png")
    monkeypatch.setattr(pictures, "MOST_PIXELS", 16 * 12 - 1)
    with pytest.raises(InputError, match=r"a\.png: must have at most 191 pixels, has 16x12"):
        load_images(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".jpg", ".png"])
def test_the_memory_of_several_large_pictures(tmp_path, ending):
    side, peaks = 9000, []
    for count in (1, 4):
        root = posed(tmp_path / str(count), count=count, ending=".png")
        Image.new("RGB", (side, side), (9, 99, 199)).save(root / f"big{ending}")
        content = json.loads((root / "transforms.json").read_text())
        for frame in content["frames"]:
            frame["file_path"] = f"big{ending}"
        (root / "transforms.json").write_text(json.dumps(content))
        code = (
            "import resource, sys\nfrom mclnf_fast.data import load_scene\n"
            f"views = load_scene({str(root)!r}, holdout_every=0, max_side=160).blocks[0].train\n"
            "assert views.images[0, 80, 80].tolist()[2] > 190\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10)\n"
        )
        done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        peaks.append(int(done.stdout))
    # Three more of them, held at once, would be 695 MB more.
    assert peaks[1] - peaks[0] < side * side * 3 / 2**20, peaks
