"""Groups of options that systems compose.

A system's options are one frozen dataclass of such groups: `run`, `data`, `field` (and, if a system has them, `meta`,
`adapt`, `fim`). The groups marked `OmitArgPrefixes` have flags without a prefix (`--out`, `--width`), the others carry
the group's name (`--meta.steps`). Code is handed the group that it needs and not the whole configuration, so that a
new option does not pass through every function on its way.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

from tyro.conf import OmitArgPrefixes, arg

from mclnf_fast.errors import InputError
from mclnf_fast.ops.bank_fit import PrecisionName
from mclnf_fast.systems.common.callbacks.writers import WriterName
from mclnf_fast.systems.common.checks import check_at_least, check_device, check_precision
from mclnf_fast.systems.common.config_file import Option, options_of, value_of
from mclnf_fast.systems.common.idle import Idle, collected

Backend = Literal["auto", "reference", "cpu", "triton"]
# Far beyond what is of use, and what allocations or threads of this size would do is end the process without a word
# (100,000 threads: a segmentation fault).
MOST = {
    "threads": 1024,
    "width": 1 << 14,
    "batch": 1 << 22,
    "memory": 1 << 26,
    "samples-per-ray": 1 << 16,
    "size": 1 << 15,
    "frequencies": 512,
    "views": 1 << 14,
    "objects": 1 << 20,
    "count": 1 << 20,
}
"""The largest value of options by the last part of their flag; of others 2^31 - 1."""


# Frozen: options are shared by everything that runs, and what config.yaml says must stay what was run with.
@dataclasses.dataclass(frozen=True)
class RunOptions:
    """Where a run is kept, and what it computes on."""

    out: Annotated[pathlib.Path | None, arg(metavar="DIR")] = None
    """Run folder, new or empty; default outputs/SYSTEM/TIME."""
    config: Annotated[pathlib.Path | None, arg(metavar="FILE")] = None
    """Begin with the options in this file, such as the config.yaml of a run; options on the command line come first."""
    quick: bool = False
    """A small run of under a minute."""
    resume: Annotated[str | None, arg(metavar="DIR")] = None
    """Continue the run in this folder, with the options that it began with; without a folder: the run in --out, or the
    newest."""
    threads: int | None = None
    """CPU threads; default: one per CPU that this process may use (affinity, CPU limit of its cgroup)."""
    device: str = "cpu"
    """Where to learn: cpu, cuda, or one of several GPUs, such as cuda:1."""
    backend: Backend = "auto"
    """Which implementation of the ops to use; auto takes the fastest that can serve."""
    precision: PrecisionName = "fp32"
    """Format of the operands of products in training on tasks; coordinates, sums, parameters and meta-training stay
    float32."""
    writers: tuple[WriterName, ...] = ()
    """Where else losses and PSNR are written while the run learns: tensorboard (into the run folder), wandb."""

    @property
    def resumed(self) -> pathlib.Path | None:
        """The folder that `resume` names; None: the newest."""
        return pathlib.Path(self.resume) if self.resume not in (None, "", "auto") else self.out

    def check(self) -> None:
        """Raise InputError if an option is out of range."""
        check_at_least(1, threads=self.threads)
        check_device(self.device)
        check_precision(self.precision, self.device, self.backend)


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """What to learn from."""

    path: Annotated[pathlib.Path | None, arg(name="data", metavar="DIR")] = None
    """Folder to read; without it procedural data are made."""

    def check(self) -> None:
        """Raise InputError if an option is out of range."""


@dataclasses.dataclass(frozen=True)
class SplitOptions(DataOptions):
    """What to learn from and what to test on."""

    test: int | None = None
    """How many to test on, unseen in meta-training; default: what the folder's layout says, or a share."""
    limit: int | None = None
    """Read at most this many."""

    def check(self) -> None:
        super().check()
        check_at_least(1, test=self.test, limit=self.limit)


@dataclasses.dataclass(frozen=True)
class FieldOptions:
    """Architecture of a network."""

    fewest_layers: ClassVar[int] = 1

    width: int = 256
    """Width of the network."""
    hidden_layers: int = 4
    """Hidden layers of the network; one more is its output."""

    def check(self) -> None:
        """Raise InputError if an option is out of range."""
        check_at_least(1, width=self.width)
        # The fused kernels hold one pointer per layer in a fixed table of 32.
        if not self.fewest_layers <= self.hidden_layers <= 30:
            raise InputError(f"hidden-layers must lie in {self.fewest_layers} ... 30, got {self.hidden_layers}")


@dataclasses.dataclass(frozen=True)
class SystemConfig:
    """Base of the options of every system: each group checks itself; a subclass checks what relates its groups.

    Example: a system with a `meta` group next to the run.

    >>> import dataclasses
    >>> @dataclasses.dataclass(frozen=True)
    ... class EchoConfig(SystemConfig):
    ...     kind = "echo"
    ...     field: OmitArgPrefixes[FieldOptions] = dataclasses.field(default_factory=FieldOptions)
    >>> EchoConfig().check()
    >>> EchoConfig(field=FieldOptions(width=0)).check()
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: width must be at least 1, got 0
    """

    kind: ClassVar[str]
    rounds: ClassVar[bool] = False  # whether its training takes another precision than fp32

    run: OmitArgPrefixes[RunOptions] = dataclasses.field(default_factory=RunOptions)
    """Where the run is kept, and what it computes on."""

    @classmethod
    def flags_without_effect(cls) -> tuple[str, ...]:
        """Return the flags that a shared group brings, and that `check` refuses: the help leaves them out."""
        return () if cls.rounds else ("precision",)

    def baseline(self) -> SystemConfig:
        """Return what these options were before anybody changed them: the defaults, of the same preset."""
        return type(self)()

    def idle(self) -> Idle:
        """Return the options that have no effect beside the others, and when: `name_idle` names those that were set.
        A group says so of its own by a method `idle`; a subclass adds what follows from several groups."""
        return collected(self)

    def check(self) -> None:
        """Raise InputError if an option is out of range."""
        for option in options_of(type(self)):
            _check_size(option, value_of(self, option))
        if self.run.precision != "fp32" and not self.rounds:
            raise InputError(
                f"precision must be fp32 for {self.kind}, whose training knows no other, got {self.run.precision}"
            )
        # Every group that can check itself: a new one cannot be forgotten here.
        for group in dataclasses.fields(self):
            check = getattr(getattr(self, group.name), "check", None)
            if check is not None:
                check()


def _check_size(option: Option, value: object) -> None:
    most = MOST.get(option.flag.rpartition(".")[2], (1 << 31) - 1)
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, int) and number > most:
            raise InputError(f"{option.flag} must be at most {most}, got {number}")


def option_value(words: Sequence[str], name: str, default: str) -> str:
    """Return the value of `--name VALUE` or `--name=VALUE` on a command line, the last one if it stands twice.

    Used before the whole line is read: presets decide the defaults from which it is read.

    >>> option_value(["--preset", "paper", "--steps=3"], "preset", "small")
    'paper'
    """
    value = default
    for k, word in enumerate(words):
        if word == f"--{name}" and k + 1 < len(words):
            value = words[k + 1]
        elif word.startswith(f"--{name}="):
            value = word.partition("=")[2]
    return value
