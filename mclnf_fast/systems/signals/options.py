"""Options of `mclnf-fast run image`, `run video` and `run audio`."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import typing
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.meta.starts import MetaConfig
from mclnf_fast.learn.methods import METHODS, AdaptConfig, AdaptOptions
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.common.checks import check_device, wide_spec

MethodName = Literal["offline", "finetune", "er", "ewc", "maml_cl", "maml_offline", "oml", "mod", "mim", "mim_weight"]
Use = Literal["none", "sample", "weight", "both"]
SPAN_A_SECOND = 50.0


@dataclasses.dataclass(frozen=True)
class SignalConfig:
    """What all kinds of signals have in common."""

    kind: ClassVar[str]
    axes: ClassVar[int]

    data: pathlib.Path | None = None
    """Folder of signals; without it procedural ones are made."""
    test: int | None = None
    """Signals to test on, unseen in meta-training; default: what the folder's layout says, or a quarter."""
    limit: int | None = None
    """Read at most this many signals."""
    strict: bool = False
    """Refuse a folder with an unreadable file, instead of leaving the file out with a warning."""
    out: pathlib.Path | None = None
    """Run folder, new or empty; default outputs/KIND/TIME."""
    quick: bool = False
    """A small run of under a minute."""
    resume: str | None = None
    """Continue the run in this folder, with its own options; standing alone: the run in --out, or else the newest."""
    starts: pathlib.Path | None = None
    """Folder of a former run whose meta-learned starts are taken, instead of learning them."""
    methods: tuple[MethodName, ...] = typing.get_args(MethodName)
    """What to run side by side."""
    seeds: tuple[int, ...] = (0,)
    """Seeds: each meta-trains, trains and is tested anew."""
    steps: int = 4096
    """Steps a task at test time; results are taken at 1, 2, 4, ... up to it."""
    width: int = 64
    """Width of a module; one network for all tasks is as much wider as it takes to have as many parameters."""
    hidden_layers: int = 3
    """Hidden layers of a network (SIREN)."""
    w0: float = 30.0
    """Frequency of the sine."""
    offset: float = 0.0
    """What a random start puts out on average (GradNCP: 0.5, the middle of the range, and silence)."""
    adapt: AdaptOptions = dataclasses.field(default_factory=AdaptOptions)
    """Training at test time."""
    meta: MetaConfig = dataclasses.field(default_factory=MetaConfig)
    """Meta-training of the starts."""
    fim: FimConfig = dataclasses.field(default_factory=lambda: FimConfig(use="sample"))
    """What `mim` does with Fisher information at test time, and how the scores are formed everywhere, in `mim_weight`
    too."""
    fim_inner: Use = "none"
    """What `mim` does with Fisher information in the inner loop of its meta-training."""
    fim_outer: Use = "none"
    """What `mim` does with Fisher information in the outer loss of its meta-training."""
    threads: int | None = None
    """CPU threads; default: torch's."""
    device: str = "cpu"
    """Where to learn: cpu, cuda, or one of several GPUs, such as cuda:1."""
    backend: Literal["auto", "reference", "cpu", "triton"] = "auto"
    """Which implementation of the ops to use."""

    @property
    def parts(self) -> tuple[int, ...]:
        """Tasks an axis of a signal's grid."""
        raise NotImplementedError

    @property
    def span(self) -> tuple[float, ...]:
        """Half the range of the coordinates, an axis."""
        return (1.0,) * self.axes

    @property
    def box_span(self) -> tuple[float, ...]:
        """The same of a task's own coordinates."""
        return self.span

    def check(self) -> None:
        """Raises InputError where an option is out of range."""
        for name in ("steps", "width"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("threads", "limit", "test"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not self.methods:
            raise InputError(f"methods must name at least one of {', '.join(METHODS)}, got none")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds) or not all(0 <= s < 1 << 31 for s in self.seeds):
            raise InputError(f"seeds must be different numbers in 0 ... 2147483647, got {self.seeds}")
        if not 1 <= self.hidden_layers <= 30:
            raise InputError(f"hidden-layers must lie in 1 ... 30, got {self.hidden_layers}")
        if not 0 < self.w0 < math.inf:
            raise InputError(f"w0 must be above 0 and finite, got {self.w0}")
        if not math.isfinite(self.offset):
            raise InputError(f"offset must be finite, got {self.offset}")
        if "oml" in self.methods and self.adapt.fast_layers > self.hidden_layers:
            layers = f"1 ... {self.hidden_layers} with {self.hidden_layers} hidden layers"
            raise InputError(f"adapt.fast-layers must lie in {layers}, got {self.adapt.fast_layers}")
        if min(self.parts) < 1:
            raise InputError(f"the numbers of tasks must be at least 1, got {self.parts}")
        if self.meta.context == "gradncp" and (self.fim_inner, self.fim_outer) != ("none", "none"):
            uses = f"{self.fim_inner} and {self.fim_outer}"
            raise InputError(f"fim-inner and fim-outer must be none with meta.context gradncp, got {uses}")
        check_device(self.device)
        self.adapt.check()
        self.meta.check()
        self.fim.check()

    def spec(self, channels: int, tasks: int, modular: bool) -> FieldSpec:
        """A module's architecture, or that of one network with as many parameters as `tasks` modules."""
        module = FieldSpec(self.axes, channels, self.width, self.hidden_layers, activation="sine", w0=self.w0)
        return module if modular else wide_spec(module, module.num_parameters * tasks)

    def adapting(self) -> AdaptConfig:
        """How methods train at test time."""
        options = {f.name: getattr(self.adapt, f.name) for f in dataclasses.fields(AdaptOptions)}
        return AdaptConfig(**options, warm_steps=self.meta.inner_steps, warm_lr=self.meta.inner_lr, fim=self.fim)


@dataclasses.dataclass(frozen=True)
class ImageConfig(SignalConfig):
    """Learns images patch by patch, without forgetting, by every method side by side, and writes a run folder."""

    kind: ClassVar[str] = "image"
    axes: ClassVar[int] = 2

    patches: tuple[int, int] = (2, 2)
    """Patches an image is cut into, rows and columns: the tasks."""
    size: int = 178
    """Side of the centre crop in pixels."""
    resize: bool = False
    """Scale an image to the crop's side first, instead of cropping it at its own resolution."""
    channels: Literal[1, 3] = 3
    """Grey or RGB."""

    @property
    def parts(self) -> tuple[int, ...]:
        return self.patches


@dataclasses.dataclass(frozen=True)
class VideoConfig(SignalConfig):
    """Learns videos frame group by frame group, without forgetting, by every method side by side, and writes a run
    folder."""

    kind: ClassVar[str] = "video"
    axes: ClassVar[int] = 3

    groups: int = 4
    """Groups of successive frames a clip is cut into: the tasks."""
    frames: int = 16
    """Frames of a clip."""
    stride: int = 1
    """Every how many-th frame is taken."""
    size: int = 64
    """Side of the square frames in pixels."""

    @property
    def parts(self) -> tuple[int, ...]:
        return (self.groups, 1, 1)


@dataclasses.dataclass(frozen=True)
class AudioConfig(SignalConfig):
    """Learns sound window by window, without forgetting, by every method side by side, and writes a run folder."""

    kind: ClassVar[str] = "audio"
    axes: ClassVar[int] = 1

    windows: int = 4
    """Windows a clip is cut into: the tasks."""
    seconds: float = 1.0
    """Length of a clip."""
    rate: int = 16000
    """Samples a second."""
    peak: bool = True
    """Scale each clip to full range."""
    coordinate_span: float | None = None
    """Half the range of a clip's time coordinate, of which a window has its share; default: 50 a second of the clip
    (GradNCP, arXiv 2302.00617, has 50 for clips of any length)."""
    adapt: AdaptOptions = dataclasses.field(default_factory=lambda: AdaptOptions(fall=0.75))
    """Training at test time."""
    meta: MetaConfig = dataclasses.field(default_factory=lambda: MetaConfig(inner_lr=1e-2, outer_lr=5e-4, center=True))
    """Meta-training of the starts."""

    @property
    def parts(self) -> tuple[int, ...]:
        return (self.windows,)

    @property
    def span(self) -> tuple[float, ...]:
        return (SPAN_A_SECOND * self.seconds if self.coordinate_span is None else self.coordinate_span,)

    @property
    def box_span(self) -> tuple[float, ...]:
        return (self.span[0] / self.windows,)

    def check(self) -> None:
        super().check()
        if self.coordinate_span is not None and not 0 < self.coordinate_span < math.inf:
            raise InputError(f"coordinate-span must be above 0 and finite, got {self.coordinate_span}")


CONFIGS: dict[str, type[SignalConfig]] = {"image": ImageConfig, "video": VideoConfig, "audio": AudioConfig}
QUICK: dict[str, dict[str, Any]] = {
    "image": {"size": 48, "resize": True},
    "video": {"size": 24, "frames": 8},
    "audio": {"seconds": 0.25},
}


def quick_config(kind: str) -> SignalConfig:
    """The defaults of `--quick`."""
    config = CONFIGS[kind](quick=True, steps=64, limit=12, width=32, **QUICK[kind])
    adapt = dataclasses.replace(config.adapt, batch=128)
    meta = dataclasses.replace(config.meta, steps=24, signals=4, batch=128, validate_every=12)
    return dataclasses.replace(config, adapt=adapt, meta=meta)


def defaults_of(kind: str, words: Sequence[str]) -> SignalConfig:
    """The defaults that a command line begins from: with `--quick` those of a small run."""
    return quick_config(kind) if "--quick" in words else CONFIGS[kind]()
