"""`load_photos`: a folder of posed photos of one place, as `PhotoSets`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.data.photos import PhotoSets, photo_of, split_counts
from mclnf_fast.data.readers.files import Frame, pinhole, read_image, target_size
from mclnf_fast.data.readers.gather import MOST_BYTES
from mclnf_fast.data.readers.pictures import fit
from mclnf_fast.data.readers.scenes import Whole, read_whole
from mclnf_fast.data.scene import ImageSet
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, cat_cameras

LOOKED_FOR = "transforms.json (nerfstudio) or transforms_train.json (NeRF-synthetic)"
SEEN = (0.01, 0.99)  # quantiles of the distances of what a photo shows
FEWEST = 20  # points in a photo that say how far it looks
GRID = 16  # rays along a side, where no points say it


def load_photos(
    folder: str | Path,
    *,
    size: int | None = None,
    test: int | None = None,
    validation: int | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PhotoSets:
    """Read posed photos of one place: `transforms.json` (nerfstudio) or `transforms_train.json` (NeRF-synthetic).

    All get the size of the first; one of another shape is scaled until it covers that, and its middle is cut out, with
    its camera. Transparency is put on white. Photos stay in the order of the file: the first ones are tested on, the
    next validated on; test photos that the data names are kept as such. `near` and `far` are the smallest and largest
    distance over all photos, each photo's from the points of the data that it shows, or else from the scene's box.

    Args:
        size: pixels of the longer side; None: as the first photo is.
        test, validation: see `split_counts`.
        limit: at most so many photos, the first.
        progress: called with (photos done, photos in all).

    Raises:
        InputError: an option out of range, nothing usable there, too few photos, photos that do not see the scene.
    """
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: must be a folder of posed photos, was {'a file' if root.exists() else 'not there'}")
    for name, value, least in (("size", size, 8), ("limit", limit, 1)):
        if value is not None and not least <= value <= 1 << 20:
            raise InputError(f"{name}: must be None or at least {least}, was {value}")
    whole = read_whole(root, 0, LOOKED_FOR)
    named = len(whole.group.test)
    frames = [*whole.group.test, *whole.group.train][:limit]
    if not frames:
        raise InputError(f"{root}: must hold photos, has none")
    tests, checks = split_counts(len(frames), min(named, len(frames) - 1) if named and test is None else test,
                                 validation)  # fmt: skip
    photos, cut = _read(frames, size, progress)
    cameras = cat_cameras([photo.cameras for photo in photos])
    near, far = photo_bounds(cameras, whole, torch.cat([photo.images[..., :3] for photo in photos]))
    notes = ["the data have one split of their own, which is kept"] if named and test is None else []
    if cut:
        notes.append(f"{cut} photos of another shape than the first: their middle was cut out")
    first = tests + checks
    return PhotoSets(root.resolve().name, photos[first:], photos[tests:first], photos[:tests], near, far, tuple(notes))


def _read(
    frames: list[Frame], size: int | None, progress: Callable[[int, int], None] | None
) -> tuple[tuple[ObjectViews, ...], int]:
    """The photos, and how many of them were cut."""
    from PIL import Image

    made: list[ObjectViews] = []
    cut = 0
    wanted = (0, 0)
    for k, frame in enumerate(frames):
        pixels, (width, height) = read_image(frame.image)
        if not made:
            wanted = target_size(width, height, 1.0, size)
            if wanted[0] * wanted[1] * 4 * len(frames) > MOST_BYTES:
                raise InputError(f"{frame.image}: {len(frames)} photos of {wanted[0]}x{wanted[1]} must fit into "
                                 f"{MOST_BYTES >> 30} GiB, do not: set a size or a limit")  # fmt: skip
        fx, fy, cx, cy = pinhole(frame, width, height)
        picture, _ = fit(Image.fromarray(pixels), (wanted[1], wanted[0]), resize=True)
        factor = max(wanted[0] / width, wanted[1] / height)
        scaled = max(wanted[0], round(width * factor)), max(wanted[1], round(height * factor))
        left, top = (scaled[0] - wanted[0]) // 2, (scaled[1] - wanted[1]) // 2
        across, down = scaled[0] / width, scaled[1] / height
        camera = Cameras(
            torch.from_numpy(frame.c2w)[None], torch.tensor([fx * across]), torch.tensor([fy * down]),
            torch.tensor([cx * across - left]), torch.tensor([cy * down - top]), *wanted,
        )  # fmt: skip
        cut += scaled != wanted
        made.append(photo_of(frame.name, torch.from_numpy(np.array(picture)), camera))
        if progress is not None:
            progress(k + 1, len(frames))
    return tuple(made), cut


def photo_bounds(cameras: Cameras, whole: Whole, images: Tensor) -> tuple[float, float]:
    """The smallest near and the largest far distance of photos, scene units.

    Raises:
        InputError: no photo sees a point or the box of the scene.
    """
    bounds = [] if whole.points is None else _by_points(cameras, whole.points)
    if len(bounds) < len(cameras):
        names = tuple(str(k) for k in range(len(cameras)))
        bounds += _by_box(cameras, whole.bounds(ImageSet(images, cameras, names)))
    if not bounds:
        raise InputError(f"{whole.group.name}: photos must see the scene's points or its box, see neither")
    near, far = min(low for low, _ in bounds), max(high for _, high in bounds)
    if not near < far:
        raise InputError(f"{whole.group.name}: photos must see some depth, see {near:g} to {far:g}")
    return near, far


def _by_points(cameras: Cameras, points: Tensor) -> list[tuple[float, float]]:
    """Of each photo that shows enough of points [P, 3], the distances between which they lie."""
    found = []
    for k in range(len(cameras)):
        pose = cameras.c2w[k]
        local = (points - pose[:, 3]) @ pose[:, :3]
        depth = -local[:, 2]
        x = cameras.cx[k] + cameras.fx[k] * local[:, 0] / depth
        y = cameras.cy[k] - cameras.fy[k] * local[:, 1] / depth
        seen = (depth > 0) & (x >= 0) & (x < cameras.width) & (y >= 0) & (y < cameras.height)
        if int(seen.sum()) >= FEWEST:
            low, high = torch.quantile(local[seen].norm(dim=1), torch.tensor(SEEN)).tolist()
            found.append((low, high))
    return found


def _by_box(cameras: Cameras, box: Tensor) -> list[tuple[float, float]]:
    """Of each photo that meets a box [2, 3], the distances between which its rays lie in it."""
    found = []
    steps = (torch.arange(GRID) + 0.5) / GRID
    x, y = (g.reshape(-1) for g in torch.meshgrid(steps * cameras.width, steps * cameras.height, indexing="ij"))
    for k in range(len(cameras)):
        origins, directions = cameras.rays_at(torch.full((len(x),), k), x, y)
        one, two = (box[0] - origins) / directions, (box[1] - origins) / directions
        entry, leave = torch.minimum(one, two).amax(1).clamp_min(0.0), torch.maximum(one, two).amin(1)
        meets = leave > entry
        if bool(meets.any()):
            quantiles = torch.tensor(SEEN)
            low, high = (torch.quantile(t[meets], q) for t, q in zip((entry, leave), quantiles))
            found.append((float(low), float(high)))
    return found
