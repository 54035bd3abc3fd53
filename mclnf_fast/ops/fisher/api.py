"""Fisher scores: how informative each sample is, with gradients and diagonal Fisher of the same sweep."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mclnf_fast.ops import _checks, _dispatch, _triton
from mclnf_fast.ops._sums import added
from mclnf_fast.ops.bank_mlp.api import check_bank
from mclnf_fast.ops.fisher import autograd as _autograd  # noqa: F401 (gives the compiled ops their shapes)
from mclnf_fast.ops.fisher import reference
from mclnf_fast.spec import FieldSpec

_dispatch.register("fisher_scores", "cpu", _dispatch.cpu_library)
_dispatch.register("fisher_scores", "triton", _triton.why_not)
_dispatch.register("fisher_scores", "reference", _dispatch.always)

_select = _dispatch.selector("fisher_scores")


Pair = tuple[list[Tensor], list[Tensor]]


class FisherResult(NamedTuple):
    """scores [S]; grads and fisher are pairs (one tensor a layer [M, in, out], one a layer [M, out])."""

    scores: Tensor
    grads: Pair
    fisher: Pair


def fisher_scores(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    grad_y: Tensor,
    fisher: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
    spec: FieldSpec,
    sample_ids: Tensor | None = None,
    damping: float = 1e-8,
    grads: bool = True,
    backend: str | None = "auto",
    *,
    num_samples: int | None = None,
) -> FisherResult:
    """Scores every sample by `sum_p g_sp^2 / (fisher_p + damping)`, `g_s` being the gradient of its own loss.

    This is `g^T F^-1 g` with a diagonal Fisher (MCL-NF, arXiv 2504.05806, its FIM loss), by the identity
    that one point's squared weight gradient is an outer product: no gradient of size samples x parameters
    is ever stored. A sample of many points (a ray) has its gradient formed before it is squared, cross
    terms included; a sample that crosses modules adds up over the modules that it touches.

    Args:
        x: coordinates [N, in_dim], grouped by module.
        offsets: int64 [M + 1], as in `bank_mlp`.
        weights, biases: one tensor a layer, [M, in, out] and [M, out].
        grad_y: [N, out_dim], d loss_s / d y_n, of the sample that point n belongs to (not of a mean over
            samples). With the residual inside, the score is the empirical one; with a unit vector per
            output channel in its place, and the scores added over channels, it is the Gauss-Newton one.
        fisher: diagonal Fisher shaped like (weights, biases), or None: this batch's own.
        spec: the architecture.
        sample_ids: int64 [N], the sample (ray) of each point, in any order; None: each point is a sample.
        damping: added to every Fisher value. Where the sum is 0 the parameter counts for nothing (the
            pseudo-inverse).
        grads: False leaves `grads` and `fisher` of the result empty, which is cheaper with `fisher` given.
        backend: `"auto"`, or a name.
        num_samples: S; None: the largest sample id + 1 (or N without ids). A sample without points scores 0.

    Returns:
        FisherResult: scores [S]; grads = sum_s g_s; fisher = mean over a module's samples of g_s^2 (over
        those samples that touch the module; zeros for a module without any). Nothing of it is
        differentiable: weights made from scores are held fixed.

    Raises:
        TypeError, ValueError: as `bank_mlp`; also sample ids out of range, a negative damping or Fisher (whose values
            are looked at on the CPU alone: on a GPU a negative one counts for nothing).
        BackendError: the backend asked for can't serve.
        DeviceMemoryError: as `bank_mlp`.

    With `sample_ids` the samples are grouped, which depends on their values: a GPU waits for it, and a CUDA graph can't
    hold it. Without, nothing waits.
    """
    weights, biases = _checks.tensors("weights", weights), _checks.tensors("biases", biases)
    check_bank(x, offsets, weights, biases, spec)
    if _checks.in_transform():
        raise RuntimeError("fisher_scores: must be called outside torch.func transforms (grad, vmap, ...)")
    points = x.shape[0]
    _checks.check_tensor("grad_y", grad_y, (points, spec.out_dim), x.dtype, x.device, "[N, out_dim]")
    if isinstance(damping, bool) or not isinstance(damping, (int, float)) or not damping >= 0:
        raise ValueError(f"damping must be a number of at least 0, got {damping!r}")
    dtype = x.dtype
    # The reference and the CPU compute float16 and bfloat16 in float32: squares of half gradients underflow. Triton
    # multiplies them as they are, and forms squares and sums in float32.
    wide = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    given = None if fisher is None else _checked_fisher(fisher, weights, biases, x, wide)
    samples = _count_samples(sample_ids, points, offsets.numel() - 1, x.device, num_samples)
    chosen = _select(backend, x.device, dtype)
    used = dtype if chosen == "triton" else wide
    x, grad_y = x.detach().to(used), grad_y.detach().to(used)
    weights, biases = [w.detach().to(used) for w in weights], [b.detach().to(used) for b in biases]
    if given is not None and chosen != "triton":
        given = ([t.to(wide) for t in given[0]], [t.to(wide) for t in given[1]])
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        if chosen == "reference":
            if given is not None:
                _refuse_negative(given)
            ids = torch.arange(points, device=x.device) if sample_ids is None else sample_ids
            result = reference.fisher_scores(
                x, offsets, weights, biases, grad_y, given, spec, ids, samples, damping, grads
            )
        else:
            if chosen == "triton" and given is not None:
                _refuse_negative(given)
            result = _compiled(
                x, offsets, weights, biases, grad_y, given, spec, sample_ids, samples, damping, grads, chosen
            )
    scores, *pairs = result
    narrow: list[Pair] = [([t.to(dtype) for t in p[0]], [t.to(dtype) for t in p[1]]) for p in pairs]
    return FisherResult(scores.to(dtype), narrow[0], narrow[1])


def _checked_fisher(fisher: object, weights: list[Tensor], biases: list[Tensor], x: Tensor, wide: torch.dtype) -> Pair:
    """The caller's diagonal Fisher, in the dtype of x or the one that the reference computes in (wide)."""
    if not isinstance(fisher, (tuple, list)) or len(fisher) != 2:
        raise TypeError(f"fisher must be a pair (like weights, like biases), got {type(fisher).__name__}")
    checked: list[list[Tensor]] = []
    for k, (name, like) in enumerate((("weights", weights), ("biases", biases))):
        tensors = _checks.tensors(f"fisher[{k}]", fisher[k])
        if len(tensors) != len(like):
            raise ValueError(f"fisher[{k}] must hold {len(like)} tensors like {name}, one a layer, got {len(tensors)}")
        for l, (f, t) in enumerate(zip(tensors, like)):
            where = f"fisher[{k}][{l}]"
            _checks.check_tensor(where, f, t.shape, (x.dtype, wide), x.device, f"like {name}[{l}]")
        checked.append([f.detach() for f in tensors])
    return checked[0], checked[1]


def _refuse_negative(fisher: Pair) -> None:
    for k, tensors in enumerate(fisher):
        for l, f in enumerate(tensors):
            if f.numel() and _checks.values_can_be_read(f) and not bool((f >= 0).all()):
                raise ValueError(f"fisher[{k}][{l}] must not be negative or NaN, got {float(f.min())}")


def _count_samples(
    sample_ids: Tensor | None, points: int, modules: int, device: torch.device, num_samples: int | None
) -> int:
    """S, with the ids checked against it."""
    if num_samples is not None and (
        isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 0
    ):
        raise ValueError(f"num_samples must be an int of at least 0, got {num_samples!r}")
    if sample_ids is None:
        if num_samples not in (None, points):
            raise ValueError(f"num_samples must be N = {points} where sample_ids is None, got {num_samples}")
        return points
    _checks.check_tensor("sample_ids", sample_ids, (points,), torch.int64, device, "[N]")
    low, high = (int(v) for v in sample_ids.aminmax()) if points else (0, -1)
    samples = high + 1 if num_samples is None else num_samples
    # A sample's share of a module is found by the number module * S + sample.
    if low < 0 or high >= samples or samples * max(modules, 1) >= 2**63:
        most = samples if samples * max(modules, 1) < 2**63 else 2**63 // max(modules, 1)
        raise ValueError(f"sample_ids must lie in [0, {most}), got {low if low < 0 else high}")
    return samples


def _compiled(
    x: Tensor,
    offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    grad_y: Tensor,
    fisher: Pair | None,
    spec: FieldSpec,
    sample_ids: Tensor | None,
    samples: int,
    damping: float,
    grads: bool,
    backend: str,
) -> tuple[Tensor, Pair, Pair]:
    """One sweep where the Fisher is given; two where the batch's own must be known before the first score."""
    modules = offsets.numel() - 1
    bounds, shares, owner = None, offsets, None
    if sample_ids is not None:
        # Points of one sample side by side within their module: a sample's share of a module is a segment.
        index = torch.arange(modules + 1, device=x.device)
        key = torch.repeat_interleave(index[:-1], offsets.diff()) * max(samples, 1) + sample_ids
        if key.numel() and bool((key[1:] < key[:-1]).any()):
            key, order = key.sort(stable=True)
            x, grad_y = x[order], grad_y[order]
        found, length = torch.unique_consecutive(key, return_counts=True)
        bounds = torch.cat((length.new_zeros(1), length.cumsum(0)))
        shares = torch.searchsorted(found, index * max(samples, 1))
        owner = found % max(samples, 1)
    ints, floats = spec.packed

    def sweep(known: Pair | None, sums: bool) -> tuple[Tensor, Pair, Pair]:
        if backend == "triton":
            from mclnf_fast.ops.fisher.triton import ops  # takes a second, with Triton

            # The batch's own Fisher stays float32 on its way to the scores.
            result = x.dtype if known is not None else torch.float32
            return ops.fisher_scores(
                x, offsets, weights, biases, grad_y, known, spec, bounds, shares, damping, sums, result
            )
        extra: tuple[Tensor, ...] = ()
        op = torch.ops.mclnf_fast.fisher_points
        if bounds is not None:
            op, extra = torch.ops.mclnf_fast.fisher_segments, (bounds, shares)
        f = known or ([], [])
        try:
            s, gw, gb, fw, fb = op(x, offsets, weights, biases, grad_y, *extra, f[0], f[1], damping, ints, floats, sums)
        except RuntimeError as error:
            if "must not be negative" in str(error):  # found in the sweep: looking first would cost a pass over memory
                raise ValueError(str(error).splitlines()[0]) from None
            raise
        return s, (list(gw), list(gb)), (list(fw), list(fb))

    none: Pair = ([], [])
    if fisher is None:
        _, total, mean = sweep(None, True)
        scores = sweep(mean, False)[0]
    else:
        scores, total, mean = sweep(fisher, grads)
    if owner is not None:  # a sample's scores over the modules that it touches, in the modules' order
        scores = added(scores, owner, samples)
    return scores, total if grads else none, mean if grads else none
