"""Reads the cameras and the posed images of a COLMAP model, text or binary; every fault names its file."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mclnf_fast.errors import InputError
from mclnf_fast.render.lenses.lens import Lens, Projection, make_lens

PERSPECTIVE, FISHEYE = Projection.PERSPECTIVE, Projection.EQUIDISTANT
FOCAL, FOCALS = ("fl", "cx", "cy"), ("fl_x", "fl_y", "cx", "cy")
# By number in binary files: the name, the projection and the parameters in their order.
MODELS: dict[int, tuple[str, Projection, tuple[str, ...]]] = {
    0: ("SIMPLE_PINHOLE", PERSPECTIVE, FOCAL),
    1: ("PINHOLE", PERSPECTIVE, FOCALS),
    2: ("SIMPLE_RADIAL", PERSPECTIVE, (*FOCAL, "k1")),
    3: ("RADIAL", PERSPECTIVE, (*FOCAL, "k1", "k2")),
    4: ("OPENCV", PERSPECTIVE, (*FOCALS, "k1", "k2", "p1", "p2")),
    5: ("OPENCV_FISHEYE", FISHEYE, (*FOCALS, "k1", "k2", "k3", "k4")),
    6: ("FULL_OPENCV", PERSPECTIVE, (*FOCALS, "k1", "k2", "p1", "p2", "k3", "d1", "d2", "d3")),
    7: ("FOV", Projection.FOV, (*FOCALS, "omega")),
    8: ("SIMPLE_RADIAL_FISHEYE", FISHEYE, (*FOCAL, "k1")),
    9: ("RADIAL_FISHEYE", FISHEYE, (*FOCAL, "k1", "k2")),
    10: ("THIN_PRISM_FISHEYE", FISHEYE, (*FOCALS, "k1", "k2", "p1", "p2", "k3", "k4", "s1", "s2")),
    14: ("SIMPLE_FISHEYE", FISHEYE, FOCAL),
    15: ("FISHEYE", FISHEYE, FOCALS),
}
# Known, and refused by these names.
OTHERS = {11: "RAD_TAN_THIN_PRISM_FISHEYE", 12: "SIMPLE_DIVISION", 13: "DIVISION", 16: "EUCM", 17: "EQUIRECTANGULAR"}
NUMBERS = {name: number for number, (name, _, _) in MODELS.items()}
MOST_CAMERAS = 10_000_000  # a count above it is of a damaged file


@dataclass(frozen=True)
class ColmapCamera:
    """One camera of a model.

    Attributes:
        intrinsics: fl_x, fl_y, cx, cy, w and h, in pixels.
        lens: its distortion; None: a pinhole.

    >>> ColmapCamera({"fl_x": 8.0, "fl_y": 8.0, "cx": 4.0, "cy": 4.0, "w": 8.0, "h": 8.0}, None).lens is None
    True
    """

    intrinsics: dict[str, float]
    lens: Lens | None


@dataclass(frozen=True)
class ColmapImage:
    """One posed image of a model.

    Attributes:
        name: path below the folder of pictures.
        camera: the number of its camera.
        c2w: camera-to-world matrix, float64 [4, 4], OpenGL's axes.

    >>> ColmapImage("a.png", 1, np.eye(4)).camera
    1
    """

    name: str
    camera: int
    c2w: np.ndarray


def read_cameras(path: Path) -> dict[int, ColmapCamera]:
    """Return the cameras of `cameras.bin` or `cameras.txt` by their numbers.

    Raises:
        InputError: a damaged file, a model that is not read, a wrong number of parameters, one that is not finite, a
            number that stands twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "cameras.txt")
    ...     _ = path.write_text("1 SIMPLE_RADIAL 8 6 10 4 3 0.1\\n")
    ...     cameras = read_cameras(path)
    >>> cameras[1].intrinsics["fl_y"], cameras[1].lens.coefficients[0, 0].item()
    (10.0, 0.1)
    """
    cameras: dict[int, ColmapCamera] = {}
    rows = _binary_cameras(path) if path.suffix == ".bin" else _text_cameras(path)
    for number, model, size, parameters in rows:
        if number in cameras:
            raise InputError(f"{path}: must have each camera once, {number} stands twice")
        cameras[number] = _camera(path, number, model, size, parameters)
    return cameras


def read_images(path: Path) -> list[ColmapImage]:
    """Return the images of `images.bin` or `images.txt`, by name.

    Raises:
        InputError: a damaged file, a rotation or a position that is none, a name that is empty or stands twice.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "images.txt")
    ...     _ = path.write_text("1 1 0 0 0 0 0 4 1 left/my picture.png\\n\\n")
    ...     image = read_images(path)[0]
    >>> image.name, image.c2w[2].tolist()  # at z = -4, and its own z points backwards
    ('left/my picture.png', [0.0, -0.0, -1.0, -4.0])
    """
    images: dict[str, ColmapImage] = {}
    rows = _binary_images(path) if path.suffix == ".bin" else _text_images(path)
    for name, camera, pose in rows:
        if not name or name in images:
            raise InputError(f"{path}: must name each image once, {name!r} {'stands twice' if name else 'is no name'}")
        images[name] = ColmapImage(name, camera, _camera_to_world(pose, f"{path}: image {name!r}"))
    return [images[name] for name in sorted(images)]


def _camera(path: Path, number: int, model: int, size: tuple[int, int], parameters: list[float]) -> ColmapCamera:
    name, projection, names = MODELS[model]
    if len(parameters) != len(names):
        raise InputError(
            f"{path}: camera {number} of model {name} must have {len(names)} parameters ({', '.join(names)}), has "
            f"{len(parameters)}"
        )
    if not np.isfinite(parameters).all():
        raise InputError(f"{path}: camera {number} must have finite parameters, were {parameters}")
    known = dict(zip(names, parameters))
    focal = known.pop("fl", 0.0)
    intrinsics = {key: known.pop(key, focal) for key in FOCALS} | {"w": float(size[0]), "h": float(size[1])}
    # A field of view of 0 is no distortion; the formula is 0 / 0 there.
    if (projection == PERSPECTIVE and not any(known.values())) or known.get("omega") == 0:
        return ColmapCamera(intrinsics, None)
    try:
        return ColmapCamera(intrinsics, make_lens(projection, known))
    except InputError as error:
        raise InputError(f"{path}: camera {number}: {error}") from None


def _camera_to_world(pose: tuple[float, ...], what: str) -> np.ndarray:
    """Return the camera-to-world matrix of a world-to-camera quaternion (w, x, y, z) and translation."""
    values = np.array(pose, np.float64)
    length = float(np.linalg.norm(values[:4]))
    if not np.isfinite(values).all() or not length > 1e-9:
        raise InputError(f"{what} must have a quaternion of length 1 and a finite translation, were {list(pose)}")
    w, x, y, z = values[:4] / length
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    c2w = np.eye(4)
    # From OpenCV's axes (y down, looking along +z) to OpenGL's.
    c2w[:3, :3] = rotation.T * [1.0, -1.0, -1.0]
    c2w[:3, 3] = -(rotation.T @ values[4:])
    return c2w


def _refused(path: Path, camera: int, model: str) -> InputError:
    known = ", ".join(NUMBERS)
    return InputError(f"{path}: camera {camera}: model must be one of {known}, was {model}: undistort the images first")


def _binary_cameras(path: Path) -> Iterator[tuple[int, int, tuple[int, int], list[float]]]:
    content = _bytes(path)
    try:
        (count,), begin = struct.unpack_from("<Q", content), 8
        _check_count(path, count)
        for _ in range(count):
            number, model, width, height = struct.unpack_from("<IiQQ", content, begin)
            if model not in MODELS:
                raise _refused(path, number, f"{OTHERS.get(model, 'unknown')} ({model})")
            size = len(MODELS[model][2])
            yield number, model, (width, height), list(struct.unpack_from(f"<{size}d", content, begin + 24))
            begin += 24 + 8 * size
    except struct.error as error:
        raise InputError(f"{path}: must be a cameras.bin of COLMAP, is cut off: {error}") from None
    _check_end(path, len(content), begin)


def _text_cameras(path: Path) -> Iterator[tuple[int, int, tuple[int, int], list[float]]]:
    for line in _lines(path):
        if not line or line.startswith("#"):
            continue
        words = line.split()
        try:
            number, model, width, height = int(words[0]), words[1], int(words[2]), int(words[3])
            parameters = [float(word) for word in words[4:]]
        except (IndexError, ValueError):
            raise InputError(
                f"{path}: a line must be a camera's number, model, width, height and parameters, was {line[:80]!r}"
            ) from None
        if model not in NUMBERS:
            raise _refused(path, number, model)
        yield number, NUMBERS[model], (width, height), parameters


def _binary_images(path: Path) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    content = _bytes(path)
    try:
        (count,), begin = struct.unpack_from("<Q", content), 8
        _check_count(path, count)
        for _ in range(count):
            _, *pose, camera = struct.unpack_from("<I7dI", content, begin)
            end = content.index(b"\0", begin + 64)
            name = content[begin + 64 : end].decode("utf-8")
            (points,) = struct.unpack_from("<Q", content, end + 1)
            begin = end + 9 + 24 * points
            yield name, camera, tuple(pose)
    except (struct.error, ValueError) as error:
        raise InputError(f"{path}: must be an images.bin of COLMAP, is cut off or damaged: {error}") from None
    _check_end(path, len(content), begin)


def _text_images(path: Path) -> Iterator[tuple[str, int, tuple[float, ...]]]:
    lines = iter(_lines(path))
    for line in lines:
        if not line or line.startswith("#"):
            continue
        words = line.split(maxsplit=9)  # a name may hold blanks
        try:
            pose, camera, name = tuple(float(word) for word in words[1:8]), int(words[8]), words[9]
        except (IndexError, ValueError):
            raise InputError(
                f"{path}: a line must be an image's number, quaternion, translation, camera and name, was {line[:80]!r}"
            ) from None
        # The line behind it lists its points, and is empty if it has none.
        next(lines, "")
        yield name, camera, pose


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: must be a readable file: {error.strerror or error}") from None


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in _bytes(path).decode("utf-8-sig").split("\n")]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: must be text in UTF-8: {error}") from None


def _check_count(path: Path, count: int) -> None:
    if count > MOST_CAMERAS:
        raise InputError(f"{path}: must hold at most {MOST_CAMERAS} entries, names {count}: it is damaged")


def _check_end(path: Path, size: int, end: int) -> None:
    if size != end:
        raise InputError(f"{path}: must end behind its last entry, at byte {end}, has {size} bytes: it is damaged")
