"""A bank as a function of its parameters as a flat tuple: weights, then biases, then the tables of grids."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.ops.bank_mlp import bank_mlp
from mclnf_fast.ops.grid import grid_encode
from mclnf_fast.spec import FieldSpec

Split = tuple[list[Tensor], list[Tensor], list[Tensor]]


def parameter_shapes(spec: FieldSpec) -> list[tuple[int, ...]]:
    """Shapes of one module's parameters, in the order of the flat tuple."""
    layers = spec.layer_shapes
    return [*layers, *((columns,) for _, columns in layers), *spec.grid_shapes]


def split_params(params: Sequence[Tensor], spec: FieldSpec) -> Split:
    """The flat tuple as weights [M, in, out] a layer, biases [M, out] a layer and tables [M, entries, features] a grid.

    Raises ValueError where the number of tensors is not the spec's.
    """
    layers = len(spec.layer_shapes)
    wanted = 2 * layers + len(spec.grids)
    if len(params) != wanted:
        raise ValueError(
            f"params must hold {wanted} tensors ({layers} weights, {layers} biases, {len(spec.grids)} tables), "
            f"got {len(params)}"
        )
    flat = list(params)
    return flat[:layers], flat[layers : 2 * layers], flat[2 * layers :]


def encode_grids(
    x: Tensor, offsets: Tensor, tables: Sequence[Tensor], spec: FieldSpec, backend: str | None = "auto"
) -> Tensor:
    """What the network behind the grids (`spec.mlp`) takes: x, the coordinates of each grid replaced by its features.

    Args:
        x: [N, spec.in_dim] grouped by module.
        offsets: int64 [M + 1].
        tables: one a grid of `spec.grids`, [M, entries, features].

    Returns [N, spec.mlp.in_dim]; x itself where the spec has no grid. Raises as `ops.grid_encode`.
    """
    if not spec.grids:
        return x
    if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != spec.in_dim:
        got = list(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must have shape [N, in_dim] = [*, {spec.in_dim}], got {got}")
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
    """Every point through the network of its module, with grids or without.

    Args:
        params: the flat tuple, as `FieldBank.stacked`.
        x: [N, in_dim] grouped by module.
        offsets: int64 [M + 1].
        backend: of every op that this takes (`ops.grid_encode` where there is a grid, and `ops.bank_mlp`).

    Returns [N, out_dim]; twice differentiable in params and x. Raises as `split_params` and these ops.
    """
    weights, biases, tables = split_params(params, spec)
    return bank_mlp(encode_grids(x, offsets, tables, spec, backend), offsets, weights, biases, spec.mlp, backend)
