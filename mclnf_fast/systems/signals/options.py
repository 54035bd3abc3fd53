"""Options of `mclnf-fast run image`, `run video` and `run audio`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, arg

from mclnf_fast.data.signals import SPAN_PER_SECOND
from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.methods import METHODS, AdaptConfig, AdaptOptions, check_methods
from mclnf_fast.learn.methods.table import BUILT_IN
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.common.checks import check_at_least, check_positive, wide_spec
from mclnf_fast.systems.common.config_file import Values, with_options
from mclnf_fast.systems.common.idle import Idle, flags, idle_of_methods
from mclnf_fast.systems.common.options import FieldOptions, SplitOptions, SystemConfig

DEFAULT_METHODS = tuple(one.name for one in BUILT_IN)


@dataclasses.dataclass(frozen=True)
class SignalOptions(SplitOptions):
    """The signals to learn, and how each is cut into tasks."""

    strict: bool = False
    """Refuse a folder with an unreadable file, instead of leaving the file out with a warning."""

    axes: ClassVar[int]
    of_files: ClassVar[tuple[str, ...]] = ()  # options of reading files alone

    @property
    def parts(self) -> tuple[int, ...]:
        """Tasks along each axis of a signal's grid."""
        raise NotImplementedError

    @property
    def span(self) -> tuple[float, ...]:
        """Half the range of the coordinates, per axis."""
        return (1.0,) * self.axes

    @property
    def box_span(self) -> tuple[float, ...]:
        """The same of a task's own coordinates."""
        return self.span

    def check(self) -> None:
        super().check()
        if min(self.parts) < 1:
            raise InputError(f"the numbers of tasks must be at least 1, got {self.parts}")

    def idle(self) -> Idle:
        # Procedural signals are made as large as they are wanted.
        return flags(("strict", *self.of_files), "without data") if self.path is None else {}


@dataclasses.dataclass(frozen=True)
class ImageOptions(SignalOptions):
    """The images to learn, and how each is cut into patches."""

    axes: ClassVar[int] = 2
    of_files: ClassVar[tuple[str, ...]] = ("resize", "channels")

    patches: tuple[int, int] = (2, 2)
    """Patches that an image is cut into, rows and columns: the tasks."""
    # The crop of GradNCP and learnit, so that results are on the same pixels as theirs.
    size: int = 178
    """Side of the center crop in pixels."""
    resize: bool = False
    """Scale an image to the crop's side first, instead of cropping it at its own resolution."""
    channels: Literal[1, 3] = 3
    """Gray or RGB."""

    @property
    def parts(self) -> tuple[int, ...]:
        return self.patches


@dataclasses.dataclass(frozen=True)
class VideoOptions(SignalOptions):
    """The videos to learn, and how each is cut into groups of frames."""

    axes: ClassVar[int] = 3
    of_files: ClassVar[tuple[str, ...]] = ("stride",)

    groups: int = 4
    """Groups of successive frames that a clip is cut into: the tasks."""
    frames: int = 16
    """Frames of a clip."""
    stride: int = 1
    """Take every stride-th frame."""
    size: int = 64
    """Side of the square frames in pixels."""

    @property
    def parts(self) -> tuple[int, ...]:
        return (self.groups, 1, 1)


@dataclasses.dataclass(frozen=True)
class AudioOptions(SignalOptions):
    """The clips to learn, and how each is cut into windows."""

    axes: ClassVar[int] = 1
    of_files: ClassVar[tuple[str, ...]] = ("peak",)

    windows: int = 4
    """Windows that a clip is cut into: the tasks."""
    seconds: float = 1.0
    """Length of a clip."""
    rate: int = 16000
    """Samples per second."""
    peak: bool = True
    """Scale each clip to full range."""
    coordinate_span: float | None = None
    """Half the range of a clip's time coordinate, of which a window has its share; default: 50 per second of the clip
    (GradNCP, arXiv 2302.00617, has 50 for clips of any length)."""

    @property
    def parts(self) -> tuple[int, ...]:
        return (self.windows,)

    @property
    def span(self) -> tuple[float, ...]:
        return (SPAN_PER_SECOND * self.seconds if self.coordinate_span is None else self.coordinate_span,)

    @property
    def box_span(self) -> tuple[float, ...]:
        return (self.span[0] / self.windows,)

    def check(self) -> None:
        super().check()
        check_positive(coordinate_span=self.coordinate_span)


@dataclasses.dataclass(frozen=True)
class SirenOptions(FieldOptions):
    """Architecture of a module (SIREN)."""

    width: int = 64
    """Width of a module; one network for all tasks is as much wider as it takes to have as many parameters."""
    hidden_layers: int = 3
    """Hidden layers of a network (SIREN)."""
    w0: float = 30.0
    """Frequency of the sine."""
    offset: float = 0.0
    """Mean output of a random initialization (GradNCP: 0.5, the middle of the range, and silence)."""

    def check(self) -> None:
        super().check()
        check_positive(w0=self.w0)
        if not math.isfinite(self.offset):
            raise InputError(f"offset must be finite, got {self.offset}")


@dataclasses.dataclass(frozen=True)
class SignalConfig(SystemConfig):
    """What all kinds of signals have in common; a subclass adds the group `data`."""

    quick_values: ClassVar[Values]
    rounds: ClassVar[bool] = True

    init_from: Annotated[pathlib.Path | None, arg(metavar="DIR|NAME")] = None
    """Take the meta-learned initializations from the folder of a former run, or that of the modules from the package
    (`face_patches` for image, `speech` for audio), instead of learning them."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    """What to run side by side."""
    seeds: tuple[int, ...] = (0,)
    """Seeds: each meta-trains, trains and is tested anew."""
    relations: Annotated[bool, arg(name="check")] = False
    """Also report whether the relations hold that are expected of the methods, such as a lead of ours of 1 dB."""
    steps: int = 4096
    """Steps per task at test time; results are taken at 1, 2, 4, ... up to it."""
    field: OmitArgPrefixes[SirenOptions] = dataclasses.field(default_factory=SirenOptions)
    """Architecture of a module."""
    adapt: AdaptOptions = dataclasses.field(default_factory=AdaptOptions)
    """Training at test time."""
    meta: MetaConfig = dataclasses.field(default_factory=MetaConfig)
    """Meta-training of the initializations; a task is a signal, with a module per task of its own or one for all."""
    # To sample: 38.74 dB on 12 faces (4096 steps, one seed), `mod` 37.95; independent draws gained nothing.
    # To weight the loss instead cost 7.7 dB on 8 faces (512 steps, lambda 0.3, one seed).
    fim: FimConfig = dataclasses.field(default_factory=lambda: FimConfig(use="sample"))
    """What `mim` does with Fisher information at test time, and how the scores are formed everywhere, in `mim_weight`
    too."""

    @property
    def signals(self) -> SignalOptions:
        """The group `data`, of whatever kind."""
        raise NotImplementedError

    def check(self) -> None:
        super().check()
        check_at_least(1, steps=self.steps)
        check_methods(self.methods)
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or not all(0 <= s < 1 << 31 for s in self.seeds):
            raise InputError(f"seeds must be different numbers in 0 ... 2147483647, got {self.seeds}")
        if "oml" in self.methods and self.adapt.fast_layers > self.field.hidden_layers:
            layers = f"1 ... {self.field.hidden_layers} with {self.field.hidden_layers} hidden layers"
            raise InputError(f"adapt.fast-layers must lie in {layers}, got {self.adapt.fast_layers}")
        if "oml" in self.methods and self.meta.algorithm == "reptile":
            raise InputError("meta.algorithm must be maml for oml, whose inner loop leaves layers alone, got reptile")

    def baseline(self) -> SignalConfig:
        return quick_config(self.kind) if self.run.quick else type(self)()

    def idle(self) -> Idle:
        guided = (self.meta.fim_inner, self.meta.fim_outer) != ("none", "none") and "mim" in self.methods
        idle = {**super().idle(), **idle_of_methods(self.methods, self.fim, self.adapt.ewc_online, guided)}
        if all(METHODS[name].initialization == "random" for name in self.methods):
            without = "if no method begins at a meta-learned initialization"
            return idle | {"meta": without, "init-from": without, "adapt.ramp": without}
        if self.init_from is not None:
            # How many steps it takes at which rate still decides the first steps at test time.
            read = ("inner", "inner_steps", "inner_lr", "fim_inner", "fim_outer")
            names = [item.name for item in dataclasses.fields(MetaConfig) if item.name not in read]
            idle |= flags(names, "with init-from", "meta")
        return idle

    def spec(self, channels: int, tasks: int, modular: bool) -> FieldSpec:
        """Return a module's architecture, or that of one network with as many parameters as `tasks` modules."""
        width, layers, w0 = self.field.width, self.field.hidden_layers, self.field.w0
        # One network for all tasks gets as many parameters as their modules have together, by its width.
        module = FieldSpec(self.signals.axes, channels, width, layers, activation="sine", w0=w0)
        return module if modular else wide_spec(module, module.num_parameters * tasks)

    def adapting(self) -> AdaptConfig:
        """Return how methods train at test time."""
        options = {f.name: getattr(self.adapt, f.name) for f in dataclasses.fields(AdaptOptions)}
        # The first steps are those that the initialization was learned for: as many, by SGD, at the same rate; none if
        # it was learned through Adam, which then trains on from it at once.
        warm = self.meta.inner_steps if self.meta.inner == "sgd" else 0
        precision = self.run.precision
        return AdaptConfig(**options, warm_steps=warm, warm_lr=self.meta.inner_lr, fim=self.fim, precision=precision)


@dataclasses.dataclass(frozen=True)
class ImageConfig(SignalConfig):
    """Learns images patch by patch, without forgetting, by every method side by side, and writes a run folder."""

    kind: ClassVar[str] = "image"
    quick_values: ClassVar[Values] = {"size": 48, "resize": True}

    data: OmitArgPrefixes[ImageOptions] = dataclasses.field(default_factory=ImageOptions)
    """The images to learn, and how each is cut into patches."""

    @property
    def signals(self) -> ImageOptions:
        return self.data


@dataclasses.dataclass(frozen=True)
class VideoConfig(SignalConfig):
    """Learns videos frame group by frame group, without forgetting, by every method side by side, and writes a run
    folder."""

    kind: ClassVar[str] = "video"
    quick_values: ClassVar[Values] = {"size": 24, "frames": 8}

    data: OmitArgPrefixes[VideoOptions] = dataclasses.field(default_factory=VideoOptions)
    """The videos to learn, and how each is cut into groups of frames."""

    @property
    def signals(self) -> VideoOptions:
        return self.data


@dataclasses.dataclass(frozen=True)
class AudioConfig(SignalConfig):
    """Learns sound window by window, without forgetting, by every method side by side, and writes a run folder."""

    kind: ClassVar[str] = "audio"
    quick_values: ClassVar[Values] = {"seconds": 0.25}

    data: OmitArgPrefixes[AudioOptions] = dataclasses.field(default_factory=AudioOptions)
    """The clips to learn, and how each is cut into windows."""
    # At rates that fall as 1 / sqrt(step), speech above 55 dB broke up after step 2300 and ended at 43 to 48.
    adapt: AdaptOptions = dataclasses.field(default_factory=lambda: AdaptOptions(fall=0.75))
    """Training at test time."""
    # Speech: an outer rate of 2e-3 went from 16.2 to 7.4 dB on validation clips; these options end at 32.9.
    meta: MetaConfig = dataclasses.field(default_factory=lambda: MetaConfig(inner_lr=1e-2, outer_lr=5e-4, center=True))
    """Meta-training of the initializations; a task is a clip, with a module per window or one for all."""

    @property
    def signals(self) -> AudioOptions:
        return self.data


CONFIGS: dict[str, type[SignalConfig]] = {"image": ImageConfig, "video": VideoConfig, "audio": AudioConfig}
QUICK: Mapping[str, int | bool] = {
    "quick": True,
    "steps": 64,
    "limit": 12,
    "width": 32,
    "adapt.batch": 128,
    "meta.steps": 24,
    "meta.tasks": 4,
    "meta.batch": 128,
    "meta.validate-every": 12,
}


def quick_config(kind: str) -> SignalConfig:
    """Return the defaults of `--quick`.

    >>> quick_config("image").steps
    64
    """
    cls = CONFIGS[kind]
    return with_options(cls(), {**QUICK, **cls.quick_values})


def defaults_of(kind: str, words: Sequence[str]) -> SignalConfig:
    """Return the defaults from which a command line is read: with `--quick` those of a small run.

    >>> defaults_of("audio", ["--quick"]) == quick_config("audio")
    True
    """
    return quick_config(kind) if "--quick" in words else CONFIGS[kind]()
