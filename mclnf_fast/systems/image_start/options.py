"""The options of `mclnf-fast run image-start`, and its presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

from tyro.conf import OmitArgPrefixes

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.common.checks import check_at_least, check_positive, check_rates
from mclnf_fast.systems.common.config_file import Values
from mclnf_fast.systems.common.options import FieldOptions
from mclnf_fast.systems.starts.options import (
    INITIALIZATIONS,
    InitializationName,
    check_initializations,
    defaults_from,
)
from mclnf_fast.systems.starts.pixel_options import PixelConfig

# The numbers of the authors' demonstration, which clips no gradient; the default of `MetaConfig` would.
PAPER = MetaConfig(150_000, 3, inner_steps=2, inner_lr=1e-2, outer_lr=1e-5, grad_clip=None, validate_every=0)


@dataclasses.dataclass(frozen=True)
class SirenOptions(FieldOptions):
    """The network (SIREN): a pixel's position to its color."""

    w0: float = 200.0
    """Factor within the sines of every hidden layer."""
    offset: float = 0.5
    """Mean output of a random initialization: half way between black and white."""

    def check(self) -> None:
        super().check()
        check_positive(w0=self.w0)
        if not math.isfinite(self.offset):
            raise InputError(f"offset must be finite, got {self.offset}")

    @property
    def spec(self) -> FieldSpec:
        """The network (SIREN): a pixel's position to its color."""
        return FieldSpec(2, 3, self.width, self.hidden_layers, "sine", w0=self.w0)


@dataclasses.dataclass(frozen=True)
class ImageStartConfig(PixelConfig):
    """Learns an initialization for images that fits an unseen one in two steps (MAML), and shows what others need."""

    kind: ClassVar[str] = "image-start"
    read_after: ClassVar[tuple[str, ...]] = ("inner_steps", "inner_lr")
    presets: ClassVar[Mapping[str, Values]] = {
        "paper": {},
        "small": {
            "count": 70, "size": 64, "width": 64, "hidden-layers": 3, "w0": 60.0, "adam-steps": 512,
            "rates": (5e-3, 1.5e-2, 1.5e-1, 5e-1),
            "meta.steps": 600, "meta.tasks": 4, "meta.inner-lr": 5e-2, "meta.outer-lr": 1e-3,
        },
    }  # fmt: skip
    quick_values: ClassVar[Values] = {
        "count": 40, "test": 3, "size": 32, "width": 64, "hidden-layers": 3, "w0": 60.0, "adam-steps": 256,
        "rates": (1.5e-2, 1.5e-1), "match-steps": 500,
        "meta.steps": 200, "meta.tasks": 4, "meta.inner-lr": 5e-2, "meta.outer-lr": 1e-3,
    }  # fmt: skip

    field: OmitArgPrefixes[SirenOptions] = dataclasses.field(default_factory=SirenOptions)
    """The network."""
    meta: MetaConfig = PAPER
    """Meta-training of the initialization; its inner rate is also that of the SGD steps on unseen images."""
    initializations: tuple[InitializationName, ...] = INITIALIZATIONS
    """Which to compare: standard, random; constant and matched, other random weights, distilled to the meta-learned
    one's mean output and to its outputs; shuffled, its entries permuted within each tensor; meta, itself."""
    rates: tuple[float, ...] = ()
    """Rates that are tried beside the inner one for the SGD steps; each initialization takes the one with which it is
    best after the inner steps, on images kept back."""
    match_steps: int = 2000
    """Adam steps in which `constant` and `matched` are distilled, each."""
    adam_steps: int = 1024
    """Adam steps from the standard initialization, at each of `adam-lrs`."""
    adam_lrs: tuple[float, ...] = (1e-4, 1e-3)
    """Rates of these: 1e-4 is that of the authors' demonstration, others show how much depends on it."""

    def check(self) -> None:
        super().check()
        check_at_least(1, adam_steps=self.adam_steps, match_steps=self.match_steps)
        check_initializations(self.initializations)
        if not {"standard", "meta"} <= set(self.initializations):
            # The one is what the others are timed against, the other is where Adam begins.
            raise InputError(f"initializations must hold standard and meta, got {', '.join(self.initializations)}")
        if self.rates:
            check_rates("rates", self.rates)
        check_rates("adam-lrs", self.adam_lrs)
        # The PSNR after the inner steps is what the others must match: a shorter curve would not have it.
        if self.steps < self.meta.inner_steps:
            raise InputError(f"steps must be at least meta.inner_steps ({self.meta.inner_steps}), got {self.steps}")


def defaults_of(name: str, words: Sequence[str]) -> ImageStartConfig:
    """Return the defaults from which a command line is read: those of its `--preset` and `--quick`."""
    return defaults_from(ImageStartConfig, words)
