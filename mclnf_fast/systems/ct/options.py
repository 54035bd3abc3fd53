"""The options of `mclnf-fast run ct`, and its presets."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, get_args

from tyro.conf import OmitArgPrefixes

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.common.checks import check_at_least, check_positive, check_rates
from mclnf_fast.systems.common.config_file import Values
from mclnf_fast.systems.common.idle import REPLACED, Idle
from mclnf_fast.systems.common.options import FieldOptions
from mclnf_fast.systems.starts.options import (
    INITIALIZATIONS,
    REPTILE,
    InitializationName,
    check_initializations,
    defaults_from,
)
from mclnf_fast.systems.starts.pixel_options import PictureOptions, PixelConfig

Measured = Literal["sampled", "exact"]


# The numbers for CT in the paper's code; those of `REPTILE` are for objects.
META = dataclasses.replace(REPTILE, batch=256, inner_steps=12, inner_lr=10.0)


@dataclasses.dataclass(frozen=True)
class SliceOptions(PictureOptions):
    """The slices to learn from and to test on, and how their projections are measured."""

    count: int = 128
    """Procedural phantoms, those to test on included."""
    size: int = 256
    """Side of the square that is cut from the middle of a picture, pixels; a projection has as many detectors."""
    # 6 here and 20 below, as in the paper's code: more would be another problem, not of few projections.
    views: int = 6
    """Projections of an unseen slice, at even angles."""
    meta_views: int = 20
    """Projections of a slice in meta-training, at random angles, fresh ones in each outer step."""
    jitter: float = 1.0
    """How far procedural phantoms are from the classic one, 0 ... 1."""
    measured: Measured = "sampled"
    """How projections are measured: sampled, from the picture; exact, line integrals of a procedural phantom's
    ellipses, which no picture of its pixels has."""

    def check(self) -> None:
        super().check()
        check_at_least(1, views=self.views, meta_views=self.meta_views)
        if not 0 <= self.jitter <= 1:
            raise InputError(f"jitter must lie in 0 ... 1, got {self.jitter}")
        if self.measured == "exact" and self.path is not None:
            raise InputError(
                "measured must be sampled with data of a folder, since only procedural phantoms are ellipses, got exact"
            )

    def idle(self) -> Idle:
        return {**super().idle(), **({} if self.path is None else {"jitter": REPLACED})}


@dataclasses.dataclass(frozen=True)
class SliceFieldOptions(FieldOptions):
    """The network: random Fourier features of a position to its density."""

    frequencies: int = 256
    """Random Fourier features: so many sines and as many cosines."""
    sigma: float = 30.0
    """Deviation of their frequencies, radians over the picture's side."""

    def check(self) -> None:
        super().check()
        check_at_least(1, frequencies=self.frequencies)
        check_positive(sigma=self.sigma)

    @property
    def spec(self) -> FieldSpec:
        """The network: random Fourier features of a position to its density in 0 ... 1."""
        return FieldSpec(2 * self.frequencies, 1, self.width, self.hidden_layers, output_activation="sigmoid")


@dataclasses.dataclass(frozen=True)
class CtConfig(PixelConfig):
    """Learns an initialization for slices, and reconstructs an unseen one from few of its projections."""

    kind: ClassVar[str] = "ct"
    presets: ClassVar[Mapping[str, Values]] = {
        "paper": {},
        "small": {
            # The frequencies decide most: from 6 projections high ones fit noise between the rays. Tried on slices kept
            # back by benchmarks/ct_frequencies.py.
            "count": 70, "size": 64, "width": 64, "hidden-layers": 3, "frequencies": 64, "sigma": 5.0, "steps": 256,
            "optimizer": "adam", "rates": (1e-2, 3e-3, 1e-3), "match-steps": 1000,
            "meta.steps": 150, "meta.tasks": 4, "meta.inner": "adam", "meta.inner-steps": 24, "meta.inner-lr": 3e-3,
            "meta.outer-lr": 3e-3,
        },
    }  # fmt: skip
    quick_values: ClassVar[Values] = {
        "count": 46, "test": 3, "size": 32, "width": 64, "hidden-layers": 3, "frequencies": 64, "sigma": 5.0,
        "steps": 128, "optimizer": "adam", "rates": (1e-2, 3e-3), "match-steps": 1000,
        "meta.steps": 50, "meta.tasks": 4, "meta.inner": "adam", "meta.inner-steps": 24, "meta.inner-lr": 3e-3,
        "meta.outer-lr": 3e-3,
    }  # fmt: skip

    data: OmitArgPrefixes[SliceOptions] = dataclasses.field(default_factory=SliceOptions)
    """The slices to learn from and to test on, and how their projections are measured."""
    field: OmitArgPrefixes[SliceFieldOptions] = dataclasses.field(default_factory=SliceFieldOptions)
    """The network."""
    steps: int = 1000
    """Steps on the projections of an unseen slice, of every initialization alike."""
    optimizer: StepKind = "sgd"
    """What makes these steps, of every initialization alike."""
    meta: MetaConfig = META
    """Meta-training of the initialization."""
    rates: tuple[float, ...] = (10.0,)
    """Rates of the steps on unseen slices. Of several each initialization takes its best one, found on slices that
    are not tested on, and not learned from either if there are enough."""
    initializations: tuple[InitializationName, ...] = INITIALIZATIONS
    """Which to compare: standard, random; constant and matched, other random weights, distilled to the meta-learned
    one's mean output and to its outputs; shuffled, its entries permuted within each tensor; meta, itself."""
    match_steps: int = 2000
    """Adam steps in which `constant` and `matched` are distilled, each."""

    def check(self) -> None:
        super().check()
        check_at_least(1, match_steps=self.match_steps)
        check_rates("rates", self.rates)
        if self.optimizer not in get_args(StepKind):
            raise InputError(f"optimizer must be one of {', '.join(get_args(StepKind))}, got {self.optimizer!r}")
        check_initializations(self.initializations)


def defaults_of(name: str, words: Sequence[str]) -> CtConfig:
    """Return the defaults from which a command line is read: those of its `--preset` and `--quick`."""
    return defaults_from(CtConfig, words)
