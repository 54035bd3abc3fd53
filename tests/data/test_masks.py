"""Masks of posed pictures (`mask_path`): masked pixels carry no loss and are not scored, or the data are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from posed import posed, through

from mclnf_fast.data import load_scene
from mclnf_fast.data.scene import ImageSet
from mclnf_fast.errors import InputError

LEFT = np.zeros((12, 16), np.uint8)
LEFT[:, :8] = 255


def masked(root, *, mask=LEFT, frames=range(6), **options):
    """Pictures of 16 x 12, of which some frames have a mask."""
    posed(root, frame=lambda k: {"mask_path": f"masks/{k}.png"} if k in frames else {}, **options)
    (root / "masks").mkdir()
    for k in frames:
        Image.fromarray(mask).save(root / f"masks/{k}.png")
    return root


def test_masks_are_read_with_their_pictures(tmp_path):
    views = load_scene(masked(tmp_path / "one", frames=(1, 3)), holdout_every=0).blocks[0].train
    assert views.unmasked is not None
    assert views.unmasked.shape == (6, 12, 16)
    for k in range(6):
        assert torch.equal(views.unmasked[k], torch.from_numpy(LEFT > 0) | (k not in (1, 3)))
    assert torch.equal(views.pick(torch.tensor([3])).unmasked, views.unmasked[3:4])
    assert load_scene(posed(tmp_path / "two"), holdout_every=0).blocks[0].train.unmasked is None


def test_a_pixel_of_which_a_part_is_masked_is_masked(tmp_path):
    mask = np.full((12, 16), 7, np.uint8)  # all but 0 is seen
    mask[5, 6] = 0
    views = load_scene(masked(tmp_path / "one", mask=mask), holdout_every=0, max_side=8).blocks[0].train
    expected = torch.ones(6, 8, dtype=torch.bool)
    expected[2, 3] = False
    assert all(torch.equal(view, expected) for view in views.unmasked)


@pytest.mark.parametrize("blocks", [None, (2, 1)])
def test_test_views_and_grids_keep_their_masks(tmp_path, blocks):
    scene = load_scene(masked(tmp_path / "one"), holdout_every=3, blocks=blocks)
    for block in scene.blocks:
        for views in (block.train, block.test):
            assert views.unmasked.shape[0] == len(views)
            assert all(torch.equal(view, torch.from_numpy(LEFT > 0)) for view in views.unmasked)


def test_a_city_reads_masks_too(tmp_path):
    root = masked(tmp_path / "one")
    content = json.loads((root / "transforms.json").read_text())
    for frame in content["frames"]:
        for key in ("file_path", "mask_path"):
            frame[key] = "../../" + frame[key]
    (root / "pose/block_1").mkdir(parents=True)
    (root / "transforms.json").unlink()
    (root / "pose/block_1/transforms_train.json").write_text(json.dumps(content))
    assert int((~load_scene(root, holdout_every=0).blocks[0].train.unmasked).sum()) == 6 * 12 * 8


@pytest.mark.parametrize(
    ("mask", "part"),
    [
        (LEFT[:, :15], "3.png: must have the size of its picture, 16x12, was 15x12"),
        (np.zeros((12, 16), np.uint8), "3.png: must leave a pixel to learn from"),
        (None, "3.png: must be a mask, was not there"),
    ],
)
def test_masks_that_cannot_be(tmp_path, mask, part):
    root = masked(tmp_path / "one")
    file = root / "masks/3.png"
    file.unlink()
    if mask is not None:
        Image.fromarray(mask).save(file)
    with pytest.raises(InputError, match=part):
        load_scene(root)


@pytest.mark.parametrize("door", ["scene", "objects", "photos"])
@pytest.mark.parametrize("key", ["dynamic_mask", "semantic_mask_path", "black_transparent"])
def test_masks_of_another_meaning_are_refused_by_name(tmp_path, door, key):
    posed(tmp_path / "one", frame=lambda k: {key: "masks/x.png"} if k == 2 else {})
    with pytest.raises(InputError, match=f"key '{key}' is not read: name masks as 'mask_path'"):
        through(door, tmp_path)


@pytest.mark.parametrize("door", ["objects", "photos"])
def test_doors_without_masks_refuse_them(tmp_path, door):
    masked(tmp_path / "one")
    with pytest.raises(InputError, match=f"masks are not read of {door}"):
        through(door, tmp_path)


def test_a_mask_of_another_shape_is_refused():
    from mclnf_fast.data import turntable

    images = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(InputError, match="unmasked: must be bool"):
        ImageSet(images, turntable(2, 8), ("a", "b"), torch.ones(2, 8, 7, dtype=torch.bool))
