"""Options of the systems that learn an initialization and fine-tune it on unseen data."""

from __future__ import annotations

import dataclasses
import math
import pathlib
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal, TypeVar

from tyro.conf import OmitArgPrefixes, arg

from mclnf_fast.errors import InputError
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.spec import FieldSpec, LogFrequency
from mclnf_fast.systems.common.checks import check_at_least, check_seed
from mclnf_fast.systems.common.config_file import Values, with_options
from mclnf_fast.systems.common.idle import Idle, flags
from mclnf_fast.systems.common.options import FieldOptions, SystemConfig, option_value
from mclnf_fast.systems.starts.tuning import TuneOptions

InitializationName = Literal["standard", "constant", "matched", "shuffled", "meta"]
INITIALIZATIONS: tuple[InitializationName, ...] = typing.get_args(InitializationName)


# Learned Initializations (arXiv 2012.02189) and the "fast single-view NeRF" text: Reptile over one task at a time.
REPTILE = MetaConfig(
    steps=100_000,
    tasks=1,
    batch=128,
    inner_steps=32,
    inner_lr=0.5,
    outer_lr=5e-5,
    algorithm="reptile",
    first_order=True,
    grad_clip=None,
    validate_every=0,
)
UNUSED = ("oml_first_order", "center", "validate_every", "context", "keep", "bootstrap", "fim_inner", "fim_outer")


@dataclasses.dataclass(frozen=True)
class StartConfig(SystemConfig):
    """Learns an initialization over many tasks, and fine-tunes it on unseen ones.

    A subclass lists its presets: name -> {flag: value}, and `quick_values`, which `--quick` sets on top of each.
    """

    presets: ClassVar[Mapping[str, Values]]
    quick_values: ClassVar[Values]
    unused: ClassVar[tuple[str, ...]] = UNUSED  # options of meta-training that have no effect here
    read_after: ClassVar[tuple[str, ...]] = ()  # those that also decide the steps on unseen tasks

    preset: str = "small"
    """What the other options begin from."""
    seed: int = 0
    """Seed of all random numbers."""
    steps: int = 1000
    """Steps of fine-tuning, of every initialization alike."""
    meta: MetaConfig = REPTILE
    """Meta-training of the initialization."""
    init_from: Annotated[pathlib.Path | None, arg(metavar="DIR|NAME")] = None
    """Take the meta-learned initialization from the folder of a former run, or one that comes with the package (`faces`
    for image-start, `phantoms` for ct), instead of learning it."""

    @classmethod
    def flags_without_effect(cls) -> tuple[str, ...]:
        return (*super().flags_without_effect(), *(f"meta.{name.replace('_', '-')}" for name in cls.unused))

    def baseline(self) -> StartConfig:
        return preset_config(type(self), self.preset, quick=self.run.quick)

    def idle(self) -> Idle:
        idle, names = super().idle(), getattr(self, "initializations", INITIALIZATIONS)
        if not {"constant", "matched"} & set(names):
            idle["match-steps"] = "without constant or matched among the initializations"
        if set(names) == {"standard"}:
            alone = "with the standard initialization alone"
            return idle | flags(("meta", "init-from", "check-every", "check-steps"), alone)
        if self.init_from is not None:
            names_of_meta = [item.name for item in dataclasses.fields(MetaConfig) if item.name not in self.read_after]
            idle |= flags(names_of_meta, "with init-from", "meta") | flags(
                ("check-every", "check-steps"), "with init-from"
            )
        return idle

    def check(self) -> None:
        super().check()
        check_at_least(1, steps=self.steps)
        check_seed(self.seed)
        self.meta.check(unused=self.unused, least_steps=1)


C = TypeVar("C", bound=StartConfig)


def preset_config(cls: type[C], preset: str = "small", *, quick: bool = False) -> C:
    """Return the defaults under a preset; `quick` changes some of them.

    Raises InputError if there is no such preset.

    >>> from mclnf_fast.systems.ct.options import CtConfig
    >>> preset_config(CtConfig, "paper").data.size
    256
    """
    if preset not in cls.presets:
        raise InputError(f"preset must be one of {', '.join(cls.presets)}, got {preset!r}")
    # `--quick` on top: under every preset, that of days too, it must give a short run.
    values = {**cls.presets[preset], **({"quick": True, **cls.quick_values} if quick else {})}
    return with_options(cls(), {"preset": preset, **values})


def defaults_from(cls: type[C], words: Sequence[str]) -> C:
    """Return the defaults from which a command line is read: those of its `--preset` and `--quick`.

    >>> from mclnf_fast.systems.ct.options import CtConfig
    >>> defaults_from(CtConfig, ["--preset=paper"]) == preset_config(CtConfig, "paper")
    True
    """
    return preset_config(cls, option_value(words, "preset", "small"), quick="--quick" in words)


def check_initializations(names: Sequence[str]) -> None:
    """Raise InputError if there are no names, or one stands twice.

    >>> check_initializations(["standard", "meta"])
    """
    # Results are kept by name: one given twice would be shown once, which is not what was asked for.
    if not names or len(set(names)) < len(names):
        known = ", ".join(INITIALIZATIONS)
        raise InputError(f"initializations must name different ones of {known}, got {', '.join(names) or 'none'}")


@dataclasses.dataclass(frozen=True)
class RayFieldOptions(FieldOptions):
    """A radiance field of positions, and the part of rays on which it is sampled."""

    hidden_layers: int = 5
    """Hidden layers of the network."""
    max_exp: float = 8.0
    """Highest frequency of the 20 of a coordinate, 2 to the power of this, radians per unit of length. One that turns
    by much more than a radian between two samples is noise to learn from."""
    samples_per_ray: int = 128
    """Samples per ray."""
    near: float | None = None
    """Where the samples of a ray begin, in units of the data; default: what the data give."""
    far: float | None = None
    """Where they end; default: what the data give."""

    def check(self) -> None:
        super().check()
        if not 0 <= self.max_exp <= 32:
            raise InputError(f"max-exp must lie in 0 ... 32, got {self.max_exp}")
        check_at_least(2, samples_per_ray=self.samples_per_ray)
        if self.near is not None and self.far is not None and not 0 <= self.near < self.far < math.inf:
            raise InputError(f"near and far must be 0 <= near < far, finite, got {self.near} and {self.far}")

    @property
    def spec(self) -> FieldSpec:
        """The network: 120 features of a position, no view direction; color and density."""
        # As in the paper's code, 20 frequencies and no raw position: results of other inputs would not compare with it.
        return FieldSpec(3, 4, self.width, self.hidden_layers, encoding=LogFrequency(20, self.max_exp))


@dataclasses.dataclass(frozen=True)
class FineTuneOptions:
    """Fine-tuning of an initialization on rays."""

    batch: int = 128
    """Rays per step and task."""
    lr: float | None = 0.5
    """Rate of the steps."""

    @property
    def rate(self) -> float:
        """`lr`, or its default."""
        return 0.5 if self.lr is None else self.lr

    def check(self) -> None:
        """Raise InputError if an option is out of range."""
        if self.batch < 1:
            raise InputError(f"adapt.batch must be at least 1, got {self.batch}")
        if self.lr is not None and not 0 < self.lr < math.inf:
            raise InputError(f"adapt.lr must be above 0 and finite, got {self.lr}")


@dataclasses.dataclass(frozen=True)
class RayStartConfig(StartConfig):
    """Learns an initialization of radiance fields, and compares it with others."""

    field: OmitArgPrefixes[RayFieldOptions] = dataclasses.field(default_factory=RayFieldOptions)
    """The network, and the part of rays on which it is sampled."""
    initializations: tuple[InitializationName, ...] = INITIALIZATIONS
    """Which to compare: standard, random; constant and matched, other random weights, distilled to the meta-learned
    one's mean output and to its outputs; shuffled, its entries permuted within each tensor; meta, itself."""
    adapt: FineTuneOptions = dataclasses.field(default_factory=FineTuneOptions)
    """Fine-tuning on unseen tasks."""
    tune: TuneOptions = dataclasses.field(default_factory=TuneOptions)
    """Choice of a rate and a density bias for each initialization."""
    match_steps: int = 2000
    """Adam steps in which `constant` and `matched` are distilled, each."""
    check_every: int | None = None
    """Outer steps between two checks of the initialization on unseen data; 0: none. They change nothing."""

    def idle(self) -> Idle:
        idle = super().idle()
        if len(self.tune.grid(self.adapt.rate)) == 1:
            idle |= flags(("steps", "tasks"), "without tune.rates or tune.density-bias", "tune")
        return idle

    def check(self) -> None:
        super().check()
        check_initializations(self.initializations)
        check_at_least(1, match_steps=self.match_steps)
        check_at_least(0, check_every=self.check_every)
