"""The public grid encoding: it checks its arguments, and a backend computes the result."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.checks import check_tensor
from mclnf_fast.grids import Grid, TriPlane
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import CAST, FLOATS, check_offsets, widened
from mclnf_fast.ops._dispatch import Backend, always, cpu_library, cuda_library, register
from mclnf_fast.ops.grid import autograd, reference

autograd.join()


def grid_encode(x: Tensor, offsets: Tensor, tables: Tensor, encoding: Grid, backend: str | None = "auto") -> Tensor:
    """Return the features of every point, interpolated from the grid of its module.

    Hash grids as in instant-NGP (arXiv 2201.05989), tri-planes as in EG3D (arXiv 2112.07945). Differentiable twice in x
    and tables in every backend (`reference`: to any order), so that normals and eikonal losses train. Deterministic: on
    the CPU each part of a table is added to by one thread, in the points' order; on CUDA the gradient of tables is
    summed up in integers, whose order does not show. There each addend is exact to 2^-59 of n times the module's
    largest, n being its points (with a million points 2^-39 of the largest; of float64, 2^-77), and an entry that a NaN
    or an infinity reaches becomes NaN. The gradient of tables is dense, zeros where no point came near; no other tensor
    is larger than points x features, but for the integers on CUDA: 8 bytes (float64: 16) per number of as many levels
    as 16 MiB hold, or of one.

    Args:
        x: coordinates [N, dims], grouped by module; N may be 0. Points outside `encoding.low` ... `encoding.high` are
            read at the border and have gradient 0 there. NaN gives NaN.
        offsets: int64 [M + 1]; rows offsets[m] ... offsets[m+1]-1 belong to module m. Modules may be empty.
            Values are read on the CPU only, where that costs no wait.
        tables: [M, entries, features], as `encoding.layout(dims)` gives entries and features; any strides. Of the dtype
            of x or, beside float32 coordinates, of a half type.
        encoding: a `HashGrid` (1 to 4 coordinates) or a `TriPlane` (3).
        backend: `"auto"`, or a name; see `mclnf_fast.info()`. Inside torch.func transforms the reference serves.

    Returns:
        [N, encoding.out_dim(dims)], dtype of x. float16 and bfloat16 are computed in float32 and rounded once, at the
        end (the whole table is converted: low precision saves nothing here). Autocast changes nothing.

    Raises:
        TypeError, ValueError: an argument of a wrong type, dtype, shape or device, or offsets that do not start at 0,
            go down, or do not end at N; the message names the argument, what it must be and what it was.
        BackendError: the backend asked for can't serve.

    Example:
        >>> import torch
        >>> import mclnf_fast as mf
        >>> grid = mf.HashGrid(levels=2, features=4, base=8, finest=16)
        >>> tables = torch.rand(2, grid.layout(3).entries, 4)
        >>> grid_encode(torch.rand(5, 3), torch.tensor([0, 2, 5]), tables, grid).shape
        torch.Size([5, 8])
    """
    if not isinstance(encoding, Grid):
        raise TypeError(f"encoding must be a HashGrid or a TriPlane, got {type(encoding).__name__}")
    check_tensor("x", x, (None, None), FLOATS, what="[N, dims]")
    try:
        layout = encoding.layout(x.shape[1])
    except ValueError as error:
        raise ValueError(f"x must have the coordinates of encoding, got shape {list(x.shape)}: {error}") from None
    shape = (None, layout.entries, layout.features)
    dtypes = CAST if x.dtype == torch.float32 else x.dtype
    check_tensor("tables", tables, shape, dtypes, x.device, "[M, entries, features]")
    check_offsets("offsets", offsets, tables.shape[0], x.shape[0], x.device)
    function = _OP.serving(backend, x.device, x.dtype)
    y: Tensor = function(widened(x), offsets, widened(tables), encoding)
    if isinstance(encoding, TriPlane) and encoding.reduce == "product":
        xy, xz, yz = y.split(encoding.features, 1)
        y = xy * xz * yz
    return y.to(x.dtype)


def _compiled(x: Tensor, offsets: Tensor, tables: Tensor, encoding: Grid) -> Tensor:
    return COMPILED.grid_encode_fwd(x, offsets, tables, *encoding.layout(x.shape[1]).packed)


_OP = register(
    "grid_encode",
    cuda=Backend(cuda_library, _compiled),
    cpu=Backend(cpu_library, _compiled),
    reference=Backend(always, reference.grid_encode),
)
