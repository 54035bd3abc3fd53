"""Where the samples of a fit come from: tensors, or an iterator of signals that are read as they are needed."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor
from mclnf_fast.spec import FieldSpec

DTYPES = (torch.float32, torch.float64)


class Samples(NamedTuple):
    """The samples of one module.

    Attributes:
        x: coordinates [n, in_dim]. Signals with the very same tensor share it, in memory too.
        y: values [n, out_dim].
        name: of the signal.
        about: plain data that is saved beside it, such as its size.
    """

    x: Tensor
    y: Tensor
    name: str = ""
    about: Mapping[str, object] = {}


class Skipped(NamedTuple):
    """A signal that cannot be read, and why: it gets no module."""

    name: str
    reason: str


class SampleSource(Protocol):
    """What a fit reads: signals in a fixed order, from any place on.

    Attributes:
        total: number of signals; None: unknown.
        about: plain data that is saved beside the bank; a fit is resumed with the same alone.
    """

    total: int | None
    about: Mapping[str, object]

    def read(self, begin: int) -> Iterator[Samples | Skipped]:
        """Yield the signals from the `begin`-th on."""
        ...


class TensorSource:
    """The signals of tensors.

    Args:
        spec: the architecture that learns them.
        x: coordinates: [n, in_dim] of all modules; [M, n, in_dim]; or M tensors [n_m, in_dim].
        y: values: [M, n, out_dim], [n, out_dim] of one module, or M tensors [n_m, out_dim].

    Raises: TypeError, ValueError, naming the argument and the module.

    >>> spec = FieldSpec(2, 1)
    >>> TensorSource(spec, torch.rand(6, 2), torch.rand(3, 6, 1)).total
    3
    """

    def __init__(self, spec: FieldSpec, x: Tensor | Sequence[Tensor], y: Tensor | Sequence[Tensor]) -> None:
        if isinstance(y, Tensor):
            if y.dim() not in (2, 3):
                raise ValueError(f"y must be [M, n, out_dim] or [n, out_dim], got {list(y.shape)}")
            ys = list(y if y.dim() == 3 else y[None])
        else:
            ys = list(y)
        if not ys:
            raise ValueError("y must hold at least one signal, got none")
        if isinstance(x, Tensor):
            if x.dim() not in (2, 3):
                raise ValueError(f"x must be [n, in_dim] or [M, n, in_dim], got {list(x.shape)}")
            xs = [x] * len(ys) if x.dim() == 2 else list(x)
        else:
            xs = list(x)
        if len(xs) != len(ys):
            raise ValueError(f"x must be one tensor for all or one for each of {len(ys)} modules, got {len(xs)}")
        self._samples = [Samples(a, b) for a, b in zip(xs, ys)]
        for m, samples in enumerate(self._samples):
            check_samples(samples, spec, f"[{m}]")
            check_tensor(f"y[{m}]", samples.y, dtype=ys[0].dtype, device=ys[0].device)
        self.total: int | None = len(ys)
        self.about: Mapping[str, object] = {}

    def read(self, begin: int) -> Iterator[Samples]:
        return iter(self._samples[begin:])


class IteratorSource:
    """The signals of an iterable: `Samples`, or pairs (x [n_m, in_dim], y [n_m, out_dim]).

    Args:
        spec: the architecture that learns them.
        items: read once, as far as they are needed; to resume, those that were finished are passed over.
        x: coordinates [n, in_dim] of all signals: then the items are values [n, out_dim] alone.

    >>> pairs = ((torch.rand(n, 2), torch.rand(n, 1)) for n in (4, 5))
    >>> [len(samples.x) for samples in IteratorSource(FieldSpec(2, 1), pairs).read(0)]
    [4, 5]
    """

    def __init__(self, spec: FieldSpec, items: Iterable[object], x: Tensor | None = None) -> None:
        self.spec, self.x, self._items = spec, x, iter(items)
        length = getattr(items, "__len__", None)
        self.total: int | None = length() if length is not None else None
        self.about: Mapping[str, object] = {}

    def read(self, begin: int) -> Iterator[Samples]:
        for m, item in enumerate(itertools.islice(self._items, begin, None), start=begin):
            samples = self._samples(item, m)
            check_samples(samples, self.spec, f" of signal {m}")
            yield samples

    def _samples(self, item: object, m: int) -> Samples:
        if isinstance(item, Samples):
            return item
        if self.x is not None and isinstance(item, Tensor):
            return Samples(self.x, item)
        if self.x is None and isinstance(item, tuple | list) and len(item) == 2:
            return Samples(*item)
        wanted = "Samples or pairs (x, y)" if self.x is None else "tensors [n, out_dim]"
        raise TypeError(f"the signals must be {wanted}, got {type(item).__name__} as signal {m}")


def check_samples(samples: Samples, spec: FieldSpec, which: str) -> None:
    """Raise TypeError or ValueError if samples don't fit the architecture, or there are none.

    >>> check_samples(Samples(torch.zeros(2, 1), torch.zeros(2, 3)), FieldSpec(1, 3), "[0]")
    """
    x, y = samples[:2]
    check_tensor(f"x{which}", x, (None, spec.in_dim), DTYPES, what="[n, in_dim]")
    check_tensor(f"y{which}", y, (len(x), spec.out_dim), x.dtype, x.device, "[n, out_dim]")
    if not len(x):
        raise ValueError(f"x{which} must have at least one sample, got none")


def source_of(spec: FieldSpec, x: object, y: object = None) -> SampleSource:
    """Return the source of what `mclnf_fast.fit` takes as x and y, except a folder. Raises TypeError, ValueError.

    >>> source_of(FieldSpec(2, 1), torch.rand(6, 2), torch.rand(3, 6, 1)).total
    3
    """
    several = Tensor | Sequence
    if isinstance(y, several) and isinstance(x, several) and not isinstance(x, str):
        return TensorSource(spec, x, y)
    if isinstance(y, Iterable) and isinstance(x, Tensor):
        return IteratorSource(spec, y, x)
    if y is not None:
        raise TypeError(
            "x and y must be tensors or sequences of them, or x a tensor and y an iterator of values, "
            f"got {type(x).__name__} and {type(y).__name__}"
        )
    if callable(getattr(x, "read", None)) and hasattr(x, "total") and hasattr(x, "about"):
        return x  # type: ignore[return-value]  # a SampleSource, by its members
    if isinstance(x, Tensor) or not isinstance(x, Iterable):
        raise TypeError(f"y must be given beside x, or x be an iterable of signals, got {type(x).__name__} alone")
    return IteratorSource(spec, x)
