"""Reads what a `transforms.json` says of its cameras' lenses and of parts of pictures that are not to be learned.

Distortion as nerfstudio, instant-ngp and OpenCV have it becomes a `Lens`. Whatever else is no pinhole is refused: rays
through such a picture would miss by many pixels at its edge.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

from mclnf_fast.data.readers.files import read_matrix, read_number
from mclnf_fast.errors import InputError
from mclnf_fast.render.lenses.lens import Lens, Projection, make_lens

PINHOLES = ("PINHOLE", "SIMPLE_PINHOLE")
PERSPECTIVES = (*PINHOLES, "OPENCV", "FULL_OPENCV", "SIMPLE_RADIAL", "RADIAL", "PERSPECTIVE")
FISHEYES = ("OPENCV_FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE")
FISHEYE_KEYS = ("is_fisheye", "fisheye")  # by which instant-ngp says that the coefficients are a fisheye's
LENS = ("k1", "k2", "k3", "k4", "p1", "p2")
RATIONAL = {"k4": "d1", "k5": "d2", "k6": "d3"}  # in FULL_OPENCV, where nerfstudio's k4 is one more power
FOCALS = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y")
DEGREES = {"x_fov": "camera_angle_x", "y_fov": "camera_angle_y"}  # the same angles, in degrees
MATRICES = ("intrinsic_matrix", "intrinsics", "K")
# Keys by which writers say that a picture is no pinhole's, beside `camera_model`.
OTHER_LENS = re.compile(
    r"(is_)?(equirectangular|panorama|panoramic|spherical|latlong|lat_long|omnidirectional|orthographic)"
    r"|(is_)?cylindrical|f_?theta\w*|fisheye_\w+"
)
KINDS = ("projection", "projection_type", "camera_type", "lens", "lens_type", "lens_model")  # if they are words
DISTORTION = re.compile(
    r"k[1-9]|p[1-4]|s[1-4]|b[12]|tau_[xy]|skew|(radial_|tangential_)?distortion(_params|_parameters|_coeffs"
    r"|_coefficients)?"
)
MASK = re.compile(r"\w*mask\w*|black_transparent")


def read_intrinsics(contents: list[dict[str, Any]], path: Path) -> dict[str, float]:
    """Return the intrinsics in JSON objects; a later object's values replace an earlier one's.

    An object's own focal lengths or fields of view, in whichever key, replace all of those of earlier ones.

    Raises:
        InputError: a panorama or another camera model, a distortion that `read_lens` does not know, a rolling shutter,
            a value that is no number.

    >>> read_intrinsics([{"w": 8, "fl_x": 5}, {"camera_angle_x": 1}], Path("transforms.json"))
    {'w': 8.0, 'camera_angle_x': 1.0}
    """
    intrinsics: dict[str, float] = {}
    for content in contents:
        _check_lens(content, path)
        own = _matrix_of(content, path)
        for key in (*FOCALS, *DEGREES, "cx", "cy", "w", "h"):
            value = read_number(content, key, path)
            if value is not None:
                own.setdefault(DEGREES.get(key, key), math.radians(value) if key in DEGREES else value)
        # A frame's angle beside the file's focal length: what the frame says of itself stands above.
        if any(key in own for key in FOCALS):
            intrinsics = {key: value for key, value in intrinsics.items() if key not in FOCALS}
        intrinsics |= own
    return intrinsics


def _matrix_of(content: dict[str, Any], path: Path) -> dict[str, float]:
    """Return the intrinsics in a matrix of the object, by the names of the others."""
    own: dict[str, float] = {}
    for key in MATRICES:
        if content.get(key) is None:
            continue
        matrix = read_matrix(content[key], f"{path}: key {key!r}", ((3, 3), (4, 4)))
        if matrix[0, 1] or matrix[1, 0]:
            raise InputError(f"{path}: key {key!r} must be without skew, was {matrix[:2, :2].tolist()}")
        own = {"fl_x": matrix[0, 0], "fl_y": matrix[1, 1], "cx": matrix[0, 2], "cy": matrix[1, 2]}
    return {key: float(value) for key, value in own.items()}


def read_lens(contents: list[dict[str, Any]], path: Path) -> Lens | None:
    """Return the lens of a camera, None of a pinhole; a later object's coefficients replace all of an earlier one's.

    k1 to k4 are coefficients of the squared distance from the center and its powers (of a fisheye: of the squared
    angle), p1 and p2 the tangential ones. Under the camera_model FULL_OPENCV k4, k5 and k6 are those of the
    denominator.

    Raises:
        InputError: a fisheye that its camera_model says is none, coefficients that its model does not have.

    >>> read_lens([{"k1": 0.1}, {"camera_angle_x": 1}], Path("transforms.json")).coefficients[0, 0].item()
    0.1
    >>> read_lens([{"k1": 0.1}, {"k1": 0, "k2": 0}], Path("transforms.json")) is None
    True
    """
    model, fisheye, values = "", False, dict[str, float]()
    for content in contents:
        model = (content.get("camera_model") or model).upper()
        for key in FISHEYE_KEYS:
            if content.get(key) is not None:
                fisheye = bool(content[key])
        numbers = {key: read_number(content, key, path) for key in (*LENS, *RATIONAL)}
        if any(value is not None for value in numbers.values()):
            values = {key: value for key, value in numbers.items() if value}
    if fisheye and model in PERSPECTIVES:
        raise InputError(f"{path}: must be of one lens, camera_model was {model!r} and is_fisheye was set")
    for key in values:
        if model in PINHOLES or (key not in LENS and model != "FULL_OPENCV"):
            raise InputError(
                f"{path}: distortion coefficient {key!r} must be 0 of camera_model {model!r}, was {values[key]:g}"
            )
    fisheye = fisheye or model in FISHEYES
    if not values and not fisheye:
        return None
    if model == "FULL_OPENCV":
        values = {RATIONAL.get(key, key): value for key, value in values.items()}
    return make_lens(Projection.EQUIDISTANT if fisheye else Projection.PERSPECTIVE, values)


def _check_lens(content: dict[str, Any], path: Path) -> None:
    model = content.get("camera_model")
    if model is not None and (not isinstance(model, str) or model.upper() not in (*PERSPECTIVES, *FISHEYES)):
        raise InputError(
            f"{path}: camera_model must be one of {', '.join((*PERSPECTIVES, *FISHEYES))}, was {model!r}: undistort "
            "the images first (for example with colmap image_undistorter)"
        )
    for key, value in content.items():
        if key in FISHEYE_KEYS and value not in (None, 0, 1):
            raise InputError(f"{path}: key {key!r} must be true or false, was {value!r}")
        if key in KINDS and isinstance(value, str) and value.upper() not in (*PERSPECTIVES, "PERSP"):
            raise InputError(f"{path}: must be a pinhole camera, {key} was {value!r}: undistort the images first")
        if OTHER_LENS.fullmatch(key) and value:
            raise InputError(f"{path}: must be a pinhole camera, {key} was set: undistort the images first")
        if key == "rolling_shutter" and _is_any(value, key, path):
            raise InputError(f"{path}: must be without a rolling shutter, was {value!r}")
        if key not in (*LENS, *RATIONAL) and DISTORTION.fullmatch(key) and _is_any(value, key, path):
            was = f"{value:g}" if isinstance(value, (int, float)) else repr(value)[:80]
            raise InputError(f"{path}: distortion coefficient {key!r} must be 0, was {was}: undistort the images first")


def _is_any(value: object, key: str, path: Path) -> bool:
    """Return whether a number, or one of a list or an object of numbers, is not 0."""
    values = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    return any(bool(read_number({key: one}, key, path)) for one in values)
