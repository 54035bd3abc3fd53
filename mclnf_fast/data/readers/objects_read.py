"""One object's pictures and poses as `ObjectViews`: whole, of one size, with alpha, reduced where asked."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from mclnf_fast.data.objects import ObjectViews
from mclnf_fast.data.readers.files import IMAGE_THREADS, Frame, decoded, pinhole
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras


def read_rgba(path: Path, white: bool = False) -> np.ndarray:
    """A picture as uint8 [h, w, 4], sRGB and alpha as in the file.

    Without transparency in the file all is opaque, or with `white` all but what is pure white.

    Raises:
        InputError: missing, no image or torn.
    """
    picture = decoded(path)
    clear = picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info
    rgba = np.array(picture.convert("RGBA"))
    if white and not (clear and bool((rgba[..., 3] < 255).any())):
        rgba[..., 3] = np.where((rgba[..., :3] == 255).all(-1), 0, 255)
    return rgba


def shrink(rgba: np.ndarray, size: int) -> np.ndarray:
    """`rgba` uint8 [h, w, 4] with its longer side at `size` pixels: a pixel's colour is the mean over its area,
    weighted by alpha."""
    from PIL import Image

    height, width = rgba.shape[:2]
    longer = max(height, width)
    if longer == size:
        return rgba
    wanted = (max(1, round(width * size / longer)), max(1, round(height * size / longer)))
    alpha = rgba[..., 3:].astype(np.float32)
    planes = np.concatenate([rgba[..., :3] * alpha, alpha], -1)
    small = np.stack(
        [np.asarray(Image.fromarray(planes[..., c]).resize(wanted, Image.Resampling.BOX)) for c in range(4)], -1
    )
    weight = small[..., 3:]
    color = np.divide(small[..., :3], weight, out=np.zeros_like(small[..., :3]), where=weight > 0)
    return np.asarray((np.concatenate([color, weight], -1) + 0.5).clip(0, 255).astype(np.uint8))


def read_views(
    name: str, frames: list[Frame], held: list[Frame], *, size: int | None, views: int | None, white: bool
) -> ObjectViews:
    """The first `views` of an object's frames (None: all), and behind them as many of those that are kept to test on,
    the longer side at `size` pixels (None: as in the file).

    Raises:
        InputError: no frame, a picture that is unreadable or of another size than the first or than its json says, no
            focal length.
    """
    if not frames:
        raise InputError(f"{name}: must have at least one view, has none")
    known = len(frames[:views]) if held else None
    frames = [*frames[:views], *held[:views]]
    with ThreadPoolExecutor(IMAGE_THREADS) as pool:
        pictures = list(pool.map(lambda frame: read_rgba(frame.image, white), frames))
    height, width = pictures[0].shape[:2]
    columns = []
    for frame, picture in zip(frames, pictures, strict=True):
        if picture.shape[:2] != (height, width):
            raise InputError(
                f"{frame.image}: all images must have one size, {width}x{height} as the first, was "
                f"{picture.shape[1]}x{picture.shape[0]}"
            )
        columns.append(pinhole(frame, width, height))
    fx, fy, cx, cy = torch.tensor(columns, dtype=torch.float32).T
    poses = torch.from_numpy(np.stack([frame.c2w for frame in frames]))
    cameras = Cameras(poses, fx, fy, cx, cy, width, height)
    if size is not None:
        pictures = [shrink(picture, size) for picture in pictures]
        small = pictures[0].shape
        if (small[1], small[0]) != (width, height):
            cameras = cameras.resized(small[1], small[0])
    return ObjectViews(name, torch.from_numpy(np.stack(pictures)), cameras, known)
