"""Methods whose loss each step weights anew: soft mining, and even draws weighted by their errors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.learn.methods import AdaptConfig, Mod, ModEven
from mclnf_fast.learn.params import Params, split_pair
from mclnf_fast.tasks.coords import CoordTask

SMALLEST = torch.finfo(torch.float16).eps
RENEWED = 0.1  # share of the chains that begin afresh at random, and of those with the smallest loss
NOISE = 2e-2  # of the side of the grid
WARM = 64  # steps over which the exponent of the correction rises


def outputs(params: Params, x: Tensor, task: CoordTask) -> Tensor:
    """Return the field at x [S, k, d]: [S, k, C]."""
    weights, biases = split_pair(params)
    offsets = torch.arange(len(x) + 1) * x.shape[1]
    y = ops.bank_mlp(x.flatten(0, 1), offsets, weights, biases, task.spec, task.backend)
    return y.reshape(*x.shape[:2], -1)


class SoftMining(Mod):
    """Soft mining (Kheradmand et al., CVPR 2024, arXiv 2312.00075): a chain per sample of the batch, by Langevin
    Monte Carlo on the error, corrected for its density.

        u <- u + a grad log |error|(u) + b noise                        on the unit square, u rounded to the next sample
        loss = mean of error^2 / |error|^r,  r rising to alpha          the density held fixed

    A tenth of the chains is drawn at random in every step; those that leave the square and the tenth with the smallest
    loss are drawn where the signal's own differences are large. The correction lies between 0.2 and its mean plus one
    standard deviation, as in the authors' code, whose gradient is that of the batch's mean (their a = 20 is 20 / batch
    here). The derivative along x comes with the step's own backward.
    """

    def __init__(
        self,
        tasks: list[CoordTask],
        init: Params,
        config: AdaptConfig,
        seed: int,
        box: tuple[int, ...],
        alpha: float,
        a: float,
    ) -> None:
        super().__init__(tasks, init, config, seed)
        self.box, self.alpha, self.a = torch.tensor(box), alpha, a
        task = tasks[0]
        grid = task.y.reshape(task.modules, *box, -1)
        steps = torch.gradient(grid, dim=list(range(1, len(box) + 1)))
        edges = sum(s.square().sum(-1) for s in steps).sqrt().reshape(task.modules, -1) + 1e-12
        self.edges = (edges / edges.sum(1, keepdim=True)).cumsum(1)
        self.side = task.x.amax(0) - task.x.amin(0)

    def begin(self, k: int) -> None:
        super().begin(k)
        self.places: Tensor | None = None

    def gradients(self, k: int, step: int, generator: torch.Generator) -> Sequence[Tensor]:
        task, batch = self.tasks[k], self.config.batch
        assert isinstance(task, CoordTask)
        if self.places is None:
            self.places = torch.rand(task.modules, batch, len(self.box), generator=generator)
        else:
            self.places = self.moved(self.places, generator)
        cells = (self.places * (self.box - 1)).round().long()
        ids = cells[..., 0]
        for axis in range(1, len(self.box)):
            ids = ids * self.box[axis] + cells[..., axis]
        x, y = task.take(ids)
        x.requires_grad_()
        error = outputs(self.params, x, task) - y
        plain = error.square().mean(-1)
        exponent = min(step / WARM, self.alpha)
        correction = error.detach().abs().mean(-1).clamp(min=SMALLEST).pow(-exponent)
        most = correction.mean(1, keepdim=True) + correction.std(1, keepdim=True)
        losses = plain * torch.minimum(correction, most).clamp(min=0.2)
        *gradients, by_place = torch.autograd.grad(losses.mean(1).sum(), (*self.params, x))
        self.losses = plain.detach().mean(1)
        # grad log |error| is half of that of its square.
        self.last_loss = losses.detach()
        self.uphill = 0.5 * batch * by_place * self.side / (self.last_loss[..., None] + 1e-12)
        return tuple(gradients)

    def moved(self, places: Tensor, generator: torch.Generator) -> Tensor:
        """Return the chains [S, batch, d] after a step."""
        noise = torch.randn(places.shape, generator=generator)
        places = places + self.a * self.uphill + NOISE * noise
        count = max(1, int(RENEWED * places.shape[1]))
        low = self.last_loss.topk(count, dim=1, largest=False).values[:, -1:]
        lost = (places < 0).any(-1) | (places > 1).any(-1) | (self.last_loss <= low)
        draws = torch.rand(places.shape[:2], generator=generator)
        ids = torch.searchsorted(self.edges, draws).clamp_(max=self.edges.shape[1] - 1)
        axes = []
        for size in reversed(self.box.tolist()):
            axes.append((ids % size).float() / max(1, size - 1))
            ids = ids // size
        places = torch.where(lost[..., None], torch.stack(axes[::-1], -1), places)
        places[:, -count:] = torch.rand(places[:, -count:].shape, generator=generator)
        return places.clamp_(0, 1)


class EvenWeighted(ModEven):
    """Even draws whose squared errors count in proportion to |error|^power, the weights of a batch of mean 1."""

    def __init__(self, tasks: list[CoordTask], init: Params, config: AdaptConfig, seed: int, power: float) -> None:
        super().__init__(tasks, init, config, seed)
        self.power = power

    def gradients(self, k: int, step: int, generator: torch.Generator) -> Sequence[Tensor]:
        task = self.tasks[k]
        assert isinstance(task, CoordTask)
        x, y = task.take(self.sampler.draw(self.config.batch, step, generator)[0])
        squares = (outputs(self.params, x, task) - y).square().mean(-1)
        weights = squares.detach().pow(self.power / 2) + 1e-12
        return self.gradient((squares * weights / weights.mean(1, keepdim=True)).mean(1))
