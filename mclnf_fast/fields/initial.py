"""Random initial parameters of networks."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclnf_fast.spec import FieldSpec, Grid, TriPlane


def initial_parameters(
    spec: FieldSpec,
    modules: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
    gain: float = 2.0,
) -> tuple[Tensor, ...]:
    """Return random parameters for `modules` networks: weights [M, in, out] of every layer, then biases [M, out], then
    the tables [M, entries, features] of grids.

    `sine`: SIREN's rule (arXiv 2006.09661, sec. 3.2). Else: uniform with variance `gain` / in for relu and softplus (2:
    He et al., arXiv 1502.01852), 1 / in otherwise and in the output layer; biases zero. Hash grids: uniform in +-1e-4
    (instant-NGP, arXiv 2201.05989). Tri-planes: uniform in +-0.1; if the maps are multiplied, in 0.1 ... 0.5 (K-Planes,
    arXiv 2301.10241), since a product of small numbers has next to no gradient.

    Args:
        spec: the architecture.
        modules: M.
        dtype, device: of the parameters. They are drawn in float32 on the CPU, so that a seed means one result.
        generator: None: torch's own.
        gain: see above.

    >>> weight, bias = initial_parameters(FieldSpec(3, 4, hidden_layers=0), modules=2)
    >>> weight.shape, bias.shape
    (torch.Size([2, 3, 4]), torch.Size([2, 4]))
    """

    def draw(*shape: int, bound: float, middle: float = 0.0) -> Tensor:
        unit = torch.rand(shape, dtype=torch.float32, generator=generator)
        return ((unit * 2 - 1) * bound + middle).to(device=device, dtype=dtype)

    weights, biases = [], []
    for layer, (rows, columns) in enumerate(spec.layer_shapes):
        bias_bound = 0.0
        if spec.activation == "sine":
            bound = 1 / spec.mlp.in_dim if layer == 0 else math.sqrt(6 / rows) / spec.w0
            bias_bound = 1 / math.sqrt(rows)
        else:
            variance = gain if spec.activation in ("relu", "softplus") and layer < spec.hidden_layers else 1.0
            bound = math.sqrt(3 * variance / rows)
        weights.append(draw(modules, rows, columns, bound=bound))
        biases.append(draw(modules, columns, bound=bias_bound))
    tables = []
    for part, shape in zip(spec.grids, spec.grid_shapes):
        bound, middle = _table_range(part.encoding)
        tables.append(draw(modules, *shape, bound=bound, middle=middle))
    return (*weights, *biases, *tables)


def _table_range(grid: Grid) -> tuple[float, float]:
    if isinstance(grid, TriPlane):
        return (0.2, 0.3) if grid.reduce == "product" else (0.1, 0.0)
    return 1e-4, 0.0
