"""How files of pictures are split: by seed, by folders, and by the public layouts' own lists."""

import media_trees as make
import numpy as np
import pytest
import torch
from PIL import Image

from mclnf_fast.data import load_images
from mclnf_fast.errors import InputError


def test_any_tree_is_split_by_seed(tmp_path):
    for k in range(20):
        make.picture(tmp_path / ("a" if k % 2 else "b/c") / f"{k:02d}.png", k)
    (tmp_path / "b" / "._00.png").write_bytes(b"what some systems leave behind")
    sets = load_images(tmp_path, size=8)
    assert make.set_sizes(sets) == (12, 3, 5)
    assert len(set(make.set_names(sets))) == 20
    assert "b/c/00.png" in make.set_names(sets)
    assert sets.test.names == tuple(sorted(sets.test.names))
    again = load_images(tmp_path, size=8)
    assert torch.equal(sets.test.values, again.test.values)
    assert sets.test.names == again.test.names
    assert load_images(tmp_path, size=8, seed=1).test.names != sets.test.names
    for k, name in enumerate(sets.test.names):
        np.testing.assert_array_equal(sets.test.values[k].numpy(), make.read(tmp_path / name, size=8))
    assert make.set_sizes(load_images(tmp_path, size=8, test=3, validation=0)) == (17, 0, 3)
    assert make.set_sizes(load_images(tmp_path, size=8, test=20)) == (0, 0, 20)
    assert make.set_sizes(load_images(tmp_path, size=8, limit=8)) == (5, 1, 2)
    assert make.set_sizes(load_images(tmp_path, size=8, limit=1)) == (0, 0, 1)
    for options, message in (
        ({"test": 0}, "test"), ({"test": 1.5}, "test"), ({"test": 21}, "test"), ({"test": True}, "test"),
        ({"validation": 15}, "validation"), ({"validation": -1}, "validation"), ({"limit": 0}, "limit"),
        ({"size": 0}, "size"), ({"size": (4, 4, 4)}, "size"), ({"channels": 2}, "channels"), ({"seed": -1}, "seed"),
    ):  # fmt: skip
        with pytest.raises(InputError, match=f"^{message}: must"):
            load_images(tmp_path, **{"size": 8, **options})


def test_a_link_back_is_followed_once(tmp_path):
    make.picture(tmp_path / "data" / "a" / "0.png")
    make.picture(tmp_path / "elsewhere" / "1.png")
    (tmp_path / "data" / "a" / "back").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "elsewhere")
    assert make.set_names(load_images(tmp_path / "data", size=8)) == ["a/0.png", "b/1.png"]


@pytest.mark.parametrize(("ending", "flat"), [(".txt", True), (".csv", True), (".txt", False)])
def test_celeba(tmp_path, ending, flat):
    make.celeba(tmp_path / "celeba", ending=ending, flat=flat)
    for root in (tmp_path / "celeba", tmp_path):  # and from one level above
        sets = load_images(root, size=16)
        assert sets.title.startswith("CelebA")
        assert sets.train.names == tuple(f"{k:06d}.jpg" for k in range(1, 7))
        assert len(sets.validation) == 1  # at most a quarter of what is to train
        assert set(sets.validation.names) < {"000007.jpg", "000008.jpg", "000009.jpg"}
        assert sets.test.names == ("000010.jpg", "000011.jpg")
    assert make.set_sizes(load_images(tmp_path, size=16, validation=3)) == (6, 3, 2)
    assert make.set_sizes(load_images(tmp_path, size=16, limit=4, test=1, validation=1)) == (2, 1, 1)
    for options in ({"test": 3}, {"test": 2, "limit": 1}):
        with pytest.raises(InputError, match="test: must be at most the"):
            load_images(tmp_path, size=16, **options)


def test_celebas_list_may_be_missing_damaged_or_short(tmp_path):
    root = make.celeba(tmp_path)
    path = root / "list_eval_partition.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[1:]))
    assert any("1 images are not in list_eval_partition.txt" in note for note in load_images(root, size=16).notes)
    path.write_text("\n".join([*lines[:3], "000004.jpg three"]))
    with pytest.raises(InputError, match="line 4 must be"):
        load_images(root, size=16)
    path.unlink()
    sets = load_images(root, size=16)
    assert make.set_sizes(sets) == (6, 2, 3)
    assert any("split by seed" in note for note in sets.notes)


@pytest.mark.parametrize("inside", ["", "images1024x1024", "thumbnails128x128"])
def test_ffhq_is_scaled_and_split_by_number(tmp_path, inside):
    make.ffhq(tmp_path, inside=inside)
    sets = load_images(tmp_path, size=16)
    assert sets.title.startswith("FFHQ")
    assert [name[-9:-4] for name in sets.test.names] == ["60000", "69999"]
    assert make.set_sizes(sets) == (3, 1, 2)
    whole = Image.fromarray(make.pixels(60000, (32, 32))).resize((16, 16), Image.Resampling.LANCZOS)
    np.testing.assert_array_equal(sets.test.values[0].numpy(), np.asarray(whole, np.float32) / np.float32(255))
    native = load_images(tmp_path, size=16, resize=False)
    np.testing.assert_array_equal(
        native.test.values[0].numpy(), make.pixels(60000, (32, 32))[8:24, 8:24] / np.float32(255)
    )


def test_a_part_of_ffhq_is_split_by_seed(tmp_path):
    make.ffhq(tmp_path, range(8))
    assert make.set_sizes(load_images(tmp_path, size=16)) == (5, 1, 2)


def test_imagenette_tests_on_its_validation_folder(tmp_path):
    make.imagenette(tmp_path)
    sets = load_images(tmp_path, size=16)
    assert sets.title.startswith(tmp_path.name)
    assert "ImageNette" in sets.title
    assert all(name.startswith("val/n") for name in sets.test.names)
    assert all(name.startswith("train/n") for name in (*sets.train.names, *sets.validation.names))
    assert make.set_sizes(sets) == (5, 1, 4)


def test_folders_named_after_the_sets_keep_them(tmp_path):
    for split, count in (("Train", 5), ("validation", 2), ("test", 3)):
        for k in range(count):
            make.picture(tmp_path / split / "deep" / f"{k}.png", k)
    make.picture(tmp_path / "stray.png")
    sets = load_images(tmp_path, size=8, validation=2)
    assert make.set_sizes(sets) == (5, 2, 3)
    assert any("1 images outside of the split folders" in note for note in sets.notes)
    for path in (tmp_path / "Train").rglob("*.png"):
        path.unlink()
    sets = load_images(tmp_path, size=8, validation=0)
    assert make.set_sizes(sets) == (2, 0, 3)
    assert any("validation set is trained on" in note for note in sets.notes)


def test_too_much_is_refused_with_a_remedy(tmp_path):
    for k in range(12):
        make.picture(tmp_path / f"{k}.png", k, (2, 2))
    with pytest.raises(InputError, match="limit"):
        load_images(tmp_path, size=8192)


def test_portraits_give_36_to_learn_from_and_12_to_test(shared_data):
    sets = load_images(shared_data("image/faces_congress"))
    assert make.set_sizes(sets) == (32, 4, 12)
    assert tuple(sets.test.values.shape) == (12, 178, 178, 3)
    assert 0.2 < float(sets.train.values.mean()) < 0.7
    source = np.asarray(Image.open(shared_data("image/faces_congress") / sets.test.names[0]).convert("RGB"))
    np.testing.assert_array_equal(sets.test.values[0].numpy(), source[48:226, 23:201] / np.float32(255))
    assert make.set_sizes(load_images(shared_data("image/kodak"))) == (6, 1, 3)
