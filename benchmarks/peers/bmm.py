"""Stacked parameters and a batched matrix product a layer; modules of unequal counts are padded to the longest."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.contender import Contender, Unsupported
from benchmarks.correctness import joined
from benchmarks.peers import plain
from benchmarks.work.bank import OUT_DIM, Bank
from benchmarks.work.fitting import LR as FIT_LR
from benchmarks.work.fitting import Fit
from benchmarks.work.maml import Maml
from benchmarks.work.nerf import LR, Nerf, sample, shade, stepper
from benchmarks.work.steps import TrainStep

Layers = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor]


def missing() -> str | None:
    """It needs torch alone."""
    return None


def evaluator(work: Bank, wrap: Callable[[Layers], Layers] = lambda f: f) -> Layers:
    """(x [N, 3], weights, biases) -> [N, 4]; `wrap` is put round the part that torch.compile takes."""
    freqs = plain.frequencies(work.spec, work.device)

    @wrap
    def inner(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        return plain.bmm_mlp(plain.encode(x, freqs), weights, biases)

    if work.equal:
        return lambda x, weights, biases: inner(x.view(work.modules, -1, x.shape[1]), weights, biases).flatten(0, 1)
    rows, places = plain.padding(work.counts, work.device)

    def padded(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        return inner(x[rows], weights, biases).view(-1, OUT_DIM)[places]

    return padded


def forward_with(work: Bank, evaluate: Layers) -> Contender:
    """Return the forward by a function of (x, weights, biases)."""

    def run() -> Tensor:
        with torch.no_grad():
            return evaluate(work.x, work.weights, work.biases)

    return Contender("bmm", run, lambda y: {"y": y})


def gradients_with(work: Bank, evaluate: Layers) -> Contender:
    """Forward and backward in the parameters by autograd."""
    leaves, layers = work.leaves(), len(work.weights)

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(evaluate(work.x, leaves[:layers], leaves[layers:]), leaves, work.grad_y)

    return Contender("bmm", run, lambda grads: joined("grads", grads))


def errors_with(work: Bank, evaluate: Layers) -> Contender:
    """Return the mean squared error of every module and its gradients by autograd."""
    leaves, layers = work.leaves(), len(work.weights)
    if not work.equal:
        raise Unsupported("written for equal counts")
    target = work.grad_y.view(work.modules, -1, OUT_DIM)

    def run() -> tuple[Tensor, ...]:
        y = evaluate(work.x, leaves[:layers], leaves[layers:]).view_as(target)
        return torch.autograd.grad((y - target).square().mean((1, 2)).sum(), leaves)

    return Contender("bmm", run, lambda grads: joined("grads", grads))


def forward(work: Bank) -> Contender:
    """Return the forward."""
    return forward_with(work, evaluator(work))


def forward_backward(work: Bank) -> Contender:
    """Forward and backward."""
    return gradients_with(work, evaluator(work))


def squared_error(work: Bank) -> Contender:
    """Squared error and its gradients."""
    return errors_with(work, evaluator(work))


def train_step(work: TrainStep) -> Contender:
    """Return a step by autograd and torch's fused Adam."""
    evaluate, layers = evaluator(work), len(work.weights)

    def loss(leaves: Sequence[Tensor]) -> Tensor:
        y = evaluate(work.x, leaves[:layers], leaves[layers:]).view_as(work.target)
        return (y - work.target).square().mean((1, 2)).sum()

    return work.of_leaves("bmm", loss)


def maml(work: Maml) -> Contender:
    """Return the inner loop unrolled by autograd, create_graph=True."""
    freqs, layers = plain.frequencies(work.spec, work.device), len(work.weights)
    start = [t.detach().clone().requires_grad_() for t in work.init]
    move = work.mover(start)
    x, y, query_x, query_y = work.tasks()

    def loss(theta: list[Tensor], h: Tensor, y: Tensor) -> Tensor:
        return (plain.bmm_mlp(h, theta[:layers], theta[layers:], work.spec) - y).square().mean((1, 2)).sum()

    def run() -> tuple[Tensor, ...]:
        features, query = plain.encode(x, freqs), plain.encode(query_x, freqs)
        theta = [t.repeat(work.modules, *([1] * (t.dim() - 1))) for t in start]
        for _ in range(work.steps):
            grads = torch.autograd.grad(loss(theta, features, y), theta, create_graph=True)
            theta = [t - work.lr * g for t, g in zip(theta, grads)]
        found = torch.autograd.grad(loss(theta, query, query_y) / work.modules, start)
        move(found)
        return found

    return Contender("bmm", run, lambda grads: joined("grads", grads))


def nerf_step(work: Nerf) -> Contender:
    """Return a training step as an experienced PyTorch user writes it: dense samples, stacked bmm, cumsum, fused
    Adam."""
    evaluate, layers = evaluator(work), len(work.weights)
    leaves = [t.clone().requires_grad_() for t in (*work.weights, *work.biases)]

    def raw(x: Tensor) -> Tensor:
        return evaluate(x, leaves[:layers], leaves[layers:])

    return eager_step("bmm", work, raw, leaves)


def eager_step(
    name: str,
    work: Nerf,
    field: Callable[[Tensor], Tensor],
    leaves: Sequence[Tensor],
    arrange: Callable[[Sequence[Tensor]], Sequence[Tensor]] = lambda grads: grads,
) -> Contender:
    """March, field, compositing, backward and Adam in PyTorch.

    field: points [N, 3] -> [N, 4]. arrange: gradients of `leaves` -> stacked as ours, for the check.
    """
    optimizer = torch.optim.Adam(leaves, lr=LR, fused=True)
    origins, directions = work.local_rays()

    def gradients() -> tuple[Tensor, Sequence[Tensor]]:
        x, lengths = sample(origins, directions, work.samples)
        image = shade(field(x.view(-1, 3)).view(work.rays, work.samples, 4), lengths)
        loss = (image - work.target).square().mean()
        return loss, torch.autograd.grad(loss, leaves)

    def step(grads: Sequence[Tensor]) -> None:
        for leaf, grad in zip(leaves, grads):
            leaf.grad = grad
        optimizer.step()

    return stepper(name, gradients, step, arrange)


def fit_loop(work: Fit) -> Contender:
    """Return a training loop as an experienced PyTorch user writes it: stacked bmm, randint, fused Adam."""
    return fit_with("bmm", work, lambda f: f)


def fit_with(name: str, work: Fit, wrap: Callable[[Layers], Layers]) -> Contender:
    """Return the loop; `wrap` is put round the network."""
    layers, rows = len(work.weights), torch.arange(work.modules, device=work.device)[:, None]
    x, target = work.coordinates, work.target
    freqs = plain.frequencies(work.spec, work.device)

    @wrap
    def field(x: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        return plain.bmm_mlp(plain.encode(x, freqs), weights, biases, work.spec)

    def step(leaves: list[Tensor], optimizer: torch.optim.Adam, ids: Tensor) -> None:
        y = field(x[ids], leaves[:layers], leaves[layers:])
        optimizer.zero_grad()
        (y - target[rows, ids]).square().mean((1, 2)).sum().backward()
        optimizer.step()

    def draw(k: int) -> Tensor:
        return torch.randint(work.samples, (work.modules, work.batch), device=work.device)

    return work.looped(name, lambda leaves: torch.optim.Adam(leaves, lr=FIT_LR, fused=True), step, draw)


OPS: dict[str, Callable[..., Contender]] = {
    "forward": forward,
    "forward_backward": forward_backward,
    "squared_error": squared_error,
    "train_step": train_step,
    "maml": maml,
    "meta": maml,
    "nerf_step": nerf_step,
    "fit_loop": fit_loop,
}
