"""A kind of task from outside that has no `FieldSpec`, no encoding and no Fisher scores: lines through noisy points."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import Batch


class LineTask:
    """S lines y = w x + b to find from their points, a `learn.Task`: x and y [S, n], params (w [S, 1], b [S, 1])."""

    def __init__(self, name: str, x: Tensor, y: Tensor) -> None:
        self.name, self.x, self.y = name, x, y

    @property
    def modules(self) -> int:
        return len(self.x)

    @property
    def samples(self) -> int:
        return self.x.shape[1]

    def draw(self, count: int, generator: torch.Generator, modules: Tensor | None = None) -> Batch:
        rows = torch.arange(self.modules) if modules is None else modules
        ids = torch.randint(self.samples, (len(rows), count), generator=generator)
        return self.x[rows[:, None], ids], self.y[rows[:, None], ids]

    def take(self, ids: Tensor) -> Batch:
        return self.x.gather(1, ids), self.y.gather(1, ids)

    def loss(self, params: Params, batch: Batch, weights: Tensor | None = None, seed: int = 0) -> Tensor:
        (w, b), (x, y) = params, batch
        squares = (w * x + b - y).square()
        return (squares if weights is None else squares * weights).mean(1)

    def evaluate(self, params: Params) -> Tensor:
        return -self.loss(params, (self.x, self.y)).detach().double()

    @staticmethod
    def joined(tasks: Sequence[LineTask]) -> LineTask:
        return LineTask("all", torch.cat([t.x for t in tasks], 1), torch.cat([t.y for t in tasks], 1))
