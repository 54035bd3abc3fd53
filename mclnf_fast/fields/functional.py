"""A bank as a function of its parameters as a flat tuple: weights, then biases, then the tables of grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor, check_tensors
from mclnf_fast.ops import bank_mlp, grid_encode
from mclnf_fast.spec import FieldSpec

SplitParams = tuple[list[Tensor], list[Tensor], list[Tensor]]
"""Weights, biases and tables."""


def check_field_spec(spec: object) -> None:
    """Raise TypeError if `spec` is no `FieldSpec`.

    >>> check_field_spec(FieldSpec(2, 3))
    """
    if not isinstance(spec, FieldSpec):
        raise TypeError(f"spec must be a FieldSpec, got {type(spec).__name__}")


def parameter_shapes(spec: FieldSpec) -> list[tuple[int, ...]]:
    """Return the shapes of one module's parameters, in the order of the flat tuple.

    >>> parameter_shapes(FieldSpec(2, 3, width=16, hidden_layers=1))
    [(2, 16), (16, 3), (16,), (3,)]
    """
    layers = spec.layer_shapes
    return [*layers, *((columns,) for _, columns in layers), *spec.grid_shapes]


def split_params(params: Sequence[Tensor], spec: FieldSpec) -> SplitParams:
    """Split the flat tuple into weights [M, in, out] per layer, biases [M, out] per layer and tables
    [M, entries, features] per grid.

    Raises TypeError if they are no tensors, ValueError if their number is not the spec's.

    >>> spec = FieldSpec(2, 3, width=16, hidden_layers=1)
    >>> [len(tensors) for tensors in split_params([torch.zeros(4, *s) for s in parameter_shapes(spec)], spec)]
    [2, 2, 0]
    """
    check_field_spec(spec)
    params = check_tensors("params", params)
    layers = len(spec.layer_shapes)
    expected = 2 * layers + len(spec.grids)
    if len(params) != expected:
        raise ValueError(
            f"params must hold {expected} tensors ({layers} weights, {layers} biases, {len(spec.grids)} tables), "
            f"got {len(params)}"
        )
    return params[:layers], params[layers : 2 * layers], params[2 * layers :]


def encode_grids(
    x: Tensor, offsets: Tensor, tables: Sequence[Tensor], spec: FieldSpec, backend: str | None = "auto"
) -> Tensor:
    """Return the input of the network behind the grids (`spec.mlp`): x, the coordinates of each grid replaced by its
    features.

    Args:
        x: [N, spec.in_dim] grouped by module.
        offsets: int64 [M + 1].
        tables: one per grid of `spec.grids`, [M, entries, features].
        spec: the architecture.
        backend: of `ops.grid_encode`.

    Returns:
        [N, spec.mlp.in_dim]; x itself if the spec has no grid.

    Raises:
        As `ops.grid_encode`.

    Example:
        >>> from mclnf_fast.spec import TriPlane
        >>> spec = FieldSpec(3, 4, encoding=TriPlane(features=8, resolution=4))
        >>> encode_grids(torch.rand(5, 3), torch.tensor([0, 5]), [torch.rand(1, 48, 8)], spec).shape
        torch.Size([5, 8])
    """
    if not spec.grids:
        return x
    check_tensor("x", x, (None, spec.in_dim), what="[N, in_dim]")
    pieces, done = [], 0
    for (grid, start, dims), table in zip(spec.grids, tables):
        if start > done:
            pieces.append(x[:, done:start])
        done = start + dims
        pieces.append(grid_encode(x[:, start:done], offsets, table, grid, backend))
    if done < x.shape[1]:
        pieces.append(x[:, done:])
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)


def evaluate_params(
    params: Sequence[Tensor], spec: FieldSpec, x: Tensor, offsets: Tensor, backend: str | None = "auto"
) -> Tensor:
    """Evaluate every point with the network of its module, with grids or without.

    Args:
        params: the flat tuple, as `FieldBank.stacked`.
        spec: the architecture.
        x: [N, in_dim] grouped by module.
        offsets: int64 [M + 1].
        backend: of every op that serves (`ops.grid_encode` if there is a grid, and `ops.bank_mlp`).

    Returns:
        [N, out_dim]; twice differentiable in params and x.

    Raises:
        As `split_params` and these ops.

    Example:
        >>> spec = FieldSpec(2, 3, width=16, hidden_layers=1)
        >>> params = [torch.zeros(2, *shape) for shape in parameter_shapes(spec)]
        >>> evaluate_params(params, spec, torch.rand(5, 2), torch.tensor([0, 2, 5])).shape
        torch.Size([5, 3])
    """
    weights, biases, tables = split_params(params, spec)
    return bank_mlp(encode_grids(x, offsets, tables, spec, backend), offsets, weights, biases, spec.mlp, backend)
