"""Several encodings of a config as one: side by side, or their sum or product."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.compat.tinycudann.encodings import Columns, Grid, Part, next_multiple

REDUCTIONS = ("Concatenation", "Sum", "Product")


class Nested(NamedTuple):
    """An encoding within a composite one: it reads the coordinates from `begin` on."""

    part: Part
    begin: int


class Composite(Part):
    """Several encodings, each of its own coordinates.

    Side by side, each is padded so that the next begins at a multiple of its alignment. For a sum or a product all have
    one width, padding included; ValueError if they have not.
    """

    def __init__(self, n_input_dims: int, nested: list[Nested], reduction: str) -> None:
        self.nested = nested
        self.parts = [part for part, _ in nested]
        self.reduction = reduction
        self.alignment = math.lcm(*(part.alignment for part in self.parts))
        if reduction == "Concatenation":
            begin = 0
            for part, behind in itertools.pairwise(self.parts):
                part.pad_to(next_multiple(begin + part.width, behind.alignment) - begin)
                begin += part.width
        else:
            for part in self.parts:
                part.align(self.alignment)
            widths = [part.width for part in self.parts]
            if len(set(widths)) > 1:
                raise ValueError(
                    f"encoding_config: nested must have one width for reduction {reduction}, got {widths} (padded)"
                )
        super().__init__(n_input_dims, 0, sum(part.n_params for part in self.parts))
        self._count()

    def _count(self) -> None:
        count = sum(part.n_features for part in self.parts)
        self.n_features = count if self.reduction == "Concatenation" else self.parts[0].width

    @property
    def width(self) -> int:
        if self.reduction == "Concatenation":
            return sum(part.width for part in self.parts)
        return self.parts[0].width

    def pad_to(self, width: int) -> None:
        if self.reduction == "Concatenation":
            self.parts[-1].pad_to(self.parts[-1].width + width - self.width)
        else:
            for part in self.parts:
                part.pad_to(width)
        self._count()

    def columns(self) -> Columns:
        if self.reduction != "Concatenation":
            return Columns(list(range(self.width)), [0.0] * self.width)
        features: list[int] = []
        constants: list[float] = []
        count = 0
        for part in self.parts:
            inner = part.columns()
            features += [k + count if k >= 0 else -1 for k in inner.features]
            constants += inner.constants
            count += part.n_features
        return Columns(features, constants)

    def grids(self) -> list[Grid]:
        return [grid for part in self.parts for grid in part.grids()]

    def features(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        shares = params.split([part.n_params for part in self.parts])
        inputs = [x[:, begin : begin + part.n_input_dims] for part, begin in self.nested]
        given = zip(self.parts, inputs, shares)
        if self.reduction == "Concatenation":
            return torch.cat([part.features(piece, share, backend) for part, piece, share in given], 1)
        outputs = [part.encode(piece, share, backend) for part, piece, share in given]
        return functools.reduce(operator.add if self.reduction == "Sum" else operator.mul, outputs)
