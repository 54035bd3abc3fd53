"""Made photos of a place: other visitors, other times of day, exact cameras, and the truth of any other picture."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.data.photos import PhotoSets, photo_of, split_counts
from mclnf_fast.data.procedural.city.solids import SolidRenderer
from mclnf_fast.data.procedural.faces.faces import check_made
from mclnf_fast.data.procedural.place.appearance import Appearance, between, draw_appearance
from mclnf_fast.data.procedural.place.place import FAR, NEAR, Place, make_place, place_cameras
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras


def render_place(place: Place, appearance: Appearance, cameras: Cameras, samples: int = 4) -> Tensor:
    """The place under an appearance: uint8 [V, H, W, 3], sRGB; cameras in metres. Raises InputError: see
    `SolidRenderer.render`."""
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
    """Made photos of the place of a seed, 4 to 3.

    Photo k depends on the seed and k alone: its camera, its sun, its clouds and how the camera was set.

    Args:
        count: how many in all.
        test, validation: see `split_counts`.
        size: pixels of the longer side, at least 8.
        seed: of place, cameras and appearances.
        samples: samples a pixel, a square number >= 4.
        progress: called with (photos done, photos in all).

    Returns:
        Photos `photo_000`, `photo_001`, ..., with their truth; near 12 and far 42 metres.

    Raises:
        InputError: a number out of range.
    """
    check_made(count, seed)
    if not 8 <= size <= 4096:
        raise InputError(f"size: must be from 8 to 4096 pixels, was {size}")
    tests, checks = split_counts(count, test, validation)
    place, cameras = make_place(seed), place_cameras(count, size, max(6, round(size * 3 / 4)), seed)
    looks = [draw_appearance(seed, k) for k in range(count)]
    made: list[ObjectViews] = []
    for k, look in enumerate(looks):
        camera = cameras[k : k + 1]
        made.append(photo_of(f"photo_{k:03d}", render_place(place, look, camera, samples)[0], camera))
        if progress is not None:
            progress(k + 1, count)

    def truth(i: int, j: int, weight: float, views: Cameras) -> Tensor:
        return render_place(place, between(looks[i], looks[j], weight), views, samples)

    first = tests + checks
    notes = (f"{count} photos made by seed {seed}",)
    return PhotoSets("A made square", tuple(made[first:]), tuple(made[tests:first]), tuple(made[:tests]), NEAR, FAR,
                     notes, truth)  # fmt: skip
