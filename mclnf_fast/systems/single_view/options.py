"""Options of `mclnf-fast run single-view`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.reptile_start import ReptileConfig
from mclnf_fast.render.settings import Convention, RenderSettings
from mclnf_fast.spec import FieldSpec, LogFrequency
from mclnf_fast.systems.common.checks import check_device
from mclnf_fast.systems.common.options import given_option
from mclnf_fast.systems.single_view.views import Inputs
from mclnf_fast.systems.starts.names import StartName

Preset = Literal["blog", "small", "fast"]
Optimizer = Literal["sgd", "adam"]
RATES: dict[Optimizer, float] = {"sgd": 0.5, "adam": 2e-3}
INPUT_VIEWS = 25  # of an object with more: the notebook learns from these, and tests on the others


@dataclasses.dataclass(frozen=True)
class SingleViewConfig:
    """Learns a start for objects of a category, continues it on one view of an unseen one, and shows the others."""

    kind: ClassVar[str] = "single-view"

    preset: Preset = "small"
    """What the other options begin from: blog, the numbers of the "fast single-view NeRF" text (days on a CPU); small,
    a smaller network and several objects side by side, minutes on two cores; fast, smaller still."""
    compat: Convention = "blog"
    """Whose conventions: blog, or those of the authors' notebook, learnit (directions not normalised, last bin 1e-3,
    its noise, outer rate, 25 views to learn from and the others to test on, a check of 512 steps while training)."""
    data: pathlib.Path | None = None
    """Folder of objects, each with posed RGBA views; without it procedural cars are made."""
    objects: int = 48
    """Procedural objects, those to test on included."""
    test: int | None = None
    """Objects to test on, unseen in meta-training; default: 6 procedural ones, a quarter of a folder's."""
    limit: int | None = None
    """Read at most this many objects."""
    views: int | None = None
    """Views of an object; default: 25 procedural ones, all of a folder's."""
    size: int | None = None
    """Side of the views in pixels; default: 128 procedural, as they are in a folder."""
    strict: bool = False
    """Refuse a folder with an unreadable object, instead of leaving it out with a warning."""
    out: pathlib.Path | None = None
    """Run folder, new or empty; default outputs/single-view/TIME."""
    quick: bool = False
    """A small run of under a minute."""
    resume: str | None = None
    """Continue the run in this folder, with its own options; standing alone: the run in --out, or else the newest."""
    seed: int = 0
    """Of the random start, the meta-batches, the rays and the procedural objects."""
    starts: tuple[StartName, ...] = typing.get_args(StartName)
    """What to compare: standard, random; matched, random but putting out the learned one's mean everywhere; shuffled,
    the learned one with the entries of each tensor permuted; meta, the learned one."""
    inputs: Inputs = 1
    """Views of a test object that are learned from, the first; all: every one that the data gives to learn from (where
    it keeps none to test on, every fifth is kept)."""
    steps: int = 1000
    """Steps on these views, of every start alike."""
    optimizer: Optimizer = "sgd"
    """Of these steps."""
    lr: float | None = None
    """Rate of these steps; default: 0.5 of sgd, 2e-3 of adam."""
    lr_end: float | None = None
    """Rate of the last of them, to which it falls by the same factor each step; default: it stays."""
    rays: int = 128
    """Rays a step and object on these views."""
    meta: ReptileConfig = dataclasses.field(default_factory=ReptileConfig)
    """Meta-training of the start."""
    meta_rays: int = 128
    """Rays a step and object in meta-training."""
    width: int = 256
    """Width of the network."""
    hidden_layers: int = 5
    """Hidden layers of the network."""
    max_exp: float = 8.0
    """Highest frequency of the 20 of a coordinate, 2 to the power of this, radians a scene unit. One that turns by much
    more than a radian between two bins is noise to learn from."""
    density_bias: float = 0.0
    """What a random start's raw density is raised by (texts: 0). Above 0 its density is nowhere cut off, where a start
    that white rays have emptied everywhere would stay: it happens with many views and Adam."""
    bins: int = 128
    """Places a ray is looked at."""
    near: float | None = None
    """Where rays begin to be looked at, scene units; default: what the data says (procedural: 2)."""
    far: float | None = None
    """Where they end; default: what the data says (procedural: 6)."""
    orbit_frames: int = 36
    """Pictures of the turn around the first test object; 0: none."""
    curve_views: int = 6
    """Other views that the curve over steps is taken on, evenly chosen; the last step is scored on all of them."""
    check_every: int | None = None
    """Outer steps between two checks of the start on a test object; 0: none. They change nothing. Default: none, of
    learnit a tenth of them all."""
    check_steps: int = 512
    """SGD steps of a check (128 x 128 pixels four times over, at 128 rays)."""
    match_steps: int = 500
    """Adam steps in which `matched` comes to its mean."""
    threads: int | None = None
    """CPU threads; default: torch's."""
    device: str = "cpu"
    """Where to learn: cpu, cuda, or one of several GPUs, such as cuda:1."""
    backend: Literal["auto", "reference", "cpu"] = "auto"
    """Which implementation of the ops to use."""

    def check(self) -> None:
        """Raises InputError where an option is out of range."""
        for name in ("objects", "test", "limit", "views", "size", "steps", "rays", "meta_rays", "width", "curve_views"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name.replace('_', '-')} must be at least 1, got {value}")
        for name, least in (("check_every", 0), ("check_steps", 1), ("match_steps", 1), ("orbit_frames", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name.replace('_', '-')} must be at least {least}, got {value}")
        if self.inputs != "all" and self.inputs < 1:
            raise InputError(f"inputs must be all or at least 1, got {self.inputs}")
        if self.optimizer not in RATES:
            raise InputError(f"optimizer must be one of {', '.join(RATES)}, got {self.optimizer!r}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be at least 1, got {self.threads}")
        if self.views is not None and self.views < 2:
            raise InputError(f"views must be at least 2, one to learn from and one to test on, got {self.views}")
        if self.data is None and not self.tests < self.objects:
            raise InputError(f"test must be below objects ({self.objects}), so that some remain, got {self.tests}")
        if not self.starts or len(set(self.starts)) < len(self.starts):
            names = ", ".join(typing.get_args(StartName))
            raise InputError(f"starts must name different ones of {names}, got {', '.join(self.starts) or 'none'}")
        if not 0 <= self.seed < 1 << 31:
            raise InputError(f"seed must lie in 0 ... 2147483647, got {self.seed}")
        for name, rate in (("lr", self.lr), ("lr-end", self.lr_end)):
            if rate is not None and not 0 < rate < math.inf:
                raise InputError(f"{name} must be above 0 and finite, got {rate}")
        if not math.isfinite(self.density_bias):
            raise InputError(f"density-bias must be finite, got {self.density_bias}")
        if not 0 <= self.max_exp <= 32:
            raise InputError(f"max-exp must lie in 0 ... 32, got {self.max_exp}")
        if not 1 <= self.hidden_layers <= 30:
            raise InputError(f"hidden-layers must lie in 1 ... 30, got {self.hidden_layers}")
        if self.near is not None and self.far is not None:
            self.settings(self.near, self.far)
        elif self.bins < 2:
            raise InputError(f"bins must be at least 2, got {self.bins}")
        check_device(self.device)
        self.meta.check()

    @property
    def tests(self) -> int:
        """Procedural objects to test on."""
        return min(6, max(1, self.objects // 4)) if self.test is None else self.test

    @property
    def checked_every(self) -> int:
        """`check_every`, or what the convention stands with."""
        if self.check_every is not None:
            return self.check_every
        return max(1, self.meta.steps // 10) if self.compat == "learnit" else 0

    @property
    def rate(self) -> float:
        """`lr`, or what the optimizer stands with."""
        return RATES[self.optimizer] if self.lr is None else self.lr

    @property
    def spec(self) -> FieldSpec:
        """The network: 120 features of a place, no view direction; colour and density."""
        return FieldSpec(3, 4, self.width, self.hidden_layers, encoding=LogFrequency(20, self.max_exp))

    def settings(self, near: float, far: float) -> RenderSettings:
        """How rays are cut, between `near` and `far` where the options do not say."""
        near, far = (d if own is None else own for own, d in ((self.near, near), (self.far, far)))
        return RenderSettings.between(near, far, self.bins, self.compat, backend=self.backend)


PRESETS: dict[str, dict[str, Any]] = {
    "blog": {},
    "small": {
        "curve_views": 4,
        "size": 64,
        "width": 64,
        "hidden_layers": 4,
        "max_exp": 5.0,
        "bins": 32,
        "meta_rays": 64,
        "meta": ReptileConfig(steps=600, objects=8, inner_steps=16, outer_lr=4e-3),
    },
    "fast": {
        "objects": 32,
        "curve_views": 4,
        "size": 48,
        "width": 64,
        "hidden_layers": 3,
        "max_exp": 5.0,
        "bins": 32,
        "meta_rays": 32,
        "meta": ReptileConfig(steps=300, objects=8, inner_steps=16, outer_lr=4e-3),
    },
}
QUICK: dict[str, Any] = {
    "quick": True,
    "objects": 16,
    "test": 3,
    "views": 8,
    "size": 32,
    "steps": 128,
    "rays": 64,
    "width": 32,
    "hidden_layers": 3,
    "max_exp": 5.0,
    "bins": 24,
    "meta_rays": 32,
    "match_steps": 200,
    "meta": ReptileConfig(steps=60, objects=8, inner_steps=12, outer_lr=8e-3),
}


def preset_config(preset: str = "small", *, quick: bool = False, compat: str = "blog") -> SingleViewConfig:
    """The defaults under a preset; `quick` and `compat="learnit"` change some of them.

    Raises InputError where there is no such preset or convention.
    """
    for name, value, known in (("preset", preset, Preset), ("compat", compat, Convention)):
        if value not in typing.get_args(known):
            raise InputError(f"{name} must be one of {', '.join(typing.get_args(known))}, got {value!r}")
    config = SingleViewConfig(**{"preset": preset, **PRESETS[preset], **(QUICK if quick else {})})
    if compat == "learnit":
        meta = config.meta if quick or preset != "blog" else dataclasses.replace(config.meta, outer_lr=5e-4)
        config = dataclasses.replace(config, compat="learnit", meta=meta)
    return config


def defaults_of(name: str, words: Sequence[str]) -> SingleViewConfig:
    """The defaults that a command line begins from: what its `--preset`, `--compat` and `--quick` say."""
    preset, compat = (
        given_option(words, option, default) for option, default in (("preset", "small"), ("compat", "blog"))
    )
    return preset_config(preset, quick="--quick" in words, compat=compat)
