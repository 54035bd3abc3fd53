"""Styles of procedural districts: seeded, each of its own kind, and the first of them as it always was."""

from __future__ import annotations

import hashlib

import pytest
import torch

from mclnf_fast.data import load_scene, make_district, write_city
from mclnf_fast.data.procedural.city.district import BUILT, CELL, HEIGHTS, PARK, PLAZA
from mclnf_fast.data.procedural.city.style import Flight, Style, random_style, styles
from mclnf_fast.data.procedural.city.views import block_views, expanded, views_inside
from mclnf_fast.errors import InputError


def test_the_default_style_changes_no_bit():
    plain, styled = make_district(3), make_district(3, style=Style())
    assert torch.equal(plain.solids.boxes, styled.solids.boxes)
    assert torch.equal(plain.solids.ellipsoids, styled.solids.ellipsoids)
    assert torch.equal(plain.block_boxes(), styled.block_boxes())
    pictures = torch.arange(24, dtype=torch.uint8).reshape(2, 4, 3)
    assert Style().colored(pictures) is pictures
    box = plain.block_boxes()[0]
    assert torch.equal(block_views(box, 4, (8, 6), 1).c2w, block_views(box, 4, (8, 6), 1, Style().flight).c2w)


def test_styles_are_seeded_and_differ():
    one, again, other = styles(0, 6), styles(0, 6), styles(1, 6)
    assert one == again
    assert one[0] == other[0] == Style()
    assert one[1:] != other[1:]
    assert len({repr(style) for style in one}) == 6
    assert styles(0, 3) == one[:3]  # further ones do not change the first


@pytest.mark.parametrize("seed", range(12))
def test_every_style_can_be_built_and_photographed(seed):
    style = random_style(seed)
    district = make_district(seed, (2, 1), style)
    boxes = district.block_boxes()
    sides = boxes[:, 1] - boxes[:, 0]
    assert torch.allclose(sides[:, :2], torch.full((2, 2), CELL * style.span))
    roofs = float(torch.cat((district.solids.boxes[:, 5], district.solids.ellipsoids[:, 2])).max())
    assert roofs <= HEIGHTS[1] * style.heights + 1e-3
    assert float(boxes[0, 1, 2]) >= roofs
    # Beyond the blocks there is a ring of cells on each side, so that no view ends in a void.
    solids = district.solids.boxes
    assert bool((solids[:, :2].amin(0) < boxes[:, 0, :2].amin(0) - 0.9 * CELL).all())
    assert bool((solids[:, 3:5].amax(0) > boxes[:, 1, :2].amax(0) + 0.9 * CELL).all())
    for box in boxes:
        cameras = block_views(box, 6, (16, 12), seed, style.flight)
        assert len(cameras) == 6
        assert bool(views_inside(cameras, expanded(box)).all())


def test_what_a_style_says_is_built():
    flat = make_district(0, style=Style(heights=0.25))
    assert torch.allclose(flat.solids.boxes[:, 5], make_district(0).solids.boxes[:, 5] * 0.25)
    parks = make_district(0, style=Style(lots=(0.0, 1.0, 0.0)))
    assert parks.lots.unique().tolist() == [PARK]
    some = make_district(0, style=Style(lots=(0.5, 0.2, 0.3)))
    assert set(some.lots.unique().tolist()) == {BUILT, PARK, PLAZA}
    assert float(make_district(0, style=Style(sun=(0.0, 0.0, 3.0))).sun[2]) == 1.0
    wide = block_views(flat.block_boxes()[0], 3, (16, 12), 0, Flight((90.0, 120.0), ((80.0, 90.0, 1.0),), 70.0))
    assert 90 <= float(wide.centers[:, 2].min()) <= float(wide.centers[:, 2].max()) <= 120
    assert float(wide.fx[0]) == pytest.approx(8 / 0.70021, rel=1e-4)
    assert bool((wide.c2w[:, 2, 2] > 0.98).all())  # all nearly straight down


def test_colors_are_a_matrix_in_display_values():
    swapped = Style(colors=((0.0, 1.0, 0.0, 0.0), (1.0, 0.0, 0.0, 0.0), (0.0, 0.0, 2.0, 0.1)))
    assert swapped.colored(torch.tensor([[10, 20, 30]], dtype=torch.uint8)).tolist() == [[20, 10, 86]]
    assert swapped.colored(torch.tensor([[10, 20, 200]], dtype=torch.uint8)).tolist() == [[20, 10, 255]]


SMALL = {"width": 16, "height": 12, "samples": 4, "train": 1, "test": 1, "city": 0, "meta_train": 2, "meta_test": 1}


def digest(scene) -> str:
    return hashlib.sha256(b"".join(block.train.images.numpy().tobytes() for block in scene.blocks)).hexdigest()


def test_a_city_of_several_styles_keeps_its_target_and_its_first_district(tmp_path):
    plain = write_city(tmp_path / "one", **SMALL, blocks=(1, 1), meta_districts=1)
    several = write_city(tmp_path / "three", **SMALL, blocks=(1, 1), meta_districts=3, styles=3)
    assert digest(load_scene(plain.target)) == digest(load_scene(several.target))
    districts = [load_scene(path) for path in several.meta]
    assert digest(districts[0]) == digest(load_scene(plain.meta[0]))
    assert len({tuple(scene.aabb.flatten().tolist()) for scene in districts}) == 3
    assert [len(scene.blocks[0].train) for scene in districts] == [2, 2, 2]
    with pytest.raises(InputError, match="styles: must be >= 1"):
        write_city(tmp_path / "none", styles=0)
