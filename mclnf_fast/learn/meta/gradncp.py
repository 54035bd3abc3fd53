"""Meta-learn on a pruned context by GradNCP (Tack et al., NeurIPS 2023, arXiv 2302.00617), for banks.

Each inner step looks at those coordinates alone whose gradient in the last layer is longest, found afresh at every
step; a bootstrapped target, from further steps on the whole context, corrects what such short looks miss. At test time
the whole context is used, with gradients as long as those of the pruned one.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from mclnf_fast.checks import check_positive_int
from mclnf_fast.errors import InputError
from mclnf_fast.fields.functional import encode_grids, evaluate_params, split_params
from mclnf_fast.learn.meta.adapt import adapt
from mclnf_fast.learn.meta.meta import MAML
from mclnf_fast.learn.params import LossFn, Params, check_like, check_params
from mclnf_fast.ops import activate, bank_mlp, bank_mse, encode
from mclnf_fast.spec import FieldSpec


def prune_scores(
    params: Params, x: Tensor, offsets: Tensor, y: Tensor, spec: FieldSpec, backend: str | None = "auto"
) -> Tensor:
    """Return the length of each point's gradient of |f(x) - y|^2 / 2 in the last layer: |d_j| |[h_j; 1]|.

    h_j is what the last layer reads and d_j the gradient of what it gives before its activation (the residual, where
    there is none). One forward, no backward.

    Args:
        params: weights, then biases (then the tables of grids), tensors [M, ...].
        x: [N, in_dim], grouped by module.
        offsets: int64 [M + 1].
        y: [N, out_dim].

    Returns: [N], detached. Raises: as `ops.bank_mlp`; ValueError, if y does not fit.

    >>> spec, x = FieldSpec(1, 1, 8, 1), torch.rand(6, 1)
    >>> from mclnf_fast.fields import initial_parameters
    >>> prune_scores(initial_parameters(spec, 2), x, torch.tensor([0, 3, 6]), torch.zeros(6, 1), spec).shape
    torch.Size([6])
    """
    if y.shape != (len(x), spec.out_dim):
        raise ValueError(f"y must be [N, out_dim] = [{len(x)}, {spec.out_dim}], got {tuple(y.shape)}")
    with torch.no_grad():
        weights, biases, tables = split_params(tuple(p.detach() for p in params), spec)
        x, net = encode_grids(x, offsets, tables, spec, backend), spec.mlp
        h = _last_inputs(weights, biases, x, offsets, net, backend)
        layer = FieldSpec(h.shape[1], net.out_dim, hidden_layers=0)
        z = bank_mlp(h, offsets, weights[-1:], biases[-1:], layer, backend)
    with torch.enable_grad():
        z.requires_grad_()
        out = activate(net.output_activation, z, net.w0)
        (d,) = torch.autograd.grad(out, z, out.detach() - y)
    return d.norm(dim=1) * (h.square().sum(1) + 1.0).sqrt()


def keep_top(scores: Tensor, offsets: Tensor, share: float = 0.25) -> tuple[Tensor, Tensor]:
    """Return the points of each module with the largest scores: floor(share n), and at least one where there is one.

    Args:
        scores: [N].
        offsets: int64 [M + 1].
        share: in (0, 1]. Of equal scores the earlier point is kept.

    Returns: ids int64 [K], ascending (hence grouped by module), and their offsets int64 [M + 1]. Raises: InputError.

    >>> keep_top(torch.tensor([1.0, 3.0, 2.0, 5.0]), torch.tensor([0, 3, 4]), 0.5)
    (tensor([1, 3]), tensor([0, 1, 2]))
    """
    if not 0 < share <= 1:
        raise InputError(f"share must be above 0 and at most 1, got {share!r}")
    counts = offsets.diff()
    # A share of 0.29 of 100 points is 29 of them, whatever the product's last bit.
    most = (counts.double() * share + 1e-9).long().clamp(min=1).minimum(counts)
    module = torch.repeat_interleave(torch.arange(len(counts), device=scores.device), counts, output_size=len(scores))
    order = scores.argsort(descending=True, stable=True)
    order = order[module[order].argsort(stable=True)]  # by module, then by score
    rank = torch.arange(len(scores), device=scores.device) - offsets[:-1][module]
    kept = torch.cat((most.new_zeros(1), most.cumsum(0)))
    return order[rank < most[module]].sort().values, kept


def rescale(part: Params, whole: Params) -> Tensor:
    """Return |part| / |whole| of each module, over all its tensors [M, ...] -> [M]; 1 where `whole` is zero.

    With the gradients of the pruned and of the whole context this is GradNCP's factor at test time.

    >>> rescale((torch.tensor([[3.0, 4.0]]),), (torch.tensor([[0.0, 2.5]]),))
    tensor([2.])
    """
    check_like(part, check_params(whole, "whole"), "part")
    lengths = [torch.stack([t.flatten(1).norm(dim=1) for t in tensors]).norm(dim=0) for tensors in (part, whole)]
    return torch.where(lengths[1] > 0, lengths[0] / torch.where(lengths[1] > 0, lengths[1], 1.0), 1.0)


@dataclasses.dataclass(frozen=True)
class PrunedContext:
    """What a bank shall learn: x [N, in_dim] grouped by module, offsets int64 [M + 1], y [N, out_dim]; and the losses
    on it, each `(params, step) -> [M]` for `adapt`, `fine_tune` and `MAML`.

    share: of each module's points that the pruned context keeps.
    """

    x: Tensor
    offsets: Tensor
    y: Tensor
    spec: FieldSpec
    share: float = 0.25
    backend: str | None = "auto"

    @property
    def modules(self) -> int:
        """M."""
        return len(self.offsets) - 1

    def whole(self, params: Params, step: int = 0) -> Tensor:
        """Return the mean squared error over all points."""
        return self._loss(params, self.x, self.offsets, self.y)

    def pruned(self, params: Params, step: int = 0) -> Tensor:
        """Return the mean squared error over the points with the largest `prune_scores` at these parameters."""
        scores = prune_scores(params, self.x, self.offsets, self.y, self.spec, self.backend)
        ids, offsets = keep_top(scores, self.offsets, self.share)
        return self._loss(params, self.x[ids], offsets, self.y[ids])

    def rescaled(self, params: Params, step: int = 0) -> Tensor:
        """Return `whole` with a gradient as long as that of `pruned`, per module; the value stays. For test time."""
        ratio = self._ratio(tuple(p.detach().requires_grad_() for p in params))
        loss = self.whole(params)
        return loss.detach() + ratio * (loss - loss.detach())

    def _ratio(self, leaves: Params) -> Tensor:
        with torch.enable_grad():
            part, whole = (
                # A tensor that a loss does not reach has a gradient of zeros: None has no length.
                torch.autograd.grad(loss(leaves).sum(), leaves, materialize_grads=True)
                for loss in (self.pruned, self.whole)
            )
        return rescale(part, whole)

    def _loss(self, params: Params, x: Tensor, offsets: Tensor, y: Tensor) -> Tensor:
        if not self.spec.grids:
            half = len(params) // 2
            return bank_mse(x, offsets, params[:half], params[half:], y, self.spec, backend=self.backend)
        # The fused op takes no learned grids, so these errors are averaged here.
        squares = (evaluate_params(params, self.spec, x, offsets, self.backend) - y).square().mean(1)
        counts = offsets.diff()
        module = torch.repeat_interleave(torch.arange(len(counts), device=x.device), counts, output_size=len(x))
        return squares.new_zeros(len(counts)).index_add(0, module, squares) / counts.clamp(min=1)


def bootstrapped(
    context: PrunedContext, steps: int = 5, lr: float = 5e-2, weight: float = 100.0, squared: bool = False
) -> LossFn:
    """Return the outer loss of adapted parameters, `(params, step) -> [M]`: that of the whole context, and `weight`
    times the distance to the target that `steps` further steps on it at `lr` lead to, which is held fixed.

    The arguments are those of `GradNCP`.

    >>> spec, x = FieldSpec(1, 1, 8, 1), torch.rand(6, 1)
    >>> from mclnf_fast.fields import initial_parameters
    >>> context = PrunedContext(x, torch.tensor([0, 3, 6]), torch.zeros(6, 1), spec)
    >>> bootstrapped(context, steps=1)(initial_parameters(spec, 2), 0).shape
    torch.Size([2])
    """

    def loss(params: Params, step: int) -> Tensor:
        losses = context.whole(params, step)
        if weight == 0:
            # Not as 0 times the distance: the further steps to the target would be made for nothing.
            return losses
        adapted = tuple(p.detach() for p in params)
        target = adapt(adapted, context.whole, steps, lr, create_graph=False)
        squares = [(t - p).square().flatten(1).sum(1) for t, p in zip(target, params, strict=True)]
        distance = torch.stack(squares).sum(0)
        if not squared:
            # A root has no derivative at 0, where there is nothing to correct.
            distance = torch.where(distance > 0, distance, 1.0).sqrt() * (distance > 0)
        return losses + weight * distance

    return loss


class GradNCP:
    """MAML whose inner steps see a pruned context, with the bootstrapped target.

        outer loss = mean_m  L_m(theta^(K); whole context)  +  weight * |theta*_m - theta_m^(K)|
        theta* = theta^(K) after `bootstrap_steps` further steps on the whole context at `bootstrap_lr`, held fixed

    The distance is the Euclidean length over all parameters of a module, as in the authors' code, whose values for
    images are the defaults; `squared` takes its square. A weight of 0 leaves the target out.

    Args:
        meta: the learner with its initialization, inner and outer steps; `meta.state_dict` is all there is to keep.
        bootstrap_steps, bootstrap_lr, bootstrap_weight, squared: see above.

    Raises: InputError, TypeError, ValueError.
    """

    def __init__(
        self,
        meta: MAML,
        *,
        bootstrap_steps: int = 5,
        bootstrap_lr: float = 5e-2,
        bootstrap_weight: float = 100.0,
        squared: bool = False,
    ) -> None:
        self.meta, self.squared = meta, squared
        self.bootstrap_steps = check_positive_int(bootstrap_steps, "bootstrap_steps")
        if not bootstrap_lr > 0:
            raise InputError(f"bootstrap_lr must be above 0, got {bootstrap_lr!r}")
        if not 0 <= bootstrap_weight < float("inf"):
            raise InputError(f"bootstrap_weight must be finite and at least 0, got {bootstrap_weight!r}")
        self.bootstrap_lr, self.bootstrap_weight = float(bootstrap_lr), float(bootstrap_weight)

    def query_loss(self, context: PrunedContext) -> LossFn:
        """Return the outer loss of adapted parameters, `(params, step) -> [M]`."""
        return bootstrapped(context, self.bootstrap_steps, self.bootstrap_lr, self.bootstrap_weight, self.squared)

    def step(self, context: PrunedContext) -> dict[str, Tensor]:
        """Make one outer step over a meta-batch, one task per module; return what `MAML.step` does."""
        return self.meta.step(context.pruned, self.query_loss(context), context.modules)

    def adapt(self, context: PrunedContext, *, steps: int | None = None, params: Params | None = None) -> Params:
        """Adapt at test time, by the rescaled gradients of the whole context, from `params` or the learned
        initialization.

        Returns: tensors [M, ...], detached.
        """
        init = self.meta.clone(context.modules) if params is None else params
        return self.meta.adapt(init, context.rescaled, steps=steps, create_graph=False)


def _last_inputs(
    weights: list[Tensor], biases: list[Tensor], x: Tensor, offsets: Tensor, spec: FieldSpec, backend: str | None
) -> Tensor:
    """Return the inputs of the last layer, [N, in]: the network without it, by the same op."""
    last = spec.hidden_layers
    if last == 0:
        return encode(spec.encoding, x)
    trunk = dataclasses.replace(
        spec,
        out_dim=spec.width,
        hidden_layers=last - 1,
        output_activation=spec.activation,
        skips=tuple(layer for layer in spec.skips if layer < last),
    )
    h = bank_mlp(x, offsets, weights[:-1], biases[:-1], trunk, backend)
    return torch.cat((h, encode(spec.encoding, x)), 1) if last in spec.skips else h
