"""The options of `mclnf-fast run image-start`, and its presets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.reptile_start import ReptileConfig
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.starts.pixel_options import PixelConfig, at_least, check_rates, pixel_defaults

PAPER = ReptileConfig(150_000, 3, 2, 1e-2, 1e-5, "maml", first_order=False)


@dataclasses.dataclass(frozen=True)
class ImageStartConfig(PixelConfig):
    """Learns a start for images that fits an unseen one in two steps (MAML), and shows what other starts need."""

    kind: ClassVar[str] = "image-start"
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {},
        "small": {
            "size": 64,
            "width": 64,
            "hidden_layers": 3,
            "w0": 60.0,
            "adam_steps": 512,
            "count": 70,
            "meta": ReptileConfig(600, 4, 2, 5e-2, 1e-3, "maml", first_order=False),
        },
    }
    quickly: ClassVar[dict[str, Any]] = {
        "count": 40,
        "test": 3,
        "size": 32,
        "width": 64,
        "hidden_layers": 3,
        "w0": 60.0,
        "adam_steps": 256,
        "meta": ReptileConfig(200, 4, 2, 5e-2, 1e-3, "maml", first_order=False),
    }

    meta: ReptileConfig = PAPER
    """Meta-training of the start; its inner rate is also that of the SGD steps on unseen images."""
    w0: float = 200.0
    """Factor within the sines of every hidden layer."""
    offset: float = 0.5
    """Added to what a random start puts out: half way between black and white."""
    adam_steps: int = 1024
    """Adam steps from the standard start, at each of `adam-lrs`."""
    adam_lrs: tuple[float, ...] = (1e-4, 1e-3)
    """Rates of these: 1e-4 is that of the authors' demonstration, others show what a choice of it brings."""

    def check(self) -> None:
        super().check()
        at_least("adam_steps", self.adam_steps, 1)
        check_rates("adam-lrs", self.adam_lrs)
        if not 0 < self.w0 < math.inf:
            raise InputError(f"w0 must be above 0 and finite, got {self.w0}")
        if not math.isfinite(self.offset):
            raise InputError(f"offset must be finite, got {self.offset}")
        if self.steps < self.meta.inner_steps:
            raise InputError(f"steps must be at least meta.inner_steps ({self.meta.inner_steps}), got {self.steps}")

    @property
    def spec(self) -> FieldSpec:
        """The network (SIREN): a pixel's place to its colour."""
        return FieldSpec(2, 3, self.width, self.hidden_layers, "sine", w0=self.w0)


def defaults_of(name: str, words: Sequence[str]) -> ImageStartConfig:
    """The defaults that a command line begins from: what its `--preset` and `--quick` say."""
    return pixel_defaults(ImageStartConfig, words)
