"""Options of `mclnf-fast run photos`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from tyro.conf import OmitArgPrefixes

from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.render import RenderSettings
from mclnf_fast.systems.common.checks import check_at_least, check_positive
from mclnf_fast.systems.common.config_file import Values
from mclnf_fast.systems.common.idle import REPLACED, Idle
from mclnf_fast.systems.common.options import SplitOptions
from mclnf_fast.systems.starts.options import REPTILE, FineTuneOptions, RayFieldOptions, RayStartConfig, defaults_from

Preset = Literal["paper", "small"]
NEARER, FARTHER = 0.9, 1.2  # of the distances of the data: a light of its own also shows what no photo's box holds
REACH = 2.0  # lengths of the field, from a camera to the far end of its rays, without a scale


# The numbers for photos in the paper's code; those of `REPTILE` are for objects.
META = dataclasses.replace(REPTILE, steps=150_000, batch=64, inner_steps=64, inner_lr=1.0, outer_lr=5e-4)


@dataclasses.dataclass(frozen=True)
class PhotoOptions(SplitOptions):
    """The photos to learn from, to validate on and to test on."""

    photos: int = 160
    """Procedural photos, those to test and to validate on included."""
    test: int | None = None
    """Photos to test on, the first; default: 20 as in the paper, of few photos at most every tenth."""
    validation: int | None = None
    """Photos to validate on while learning, the next; default: 5 as in the paper, of few at most every twentieth."""
    limit: int | None = None
    """Take at most this many photos of a folder, the first."""
    size: int | None = None
    """Longer side of the photos in pixels; default: 128 of procedural ones, as the first one is in a folder."""

    def check(self) -> None:
        super().check()
        check_at_least(3, photos=self.photos, limit=self.limit)
        check_at_least(0, validation=self.validation)
        check_at_least(8, size=self.size)

    def idle(self) -> Idle:
        return {"limit": "without data"} if self.path is None else {"photos": REPLACED}


@dataclasses.dataclass(frozen=True)
class PhotoFieldOptions(RayFieldOptions):
    """The field of the place, the part of rays on which it is sampled, and its unit of length."""

    near: float | None = None
    """Where the samples of a ray begin, in units of the data; default: 0.9 of what the data give."""
    far: float | None = None
    """Where they end, in the field's own color there, the sky; default: 1.2 of what the data give."""
    scale: float | None = 0.05
    """Lengths of the field in one of the data; default without the paper's: what makes the far end of rays 2."""

    def check(self) -> None:
        super().check()
        check_positive(scale=self.scale)

    def settings(self, near: float, far: float, backend: str) -> tuple[RenderSettings, float]:
        """Return how rays are sampled, in lengths of the field, and how many of these are one length of the data.

        near, far: what the data give, if the options do not.
        """
        near = NEARER * near if self.near is None else self.near
        far = FARTHER * far if self.far is None else self.far
        scale = REACH / far if self.scale is None and far > 0 else self.scale or 1.0
        settings = RenderSettings.between(
            scale * near, scale * far, self.samples_per_ray, background="last_sample", backend=backend
        )
        return settings, scale


@dataclasses.dataclass(frozen=True)
class PhotosConfig(RayStartConfig):
    """Learns an initialization over photos of one place, each under a light of its own, and fine-tunes it on unseen
    ones: one photo, a field of the place under that light; between the weights of two, the light between theirs."""

    kind: ClassVar[str] = "photos"
    presets: ClassVar[Mapping[str, Values]] = {
        "paper": {},
        "small": {
            "width": 64, "hidden-layers": 4, "max-exp": 5.0, "samples-per-ray": 32, "photos": 100, "size": 64,
            "scale": None, "check-every": 100, "tune.rates": (0.2, 5.0), "tune.density-bias": (1.0,),
            "meta.steps": 300, "meta.tasks": 8, "meta.inner-steps": 16, "meta.outer-lr": 5e-3,
        },
    }  # fmt: skip
    quick_values: ClassVar[Values] = {
        "photos": 40, "size": 32, "width": 32, "hidden-layers": 3, "max-exp": 5.0, "samples-per-ray": 24, "scale": None,
        "steps": 128, "meta.batch": 32, "match-steps": 1000, "check-every": 30, "frames": 12,
        "tune.rates": (0.2, 5.0), "tune.density-bias": (1.0,), "tune.steps": 64,
        "meta.steps": 90, "meta.tasks": 8, "meta.inner-steps": 16, "meta.outer-lr": 8e-3,
    }  # fmt: skip

    preset: Preset = "small"
    """What the other options begin from: paper, the numbers of Learned Initializations (arXiv 2012.02189) for photos of
    a place (days on a CPU); small, a smaller network and several photos side by side, minutes on two cores."""
    data: OmitArgPrefixes[PhotoOptions] = dataclasses.field(default_factory=PhotoOptions)
    """The photos to learn from, to validate on and to test on."""
    field: OmitArgPrefixes[PhotoFieldOptions] = dataclasses.field(default_factory=PhotoFieldOptions)
    """The field of the place, the part of rays on which it is sampled, and its unit of length."""
    steps: int = 256
    """SGD steps on a photo, or on its left half, of every initialization alike."""
    adapt: FineTuneOptions = dataclasses.field(default_factory=lambda: FineTuneOptions(batch=64, lr=1.0))
    """Fine-tuning on unseen photos."""
    meta: MetaConfig = META
    """Meta-training of the initialization; a task is a photo."""
    check_every: int | None = 5000
    """Outer steps between two checks of the initialization on the photos to validate on (the left half learned, the
    right half scored); 0: none. They change nothing."""
    others: int = 3
    """Cameras of other test photos that a photo's field is rendered from, if the truth under its light is known."""
    frames: int = 24
    """Frames of the way from one photo to another."""

    def idle(self) -> Idle:
        # Nobody knows how a real place looks under another photo's light.
        return {**super().idle(), **({} if self.data.path is None else {"others": REPLACED})}

    def check(self) -> None:
        super().check()
        check_at_least(0, others=self.others)
        check_at_least(2, frames=self.frames)


def defaults_of(name: str, words: Sequence[str]) -> PhotosConfig:
    """Return the defaults from which a command line is read: those of its `--preset` and `--quick`."""
    return defaults_from(PhotosConfig, words)
