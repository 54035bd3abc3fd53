"""Device functions of the bank's Triton kernels: sines, activations, the encoding, the module of a tile.

Every function works on float32 values in registers. None calls a device library: the interpreter has none, and the
library's sine takes a stack frame for arguments that never occur here.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.triton.products import INTERPRETED, rounded
from mclnf_fast.packing import Activation

# Kernels read no other globals than these.
NONE = tl.constexpr(Activation.NONE.value)
RELU = tl.constexpr(Activation.RELU.value)
SINE = tl.constexpr(Activation.SINE.value)
SOFTPLUS = tl.constexpr(Activation.SOFTPLUS.value)
TANH = tl.constexpr(Activation.TANH.value)
SIGMOID = tl.constexpr(Activation.SIGMOID.value)
EXP = tl.constexpr(Activation.EXP.value)


@triton.jit
def sine(a, half):
    """Return sin(a + half pi), half being 0 or 0.5 (the cosine). |a| up to 2^13 pi; NaN and infinity give NaN.

    The multiple of pi that is taken off comes in three parts with so few bits that its products are exact, so that it
    is as good with and without fused multiply-adds; then a polynomial of degree 11 through Chebyshev's points of
    [-pi/2, pi/2], off by 1e-10: 2 units in the last place with float32's rounding.
    """
    turns = tl.floor(a * 0.3183098861837907 + (half + 0.5))
    f = turns - half
    r = a - f * 3.140625
    r = r - f * 0.0009670257568359375
    r = r - f * 6.2783295e-07
    s = r * r
    p = s * (-2.4080189972004316e-08) + 2.753646353725671e-06
    p = s * p - 0.00019841086561023615
    p = s * p + 0.0083333327687507095
    p = s * p - 0.16666666663881199
    value = r + r * s * p
    odd = turns - 2.0 * tl.floor(turns * 0.5)
    return tl.where(odd > 0.5, -value, value)


@triton.jit
def wave(v, frequency, half, KIND: tl.constexpr):
    """Return sin(v frequency + half pi), half being 0 or 0.5, for a network whose weights are of type KIND.

    Of float32 by `sine`. Of a half type by the chip's own sine, off by less than 2^-19 (|v frequency| up to 2^13 pi;
    NaN and infinity give NaN), where float16 rounds by 2^-12 and bfloat16 by 2^-9. A number so large that the sum has
    no bits for fractions, added and taken off again, rounds to whole turns in two instructions.
    """
    if tl.float32 == KIND:
        value = sine(v * frequency, half)
    else:
        a = v * frequency
        turns = (a * 0.15915494309189535 + 12582912.0) - 12582912.0
        r = a - turns * 6.28125
        r = r - turns * 0.0019353071795864769 + half * 3.141592653589793
        if INTERPRETED:  # which knows no assembly
            value = tl.sin(r)
        else:
            value = tl.inline_asm_elementwise("sin.approx.f32 $0, $1;", "=r,r", [r], tl.float32, is_pure=True, pack=1)
    return value


@triton.jit
def log1p_small(u):
    """Return log(1 + u) for 0 <= u <= 1, to the last bits for small u too (Kahan's quotient)."""
    w = 1.0 + u
    return tl.where(w == 1.0, u, tl.log(w) * (u / tl.where(w == 1.0, 1.0, w - 1.0)))


@triton.jit
def hyperbolic_tangent(z):
    """Return tanh(z), for small z by a polynomial: the quotient loses its last digits there."""
    t = tl.exp(-2.0 * tl.abs(z))
    far = (1.0 - t) / (1.0 + t)
    s = z * z
    p = s * 0.021869488536155203 - 0.05396825396825397
    p = s * p + 0.13333333333333333
    p = s * p - 0.3333333333333333
    return tl.where(s < 0.04, z + z * s * p, tl.where(z < 0, -far, far))


@triton.jit
def logistic(z):
    """Return 1 / (1 + exp(-z)), without overflow for z of either sign."""
    t = tl.exp(-tl.abs(z))
    return tl.where(z < 0, t, 1.0) / (1.0 + t)


@triton.jit
def activate(z, KIND: tl.constexpr, W0: tl.constexpr):
    """Return a(z); NaN stays NaN."""
    if KIND == RELU:
        z = tl.where(z < 0, 0.0, z)
    if KIND == SINE:
        z = sine(W0 * z, 0.0)
    if KIND == SOFTPLUS:
        z = tl.where(z > 0, z, 0.0) + log1p_small(tl.exp(-tl.abs(z)))
    if KIND == TANH:
        z = hyperbolic_tangent(z)
    if KIND == SIGMOID:
        z = logistic(z)
    if KIND == EXP:
        z = tl.exp(z)
    return z


@triton.jit
def next_inputs(z, ACTIVATION: tl.constexpr, W0: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr):
    """Return a(z) in the type KIND, as an operand of the next layer's product."""
    if ACTIVATION != RELU or tl.float32 == KIND or INTERPRETED:
        h = rounded(activate(z, ACTIVATION, W0).to(KIND), PRECISION)
    elif tl.float16 == KIND:  # relu in the conversion; NaN stays NaN
        h = tl.inline_asm_elementwise(
            "cvt.rn.relu.f16x2.f32 $0, $2, $1;", "=r,r,r", [z], tl.float16, is_pure=True, pack=2
        )
    else:
        h = tl.inline_asm_elementwise(
            "cvt.rn.relu.bf16x2.f32 $0, $2, $1;", "=r,r,r", [z], tl.bfloat16, is_pure=True, pack=2
        )
    return h


@triton.jit
def first_derivative(z, KIND: tl.constexpr, W0: tl.constexpr):
    """Return a'(z)."""
    value = tl.full(z.shape, 1.0, tl.float32)
    if KIND == RELU:
        value = tl.where(z > 0, 1.0, 0.0)
    if KIND == SINE:
        value = W0 * sine(W0 * z, 0.5)
    if KIND == SOFTPLUS:
        value = logistic(z)
    if KIND == TANH:
        t = tl.exp(-2.0 * tl.abs(z))
        value = 4.0 * t / ((1.0 + t) * (1.0 + t))
    if KIND == SIGMOID:
        t = tl.exp(-tl.abs(z))
        value = t / ((1.0 + t) * (1.0 + t))
    if KIND == EXP:
        value = tl.exp(z)
    return value


@triton.jit
def second_derivative(z, KIND: tl.constexpr, W0: tl.constexpr):
    """Return a''(z)."""
    value = tl.zeros(z.shape, tl.float32)
    if KIND == SINE:
        value = -W0 * W0 * sine(W0 * z, 0.0)
    if KIND == SOFTPLUS:
        t = tl.exp(-tl.abs(z))
        value = t / ((1.0 + t) * (1.0 + t))
    if KIND == TANH:
        value = -2.0 * hyperbolic_tangent(z) * first_derivative(z, TANH, W0)
    if KIND == SIGMOID:
        t = tl.exp(-tl.abs(z))
        far = t * (1.0 - t) / ((1.0 + t) * (1.0 + t) * (1.0 + t))
        value = tl.where(z < 0, far, -far)
    if KIND == EXP:
        value = tl.exp(z)
    return value


@triton.jit
def features_of(x, rows, live, table, c, IN, FEATURES, KIND: tl.constexpr):
    """Return features c [COLUMNS] of the rows' points; see `encode`."""
    exists = c < FEATURES
    dim = tl.load(table + c, mask=exists, other=0.0).to(tl.int32)
    frequency = tl.load(table + FEATURES + c, mask=exists, other=0.0)
    half = tl.load(table + 2 * FEATURES + c, mask=exists, other=0.0)[None, :]
    mask = live[:, None] & exists[None, :]
    v = tl.load(x + rows[:, None] * IN + dim[None, :], mask=mask, other=0.0).to(tl.float32)
    return tl.where(half < 0, v, wave(v, frequency[None, :], half, KIND))


@triton.jit
def encode(
    x,
    rows,
    live,
    table,
    first,
    IN,
    FEATURES,
    COLUMNS: tl.constexpr,
    KIND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return features first ... first + COLUMNS - 1 of the rows' points, float32 [ROWS, COLUMNS], 0 beyond the last,
    for a network whose weights are of type KIND (`wave`); products multiply float32 as PRECISION says.

    table [3, FEATURES]: the coordinate that a feature reads, its frequency, and 0 for a sine, 0.5 for a cosine, -1 for
    the coordinate itself.
    """
    c = first + tl.arange(0, COLUMNS)
    if tl.float32 == KIND and PRECISION == "ieee":  # no matrix instructions: one layout, which a branch spills
        features = features_of(x, rows, live, table, c, IN, FEATURES, KIND)
    else:
        features = tl.zeros((rows.shape[0], COLUMNS), tl.float32)
        # A branch that is always taken: its result has one layout, in which a feature is formed once. Beside products,
        # the compiler forms the features anew in the layout of each, and in every warp that shares a row.
        if tl.num_programs(0) > 0:
            features = features_of(x, rows, live, table, c, IN, FEATURES, KIND)
    return features


@triton.jit
def size_of(size, KNOWN: tl.constexpr, MULTIPLE: tl.constexpr = 1):
    """Return KNOWN, or the launch's size if that is -1: a multiple of MULTIPLE, in a form that tells the compiler so,
    which then loads rows of so many numbers several at a time."""
    return size // MULTIPLE * MULTIPLE if KNOWN < 0 else KNOWN


@triton.jit
def encode_in_blocks(x, rows, live, table, NET: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr):
    """Return all features of the rows' points as a tuple of blocks [ROWS, features_block]; see `encode`."""
    BLOCK: tl.constexpr = NET.features_block
    blocks = ()
    for k in tl.static_range(NET.features_pad // BLOCK):
        block = encode(x, rows, live, table, k * BLOCK, NET.coordinates, NET.features, BLOCK, KIND, PRECISION)
        blocks = blocks + (block,)  # noqa: RUF005 - Triton knows no star
    return blocks


@triton.jit
def module_of(starts, tile, modules):
    """Return the module m with starts[m] <= tile < starts[m + 1], by bisection. The number of halvings is no constant:
    a kernel for each would be compiled again as modules are appended."""
    low = 0
    high = modules
    while high - low > 1:
        middle = (low + high) // 2
        before = tl.load(starts + middle) <= tile
        low = tl.where(before, middle, low)
        high = tl.where(before, high, middle)
    return low


@triton.jit
def tile_of(offsets, starts, tile, modules, ROWS: tl.constexpr):
    """Return the module of a tile, the first of the ROWS points that it covers, their numbers in the tile, which are 32
    bits wide, and which of them exist."""
    module = module_of(starts, tile, modules)
    begin = tl.load(offsets + module) + (tile - tl.load(starts + module)).to(tl.int64) * ROWS
    rows = tl.arange(0, ROWS)
    return module, begin, rows, rows < tl.minimum(tl.load(offsets + module + 1) - begin, ROWS).to(tl.int32)


@triton.jit
def block_of(
    offsets,
    starts,
    place,
    modules,
    ROWS: tl.constexpr,
    SIZE,
    COLUMNS: tl.constexpr,
):
    """Return the tile of a program's place as `tile_of` does, and a block of its SIZE columns, with those that exist.

    The blocks of a tile are next to each other, so that its inputs stay in the cache.
    """
    blocks = (SIZE + COLUMNS - 1) // COLUMNS
    module, begin, rows, live = tile_of(offsets, starts, place // blocks, modules, ROWS)
    n = (place % blocks) * COLUMNS + tl.arange(0, COLUMNS)
    return module, begin + rows, live, n, n < SIZE


@triton.jit
def chunk_of(
    offsets,
    chunks,
    place,
    modules,
    points_per_chunk,
    HIGH,
    SIZE,
    COLUMNS: tl.constexpr,
):
    """Return the chunk of a program's place, its block of HIGH blocks of rows, a block of its SIZE columns with those
    that exist, and its first point and the one behind its last."""
    broad = (SIZE + COLUMNS - 1) // COLUMNS
    wide = tl.zeros((), tl.int64)
    chunk = place // (HIGH * broad)
    block = (place // broad) % HIGH
    module = module_of(chunks, chunk, modules)
    n = (place % broad) * COLUMNS + tl.arange(0, COLUMNS)
    wanted = n < SIZE
    begin = tl.load(offsets + module) + (chunk - tl.load(chunks + module)) * (wide + points_per_chunk)
    end = tl.minimum(begin + points_per_chunk, tl.load(offsets + module + 1))
    return chunk, block, n, wanted, begin, end


@triton.jit
def store_gradient(total, bias, sums, chunk, block, n, wanted, ABOVE, BELOW, OUT, ROWS: tl.constexpr):
    """Store a block of a chunk's share of a layer's gradient, and the sums of the biases behind it.

    sums: float32 [chunks, (ABOVE + BELOW + 1) OUT]. total [ROWS, COLUMNS], bias [COLUMNS]: of the block's rows, the
    features' behind the others, and of the columns n, those `wanted`.
    """
    wide = tl.zeros((), tl.int64)
    above = (ABOVE + ROWS - 1) // ROWS
    share = sums + (wide + chunk) * ((ABOVE + BELOW + 1) * OUT)
    i = tl.arange(0, ROWS)
    top = tl.where(block < above, block * ROWS, ABOVE + (block - above) * ROWS)
    bottom = tl.where(block < above, ABOVE, ABOVE + BELOW)
    to = share + (top + i)[:, None] * OUT + n[None, :]
    tl.store(to, total, mask=(top + i < bottom)[:, None] & wanted[None, :])
    tl.store(share + (ABOVE + BELOW) * OUT + n, bias, mask=wanted & (wide + block == 0))
