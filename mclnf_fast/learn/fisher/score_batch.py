"""Describe one batch to be scored: a bank, its points, and the gradients of what each sample is judged by."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.learn.params import Params, per_module
from mclnf_fast.ops import FisherResult, bank_mlp, fisher_scores, segment_sum
from mclnf_fast.spec import FieldSpec

State = tuple[Params, Params]
"""What a Fisher matrix is remembered by: two tuples of tensors [M, ...]; each kind has its own."""


class Measured(NamedTuple):
    """scores [K]; the batch's own Fisher as a state (None where nobody keeps it); grads, the gradient of the sum of
    the samples' losses, where it came along."""

    scores: Tensor
    state: State | None
    grads: Params | None


@dataclass(frozen=True)
class Batch:
    """The points of a bank and the directions that they are scored in.

    A *sample* is a point, or the points that share a sample id (a ray), or so many points in succession. What a sample
    has in one module is its *share* of it; scores of shares add up to the sample's. `directions` are gradients [N, out]
    in the outputs: one, the loss's own, for the empirical Fisher, or one an output channel for the Gauss-Newton one;
    Fisher and scores are sums over them. `remember`: whether the batch's Fisher will be kept.
    """

    spec: FieldSpec
    weights: Params
    biases: Params
    x: Tensor
    offsets: Tensor
    directions: tuple[Tensor, ...]
    sample_ids: Tensor | int | None
    num_samples: int
    backend: str | None
    remember: bool

    @property
    def modules(self) -> int:
        """M."""
        return len(self.offsets) - 1

    @property
    def params(self) -> Params:
        """Weights, then biases."""
        return (*self.weights, *self.biases)

    @cached_property
    def point_module(self) -> Tensor:
        """Return the module of each point."""
        ids = torch.arange(self.modules, device=self.x.device)
        return torch.repeat_interleave(ids, self.offsets.diff(), output_size=len(self.x))

    @cached_property
    def shares(self) -> tuple[Tensor | None, Tensor, Tensor | None]:
        """Return the share of each point [N], the module and the sample of each share [K]; first and last are None
        where every point is a sample of its own."""
        if self.sample_ids is None:
            return None, self.point_module, None
        own = self.sample_ids
        if isinstance(own, int):
            own = torch.arange(len(self.x), device=self.x.device) // own
        found, ids = (self.point_module * max(self.num_samples, 1) + own).unique(return_inverse=True)
        return ids, found // max(self.num_samples, 1), found % max(self.num_samples, 1)

    @property
    def touching(self) -> Tensor | None:
        """Return the share of each module's samples that have a gradient at all, above 0 [M]; None unless samples are
        points in succession: a ray that misses its cell has such points, too, which do not count."""
        if not isinstance(self.sample_ids, int):
            return None
        touches = torch.stack([d.reshape(self.num_samples, -1).ne(0).any(1) for d in self.directions]).any(0)
        modules, counts = torch.arange(self.modules, device=self.x.device), self.offsets.diff() // self.sample_ids
        owner = torch.repeat_interleave(modules, counts, output_size=self.num_samples)
        total = segment_sum(touches.to(self.x.dtype), owner, self.modules)
        return torch.where(total > 0, total / counts.clamp(min=1), 1.0)

    @cached_property
    def counts(self) -> Tensor:
        """Return [M], dtype of x: shares of each module, at least 1 (to divide by)."""
        module = self.shares[1]
        return segment_sum(torch.ones_like(module, dtype=self.x.dtype), module, self.modules).clamp(min=1)

    def over_samples(self, shares: Tensor) -> Tensor:
        """Return scores of shares [K] -> scores of samples."""
        owner = self.shares[2]
        return shares if owner is None else segment_sum(shares, owner, self.num_samples)

    def over_shares(self, points: Tensor) -> Tensor:
        """Return the sums over the points [N, ...] of each share -> [K, ...]."""
        ids = self.shares[0]
        return points if ids is None else segment_sum(points, ids, len(self.shares[1]))

    def module_means(self, shares: Tensor) -> Tensor:
        """Return the mean over each module's shares: [K] -> [M]."""
        return segment_sum(shares, self.shares[1], self.modules) / self.counts

    def sweep(self, direction: Tensor, fisher: State, *, sums: bool = True, by_share: bool = False) -> FisherResult:
        """Return `ops.fisher_scores` in one direction against a diagonal Fisher that is damped already; the scores are
        of samples, or with `by_share` of shares."""
        ids, module, _ = self.shares if by_share else (self.sample_ids, None, None)
        count = len(module) if module is not None else self.num_samples
        return fisher_scores(
            self.x,
            self.offsets,
            self.weights,
            self.biases,
            direction,
            fisher,
            self.spec,
            sample_ids=ids,
            num_samples=count,
            # The op's damping is absolute: that of `fisher` is relative to its mean, and in it already.
            damping=0.0,
            grads=sums,
            backend=self.backend,
        )

    def tangents(self, along: Params) -> Tensor:
        """Return the `tangents` of the batch's points."""
        return tangents(self.params, along, self.x, self.offsets, self.spec, self.backend)


def tangents(
    params: Params, along: Params, x: Tensor, offsets: Tensor, spec: FieldSpec, backend: str | None = "auto"
) -> Tensor:
    """Return how the outputs move when the parameters of each module move along `along`: J u, [N, out].

    By a backward of the backward, which is linear in what it is given: no gradient of a single point is formed.

    Args:
        params, along: weights, then biases, tensors [M, ...].
        x: [N, in], grouped by module.
        offsets: int64 [M + 1].
    """
    with torch.enable_grad():
        leaves = tuple(p.detach().requires_grad_() for p in params)
        half = len(leaves) // 2
        y = bank_mlp(x, offsets, leaves[:half], leaves[half:], spec, backend)
        # Zeros will do: the gradient is linear in `dummy`, and only its derivative is wanted.
        dummy = torch.zeros_like(y, requires_grad=True)
        pulled = torch.autograd.grad(y, leaves, dummy, create_graph=True)
        return torch.autograd.grad(pulled, dummy, along)[0]


def unit(vector: Params) -> Params:
    """Return each module's vector (its entries in all tensors [M, ...]) at length 1; zero stays zero."""
    tiny = torch.finfo(vector[0].dtype).tiny
    # By the largest entry first: squares of small gradients would be lost in float32.
    largest = torch.stack([v.abs().flatten(1).amax(1) for v in vector]).amax(0).clamp(min=tiny)
    scaled = tuple(v / per_module(largest, v) for v in vector)
    length = torch.stack([v.square().flatten(1).sum(1) for v in scaled]).sum(0).sqrt().clamp(min=tiny)
    return tuple(v / per_module(length, v) for v in scaled)
