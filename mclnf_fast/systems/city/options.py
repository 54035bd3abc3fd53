"""Options of `mclnf-fast run city`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import torch
from tyro.conf import OmitArgPrefixes

from mclnf_fast.data.scene import check_aabb
from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.methods import METHODS, AdaptConfig, check_methods
from mclnf_fast.learn.methods.base import DecayOptions
from mclnf_fast.render import RenderSettings
from mclnf_fast.spec import FieldSpec, Frequency
from mclnf_fast.systems.common.checks import check_at_least, check_seed
from mclnf_fast.systems.common.config_file import Values, from_plain, with_options
from mclnf_fast.systems.common.idle import Idle, flags, idle_of_methods
from mclnf_fast.systems.common.options import DataOptions, FieldOptions, SystemConfig

DEFAULT_METHODS = ("mod_random", "finetune", "mod", "mim")
UNUSED = ("center", "validate_every", "context", "keep", "bootstrap", "fim_inner", "fim_outer")
MODULES = MetaConfig(
    steps=200,
    tasks=None,
    batch=128,
    inner_steps=16,
    inner="adam",
    inner_lr=5e-3,
    outer_lr=1e-2,
    algorithm="reptile",
    grad_clip=None,
    validate_every=0,
)
JOINT = MetaConfig(
    steps=150,
    tasks=None,
    batch=256,
    inner_lr=0.3,
    outer_lr=3e-3,
    oml_first_order=True,  # its inner loop is as many times longer as a district has blocks
    validate_every=0,
)


@dataclasses.dataclass(frozen=True)
class CityDataOptions(DataOptions):
    """The posed images to learn from."""

    blocks: tuple[int, int] | None = None
    """Grid over the camera positions that cuts `data` into blocks, such as 2 2; MatrixCity brings its own blocks."""
    max_side: int = 160
    """Reduce the pictures of `data` to at most this many pixels per side."""
    box: tuple[float, float, float, float, float, float] | None = None
    """Box of the scene of `data`, in its units: x y z of the lowest corner, then of the highest. Default: from the file
    (aabb), its points, or the cameras; the run says which."""

    styles: int | None = None
    """Styles of the procedural districts that initializations are learned on, a district of each: that of the
    procedural city, and others of other heights, colors, scale and flight. Default: two districts of the first style
    alone."""

    def check(self) -> None:
        super().check()
        check_at_least(1, max_side=self.max_side, styles=self.styles)
        if self.box is not None:
            check_aabb(torch.tensor(self.box, dtype=torch.float64).reshape(2, 3), "box")
        if self.blocks is not None and min(self.blocks) < 1:
            raise InputError(f"blocks must be two counts of at least 1, got {self.blocks}")

    def idle(self) -> Idle:
        # A procedural city has its own blocks, size and box.
        return flags(("blocks", "max_side", "box"), "without data") if self.path is None else {}


@dataclasses.dataclass(frozen=True)
class CityFieldOptions(FieldOptions):
    """A module: its network, the cell in which it lives, and how its rays are sampled."""

    fewest_layers: ClassVar[int] = 0

    width: int = 64
    """Width of a module."""
    hidden_layers: int = 4
    """Hidden layers of a module."""
    frequencies: int = 5
    """Octaves of a module's positional encoding."""
    samples_per_ray: int = 16
    """Samples per ray."""
    # As in Mega-NeRF: modules that end where their blocks do would leave seams between them.
    margin: float = 1.15
    """How far a module reaches beyond its block."""

    def check(self) -> None:
        super().check()
        check_at_least(1, frequencies=self.frequencies, samples_per_ray=self.samples_per_ray)
        if not 1 <= self.margin < math.inf:
            raise InputError(f"margin must be at least 1 and finite, got {self.margin}")

    @property
    def spec(self) -> FieldSpec:
        """The architecture of a module."""
        return FieldSpec(3, 4, self.width, self.hidden_layers, encoding=Frequency(self.frequencies, True))


@dataclasses.dataclass(frozen=True)
class CityConfig(SystemConfig):
    """Learns a city block by block, without forgetting, and writes a run folder with a report."""

    kind: ClassVar[str] = "city"
    rounds: ClassVar[bool] = True

    data: OmitArgPrefixes[CityDataOptions] = dataclasses.field(default_factory=CityDataOptions)
    """The posed images to learn from (MatrixCity, Blender or nerfstudio); without a folder a procedural city."""
    field: OmitArgPrefixes[CityFieldOptions] = dataclasses.field(default_factory=CityFieldOptions)
    """A module."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    """What to run side by side. One network, as large as all modules together: `offline` (all blocks at once, from a
    random initialization, with as many steps as the others make over all blocks), `finetune`, `er` (replay), `ewc`,
    `maml_cl` (fine-tuned from an initialization learned by MAML on whole districts), `maml_offline` (the same, all
    blocks at once), `oml`. Modules: `mod`, `mim` (with Fisher information), `mod_random` (from a random
    initialization)."""
    init: Literal["meta", "random"] = "meta"
    """Initializations: meta-learned on other, procedural districts, or random."""
    steps: int = 640
    """Gradient steps per block."""
    adapt: DecayOptions = dataclasses.field(
        default_factory=lambda: DecayOptions(batch=512, lr=1e-2, lr_end=1e-3, memory=4096)
    )
    """Training on a block."""
    fim: FimConfig = dataclasses.field(
        # Half of the draws are uniform: an unbiased weight 1 / (n p) is then at most 2, however low a score is.
        default_factory=lambda: FimConfig(use="sample", draws="independent", mix=0.5, smooth=0.5, refresh=8)
    )
    """What `mim` does with Fisher information: to sample rays, to weight the loss (the paper's form), or both."""
    tile: int = 8
    """Side, in pixels, of the tiles whose scores are remembered."""
    meta: MetaConfig = MODULES
    """Meta-learning of the modules' initialization; a task is a block."""
    meta_joint: MetaConfig = JOINT
    """Meta-learning of the initializations of `maml_cl`, `maml_offline` and `oml`; a task is a district."""
    seed: int = 0
    """Seed of all random numbers."""

    @classmethod
    def flags_without_effect(cls) -> tuple[str, ...]:
        names = [*(f"meta-joint.{name}" for name in UNUSED), *(f"meta.{name}" for name in (*UNUSED, "oml_first_order"))]
        return tuple(name.replace("_", "-") for name in names)

    def check(self) -> None:
        # First, since the messages of their own checks would not tell the two apart.
        self.meta.check(unused=(*UNUSED, "oml_first_order"))
        self.meta_joint.check("meta-joint", unused=UNUSED)
        super().check()
        check_at_least(1, steps=self.steps, tile=self.tile)
        check_methods(self.methods)
        check_seed(self.seed)
        if self.fim.kind not in ("diag", "rank1"):
            # The others score points one by one, and a ray's points share one loss.
            raise InputError(f"fim.kind must be diag or rank1 for rays, got {self.fim.kind}")
        if "oml" in self.methods:
            layers = self.field.hidden_layers
            if not 1 <= self.adapt.fast_layers <= layers:
                allowed = f"1 ... {layers} with {layers} hidden layers"
                raise InputError(f"adapt.fast-layers must lie in {allowed}, got {self.adapt.fast_layers}")
            if self.meta_joint.algorithm == "reptile":
                raise InputError("meta-joint.algorithm must be maml for oml, which leaves layers alone, got reptile")

    def baseline(self) -> CityConfig:
        return quick_config() if self.run.quick else CityConfig()

    def idle(self) -> Idle:
        idle = {**super().idle(), **idle_of_methods(self.methods, self.fim, self.adapt.ewc_online)}
        learned, without = self.initializations, "if no initialization of the kind is meta-learned (init, methods)"
        if not learned:
            idle |= {"styles": without, "adapt.ramp": without}
        idle |= {} if "modules" in learned else {"meta": without}
        idle |= {} if learned & {"joint", "oml"} else {"meta-joint": without}
        if "fim" in idle and "mod_even" not in self.methods:
            idle["tile"] = "with these methods"
        return idle

    @property
    def settings(self) -> RenderSettings:
        """How rays are sampled and composited."""
        return RenderSettings(samples_per_ray=self.field.samples_per_ray, backend=self.run.backend)

    @property
    def initializations(self) -> set[str]:
        """The meta-learned initializations that the methods need: `modules`, `joint`, `oml`."""
        if self.init == "random":
            return set()
        needed: set[str] = {METHODS[name].initialization for name in self.methods}
        return needed - {"random"}

    def adapting(self, method: str) -> AdaptConfig:
        """Return how a method trains on a block.

        The modules' initialization was learned with Adam inside and goes on with Adam; those of one network were
        learned with SGD, which therefore takes the first steps.
        """
        maml = METHODS[method].initialization in ("joint", "oml") and self.init == "meta"
        # `AdaptConfig` has the fields of both schedules; the city sets those of the exponential one.
        options = {option.name: getattr(self.adapt, option.name) for option in dataclasses.fields(DecayOptions)}
        return AdaptConfig(
            **options,
            warm_steps=self.meta_joint.inner_steps if maml else 0,
            warm_lr=self.meta_joint.inner_lr,
            schedule="exponential",
            precision=self.run.precision,
            fim=self.fim,
        )


QUICK: Values = {
    "quick": True,
    "steps": 64,
    "adapt.batch": 256,
    "meta.steps": 16,
    "meta.batch": 64,
    "meta-joint.steps": 16,
    "meta-joint.batch": 64,
}


def quick_config() -> CityConfig:
    """Return the defaults of `--quick`.

    >>> quick_config().steps
    64
    """
    return with_options(CityConfig(), QUICK)


def defaults_of(name: str, words: Sequence[str]) -> CityConfig:
    """Return the defaults from which a command line is read: with `--quick` those of a small run.

    >>> defaults_of("city", ["--quick"]) == quick_config()
    True
    """
    return quick_config() if "--quick" in words else CityConfig()


def logged_steps(steps: int) -> tuple[int, ...]:
    """Return the steps per block that are logged: 0, 1, 4, 16, ... and the last.

    >>> logged_steps(20)
    (0, 1, 4, 16, 20)
    """
    return (0, *(4**k for k in range(16) if 4**k < steps), steps)


def read_config(data: Mapping[str, object]) -> CityConfig:
    """Return the configuration that a run folder's config.yaml describes, that of a former version too."""
    return from_plain(CityConfig, data)
