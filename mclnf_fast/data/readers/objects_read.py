"""Reads one object's pictures and poses as `ObjectViews`: all of one size, with alpha, reduced when asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.data.readers.decoding.pictures import common_mode, eight_bits, open_picture
from mclnf_fast.data.readers.frames import PosedFrame, frame_cameras, read_pictures, refuse_pixels_without_rays
from mclnf_fast.errors import InputError


def read_rgba(path: Path, white: bool = False, size: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a picture as uint8 [h, w, 4], sRGB and alpha as in the file, and its size (width, height) there.

    Without transparency in the file everything is opaque, or with `white` everything but pure white. With a `size` its
    longer side has that many pixels, see `shrink`.

    Raises:
        InputError: missing, no image or corrupt.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.png")
    ...     Image.new("RGB", (8, 4)).save(path)
    ...     pixels, full_size = read_rgba(path, size=4)
    >>> pixels.shape, int(pixels[0, 0, 3]), full_size
    ((2, 4, 4), 255, (8, 4))
    """

    def wanted(width: int, height: int) -> tuple[int, int]:
        return (width, height) if size is None else (size, size)

    with open_picture(path, wanted=wanted) as (opened, full_size):
        picture = eight_bits(common_mode(opened, path))
        rgba = np.array(picture.convert("RGBA"))
        # Some renderers write an alpha of 255 everywhere: that is no word on the background.
        if white and not (picture.mode == "RGBA" and bool((rgba[..., 3] < 255).any())):
            rgba[..., 3] = np.where((rgba[..., :3] == 255).all(-1), 0, 255)
        return (rgba if size is None else shrink(rgba, size)), full_size


def shrink(rgba: np.ndarray, size: int) -> np.ndarray:
    """Return `rgba` uint8 [h, w, 4] with its longer side at `size` pixels.

    A pixel's color is the mean over its area, weighted by alpha: without the weights, edges would take the color that
    is stored under transparent pixels.

    >>> shrink(np.full((8, 4, 4), 255, np.uint8), 4).shape
    (4, 2, 4)
    """
    from PIL import Image

    height, width = rgba.shape[:2]
    longer = max(height, width)
    if longer == size:
        return rgba
    wanted = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    alpha = rgba[..., 3].astype(np.float32)
    # Plane by plane: all four as floats are 2.4 GB of a picture of 150 million pixels.
    planes = (alpha if c == 3 else rgba[..., c] * alpha for c in range(4))
    small = np.stack([np.asarray(Image.fromarray(p).resize(wanted, Image.Resampling.BOX)) for p in planes], -1)
    weight = small[..., 3:]
    color = np.divide(small[..., :3], weight, out=np.zeros_like(small[..., :3]), where=weight > 0)
    return np.asarray((np.concatenate([color, weight], -1) + 0.5).clip(0, 255).astype(np.uint8))


def read_views(
    name: str,
    frames: list[PosedFrame],
    test_frames: list[PosedFrame],
    *,
    size: int | None,
    views: int | None,
    white: bool = False,
) -> ObjectViews:
    """Return the first `views` of an object's frames (None: all), followed by as many of those kept to test on.

    Args:
        name: name of the object.
        frames: views to learn from.
        test_frames: views that the data keeps to test on; when there are any, `train_views` of the result is set.
        size: pixels of the longer side; None: as in the file.
        views: at most so many of each list.
        white: see `read_rgba`.

    Raises:
        InputError: no frame, a picture that is unreadable or of another size than the first or than its file says, no
            focal length.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> from mclnf_fast.data.readers.objects_json import json_frames
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=2, size=8), f"{folder}/cars")
    ...     frames, _ = json_frames(tree, tree / "car_000")
    ...     car = read_views("car", frames, [], size=4, views=1)
    >>> car.images.shape
    torch.Size([1, 4, 4, 4])
    """
    if not frames:
        raise InputError(f"{name}: must have at least one view, has none")
    train_views = len(frames[:views]) if test_frames else None
    # Read together, since both must have one size.
    frames = [*frames[:views], *test_frames[:views]]
    pictures = read_pictures(frames, lambda path: read_rgba(path, white, size))
    cameras = frame_cameras(frames, [full_size for _, full_size in pictures])
    height, width = pictures[0][0].shape[:2]
    if (width, height) != (cameras.width, cameras.height):
        cameras = cameras.resized(width, height)
    refuse_pixels_without_rays(frames, cameras, "objects")
    return ObjectViews(name, torch.from_numpy(np.stack([pixels for pixels, _ in pictures])), cameras, train_views)
