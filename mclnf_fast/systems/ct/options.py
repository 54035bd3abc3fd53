"""The options of `mclnf-fast run ct`, and its presets."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.reptile_start import ReptileConfig
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.starts.names import StartName
from mclnf_fast.systems.starts.pixel_options import PixelConfig, at_least, check_rates, pixel_defaults

Measured = Literal["sampled", "exact"]


@dataclasses.dataclass(frozen=True)
class CtConfig(PixelConfig):
    """Learns a start for slices, and reconstructs an unseen one from few of its projections."""

    kind: ClassVar[str] = "ct"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "small": {
            "count": 70,
            "size": 64,
            "width": 64,
            "hidden_layers": 3,
            "frequencies": 64,
            "steps": 256,
            "rates": (10.0, 3.0, 1.0),
            "match_steps": 200,
            "meta": ReptileConfig(200, 4, 12, 3.0, 3e-3),
        },
    }
    quickly: ClassVar[dict[str, Any]] = {
        "count": 46,
        "test": 3,
        "size": 32,
        "width": 64,
        "hidden_layers": 3,
        "frequencies": 64,
        "steps": 128,
        "rates": (10.0, 3.0, 1.0),
        "match_steps": 100,
        "meta": ReptileConfig(100, 4, 12, 3.0, 3e-3),
    }

    count: int = 128
    """Made phantoms, those to test on included."""
    size: int = 256
    """Side of the square that is cut from the middle of a picture, pixels; a projection has as many detectors."""
    steps: int = 1000
    """SGD steps on the projections of an unseen slice, of every start alike."""
    meta: ReptileConfig = dataclasses.field(
        default_factory=lambda: ReptileConfig(100_000, 1, 12, 10.0, 5e-5, "reptile")
    )
    """Meta-training of the start."""
    meta_views: int = 20
    """Projections of a slice in meta-training, at random angles, fresh ones in each outer step."""
    views: int = 6
    """Projections of an unseen slice, at even angles."""
    rates: tuple[float, ...] = (10.0,)
    """Rates of the SGD steps on unseen slices. Of several each start takes its best one, found on slices that are not
    tested on, and where there are enough not learned from either."""
    starts: tuple[StartName, ...] = typing.get_args(StartName)
    """What to compare: standard, random; matched, random but putting out the learned one's mean everywhere; shuffled,
    the learned one with the entries of each tensor permuted; meta, the learned one."""
    frequencies: int = 256
    """Random Fourier features: so many sines and as many cosines."""
    sigma: float = 30.0
    """Deviation of their frequencies, radians over the picture's side."""
    match_steps: int = 500
    """Adam steps in which `matched` comes to its mean."""
    jitter: float = 1.0
    """How far made phantoms are from the classic one, 0 ... 1."""
    measured: Measured = "sampled"
    """How projections are measured: sampled, from the picture; exact, line integrals of a made phantom's ellipses,
    which no picture of its pixels has."""

    def check(self) -> None:
        super().check()
        for name in ("meta_views", "views", "frequencies", "match_steps"):
            at_least(name, getattr(self, name), 1)
        check_rates("rates", self.rates)
        if not self.starts or len(set(self.starts)) < len(self.starts):
            names = ", ".join(typing.get_args(StartName))
            raise InputError(f"starts must name different ones of {names}, got {', '.join(self.starts) or 'none'}")
        if not 0 < self.sigma < math.inf:
            raise InputError(f"sigma must be above 0 and finite, got {self.sigma}")
        if not 0 <= self.jitter <= 1:
            raise InputError(f"jitter must lie in 0 ... 1, got {self.jitter}")
        if self.measured == "exact" and self.data is not None:
            raise InputError(
                "measured must be sampled where there is data, since only made phantoms are ellipses, got exact"
            )

    @property
    def spec(self) -> FieldSpec:
        """The network: random Fourier features of a place to its density in 0 ... 1."""
        return FieldSpec(2 * self.frequencies, 1, self.width, self.hidden_layers, output_activation="sigmoid")


def defaults_of(name: str, words: Sequence[str]) -> CtConfig:
    """The defaults that a command line begins from: what its `--preset` and `--quick` say."""
    return pixel_defaults(CtConfig, words)
