"""Reads frames: posed pictures of one size with their pinhole cameras; every fault names its file."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from mclnf_fast.data.readers.decoding.pictures import common_mode, eight_bits, on_white, open_picture
from mclnf_fast.data.readers.origin import check_float32
from mclnf_fast.data.scene import ImageSet
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

IMAGE_THREADS = 4  # Pillow decodes without Python's lock; more threads than this wait for the disk
MOST_FOCAL = 1e9  # pixels; a file with more is damaged
ANGLE_TOLERANCE = 0.02  # relative, between a focal length and a field of view that stand side by side
Picture = TypeVar("Picture")


@dataclass(frozen=True)
class PosedFrame:
    """One picture and its camera, as the files have them.

    Attributes:
        image: path of the picture.
        name: name for people, the path below the data's folder.
        c2w: camera-to-world matrix, float64 [4, 4], OpenGL's axes.
        intrinsics: those of fl_x, fl_y, cx, cy, w, h, camera_angle_x, camera_angle_y that the files have.
        source: the file that names the picture, for messages.
        mask: path of a picture whose 0 is masked; None without one.

    >>> PosedFrame(Path("a.png"), "a.png", np.eye(4), {"fl_x": 8.0}, Path("transforms.json")).name
    'a.png'
    """

    image: Path
    name: str
    c2w: np.ndarray
    intrinsics: dict[str, float]
    source: Path
    mask: Path | None = None


def reduced_size(width: int, height: int, downscale: float, max_side: int | None) -> tuple[int, int]:
    """Return the size (width, height) that a picture is reduced to, never larger than it is.

    >>> reduced_size(100, 50, 1.0, 20)
    (20, 10)
    """
    factor = 1.0 / downscale if max_side is None else min(1.0, max_side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def read_image(path: Path, downscale: float = 1.0, max_side: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Return a picture as uint8 [h, w, 3], reduced with a box filter, and its size (width, height) in the file.

    Transparency is composited on white before the reduction: afterwards, edges would mix with the color under it.

    Raises:
        InputError: missing, no image or corrupt.

    >>> import tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "a.png")
    ...     Image.new("RGB", (8, 4)).save(path)
    ...     pixels, size = read_image(path, max_side=4)
    >>> pixels.shape, size
    ((2, 4, 3), (8, 4))
    """
    from PIL import Image

    def reduced(width: int, height: int) -> tuple[int, int]:
        return reduced_size(width, height, downscale, max_side)

    # Reduced while it is open: of large pictures only one is decoded at a time.
    with open_picture(path, wanted=reduced) as (opened, size):
        picture = eight_bits(common_mode(opened, path))
        if picture.mode == "RGBA":
            picture = on_white(np.asarray(picture))
        if picture.size != reduced(*size):
            picture = picture.resize(reduced(*size), Image.Resampling.BOX)
        return np.array(picture), size


def load_image_set(
    frames: list[PosedFrame], downscale: float, max_side: int | None, empty: tuple[int, int] = (1, 1)
) -> ImageSet:
    """Return the frames' pictures and cameras at the reduced size.

    Args:
        frames: pictures to read.
        downscale, max_side: see `options.SceneReadOptions`.
        empty: size (width, height) of the result when there is no frame.

    Raises:
        InputError: a picture is unreadable, of another size than the first or than its file says, or without a focal
            length.

    >>> len(load_image_set([], 1, None))
    0
    """
    if not frames:
        none = torch.zeros(0, dtype=torch.float32)
        cameras = Cameras(torch.zeros(0, 3, 4, dtype=torch.float32), none, none, none, none, *empty)
        return ImageSet(torch.zeros(0, empty[1], empty[0], 3, dtype=torch.uint8), cameras, ())
    pictures = read_pictures(frames, lambda path: read_image(path, downscale, max_side))
    cameras = frame_cameras(frames, [size for _, size in pictures])
    reduced = pictures[0][0].shape
    images = torch.from_numpy(np.stack([image for image, _ in pictures]))
    unmasked = _unmasked(frames, pictures[0][1], (reduced[1], reduced[0]))
    return ImageSet(images, cameras.resized(reduced[1], reduced[0]), tuple(frame.name for frame in frames), unmasked)


def _unmasked(frames: list[PosedFrame], size: tuple[int, int], reduced: tuple[int, int]) -> torch.Tensor | None:
    """Return which pixels of frames of `size` in their files are not masked, bool [V, h, w]; None without masks."""
    from mclnf_fast.data.readers.posed.masks import read_unmasked

    if all(frame.mask is None for frame in frames):
        return None
    unmasked = torch.ones(len(frames), reduced[1], reduced[0], dtype=torch.bool)
    for k, frame in enumerate(frames):
        if frame.mask is not None:
            unmasked[k] = torch.from_numpy(read_unmasked(frame.mask, size, reduced))
    return unmasked


def read_pictures(frames: list[PosedFrame], read: Callable[[Path], Picture]) -> list[Picture]:
    """Return `read` of each frame's picture, in order, by several threads.

    >>> frames = [PosedFrame(Path(name), name, np.eye(4), {}, Path("a.json")) for name in ("a.png", "b.png")]
    >>> read_pictures(frames, lambda path: path.stem)
    ['a', 'b']
    """
    with ThreadPoolExecutor(IMAGE_THREADS) as pool:
        return list(pool.map(lambda frame: read(frame.image), frames))


def frame_cameras(frames: list[PosedFrame], sizes: list[tuple[int, int]]) -> Cameras:
    """Return the cameras of frames whose pictures have `sizes` (width, height) in their files, at least one.

    Raises:
        InputError: pictures of several sizes, of another size than their file says, or without a focal length; cameras
            so far from the origin that float32 cannot hold them.

    >>> frame = PosedFrame(Path("a.png"), "a.png", np.eye(4), {"fl_x": 8.0}, Path("a.json"))
    >>> frame_cameras([frame], [(8, 4)]).cy.tolist()
    [2.0]
    """
    width, height = sizes[0]
    columns: list[tuple[float, float, float, float]] = []
    for frame, size in zip(frames, sizes, strict=True):
        if size != (width, height):
            raise InputError(
                f"{frame.image}: all images must have one size, {width}x{height} as the first, was {size[0]}x{size[1]}"
            )
        columns.append(pinhole_intrinsics(frame, width, height))
    fx, fy, cx, cy = torch.tensor(columns, dtype=torch.float32).T
    poses = np.stack([frame.c2w for frame in frames])
    check_float32(poses[:, :3, 3], [frame.source for frame in frames])
    return Cameras(torch.from_numpy(poses), fx, fy, cx, cy, width, height)


def pinhole_intrinsics(frame: PosedFrame, width: int, height: int) -> tuple[float, float, float, float]:
    """Return fx, fy, cx, cy in pixels of the picture as the file has it.

    A missing focal length of y is that of x and the other way round, and a missing principal point is the picture's
    middle.

    Raises:
        InputError: no focal length, one that is not positive, a field of view outside (0, pi), both of them but not in
            agreement, or `w` and `h` are not the picture's.

    >>> frame = PosedFrame(Path("a.png"), "a.png", np.eye(4), {"fl_x": 8.0}, Path("transforms.json"))
    >>> pinhole_intrinsics(frame, 6, 4)
    (8.0, 8.0, 3.0, 2.0)
    """
    known = dict(frame.intrinsics)
    # A picture that was resized after its poses were computed would be learned with a wrong focal length.
    for key, size in (("w", width), ("h", height)):
        if key in known and known[key] != size:
            raise InputError(
                f"{frame.image}: {key!r} in {frame.source.name} must be the image's {size}, was {known[key]:g}"
            )
    for key in ("camera_angle_x", "camera_angle_y"):
        if key in known and not 1e-9 < known[key] < math.pi:  # below it, the tangent may be 0
            raise InputError(f"{frame.source}: key {key!r} must be in (0, pi) radians, was {known[key]:g}")
    for axis, side in (("x", width), ("y", height)):
        if f"camera_angle_{axis}" not in known:
            continue
        focal = 0.5 * side / math.tan(0.5 * known[f"camera_angle_{axis}"])
        stated = known.setdefault(f"fl_{axis}", focal)
        # They differ if the picture was resized after its poses were computed; which of them is right, nobody can say.
        if abs(stated / focal - 1) > ANGLE_TOLERANCE:
            raise InputError(
                f"{frame.source}: 'fl_{axis}' and 'camera_angle_{axis}' of {frame.name} must agree, were {stated:g} "
                f"and {focal:g} pixels"
            )
    fx, fy = known.get("fl_x"), known.get("fl_y")
    # Pixels are square in nearly all cameras, and files often name one of the two only.
    fx = fy if fx is None else fx
    if fx is None:
        raise InputError(
            f"{frame.source}: must have 'fl_x' or 'camera_angle_x' (focal length) for {frame.name}, has none"
        )
    fy = fx if fy is None else fy
    if not (0 < fx < MOST_FOCAL and 0 < fy < MOST_FOCAL):
        raise InputError(
            f"{frame.source}: focal lengths must be positive and below {MOST_FOCAL:g} pixels, were {fx:g} and {fy:g}"
        )
    cx, cy = known.get("cx", width / 2), known.get("cy", height / 2)
    if not max(abs(cx), abs(cy)) < MOST_FOCAL:
        raise InputError(f"{frame.source}: cx and cy must be below {MOST_FOCAL:g} pixels, were {cx:g} and {cy:g}")
    return fx, fy, cx, cy
