"""Reads a folder of posed photos of one place as `PhotoSets`: `load_photos`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.data.photos import PhotoSets, photo_of, split_counts
from mclnf_fast.data.readers.boxes import object_box
from mclnf_fast.data.readers.decoding.pictures import covering_size, fit
from mclnf_fast.data.readers.frames import (
    PosedFrame,
    pinhole_intrinsics,
    read_image,
    reduced_size,
    refuse_pixels_without_rays,
)
from mclnf_fast.data.readers.gather import MOST_BYTES
from mclnf_fast.data.readers.options import PhotoReadOptions, Progress, options_of
from mclnf_fast.data.readers.posed.colmap import COLMAP_FILES, colmap_frames, colmap_reason
from mclnf_fast.data.readers.posed.masks import refuse_masks
from mclnf_fast.data.readers.posed.scene_frames import SceneFrames, blender_frames, nerfstudio_frames
from mclnf_fast.data.readers.registry import Reader, add_built_in, choose, read_with, unknown_layout
from mclnf_fast.data.readers.scenes import file_reason
from mclnf_fast.data.scene import ImageSet
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, cat_cameras
from mclnf_fast.render.lenses.views import distances_in

DEPTH_QUANTILES = (0.01, 0.99)  # of the distances in a photo: a single stray point must not set the range
FEWEST_POINTS = 20  # in a photo, to take its depth from them
GRID = 16  # rays along a side, when depths come from the scene's box


def load_photos(folder: str | Path, options: PhotoReadOptions | None = None, **changes: Any) -> PhotoSets:
    """Read posed photos of one place: `transforms.json` (nerfstudio), `transforms_train.json` (NeRF-synthetic), COLMAP.

    All get the size of the first; one of another shape is scaled until it covers that, and its middle is cut out, with
    its camera. Transparency is put on white. Photos stay in the order of the file: the first ones are tested on, the
    next validated on; test photos that the data names are kept as such. `near` and `far` are the smallest and largest
    distance over all photos, each photo's from the points of the data that it shows, or else from the scene's box.

    Args:
        folder: a folder.
        options: see `PhotoReadOptions`; None: its defaults.
        changes: single fields of `options`, such as `size=64`.

    Raises:
        InputError: an option out of range, nothing usable there, too few photos, photos that do not see the scene.
        TypeError: an unknown option.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=4, size=16), f"{folder}/cars")
    ...     photos = load_photos(tree / "car_000", test=1)
    >>> len(photos.train), len(photos.test)
    (3, 1)
    """
    settings = options_of(PhotoReadOptions, options, changes)
    root = Path(folder)
    if not root.is_dir():
        raise InputError(f"{root}: must be a folder of posed photos, was {'a file' if root.exists() else 'not there'}")
    for name, value, least in (("size", settings.size, 8), ("limit", settings.limit, 1)):
        if value is not None and not least <= value <= 1 << 20:
            raise InputError(f"{name}: must be None or at least {least}, was {value}")
    reader = choose("photos", root, settings.reader)
    if reader is None:
        raise unknown_layout("photos", root)
    return read_with(reader, root, settings)


def _load_photos(root: Path, scene: SceneFrames, options: PhotoReadOptions) -> PhotoSets:
    group = scene.groups[0]
    own_tests = len(group.test)
    frames = [*group.test, *group.train][: options.limit]
    if not frames:
        raise InputError(f"{root}: must hold photos, has none")
    refuse_masks(frames, "photos")
    keeps_split = bool(own_tests) and options.test is None
    tests, validations = split_counts(
        len(frames), min(own_tests, len(frames) - 1) if keeps_split else options.test, options.validation
    )
    photos, cut = _read(frames, options.size, options.progress)
    cameras = cat_cameras([photo.cameras for photo in photos])
    near, far = photo_bounds(cameras, scene, torch.cat([photo.images[..., :3] for photo in photos]))
    notes = ["the data have one split of their own, which is kept"] if keeps_split else []
    if cut:
        notes.append(f"{cut} photos of another shape than the first: their middle was cut out")
    begin = tests + validations
    return PhotoSets(root.resolve().name, photos[begin:], photos[tests:begin], photos[:tests], near, far, tuple(notes))


def _read(frames: list[PosedFrame], size: int | None, progress: Progress | None) -> tuple[tuple[ObjectViews, ...], int]:
    """Return the photos, and the number of those that were cut."""
    photos: list[ObjectViews] = []
    cut = 0
    common = (0, 0)  # width and height of all photos
    for k, frame in enumerate(frames):
        pixels, (width, height) = read_image(frame.image)
        if not photos:
            common = reduced_size(width, height, 1.0, size)
            if common[0] * common[1] * 4 * len(frames) > MOST_BYTES:
                raise InputError(
                    f"{frame.image}: {len(frames)} photos of {common[0]}x{common[1]} must fit into "
                    f"{MOST_BYTES >> 30} GiB, do not: set a size or a limit"
                )
        photo, was_cut = _photo(frame, pixels, (width, height), common)
        cut += was_cut
        photos.append(photo)
        if progress is not None:
            progress(k + 1, len(frames))
    return tuple(photos), cut


def _photo(
    frame: PosedFrame, pixels: np.ndarray, size: tuple[int, int], common: tuple[int, int]
) -> tuple[ObjectViews, bool]:
    """Return a photo of `size` scaled and cut to the size `common`, both (width, height), and whether it was cut."""
    from PIL import Image

    (width, height), (wide, high) = size, common
    fx, fy, cx, cy = pinhole_intrinsics(frame, width, height)
    picture, _ = fit(Image.fromarray(pixels), (high, wide), resize=True)
    scaled = covering_size(width, height, (high, wide))
    left, top = (scaled[0] - wide) // 2, (scaled[1] - high) // 2
    across, down = scaled[0] / width, scaled[1] / height
    pose = torch.from_numpy(frame.c2w)[None]
    focal = torch.tensor([fx * across], dtype=torch.float32), torch.tensor([fy * down], dtype=torch.float32)
    center = (
        torch.tensor([cx * across - left], dtype=torch.float32),
        torch.tensor([cy * down - top], dtype=torch.float32),
    )
    camera = Cameras(pose, *focal, *center, wide, high, frame.lens)
    refuse_pixels_without_rays([frame], camera, "photos")
    return photo_of(frame.name, torch.from_numpy(np.array(picture)), camera), scaled != common


def photo_bounds(cameras: Cameras, scene: SceneFrames, images: Tensor) -> tuple[float, float]:
    """Return the smallest near and the largest far distance of photos, scene units.

    Args:
        cameras: V cameras, one per photo.
        scene: its points or box.
        images: uint8 [V, H, W, 3].

    Raises:
        InputError: no photo sees a point or the box of the scene.

    >>> from mclnf_fast.data import turntable
    >>> cameras = turntable(3, 8)
    >>> scene = SceneFrames("square", [], points=torch.rand(100, 3, generator=torch.Generator().manual_seed(0)) - 0.5)
    >>> near, far = photo_bounds(cameras, scene, torch.zeros(3, 8, 8, 3, dtype=torch.uint8))
    >>> 3 < near < far < 5
    True
    """
    bounds = [] if scene.points is None else _bounds_of_points(cameras, scene.points)
    if len(bounds) < len(cameras):
        names = tuple(str(k) for k in range(len(cameras)))
        # Without cameras inside: between near and far no ray misses, and samples are best where the place is.
        box, _ = scene.bounds(ImageSet(images, cameras, names), around=object_box)
        bounds += _bounds_of_box(cameras, box)
    if not bounds:
        raise InputError(f"{scene.name}: photos must see the scene's points or its box, see neither")
    near, far = min(low for low, _ in bounds), max(high for _, high in bounds)
    if not near < far:
        raise InputError(f"{scene.name}: photos must see some depth, see {near:g} to {far:g}")
    return near, far


def _bounds_of_points(cameras: Cameras, points: Tensor) -> list[tuple[float, float]]:
    """Return the nearest and farthest distance of points [P, 3], of each photo that shows enough of them."""
    bounds = []
    for k in range(len(cameras)):
        distances = distances_in(cameras, k, points)
        if len(distances) >= FEWEST_POINTS:
            low, high = torch.quantile(distances, torch.tensor(DEPTH_QUANTILES, dtype=torch.float32)).tolist()
            bounds.append((low, high))
    return bounds


def _bounds_of_box(cameras: Cameras, box: Tensor) -> list[tuple[float, float]]:
    """Return the nearest and farthest distance at which rays lie in a box [2, 3], of each photo that sees it."""
    bounds = []
    steps = (torch.arange(GRID, dtype=torch.float32) + 0.5) / GRID
    x, y = (g.reshape(-1) for g in torch.meshgrid(steps * cameras.width, steps * cameras.height, indexing="ij"))
    for k in range(len(cameras)):
        origins, directions = cameras.rays_at(torch.full((len(x),), k), x, y)
        lower, upper = (box[0] - origins) / directions, (box[1] - origins) / directions
        entry, leave = torch.minimum(lower, upper).amax(1).clamp_min(0.0), torch.maximum(lower, upper).amin(1)
        meets = leave > entry
        if bool(meets.any()):
            quantiles = torch.tensor(DEPTH_QUANTILES, dtype=torch.float32)
            low, high = (torch.quantile(t[meets], q) for t, q in zip((entry, leave), quantiles))
            bounds.append((float(low), float(high)))
    return bounds


def _read_nerfstudio(root: Path, options: PhotoReadOptions) -> PhotoSets:
    # No view is held out here: `split_counts` chooses those to test on.
    return _load_photos(root, nerfstudio_frames(root, holdout_every=0), options)


def _read_blender(root: Path, options: PhotoReadOptions) -> PhotoSets:
    return _load_photos(root, blender_frames(root), options)


def _read_colmap(root: Path, options: PhotoReadOptions) -> PhotoSets:
    return _load_photos(root, colmap_frames(root, holdout_every=0), options)


add_built_in(
    (
        Reader(
            "nerfstudio", "photos", "transforms.json (nerfstudio)", file_reason("transforms.json"), _read_nerfstudio
        ),
        Reader(
            "nerf-synthetic",
            "photos",
            "transforms_train.json (NeRF-synthetic)",
            file_reason("transforms_train.json"),
            _read_blender,
        ),
        Reader("colmap", "photos", COLMAP_FILES, colmap_reason, _read_colmap),
    )
)
