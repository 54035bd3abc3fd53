"""Options of `mclnf-fast run single-view`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, arg

from mclnf_fast.errors import InputError
from mclnf_fast.render.settings import Convention, RenderSettings
from mclnf_fast.systems.common.checks import check_at_least
from mclnf_fast.systems.common.config_file import Values, with_options
from mclnf_fast.systems.common.idle import REPLACED, Idle
from mclnf_fast.systems.common.options import SplitOptions, option_value
from mclnf_fast.systems.single_view.views import Inputs
from mclnf_fast.systems.starts.options import FineTuneOptions, RayFieldOptions, RayStartConfig, preset_config

Preset = Literal["blog", "small", "fast"]
Optimizer = Literal["sgd", "adam"]
RATES: dict[Optimizer, float] = {"sgd": 0.5, "adam": 2e-3}
INPUT_VIEWS = 25  # of an object with more: the notebook learns from these, and tests on the others


@dataclasses.dataclass(frozen=True)
class ObjectOptions(SplitOptions):
    """The objects to learn from and to test on, and their views."""

    test_data: Annotated[pathlib.Path | None, arg(name="test-data")] = None
    """Other folder (or mesh) to test on: all of its objects, or `test` many (of its own test set, if it has
    one). Everything else is learned from `data`, or from the procedural objects; pictures must be of one size, and
    scenes of one scale."""
    objects: int = 48
    """Procedural objects, those to test on included."""
    test: int | None = None
    """Objects to test on, unseen in meta-training; default: 6 procedural ones, a quarter of a folder's."""
    views: int | None = None
    """Views of an object; default: 25 procedural ones, all of a folder's."""
    size: int | None = None
    """Side of the views in pixels; default: 128 procedural, as they are in a folder."""
    inputs: Inputs = 1
    """Views of a test object that are learned from, the first; all: every one that the data give to learn from (if they
    keep none to test on, every fifth is kept)."""
    strict: bool = False
    """Refuse a folder with an unreadable object, instead of leaving it out with a warning."""

    def check(self) -> None:
        super().check()
        check_at_least(1, objects=self.objects, size=self.size)
        if self.inputs != "all" and self.inputs < 1:
            raise InputError(f"inputs must be all or at least 1, got {self.inputs}")
        if self.views is not None and self.views < 2:
            raise InputError(f"views must be at least 2, one to learn from and one to test on, got {self.views}")
        if self.path is None and self.test_data is None and not self.tests < self.objects:
            raise InputError(f"test must be below objects ({self.objects}), so that some remain, got {self.tests}")

    def idle(self) -> Idle:
        if self.path is not None:
            return {"objects": REPLACED}
        return {"strict": "without data"} if self.test_data is None else {}

    @property
    def tests(self) -> int:
        """Procedural objects to test on."""
        return min(6, max(1, self.objects // 4)) if self.test is None else self.test


@dataclasses.dataclass(frozen=True)
class ObjectFieldOptions(RayFieldOptions):
    """The field of an object, and the part of rays on which it is sampled."""

    density_bias: float = 0.0
    """Raise a random initialization's raw density by this (texts: 0). Above 0 its density is nowhere cut off, where an
    initialization that white rays have emptied everywhere would stay: it happens with many views and Adam."""

    def check(self) -> None:
        super().check()
        if not math.isfinite(self.density_bias):
            raise InputError(f"density-bias must be finite, got {self.density_bias}")


@dataclasses.dataclass(frozen=True)
class ViewOptions(FineTuneOptions):
    """Fine-tuning on the known views of an object."""

    optimizer: Optimizer = "sgd"
    """Of the steps."""
    lr: float | None = None
    """Rate of the steps; default: 0.5 of sgd, 2e-3 of adam."""
    lr_end: float | None = None
    """Rate of the last step, to which it falls by the same factor each step; default: it stays."""

    def check(self) -> None:
        super().check()
        if self.optimizer not in RATES:
            raise InputError(f"adapt.optimizer must be one of {', '.join(RATES)}, got {self.optimizer!r}")
        if self.lr_end is not None and not 0 < self.lr_end < math.inf:
            raise InputError(f"adapt.lr-end must be above 0 and finite, got {self.lr_end}")

    @property
    def rate(self) -> float:
        """`lr`, or the default of the optimizer."""
        return RATES[self.optimizer] if self.lr is None else self.lr


@dataclasses.dataclass(frozen=True)
class SingleViewConfig(RayStartConfig):
    """Learns an initialization for objects of a category, fine-tunes it on one view of an unseen one, and shows the
    others."""

    kind: ClassVar[str] = "single-view"
    presets: ClassVar[Mapping[str, Values]] = {
        "blog": {},
        "small": {
            "curve-views": 4, "size": 64, "width": 64, "hidden-layers": 4, "max-exp": 5.0, "samples-per-ray": 32,
            "tune.rates": (0.1, 2.0), "tune.density-bias": (0.1, 1.0),
            "meta.batch": 64, "meta.steps": 600, "meta.tasks": 8, "meta.inner-steps": 16, "meta.outer-lr": 4e-3,
        },
        "fast": {
            "objects": 32, "curve-views": 4, "size": 48, "width": 64, "hidden-layers": 3, "max-exp": 5.0,
            "samples-per-ray": 32, "meta.batch": 32, "tune.rates": (0.1, 2.0), "tune.density-bias": (0.1, 1.0),
            "meta.steps": 300, "meta.tasks": 8, "meta.inner-steps": 16, "meta.outer-lr": 4e-3,
        },
    }  # fmt: skip
    quick_values: ClassVar[Values] = {
        "objects": 16, "test": 3, "views": 8, "size": 32, "steps": 128, "adapt.batch": 64, "width": 32,
        "hidden-layers": 3, "max-exp": 5.0, "samples-per-ray": 24, "meta.batch": 32, "match-steps": 1000,
        "tune.rates": (0.1, 2.0), "tune.density-bias": (0.1, 1.0), "tune.steps": 64,
        "meta.steps": 60, "meta.tasks": 8, "meta.inner-steps": 12, "meta.outer-lr": 8e-3,
    }  # fmt: skip

    preset: Preset = "small"
    """What the other options begin from: blog, the numbers of the "fast single-view NeRF" text (days on a CPU); small,
    a smaller network and several objects side by side, minutes on two cores; fast, smaller still."""
    convention: Convention = "blog"
    """Whose conventions: blog, or those of the authors' notebook, learnit (directions not normalized, last sample
    1e-3 long, its noise, outer rate, 25 views to learn from and the others to test on, a check of 512 steps while
    training)."""
    data: OmitArgPrefixes[ObjectOptions] = dataclasses.field(default_factory=ObjectOptions)
    """The objects to learn from and to test on, and their views."""
    field: OmitArgPrefixes[ObjectFieldOptions] = dataclasses.field(default_factory=ObjectFieldOptions)
    """The field of an object, and the part of rays on which it is sampled."""
    steps: int = 1000
    """Steps on the known views, of every initialization alike."""
    adapt: ViewOptions = dataclasses.field(default_factory=ViewOptions)
    """Fine-tuning on the known views of a test object."""
    orbit_frames: int = 36
    """Pictures of the turn around the first test object; 0: none."""
    curve_views: int = 6
    """Other views that the curve over steps is taken on, evenly chosen; the last step is scored on all of them."""
    check_every: int | None = None
    """Outer steps between two checks of the initialization on a test object; 0: none. They change nothing. Default:
    none, of learnit a tenth of them all."""
    check_steps: int = 512
    """SGD steps of a check (128 x 128 pixels four times over, at 128 rays)."""

    def check(self) -> None:
        super().check()
        check_at_least(1, curve_views=self.curve_views, check_steps=self.check_steps)
        check_at_least(0, orbit_frames=self.orbit_frames)

    def baseline(self) -> SingleViewConfig:
        return single_view_preset(self.preset, quick=self.run.quick, convention=self.convention)

    def idle(self) -> Idle:
        return {**super().idle(), **({} if self.checked_every else {"check-steps": "without check-every"})}

    @property
    def checked_every(self) -> int:
        """`check_every`, or the default of the convention."""
        if self.check_every is not None:
            return self.check_every
        # A share and not a number of steps: short runs would otherwise end before their first check.
        return max(1, self.meta.steps // 10) if self.convention == "learnit" else 0

    def settings(self, near: float, far: float) -> RenderSettings:
        """Return how rays are sampled, between `near` and `far` if the options do not set them."""
        field = self.field
        near = near if field.near is None else field.near
        far = far if field.far is None else field.far
        return RenderSettings.between(near, far, field.samples_per_ray, self.convention, backend=self.run.backend)


def single_view_preset(preset: str = "small", *, quick: bool = False, convention: str = "blog") -> SingleViewConfig:
    """Return the defaults under a preset; `quick` and `convention="learnit"` change some of them.

    Raises InputError if there is no such preset or convention.

    >>> single_view_preset("blog", convention="learnit").meta.outer_lr
    0.0005
    """
    if convention not in typing.get_args(Convention):
        raise InputError(f"convention must be one of {', '.join(typing.get_args(Convention))}, got {convention!r}")
    config = preset_config(SingleViewConfig, preset, quick=quick)
    if convention == "blog":
        return config
    config = with_options(config, {"convention": convention})
    # The notebook's outer rate belongs to its own network; the small presets keep the one tuned for theirs.
    return with_options(config, {"meta.outer-lr": 5e-4}) if preset == "blog" and not quick else config


def defaults_of(name: str, words: Sequence[str]) -> SingleViewConfig:
    """Return the defaults from which a command line is read: those of its `--preset`, `--convention`, `--quick`."""
    preset, convention = option_value(words, "preset", "small"), option_value(words, "convention", "blog")
    return single_view_preset(preset, quick="--quick" in words, convention=convention)
