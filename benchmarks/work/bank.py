"""Forward, forward with backward, and the squared error with its gradients, of a bank over points grouped by module.

Shapes: modules, points (in all), width, hidden, octaves (0: no encoding), in_dim and out_dim (3 and 4), w0 (a sine
network's; without it relu), dtype (`tf32`: float32, multiplied as tf32), shares
(`uniform`, or `zipf`: module m has a share proportional to 1 / (m + 1)), bias (false: biases of zero, for a peer that
has none; the weights' gradients are then an output of their own).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf
from benchmarks.contender import Contender, Outputs
from benchmarks.correctness import joined, relative_error
from benchmarks.rates import DTYPES
from benchmarks.work import Work
from mclnf_fast.fields import initial_parameters
from mclnf_fast.ops.bank_mlp import reference

LOW = (torch.bfloat16, torch.float16)
IN_DIM, OUT_DIM = 3, 4


def counts_of(points: int, modules: int, shares: str) -> list[int]:
    """Return points of each module: all equal, or falling as 1 / (m + 1), rounded so that they add up to `points`."""
    weight = [1.0 / (m + 1) if shares == "zipf" else 1.0 for m in range(modules)]
    borders = [round(points * s / sum(weight)) for s in itertools.accumulate(weight, initial=0.0)]
    return [b - a for a, b in itertools.pairwise(borders)]


class Bank(Work):
    """x [N, in_dim] in [-1, 1], offsets [M + 1] (borders: the same on the host), weights [M, in, out], biases [M, out],
    grad_y [N, out_dim] (of the squared error the target), a Frequency encoding.

    Every module has parameters of its own, so that a module taken for another is seen.
    """

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        self.op, self.shapes, self.device = op, shapes, device
        dtype = shapes.get("dtype", "float32")
        self.dtype = DTYPES[dtype]
        if device != "cpu" or dtype == "tf32":
            self.tf32 = dtype == "tf32"
        self.biased = bool(shapes.get("bias", True))
        self.modules, self.points = int(shapes["modules"]), int(shapes["points"])
        octaves, sine = int(shapes["octaves"]), "w0" in shapes
        self.spec = mf.FieldSpec(
            int(shapes.get("in_dim", IN_DIM)),
            int(shapes.get("out_dim", OUT_DIM)),
            width=int(shapes["width"]),
            hidden_layers=int(shapes["hidden"]),
            activation="sine" if sine else "relu",
            w0=float(shapes["w0"]) if sine else 30.0,
            encoding=mf.Frequency(octaves) if octaves else mf.Identity(),
        )
        generator = torch.Generator().manual_seed(0)
        self.counts = counts_of(self.points, self.modules, shapes.get("shares", "uniform"))
        self.equal = len(set(self.counts)) == 1
        self.borders = [0, *itertools.accumulate(self.counts)]
        self.offsets = torch.tensor(self.borders, device=device)

        def put(t: Tensor) -> Tensor:
            return t.to(device=device, dtype=self.dtype)

        self.x = put(torch.rand(self.points, self.spec.in_dim, generator=generator) * 2 - 1)
        self.grad_y = put(torch.randn(self.points, self.spec.out_dim, generator=generator))
        stacked = initial_parameters(self.spec, self.modules, generator=generator)
        layers = len(self.spec.layer_shapes)
        self.weights = [put(t) for t in stacked[:layers]]
        scale = 0.1 if self.biased else 0.0
        self.biases = [put(torch.randn(t.shape, generator=generator) * scale) for t in stacked[layers:]]
        weights = sum(rows * columns for rows, columns in self.spec.layer_shapes)
        first = self.spec.layer_shapes[0][0] * self.spec.layer_shapes[0][1]
        # A multiply-add counts as two. Backward: both matrix products of each layer but the first one's input
        # gradient, which nobody asks for.
        per_point = weights if op == "forward" else 3 * weights - first
        self.flops = 2.0 * per_point * self.points
        # Octave 10 turns an angle's rounding of 6e-8 into 1e-4; and where that moves a ReLU's input across 0, the point
        # has another gradient: one unit in 1e5 does, which is 3e-3 of the scale.
        self.tolerance = {"": 2e-4 if op == "forward" else 1e-2}

    def leaves(self) -> list[Tensor]:
        """Return parameters that ask for gradients: weights, then biases."""
        return [t.detach().requires_grad_() for t in (*self.weights, *self.biases)]

    def wide(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors that are no weights of hidden layers as callers of our ops have them: never of a half type."""
        return [t.float() if self.dtype in LOW else t for t in tensors]

    def ours(self) -> list[Contender]:
        return [self.own("ours")]

    def own(self, name: str, backend: str = "auto") -> Contender:
        """Return the op as a caller of `mf.ops.bank_mlp` meets it."""
        layers = len(self.weights)
        x, grad_y, first, *biases = self.wide((self.x, self.grad_y, self.weights[0], *self.biases))
        weights = [first, *self.weights[1:]]
        if self.op == "forward":

            def forward() -> Tensor:
                with torch.no_grad():
                    return mf.ops.bank_mlp(x, self.offsets, weights, biases, self.spec, backend)

            return Contender(name, forward, lambda y: {"y": y})
        leaves = [t.detach().requires_grad_() for t in (*weights, *biases)]

        def gradients() -> tuple[Tensor, ...]:
            y = mf.ops.bank_mlp(x, self.offsets, leaves[:layers], leaves[layers:], self.spec, backend)
            return torch.autograd.grad(y, leaves, grad_y)

        def fit() -> tuple[Tensor, ...]:
            loss = mf.ops.bank_mse(
                x, self.offsets, leaves[:layers], leaves[layers:], grad_y, self.spec, backend=backend
            )
            return torch.autograd.grad(loss.sum(), leaves)

        run = fit if self.op == "squared_error" else gradients
        return Contender(name, run, self.named)

    def named(self, grads: Sequence[Tensor]) -> Outputs:
        """Return gradients, weights' then biases', as outputs."""
        found = joined("grads", list(grads))
        if not self.biased:
            found |= joined("weights", list(grads[: len(self.weights)]))
        return found

    def truth(self) -> Outputs:
        layers, pieces = len(self.weights), []
        grads: list[list[Tensor]] = []
        for first, last in self.groups():
            rows = slice(self.borders[first], self.borders[last])
            x, grad_y = (t[rows].double().unflatten(0, (last - first, -1)) for t in (self.x, self.grad_y))
            own = [t[first:last].double() for t in (*self.weights, *self.biases)]
            own = [t.requires_grad_(self.op != "forward") for t in own]
            y = reference.mlp(x, own[:layers], own[layers:], self.spec)
            if self.op == "forward":
                pieces.append(y.flatten(0, 1))
            else:
                if self.op == "squared_error":
                    found = torch.autograd.grad((y - grad_y).square().mean((1, 2)).sum(), own)
                else:
                    found = torch.autograd.grad(y, own, grad_y)
                grads.append(list(found))
        if self.op == "forward":
            return {"y": torch.cat(pieces)}
        return self.named([torch.cat(parts) for parts in zip(*grads)])

    def groups(self) -> list[tuple[int, int]]:
        """Run of modules (first, one past the last) of equal counts, of 8192 points or 256 modules at most: what the
        truth takes at a time."""
        found: list[tuple[int, int]] = []
        for m, count in enumerate(self.counts):
            if found:
                first, last = found[-1]
                more = last - first + 1
                if count == self.counts[first] and more * count <= 8192 and more <= 256:
                    found[-1] = (first, last + 1)
                    continue
            found.append((m, m + 1))
        return found

    def verify(self) -> dict[str, float]:
        if self.dtype not in LOW and not self.tf32:
            return self.tolerance
        # Low precision: at most twice the error of PyTorch in the same dtype, encoding in float32.
        truth, found = self.truth(), self.prepared(self.yardstick()).values()
        if not self.biased and "grads" in found:
            layers = [w.shape[1] * w.shape[2] for w in self.weights]
            found["weights"] = found["grads"][:, : sum(layers)]
        bounds = {name: 2 * relative_error(value, truth[name]) for name, value in found.items()}
        if self.dtype in LOW:
            return bounds
        # tf32 on a device without it is float32.
        return {name: max(bound, self.bound(name)) for name, bound in bounds.items()}

    def bound(self, name: str) -> float:
        """Return the tolerance of an output in full precision."""
        return self.tolerance.get(name, self.tolerance.get("", 0.0))

    def yardstick(self) -> Contender:
        """Return the problem in plain PyTorch, which says how exact a dtype can be."""
        from benchmarks.peers import bmm

        return bmm.OPS[self.op](self)


WORK = Bank
