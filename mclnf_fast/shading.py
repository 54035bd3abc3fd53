"""How the outputs of a radiance field become pixels: one record for training, rendering and storing."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mclnf_fast.errors import InputError

DensityActivation = Literal["relu", "exp"]
ColorActivation = Literal["sigmoid"]
NamedBackground = Literal["black", "white", "last_sample"]
Color = tuple[float, float, float]


@dataclass(frozen=True)
class Shading:
    """The meaning of the 4 outputs of a radiance field, and what stands behind the samples of its rays.

    A ray with samples i = 1 ... n, front to back, of density s_i, color c_i and spacing d_i has the pixel (NeRF, arXiv
    2003.08934, eq. 3)

        pixel = sum_i T_i (1 - exp(-s_i d_i)) c_i + T_(n+1) background,    T_i = exp(-sum_(j<i) s_j d_j)

    A shading is stored with every bank that renders: the same weights show another picture under another one.

    Attributes:
        density_activation: `relu`: s = max(raw, 0); `exp`: s = exp(min(raw, max_raw_density)), and never infinite.
        density_first: the raw density is output 0 and the raw colors are outputs 1 to 3; otherwise the raw colors are
            outputs 0 to 2 and the raw density is output 3.
        max_raw_density: the largest raw density under `exp`. Beyond exp(9) a sample is opaque at any useful spacing,
            and only gradients grow.
        color_activation: `sigmoid`, the only one that the compiled loss knows.
        background: `black`, `white`, a color (r, g, b) in [0, 1], or `last_sample`: the color of the ray's last sample
            also stands behind it, whatever its density (the ground below a city, the sky of a photo).
        missed: under `last_sample`, the color of a ray without samples (it misses the box in which the field lives).
        detach_last_density: the density of a ray's last sample gets no gradient. Needed if that sample's spacing is
            endless (1e10): its opacity is then a switch, whose derivative is 0 or overflows.
        view_directions: the field takes the unit direction of the ray after the position, 6 coordinates in place of 3.

    Raises:
        InputError: a field has a value that is not allowed; the message names the field.

    Example:
        >>> shading = Shading("exp", density_first=True, max_raw_density=9.0, background="white")
        >>> Shading.from_dict(shading.to_dict()) == shading
        True
    """

    density_activation: DensityActivation = "relu"
    density_first: bool = False
    max_raw_density: float = math.inf
    color_activation: ColorActivation = "sigmoid"
    background: NamedBackground | Color = "black"
    missed: Color = (0.0, 0.0, 0.0)
    detach_last_density: bool = False
    view_directions: bool = False

    def __post_init__(self) -> None:
        for name, choices in (("density_activation", DensityActivation), ("color_activation", ColorActivation)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise InputError(f"{name} must be one of {', '.join(get_args(choices))}, got {value!r}")
        for name in ("density_first", "detach_last_density", "view_directions"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} must be true or false, got {getattr(self, name)!r}")
        if not _is_number(self.max_raw_density) or math.isnan(self.max_raw_density):
            raise InputError(f"max_raw_density must be a number, got {self.max_raw_density!r}")
        object.__setattr__(self, "background", _checked_background(self.background))
        object.__setattr__(self, "missed", _checked_color("missed", self.missed))

    @property
    def background_color(self) -> Color | None:
        """The color behind every ray, or None if a ray's last sample stands there (`last_sample`).

        >>> Shading(background="white").background_color
        (1.0, 1.0, 1.0)
        """
        named: dict[Any, Color | None] = {"black": (0.0,) * 3, "white": (1.0,) * 3, "last_sample": None}
        return named[self.background] if isinstance(self.background, str) else self.background

    def density_and_color(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """Return density [...] and color [..., 3] of raw outputs [..., 4].

        >>> import torch
        >>> density, color = Shading("exp", density_first=True).density_and_color(torch.zeros(2, 4))
        >>> density.tolist(), color[0].tolist()
        ([1.0, 1.0], [0.5, 0.5, 0.5])
        """
        # The sigmoid is taken of all four outputs: of a strided view of three it takes seven times as long.
        color = raw.sigmoid()[..., 1:] if self.density_first else raw.sigmoid()[..., :3]
        density = raw[..., 0] if self.density_first else raw[..., 3]
        if self.density_activation == "relu":
            return density.relu(), color
        return density.clamp(max=self.max_raw_density_in(raw.dtype)).exp(), color

    def max_raw_density_in(self, dtype: torch.dtype) -> float:
        """Return the largest raw density under `exp` of a dtype, whose exponential is finite: an infinite one has no
        usable derivative.

        >>> Shading("exp").max_raw_density_in(torch.float32)
        88
        """
        return min(self.max_raw_density, math.floor(math.log(torch.finfo(dtype).max)))

    def to_dict(self) -> dict[str, Any]:
        """Return the shading as plain data for JSON and YAML; `from_dict` reads it back.

        An infinite `max_raw_density` becomes None, since JSON has no infinity.

        >>> Shading().to_dict()["max_raw_density"] is None
        True
        """
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        plain["max_raw_density"] = None if self.max_raw_density == math.inf else self.max_raw_density
        plain["background"] = self.background if isinstance(self.background, str) else list(self.background)
        plain["missed"] = list(self.missed)
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Shading:
        """Return the shading that `to_dict` described; keys that are missing have their default.

        Raises:
            InputError: `data` is no mapping, has an unknown key, or a value that is not allowed; the message names it.

        >>> Shading.from_dict({"background": [0.5, 0.5, 1.0]}).background
        (0.5, 0.5, 1.0)
        """
        if not isinstance(data, Mapping):
            raise InputError(f"shading must be a mapping, got {type(data).__name__}")
        names = [field.name for field in fields(cls)]
        if unknown := sorted(str(key) for key in set(data) - set(names)):
            raise InputError(f"shading has unknown fields {', '.join(unknown)}; it has {', '.join(names)}")
        values = dict(data)
        if values.get("max_raw_density", 0.0) is None:
            values["max_raw_density"] = math.inf
        try:
            return cls(**values)
        except InputError as error:
            raise InputError(f"shading: {error}") from error


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _checked_background(value: object) -> NamedBackground | Color:
    if isinstance(value, str) and value in get_args(NamedBackground):
        return value  # type: ignore[return-value]  # checked against the Literal
    return _checked_color("background", value, f"one of {', '.join(get_args(NamedBackground))}, or ")


def _checked_color(name: str, value: object, or_else: str = "") -> Color:
    if isinstance(value, tuple | list) and len(value) == 3 and all(_is_number(v) and 0 <= v <= 1 for v in value):
        red, green, blue = (float(v) for v in value)
        return red, green, blue
    raise InputError(f"{name} must be {or_else}three numbers in [0, 1], got {value!r}")


SCENE_SHADING = Shading("exp", density_first=True, max_raw_density=9.0, background="last_sample")
"""Of fields in the cells of a scene: exponential density in the first output, the ground behind everything."""

OBJECT_SHADING = Shading("relu", background="white")
"""Of fields of single objects (arXiv 2012.02189): density by relu in the last output, white behind."""
