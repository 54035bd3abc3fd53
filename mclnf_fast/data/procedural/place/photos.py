"""Generates photos of a place: many visitors, many times of day, exact cameras, and the truth of any other picture."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.data.photos import PhotoSets, photo_of, split_counts
from mclnf_fast.data.procedural.checks import check_count_and_seed, check_size
from mclnf_fast.data.procedural.city.solids import SolidRenderer
from mclnf_fast.data.procedural.place.appearance import Appearance, between, draw_appearance
from mclnf_fast.data.procedural.place.place import FAR, NEAR, Place, make_place, place_cameras
from mclnf_fast.render.cameras import Cameras


def render_place(place: Place, appearance: Appearance, cameras: Cameras, samples: int = 4) -> Tensor:
    """Return the place under an appearance as uint8 [V, H, W, 3], sRGB.

    Args:
        place: see `make_place`.
        appearance: sun, clouds and camera setting.
        cameras: V cameras, positions in meters.
        samples: samples per pixel, a square number >= 4.

    Raises:
        InputError: `samples` is no such number.

    >>> render_place(make_place(0), draw_appearance(0, 0), place_cameras(1, 8, 6, 0)).shape
    torch.Size([1, 6, 8, 3])
    """
    renderer = SolidRenderer(place.solids, place.materials, place.ground, appearance.light())
    return renderer.render(cameras, samples=samples)


def procedural_photos(
    count: int,
    *,
    test: int | None = None,
    validation: int | None = None,
    size: int = 64,
    seed: int = 0,
    samples: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> PhotoSets:
    """Generate photos of the place of a seed, 4 to 3.

    Photo k depends on the seed and k alone: its camera, its sun, its clouds and the setting of the camera.

    Args:
        count: number of photos in total.
        test, validation: see `photos.split_counts`.
        size: pixels of the longer side, at least 8.
        seed: seed of place, cameras and appearances.
        samples: samples per pixel, a square number >= 4.
        progress: called with (photos done, photos in total).

    Returns:
        Photos `photo_000`, `photo_001`, ..., with their truth; near 12 and far 42 meters.

    Raises:
        InputError: a number out of range.

    >>> photos = procedural_photos(3, test=1, size=8)
    >>> photos.test[0].name, photos.size
    ('photo_000', (6, 8))
    """
    check_count_and_seed(count, seed)
    check_size(size, 8, 4096)
    tests, validations = split_counts(count, test, validation)
    place, cameras = make_place(seed), place_cameras(count, size, max(6, round(size * 3 / 4)), seed)
    appearances = [draw_appearance(seed, k) for k in range(count)]
    photos: list[ObjectViews] = []
    for k, appearance in enumerate(appearances):
        camera = cameras[k : k + 1]
        photos.append(photo_of(f"photo_{k:03d}", render_place(place, appearance, camera, samples)[0], camera))
        if progress is not None:
            progress(k + 1, count)

    def truth(i: int, j: int, weight: float, views: Cameras) -> Tensor:
        return render_place(place, between(appearances[i], appearances[j], weight), views, samples)

    begin = tests + validations
    notes = (f"{count} procedural photos of seed {seed}",)
    sets = tuple(photos[begin:]), tuple(photos[tests:begin]), tuple(photos[:tests])
    return PhotoSets("A procedural square", *sets, NEAR, FAR, notes, truth)
