"""Remember old tasks as EWC does: a diagonal Fisher matrix and the parameters that it is centered on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.fields.functional import encode_grids, split_params
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.task import ScoredTask

SAMPLES = 4096  # of a task, to estimate its Fisher matrix


class Consolidation:
    """A sum of quadratic penalties sum_i (theta - theta_i)^T F_i (theta - theta_i), kept as one.

        F = sum_i F_i,   anchor = (sum_i F_i theta_i) / F         the same gradient at every theta
        online:  F <- decay F + F_k,   anchor = theta_k           (arXiv 1805.06370, eq. 9)

    F_i is the Gauss-Newton form, sum over output channels c of the samples of E[(df_c / dtheta)^2]: the Fisher
    information of a Gaussian likelihood of variance 1. The empirical form vanishes with the residuals where a field
    fits well.
    """

    def __init__(self, online: bool = False, decay: float = 0.9) -> None:
        self.online, self.decay = online, decay
        self.fisher: Params = ()
        self.anchor: Params = ()

    def __bool__(self) -> bool:
        return bool(self.fisher)

    def add(self, task: ScoredTask, params: Params, seed: int) -> None:
        """Take in a task that ends at `params` [S, ...]."""
        new = diagonal_fisher(task, params, seed)
        if not self.fisher:
            self.fisher, self.anchor = new, tuple(p.clone() for p in params)
        elif self.online:
            self.fisher = tuple(self.decay * f + n for f, n in zip(self.fisher, new))
            # A copy: the steps on the next task change the parameters in place.
            self.anchor = tuple(p.clone() for p in params)
        else:
            total = tuple(f + n for f, n in zip(self.fisher, new))
            self.anchor = tuple(
                # Without any information the mean is 0 / 0, and any anchor will do: its penalty is 0.
                torch.where(t > 0, (f * a + n * p) / torch.where(t > 0, t, 1.0), p)
                for t, f, a, n, p in zip(total, self.fisher, self.anchor, new, params)
            )
            self.fisher = total

    def state_dict(self) -> dict[str, Tensor]:
        """Return Fisher matrix and anchor as tensors (copies); nothing before the first task."""
        state = {f"fisher.{i}": t.clone() for i, t in enumerate(self.fisher)}
        return {**state, **{f"anchor.{i}": t.clone() for i, t in enumerate(self.anchor)}}

    def load_state_dict(self, state: Mapping[str, Tensor], device: torch.device | str = "cpu") -> None:
        """Take over what `state_dict` returned, to `device`. Raises KeyError if an entry is missing."""
        count = len(state) // 2
        self.fisher, self.anchor = (
            tuple(state[f"{name}.{i}"].to(device, copy=True) for i in range(count)) for name in ("fisher", "anchor")
        )


def diagonal_fisher(task: ScoredTask, params: Params, seed: int, samples: int = SAMPLES) -> Params:
    """Return the Gauss-Newton diagonal of every module on a uniform draw of the task's samples: like params, [S, ...].
    A sample of several points (a ray) is one, cross terms included. Tables of grids count for nothing: zeros."""
    batch = task.draw(min(samples, task.samples), torch.Generator().manual_seed(seed))
    weights, biases, tables = split_params(tuple(p.detach() for p in params), task.spec)
    ones = (
        [torch.ones_like(w) for w in weights],
        [torch.ones_like(b) for b in biases],
    )  # known: one sweep will do
    total: Params = ()
    for points in task.outputs(params, batch, seed):
        x = encode_grids(points.x, points.offsets, tables, task.spec, task.backend)
        result = ops.fisher_scores(
            x,
            points.offsets,
            weights,
            biases,
            points.grad_y,
            ones,
            task.spec.mlp,
            points.sample_ids,
            damping=0.0,
            backend=task.backend,
            num_samples=None if points.sample_ids is None else points.num_samples,
        )
        channel = (*result.fisher[0], *result.fisher[1])
        total = channel if not total else tuple(a + b for a, b in zip(total, channel))
    return (*total, *(torch.zeros_like(t) for t in tables))
