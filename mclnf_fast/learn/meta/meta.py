"""Learn a shared initialization by MAML, exact or of first order, or Reptile; a meta-batch is a bank, one task per
module."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int
from mclnf_fast.learn.meta.adapt import adapt, check_losses, fine_tune
from mclnf_fast.learn.meta.at_once import adapt_at_once, adapts_at_once, fine_tune_at_once
from mclnf_fast.learn.meta.oml import FastPart
from mclnf_fast.learn.optim import BankOptimizer
from mclnf_fast.learn.params import LossFn, Params, check_shared, repeated
from mclnf_fast.ops.bank_step import StepKind


class MetaLearner:
    """What MAML and Reptile share: the initialization, the outer Adam and its schedule, the state.

    Args:
        init: shared initialization, flat tuple of tensors [1, ...]; copied.
        inner_lr, inner_steps: of the inner loop.
        outer_lr: of the outer Adam.
        anneal_steps: outer steps over which the outer rate falls to 0 along a cosine; None: constant.
        grad_clip: largest global norm of the outer gradient; None: no limit.
    """

    def __init__(
        self,
        init: Sequence[Tensor],
        inner_lr: float,
        inner_steps: int,
        outer_lr: float,
        anneal_steps: int | None = None,
        grad_clip: float | None = None,
    ) -> None:
        checked = check_shared(init)
        if not float(inner_lr) > 0:
            raise ValueError(f"inner_lr must be above 0, got {inner_lr}")
        if grad_clip is not None and not grad_clip > 0:
            raise ValueError(f"grad_clip must be above 0 or None, got {grad_clip}")
        self.init: Params = tuple(p.detach().clone().requires_grad_() for p in checked)
        self.inner_lr, self.inner_steps = float(inner_lr), check_positive_int(inner_steps, "inner_steps")
        self.outer_lr, self.grad_clip = float(outer_lr), grad_clip
        self.anneal_steps = None if anneal_steps is None else check_positive_int(anneal_steps, "anneal_steps")
        self.optimizer = BankOptimizer(self.init, lr=outer_lr)
        self.outer_steps = 0

    def clone(self, modules: int) -> Params:
        """Return the initialization as a bank [M, ...], every module bit-equal; gradients add up into `init`."""
        check_positive_int(modules, "modules")
        return repeated(self.init, modules)

    def state_dict(self) -> dict[str, Tensor]:
        """Return initialization, outer optimizer and step count as tensors (copies): enough for an exact resume."""
        state = {f"init.{i}": p.detach().clone() for i, p in enumerate(self.init)}
        state.update({f"optimizer.{k}": v for k, v in self.optimizer.state_dict().items()})
        state["outer_steps"] = torch.tensor(self.outer_steps)
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state_dict` returned.

        Raises: ValueError, if an entry is missing or has another shape.
        """
        expected = self.state_dict()
        if set(state) != set(expected):
            raise ValueError(f"state must hold {sorted(expected)}, got {sorted(state)}")
        for i, p in enumerate(self.init):
            if state[f"init.{i}"].shape != p.shape:
                raise ValueError(f"state['init.{i}'] must be {tuple(p.shape)}, got {tuple(state[f'init.{i}'].shape)}")
        prefix = "optimizer."
        self.optimizer.load_state_dict({k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)})
        for i, p in enumerate(self.init):
            p.copy_(state[f"init.{i}"])
        self.outer_steps = int(state["outer_steps"])

    def current_lr(self) -> float:
        """Return the outer rate of the next step."""
        if self.anneal_steps is None:
            return self.outer_lr
        # Steps past the schedule stay at 0: the cosine would rise again.
        done = min(self.outer_steps / self.anneal_steps, 1.0)
        return self.outer_lr * 0.5 * (1.0 + math.cos(math.pi * done))

    @contextlib.contextmanager
    def counted_step(self) -> Iterator[None]:
        """Make an outer step inside: what it changes on the host comes before and behind, so that `descend` alone can
        be a CUDA graph."""
        self.optimizer.set_lr(self.current_lr())
        yield
        self.outer_steps += 1

    def _outer_step(self, grads: Sequence[Tensor]) -> Tensor:
        """Store the outer gradient in `p.grad`, clip it, step; returns its norm before the clip."""
        norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
        # No branch on the norm, for which a GPU would be waited for.
        scale = None if self.grad_clip is None else (self.grad_clip / norm.clamp(min=self.grad_clip))
        for p, g in zip(self.init, grads, strict=True):
            p.grad = g if scale is None else g * scale
        self.optimizer.step()
        return norm


class MAML(MetaLearner):
    """Model-agnostic meta-learning (arXiv 1703.03400) over a bank, under learn2learn's names.

        outer loss = mean_m L_query,m( theta_m^(K) ),    theta_m^(0) = init,   K inner SGD steps a module

    Exact to second order: the derivative runs through all inner steps, or not at all with `first_order`. On
    ops.bank_mlp an inner step then holds memory of the order of the parameters, since its backward
    recomputes the activations. All inner steps, and their derivative, are one call if the support loss is a
    `SampledLoss`.

    Defaults are GradNCP's for images: inner 1e-2, 4 steps, outer Adam 1e-5, there with grad_clip 1.0. Other
    arguments: see `MetaLearner`.

    Args:
        first_order: leave the derivative of the inner steps out.
        fast: the part of the network that the inner loop trains (OML); None: all of it.
    """

    def __init__(
        self,
        init: Sequence[Tensor],
        inner_lr: float = 1e-2,
        inner_steps: int = 4,
        *,
        first_order: bool = False,
        outer_lr: float = 1e-5,
        anneal_steps: int | None = None,
        grad_clip: float | None = None,
        fast: FastPart | None = None,
    ) -> None:
        super().__init__(init, inner_lr, inner_steps, outer_lr, anneal_steps, grad_clip)
        self.first_order = first_order
        self.update = None if fast is None else fast.update
        self.clip_value = None if fast is None else fast.clip_value

    def adapt(self, params: Params, loss_fn: LossFn, *, steps: int | None = None, create_graph: bool = True) -> Params:
        """Return `adapt` with this learner's settings: params [M, ...] -> [M, ...]."""
        return adapt(
            params,
            loss_fn,
            self.inner_steps if steps is None else steps,
            self.inner_lr,
            first_order=self.first_order,
            create_graph=create_graph,
            update=self.update,
            clip_value=self.clip_value,
        )

    def outer_gradient(self, loss_fn: LossFn, query_loss_fn: LossFn, modules: int) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the query losses [M] and the gradient of their mean in the initialization, tensors [1, ...].

        Args: see `step`. Raises: TypeError, ValueError.
        """
        tuned = self._fine_tuned(loss_fn, modules)
        # No name for the adapted parameters: the backward frees each step's when it is through with it.
        losses = check_losses(
            query_loss_fn(tuned or self._adapted(loss_fn, modules), self.inner_steps), modules, "query_loss_fn"
        )
        # The mean is taken of the result, which is small, and not of every module's gradient on the way.
        grads = torch.autograd.grad(losses.sum(), tuned or self.init)
        # Of first order every module's gradient is that of the initialization.
        return losses.detach(), tuple((g if tuned is None else g.sum(0, keepdim=True)) / modules for g in grads)

    def _fine_tuned(self, loss_fn: LossFn, modules: int) -> Params | None:
        """Return M modules adapted by one call of `ops.bank_fit`, without a graph, for a gradient of first order; None
        for another one, or if `ops.bank_adapt` serves, which gives it."""
        plain = self.update is None and self.clip_value is None
        if not self.first_order or not plain or adapts_at_once(loss_fn, self.init):
            return None
        made = fine_tune_at_once(self.clone(modules), loss_fn, self.inner_steps, self.inner_lr)
        return None if made is None else tuple(p.requires_grad_() for p in made[0])

    def _adapted(self, loss_fn: LossFn, modules: int) -> Params:
        """Return M modules adapted from the initialization."""
        # All modules begin at the one initialization: a copy for each would cost as much as the results.
        made = adapt_at_once(
            self.init,
            loss_fn,
            modules,
            self.inner_steps,
            self.inner_lr,
            first_order=self.first_order,
            update=self.update,
            clip_value=self.clip_value,
        )
        return self.adapt(self.clone(modules), loss_fn) if made is None else made[0]

    def step(self, loss_fn: LossFn, query_loss_fn: LossFn | None = None, modules: int = 1) -> dict[str, Tensor]:
        """Make one outer step over a meta-batch of M tasks.

        Args:
            loss_fn: `(params, inner step) -> [M]`, the support loss.
            query_loss_fn: `(adapted params, inner_steps) -> [M]`; None: the support loss again.
            modules: M.

        Returns: `query_loss` [M], their mean `loss`, and `grad_norm` before the clip; detached, not
        synchronized.
        Raises: TypeError, ValueError.
        """
        with self.counted_step():
            losses, norm = self.descend(loss_fn, query_loss_fn or loss_fn, modules)
        return {"loss": losses.mean(), "query_loss": losses, "grad_norm": norm}

    def descend(self, loss_fn: LossFn, query_loss_fn: LossFn, modules: int) -> tuple[Tensor, Tensor]:
        """Make the part of `step` that is on the device; return the query losses [M] and the gradient's norm."""
        losses, grads = self.outer_gradient(loss_fn, query_loss_fn, modules)
        return losses, self._outer_step(grads)


class Reptile(MetaLearner):
    """Reptile (arXiv 1803.02999) in the form of Learned Initializations (arXiv 2012.02189): Adam outside.

        p.grad = theta0 - mean_m theta_m^(K)       exactly; for one module exactly theta0 - theta^(K)

    With Adam outside this is *not* theta0 + eps (theta - theta0): the step is normalized per parameter.
    Defaults are the ShapeNet ones of the "fast single-view NeRF" text: 32 SGD steps at 0.5, outer 5e-5, to
    be annealed to 0. Memory does not grow with the inner steps. Other arguments: see `MetaLearner`.

    Args:
        inner: "sgd" or "adam" (fresh moments each outer step).
    """

    def __init__(
        self,
        init: Sequence[Tensor],
        inner_lr: float = 0.5,
        inner_steps: int = 32,
        outer_lr: float = 5e-5,
        *,
        inner: StepKind = "sgd",
        anneal_steps: int | None = None,
        grad_clip: float | None = None,
    ) -> None:
        super().__init__(init, inner_lr, inner_steps, outer_lr, anneal_steps, grad_clip)
        if inner not in ("sgd", "adam"):
            raise ValueError(f"inner must be 'sgd' or 'adam', got {inner!r}")
        self.inner: StepKind = inner

    def adapt(self, params: Params, loss_fn: LossFn, *, steps: int | None = None) -> Params:
        """Return `fine_tune` with this learner's settings: params [M, ...] -> [M, ...], detached."""
        return fine_tune(params, loss_fn, self.inner_steps if steps is None else steps, self.inner_lr, kind=self.inner)

    def step(self, loss_fn: LossFn, modules: int = 1) -> dict[str, Tensor]:
        """Make one outer step over M tasks; `loss_fn(params, inner step) -> [M]`.

        Returns: `loss` (mean of `last_loss`), `last_loss` [M] at the last inner step, `grad_norm`; detached,
        not synchronized. Raises: TypeError, ValueError.
        """
        with self.counted_step():
            last, norm = self.descend(loss_fn, modules)
        return {"loss": last.mean(), "last_loss": last, "grad_norm": norm}

    def descend(self, loss_fn: LossFn, modules: int) -> tuple[Tensor, Tensor]:
        """Make the part of `step` that is on the device; return the losses [M] at the last inner step and the norm."""
        adapted, last = self._tuned(loss_fn, modules)
        with torch.no_grad():
            grads = [p - a.mean(0, keepdim=True) for p, a in zip(self.init, adapted, strict=True)]
        return last, self._outer_step(grads)

    def _tuned(self, loss_fn: LossFn, modules: int) -> tuple[Params, Tensor]:
        """Return M modules fine-tuned from the initialization, and their losses [M] before the last step."""
        made = fine_tune_at_once(self.clone(modules), loss_fn, self.inner_steps, self.inner_lr, self.inner)
        if made is not None:
            return made
        last: list[Tensor] = []

        def keep_last(params: Params, step: int) -> Tensor:
            losses = loss_fn(params, step)
            # What the inner loop computes anyway: a look after it would cost one more forward.
            last[:] = [losses.detach()]
            return losses

        return self.adapt(self.clone(modules), keep_last), last[0]
