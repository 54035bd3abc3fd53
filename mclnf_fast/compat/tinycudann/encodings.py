"""The encodings of tiny-cuda-nn: what a config describes, its features, and the constants that pad them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.compat.tinycudann.grid import HalfCellGrid
from mclnf_fast.compat.tinycudann.harmonics import spherical_harmonics


def next_multiple(value: int, of: int) -> int:
    """Return the least multiple of `of` that is not below `value`.

    >>> next_multiple(33, 16)
    48
    """
    return -(-value // of) * of


class Columns(NamedTuple):
    """The columns of a padded output: the feature that stands there, or -1 and a constant."""

    features: list[int]
    constants: list[float]


class Part:
    """An encoding of `n_input_dims` coordinates: `n_features` features, and constants up to `width` columns.

    Attributes:
        alignment: the width is a multiple of it.
        padding: the constant of the columns behind the features.
        n_params: numbers of its share of the flat parameters.
    """

    alignment = 1
    padding = 1.0

    def __init__(self, n_input_dims: int, n_features: int, n_params: int = 0) -> None:
        self.n_input_dims = n_input_dims
        self.n_features = n_features
        self.n_params = n_params
        self._pads = 0

    @property
    def width(self) -> int:
        """Columns of the output, padding included."""
        return self.n_features + self._pads

    def pad_to(self, width: int) -> None:
        """Pad the output to `width` columns."""
        self._pads = width - self.n_features

    def align(self, alignment: int) -> None:
        """Pad the output to a multiple of `alignment` and of the part's own."""
        self.pad_to(next_multiple(self.width, math.lcm(alignment, self.alignment)))

    def columns(self) -> Columns:
        """Return the columns of the output."""
        return Columns([*range(self.n_features), *[-1] * self._pads], [self.padding] * self.width)

    def grids(self) -> list[Grid]:
        """Return the grids within, in the order of their parameters."""
        return []

    def features(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        """Return the features [N, n_features] of x [N, n_input_dims]; params [n_params]."""
        raise NotImplementedError

    def encode(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        """Return the features and the constants [N, width] of x [N, n_input_dims]."""
        features = self.features(x, params, backend)
        if self.width == self.n_features:
            return features
        index, values = self.columns()
        constants = x.new_tensor(values).expand(x.shape[0], -1)
        order = [k if k >= 0 else self.n_features + column for column, k in enumerate(index)]
        return torch.cat((features, constants), 1)[:, order]


class Identity(Part):
    """`scale x + offset`."""

    def __init__(self, n_input_dims: int, scale: float = 1.0, offset: float = 0.0) -> None:
        super().__init__(n_input_dims, n_input_dims)
        self.scale, self.offset = scale, offset

    def features(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        return x if (self.scale, self.offset) == (1.0, 0.0) else x * self.scale + self.offset


class Frequency(Part):
    """`sin(2^k pi x), cos(2^k pi x)` for k = 0 ... n - 1, of one coordinate after another."""

    def __init__(self, n_input_dims: int, n: int) -> None:
        super().__init__(n_input_dims, 2 * n * n_input_dims)
        self.n = n

    def features(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        angles = x[..., None] * x.new_tensor([2.0**k * math.pi for k in range(self.n)])
        return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)


class TriangleWave(Part):
    """`4 |v - floor(v) - 1/2| - 1` of `v = 2^(k-1) x + k/4` for k = 0 ... n - 1, of one coordinate after another."""

    def __init__(self, n_input_dims: int, n: int) -> None:
        super().__init__(n_input_dims, n * n_input_dims)
        self.n = n

    def features(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        v = x[..., None] * x.new_tensor([2.0 ** (k - 1) for k in range(self.n)])
        v = v + x.new_tensor([k / 4 for k in range(self.n)])
        return (4 * (v - v.floor() - 0.5).abs() - 1).flatten(1)


class OneBlob(Part):
    """The share of a kernel around x, of radius 1/n, in each of n bins of [0, 1], which goes round at its ends.

    The kernel is the quartic one, `15/16 (1 - u^2)^2` of `u = n (t - x)`.
    """

    def __init__(self, n_input_dims: int, n: int) -> None:
        super().__init__(n_input_dims, n * n_input_dims)
        self.n = n

    def features(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        borders = x.new_tensor([k / self.n for k in range(self.n + 1)])
        u = (borders - x[..., None])[..., None] + x.new_tensor([0.0, -1.0, 1.0])  # [N, dims, n + 1, 3]
        u = (u * self.n).clamp(-1, 1)
        square = u * u
        below = (15 / 16 * u * (1 - square * (2 / 3 - square / 5))).sum(-1)
        return below.diff(dim=-1).flatten(1)


class SphericalHarmonics(Part):
    """Real spherical harmonics of bands 0 ... degree - 1 of the direction `2 x - 1`; its padding stands in front."""

    def __init__(self, degree: int) -> None:
        super().__init__(3, degree * degree)
        self.degree = degree

    def columns(self) -> Columns:
        behind = super().columns()
        return Columns([*[-1] * self._pads, *range(self.n_features)], behind.constants)

    def features(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        return spherical_harmonics(self.degree, 2 * x - 1)


class Grid(Part):
    """A multiresolution grid; its parameters are the levels' entries, one level after another."""

    padding = 0.0

    def __init__(self, n_input_dims: int, grid: HalfCellGrid) -> None:
        self.layout = grid.layout(n_input_dims)
        super().__init__(n_input_dims, grid.out_dim(n_input_dims), self.layout.entries * grid.features)
        self.grid = grid
        self.alignment = grid.features

    def grids(self) -> list[Grid]:
        return [self]

    def features(self, x: Tensor, params: Tensor, backend: str | None) -> Tensor:
        tables = params.view(1, self.layout.entries, self.grid.features)
        offsets = torch.tensor([0, x.shape[0]], device=x.device)
        return ops.grid_encode(x, offsets, tables, self.grid, backend=backend)
