"""Back through the encoding: its derivative, the tangents of the features, the gradient of the points.

Memory-bound (estimated): the features' gradients are read once.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.functions import wave


@triton.jit
def feature_derivative(v, frequency, half, KIND: tl.constexpr):
    """Return the derivative of a feature in its coordinate v: of a sine (half 0), a cosine (0.5) or v itself (-1); for
    weights of type KIND."""
    value = wave(v, frequency, tl.where(half == 0.5, 0.0, 0.5), KIND)
    return tl.where(half < 0, 1.0, frequency * tl.where(half == 0.5, -value, value))


@triton.jit
def features_both(
    x,
    along_x,
    rows,
    live,
    table,
    c,
    IN,
    FEATURES,
    KIND: tl.constexpr,
    ALONG_X: tl.constexpr,
):
    """Return features c [COLUMNS] of the rows' points and their tangents; see `encode_both`."""
    exists = c < FEATURES
    dim = tl.load(table + c, mask=exists, other=0.0).to(tl.int32)
    frequency = tl.load(table + FEATURES + c, mask=exists, other=0.0)[None, :]
    half = tl.load(table + 2 * FEATURES + c, mask=exists, other=0.0)[None, :]
    mask = live[:, None] & exists[None, :]
    place = rows[:, None] * IN + dim[None, :]
    v = tl.load(x + place, mask=mask, other=0.0).to(tl.float32)
    value = tl.where(half < 0, v, wave(v, frequency, half, KIND))
    tangent = tl.zeros(value.shape, tl.float32)
    if ALONG_X:
        t = tl.load(along_x + place, mask=mask, other=0.0).to(tl.float32)
        tangent = t * feature_derivative(v, frequency, half, KIND)
    return value, tangent


@triton.jit
def encode_both(
    x,
    along_x,
    rows,
    live,
    table,
    first,
    IN,
    FEATURES,
    COLUMNS: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
    ALONG_X: tl.constexpr,
):
    """Return `encode` and the tangents of the features along along_x [N, IN]; without ALONG_X those are zeros."""
    c = first + tl.arange(0, COLUMNS)
    if tl.float32 == KIND and PRECISION == "ieee":  # as in `encode`
        value, tangent = features_both(x, along_x, rows, live, table, c, IN, FEATURES, KIND, ALONG_X)
    else:
        value = tl.zeros((rows.shape[0], COLUMNS), tl.float32)
        tangent = tl.zeros((rows.shape[0], COLUMNS), tl.float32)
        if tl.num_programs(0) > 0:
            value, tangent = features_both(x, along_x, rows, live, table, c, IN, FEATURES, KIND, ALONG_X)
    return value, tangent


@triton.jit(do_not_specialize=["points", "IN", "FEATURES"])
def features_gradient(
    x,
    along_x,
    g,
    gt,
    grad_x,
    table,
    points,
    IN,
    FEATURES,
    ALONG_X: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Store grad_x [N, IN]: the gradients gt [N, FEATURES] of the features through the encoding; with ALONG_X also
    those through its derivative, by which g [N, FEATURES] reaches <grad_x, along_x>. A coordinate's features are added
    up in one order, by a product with zeros and ones."""
    wide = tl.zeros((), tl.int64)
    ROWS: tl.constexpr = BLOCK.rows
    COLUMNS: tl.constexpr = BLOCK.columns
    DEPTH: tl.constexpr = BLOCK.depth
    blocks = (IN + COLUMNS - 1) // COLUMNS
    tiles = (points + ROWS - 1) // ROWS
    for place in range(tl.program_id(0), tiles * blocks, tl.num_programs(0)):
        rows = (wide + place // blocks) * ROWS + tl.arange(0, ROWS)
        live = rows < points
        i = (place % blocks) * COLUMNS + tl.arange(0, COLUMNS)
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for first in range(0, FEATURES, DEPTH):
            c = first + tl.arange(0, DEPTH)
            exists = c < FEATURES
            dim = tl.load(table + c, mask=exists, other=0.0).to(tl.int32)
            frequency = tl.load(table + FEATURES + c, mask=exists, other=0.0)[None, :]
            half = tl.load(table + 2 * FEATURES + c, mask=exists, other=0.0)[None, :]
            mask = live[:, None] & exists[None, :]
            origin = rows[:, None] * IN + dim[None, :]
            v = tl.load(x + origin, mask=mask, other=0.0).to(tl.float32)
            value = tl.load(gt + rows[:, None] * FEATURES + c[None, :], mask=mask, other=0.0)
            value *= feature_derivative(v, frequency, half, tl.float32)
            if ALONG_X:
                t = tl.load(along_x + origin, mask=mask, other=0.0).to(tl.float32)
                t *= tl.load(g + rows[:, None] * FEATURES + c[None, :], mask=mask, other=0.0)
                value -= tl.where(half < 0, 0.0, t * frequency * frequency * wave(v, frequency, half, tl.float32))
            value = tl.where(mask, value, 0.0)
            pick = tl.where((dim[:, None] == i[None, :]) & exists[:, None], 1.0, 0.0)
            total = tl.dot(value, pick, total, input_precision="ieee")
        to = grad_x + rows[:, None] * IN + i[None, :]
        tl.store(to, total.to(grad_x.dtype.element_ty), mask=live[:, None] & (i < IN)[None, :])
