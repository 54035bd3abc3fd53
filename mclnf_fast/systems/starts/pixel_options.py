"""The options that image-start and ct share: pictures as tasks, a field evaluated at every pixel in each step."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, TypeVar

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.reptile_start import ReptileConfig
from mclnf_fast.systems.common.checks import check_device
from mclnf_fast.systems.common.options import given_option

Preset = Literal["paper", "small"]


@dataclasses.dataclass(frozen=True)
class PixelConfig:
    """Learns a start over pictures, and continues it on unseen ones."""

    kind: ClassVar[str]
    presets: ClassVar[dict[str, dict[str, Any]]]
    quickly: ClassVar[dict[str, Any]]

    preset: Preset = "small"
    """What the other options begin from: paper, its numbers (days on a CPU); small, a smaller network and picture and
    several tasks side by side, minutes on two cores."""
    data: pathlib.Path | None = None
    """Folder of pictures; without it they are made."""
    count: int = 48
    """Made pictures, those to test on included."""
    test: int | None = None
    """Pictures to test on, unseen in meta-training; default: 6 made ones, a quarter of a folder's."""
    limit: int | None = None
    """Read at most this many pictures."""
    size: int = 178
    """Side of the square that is cut from the middle of a picture, pixels."""
    resize: bool = False
    """First scale a picture so that it just covers that square."""
    strict: bool = False
    """Refuse a folder with an unreadable picture, instead of leaving it out with a warning."""
    out: pathlib.Path | None = None
    """Run folder, new or empty; default outputs/KIND/TIME."""
    quick: bool = False
    """A small run of under a minute."""
    resume: str | None = None
    """Continue the run in this folder, with its own options; standing alone: the run in --out, or else the newest."""
    seed: int = 0
    """Of the random start, the meta-batches and the made pictures."""
    steps: int = 128
    """SGD steps on an unseen picture, of every start alike."""
    meta: ReptileConfig = dataclasses.field(default_factory=ReptileConfig)
    """Meta-training of the start."""
    width: int = 256
    """Width of the network."""
    hidden_layers: int = 4
    """Hidden layers of the network; one more is its output."""
    threads: int | None = None
    """CPU threads; default: torch's."""
    device: str = "cpu"
    """Where to learn: cpu, cuda, or one of several GPUs, such as cuda:1."""
    backend: Literal["auto", "reference", "cpu"] = "auto"
    """Which implementation of the ops to use."""

    def check(self) -> None:
        """Raises InputError where an option is out of range."""
        for name in ("count", "test", "limit", "size", "steps", "width", "threads"):
            at_least(name, getattr(self, name), 1)
        if self.data is None and not self.tests < self.made:
            raise InputError(f"test must be below count ({self.made}), so that some remain, got {self.tests}")
        if not 16 <= self.size <= 2048:
            raise InputError(f"size must lie in 16 ... 2048, got {self.size}")
        if not 0 <= self.seed < 1 << 31:
            raise InputError(f"seed must lie in 0 ... 2147483647, got {self.seed}")
        if not 1 <= self.hidden_layers <= 30:
            raise InputError(f"hidden-layers must lie in 1 ... 30, got {self.hidden_layers}")
        check_device(self.device)
        self.meta.check()

    @property
    def made(self) -> int:
        """Made pictures in all."""
        return min(self.count, self.limit or self.count)

    @property
    def tests(self) -> int:
        """Made pictures to test on."""
        return min(6, max(1, self.made // 4)) if self.test is None else self.test


P = TypeVar("P", bound=PixelConfig)


def at_least(name: str, value: int | None, least: int) -> None:
    """Raises InputError where an option is given and below `least`."""
    if value is not None and value < least:
        raise InputError(f"{name.replace('_', '-')} must be at least {least}, got {value}")


def check_rates(name: str, rates: Sequence[float]) -> None:
    """Raises InputError where rates are none, or not above 0 and finite, or twice the same."""
    if not rates or len(set(rates)) < len(rates) or not all(0 < rate < math.inf for rate in rates):
        said = ", ".join(map(str, rates)) or "none"
        raise InputError(f"{name} must be different numbers above 0 and finite, got {said}")


def preset_of(cls: type[P], preset: str = "small", *, quick: bool = False) -> P:
    """The defaults under a preset; `quick` changes some of them. Raises InputError where there is no such preset."""
    if preset not in typing.get_args(Preset):
        raise InputError(f"preset must be one of {', '.join(typing.get_args(Preset))}, got {preset!r}")
    return cls(**{"preset": preset, **cls.presets[preset], **({"quick": True, **cls.quickly} if quick else {})})


def pixel_defaults(cls: type[P], words: Sequence[str]) -> P:
    """The defaults that a command line begins from: what its `--preset` and `--quick` say."""
    return preset_of(cls, given_option(words, "preset", "small"), quick="--quick" in words)
