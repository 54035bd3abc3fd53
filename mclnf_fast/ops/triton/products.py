"""Matrix products of a tile of points: the operands as the matrix instructions take them, and a layer of a network."""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops import _triton

INTERPRETED = tl.constexpr(_triton.interpreted())


@triton.jit
def rounded(v, PRECISION: tl.constexpr):
    """Return v as an operand of a product: float32 that is multiplied as tf32 rounded to its 10 bits, to the nearest,
    halves away from zero. The matrix instructions would cut the rest off, an error of one sign in every layer. Other
    values as they are; so are infinity and NaN.
    """
    if PRECISION == "tf32" and v.dtype == tl.float32:
        if INTERPRETED:  # which knows no assembly
            bits = v.to(tl.int32, bitcast=True)
            nearest = ((bits + 0x1000) & -0x2000).to(tl.float32, bitcast=True)
            v = tl.where(tl.abs(v) < float("inf"), nearest, v)
        else:
            v = tl.inline_asm_elementwise(
                "cvt.rna.tf32.f32 $0, $1;", "=r,r", [v], dtype=tl.float32, is_pure=True, pack=1
            )
    return v


@triton.jit
def input_product(a, b, z, PRECISION: tl.constexpr):
    """Return z + a b for inputs a of the network, float32 that no product rounds, and an operand b (`rounded`).

    Unless it is multiplied exactly anyway, a goes to the matrix instructions as two tf32 numbers, which hold 22 of its
    24 bits and the sign of what is left: a product is off by no more than float32's last place, and b, a half type or
    rounded to tf32, is exact. A product of one rounded number would shift every point.
    """
    if b.dtype == tl.float32 and PRECISION == "ieee":
        z = tl.dot(a, b, z, input_precision="ieee")
    else:
        wide = b.to(tl.float32)
        upper = rounded(a, "tf32")
        z = tl.dot(rounded(a - upper, "tf32"), wide, z, input_precision="tf32")
        z = tl.dot(upper, wide, z, input_precision="tf32")
    return z


@triton.jit
def matrix(
    w,
    module,
    first,
    rows,
    IN: tl.constexpr,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return rows first ... first + rows - 1 of a module's weights [IN, OUT] as an operand, padded with zeros to
    [ROWS, COLUMNS]."""
    k = tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    address = w + module.to(tl.int64) * (IN * OUT) + (first + k)[:, None] * OUT + n[None, :]
    return rounded(tl.load(address, mask=(k < rows)[:, None] & (n < OUT)[None, :], other=0.0), PRECISION)


@triton.jit
def vector(b, module, OUT: tl.constexpr, COLUMNS: tl.constexpr):
    """Return a module's biases [OUT], padded with zeros."""
    n = tl.arange(0, COLUMNS)
    return tl.load(b + module.to(tl.int64) * OUT + n, mask=n < OUT, other=0.0).to(tl.float32)


@triton.jit
def layer_pre_activations(h, encoded, w, b, module, NET: tl.constexpr, LAYER: tl.constexpr, PRECISION: tl.constexpr):
    """Return z = (h, encoded) W + b of layer LAYER of a network (`launch.NetworkConstants`), [ROWS, outputs_pad]: h the
    outputs of the layer before as an operand (`rounded`), encoded the features in blocks (`encode_in_blocks`).

    The features come in behind h where the layer skips to them. They are all that the first layer takes; h is not read.
    """
    above: tl.constexpr = NET.width if LAYER > 0 else 0
    below: tl.constexpr = NET.features if LAYER == 0 else NET.features * ((NET.skips >> LAYER) & 1)
    outputs: tl.constexpr = NET.outputs if NET.layers - 1 == LAYER else NET.width
    outputs_pad: tl.constexpr = NET.outputs_pad if NET.layers - 1 == LAYER else NET.width_pad
    block: tl.constexpr = NET.features_block
    if LAYER > 0:
        upper = matrix(w, module, 0, above, above + below, outputs, NET.width_pad, outputs_pad, PRECISION)
        z = tl.dot(h, upper, input_precision=PRECISION)
    else:
        z = tl.zeros((encoded[0].shape[0], outputs_pad), tl.float32)
    if below > 0:
        for k in tl.static_range(NET.features_pad // block):
            lower = matrix(
                w, module, above + k * block, below - k * block, above + below, outputs, block, outputs_pad, PRECISION
            )
            z = input_product(encoded[k], lower, z, PRECISION)
    return z + vector(b, module, outputs, outputs_pad)[None, :]
