"""One module learning one task: Adam on mini-batches, with Fisher information or without."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mclnf_fast.learn.fim import fim_weights
from mclnf_fast.learn.fisher import RunningFisher
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.params import Params, flatten_pair
from mclnf_fast.learn.sampling import FisherSampler
from mclnf_fast.learn.task import Task

Fim = Literal["none", "sample", "weight", "both"]


@dataclass(frozen=True)
class LearnerConfig:
    """How a module is trained on a task.

    steps: gradient steps. batch: samples a step. lr, lr_end: Adam's rate at the first and the last step (exponential in
    between). fim: what Fisher information is used for: `none` (MSE), `sample` (importance sampling, unbiased),
    `weight` (the paper's loss weights), `both`. lam, clip: of the loss weights. mix: share of the informed part in
    sampling. refresh: steps between two scorings. smooth: share of the old score when an item is scored again.
    """

    steps: int = 1024
    batch: int = 512
    lr: float = 1e-2
    lr_end: float = 1e-3
    fim: Fim = "none"
    lam: float = 1.0
    clip: float = 10.0
    mix: float = 0.5
    refresh: int = 8
    smooth: float = 0.5


class Learner:
    """Trains one module (parameters [1, ...]) on one task, a step at a time.

    Everything that decides the next step is in `state_dict` (the randomness of step k depends on the seed and k
    alone), so a run that is killed goes on to the same bits. Samples are drawn on the CPU, so that a seed means the
    same on every device; the module learns where its start is.

    Args:
        task: the task.
        start: parameters to start from, tensors [1, ...] (weights, then biases); copied.
        config: see `LearnerConfig`.
        seed: of the mini-batches.
    """

    def __init__(self, task: Task, start: Params, config: LearnerConfig, seed: int) -> None:
        self.task, self.config, self.seed = task, config, seed
        self.params: Params = tuple(p.detach().clone().requires_grad_() for p in start)
        self.device = self.params[0].device
        self.optimizer = BankOptimizer(self.params, kind="adam", lr=config.lr)
        self.sampler = FisherSampler(task.items, mix=config.mix, refresh=config.refresh)
        self.running = RunningFisher(0.9)
        self.item_scores = torch.full((task.items,), -1.0)
        self.steps_made = 0

    @property
    def done(self) -> bool:
        """Whether all steps have been made."""
        return self.steps_made >= self.config.steps

    def rate(self, step: int) -> float:
        """Adam's rate at a step: exponential from `lr` to `lr_end`."""
        share = step / max(1, self.config.steps - 1)
        return self.config.lr * math.pow(self.config.lr_end / self.config.lr, share)

    def step(self) -> None:
        """One gradient step."""
        k, config = self.steps_made, self.config
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + k) % (1 << 63))
        if config.fim == "none":
            batch = self.task.draw(config.batch, generator)
            loss = self.task.losses(self.params, batch, k).mean()
            grads = torch.autograd.grad(loss, self.params)
        else:
            grads = self._informed(generator, k)
        self.optimizer.set_lr(self.rate(k))
        self.optimizer.step(grads)
        self.steps_made += 1

    def _informed(self, generator: torch.Generator, k: int) -> tuple[Tensor, ...]:
        config = self.config
        items, weights = None, torch.ones(config.batch)
        if config.fim in ("sample", "both"):
            drawn, inverse = self.sampler.draw(config.batch, generator)
            items = drawn[0]
            batch, factor = self.task.draw_in(items, generator)
            weights = inverse[0] * factor
        else:
            batch = self.task.draw(config.batch, generator)
        by_loss = config.fim in ("weight", "both")
        if not by_loss and k % config.refresh:
            loss = (weights.to(self.device) * self.task.losses(self.params, batch, k)).mean()
            return torch.autograd.grad(loss, self.params)
        # Scores, gradients and Fisher come from the one sweep that this step needs anyway. The score of w l is
        # w^2 times that of l.
        known = None if self.running.fisher is None else self.running.damped()
        drawn_with, weights = weights, weights.to(self.device)
        result = self.task.scores(self.params, batch, weights, known, k)
        self.running.update((result.fisher[0], result.fisher[1]))
        q = result.scores / weights.square()
        if items is not None and known is not None:
            self._remember(items, q.to(items.device), drawn_with)
        if by_loss:  # with lam = 0 as well: the weights are then ones, and the gradient has the bits of the MSE's
            loss_weights = fim_weights(q, lam=config.lam, clip=config.clip)
            loss = (weights * loss_weights * self.task.losses(self.params, batch, k)).mean()
            return torch.autograd.grad(loss, self.params)
        grads = flatten_pair((result.grads[0], result.grads[1]))
        if len(grads) < len(self.params):  # scored by its network alone: the tables of grids need their gradients too
            return torch.autograd.grad((weights * self.task.losses(self.params, batch, k)).mean(), self.params)
        return tuple(g / config.batch for g in grads)

    def _remember(self, items: Tensor, q: Tensor, weights: Tensor) -> None:
        """One score an item: the mean of its samples, mixed with what was known."""
        unique, place = items.unique(return_inverse=True)
        count = torch.zeros(unique.numel()).index_add_(0, place, torch.ones_like(q))
        mean = torch.zeros(unique.numel()).index_add_(0, place, q) / count
        share = torch.zeros(unique.numel()).index_add_(0, place, weights) / count
        old = self.item_scores[unique]
        mean = torch.where(old < 0, mean, self.config.smooth * old + (1 - self.config.smooth) * mean)
        self.item_scores[unique] = mean
        self.sampler.update(unique[None], mean[None], weights=share[None])

    def state_dict(self) -> dict[str, Tensor]:
        """Parameters, optimiser, sampler and running Fisher as tensors."""
        state = {f"params.{i}": p.detach().clone() for i, p in enumerate(self.params)}
        state["steps_made"] = torch.tensor(self.steps_made)
        state["item_scores"] = self.item_scores.clone()
        for name, part in (("optimizer", self.optimizer), ("sampler", self.sampler), ("running", self.running)):
            state.update({f"{name}.{key}": value for key, value in part.state_dict().items()})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Takes over what `state_dict` returned. Raises ValueError where an entry is missing or of another shape."""

        def part(name: str, device: torch.device | str = "cpu") -> dict[str, Tensor]:
            return {k[len(name) + 1 :]: v.to(device) for k, v in state.items() if k.startswith(f"{name}.")}

        own = {f"params.{i}": p.shape for i, p in enumerate(self.params)}
        for key, shape in {**own, "steps_made": (), "item_scores": self.item_scores.shape}.items():
            if key not in state:
                raise ValueError(f"state must hold {key!r}, got {sorted(state)}")
            if state[key].shape != shape:
                raise ValueError(f"state[{key!r}] must be {tuple(shape)}, got {tuple(state[key].shape)}")
        with torch.no_grad():
            for i, p in enumerate(self.params):
                p.copy_(state[f"params.{i}"])
        self.steps_made = int(state["steps_made"])
        self.item_scores = state["item_scores"].clone()
        self.optimizer.load_state_dict(part("optimizer"))
        self.sampler.load_state_dict(part("sampler"))
        self.running.load_state_dict(part("running", self.device))
