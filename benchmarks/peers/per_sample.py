"""What the peers share that form every sample's gradient and then square it: they have no other way to a score."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter

import torch
from torch import Tensor

from benchmarks import device
from benchmarks.contender import Contender
from benchmarks.correctness import joined
from benchmarks.work.fisher import DAMPING, Fisher

CHUNKS = (32, 128, 512)  # samples at a time; the fastest is taken
GPU_CHUNKS = (512, 2048, 8192)

Gradients = Callable[[Tensor, Tensor], list[Tensor]]
"""(x [n, 3], grad_y [n, 4]) of module 0 -> gradients of the n points' samples as torch.nn.Linear has them: weights
[S, out, in], then biases [S, out]."""


def inverse(work: Fisher) -> list[Tensor]:
    """1 / (F + damping) of module 0, flat, in the order of torch.nn.Linear."""
    return [1 / (f[0].t().flatten() + DAMPING) for f in work.given[0]] + [1 / (f[0] + DAMPING) for f in work.given[1]]


def contender(name: str, work: Fisher, gradients: Gradients) -> Contender:
    """Scores, and where the problem asks for them sums, of `work.peer_points` points of module 0."""
    points = work.peer_points

    def sweep(chunk: int, count: int) -> dict[str, Tensor]:
        step = chunk * work.ray_points
        information = inverse(work)
        scores: list[Tensor] = []
        total: list[Tensor] = []
        square: list[Tensor] = []
        for k in range(0, count, step):
            rows = slice(k, min(k + step, count))
            found = [g.flatten(1) for g in gradients(work.x[rows], work.grad_y[rows])]
            squares = [g.square() for g in found]
            scores.append(torch.stack([s @ i for s, i in zip(squares, information)]).sum(0))
            if work.sums:
                sums = [[g.sum(0) for g in tensors] for tensors in (found, squares)]
                total = [a + b for a, b in zip(total, sums[0])] or sums[0]
                square = [a + b for a, b in zip(square, sums[1])] or sums[1]
        result = {"scores": torch.cat(scores)}
        if work.sums:
            result |= {"grads": turned(total), "fisher": turned([s / (count // work.ray_points) for s in square])}
        return result

    def turned(sums: list[Tensor]) -> Tensor:
        """Flat sums of one module -> [1, all], laid out as ours."""
        weights = [s.view(w.shape[2], w.shape[1]).t()[None] for s, w in zip(sums, work.weights)]
        return joined("", [*weights, *(s[None] for s in sums[len(weights) :])])[""]

    chunks = GPU_CHUNKS if work.device == "cuda" else CHUNKS
    best, chunk = float("inf"), chunks[0]
    for candidate in chunks:
        count = min(candidate * work.ray_points, points)
        sweep(candidate, count)
        device.synchronize(work.device)
        begin = perf_counter()
        sweep(candidate, count)
        device.synchronize(work.device)
        took = (perf_counter() - begin) / count
        if took < best:
            best, chunk = took, candidate
    note = f"{points} of {work.points} points, {chunk} samples at a time"
    return Contender(name, lambda: sweep(chunk, points), share=points / work.points, note=note)
