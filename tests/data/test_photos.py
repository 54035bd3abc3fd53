"""Photos of a place: made ones, whose geometry stays while the light changes, and those of a folder."""

from __future__ import annotations

import pytest
import torch
from tiny_photos import write_photos

from mclnf_fast.data import load_photos, procedural_photos
from mclnf_fast.data.photos import PhotoSets, photo_of, split_counts
from mclnf_fast.data.procedural.city.solids import SolidRenderer
from mclnf_fast.data.procedural.place.appearance import between, draw_appearance
from mclnf_fast.data.procedural.place.photos import render_place
from mclnf_fast.data.procedural.place.place import make_place, place_cameras
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras


def distances(index: int, cameras: Cameras) -> torch.Tensor:
    """How far the place is, under the light of an appearance, ray by ray."""
    place = make_place(0)
    caster = SolidRenderer(place.solids, place.materials, place.ground, draw_appearance(0, index).light()).caster
    pixels = torch.arange(cameras.width * cameras.height)[:, None]
    rows = torch.div(pixels, cameras.width, rounding_mode="floor")
    return caster.cast(cameras, 0, (0, cameras.height), pixels % cameras.width + 0.5, rows + 0.5).distance


def test_the_light_changes_and_the_place_stays():
    camera = place_cameras(1, 24, 18, 0)
    place = make_place(0)
    looks = [draw_appearance(0, k) for k in range(4)]
    pictures = [render_place(place, look, camera)[0].float() for look in looks]
    for k in range(1, 4):
        assert float((pictures[k] - pictures[0]).abs().mean()) > 5
        assert torch.equal(distances(k, camera), distances(0, camera))
    half = between(looks[0], looks[1], 0.5)
    assert half.cloud == pytest.approx(0.5 * (looks[0].cloud + looks[1].cloud))
    assert between(looks[0], looks[1], 0.0) == looks[0]
    assert between(looks[0], looks[1], 1.0) == looks[1]


def test_made_photos_are_of_a_seed_and_their_number_alone():
    made = procedural_photos(8, test=2, validation=1, size=16)
    assert (len(made.train), len(made.validation), len(made.test)) == (5, 1, 2)
    assert made.size == (12, 16)
    more = procedural_photos(9, test=2, validation=1, size=16)
    assert torch.equal(made.train[-1].images, more.train[-2].images)
    assert not torch.equal(made.test[0].images, procedural_photos(8, test=2, size=16, seed=1).test[0].images)
    assert made.truth is not None
    for k, photo in enumerate(made.test):
        assert torch.equal(made.truth(k, k, 0.0, photo.cameras), photo.images[..., :3])
        assert torch.equal(made.truth(0, 1, float(k), photo.cameras), photo.images[..., :3])
        assert bool((photo.images[..., 3] == 255).all())


def test_the_papers_split_and_that_of_few_photos():
    assert split_counts(500) == (20, 5)
    assert split_counts(75) == (7, 3)
    assert split_counts(21) == (2, 1)
    assert split_counts(10, 3, 0) == (3, 0)
    with pytest.raises(InputError, match="must leave a photo to learn from of 10"):
        split_counts(10, 8, 2)


def test_a_folders_photos_and_how_far_they_see(tmp_path):
    write_photos(tmp_path, [(24, 16)] * 6)
    sets = load_photos(tmp_path)
    assert (len(sets.test), len(sets.validation), len(sets.train)) == (1, 0, 5)
    assert sets.test[0].name == "0.png"
    assert sets.truth is None
    assert 2.9 < sets.near < 3.3  # the box's front face
    assert 4.9 < sets.far < 5.6
    small = load_photos(tmp_path, size=12, limit=4)
    assert small.size == (8, 12)
    assert len(small.train) == 3
    assert float(small.train[0].cameras.fx) == pytest.approx(12.0)


def test_photos_of_other_shapes_are_cut_with_their_cameras(tmp_path):
    write_photos(tmp_path, [(24, 16), (24, 16), (24, 32), (48, 32)])
    sets = load_photos(tmp_path)
    tall, large = sets.train[1], sets.train[2]
    assert tall.images.shape == large.images.shape == (1, 16, 24, 4)
    assert (float(tall.cameras.fx), float(tall.cameras.cx), float(tall.cameras.cy)) == (24.0, 12.0, 8.0)
    assert (float(large.cameras.fx), float(large.cameras.cx)) == (24.0, 12.0)
    assert sets.notes == ("1 photos of another shape than the first: their middle was cut out",)


def test_the_datas_own_test_photos_are_kept(tmp_path):
    write_photos(tmp_path, [(16, 12)] * 6, test_filenames=["3.png", "5.png"])
    sets = load_photos(tmp_path, validation=1)
    assert [p.name for p in sets.test] == ["3.png", "5.png"]
    assert [p.name for p in sets.validation] == ["0.png"]


@pytest.mark.parametrize("name", ["nerf_city/lund_street", "nerf_city/caliterra_aerial", "nerf/mic"])
def test_real_photos(name, shared_data):
    sets = load_photos(shared_data(name), size=16, limit=12)
    assert len(sets.train) + len(sets.validation) + len(sets.test) == 12
    assert 0 <= sets.near < sets.far < 20


def test_unusable_photos(tmp_path):
    with pytest.raises(InputError, match="must be a folder of posed photos"):
        load_photos(tmp_path / "none")
    with pytest.raises(InputError, match=r"must hold transforms\.json"):
        load_photos(tmp_path)
    write_photos(tmp_path, [(16, 12)] * 3, aabb=[[50, 50, 50], [51, 51, 51]])
    with pytest.raises(InputError, match="must see the scene's points or its box"):
        load_photos(tmp_path)
    with pytest.raises(InputError, match="size: must be None or at least 8, was 4"):
        load_photos(tmp_path, size=4)
    with pytest.raises(InputError, match="count: must be >= 1"):
        procedural_photos(0)
    made = procedural_photos(4, size=8)
    with pytest.raises(InputError, match="must have photos to learn from"):
        PhotoSets("few", (), (), made.test, 1.0, 2.0)
    with pytest.raises(InputError, match="names must be unique"):
        PhotoSets("twice", made.train, (), made.train, 1.0, 2.0)
    other = photo_of("other", torch.zeros(4, 4, 3, dtype=torch.uint8), place_cameras(1, 4, 4, 0))
    with pytest.raises(InputError, match="every photo must be one view of 8x6"):
        PhotoSets("sizes", (other,), (), made.test, 1.0, 2.0)
