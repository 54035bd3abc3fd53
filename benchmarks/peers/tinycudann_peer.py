"""tiny-cuda-nn: its fully fused MLP behind its frequency encoding, in float16, fused with it where its version can.

It serves one network a call, so a bank is a loop over modules; it is at its best with one module. It has no biases
(the cases set ours to zero) and knows the widths 16, 32, 64 and 128. Its parameters are one flat tensor: every layer's
matrix [out, in], row by row, the inputs of the first padded to a multiple of 16, and so the outputs of the last. What
stands in padded inputs (0 or 1, by its version) is multiplied by zero here.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.contender import Contender, Outputs, Unsupported
from benchmarks.correctness import joined
from benchmarks.peers import importable
from benchmarks.work.bank import IN_DIM, OUT_DIM, Bank

WIDTHS = (16, 32, 64, 128)
ALIGNED = 16


def missing() -> str | None:
    """Return whether it imports, which needs a GPU."""
    return importable("tinycudann")


def _padded(size: int) -> int:
    return -(-size // ALIGNED) * ALIGNED


def features(octaves: int, inputs: int = IN_DIM) -> list[int]:
    """Of each of its features in order, which of ours it is: it has all waves of a coordinate together, sine and cosine
    of an octave in turn; we have all coordinates of an octave together, sines before cosines."""
    return [
        (2 * octave + wave) * inputs + coordinate
        for coordinate in range(inputs)
        for octave in range(octaves)
        for wave in (0, 1)
    ]


def packed(weights: Sequence[Tensor], octaves: int) -> Tensor:
    """Return one module's weights [in, out], one per layer -> its flat parameters."""
    order = features(octaves)
    rows: list[Tensor] = []
    for k, w in enumerate(weights):
        w = w[order] if k == 0 else w
        outputs = _padded(w.shape[1]) if k + 1 == len(weights) else w.shape[1]
        matrix = w.new_zeros(outputs, _padded(w.shape[0]))
        matrix[: w.shape[1], : w.shape[0]] = w.t()
        rows.append(matrix.flatten())
    return torch.cat(rows)


def unpacked(flat: Tensor, shapes: Sequence[tuple[int, int]], octaves: int) -> list[Tensor]:
    """Return the inverse of `packed`: flat parameters or their gradients -> [in, out] of every layer."""
    order = torch.tensor(features(octaves), device=flat.device)
    sizes = [(_padded(out) if k + 1 == len(shapes) else out, _padded(rows)) for k, (rows, out) in enumerate(shapes)]
    found = []
    for k, (part, size, (rows, out)) in enumerate(zip(flat.split([a * b for a, b in sizes]), sizes, shapes)):
        w = part.view(size)[:out, :rows].t()
        if k == 0:
            w = torch.empty_like(w).index_copy_(0, order, w)
        found.append(w)
    return found


def _networks(work: Bank) -> list[Any]:
    import tinycudann as tcnn

    spec, octaves = work.spec, int(work.shapes["octaves"])
    if work.biased:
        raise Unsupported("it has no biases")
    if spec.width not in WIDTHS:
        raise Unsupported(f"its fully fused MLP has the widths {', '.join(map(str, WIDTHS))}, not {spec.width}")
    encoding = {"otype": "Frequency", "n_frequencies": octaves}
    network = {
        "otype": "FullyFusedMLP",
        "activation": "ReLU",
        "output_activation": "None",
        "n_neurons": spec.width,
        "n_hidden_layers": spec.hidden_layers,
    }
    nets = []
    for m in range(work.modules):
        net = tcnn.NetworkWithInputEncoding(IN_DIM, OUT_DIM, encoding, network)
        flat = packed([w[m].float() for w in work.weights], octaves)
        if net.params.numel() != flat.numel():
            raise Unsupported(f"it has {net.params.numel()} parameters where {flat.numel()} were expected")
        with torch.no_grad():
            net.params.copy_(flat)
        net.loss_scale = 1.0  # it is for the gradients of a mean; sums such as ours, scaled up, would leave float16
        if hasattr(tcnn, "supports_jit_fusion"):  # from 2.0 on: encoding and network in one kernel
            net.jit_fusion = tcnn.supports_jit_fusion()
        nets.append(net)
    return nets


NOTE = "in float16, and x in float32"


def forward(work: Bank) -> Contender:
    """Return one call per module."""
    nets, xs = _networks(work), [x.float() for x in work.x.split(work.counts)]

    def run() -> Tensor:
        with torch.no_grad():
            return torch.cat([net(x) for net, x in zip(nets, xs)]) if len(nets) > 1 else nets[0](xs[0])

    return Contender("tinycudann", run, lambda y: {"y": y}, note=NOTE)


def forward_backward(work: Bank) -> Contender:
    """Return one forward and one backward per module."""
    nets, octaves = _networks(work), int(work.shapes["octaves"])
    xs = [x.float() for x in work.x.split(work.counts)]
    gys = [g.half() for g in work.grad_y.split(work.counts)]
    shapes = [(w.shape[1], w.shape[2]) for w in work.weights]

    def run() -> list[Tensor]:
        grads = [torch.autograd.grad(net(x), net.params, gy) for net, x, gy in zip(nets, xs, gys)]
        return list(itertools.chain.from_iterable(grads))

    def outputs(grads: list[Tensor]) -> Outputs:
        rows = [unpacked(g, shapes, octaves) for g in grads]
        return joined("weights", [torch.stack(tensors) for tensors in zip(*rows)])

    return Contender("tinycudann", run, outputs, only=("weights",), note=NOTE)


OPS = {"forward": forward, "forward_backward": forward_backward}
