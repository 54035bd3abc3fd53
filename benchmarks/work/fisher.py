"""Fisher scores alone (`fisher_scores`), with gradients and the diagonal Fisher of the same sweep (`fisher_all`), and
with rays as samples (`fisher_rays`).

Shapes: those of the bank; ray_points, the points of a ray (`fisher_rays`); peer_points, the points that the peers that
form each sample's gradient do in a run, of module 0 (their time is scaled by points; `fisher_all` needs the whole
module).
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf
from benchmarks.contender import Contender, Outputs
from benchmarks.correctness import joined
from benchmarks.work.bank import Bank
from mclnf_fast.ops.fisher import reference

DAMPING = 1e-8


class Fisher(Bank):
    """A bank with grad_y [N, 4] and a given Fisher (weights [M, in, out], biases [M, out]) of about 1."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        super().__init__(op, shapes, device)
        generator = torch.Generator().manual_seed(1)
        drawn = [0.1 + torch.rand(t.shape, generator=generator).to(t) for t in (*self.weights, *self.biases)]
        self.given = (drawn[: len(self.weights)], drawn[len(self.weights) :])
        self.ray_points = int(shapes.get("ray_points", 1))
        self.samples = self.points // self.ray_points
        self.sums = op == "fisher_all"
        self.peer_points = self.counts[0] if self.sums else min(int(shapes["peer_points"]), self.counts[0])
        self.ids = None if self.ray_points == 1 else torch.arange(self.points, device=device) // self.ray_points
        weights = sum(rows * columns for rows, columns in self.spec.layer_shapes)
        first = self.spec.layer_shapes[0][0] * self.spec.layer_shapes[0][1]
        # Points: forward, the inputs' gradients, d^2 F^-1; and with sums the gradients and (d^2)^T a^2 too. Rays: the
        # gradients in place of d^2 F^-1.
        products = 5 if self.sums else 3
        self.flops = 2.0 * (products * weights - first) * self.points
        self.tolerance = {"": 1e-2}  # as the bank's gradients

    def own_fisher(self, name: str, backend: str = "auto") -> Contender:
        """Return the op as a caller of `mf.ops.fisher_scores` meets it."""

        def run() -> mf.ops.FisherResult:
            return mf.ops.fisher_scores(
                self.x,
                self.offsets,
                self.weights,
                self.biases,
                self.grad_y,
                self.given,
                self.spec,
                self.ids,
                DAMPING,
                grads=self.sums,
                backend=backend,
                num_samples=self.samples,
            )

        return Contender(name, run, self.outputs)

    def outputs(self, found: Any) -> Outputs:
        """Return a FisherResult as named outputs."""
        named = {"scores": found.scores}
        if self.sums:
            named |= joined("grads", [*found.grads[0], *found.grads[1]])
            named |= joined("fisher", [*found.fisher[0], *found.fisher[1]])
        return named

    def ours(self) -> list[Contender]:
        mine = [self.own_fisher("ours")]
        if self.sums:  # what the bar is about: the whole sweep against a plain forward and backward
            bank = self.plain()
            plain = bank.own("ours, forward + backward")
            plain.part, plain.flops = "plain:", bank.flops
            mine.append(plain)
        return mine

    def truth(self) -> Outputs:
        scores: list[Tensor] = []
        grads: list[Tensor] = []
        fisher: list[Tensor] = []
        layers = len(self.weights)
        everything = [*self.weights, *self.biases]
        for m, (begin, end) in enumerate(itertools.pairwise(self.borders)):
            own = [t[m].double() for t in everything]
            given = [t[m].double() for t in (*self.given[0], *self.given[1])]
            found = reference.layers_of(
                self.x[begin:end].double(), own[:layers], own[layers:], self.grad_y[begin:end].double(), self.spec
            )
            score = self.x.new_zeros((end - begin) // self.ray_points, dtype=torch.float64)
            total, square = [], []
            for (a, d), f, fb in zip(found, given[:layers], given[layers:]):
                a = torch.cat((a, a.new_ones(a.shape[0], 1)), 1)
                information = 1 / (torch.cat((f, fb[None])) + DAMPING)
                if self.ray_points == 1:
                    score += ((d.square() @ information.T) * a.square()).sum(1)
                else:
                    rays = a.unflatten(0, (-1, self.ray_points)), d.unflatten(0, (-1, self.ray_points))
                    for k in range(0, score.shape[0], 64):
                        g = rays[0][k : k + 64].transpose(1, 2) @ rays[1][k : k + 64]
                        score[k : k + 64] += (g.square() * information).sum((1, 2))
                total.append(a.T @ d)
                square.append(a.square().T @ d.square() / a.shape[0])
            scores.append(score)
            for kept, found_sums in ((grads, total), (fisher, square)):
                kept.append(
                    torch.cat([s[:-1].reshape(-1) for s in found_sums] + [s[-1].reshape(-1) for s in found_sums])
                )
        named = {"scores": torch.cat(scores)}
        if self.sums:
            named |= {"grads": torch.stack(grads), "fisher": torch.stack(fisher), "plain:grads": torch.stack(grads)}
        return named

    def yardstick(self) -> Contender:
        from benchmarks.peers import formula

        return formula.OPS[self.op](self)

    def verify(self) -> dict[str, float]:
        bounds = super().verify()
        if self.sums and bounds is not self.tolerance:
            bounds |= {"plain:" + key: bound for key, bound in self.plain().verify().items()}
        return bounds

    def plain(self) -> Bank:
        """Return the forward and backward that the sweep is held against."""
        return Bank("forward_backward", self.shapes, self.device)


WORK = Fisher
