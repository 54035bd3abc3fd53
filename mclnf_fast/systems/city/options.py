"""The city job's options."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods import METHODS as LEARNED
from mclnf_fast.learn.methods import AdaptConfig, ModRandom
from mclnf_fast.learn.methods import Method as Learning
from mclnf_fast.render import RenderSettings
from mclnf_fast.spec import FieldSpec, Frequency
from mclnf_fast.systems.city.start import StartConfig
from mclnf_fast.systems.city.wide_start import WideConfig
from mclnf_fast.systems.common.checks import check_device

Method = Literal["offline", "finetune", "er", "ewc", "maml_cl", "maml_offline", "oml", "mod", "mim", "mod_random"]
# Weights are `--fim weight` here, where the scores' use is a choice for the whole run.
METHODS: dict[str, type[Learning]] = {
    "mod_random": ModRandom,
    **{k: c for k, c in LEARNED.items() if k != "mim_weight"},
}
DEFAULT: tuple[Method, ...] = ("mod_random", "finetune", "mod", "mim")


@dataclasses.dataclass(frozen=True)
class CityConfig:
    """Learns a city block by block, without forgetting, and writes a run folder with a report."""

    kind: ClassVar[str] = "city"

    data: pathlib.Path | None = None
    """Folder of posed images (MatrixCity, Blender or nerfstudio); without it a procedural city is made."""
    blocks: tuple[int, int] | None = None
    """Grid over the camera positions that cuts `data` into blocks, such as 2 2; MatrixCity brings its own blocks."""
    out: pathlib.Path | None = None
    """Run folder, new or empty; default outputs/city/TIME."""
    quick: bool = False
    """A small run of under a minute."""
    resume: str | None = None
    """Continue the run in this folder, with its own options; standing alone: the run in --out, or else the newest."""
    methods: tuple[Method, ...] = DEFAULT
    """What to run side by side. One network, as large as all modules together: `offline` (all blocks at once, from a
    random start, with as many steps as the others make over all blocks), `finetune`, `er` (replay), `ewc`, `maml_cl`
    (fine-tuned from a start learned by MAML on whole districts), `maml_offline` (the same, all blocks at once), `oml`.
    Modules: `mod`, `mim` (with Fisher information), `mod_random` (from a random start)."""
    max_side: int = 160
    """Reduce the pictures of `data` to at most this many pixels a side."""
    start: Literal["city", "none"] = "city"
    """Where the starts are meta-learned: on other procedural districts, or nowhere (random)."""
    steps: int = 640
    """Gradient steps a block."""
    batch: int = 512
    """Rays a step."""
    lr: float = 1e-2
    """Adam's rate at the first step of a block; it falls exponentially."""
    lr_end: float = 1e-3
    """Adam's rate at the last step of a block."""
    fim: Literal["sample", "weight", "both"] = "sample"
    """What `mim` uses Fisher information for: to sample rays, to weight the loss (the paper's form), or both."""
    fim_kind: Literal["diag", "rank1"] = "diag"
    """Which form of the Fisher matrix."""
    fim_source: Literal["ema", "batch"] = "ema"
    """Score a batch against a running mean of the matrix, or against its own."""
    fim_form: Literal["one_plus", "pure"] = "one_plus"
    """Loss weights proportional to 1 + lam q, or to q."""
    lam: float = 1.0
    """Strength of the loss weights."""
    mix: float = 0.5
    """Share of the informed part of the sampling."""
    refresh: int = 8
    """Steps between two scorings."""
    tile: int = 8
    """Side, in pixels, of the tiles whose scores are remembered."""
    memory: int = 4096
    """Rays that `er` keeps."""
    ewc_lam: float = 1.0
    """Strength of the penalty of `ewc`."""
    ewc_online: bool = False
    """Online `ewc`: one running Fisher matrix and anchor in place of a sum over blocks."""
    ewc_decay: float = 0.9
    """Decay of online EWC's Fisher matrix."""
    fast_layers: int = 2
    """Layers at the end of the network that `oml` trains."""
    width: int = 64
    """Width of a module."""
    hidden_layers: int = 4
    """Hidden layers of a module."""
    frequencies: int = 5
    """Octaves of a module's positional encoding."""
    bins: int = 16
    """Samples a ray."""
    margin: float = 1.15
    """How far a module reaches beyond its block."""
    meta: StartConfig = dataclasses.field(default_factory=StartConfig)
    """Meta-learning of the modules' start."""
    wide: WideConfig = dataclasses.field(default_factory=WideConfig)
    """Meta-learning of the starts of `maml_cl`, `maml_offline` and `oml`."""
    seed: int = 0
    """Of everything random."""
    threads: int | None = None
    """CPU threads; default: torch's."""
    device: str = "cpu"
    """Where to learn: cpu, cuda, or one of several GPUs, such as cuda:1."""
    backend: Literal["auto", "reference", "cpu"] = "auto"
    """Which implementation of the ops to use."""

    def check(self) -> None:
        """Raises InputError where an option is out of range."""
        for name in ("steps", "batch", "memory", "width", "frequencies", "bins", "refresh", "tile", "max_side"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be at least 1, got {self.threads}")
        if not self.methods:
            raise InputError(f"methods must name at least one of {', '.join(METHODS)}, got none")
        if not 0 <= self.hidden_layers <= 30:
            raise InputError(f"hidden-layers must lie in 0 ... 30, got {self.hidden_layers}")
        if not (0 < self.lr < math.inf and 0 < self.lr_end < math.inf):
            raise InputError(f"lr and lr-end must be above 0 and finite, got {self.lr} and {self.lr_end}")
        if not 0 <= self.lam < math.inf:
            raise InputError(f"lam must be at least 0 and finite, got {self.lam}")
        if not 1 <= self.margin < math.inf:
            raise InputError(f"margin must be at least 1 and finite, got {self.margin}")
        if not 0 <= self.seed < 1 << 31:
            raise InputError(f"seed must lie in 0 ... 2147483647, got {self.seed}")
        check_device(self.device)
        if "oml" in self.methods and not 1 <= self.fast_layers <= self.hidden_layers:
            layers = f"1 ... {self.hidden_layers} with {self.hidden_layers} hidden layers"
            raise InputError(f"fast-layers must lie in {layers}, got {self.fast_layers}")
        if not 0 <= self.ewc_lam < math.inf:
            raise InputError(f"ewc-lam must be at least 0 and finite, got {self.ewc_lam}")
        if not 0 <= self.ewc_decay <= 1:
            raise InputError(f"ewc-decay must lie in [0, 1], got {self.ewc_decay}")
        self.meta.check()
        self.wide.check()
        if not 0 <= self.mix < 1:
            raise InputError(f"mix must lie in [0, 1), got {self.mix}")
        if self.blocks is not None and min(self.blocks) < 1:
            raise InputError(f"blocks must be two counts of at least 1, got {self.blocks}")

    @property
    def spec(self) -> FieldSpec:
        """The architecture of a module."""
        return FieldSpec(3, 4, self.width, self.hidden_layers, encoding=Frequency(self.frequencies, True))

    @property
    def settings(self) -> RenderSettings:
        """How rays are cut."""
        return RenderSettings(samples_per_ray=self.bins, backend=self.backend)

    @property
    def starts(self) -> set[str]:
        """The meta-learned starts that the methods need: `modules`, `joint`, `oml`."""
        needed: set[str] = {METHODS[m].start for m in self.methods if self.start == "city"}
        return needed - {"random"}

    def adapting(self, method: str) -> AdaptConfig:
        """How a method trains on a block. The modules' start was learned with Adam inside and goes on with Adam; those
        of one network were learned with SGD, which therefore takes the first steps."""
        maml = METHODS[method].start in ("joint", "oml") and self.start == "city"
        keys = ("batch", "lr", "lr_end", "memory", "ewc_lam", "ewc_online", "ewc_decay", "fast_layers")
        return AdaptConfig(
            **{key: getattr(self, key) for key in keys},
            warm_steps=self.wide.inner_steps if maml else 0,
            warm_lr=self.wide.inner_lr,
            schedule="exponential",
            fim=FimConfig(
                use=self.fim,
                kind=self.fim_kind,
                source=self.fim_source,
                form=self.fim_form,
                lam=self.lam,
                draws="independent",
                mix=self.mix,
                smooth=0.5,
                refresh=self.refresh,
            ),
        )


QUICK: dict[str, Any] = {
    "quick": True,
    "steps": 64,
    "batch": 256,
    "meta": StartConfig(steps=16, rays=64),
    "wide": WideConfig(steps=16, rays=64),
}


def quick_config() -> CityConfig:
    """The defaults of `--quick`."""
    return CityConfig(**QUICK)


def defaults_of(name: str, words: Sequence[str]) -> CityConfig:
    """The defaults that a command line begins from: with `--quick` those of a small run."""
    return quick_config() if "--quick" in words else CityConfig()


def log_steps(steps: int) -> tuple[int, ...]:
    """1, 4, 16, ... up to `steps`, and `steps`."""
    found = [4**k for k in range(16) if 4**k < steps]
    return (*found, steps)


# Options that runs from before there was a choice do not have.
LATER = (
    *("device", "fim_kind", "fim_source", "fim_form", "memory", "ewc_lam", "ewc_online", "ewc_decay", "fast_layers"),
    "wide",
)


def read_config(data: dict[str, Any]) -> CityConfig:
    """The configuration that a run folder's config.yaml describes."""
    try:
        plain = CityConfig()
        data = {**{name: getattr(plain, name) for name in LATER}, **data}
        fields = {f.name: data[f.name] for f in dataclasses.fields(CityConfig)}
        fields["meta"] = StartConfig(**fields["meta"])
        fields["wide"] = WideConfig(**fields["wide"]) if isinstance(fields["wide"], dict) else fields["wide"]
        for name in ("data", "out"):
            fields[name] = None if fields[name] is None else pathlib.Path(fields[name])
        for name in ("methods", "blocks"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        config = CityConfig(**fields)
        config.check()
        return config
    except (KeyError, TypeError) as error:
        raise InputError(f"resume: config.yaml must be that of a city run, but: {error!r}") from None
