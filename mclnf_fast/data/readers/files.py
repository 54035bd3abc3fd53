"""What the readers share: frames, safe paths, checked JSON and images. All bad input is an `InputError`
with its file."""

from __future__ import annotations

import io
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.scene import ImageSet
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras, check_poses

if TYPE_CHECKING:
    from PIL import Image

IMAGE_THREADS = 4


@dataclass(frozen=True)
class Frame:
    """One picture and its camera as the files have them.

    `c2w` is float64 [4, 4]; `intrinsics` holds those of fl_x, fl_y, cx, cy, w, h, camera_angle_x,
    camera_angle_y that were given; `source` is the json that names the picture.
    """

    image: Path
    name: str
    c2w: np.ndarray
    intrinsics: dict[str, float]
    source: Path


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`; `InputError` where it is missing, no UTF-8, no JSON or no object."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: must be a JSON file, was not there") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: must be readable JSON: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object, was {type(content).__name__}")
    return content


def frame_list(content: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The `frames` of a transforms file; `InputError` where that is no list of objects."""
    frames = content.get("frames")
    if not isinstance(frames, list):
        raise InputError(f"{path}: key 'frames' must be a list, was {_kind(frames)}")
    for k, frame in enumerate(frames):
        if not isinstance(frame, dict):
            raise InputError(f"{path}: frames[{k}] must be an object, was {_kind(frame)}")
    return frames


def _kind(value: object) -> str:
    return "missing" if value is None else type(value).__name__


def number(content: dict[str, Any], key: str, path: Path) -> float | None:
    """The finite number under `key`, None where there is none."""
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{path}: key {key!r} must be a finite number, was {value!r}")
    return float(value)


def text(content: dict[str, Any], key: str, path: Path) -> str:
    """The string under `key`, which must be there."""
    value = content.get(key)
    if not isinstance(value, str) or not value or "\0" in value:
        raise InputError(f"{path}: key {key!r} must be a file name, was {_kind(value) if value != '' else repr(value)}")
    return value


def matrix(value: object, what: str, shapes: tuple[tuple[int, int], ...] = ((4, 4),)) -> np.ndarray:
    """`value` as a float64 matrix of one of `shapes`."""
    names = " or ".join(f"{rows}x{columns}" for rows, columns in shapes)
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{what}: must be a {names} matrix of numbers, was {_kind(value)}") from None
    if array.shape not in shapes:
        raise InputError(f"{what}: must be a {names} matrix, was {_kind(value)} of shape {array.shape}")
    if not np.isfinite(array).all():
        raise InputError(f"{what}: must be finite, holds NaN or infinity")
    return array


def pose(value: object, what: str) -> np.ndarray:
    """`value` as a camera-to-world matrix, float64 [4, 4]; `InputError` where it is none (see
    `check_poses`)."""
    array = matrix(value, what)
    check_poses(torch.from_numpy(array)[None], what)
    return array


def safe_path(root: Path, folder: Path, name: str, source: Path) -> Path:
    """`folder / name`, which must lie inside `root` even after symbolic links are followed."""
    if Path(name).is_absolute() or name.startswith(("\\", "/")) or ":" in name[:3]:
        raise InputError(f"{source}: file_path must be relative, was {name!r}")
    path = folder / name.replace("\\", "/")
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError) as error:
        raise InputError(f"{source}: file_path {name!r} cannot be resolved: {error}") from None
    if not inside:
        raise InputError(f"{source}: file_path must stay inside the data folder {root}, was {name!r}")
    return path


def shown_name(root: Path, path: Path) -> str:
    """`path` as seen from `root`, for people."""
    return path.resolve().relative_to(root.resolve()).as_posix()


def target_size(width: int, height: int, downscale: float, max_side: int | None) -> tuple[int, int]:
    """Size that a picture is reduced to; never larger than it is."""
    factor = 1.0 / downscale if max_side is None else min(1.0, max_side / max(width, height))
    return max(1, round(width * factor)), max(1, round(height * factor))


def read_image(path: Path, downscale: float = 1.0, max_side: int | None = None) -> tuple[np.ndarray, tuple[int, int]]:
    """Decode a picture: uint8 [h, w, 3] reduced with a box filter, and its size (width, height) in the file.

    Transparency is composited on white, before the reduction.
    """
    from PIL import Image

    picture = decoded(path)
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        rgba = np.asarray(picture.convert("RGBA"), np.float32)
        alpha = rgba[..., 3:] / 255.0
        picture = Image.fromarray((rgba[..., :3] * alpha + 255.0 * (1.0 - alpha) + 0.5).astype(np.uint8))
    picture = picture.convert("RGB")
    size = picture.size
    wanted = target_size(*size, downscale, max_side)
    if wanted != size:
        picture = picture.resize(wanted, Image.Resampling.BOX)
    return np.array(picture), size


def decoded(path: Path, content: bytes | None = None) -> Image.Image:
    """The whole picture in `path`, in the file's own mode; `InputError` where it is missing, none or torn. With
    `content` the picture is those bytes, and `path` what an error calls it."""
    from PIL import Image

    def source() -> Path | io.BytesIO:
        return path if content is None else io.BytesIO(content)

    try:
        with Image.open(source()) as checked:
            # Decoding stops at the last pixel: a PNG whose end is missing or damaged shows in its
            # checksums only.
            if checked.format == "PNG":
                checked.verify()
        with Image.open(source()) as opened:
            opened.load()  # decodes all of it: a torn file fails here and not as a grey stripe
            return opened
    except FileNotFoundError:
        raise InputError(f"{path}: must be an image, was not there") from None
    except (
        OSError,
        ValueError,
        SyntaxError,
        EOFError,
        IndexError,
        TypeError,
        Image.DecompressionBombError,
    ) as error:
        raise InputError(f"{path}: must be a whole readable image: {error}") from None


def load_set(frames: list[Frame], downscale: float, max_side: int | None, empty: tuple[int, int] = (1, 1)) -> ImageSet:
    """Read the frames' pictures and make their cameras, at the reduced size; `empty` is the size where
    none is.

    Raises:
        InputError: a picture unreadable, of another size than the first or than its json says, or without
            a focal length.
    """
    if not frames:
        none = torch.zeros(0)
        cameras = Cameras(torch.zeros(0, 3, 4), none, none, none, none, *empty)
        return ImageSet(torch.zeros(0, empty[1], empty[0], 3, dtype=torch.uint8), cameras, ())
    with ThreadPoolExecutor(IMAGE_THREADS) as pool:
        loaded = list(pool.map(lambda frame: read_image(frame.image, downscale, max_side), frames))
    width, height = loaded[0][1]
    columns: list[tuple[float, float, float, float]] = []
    for frame, (_, size) in zip(frames, loaded, strict=True):
        if size != (width, height):
            raise InputError(
                f"{frame.image}: all images must have one size, {width}x{height} as the first, was {size[0]}x{size[1]}"
            )
        columns.append(pinhole(frame, width, height))
    small = loaded[0][0].shape
    fx, fy, cx, cy = torch.tensor(columns, dtype=torch.float32).T
    poses = torch.from_numpy(np.stack([frame.c2w for frame in frames]))
    cameras = Cameras(poses, fx, fy, cx, cy, width, height).resized(small[1], small[0])
    images = torch.from_numpy(np.stack([image for image, _ in loaded]))
    return ImageSet(images, cameras, tuple(frame.name for frame in frames))


def pinhole(frame: Frame, width: int, height: int) -> tuple[float, float, float, float]:
    """fx, fy, cx, cy in pixels of the picture as the file has it."""
    given = frame.intrinsics
    for key, size in (("w", width), ("h", height)):
        if key in given and given[key] != size:
            raise InputError(
                f"{frame.image}: {key!r} in {frame.source.name} must be the image's {size}, was {given[key]:g}"
            )
    fx, fy = given.get("fl_x"), given.get("fl_y")
    for key in ("camera_angle_x", "camera_angle_y"):
        if key in given and not 0 < given[key] < math.pi:
            raise InputError(f"{frame.source}: key {key!r} must be in (0, pi) radians, was {given[key]:g}")
    if fx is None and "camera_angle_x" in given:
        fx = 0.5 * width / math.tan(0.5 * given["camera_angle_x"])
    if fy is None and "camera_angle_y" in given:
        fy = 0.5 * height / math.tan(0.5 * given["camera_angle_y"])
    fx = fy if fx is None else fx
    if fx is None:
        raise InputError(
            f"{frame.source}: must have 'fl_x' or 'camera_angle_x' (focal length) for {frame.name}, has none"
        )
    fy = fx if fy is None else fy
    if not (fx > 0 and fy > 0):
        raise InputError(f"{frame.source}: focal lengths must be positive, were {fx:g} and {fy:g}")
    return fx, fy, given.get("cx", width / 2), given.get("cy", height / 2)


def intrinsics_of(contents: list[dict[str, Any]], path: Path) -> dict[str, float]:
    """The intrinsics that the objects hold, the last one first in rank; refuses lenses that are no
    pinhole."""
    found: dict[str, float] = {}
    for content in contents:
        model = content.get("camera_model")
        if model is not None and (not isinstance(model, str) or model.upper() not in PINHOLE_MODELS):
            raise InputError(
                f"{path}: camera_model must be a pinhole, was {model!r}: undistort the images first "
                "(for example with colmap image_undistorter)"
            )
        if content.get("is_fisheye"):
            raise InputError(f"{path}: must be a pinhole camera, is_fisheye was set: undistort the images first")
        for key in ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2"):
            value = number(content, key, path)
            if value:
                raise InputError(
                    f"{path}: distortion coefficient {key!r} must be 0, was {value:g}: undistort the images first"
                )
        for key in ("fl_x", "fl_y", "cx", "cy", "w", "h", "camera_angle_x", "camera_angle_y"):
            value = number(content, key, path)
            if value is not None:
                found[key] = value
    return found


# Models whose coefficients may all be zero, which makes them pinholes.
PINHOLE_MODELS = (
    "PINHOLE",
    "SIMPLE_PINHOLE",
    "OPENCV",
    "FULL_OPENCV",
    "SIMPLE_RADIAL",
    "RADIAL",
    "PERSPECTIVE",
)


def box_of(value: object, what: str) -> Tensor:
    """`value` as a float32 box [2, 3]."""
    from mclnf_fast.data.scene import check_aabb

    box = torch.from_numpy(matrix(value, what, ((2, 3),))).to(torch.float32)
    check_aabb(box, what)
    return box
