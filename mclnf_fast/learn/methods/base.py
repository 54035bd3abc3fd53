"""Define what all methods share: a bank with a module per signal, which meets task after task."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.methods.fitted import check_ends, drawn_ids, fit_steps, samples_of, uniform_draws
from mclnf_fast.learn.mixed import half_copies
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.params import Params, check_like, part_of
from mclnf_fast.learn.task import Batch, Task, fit_data
from mclnf_fast.ops.bank_fit import Draws, FitData, FitRays, GuideState, PrecisionName, Schedule
from mclnf_fast.ops.bank_step import StepKind
from mclnf_fast.ops.triton.precision import multiplying

HALVES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}

Category = Literal["OL", "CL", "CML", "MOL", "MCL"]
InitializationName = Literal["random", "modules", "joint", "oml"]


@dataclasses.dataclass(frozen=True)
class BaseAdaptOptions:
    """Training on a task at test time, whatever the schedule of its rate."""

    batch: int = 256
    """Samples (pixels, rays) per signal and step."""
    lr: float = 1e-3
    """Adam's rate at the first step of a task."""
    ramp: int = 64
    """Steps over which Adam's rate rises after the first SGD steps from a meta-learned initialization: Adam's first
    steps have the full length whatever the gradient, and would undo the initialization."""
    memory: int = 512
    """Samples per signal that experience replay keeps."""
    ewc_lam: float = 1.0
    """Strength of EWC's penalty."""
    ewc_online: bool = False
    """Online EWC: one running Fisher and anchor in place of a sum over tasks."""
    ewc_decay: float = 0.9
    """Decay of online EWC's Fisher."""
    fast_layers: int = 2
    """Layers at the end of the network that OML trains."""

    def check(self) -> None:
        """Raise InputError if a number is out of range."""
        for name in ("batch", "ramp", "memory", "fast_layers"):
            if getattr(self, name) < 1:
                raise InputError(f"adapt.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.lr < math.inf:
            raise InputError(f"adapt.lr must be above 0 and finite, got {self.lr}")
        if not 0 <= self.ewc_lam < math.inf:
            raise InputError(f"adapt.ewc_lam must be at least 0 and finite, got {self.ewc_lam}")
        if not 0 <= self.ewc_decay <= 1:
            raise InputError(f"adapt.ewc_decay must lie in [0, 1], got {self.ewc_decay}")


@dataclasses.dataclass(frozen=True)
class AdaptOptions(BaseAdaptOptions):
    """Training on a task at test time, with a rate that is held and then falls by a power of the step."""

    # Steps to 30 dB with a rise of 64 steps and of 8: faces 116 and 92, speech 84 and 56, photographs 504 and 440.
    ramp: int = 8
    """Steps over which Adam's rate rises after the first SGD steps from a meta-learned initialization: Adam's first
    steps have the full length whatever the gradient, and would undo the initialization."""
    hold: int = 64
    """Steps with that rate; then it falls as step^-fall, which depends on no last step, so that a longer run begins
    with the shorter one."""
    fall: float = 0.5
    """Power of that fall, in [0, 1]: 1 / sqrt(step) is what noisy gradients want; a signal that a network fits almost
    exactly wants more, since Adam's steps do not shorten with the gradients and break the fit up again."""

    def check(self) -> None:
        super().check()
        if self.hold < 1:
            raise InputError(f"adapt.hold must be at least 1, got {self.hold}")
        if not 0 <= self.fall <= 1:
            raise InputError(f"adapt.fall must lie in [0, 1], got {self.fall}")


@dataclasses.dataclass(frozen=True)
class DecayOptions(BaseAdaptOptions):
    """Training on a task at test time, with a rate that falls exponentially to that of the last step."""

    lr_end: float = 1e-4
    """Adam's rate at the last step of a task."""

    def check(self) -> None:
        super().check()
        if not 0 < self.lr_end < math.inf:
            raise InputError(f"adapt.lr_end must be above 0 and finite, got {self.lr_end}")


@dataclasses.dataclass(frozen=True)
class AdaptConfig(AdaptOptions):
    """Options of training on a task, and what other options decide.

    fim: what MIM does with Fisher information. warm_steps, warm_lr: the first steps by SGD of methods with a
    meta-learned initialization, those that it was learned for. schedule: how Adam's rate falls: by `hold` and `fall`,
    or exponentially from lr at the first to lr_end at the step `decay_steps` of a task. precision: of the operands of
    all products but those with coordinates or their features; parameters are float32 all the same.
    """

    warm_steps: int = 4
    warm_lr: float = 3e-2
    schedule: Literal["hold", "exponential"] = "hold"
    precision: PrecisionName = "fp32"
    lr_end: float = 1e-4
    decay_steps: int = 1024
    fim: FimConfig = dataclasses.field(default_factory=FimConfig)


class Memory(Protocol):
    """What a method remembers, with a state of its own."""

    def state_dict(self) -> dict[str, Tensor]:
        """Return the state as tensors (copies)."""

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Take over what `state_dict` returned, tensors that belong with the parameters to `device`."""


class Method:
    """S networks side by side, one per signal, as one bank. A subclass defines what differs from plain fine-tuning.

    `category` is MCL-NF's (arXiv 2504.05806, Table 1): OL offline, CL continual, CML continual after meta-learning, MOL
    offline after meta-learning, MCL meta-learned through the sequence. `initialization` names where it begins, `joint`
    methods meet all tasks at once as one, `modular` ones have a module per task and are as wide as their share.
    `batches` counts the mini-batches of a step; `options` are the fields of `AdaptConfig` that no plain method reads.

    Args:
        tasks: the tasks in their order, each of the same S signals.
        init: initialization, tensors [1, ...].
        config: see `AdaptConfig`.
        seed: of the mini-batches: step i of task k depends on the seed, k and i alone.
    """

    category: ClassVar[Category] = "CL"
    initialization: ClassVar[InitializationName] = "random"
    joint: ClassVar[bool] = False
    modular: ClassVar[bool] = False
    batches: ClassVar[int] = 1
    options: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tasks: Sequence[Task], init: Params, config: AdaptConfig, seed: int) -> None:
        self.tasks, self.init, self.config, self.seed = tasks, init, config, seed
        self.params = self.fresh()
        self.task: int | None = None  # that is being learned
        self.made = 0  # steps on it
        self.losses: Tensor | None = None  # of the last mini-batch, [S]
        self.warm = 0 if self.initialization == "random" else config.warm_steps
        self.optimizer: BankOptimizer | None = None
        self.ends: list[tuple[str, Tensor, Tensor]] = []  # of calls: name of the task, ends, steps made
        self.low: Params | None = None  # the parameters in a half type, at which losses are taken

    def fresh(self) -> Params:
        """Return the initialization, a copy for every signal."""
        signals = self.tasks[0].modules
        return tuple(p.detach().repeat(signals, *([1] * (p.dim() - 1))).requires_grad_() for p in self.init)

    def trained(self) -> Params:
        """Return the parameters that take steps."""
        return self.params

    @property
    def frozen_layers(self) -> int:
        """The number of first layers that `trained` leaves out."""
        return 0

    def begin(self, k: int) -> None:
        """Get ready for task k, before its first step."""
        self.task, self.made, self.ends = k, 0, []
        self.optimizer = self._optimizer(k, 0)

    def _optimizer(self, k: int, step: int) -> BankOptimizer:
        """Return SGD for the first steps from a meta-learned initialization, then Adam."""
        if step < self.warm:
            return self._fresh_optimizer("sgd", self.config.warm_lr)
        return self.adam(k)

    def adam(self, k: int) -> BankOptimizer:
        """Return a fresh Adam for task k."""
        return self._fresh_optimizer("adam", self.config.lr)

    def _fresh_optimizer(self, kind: StepKind, lr: float) -> BankOptimizer:
        trained, half = self.trained(), HALVES.get(self.config.precision)
        if half is None:
            return BankOptimizer(trained, kind=kind, lr=lr)
        self.low = half_copies(self.params, half)
        copies = tuple(c for c, p in zip(self.low, self.params) if any(p is t for t in trained))
        if all(c is t for c, t in zip(copies, trained)):  # a network of one layer
            return BankOptimizer(trained, kind=kind, lr=lr)
        return BankOptimizer(copies, kind=kind, lr=lr, masters=trained, loss_scale=half == torch.float16)

    @functools.cached_property
    def schedule(self) -> Schedule:
        """Rates of the steps of a task: SGD's, then Adam's."""
        config = self.config
        return Schedule(
            config.lr,
            config.schedule,
            sgd_steps=self.warm,
            sgd_lr=config.warm_lr,
            # From a random initialization there is nothing that long first steps could undo.
            ramp=config.ramp if self.warm else 1,
            hold=config.hold,
            power=config.fall,
            lr_end=config.lr_end,
            steps=config.decay_steps,
        )

    def rate(self, step: int) -> float:
        """Return Adam's rate at its step `step` from 0."""
        return self.schedule.rate(self.warm + step)

    def steps(self, k: int, most: int, looks: Sequence[int] = ()) -> dict[int, Params]:
        """Make at least one step on task k, and up to `most` if one call can make them: `made` counts them.

        Returns: of these steps those of `looks`, which ascend, each with the parameters that it left.
        """
        snapshots = fit_steps(self, k, most, looks)
        if snapshots is not None:
            return snapshots
        self.step(k, self.made)
        return {self.made: self.params_of(k)} if self.made in looks else {}

    def step(self, k: int, step: int) -> None:
        """Make step `step` on task k."""
        optimizer = self.optimizer_at(k, step)
        if step >= self.warm:
            optimizer.set_lr(self.rate(step - self.warm))
        with multiplying(tf32=True) if self.config.precision == "tf32" else contextlib.nullcontext():
            self.make_step(k, step, optimizer)
        self.made = step + 1

    def make_step(self, k: int, step: int, optimizer: BankOptimizer) -> None:
        """Make step `step` on task k by an optimizer whose rate is set."""
        optimizer.step(self.gradients(k, step, self.generator(k, step)))

    def optimizer_at(self, k: int, step: int) -> BankOptimizer:
        """Return the optimizer of step `step` on task k: a fresh Adam at the first one after SGD's."""
        if step == self.warm and self.warm:
            self.optimizer = self._optimizer(k, step)
        assert self.optimizer is not None
        return self.optimizer

    def generator(self, k: int, step: int) -> torch.Generator:
        """Return the random numbers of a step. Seed, task and step decide them, not what was drawn before: a resumed
        run needs no state of a generator."""
        return torch.Generator().manual_seed(((self.seed * 1_000_003 + k) * 1_000_003 + step) % (1 << 63))

    def next_draws(self, k: int, most: int) -> Draws | None:
        """Return the draws of the next steps on task k, up to `most`, if nothing but them decides these steps; None if
        the next step is to be made by `step`."""
        return uniform_draws(self, k, most) if self.makes_steps_as(Method) else None

    def guide_state(self) -> GuideState | None:
        """Return the scores that draws of the rule "guided" follow, which a call changes in place."""
        return None

    def fit_samples(self, k: int, draws: Draws) -> tuple[FitData | FitRays, Draws]:
        """Return the samples of the steps of `next_draws` on task k, and the draws among them."""
        return samples_of(self.tasks[k], draws)

    @property
    def draw_seed(self) -> int:
        """The 64 bits of the seed that counted draws take."""
        return self.seed % (1 << 64)

    def makes_steps_as(self, base: type[Method]) -> bool:
        """Whether this class makes a step as its base does, apart from the trust region."""
        names = ("step", "make_step", "draw", "gradients", "gradient", "trained", "rate", "optimizer_at")
        return all(getattr(type(self), name) is getattr(base, name) for name in names)

    def gradients(self, k: int, step: int, generator: torch.Generator) -> Sequence[Tensor]:
        """Return the gradient of the loss on a mini-batch, in the trained parameters."""
        task = self.tasks[k]
        # The step is the loss's seed: sample points along rays change with it, and are the same in a resumed run.
        batch, weights = self.draw(k, step, generator)
        return self.gradient(task.loss(self.learned_at, batch, weights, step))

    @property
    def learned_at(self) -> Params:
        """The parameters at which losses are taken: in a half type if the precision is one."""
        return self.params if self.low is None else self.low

    def draw(self, k: int, step: int, generator: torch.Generator) -> tuple[Batch, Tensor | None]:
        """Return the mini-batch of a step and the weights [S, k] of its samples; None: ones."""
        task = self.tasks[k]
        if fit_data(task) is None:
            return task.draw(self.config.batch, generator), None
        return task.take(drawn_ids(self, k, step)), None

    def gradient(self, losses: Tensor) -> Sequence[Tensor]:
        """Return the gradient of each module's own loss [S]."""
        self.losses = losses.detach()  # on the device: nobody waits for it here
        assert self.optimizer is not None
        # A sum: signals share no parameter, and a mean would shorten an SGD step the more of them there are.
        return torch.autograd.grad(self.optimizer.scaled(losses).sum(), self.optimizer.params)

    def check_finite(self) -> None:
        """Raise InputError if a loss or a gradient of the steps before was not finite; waits for the device."""
        check_ends(self)

    def finish(self, k: int) -> None:
        """End task k, after its last step."""
        self.check_finite()
        self.task, self.made, self.optimizer, self.low = None, 0, None, None

    def params_of(self, k: int) -> Params:
        """Return the parameters that answer for task k now."""
        return tuple(p.detach() for p in self.params)

    def memories(self) -> dict[str, Memory]:
        """Return what a method remembers beside parameters and optimizer, by name."""
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that decides the next step, as tensors (copies): with it a run that was stopped goes on to
        the same bits."""
        self.check_finite()
        state = {f"params.{i}": p.detach().clone() for i, p in enumerate(self.params)}
        state |= {"task": torch.tensor(-1 if self.task is None else self.task), "made": torch.tensor(self.made)}
        parts: dict[str, Memory | BankOptimizer] = {**self.memories()}
        if self.optimizer is not None:
            parts["optimizer"] = self.optimizer
        return state | {f"{name}.{key}": t for name, part in parts.items() for key, t in part.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned. Raises KeyError if an entry is missing, ValueError if one has another
        shape."""
        params = part_of(state, "params")
        # First of all: a state that does not fit is refused before anything changes.
        check_like([params[str(i)] for i in range(len(self.params))], self.params, "params of the state")
        task, made, device = int(state["task"]), int(state["made"]), self.params[0].device
        if task >= 0:
            # Before the rest: it starts a module afresh and makes MIM's memory, which are then loaded.
            self.begin(task)
        self.made = made
        with torch.no_grad():
            for i, p in enumerate(self.params):
                p.copy_(params[str(i)])
        # Before the optimizer: EWC's takes its trust region from the memory.
        for name, memory in self.memories().items():
            memory.load_state_dict(part_of(state, name), device)
        if task >= 0:
            self.optimizer = self._optimizer(task, max(0, made - 1))  # that of the last step
            self.optimizer.load_state_dict(part_of(state, "optimizer"))
