"""Options of `mclnf-fast run photos`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.reptile_start import ReptileConfig
from mclnf_fast.render import RenderSettings
from mclnf_fast.spec import FieldSpec, LogFrequency
from mclnf_fast.systems.common.checks import check_device
from mclnf_fast.systems.common.options import given_option
from mclnf_fast.systems.starts.names import StartName

Preset = Literal["paper", "small"]
NEARER, FARTHER = 0.9, 1.2  # of the distances that the data say
REACH = 2.0  # lengths of the field, from a camera to the far end of its rays, where no scale is given


@dataclasses.dataclass(frozen=True)
class PhotosConfig:
    """Learns a start over photos of one place, each under a light of its own, and continues it on unseen ones: one
    photo, a field of the place under that light; between the weights of two, the light between theirs."""

    kind: ClassVar[str] = "photos"

    preset: Preset = "small"
    """What the other options begin from: paper, the numbers of Learned Initializations (arXiv 2012.02189) for photos of
    a place (days on a CPU); small, a smaller network and several photos side by side, minutes on two cores."""
    data: pathlib.Path | None = None
    """Folder of posed photos, as nerfstudio (transforms.json) or NeRF-synthetic (transforms_train.json) lays them out;
    without it photos of a made square are taken."""
    photos: int = 160
    """Made photos, those to test and to validate on included."""
    test: int | None = None
    """Photos to test on, the first; default: 20 as in the paper, of few photos at most every tenth."""
    validation: int | None = None
    """Photos to validate on while learning, the next; default: 5 as in the paper, of few at most every twentieth."""
    limit: int | None = None
    """Take at most this many photos of a folder, the first."""
    size: int | None = None
    """Longer side of the photos in pixels; default: 128 of made ones, as the first one is in a folder."""
    out: pathlib.Path | None = None
    """Run folder, new or empty; default outputs/photos/TIME."""
    quick: bool = False
    """A small run of under a minute."""
    resume: str | None = None
    """Continue the run in this folder, with its own options; standing alone: the run in --out, or else the newest."""
    seed: int = 0
    """Of the random start, the meta-batches, the rays and the made photos."""
    starts: tuple[StartName, ...] = typing.get_args(StartName)
    """What to compare: standard, random; matched, random but putting out the learned one's mean everywhere; shuffled,
    the learned one with the entries of each tensor permuted; meta, the learned one."""
    steps: int = 256
    """SGD steps on a photo, or on its left half, of every start alike."""
    lr: float = 1.0
    """Rate of these steps."""
    rays: int = 64
    """Rays a step and photo."""
    meta: ReptileConfig = dataclasses.field(
        default_factory=lambda: ReptileConfig(steps=150_000, objects=1, inner_steps=64, inner_lr=1.0, outer_lr=5e-4)
    )
    """Meta-training of the start; an object is a photo."""
    meta_rays: int = 64
    """Rays a step and photo in meta-training."""
    width: int = 256
    """Width of the network."""
    hidden_layers: int = 5
    """Hidden layers of the network."""
    max_exp: float = 8.0
    """Highest frequency of the 20 of a coordinate, 2 to the power of this, radians a length of the field."""
    bins: int = 128
    """Places a ray is looked at."""
    scale: float | None = 0.05
    """Lengths of the field in one of the data; default without the paper's: what makes the far end of rays 2."""
    near: float | None = None
    """Where rays begin to be looked at, lengths of the data; default: 0.9 of what the data say."""
    far: float | None = None
    """Where they end, in the field's own colour there, the sky; default: 1.2 of what the data say."""
    check_every: int = 5000
    """Outer steps between two checks of the start on the photos to validate on (the left half learned, the right half
    scored); 0: none. They change nothing."""
    match_steps: int = 500
    """Adam steps in which `matched` comes to its mean."""
    others: int = 3
    """Cameras of other test photos that a photo's field is rendered from, where the truth under its light is known."""
    frames: int = 24
    """Frames of the way from one photo to another."""
    threads: int | None = None
    """CPU threads; default: torch's."""
    device: str = "cpu"
    """Where to learn: cpu, cuda, or one of several GPUs, such as cuda:1."""
    backend: Literal["auto", "reference", "cpu"] = "auto"
    """Which implementation of the ops to use."""

    def check(self) -> None:
        """Raises InputError where an option is out of range."""
        least = {"photos": 3, "test": 1, "validation": 0, "limit": 3, "size": 8, "steps": 1, "rays": 1, "meta_rays": 1,
                 "width": 1, "check_every": 0, "match_steps": 1, "others": 0, "frames": 2, "threads": 1}  # fmt: skip
        for name, lowest in least.items():
            value = getattr(self, name)
            if value is not None and value < lowest:
                raise InputError(f"{name.replace('_', '-')} must be at least {lowest}, got {value}")
        if not self.starts or len(set(self.starts)) < len(self.starts):
            names = ", ".join(typing.get_args(StartName))
            raise InputError(f"starts must name different ones of {names}, got {', '.join(self.starts) or 'none'}")
        if not 0 <= self.seed < 1 << 31:
            raise InputError(f"seed must lie in 0 ... 2147483647, got {self.seed}")
        for name in ("lr", "scale"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"{name} must be above 0 and finite, got {value}")
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
    def spec(self) -> FieldSpec:
        """The network: 120 features of a place, no view direction; colour and density."""
        return FieldSpec(3, 4, self.width, self.hidden_layers, encoding=LogFrequency(20, self.max_exp))

    def settings(self, near: float, far: float) -> tuple[RenderSettings, float]:
        """How rays are cut, in lengths of the field, and how many of these one of the data is.

        near, far: what the data say, where the options do not.
        """
        near = NEARER * near if self.near is None else self.near
        far = FARTHER * far if self.far is None else self.far
        scale = REACH / far if self.scale is None and far > 0 else self.scale or 1.0
        settings = RenderSettings.between(
            scale * near, scale * far, self.bins, background="last_sample", backend=self.backend
        )
        return settings, scale


SMALL: dict[str, Any] = {
    "width": 64,
    "hidden_layers": 4,
    "max_exp": 5.0,
    "bins": 32,
    "photos": 100,
    "size": 64,
    "scale": None,
    "check_every": 100,
    "meta": ReptileConfig(steps=300, objects=8, inner_steps=16, inner_lr=1.0, outer_lr=5e-3),
}
QUICK: dict[str, Any] = {
    "quick": True,
    "photos": 40,
    "size": 32,
    "width": 32,
    "hidden_layers": 3,
    "max_exp": 5.0,
    "bins": 24,
    "scale": None,
    "steps": 128,
    "meta_rays": 32,
    "match_steps": 200,
    "check_every": 30,
    "frames": 12,
    "meta": ReptileConfig(steps=90, objects=8, inner_steps=16, inner_lr=1.0, outer_lr=8e-3),
}
PRESETS: dict[str, dict[str, Any]] = {"paper": {}, "small": SMALL}


def preset_config(preset: str = "small", *, quick: bool = False) -> PhotosConfig:
    """The defaults under a preset; `quick` changes some of them. Raises InputError where there is no such preset."""
    if preset not in PRESETS:
        raise InputError(f"preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    return PhotosConfig(**{"preset": preset, **PRESETS[preset], **(QUICK if quick else {})})


def defaults_of(name: str, words: Sequence[str]) -> PhotosConfig:
    """The defaults that a command line begins from: what its `--preset` and `--quick` say."""
    return preset_config(given_option(words, "preset", "small"), quick="--quick" in words)
