"""Make training steps with Fisher-guided samples: drawn by their scores, weighted by them, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.learn.fisher.scores import FimConfig, FisherScorer, Scored, fim_loss_weights
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.params import Params, part_of, split_pair
from mclnf_fast.learn.sampling.even import EvenSampler
from mclnf_fast.learn.sampling.samplers import make_sampler
from mclnf_fast.learn.task import Batch, ScoredTask
from mclnf_fast.ops.bank_fit import Guide, GuideState


class GuidedSteps:
    """The mini-batches and gradients of one task of S signals, with Fisher information.

    `sample`: items are drawn by p = mix sqrt(q) / sum sqrt(q) + (1 - mix) / n and their loss is divided by n p, so
    that the gradient stays unbiased; every `refresh` steps the step's own sweep also scores what it has drawn.
    `weight`: MCL-NF's form, each step's loss is weighted by its samples' scores (arXiv 2504.05806). `both`: one after
    the other.

    Args:
        task: of S signals.
        config: what to do with the scores, and how they are formed.
        batch: samples per signal and step.
        seed, number: of counted draws; the number is the task's.
    """

    def __init__(self, task: ScoredTask, config: FimConfig, batch: int, seed: int = 0, number: int = 0) -> None:
        self.task, self.config, self.batch = task, config, batch
        self.scorer = FisherScorer(task.spec, task.modules, config, task.backend)
        self.sampler = make_sampler(task, config, seed, number) if config.use in ("sample", "both") else None
        self._curve = task.curve  # where it was asked for last: a copy to a GPU waits for what runs there
        self.losses: Tensor | None = None  # of the last mini-batch [S]; a sweep that scores does not give them

    def free_steps(self, step: int) -> int:
        """Return how many steps from step number `step` on neither score a sample nor weight a loss by scores."""
        if self.sampler is None or self.config.use != "sample":
            return 0
        return -step % self.config.refresh

    def guide(self, device: torch.device) -> Guide | None:
        """Return the options by which `ops.bank_fit` makes these steps on a device; None if it has none for them."""
        config = self.config
        switches = (config.use, config.kind, config.source, config.residual, config.draws)
        plain = switches == ("sample", "diag", "ema", "empirical", "even") and self.task.items == self.task.samples
        if not plain or config.mix == 0 or not isinstance(self.sampler, EvenSampler):
            return None
        smooth, refresh, decay = config.smooth, config.refresh, config.decay
        self._curve = None if self._curve is None else self._curve.to(device)
        return Guide(self._curve, config.mix, smooth, self.sampler.block, refresh, decay, config.damping)

    def guide_state(self, params: Params) -> GuideState:
        """Return what `ops.bank_fit` changes in place as these steps would."""
        assert isinstance(self.sampler, EvenSampler)
        self.sampler.move(params[0].device)
        fisher, batches = self.scorer.running.begin(split_pair(params))
        return GuideState(self.sampler.scores, self.sampler.window, fisher, batches)

    def gradients(
        self,
        params: Params,
        step: int,
        generator: torch.Generator,
        uniform: Batch | None = None,
        optimizer: BankOptimizer | None = None,
    ) -> Sequence[Tensor]:
        """Return the gradients of every module's loss on a mini-batch of step number `step`, from 0.

        uniform: the mini-batch of a step whose samples the scores do not choose; None: drawn here.
        optimizer: whose parameters the loss is taken at, copies of `params` in a half type; None: it is at `params`.
        """
        items = drawn = weights = None
        if self.sampler is None:
            batch = self.task.draw(self.batch, generator) if uniform is None else uniform
        else:
            items, drawn = self.items(params[0].device, step, generator)
            batch, factors = self.task.draw_in(items, generator)
            if factors is not None:
                drawn = factors if drawn is None else drawn * factors
            weights = None if drawn is None else drawn.to(params[0].device)
        if not self.scores(step):
            return self._of_losses(params, batch, weights, step, optimizer)
        gradients, q, _ = self.scored(params, batch, weights, step, optimizer)
        if items is not None:
            self.take_in(step, items, q, drawn)
        return gradients

    def items(self, device: torch.device, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        """Return the items [S, k] of step number `step` and their weights, by the sampler; even draws on the device."""
        assert self.sampler is not None
        if isinstance(self.sampler, EvenSampler):
            self.sampler.move(device)  # where the scores come from: on the CPU they would be waited for
        return self.sampler.draw(self.batch, step, generator)

    def scores(self, step: int) -> bool:
        """Return whether step number `step` scores its samples."""
        refreshing = self.sampler is not None and step % self.config.refresh == 0
        return refreshing or self.config.use in ("weight", "both")

    def take_in(self, step: int, items: Tensor, q: Tensor, drawn: Tensor | None) -> None:
        """Take in the scores q [S, k] that step number `step` has given its items [S, k], drawn with these weights."""
        # The first batch was scored against itself alone.
        if self.sampler is not None and step > 0 and step % self.config.refresh == 0:
            self.sampler.update(items, q.to(items.device), drawn)

    def scored(
        self,
        params: Params,
        batch: Batch,
        weights: Tensor | None,
        seed: Tensor | int,
        optimizer: BankOptimizer | None = None,
    ) -> tuple[Sequence[Tensor], Tensor, Tensor | None]:
        """Return the gradients of a step that scores, its scores [S, k] and losses [S] (None if none was formed)."""
        # Loss weights come from these very scores: only without them can the gradient come along in the sweep.
        scored = self._scored(params, batch, weights, seed, self.config.use == "sample")
        q = scored.scores.reshape(self.task.modules, -1)
        if scored.grads is not None:
            # The sweep gives the gradient of the sum of the losses, a step takes that of their mean.
            return tuple(g / self.batch for g in scored.grads), q, None
        by_loss = loss_weights(q, self.config, self.task.spec.num_parameters)
        weights = by_loss if weights is None else weights * by_loss
        return self._of_losses(params, batch, weights, seed, optimizer), q, self.losses

    def _of_losses(
        self,
        params: Params,
        batch: Batch,
        weights: Tensor | None,
        seed: Tensor | int,
        optimizer: BankOptimizer | None,
    ) -> Sequence[Tensor]:
        """Return the gradients of the losses of a batch, times weights [S, k]."""
        learned = params if optimizer is None else optimizer.params
        losses = self.task.loss(learned, batch, weights, seed)
        self.losses = losses.detach()
        return torch.autograd.grad((losses if optimizer is None else optimizer.scaled(losses)).sum(), learned)

    def _scored(self, params: Params, batch: Batch, weights: Tensor | None, seed: Tensor | int, grads: bool) -> Scored:
        points = self.task.points(params, batch, seed)
        return self.scorer(
            params,
            points.x,
            points.offsets,
            points.grad_y,
            grads=grads,
            weights=None if weights is None else weights.flatten(),
            sample_ids=points.sample_ids,
            num_samples=points.num_samples,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Return scores of the items and the running Fisher as tensors (copies)."""
        sampler = {} if self.sampler is None else self.sampler.state_dict()
        parts = (("sampler", sampler), ("scorer", self.scorer.state_dict()))
        return {f"{name}.{key}": value for name, state in parts for key, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Take over what `state_dict` returned, the running Fisher to `device`. Raise ValueError if it does not fit."""
        if self.sampler is not None:
            self.sampler.load_state_dict(part_of(state, "sampler"))
        self.scorer.load_state_dict({key: value.to(device) for key, value in part_of(state, "scorer").items()})


def loss_weights(q: Tensor, config: FimConfig, num_params: int) -> Tensor:
    """Return MCL-NF's weights of mean 1 for every module of `num_params` parameters: scores [M, k] -> [M, k].

    >>> loss_weights(torch.tensor([[1.0, 3.0]]), FimConfig(), num_params=10)
    tensor([[0.7500, 1.2500]])
    """
    offsets = ops.offsets_of_equal_shares(len(q), q.shape[1], q.device)
    return fim_loss_weights(q.flatten(), offsets, config, num_params=num_params).reshape(q.shape)


CANDIDATES = 4  # times the batch, out of which a meta-training step draws


def guided_batch(
    draw: Callable[[int], Batch],
    count: int,
    params: Params,
    task: ScoredTask,
    use: str,
    scorer: FisherScorer,
    generator: torch.Generator,
) -> tuple[Batch, Tensor | None]:
    """Return a batch as large as `draw(count)` for networks that have seen nothing yet, and the weights [M, k] of their
    losses: nothing is remembered, so the candidates of this very step are scored.

    `sample`: the mean over draws of weight times loss is the candidates' mean loss, whatever the scores.

    Args: draw: `count -> batch` of uniform samples. params: [M, ...]; not differentiated. task: of the kind of
    the batch, whose network they are. use: `none`, `weight`,
    `sample` or `both`. scorer: of these M modules.
    """
    if use == "none":
        return draw(count), None
    # Through the scores, MAML would need third derivatives.
    params = tuple(p.detach() for p in params)

    def scores(batch: Batch) -> Tensor:
        points = task.points(params, batch)
        ids, count = points.sample_ids, points.num_samples
        scored = scorer(params, points.x, points.offsets, points.grad_y, sample_ids=ids, num_samples=count)
        return scored.scores.reshape(batch[0].shape[:2])

    config = scorer.config
    batch, weights = draw(count * CANDIDATES if use != "weight" else count), None
    q = scores(batch)
    if use != "weight":
        size = q.shape[1] // CANDIDATES  # `draw` may take `count` of each of several tasks
        root = q.sqrt()
        mean = root.mean(1, keepdim=True)
        density = 1 + config.mix * (torch.where(mean > 0, root / torch.where(mean > 0, mean, 1.0), 1.0) - 1)  # n p
        # On the CPU: a seed means the same everywhere. With replacement: without, weights 1 / (n p) would be biased.
        ids = torch.multinomial(density.cpu(), size, replacement=True, generator=generator).to(q.device)
        rows = torch.arange(len(ids), device=q.device)[:, None]
        batch, q, weights = tuple(t[rows, ids] for t in batch), q[rows, ids], 1 / density[rows, ids]
    if use != "sample":
        by_loss = loss_weights(q, config, task.spec.num_parameters)
        weights = by_loss if weights is None else weights * by_loss
    return batch, weights
