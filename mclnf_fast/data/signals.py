"""`Signals`: images, clips of video or of sound of one kind and size; `SignalSets`: those to learn from and those
kept apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from mclnf_fast.errors import InputError

Kind = Literal["image", "video", "audio"]
LAYOUT = {"image": "[S, H, W, C]", "video": "[S, F, H, W, C]", "audio": "[S, L, 1]"}


@dataclass(frozen=True)
class Signals:
    """S signals of one kind and size.

    Attributes:
        kind: "image", "video" or "audio".
        names: one a signal, unique.
        values: float32 in [0, 1]; image [S, H, W, C], video [S, F, H, W, C], audio [S, L, 1] (0.5 is silence). C is
            1 (grey) or 3 (RGB). S may be 0.
        rate: audio: samples a second; video: frames a second, None where the clips have several or say none.

    Raises:
        InputError: values of another shape, dtype or range, or not finite; names missing or twice.
    """

    kind: Kind
    names: tuple[str, ...]
    values: Tensor
    rate: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
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
            raise InputError(f"names: must be one a signal, {len(values)}, was {len(self.names)}")
        if len(set(self.names)) != len(self.names):
            twice = next(name for k, name in enumerate(self.names) if name in self.names[:k])
            raise InputError(f"names: must be unique, {twice!r} stands twice")
        if values.numel() and not bool(((values >= 0) & (values <= 1)).all()):  # NaN is neither
            raise InputError("values: must be finite and in [0, 1], were not")
        if self.rate is not None and not (math.isfinite(self.rate) and self.rate > 0):
            raise InputError(f"rate: must be None or > 0, was {self.rate!r}")
        if self.kind == "audio" and self.rate is None:
            raise InputError("rate: audio must say its samples a second, was None")

    def __len__(self) -> int:
        return len(self.names)

    def subset(self, ids: Sequence[int] | Tensor) -> Signals:
        """The signals `ids` (0 to S - 1, in that order, each at most once).

        Raises:
            InputError: an id out of range or twice.
        """
        picked = ids.tolist() if isinstance(ids, Tensor) else [int(k) for k in ids]
        wrong = [k for k in picked if not 0 <= k < len(self)]
        if wrong:
            raise InputError(f"ids: must be from 0 to {len(self) - 1}, was {wrong[0]}")
        index = torch.tensor(picked, dtype=torch.int64, device=self.values.device)
        return Signals(self.kind, tuple(self.names[k] for k in picked), self.values[index], self.rate)


@dataclass(frozen=True)
class SignalSets:
    """What a run learns from and is judged on. Signals of all three have one kind, size and rate.

    Attributes:
        title: for reports.
        train: to meta-train; may be empty where nothing is meta-trained.
        validation: a few, for the validation curve of meta-training; may be empty.
        test: unseen in training; at least one.
        notes: what was skipped, cropped, padded or made, a line each.

    Raises:
        InputError: sets of different kinds or sizes, a name in two of them, or nothing to test on.
    """

    title: str
    train: Signals
    validation: Signals
    test: Signals
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not len(self.test):
            raise InputError(f"{self.title}: must have at least one signal to test on, has none")
        for name, other in (("train", self.train), ("validation", self.validation)):
            mine, theirs = (self.test.kind, self.test.values.shape[1:]), (other.kind, other.values.shape[1:])
            if mine != theirs or self.test.rate != other.rate:
                raise InputError(
                    f"{name}: must be as test, {mine[0]} {list(mine[1])} at rate {self.test.rate}, was "
                    f"{theirs[0]} {list(theirs[1])} at rate {other.rate}"
                )
        names = [*self.train.names, *self.validation.names, *self.test.names]
        if len(set(names)) != len(names):
            twice = next(name for k, name in enumerate(names) if name in names[:k])
            raise InputError(f"{self.title}: a signal must be in one set only, {twice!r} is in two")


def split_made(title: str, made: Signals, test: int, validation: int, notes: tuple[str, ...]) -> SignalSets:
    """Signals made in order, as sets: the last `test` to test, the `validation` before them, the rest to train."""
    if not (test >= 1 and validation >= 0 and test + validation <= len(made)):
        raise InputError(
            f"test, validation: must be >= 1 and >= 0 and together at most the count {len(made)}, "
            f"were {test} and {validation}"
        )
    one, two = len(made) - test - validation, len(made) - test
    train, between, last = (made.subset(ids) for ids in (range(one), range(one, two), range(two, len(made))))
    return SignalSets(title, train, between, last, notes)
