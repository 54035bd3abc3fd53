"""Reads frames: posed pictures with their cameras; every fault names its file."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from mclnf_fast.data.readers.decoding.pictures import common_mode, eight_bits, on_white, open_picture
from mclnf_fast.data.readers.origin import check_float32
from mclnf_fast.data.scene import ImageSet
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, cat_cameras
from mclnf_fast.render.lenses.lens import Lens, Projection, cat_lenses
from mclnf_fast.render.lenses.views import pixels_with_rays

IMAGE_THREADS = 4  # Pillow decodes without Python's lock; more threads than this wait for the disk
MOST_FOCAL = 1e9  # pixels; a file with more is damaged
MOST_PADDING = 4  # times the memory of pictures of several sizes; one panorama among them could take any amount
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
        lens: that of its camera; None: a pinhole.

    >>> PosedFrame(Path("a.png"), "a.png", np.eye(4), {"fl_x": 8.0}, Path("transforms.json")).name
    'a.png'
    """

    image: Path
    name: str
    c2w: np.ndarray
    intrinsics: dict[str, float]
    source: Path
    mask: Path | None = None
    lens: Lens | None = None


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
    frames: list[PosedFrame],
    downscale: float,
    max_side: int | None,
    empty: tuple[int, int] = (1, 1),
    notes: list[str] | None = None,
) -> ImageSet:
    """Return the frames' pictures and cameras at the reduced size, masked where a mask says so or a lens shows nothing.

    Pictures of several sizes lie in the upper left of the largest width and height; the rest is masked.

    Args:
        frames: pictures to read.
        downscale, max_side: see `options.SceneReadOptions`.
        empty: size (width, height) of the result when there is no frame.
        notes: sentences on pixels that no mask hides and that are masked all the same are appended to it.

    Raises:
        InputError: a picture is unreadable, of another size than its file says, without a focal length, or without a
            pixel to learn from.

    >>> len(load_image_set([], 1, None))
    0
    """
    if not frames:
        none = torch.zeros(0, dtype=torch.float32)
        cameras = Cameras(torch.zeros(0, 3, 4, dtype=torch.float32), none, none, none, none, *empty)
        return ImageSet(torch.zeros(0, empty[1], empty[0], 3, dtype=torch.uint8), cameras, ())
    pictures = read_pictures(frames, lambda path: read_image(path, downscale, max_side))
    sizes = [size for _, size in pictures]
    width, height = (max(image.shape[axis] for image, _ in pictures) for axis in (1, 0))
    if any(image.shape[:2] != (height, width) for image, _ in pictures):
        filled = sum(image.shape[0] * image.shape[1] for image, _ in pictures)
        if filled * MOST_PADDING < width * height * len(frames):
            raise InputError(
                f"{frames[0].source}: pictures must fill at least 1 / {MOST_PADDING} of {width}x{height} on average, "
                "the largest width and height: leave out the largest, or reduce all with max_side"
            )
        images = np.zeros((len(frames), height, width, 3), np.uint8)
        for canvas, (image, _) in zip(images, pictures):
            canvas[: image.shape[0], : image.shape[1]] = image
    else:
        images = np.stack([image for image, _ in pictures])
    reduced = [(image.shape[1], image.shape[0]) for image, _ in pictures]
    cameras = _cameras_of_sizes(frames, sizes, reduced, (width, height))
    unmasked = _unmasked(frames, sizes, reduced, (width, height))
    seen = pixels_with_rays(cameras)
    if notes is not None and len(set(reduced)) > 1:
        notes.append(
            f"Pictures have several sizes: each lies in the upper left of {width}x{height}, the rest is masked."
        )
    if seen is not None:
        blind = ~seen if unmasked is None else unmasked & ~seen
        if notes is not None and bool(blind.any()):
            notes.append("Pixels at which a lens shows nothing, beyond the fold of its distortion, are masked.")
        unmasked = seen if unmasked is None else unmasked & seen
    if unmasked is not None:
        for frame, view in zip(frames, unmasked):
            if not bool(view.any()):
                raise InputError(f"{frame.image}: must have a pixel that its lens shows and no mask hides, has none")
    return ImageSet(torch.from_numpy(images), cameras, tuple(frame.name for frame in frames), unmasked)


def _cameras_of_sizes(
    frames: list[PosedFrame], sizes: list[tuple[int, int]], reduced: list[tuple[int, int]], whole: tuple[int, int]
) -> Cameras:
    """Return the cameras of frames: `sizes` in their files, `reduced` now, in the upper left of pictures of `whole`."""
    groups: dict[tuple[tuple[int, int], tuple[int, int]], list[int]] = {}
    for k, pair in enumerate(zip(sizes, reduced)):
        groups.setdefault(pair, []).append(k)
    parts = []
    for (size, small), members in groups.items():
        cameras = frame_cameras([frames[k] for k in members], [size] * len(members)).resized(*small)
        parts.append(replace(cameras, width=whole[0], height=whole[1]))
    joined = cat_cameras(parts)
    if len(groups) == 1:
        return joined
    # Together once more: float32 may hold the positions of each group and not those of all.
    check_float32(np.stack([frame.c2w for frame in frames])[:, :3, 3], [frame.source for frame in frames])
    return joined[torch.tensor([k for members in groups.values() for k in members]).argsort()]


def _unmasked(
    frames: list[PosedFrame], sizes: list[tuple[int, int]], reduced: list[tuple[int, int]], whole: tuple[int, int]
) -> torch.Tensor | None:
    """Return which pixels of pictures in the upper left of `whole` are pictures and not masked, bool [V, h, w]; None if
    all are."""
    from mclnf_fast.data.readers.posed.masks import read_unmasked

    if all(frame.mask is None for frame in frames) and set(reduced) == {whole}:
        return None
    unmasked = torch.zeros(len(frames), whole[1], whole[0], dtype=torch.bool)
    for k, (frame, (wide, high)) in enumerate(zip(frames, reduced)):
        area = unmasked[k, :high, :wide]
        area.fill_(True)
        if frame.mask is not None:
            area.copy_(torch.from_numpy(read_unmasked(frame.mask, sizes[k], (wide, high))))
    return unmasked


def refuse_pixels_without_rays(frames: list[PosedFrame], cameras: Cameras, kind: str) -> None:
    """Raise `InputError` if a lens shows nothing at a pixel, where masks are not read; it names the first picture.

    >>> frame = PosedFrame(Path("a.png"), "a.png", np.eye(4), {"fl_x": 8.0}, Path("a.json"))
    >>> refuse_pixels_without_rays([frame], frame_cameras([frame], [(8, 4)]), "objects")
    """
    seen = pixels_with_rays(cameras)
    if seen is not None:
        view = int((~seen).flatten(1).any(1).nonzero()[0])
        raise InputError(
            f"{frames[view].image}: must be shown by its lens as a whole, since {kind} have no masks; the lens of "
            f"{frames[view].source} shows nothing at {int((~seen[view]).sum())} of its {seen[view].numel()} pixels: "
            "cut the picture"
        )


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
    lens = cat_lenses([frame.lens for frame in frames], [1] * len(frames))
    return Cameras(torch.from_numpy(poses), fx, fy, cx, cy, width, height, lens)


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
    fisheye = frame.lens is not None and bool((frame.lens.projection != Projection.PERSPECTIVE).any())
    if fisheye and "fl_x" not in known and "fl_y" not in known:
        # The angle that a fisheye spans does not follow from its focal length as a pinhole's does.
        raise InputError(f"{frame.source}: must have 'fl_x' (focal length) of the fisheye of {frame.name}, has none")
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
        if f"camera_angle_{axis}" not in known or fisheye:
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
