"""Selectors that look at all samples now and then and choose those of the steps to come: INT, EVOS, NINT, GradNCP."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

from mclnf_fast import ops
from mclnf_fast.learn.meta.gradncp import prune_scores
from mclnf_fast.learn.methods import AdaptConfig, Mod
from mclnf_fast.learn.params import Params, split_pair
from mclnf_fast.learn.sampling.even import EvenSampler
from mclnf_fast.ops.bank_fit import Draws
from mclnf_fast.tasks.coords import CoordTask

FORWARD, TRAIN = 1, 3  # matrix products per layer and sample: of an output, of an output with the gradients


class Selector:
    """Chooses the samples of the next steps; the base looks at all samples every `interval` steps.

    Args:
        task: whose samples they are; `box`: the shape of a module's own grid.
        batch: samples per module and step.
        last: steps of the whole run, which schedules refer to.
    """

    def __init__(self, task: CoordTask, box: tuple[int, ...], batch: int, last: int) -> None:
        self.task, self.box, self.batch, self.last = task, box, batch, last
        self.due = 0  # the step before which the samples are looked at again
        self.passes = 0.0  # of a module, beside those of training: matrix products per layer, times samples

    def interval(self, step: int) -> int:
        """Return how many steps use what is seen before step `step`."""
        raise NotImplementedError

    def look(self, params: Params, step: int) -> None:
        """Look at the samples, before step `step`."""
        raise NotImplementedError

    def ids(self, step: int, generator: torch.Generator) -> Tensor:
        """Return the samples of a step, int64 [S, batch]."""
        raise NotImplementedError

    def choose(
        self, params: Params, step: int, most: int, generator: Callable[[int], torch.Generator]
    ) -> tuple[Tensor, Tensor | None]:
        """Return ids int64 [K, S, batch] and weights (None: ones) of K steps from step `step` on, K at most `most`."""
        if step >= self.due:
            self.look(params, step)
            self.due = step + self.interval(step)
        count = min(most, self.due - step)
        return torch.stack([self.ids(k, generator(k)) for k in range(step, step + count)]), None

    def residuals(self, params: Params) -> Tensor:
        """Return what every sample lacks, [S, n, C]."""
        self.passes += FORWARD * self.task.samples
        return self.task.predict(params) - self.task.y


class Selected(Mod):
    """Modules whose samples a selector chooses; steps between two looks are made in one call."""

    def __init__(
        self, tasks: list[CoordTask], init: Params, config: AdaptConfig, seed: int, make: Callable[[], Selector]
    ) -> None:
        super().__init__(tasks, init, config, seed)
        self.selector, self.trained_on = make(), 0.0

    def next_draws(self, k: int, most: int) -> Draws:
        params = tuple(p.detach() for p in self.params)
        ids, weights = self.selector.choose(params, self.made, most, lambda step: self.generator(k, step))
        self.trained_on += TRAIN * ids.shape[0] * ids.shape[2]
        return Draws("given", ids=ids, weights=weights)

    @property
    def passes(self) -> float:
        """Matrix products per layer times samples of a module, selection included."""
        return self.trained_on + self.selector.passes


class INT(Selector):
    """Implicit Neural Teaching (Zhang et al., ICML 2024, arXiv 2405.10531): the samples of the largest absolute error.

    They are looked for before every step (`longest` 1), or in the first quarter of the run, and then after intervals
    that grow in five stages to `longest` steps. `growing`: the share of samples rises in ten stages from 20 % of its
    last one's size on; sizes are such that their mean is the batch.
    """

    def __init__(
        self, task: CoordTask, box: tuple[int, ...], batch: int, last: int, *, longest: int, growing: bool
    ) -> None:
        super().__init__(task, box, batch, last)
        self.longest, self.growing = longest, growing

    def interval(self, step: int) -> int:
        quarter = self.last // 4
        if self.longest == 1 or step < quarter:
            return 1
        stage = min(4, (step - quarter) * 5 // (self.last - quarter))
        return max(1, self.longest * (stage + 1) // 5)

    def size(self, step: int) -> int:
        """Return how many samples a step takes."""
        if not self.growing:
            return self.batch
        stage = min(9, step * 10 // self.last)
        return min(self.task.samples, round(self.batch * (0.2 + 0.08 * stage) / 0.56))

    def look(self, params: Params, step: int) -> None:
        self.chosen = self.residuals(params).abs().sum(-1).topk(self.size(step), dim=1).indices

    def ids(self, step: int, generator: torch.Generator) -> Tensor:
        return self.chosen


class GradNCP(INT):
    """The selection of GradNCP (Tack et al., NeurIPS 2023, arXiv 2302.00617): the samples whose gradient in the last
    layer is longest, |r| |[h; 1]|; looked for every `longest` steps."""

    def interval(self, step: int) -> int:
        return self.longest

    def look(self, params: Params, step: int) -> None:
        task = self.task
        self.passes += FORWARD * task.samples
        offsets = torch.arange(task.modules + 1) * task.samples
        x = task.x.repeat(task.modules, 1)
        scores = prune_scores(params, x, offsets, task.y.flatten(0, 1), task.spec, task.backend)
        self.chosen = scores.reshape(task.modules, -1).topk(self.size(step), dim=1).indices


LAPLACIAN_SHARE = 1e-5 * 255**2  # the authors' coefficient, whose values reach 255


class EVOS(Selector):
    """The evolutionary selector (Zhang et al., CVPR 2025, arXiv 2412.10153), without the loss on its Laplacian.

    In key steps all samples are trained on, and their errors are remembered (sparse fitness evaluation); from `first`
    steps at the beginning to half as many at the end lie between two of them. Between them a batch is made of
    survivors and of mutants. Survivors (frequency-guided crossover) are among the worst both by squared error and by
    squared error of the Laplacian; what is missing comes from either list in the proportion of the mean errors.
    Mutants, a share `mutation` of the batch, are drawn afresh in every step from all others (augmented unbiased
    mutation).
    """

    def __init__(
        self, task: CoordTask, box: tuple[int, ...], batch: int, last: int, *, first: int, mutation: float
    ) -> None:
        super().__init__(task, box, batch, last)
        self.first, self.mutants = first, round(mutation * batch)
        self.laplacian = laplacian(task.y, box)

    def interval(self, step: int) -> int:
        return max(2, round(self.first * (1 - 0.5 * step / self.last)))

    def look(self, params: Params, step: int) -> None:
        self.key = step
        predicted = self.task.predict(params)  # counted with the step, which trains on all samples
        error = (predicted - self.task.y).square().mean(-1)
        rough = LAPLACIAN_SHARE * (laplacian(predicted, self.box) - self.laplacian).square()
        self.survivors = crossover(error, rough, self.batch - self.mutants)
        alive = torch.zeros_like(error, dtype=torch.bool).scatter_(1, self.survivors, True)
        self.others = (~alive).nonzero()[:, 1].reshape(len(error), -1)

    def ids(self, step: int, generator: torch.Generator) -> Tensor:
        places = torch.rand(self.others.shape, generator=generator).topk(self.mutants, dim=1).indices
        return torch.cat((self.survivors, self.others.gather(1, places)), 1)

    def choose(
        self, params: Params, step: int, most: int, generator: Callable[[int], torch.Generator]
    ) -> tuple[Tensor, Tensor | None]:
        if step >= self.due:
            self.look(params, step)
            self.due = step + self.interval(step)
            return torch.arange(self.task.samples).repeat(1, self.task.modules, 1), None
        return super().choose(params, step, most, generator)


def laplacian(values: Tensor, box: tuple[int, ...]) -> Tensor:
    """Return the Laplacian of the mean over channels, zero outside of the grid: [S, n, C] -> [S, n]."""
    gray = values.mean(-1).reshape(len(values), *box)
    total = -2.0 * len(box) * gray
    for axis in range(1, len(box) + 1):
        ends = [0, 0] * (len(box) - axis) + [1, 1]
        wide = F.pad(gray, ends)
        size = gray.shape[axis]
        total = total + wide.narrow(axis, 0, size) + wide.narrow(axis, 2, size)
    return total.reshape(len(values), -1)


def crossover(error: Tensor, rough: Tensor, count: int) -> Tensor:
    """Return `count` samples per module, from two fitness values [S, n] of each: int64 [S, count]."""
    worst = [torch.zeros_like(f, dtype=torch.bool).scatter_(1, f.topk(count).indices, True) for f in (error, rough)]
    both = worst[0] & worst[1]
    missing = count - both.sum(1, keepdim=True)
    share = error.mean(1, keepdim=True) / (error.mean(1, keepdim=True) + rough.mean(1, keepdim=True)).clamp(min=1e-30)
    by_error = (missing * share).long()
    alive = both
    for fitness, mask, most in ((error, worst[0] & ~both, by_error), (rough, worst[1] & ~both, missing - by_error)):
        rank = torch.where(mask, fitness, -1.0).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        alive = alive | (mask & (rank < most))
    return alive.nonzero()[:, 1].reshape(len(error), count)


class NINT(Selector):
    """NTK-guided implicit neural teaching (Zhang et al., CVPR 2026, arXiv 2511.15487).

    Every tenth look scores the samples by |K r|, K = J J^T and r the residuals of all samples: what a step along the
    gradient changes there. A batch holds those of the largest scores (30 % e^-j at the j-th scoring, as the authors'
    code has it; `fade` 0: always 30 %), `random` of it drawn at random, and for the rest those with the largest
    absolute error. A look every `every` steps.
    """

    def __init__(
        self, task: CoordTask, box: tuple[int, ...], batch: int, last: int, *, random: float, every: int, fade: float
    ) -> None:
        super().__init__(task, box, batch, last)
        self.random, self.every, self.fade = random, every, fade
        self.looks, self.scorings, self.by_kernel = 0, 0, torch.zeros(task.modules, 0, dtype=torch.int64)

    def interval(self, step: int) -> int:
        return self.every

    def look(self, params: Params, step: int) -> None:
        residuals = self.residuals(params)
        if self.looks % 10 == 0:
            self.scorings += 1
            share = 0.3 * math.exp(-self.fade * self.scorings)
            count = int(self.batch * share) if share >= 1e-3 else 0
            if count:
                # The forward of the residuals serves the backward; the tangent takes two products beside its own.
                self.passes += (2 + 3) * self.task.samples
                self.by_kernel = kernel_scores(self.task, params, residuals).topk(count, dim=1).indices
            else:
                self.by_kernel = self.by_kernel[:, :0]
        self.looks += 1
        error = residuals.abs().sum(-1).scatter(1, self.by_kernel, -1.0)
        count = max(0, int(self.batch * (1 - self.random)) - self.by_kernel.shape[1])
        self.by_error = error.topk(count, dim=1).indices
        self.drawn: Tensor | None = None

    def ids(self, step: int, generator: torch.Generator) -> Tensor:
        if self.drawn is None:  # between two looks the batch stays
            best = torch.cat((self.by_kernel, self.by_error), 1)
            order = torch.rand(self.task.modules, self.task.samples, generator=generator).scatter_(1, best, -1.0)
            self.drawn = torch.cat((best, order.topk(self.batch - best.shape[1], dim=1).indices), 1)
        return self.drawn


def kernel_scores(task: CoordTask, params: Params, residuals: Tensor) -> Tensor:
    """Return |K r| of every sample, [S, n]: a backward for v = J^T r, and the derivative of the outputs along v."""
    x, offsets = task.x.repeat(task.modules, 1), torch.arange(task.modules + 1) * task.samples

    def outputs(values: Params) -> Tensor:
        weights, biases = split_pair(values)
        return ops.bank_mlp(x, offsets, weights, biases, task.spec, task.backend)

    leaves = tuple(p.detach().requires_grad_() for p in params)
    along = torch.autograd.grad(outputs(leaves), leaves, residuals.flatten(0, 1))
    with torch.no_grad(), forward_ad.dual_level():
        changed = outputs(tuple(forward_ad.make_dual(p.detach(), v) for p, v in zip(params, along)))
        tangent = forward_ad.unpack_dual(changed).tangent
    return tangent.reshape(residuals.shape).norm(dim=-1)


class EvenByError(Selector):
    """Even draws (`EvenSampler`) whose scores are squared errors in place of Fisher information."""

    def __init__(
        self, task: CoordTask, box: tuple[int, ...], batch: int, last: int, *, mix: float, refresh: int
    ) -> None:
        super().__init__(task, box, batch, last)
        self.refresh = refresh
        self.sampler = EvenSampler(task.items, task.modules, task.curve, mix=mix, smooth=0.1, block=16)

    def choose(
        self, params: Params, step: int, most: int, generator: Callable[[int], torch.Generator]
    ) -> tuple[Tensor, Tensor | None]:
        drawn, weights = [], []
        for k in range(step, step + min(most, self.refresh - step % self.refresh)):
            ids, weight = self.sampler.draw(self.batch, k, generator(k))
            if k % self.refresh == 0:
                x, y = self.task.take(ids)
                layers, biases = split_pair(params)
                offsets = torch.arange(len(x) + 1) * self.batch
                found = ops.bank_mlp(x.flatten(0, 1), offsets, layers, biases, self.task.spec, self.task.backend)
                self.passes += FORWARD * self.batch
                self.sampler.update(ids, (found.reshape(y.shape) - y).square().mean(-1))
            drawn.append(ids)
            weights.append(torch.ones(ids.shape) if weight is None else weight)
        return torch.stack(drawn), torch.stack(weights)
