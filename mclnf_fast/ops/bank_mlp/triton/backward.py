"""The bank's backward in Triton: activations computed again, gradients of the parameters summed in a fixed order.

A chunk is a run of tiles of one module, cut by the sizes of the problem alone. Its program adds up the chunk's sums in
float32 memory of its own, which stays in the second-level cache; `reduce_chunks` then adds up a module's chunks in
their order. So the bits do not depend on which program ran when, or where.
"""

from __future__ import annotations

import triton
import triton.language as tl

from mclnf_fast.ops.bank_mlp.triton.encoding import feature_derivative
from mclnf_fast.ops.triton.functions import (
    NONE,
    RELU,
    encode_in_blocks,
    first_derivative,
    module_of,
    next_inputs,
)
from mclnf_fast.ops.triton.products import input_product, layer_pre_activations, matrix, rounded
from mclnf_fast.ops.triton.reduce import add_to


@triton.jit
def add_weight_gradient(
    sums,
    h,
    d,
    first,
    rows,
    more,
    OUT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    FEATURES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add rows first ... first + rows - 1 of a layer's weight gradient, h^T d, to the sums [.., OUT]; FEATURES: h are
    the network's inputs."""
    k = tl.arange(0, ROWS)
    n = tl.arange(0, COLUMNS)
    # A branch that is always taken: in a region of its own the compiler shares out this product's tile among the warps
    # by itself. Beside the others it takes them for a chain and gives all the tile of one, which repeats the work of
    # those with few rows in every warp. So do the two products of `input_product`, which are apart here.
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    split: tl.constexpr = FEATURES and not (d.dtype == tl.float32 and PRECISION == "ieee")
    if split and tl.num_programs(1) > 0:  # another condition: two branches of one condition become one
        value = tl.dot(
            rounded(tl.trans(h) - rounded(tl.trans(h), "tf32"), "tf32"), d.to(tl.float32), input_precision="tf32"
        )
    if tl.num_programs(0) > 0:
        if split:
            value += tl.dot(rounded(tl.trans(h), "tf32"), d.to(tl.float32), input_precision="tf32")
        else:
            value = tl.dot(tl.trans(h), d, input_precision=PRECISION)
        mask = (k < rows)[:, None] & (n < OUT)[None, :]
        add_to(sums + (first + k)[:, None] * OUT + n[None, :], value, mask, more)


@triton.jit
def forward_again(
    encoded, weights, biases, module, NET: tl.constexpr, LAST: tl.constexpr, KIND: tl.constexpr, PRECISION: tl.constexpr
):
    """Return the inputs of all layers but the first, the derivatives of their activations (0 if the backward reads them
    off the inputs), with LAST also that of the outputs'."""
    LAYERS: tl.constexpr = NET.layers
    h = 0
    inputs = (0,)
    derivatives = (0,)
    for l in tl.static_range(LAYERS):
        if l < LAYERS - 1 or LAST:
            z = layer_pre_activations(h, encoded, weights[l], biases[l], module, NET, l, PRECISION)
            if l == LAYERS - 1:
                derivatives = derivatives + (first_derivative(z, NET.output_activation, NET.w0),)
            else:
                h = next_inputs(z, NET.activation, NET.w0, KIND, PRECISION)
                inputs = inputs + (h,)
                if NET.activation > RELU:  # relu's is read off h
                    derivatives = derivatives + (first_derivative(z, NET.activation, NET.w0),)
                else:
                    derivatives = derivatives + (0,)
    return inputs, derivatives


@triton.jit
def layer_backward(
    address,
    g,
    ge,
    h,
    derivatives,
    encoded,
    w,
    module,
    more,
    NET: tl.constexpr,
    LAYER: tl.constexpr,
    NEED_PARAMETERS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Go back through one layer: from the gradients g of its pre-activations to its share of the parameters' gradients,
    in front of `address`, to those of the pre-activations of the layer before and to the features' (ge).

    h, derivatives: its inputs and the derivatives of the activation that made them. Returns the address of the share,
    g of the layer before and ge.
    """
    ABOVE: tl.constexpr = NET.width if LAYER > 0 else 0
    BELOW: tl.constexpr = NET.features if LAYER == 0 else NET.features * ((NET.skips >> LAYER) & 1)
    OUT: tl.constexpr = NET.outputs if NET.layers - 1 == LAYER else NET.width
    OUT_PAD: tl.constexpr = NET.outputs_pad if NET.layers - 1 == LAYER else NET.width_pad
    BLOCK: tl.constexpr = NET.features_block
    d = rounded(g.to(w.dtype.element_ty), PRECISION)
    address -= (ABOVE + BELOW + 1) * OUT
    if NEED_PARAMETERS:
        if ABOVE > 0:
            add_weight_gradient(address, h, d, 0, ABOVE, more, OUT, NET.width_pad, OUT_PAD, False, PRECISION)
        if BELOW > 0:
            for k in tl.static_range(len(encoded)):
                add_weight_gradient(
                    address,
                    encoded[k],
                    d,
                    ABOVE + k * BLOCK,
                    BELOW - k * BLOCK,
                    more,
                    OUT,
                    BLOCK,
                    OUT_PAD,
                    True,
                    PRECISION,
                )
        o = tl.arange(0, OUT_PAD)
        add_to(address + (ABOVE + BELOW) * OUT + o, tl.sum(g, 0), o < OUT, more)
    if BELOW > 0:
        sums = ()
        for k in tl.static_range(len(encoded)):
            first: tl.constexpr = ABOVE + k * BLOCK
            part = matrix(w, module, first, BELOW - k * BLOCK, ABOVE + BELOW, OUT, BLOCK, OUT_PAD, PRECISION)
            if NET.layers - 1 == LAYER and w.dtype.element_ty != tl.float32:  # nothing else rounds these gradients
                sums = sums + (input_product(g, tl.trans(part), ge[k], PRECISION),)
            else:
                sums = sums + (tl.dot(d, tl.trans(part), ge[k], input_precision=PRECISION),)
        ge = sums
    if LAYER > 0:
        above = matrix(w, module, 0, ABOVE, ABOVE + BELOW, OUT, NET.width_pad, OUT_PAD, PRECISION)
        g = tl.dot(d, tl.trans(above), input_precision=PRECISION)
        if NET.activation == RELU:
            g = tl.where(h > 0, g, 0.0)
        if NET.activation > RELU:
            g = g * derivatives
    return address, g, ge


@triton.jit(do_not_specialize=["modules", "tiles_per_chunk"])
def fused_backward(
    x,
    grad_y,
    grad_x,
    sums,
    offsets,
    starts,
    chunks,
    table,
    weights,
    biases,
    modules,
    tiles_per_chunk,
    NET: tl.constexpr,
    NEED_PARAMETERS: tl.constexpr,
    ROWS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store the gradients of <grad_y [N, outputs], f(x)>: grad_x [N, coordinates], and a chunk's sums [parameters],
    layer after layer, weights before biases. chunks [modules + 1]: the first chunk of each module.
    """
    kind: tl.constexpr = weights[NET.layers - 1].dtype.element_ty
    LAYERS: tl.constexpr = NET.layers
    OUT: tl.constexpr = NET.outputs
    BLOCK: tl.constexpr = NET.features_block
    wide = tl.zeros((), tl.int64)  # turns a loop's variable into an offset beyond 2^31
    for chunk in range(tl.program_id(0), tl.load(chunks + modules), tl.num_programs(0)):
        module = module_of(chunks, chunk, modules)
        first = (chunk - tl.load(chunks + module)) * tiles_per_chunk
        tiles = tl.load(starts + module + 1) - tl.load(starts + module)
        share = sums + (wide + chunk) * NET.parameters
        end = tl.load(offsets + module + 1)
        for tile in range(first, tl.minimum(first + tiles_per_chunk, tiles)):
            more = wide + tile > first
            begin = tl.load(offsets + module) + (wide + tile) * ROWS
            rows = tl.arange(0, ROWS)  # in the tile, 32 bits wide
            live = rows < tl.minimum(end - begin, ROWS).to(tl.int32)
            points = x + begin * NET.coordinates
            encoded = encode_in_blocks(points, rows, live, table, NET, kind, PRECISION)
            inputs, derivatives = forward_again(
                encoded, weights, biases, module, NET, NET.output_activation != NONE, kind, PRECISION
            )
            n = tl.arange(0, NET.outputs_pad)
            mask = live[:, None] & (n < OUT)[None, :]
            g = tl.load(grad_y + begin * OUT + rows[:, None] * OUT + n[None, :], mask=mask, other=0.0).to(tl.float32)
            if NET.output_activation != NONE:
                g = tl.where(mask, g * derivatives[LAYERS], 0.0)
            ge = ()
            for _ in tl.static_range(len(encoded)):
                ge = ge + (tl.zeros((ROWS, BLOCK), tl.float32),)
            address = share + NET.parameters
            for back in tl.static_range(LAYERS):
                if (
                    kind != tl.float32
                    and NEED_PARAMETERS
                    and (back == LAYERS - 1 or (NET.skips >> (LAYERS - 1 - back)) & 1)
                ):
                    encoded = encode_in_blocks(points, rows, live, table, NET, kind, PRECISION)  # as in `fused_forward`
                address, g, ge = layer_backward(
                    address,
                    g,
                    ge,
                    inputs[LAYERS - 1 - back],
                    derivatives[LAYERS - 1 - back],
                    encoded,
                    weights[LAYERS - 1 - back],
                    module,
                    more,
                    NET,
                    LAYERS - 1 - back,
                    NEED_PARAMETERS,
                    PRECISION,
                )
            encode_backward(points, grad_x + begin * NET.coordinates, ge, rows, live, table, NET, kind)
            tl.debug_barrier()  # the next tile's sums are read by other threads than those that wrote them


@triton.jit
def encode_backward(x, grad_x, ge, rows, live, table, NET: tl.constexpr, KIND: tl.constexpr):
    """Store grad_x [.., coordinates]: the gradients ge of the features, in blocks, through the encoding."""
    COORDINATES_PAD: tl.constexpr = NET.coordinates_pad
    i = tl.arange(0, COORDINATES_PAD)
    total = tl.zeros((rows.shape[0], COORDINATES_PAD), tl.float32)
    for k in tl.static_range(len(ge)):
        c = k * NET.features_block + tl.arange(0, NET.features_block)
        exists = c < NET.features
        dim = tl.load(table + c, mask=exists, other=0.0).to(tl.int32)
        frequency = tl.load(table + NET.features + c, mask=exists, other=0.0)[None, :]
        half = tl.load(table + 2 * NET.features + c, mask=exists, other=0.0)[None, :]
        mask = live[:, None] & exists[None, :]
        v = tl.load(x + rows[:, None] * NET.coordinates + dim[None, :], mask=mask, other=0.0).to(tl.float32)
        g = tl.where(mask, ge[k] * feature_derivative(v, frequency, half, KIND), 0.0)
        pick = tl.where((dim[:, None] == i[None, :]) & exists[:, None], 1.0, 0.0)
        total = tl.dot(g, pick, total, input_precision="ieee")
    to = grad_x + rows[:, None] * NET.coordinates + i[None, :]
    tl.store(to, total.to(grad_x.dtype.element_ty), mask=live[:, None] & (i < NET.coordinates)[None, :])
