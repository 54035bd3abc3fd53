"""Settings of rendering: how rays are cut into samples, and how these are shaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from mclnf_fast.errors import InputError
from mclnf_fast.shading import OBJECT_SHADING, SCENE_SHADING, Color, NamedBackground, Shading

Convention = Literal["blog", "learnit"]
LAST_DELTA: dict[str, float] = {"blog": 1e10, "learnit": 1e-3}
"""Spacing of a ray's last sample, which no other follows; the blog's makes it opaque at any density."""


@dataclass(frozen=True)
class RenderSettings:
    """How rays are cut into samples and shaded.

    Attributes:
        samples_per_ray: S. In a cell, S equal intervals between the ray's entry and exit.
        near, far: where rays begin and end, in lengths of their directions: scene units if these have length 1.
        convention: how a ray is cut. `cell`: within the cell of its module (`sample_in_cells`). Between `near` and
            `far` (`sample_between`), of Learned Initializations (arXiv 2012.02189): `blog`, as its authors' text has
            it, each sample uniform between the middles of neighboring edges, the last spacing endless; `learnit`, as
            their notebook has it, with directions of length 1 along the camera's axis (near and far are then depths),
            each sample uniform over (far - near) / S from its edge on, the last spacing 1e-3.
        shading: how the field's outputs become pixels; its background is what stands behind the samples. Under `blog`
            its `detach_last_density` is always set, since an endless spacing has no useful gradient.
        chunk: rays at a time when no gradient is needed.
        backend: of every op, see `mclnf_fast.info()`.

    Raises:
        InputError: a number or name is out of range; the message names it.

    Example:
        >>> from dataclasses import replace
        >>> settings = RenderSettings(samples_per_ray=32)
        >>> white = replace(settings, shading=replace(settings.shading, background="white"))
        >>> white.shading.background_color
        (1.0, 1.0, 1.0)
    """

    samples_per_ray: int = 48
    near: float = 0.0
    far: float = math.inf
    convention: Convention | Literal["cell"] = "cell"
    shading: Shading = SCENE_SHADING
    chunk: int = 8192
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.convention not in ("cell", *get_args(Convention)):
            choices = ", ".join(("cell", *get_args(Convention)))
            raise InputError(f"convention must be one of {choices}, got {self.convention!r}")
        least = 1 if self.convention == "cell" else 2
        if self.samples_per_ray < least:
            raise InputError(f"samples_per_ray must be at least {least}, got {self.samples_per_ray}")
        if not 0 <= self.near < self.far or (self.convention != "cell" and not self.far < math.inf):
            finite = "" if self.convention == "cell" else ", finite"
            raise InputError(f"near and far must be 0 <= near < far{finite}, got {self.near} and {self.far}")
        if self.convention == "blog" and not self.shading.detach_last_density:
            object.__setattr__(self, "shading", replace(self.shading, detach_last_density=True))

    @classmethod
    def between(
        cls,
        near: float = 2.0,
        far: float = 6.0,
        samples_per_ray: int = 128,
        convention: Convention = "blog",
        background: NamedBackground | Color = "white",
        backend: str = "auto",
    ) -> RenderSettings:
        """Return the settings of single objects (arXiv 2012.02189): between two distances, white behind.

        Use the background `last_sample` for photos of a place: a ray that meets nothing ends in the field's sky.

        >>> RenderSettings.between(2.0, 6.0, samples_per_ray=64).shading.density_activation
        'relu'
        """
        shading = replace(OBJECT_SHADING, background=background)
        return cls(samples_per_ray, near, far, convention, shading, backend=backend)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data for JSON; `from_dict` reads it back. An infinite `far` becomes None.

        >>> RenderSettings.between().to_dict()["samples_per_ray"]
        128
        """
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**plain, "far": None if self.far == math.inf else self.far, "shading": self.shading.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> RenderSettings:
        """Return the settings that `to_dict` described, or those that a file of version 0.1 holds.

        Such a file has `bins` in place of `samples_per_ray`, and `background` (`white` or `field`) in place of a
        shading, which was that of `RenderSettings.between`.

        Raises:
            InputError: `data` is no mapping, has an unknown key, or a value out of range; the message names it.

        >>> RenderSettings.from_dict({"bins": 8, "near": 1.0, "far": 3.0}).samples_per_ray
        8
        """
        if not isinstance(data, Mapping):
            raise InputError(f"settings must be a mapping, got {type(data).__name__}")
        values = dict(data)
        if "bins" in values:
            values["samples_per_ray"] = values.pop("bins")
            named: dict[Any, NamedBackground] = {"white": "white", "field": "last_sample"}
            background = values.pop("background", "white")
            if background not in named:
                raise InputError(f"background must be one of {', '.join(named)}, got {background!r}")
            values["shading"] = replace(OBJECT_SHADING, background=named[background])
            values = {"near": 2.0, "far": 6.0, "convention": "blog", **values}
        elif "shading" in values:
            values["shading"] = Shading.from_dict(values["shading"])
        names = [field.name for field in fields(cls)]
        if unknown := sorted(str(key) for key in set(values) - set(names)):
            raise InputError(f"settings have unknown fields {', '.join(unknown)}; they have {', '.join(names)}")
        if values.get("far", 0.0) is None:
            values["far"] = math.inf
        return cls(**values)


def check_convention(settings: RenderSettings, *allowed: str) -> None:
    """Raise ValueError if the settings cut rays in another way than one of `allowed`.

    >>> check_convention(RenderSettings(), "cell")
    """
    if settings.convention not in allowed:
        raise ValueError(f"settings.convention must be {' or '.join(allowed)} here, got {settings.convention!r}")
