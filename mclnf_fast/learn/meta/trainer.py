"""Meta-learn an initialization over episodes: the one loop of every system, by MAML or Reptile."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.errors import InputError
from mclnf_fast.learn.graphs import GraphedStep, Tensors
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import Episode, Episodes
from mclnf_fast.learn.meta.meta import MAML, Reptile
from mclnf_fast.learn.meta.oml import FastPart, fast_mask
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampled import SampledLoss
from mclnf_fast.metrics import mse_to_psnr

CURVE_POINTS = 200  # enough for a plot; each point waits for the device
OML_CLIP = 10.0  # largest entry of an inner gradient in OML (Javed & White's code)


def mean_loss(losses: Tensor) -> float:
    """Return the mean of the losses [M] of an episode's modules.

    >>> mean_loss(torch.tensor([1.0, 3.0]))
    2.0
    """
    return float(losses.mean())


def mean_psnr(losses: Tensor) -> float:
    """Return the mean PSNR in dB of modules whose mean squared errors are `losses` [M].

    >>> mean_psnr(torch.tensor([0.1, 0.001]))
    20.0
    """
    return float(mse_to_psnr(losses).mean())


class MetaTrainer:
    """Learns one shared initialization by MAML (exact or of first order) or Reptile.

    Outer step i depends on the seed and i alone: it has a generator of its own, so that a resumed run, or one whose
    validation is switched off, comes to the same bits.

    Args:
        init: to begin with, tensors [1, ...].
        episodes: the tasks; see `learn.meta.episodes`.
        config: see `MetaConfig`.
        seed: of the episodes.
        fast_layers: OML (Javed & White, arXiv 1905.12588): the inner loop runs through the tasks of an episode in
            their order, on the last so many layers alone, with gradients clamped to [-10, 10]; None: no OML.
        validation: episodes on which the initialization is judged every `config.validate_every` steps, the same one
            every time.
        score: the losses [M] of an episode's modules (after the inner steps in MAML, at the last one in Reptile) -> the
            number that joins the curve.
        curve_points: about how many points the curve has at the end; None: one per step. A point waits for the device.

    Raises InputError if the options do not fit each other.

    >>> from mclnf_fast.learn.meta.episodes import DrawnEpisodes
    >>> targets = torch.tensor([[1.0], [3.0]])
    >>> episodes = DrawnEpisodes(2, lambda tasks, generator: lambda p, step: (p[0] - targets[tasks]).square().sum(1), 2)
    >>> config = MetaConfig(steps=60, inner_lr=0.1, outer_lr=0.2)
    >>> trainer = MetaTrainer((torch.zeros(1, 1),), episodes, config, seed=0)
    >>> while not trainer.done:
    ...     trainer.step()
    >>> round(trainer.params[0].item())
    2
    """

    def __init__(
        self,
        init: Params,
        episodes: Episodes,
        config: MetaConfig,
        seed: int,
        fast_layers: int | None = None,
        validation: Episodes | None = None,
        score: Callable[[Tensor], float] = mean_loss,
        curve_points: int | None = None,
    ) -> None:
        config.check()
        self.episodes, self.config, self.seed = episodes, config, seed
        self.validation, self.score, self.curve_points = validation, score, curve_points
        self.learner = _learner(init, config, episodes.sequence, fast_layers)
        self.curve: list[list[float | None]] = []
        """Points [outer steps, score, validation score or None]."""
        self.seconds = 0.0
        """Of the outer steps, without validation."""
        self.losses: Tensor | None = None  # of the last outer step, [M]
        self._episode: Episode | None = None  # whose losses are taken in `_outer_step`
        self._graph = GraphedStep(self._outer_step, "meta-training", self.learner.init[0].device)

    @property
    def total(self) -> int:
        """Outer steps in all."""
        return self.config.steps

    @property
    def made(self) -> int:
        """Outer steps done."""
        return self.learner.outer_steps

    @property
    def done(self) -> bool:
        """Whether all outer steps are done."""
        return self.made >= self.config.steps

    @property
    def params(self) -> Params:
        """The initialization as it is now, [1, ...], detached."""
        return tuple(p.detach().clone() for p in self.learner.init)

    def reading(self) -> dict[str, float]:
        """Return what was measured last: `loss`, the mean over the tasks of the last outer step; waits for the
        device."""
        return {} if self.losses is None else {"loss": float(self.losses.mean())}

    def step(self, most: int = 1) -> None:
        """Make one outer step, whatever `most`: an episode decides the next."""
        began = time.perf_counter()
        outer, config = self.made, self.config
        # A prime keeps the steps of two seeds apart; one generator for all steps would have to be saved with its state.
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + outer) % (1 << 63))
        episode = self.episodes(outer, generator)
        losses = self._replayed(episode)
        if losses is None:
            if isinstance(self.learner, MAML):
                losses = self.learner.step(episode.support, episode.query, episode.modules)["query_loss"]
            else:
                losses = self.learner.step(episode.support, episode.modules)["last_loss"]
        self.losses = losses.detach()  # on the device: nobody waits for it here
        every = config.validate_every
        validated = every > 0 and self.validation is not None and (self.made % every == 0 or self.done)
        spacing = 1 if self.curve_points is None else max(1, config.steps // self.curve_points)
        # The last step joins the curve whatever the spacing: reports read the end from it.
        scored = outer % spacing == 0 or self.done or validated
        score = self.score(losses) if scored else None  # waits for the device: within the seconds
        self.seconds += time.perf_counter() - began
        if scored:
            self.curve.append([self.made, score, self.validate() if validated else None])

    def _replayed(self, episode: Episode) -> Tensor | None:
        """Make an outer step as a CUDA graph, if its samples are known before it, and return the losses [M]; None
        otherwise: then none is made."""
        support, query, learner = episode.support, episode.query, self.learner
        if self._graph.reason or not isinstance(support, SampledLoss) or not isinstance(query, SampledLoss):
            return None
        # In the order in which the losses would draw them.
        drawn = [support.samples(learner.inner_steps), *([query.samples(1)] if isinstance(learner, MAML) else [])]
        if any(s.batch is None or s.data.offsets is None or s.data.weight is not None for s in drawn):
            return None  # all samples in every step, or weighted ones
        self._episode = episode
        with learner.counted_step():
            (losses,) = self._graph(*(t for samples in drawn for t in (samples.data.x, samples.data.target)))
        return losses

    def _outer_step(self, *samples: Tensor) -> Tensors:
        """Make the outer step of an episode on samples of its support and, in MAML, of its query, x and target each;
        return the losses [M]."""
        assert self._episode is not None
        support, query, modules = self._episode
        assert isinstance(support, SampledLoss)
        assert isinstance(query, SampledLoss)
        inner = support.on(samples[:2], modules, self.learner.inner_steps)
        if not isinstance(self.learner, MAML):
            return (self.learner.descend(inner, modules)[0],)
        outer = query.on(samples[2:], modules, 1)
        return (self.learner.descend(inner, lambda params, step: outer(params, 0), modules)[0],)

    def validate(self) -> float | None:
        """Return the score of modules adapted to the validation episode, the same one every time; None without one."""
        if self.validation is None:
            return None
        # The same samples every time: fresh ones would add their own noise to the curve.
        episode = self.validation(0, torch.Generator().manual_seed(self.seed))
        init = self.learner.clone(episode.modules)
        if isinstance(self.learner, MAML):
            # No outer gradient is taken here: a graph would hold every inner step for nothing.
            adapted = self.learner.adapt(init, episode.support, create_graph=False)
        else:
            adapted = self.learner.adapt(init, episode.support)
        with torch.no_grad():
            return self.score(episode.query(adapted, 0))

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return all that a resumed run needs to come to the same bits, as tensors and plain data."""
        curve = [list(point) for point in self.curve]
        return self.learner.state_dict(), {"curve": curve, "seconds": self.seconds, "steps": self.made}

    def load_state_dict(self, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned. Raises KeyError, ValueError if it does not fit."""
        self.learner.load_state_dict(tensors)
        # Runs of before kept points of two numbers if nothing was validated.
        self.curve = [[*point, None][:3] for point in meta["curve"]]
        self.seconds = float(meta["seconds"])


def _learner(init: Params, config: MetaConfig, sequence: int, fast_layers: int | None) -> MAML | Reptile:
    """Return what makes the outer steps."""
    oml = fast_layers is not None
    if config.algorithm == "reptile":
        if oml:
            raise InputError("meta.algorithm must be maml for OML, whose inner loop leaves layers alone, got reptile")
        return Reptile(
            init,
            config.inner_lr,
            config.inner_steps,
            config.outer_lr,
            # Fresh moments in every outer step: kept ones would belong to other tasks.
            inner=config.inner,
            # At least 1: a run without outer steps still builds a learner, which refuses 0.
            anneal_steps=max(1, config.steps),
            grad_clip=config.grad_clip,
        )
    return MAML(
        init,
        config.inner_lr,
        config.inner_steps * sequence,
        first_order=config.first_order or (oml and config.oml_first_order),
        outer_lr=config.outer_lr,
        anneal_steps=max(1, config.steps),
        grad_clip=config.grad_clip,
        fast=None if fast_layers is None else FastPart(fast_mask(init, fast_layers), OML_CLIP),
    )


def loss_curve(curve: Sequence[Sequence[float | None]]) -> list[tuple[int, float]]:
    """Return the points (outer steps, score) of a curve without their validation.

    >>> loss_curve([[1, 20.5, None], [2, None, 21.0]])
    [(1, 20.5)]
    """
    return [(int(step), score) for step, score, *_ in curve if step is not None and score is not None]
