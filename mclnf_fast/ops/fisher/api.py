"""The public Fisher scores: how informative each sample is, with gradients and diagonal Fisher of the same sweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mclnf_fast.checks import (
    check_bool,
    check_number,
    check_positive_int,
    check_tensor,
    check_tensors,
    values_can_be_read,
)
from mclnf_fast.ops import _triton
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import HALVES, check_bank, first_layer_widened, in_transform, widened
from mclnf_fast.ops._constants import following, offsets_of_equal_shares
from mclnf_fast.ops._dispatch import Backend, always, cpu_library, register
from mclnf_fast.ops._segment_sum import segment_sum
from mclnf_fast.ops.fisher import autograd, reference
from mclnf_fast.ops.fisher.records import FisherCall, FisherResult, ParameterLists
from mclnf_fast.spec import FieldSpec

autograd.join()


def fisher_scores(
    x: Tensor,
    offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    grad_y: Tensor,
    fisher: tuple[Sequence[Tensor], Sequence[Tensor]] | None,
    spec: FieldSpec,
    sample_ids: Tensor | int | None = None,
    damping: float = 1e-8,
    grads: bool = True,
    backend: str | None = "auto",
    *,
    num_samples: int | None = None,
) -> FisherResult:
    """Score every sample by `sum_p g_sp^2 / (fisher_p + damping)`, `g_s` being the gradient of its own loss.

    This is `g^T F^-1 g` with a diagonal Fisher (MCL-NF, arXiv 2504.05806, its FIM loss), by the identity that one
    point's squared weight gradient is an outer product: no gradient of size samples x parameters is ever stored. A
    sample of many points (a ray) has its gradient formed before it is squared, cross terms included; a sample that
    crosses modules adds up over the modules that it touches.

    It scores the parameters of the network, weights and biases. Tables of grids have no part in it: of a spec with
    grids hand over their features (`fields.encode_grids`) as x and `spec.mlp` as spec, and the scores are those of the
    network behind the grids.

    Args:
        x: coordinates [N, in_dim], grouped by module.
        offsets: int64 [M + 1], as in `bank_mlp`.
        weights, biases: one tensor per layer, [M, in, out] and [M, out]; dtype as in `bank_mlp`.
        grad_y: [N, out_dim], dtype of x: d loss_s / d y_n, of the sample that point n belongs to (not of a mean over
            samples). With the residual inside, the score is the empirical one; with a unit vector per output channel in
            its place, and the scores added over channels, it is the Gauss-Newton one.
        fisher: diagonal Fisher shaped like (weights, biases), dtype of x, or None: this batch's own.
        spec: the architecture.
        sample_ids: int64 [N], the sample (ray) of each point, in any order; None: each point is a sample. A number k:
            points s k ... s k + k - 1 are sample s, and each module has whole samples.
        damping: added to every Fisher value. If the sum is 0 the parameter counts for nothing (the pseudo-inverse).
        grads: False leaves `grads` and `fisher` of the result empty, which is cheaper with `fisher` given.
        backend: `"auto"`, or a name.
        num_samples: S; None: the largest sample id + 1 (or N without ids). A sample without points scores 0.

    Returns:
        FisherResult: scores [S]; grads = sum_s g_s; fisher = mean over a module's samples of g_s^2 (over those samples
        that touch the module; zeros for a module without any). All have the dtype of x, also beside weights of a half
        type, in which squares of gradients would underflow. Nothing of it is differentiable: weights made from scores
        are constants of a loss.

    Raises:
        TypeError, ValueError: as `bank_mlp`; also sample ids out of range, a negative damping or Fisher (whose values
            are read on the CPU alone: on a GPU a negative one counts for nothing).
        RuntimeError: the call is inside a torch.func transform.
        BackendError: the backend asked for can't serve.
        DeviceMemoryError: as `bank_mlp`.

    With a tensor of `sample_ids` the samples are grouped, which depends on their values: a GPU waits for it, and a CUDA
    graph can't hold it. Otherwise nothing waits.

    Example:
        >>> import mclnf_fast as mf
        >>> spec = mf.FieldSpec(2, 3, width=16, hidden_layers=1)
        >>> bank, x, offsets = mf.FieldBank(spec, modules=2), torch.rand(5, 2), torch.tensor([0, 2, 5])
        >>> residual = 2 * (bank(x, offsets=offsets).detach() - torch.rand(5, 3))
        >>> fisher_scores(x, offsets, list(bank.weight), list(bank.bias), residual, None, spec).scores.shape
        torch.Size([5])
    """
    weights, biases = check_bank(x, offsets, weights, biases, spec)
    if in_transform():
        raise RuntimeError(
            "fisher_scores: must be called outside torch.func transforms (grad, vmap, jvp, ...) and "
            "torch.autograd.forward_ad: it is not differentiable"
        )
    points, dtype = x.shape[0], x.dtype
    check_tensor("grad_y", grad_y, (points, spec.out_dim), dtype, x.device, "[N, out_dim]")
    damping, grads = check_number("damping", damping, 0.0, finite=False), check_bool("grads", grads)
    information = None if fisher is None else _checked_fisher(fisher, weights, biases, x)
    if isinstance(sample_ids, int):
        samples = _count_runs(sample_ids, offsets, points, num_samples)
        sample_ids = None if sample_ids == 1 else sample_ids
    else:
        samples = _count_samples(sample_ids, points, offsets.numel() - 1, x.device, num_samples)
    weights, biases = first_layer_widened(weights, biases)
    function = _OP.serving(backend, x.device, weights[-1].dtype)
    call = FisherCall(
        widened(x.detach()),
        offsets,
        [w.detach() for w in weights],
        [b.detach() for b in biases],
        widened(grad_y.detach()),
        information,
        spec,
        sample_ids,
        samples,
        damping,
        grads,
    )
    with torch.no_grad(), torch.autocast(x.device.type, enabled=False):
        scores, *lists = function(call)
    rounded: list[ParameterLists] = [([t.to(dtype) for t in p[0]], [t.to(dtype) for t in p[1]]) for p in lists]
    return FisherResult(scores.to(dtype), rounded[0], rounded[1])


def _checked_fisher(fisher: object, weights: list[Tensor], biases: list[Tensor], x: Tensor) -> ParameterLists:
    """Return the caller's diagonal Fisher, in the dtype that scores are computed in: half types' squares underflow."""
    dtypes = (x.dtype, torch.float32) if x.dtype in HALVES else x.dtype
    if not isinstance(fisher, (tuple, list)) or len(fisher) != 2:
        raise TypeError(f"fisher must be a pair (like weights, like biases), got {type(fisher).__name__}")
    checked: list[list[Tensor]] = []
    for k, (name, like) in enumerate((("weights", weights), ("biases", biases))):
        tensors = check_tensors(f"fisher[{k}]", fisher[k])
        if len(tensors) != len(like):
            raise ValueError(
                f"fisher[{k}] must hold {len(like)} tensors like {name}, one per layer, got {len(tensors)}"
            )
        for l, (f, t) in enumerate(zip(tensors, like)):
            where = f"fisher[{k}][{l}]"
            check_tensor(where, f, t.shape, dtypes, x.device, f"like {name}[{l}]")
        checked.append([widened(f.detach()) for f in tensors])
    return checked[0], checked[1]


def _refuse_negative(fisher: ParameterLists) -> None:
    for k, tensors in enumerate(fisher):
        for l, f in enumerate(tensors):
            if f.numel() and values_can_be_read(f) and not bool((f >= 0).all()):
                raise ValueError(f"fisher[{k}][{l}] must not be negative or NaN, got {float(f.min())}")


def _count_samples(
    sample_ids: Tensor | None, points: int, modules: int, device: torch.device, num_samples: int | None
) -> int:
    """Return S, with the ids checked against it."""
    if num_samples is not None and (
        isinstance(num_samples, bool) or not isinstance(num_samples, int) or num_samples < 0
    ):
        raise ValueError(f"num_samples must be an int of at least 0, got {num_samples!r}")
    if sample_ids is None:
        if num_samples not in (None, points):
            raise ValueError(f"num_samples must be N = {points} where sample_ids is None, got {num_samples}")
        return points
    check_tensor("sample_ids", sample_ids, (points,), torch.int64, device, "[N]")
    low, high = torch.stack(sample_ids.aminmax()).tolist() if points else (0, -1)  # one wait for a GPU
    samples = high + 1 if num_samples is None else num_samples
    # A sample's share of a module has the number module * S + sample, which must fit an int64.
    if low < 0 or high >= samples or samples * max(modules, 1) >= 2**63:
        most = samples if samples * max(modules, 1) < 2**63 else 2**63 // max(modules, 1)
        raise ValueError(f"sample_ids must lie in [0, {most}), got {low if low < 0 else high}")
    return samples


def _count_runs(size: int, offsets: Tensor, points: int, num_samples: int | None) -> int:
    """Return how many samples of `size` points in succession there are, which no module shares."""
    if check_positive_int(size, "sample_ids") > 1 and (
        points % size or (values_can_be_read(offsets) and bool((offsets % size).any()))
    ):
        raise ValueError(f"sample_ids must divide the points of every module, got {size} for {points} points in all")
    if num_samples not in (None, points // size):
        raise ValueError(f"num_samples must be {points // size}, or None, with runs of points, got {num_samples}")
    return points // size


Sums = tuple[Tensor, ParameterLists, ParameterLists]
"""Scores, sums of gradients and means of their squares."""

Sweep = Callable[[FisherCall, Tensor | None, Tensor, ParameterLists | None, bool], Sums]
"""One pass of a compiled backend over the points: the call, the first point of each segment or None if each point is
one, the first segment of each module, the Fisher to score by or None, and whether the sums are wanted."""


def _reference(call: FisherCall) -> Sums:
    call = call.to(call.x.dtype)
    if call.fisher is not None:
        _refuse_negative(call.fisher)
    ids = call.sample_ids
    if not isinstance(ids, Tensor):
        ids = torch.arange(call.x.shape[0], device=call.x.device) // (ids or 1)
    return reference.fisher_scores(call._replace(sample_ids=ids))


def _cpu(call: FisherCall) -> Sums:
    return _by_sweeps(call.to(call.x.dtype), _cpu_sweep)


def _triton_sweeps(call: FisherCall) -> Sums:
    if call.fisher is not None:
        _refuse_negative(call.fisher)
    # Half types are multiplied as they are, and squares and sums formed in float32.
    return _by_sweeps(call, _triton_sweep)


def _by_sweeps(call: FisherCall, sweep: Sweep) -> Sums:
    """Return the result of one sweep if the Fisher is given; of two if the batch's own must be known before the first
    score."""
    modules, samples = call.modules, max(call.samples, 1)
    bounds, shares, owner = None, call.offsets, None
    if isinstance(call.sample_ids, int):
        size = call.sample_ids
        bounds = offsets_of_equal_shares(call.samples, size, call.x.device)
        shares = following(call.offsets, ("samples", size), lambda: call.offsets // size)
    elif call.sample_ids is not None:
        # Points of one sample side by side within their module: a sample's share of a module is a segment.
        index = torch.arange(modules + 1, device=call.x.device)
        owners = torch.repeat_interleave(index[:-1], call.offsets.diff(), output_size=call.x.shape[0])
        key = owners * samples + call.sample_ids
        if key.numel() and bool((key[1:] < key[:-1]).any()):
            key, order = key.sort(stable=True)
            call = call._replace(x=call.x[order], grad_y=call.grad_y[order])
        segments, length = torch.unique_consecutive(key, return_counts=True)
        bounds = torch.cat((length.new_zeros(1), length.cumsum(0)))
        shares = torch.searchsorted(segments, index * samples)
        owner = segments % samples
    if call.fisher is None:
        _, total, mean = sweep(call, bounds, shares, None, True)
        scores = sweep(call, bounds, shares, mean, False)[0]
    else:
        scores, total, mean = sweep(call, bounds, shares, call.fisher, call.grads)
    if owner is not None:  # a sample's scores over the modules that it touches, in the modules' order
        scores = segment_sum(scores, owner, call.samples)
    none: ParameterLists = ([], [])
    return scores, total if call.grads else none, mean if call.grads else none


def _cpu_sweep(
    call: FisherCall, bounds: Tensor | None, shares: Tensor, fisher: ParameterLists | None, sums: bool
) -> Sums:
    points = bounds is None
    op = COMPILED.fisher_points if points else COMPILED.fisher_segments
    segments = () if points else (bounds, shares)
    known = fisher or ([], [])
    bank = (call.x, call.offsets, call.weights, call.biases, call.grad_y)
    try:
        scores, *lists = op(*bank, *segments, *known, call.damping, *call.spec.packed, sums)
    except RuntimeError as error:
        if "must not be negative" in str(error):  # noticed in the sweep: a check first would cost a pass over memory
            raise ValueError(str(error).splitlines()[0]) from None
        raise
    grad_w, grad_b, mean_w, mean_b = map(list, lists)
    return scores, (grad_w, grad_b), (mean_w, mean_b)


def _triton_sweep(
    call: FisherCall, bounds: Tensor | None, shares: Tensor, fisher: ParameterLists | None, sums: bool
) -> Sums:
    from mclnf_fast.ops.fisher.triton import ops  # takes a second, with Triton

    bank = (call.x, call.offsets, call.weights, call.biases, call.grad_y)
    return ops.fisher_scores(*bank, fisher, call.spec, bounds, shares, call.damping, sums, torch.float32)


_OP = register(
    "fisher_scores",
    cpu=Backend(cpu_library, _cpu),
    triton=Backend(_triton.why_not, _triton_sweeps),
    reference=Backend(always, _reference),
)
