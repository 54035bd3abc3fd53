"""One outer gradient of MAML: every task is a module that takes inner steps from the shared initialization.

Shapes: those of the bank, `modules` being the tasks and `points` all support points; steps, inner steps; lr. Query
points are as many as support points. The loss of a task is the mean squared error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf
from benchmarks.contender import Contender, Outputs
from benchmarks.correctness import joined
from benchmarks.work.bank import Bank
from mclnf_fast.learn import MAML
from mclnf_fast.learn.sampled import SampledLoss, StepSamples
from mclnf_fast.ops.bank_fit import FitData

TASKS_AT_A_TIME = 8  # of the float64 truth, whose graph is large


class Maml(Bank):
    """weights [M, in, out], biases [M, out]: the one initialization, repeated. x, y, query_x, query_y [M, n, ...]."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        super().__init__(op, shapes, device)
        generator = torch.Generator().manual_seed(2)
        self.steps, self.lr = int(shapes["steps"]), float(shapes["lr"])
        in_dim, out_dim = self.spec.in_dim, self.spec.out_dim
        self.init = [t[:1].clone() for t in (*self.weights, *self.biases)]
        self.weights = [t[:1].repeat(self.modules, 1, 1) for t in self.weights]
        self.biases = [t[:1].repeat(self.modules, 1) for t in self.biases]
        self.query_x = torch.rand(self.points, in_dim, generator=generator).to(self.x) * 2 - 1
        phase = torch.rand(self.modules, 1, out_dim, generator=generator).to(self.x)

        def target(x: Tensor) -> Tensor:
            return torch.sin(3 * x.view(self.modules, -1, in_dim).sum(-1, keepdim=True) + 6 * phase)

        self.y, self.query_y = target(self.x), target(self.query_x)
        weights = sum(rows * columns for rows, columns in self.spec.layer_shapes)
        first = self.spec.layer_shapes[0][0] * self.spec.layer_shapes[0][1]
        # A step's gradient takes as many products as `forward_backward`. A Hessian product, forward over reverse: the
        # values, two for their tangents, the outputs' gradients and two for theirs, two for those of the weights; the
        # coordinates have neither tangents nor gradients.
        self.first_order_flops = 2.0 * self.points * (self.steps + 1) * (3 * weights - first)
        self.flops = self.first_order_flops + 2.0 * self.points * self.steps * (8 * weights - 5 * first)
        self.tolerance = {"": 1e-2}  # as the bank's gradients

    def tasks(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return support x, y and query x, y: [M, n, 3 or 4]."""
        shape = (self.modules, -1, self.spec.in_dim)
        return self.x.view(shape), self.y, self.query_x.view(shape), self.query_y

    def own_maml(self, name: str, first_order: bool, backend: str = "auto", at_once: bool = True) -> Contender:
        """`learn.MAML` as a user calls it; at_once: with a support loss that gives its samples, so that the inner loop
        is one call."""
        learner = MAML(self.init, self.lr, self.steps, first_order=first_order)
        support, query = self.losses(backend, at_once)

        def run() -> tuple[Tensor, ...]:
            return learner.outer_gradient(support, query, self.modules)[1]

        return Contender(name, run, lambda grads: joined("grads", grads), **self.order(first_order))

    def order(self, first: bool) -> dict[str, Any]:
        """What tells a contender of first order from one of second."""
        return {"part": "first order:", "flops": self.first_order_flops} if first else {}

    def losses(self, backend: str, at_once: bool) -> tuple[Any, Any]:
        """Return the support and the query loss, as `learn` takes them."""
        layers = len(self.weights)

        def loss(x: Tensor, y: Tensor) -> Any:
            flat = y.flatten(0, 1)

            def of(params: tuple[Tensor, ...], step: int) -> Tensor:
                weights, biases = params[:layers], params[layers:]
                return mf.ops.bank_mse(x, self.offsets, weights, biases, flat, self.spec, backend=backend)

            return of

        support, query = loss(self.x, self.y), loss(self.query_x, self.query_y)
        data = FitData(self.x, self.y.flatten(0, 1), self.offsets)
        known = SampledLoss(support, lambda steps: StepSamples(data, None), self.spec, backend)
        return known if at_once else support, query

    def mover(self, start: Sequence[Tensor]) -> Callable[[Sequence[Tensor]], Any]:
        """What a peer does with the outer gradients of its start, tensors of its own: here, where no step is taken,
        nothing."""
        return lambda grads: None

    def ours(self) -> list[Contender]:
        by_op = [self.own_maml("ours, op by op", False, at_once=False)] if self.device == "cpu" else []
        return [self.own_maml("ours", False), *by_op, self.own_maml("ours, first order", True)]

    def truth(self) -> Outputs:
        return joined("grads", self._outer(False)) | joined("first order:grads", self._outer(True))

    def _outer(self, first_order: bool) -> list[Tensor]:
        """Plain autograd in float64, a few tasks at a time."""
        from benchmarks.peers import plain

        freqs, layers = plain.frequencies(self.spec, self.device), len(self.weights)
        start = [t.double().requires_grad_() for t in self.init]
        total = [torch.zeros_like(t) for t in start]
        for k in range(0, self.modules, TASKS_AT_A_TIME):
            x, y, qx, qy = (t[k : k + TASKS_AT_A_TIME].double() for t in self.tasks())
            features, query = plain.encode(x, freqs), plain.encode(qx, freqs)
            theta = [t.expand(x.shape[0], *t.shape[1:]) for t in start]

            def loss(theta: list[Tensor], h: Tensor, y: Tensor) -> Tensor:
                return (plain.bmm_mlp(h, theta[:layers], theta[layers:], self.spec) - y).square().mean((1, 2)).sum()

            for _ in range(self.steps):
                grads = torch.autograd.grad(loss(theta, features, y), theta, create_graph=not first_order)
                theta = [t - self.lr * g for t, g in zip(theta, grads)]
            found = torch.autograd.grad(loss(theta, query, qy) / self.modules, start)
            total = [a + b for a, b in zip(total, found)]
        return total


WORK = Maml
