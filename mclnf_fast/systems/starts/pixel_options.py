"""The options that image-start and ct share: pictures as tasks, a field evaluated at every pixel in each step."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, Literal

from tyro.conf import OmitArgPrefixes

from mclnf_fast.errors import InputError
from mclnf_fast.systems.common.checks import check_at_least
from mclnf_fast.systems.common.idle import REPLACED, Idle, flags
from mclnf_fast.systems.common.options import SplitOptions
from mclnf_fast.systems.starts.options import UNUSED, StartConfig

Preset = Literal["paper", "small"]


@dataclasses.dataclass(frozen=True)
class PictureOptions(SplitOptions):
    """The pictures to learn from and to test on."""

    count: int = 48
    """Procedural pictures, those to test on included."""
    test: int | None = None
    """Pictures to test on, unseen in meta-training; default: 6 procedural ones, a quarter of a folder's."""
    size: int = 178
    """Side of the square that is cut from the middle of a picture, pixels."""
    resize: bool = False
    """First scale a picture so that it just covers that square."""
    strict: bool = False
    """Refuse a folder with an unreadable picture, instead of leaving it out with a warning."""

    def check(self) -> None:
        super().check()
        check_at_least(1, count=self.count)
        if self.path is None and not self.tests < self.procedural:
            raise InputError(f"test must be below count ({self.procedural}), so that some remain, got {self.tests}")
        # Below 16 the SSIM window does not fit; above 2048 one step would hold gigabytes of activations.
        if not 16 <= self.size <= 2048:
            raise InputError(f"size must lie in 16 ... 2048, got {self.size}")

    def idle(self) -> Idle:
        if self.path is None:
            return flags(("resize", "strict"), "without data")
        return {"count": REPLACED}

    @property
    def procedural(self) -> int:
        """Procedural pictures in all."""
        return min(self.count, self.limit or self.count)

    @property
    def tests(self) -> int:
        """Procedural pictures to test on."""
        # A quarter at most, so that a small set keeps most of its pictures to learn from.
        return min(6, max(1, self.procedural // 4)) if self.test is None else self.test


@dataclasses.dataclass(frozen=True)
class PixelConfig(StartConfig):
    """Learns an initialization over pictures, and fine-tunes it on unseen ones."""

    unused: ClassVar[tuple[str, ...]] = (*UNUSED, "batch")  # every step is on a whole picture

    preset: Preset = "small"
    """What the other options begin from: paper, its numbers (days on a CPU); small, a smaller network and picture and
    several tasks side by side, minutes on two cores."""
    data: OmitArgPrefixes[PictureOptions] = dataclasses.field(default_factory=PictureOptions)
    """The pictures to learn from and to test on."""
    steps: int = 128
    """SGD steps on an unseen picture, of every initialization alike."""
