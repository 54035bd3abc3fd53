"""Records of images, videos and sound: `Signals` of one kind and size, and `SignalSets` to train, validate and test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mclnf_fast.data.record_checks import first_repeated
from mclnf_fast.errors import InputError

SignalKind = Literal["image", "video", "audio"]
# Half the range of the coordinates of sound. Per second, not per clip: speech of 3 s gained 2 dB by it (`mod` 34.15 to
# 36.08 dB, `mim` 35.22 to 37.29).
SPAN_PER_SECOND = 50.0
LAYOUT = {"image": "[S, H, W, C]", "video": "[S, F, H, W, C]", "audio": "[S, L, 1]"}


@dataclass(frozen=True)
class Signals:
    """S signals of one kind and size.

    Attributes:
        kind: "image", "video" or "audio".
        names: S unique names.
        values: float32 in [0, 1]; image [S, H, W, C], video [S, F, H, W, C], audio [S, L, 1] (0.5 is silence). C is
            1 (gray) or 3 (RGB). S may be 0.
        rate: samples per second of audio, frames per second of video; None when clips have different rates or their
            files name none.

    Raises:
        InputError: values of another shape, dtype or range, or not finite; a name missing or repeated; audio without
            a rate.

    >>> signals = Signals("image", ("a", "b"), torch.zeros(2, 4, 4, 3))
    >>> len(signals)
    2
    """

    kind: SignalKind
    names: tuple[str, ...]
    values: Tensor
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(SignalKind):
            raise InputError(f"kind: must be image, video or audio, was {self.kind!r}")
        values = self.values
        channels = (1,) if self.kind == "audio" else (1, 3)
        if values.dim() != LAYOUT[self.kind].count(",") + 1 or values.shape[-1] not in channels:
            raise InputError(
                f"values: must be {LAYOUT[self.kind]} with {' or '.join(map(str, channels))} channels for "
                f"kind {self.kind!r}, was {list(values.shape)}"
            )
        if values.dtype != torch.float32:
            raise InputError(f"values: must be float32, was {values.dtype}")
        if 0 in values.shape[1:]:
            raise InputError(f"values: a signal must have at least one sample, was {list(values.shape)}")
        if len(self.names) != len(values):
            raise InputError(f"names: must be one per signal, {len(values)}, was {len(self.names)}")
        repeated = first_repeated(self.names)
        if repeated is not None:
            raise InputError(f"names: must be unique, {repeated!r} stands twice")
        # A comparison with NaN is false, so this one test refuses NaN as well; isfinite would read the values twice.
        if values.numel() and not bool(((values >= 0) & (values <= 1)).all()):
            raise InputError("values: must be finite and in [0, 1], were not")
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise InputError(f"rate: must be None or > 0, was {self.rate!r}")
        if self.kind == "audio" and self.rate is None:
            raise InputError("rate: audio must have a number of samples per second, was None")

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, ids: Sequence[int] | Tensor) -> Signals:
        """Return the signals `ids` (each from 0 to S - 1 and at most once), in the order of `ids`.

        Raises:
            InputError: an id is out of range or repeated.

        >>> signals = Signals("image", ("a", "b"), torch.zeros(2, 4, 4, 3))
        >>> signals.subset([1]).names
        ('b',)
        """
        indices = ids.tolist() if isinstance(ids, Tensor) else [int(k) for k in ids]
        wrong = [k for k in indices if not 0 <= k < len(self)]
        if wrong:
            raise InputError(f"ids: must be from 0 to {len(self) - 1}, was {wrong[0]}")
        # A copy and not a view: a set that is kept must not keep the memory of all signals.
        index = torch.tensor(indices, dtype=torch.int64, device=self.values.device)
        return Signals(self.kind, tuple(self.names[k] for k in indices), self.values[index], self.rate)


@dataclass(frozen=True)
class SignalSets:
    """The signals that a run trains on, validates on and is tested on; all of one kind, size and rate.

    Attributes:
        title: name of the data in reports.
        train: signals to meta-train on; may be empty when nothing is meta-trained.
        validation: a few signals for the validation curve of meta-training; may be empty.
        test: signals unseen in training, at least one.
        notes: one line for each thing that was skipped, cropped, padded or generated.

    Raises:
        InputError: sets of different kinds, sizes or rates, a name in two of them, or no signal to test on.

    >>> def images(*names):
    ...     return Signals("image", names, torch.zeros(len(names), 4, 4, 1))
    >>> SignalSets("two pictures", images("a"), images(), images("b")).test.names
    ('b',)
    """

    title: str
    train: Signals
    validation: Signals
    test: Signals
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.test):
            raise InputError(f"{self.title}: must have at least one signal to test on, has none")
        for name, signals in (("train", self.train), ("validation", self.validation)):
            # One shape for all: modules are trained on train and adapted on test, and their inputs must be the same.
            wanted, actual = (self.test.kind, self.test.values.shape[1:]), (signals.kind, signals.values.shape[1:])
            if wanted != actual or self.test.rate != signals.rate:
                raise InputError(
                    f"{name}: must be as test, {wanted[0]} {list(wanted[1])} at rate {self.test.rate}, was "
                    f"{actual[0]} {list(actual[1])} at rate {signals.rate}"
                )
        repeated = first_repeated((*self.train.names, *self.validation.names, *self.test.names))
        if repeated is not None:
            raise InputError(f"{self.title}: a signal must be in one set only, {repeated!r} is in two")


def split_procedural(title: str, signals: Signals, test: int, validation: int, notes: tuple[str, ...]) -> SignalSets:
    """Return generated signals as sets: the last `test` to test on, the `validation` before them, the rest to train on.

    Raises:
        InputError: `test` < 1, `validation` < 0, or more of both than there are signals.

    >>> signals = Signals("image", ("a", "b", "c"), torch.zeros(3, 4, 4, 1))
    >>> split_procedural("three", signals, 1, 1, ()).validation.names
    ('b',)
    """
    if not (test >= 1 and validation >= 0 and test + validation <= len(signals)):
        raise InputError(
            f"test, validation: must be >= 1 and >= 0 and together at most the count {len(signals)}, "
            f"were {test} and {validation}"
        )
    # The first ones train: generators make signal k from the seed and k, so a larger count only adds to the end.
    train_end, validation_end = len(signals) - test - validation, len(signals) - test
    ranges = range(train_end), range(train_end, validation_end), range(validation_end, len(signals))
    train, validated, tested = (signals.subset(ids) for ids in ranges)
    return SignalSets(title, train, validated, tested, notes)
