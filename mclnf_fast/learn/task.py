"""Define what a learner needs to know of a task, and nothing else: no cameras, no pixels, no audio.

`Task` is enough to train on: draw samples, take their loss, evaluate. A denoiser or a policy is a `Task`. `ScoredTask`
adds what Fisher scores need: where the network is evaluated, and the gradient of each sample's own loss there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.params import Params
from mclnf_fast.ops.bank_fit import FitData, FitRays
from mclnf_fast.ops.fisher import Points
from mclnf_fast.spec import FieldSpec

__all__ = ["Batch", "FittedTask", "ListedTask", "Points", "ScoredTask", "Task", "fit_data", "join", "listed"]

Batch = tuple[Tensor, ...]
"""Samples of S modules side by side: tensors [S, k, ...]."""


class Task(Protocol):
    """One task of S signals side by side: a stream of samples for S modules in step, and the loss on them.

    A *sample* is what has a loss of its own: a coordinate, a ray, a noisy image, a transition. The network itself does
    not appear here: `loss` and `evaluate` know how to call it, so it need not be a `FieldSpec`.

    Ids come from the CPU, so that a seed means the same on every device; batches are where the data is.
    """

    name: str

    @property
    def modules(self) -> int:
        """S."""

    @property
    def samples(self) -> int:
        """Number of samples in the pool of each signal."""

    def draw(self, count: int, generator: torch.Generator, modules: Tensor | None = None) -> Batch:
        """Return `count` samples per module, uniform over the pool; of the signals `modules` int64 [T] alone if given.

        A task of one signal may leave the last argument out.
        """

    def take(self, ids: Tensor) -> Batch:
        """Return the samples of int64 ids [S, k]."""

    def loss(self, params: Params, batch: Batch, weights: Tensor | None = None, seed: Tensor | int = 0) -> Tensor:
        """Return each module's mean loss [S] over its samples times weights [S, k]; differentiable in `params`.

        Args:
            params: tensors [S, ...].
            seed: of what is random in a sample's own loss, such as the sample points along a ray; an int, but to a task
                that is `listed` also an int64 tensor [], which a CUDA graph can hold.
        """

    def evaluate(self, params: Params) -> Tensor:
        """Return the quality of each signal, fp64 [S] on any device: larger is better (PSNR in dB, a return)."""


class ScoredTask(Task, Protocol):
    """A `Task` whose samples can be scored by Fisher information.

    An *item* is what a score is remembered for: a sample, or a small patch of samples if single ones are drawn too
    seldom to be known.
    """

    spec: FieldSpec
    backend: str
    curve: Tensor | None
    """The items in an order in which neighbors are alike, int64 [items]; None: their own order."""

    @property
    def items(self) -> int:
        """Number of items in the pool of each signal."""

    def draw_in(self, items: Tensor, generator: torch.Generator) -> tuple[Batch, Tensor | None]:
        """Return one sample of each item int64 [S, k], and factors [S, k] on the CPU that correct for items of unequal
        size; None if an item is a sample."""

    def points(self, params: Params, batch: Batch, seed: Tensor | int = 0) -> Points:
        """Return the points and output gradients that Fisher scores of the samples' own losses need."""

    def outputs(self, params: Params, batch: Batch, seed: Tensor | int = 0) -> Iterator[Points]:
        """Yield the same for each output channel of the samples (a value, a pixel's color) in place of the loss, which
        is what the Gauss-Newton form of the Fisher information needs."""


class FittedTask(ScoredTask, Protocol):
    """A `ScoredTask` whose items are its samples, all in memory, and whose loss is a field's mean squared error."""

    def fit_data(self) -> FitData | None:
        """Return the samples of all signals; None if a subclass has changed what a sample or its loss is."""


class ListedTask(ScoredTask, Protocol):
    """A `ScoredTask` of one signal whose samples are too many to lie in memory, but are rays, known by their ids."""

    def batch(self, ids: Tensor) -> Batch:
        """Return the samples of int64 ids [R], tensors [R, ...]."""

    def fit_rays(self, batch: Batch) -> FitRays:
        """Return samples [R, ...] as rays for `ops.bank_fit`."""

    def uniform_ids(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the ids int64 [count] that `draw` takes with this generator."""

    def ids_in(self, items: Tensor, generators: Sequence[torch.Generator]) -> tuple[Tensor, Tensor | None]:
        """Return the ids int64 [count] and the factors that `draw_in` takes of items [count]: of as many in a row with
        each generator."""


def listed(task: Task) -> ListedTask | None:
    """Return a task that gives `ops.bank_fit` the rays of its ids; None if it is none or a subclass has changed what a
    sample or its loss is: its own `is_listed` says so, which need not be there.

    >>> import torch
    >>> from mclnf_fast.spec import FieldSpec
    >>> from mclnf_fast.tasks import CoordTask
    >>> listed(CoordTask("line", torch.rand(4, 1), torch.rand(2, 4, 1), FieldSpec(1, 1, 8, 1))) is None
    True
    """
    return task if getattr(task, "is_listed", False) else None  # type: ignore[return-value]  # known only now


def fit_data(task: Task) -> FitData | None:
    """Return the samples of a task as they lie in memory, whose loss is the squared error of a field; None if it is of
    another kind. `ops.bank_fit` then makes many steps in one call.

    It calls the task's own `fit_data`, which need not be there.

    >>> import torch
    >>> from mclnf_fast.spec import FieldSpec
    >>> from mclnf_fast.tasks import CoordTask
    >>> task = CoordTask("line", torch.rand(4, 1), torch.rand(2, 4, 1), FieldSpec(1, 1, 8, 1))
    >>> fit_data(task).target.shape
    torch.Size([2, 4, 1])
    """
    own: Callable[[], FitData | None] | None = getattr(task, "fit_data", None)
    return None if own is None else own()


def check_scored(tasks: Sequence[Task], method: str) -> Sequence[ScoredTask]:
    """Return the tasks of a method that needs Fisher scores. Raise InputError if one cannot be scored.

    >>> import torch
    >>> from mclnf_fast.spec import FieldSpec
    >>> from mclnf_fast.tasks import CoordTask
    >>> task = CoordTask("line", torch.rand(4, 1), torch.rand(2, 4, 1), FieldSpec(1, 1, 8, 1))
    >>> check_scored([task], "mim") == [task]
    True
    """
    scored: list[ScoredTask] = []
    for task in tasks:
        # Asked when a method is built: else the run would end in its first step, with an AttributeError.
        missing = [name for name in ("items", "draw_in", "points", "outputs") if not hasattr(task, name)]
        if missing:
            kind = type(task).__name__
            raise InputError(f"method {method} needs tasks with Fisher scores, got {kind} without {', '.join(missing)}")
        scored.append(task)  # type: ignore[arg-type]  # a protocol's members are known only now
    return scored


T = TypeVar("T", bound=Task)


def join(tasks: Sequence[T]) -> T:
    """Return all tasks as one whose samples come in any order, for methods that meet all of them at once.

    It calls the `joined` of the first task's class. Raises InputError if this kind of task has none.

    >>> import torch
    >>> from mclnf_fast.spec import FieldSpec
    >>> from mclnf_fast.tasks import CoordTask
    >>> x = torch.linspace(-1, 1, 4)[:, None]
    >>> halves = [CoordTask(name, x, torch.rand(3, 4, 1), FieldSpec(1, 1, 8, 1)) for name in ("left", "right")]
    >>> join(halves).samples
    8
    """
    # Not part of `Task`: a kind of task that is learned only in sequence need not have it.
    joined = getattr(type(tasks[0]), "joined", None)
    if joined is None:
        kind = type(tasks[0]).__name__
        raise InputError(f"tasks must be of a kind with a method `joined` to be learned all at once, got {kind}")
    whole: T = joined(tasks)
    return whole
