"""The public squared error of the pixels that a bank's rays are composited to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from mclnf_fast.checks import check_tensor
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import (
    CAST,
    HALVES,
    autocast_enabled,
    check_field,
    check_offsets,
    parameters_for,
    widened,
    without_autocast,
)
from mclnf_fast.ops._constants import constant
from mclnf_fast.ops._dispatch import Backend, always, cpu_library, cuda_library, register
from mclnf_fast.ops._losses import FieldPoints, checked_mean
from mclnf_fast.ops.bank_ray_mse import autograd
from mclnf_fast.ops.bank_ray_mse.reference import ray_errors
from mclnf_fast.shading import Shading
from mclnf_fast.spec import FieldSpec

autograd.join()


def bank_ray_mse(
    x: Tensor,
    rays: Tensor,
    ray_offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    deltas: Tensor,
    target: Tensor,
    spec: FieldSpec,
    shading: Shading | None = None,
    *,
    ray_weight: Tensor | None = None,
    background: Tensor | None = None,
    reduction: str = "mean",
    backend: str | None = "auto",
) -> Tensor:
    """Return one loss per module: the squared error of the pixels that its rays' points are composited to.

        loss_m = sum over its rays r of  w_r |pixel_r - target_r|^2          ("mean": divided by 3 rays_m)

    with the pixels of volume rendering (arXiv 2003.08934 eq. 3, see `composite`) over the points' densities and colors,
    which `shading` reads off the field's 4 outputs, and the sample spacings `deltas`. Equal to `bank_mlp`, `composite`
    and the squared error one after the other, and in `cpu` faster: a few rays at a time go through the network, the
    pixels and back, so that no activation is computed twice or leaves the cache. That holds if weights and biases alone
    require a gradient (not for bfloat16 weights on a processor that multiplies them in pairs); otherwise, on a GPU, and
    in a backward that is differentiated itself (its second derivative is exact), the steps are taken one after the
    other.

    Args:
        x: coordinates [N, in_dim] of the rays' points, front to back, ray after ray; N may be 0.
        rays: int64 [R + 1]; ray r has the points rays[r] ... rays[r+1]-1, and may have none.
        ray_offsets: int64 [M + 1]; module m has the rays ray_offsets[m] ... ray_offsets[m+1]-1. The loss of a module
            without rays is 0.
        weights: one tensor per layer, [M, in, out] as `spec.layer_shapes` gives them; dtype as in `bank_mlp`.
        biases: one tensor per layer, [M, out], dtype of the weights.
        deltas: [N], dtype of x: the length of each point's interval, in units of t.
        target: [R, 3], dtype of x.
        spec: the architecture, of 4 outputs.
        shading: the meaning of the outputs, and what stands behind the samples; None: `Shading()`.
        ray_weight: [R], dtype of x; None: ones. The mean is over rays and channels, not over weights.
        background: [3], dtype of x, in place of `shading.background` (for a learned one); None: that one. Must be None
            if that one is `last_sample`.
        reduction: `"mean"` over rays and channels, or `"sum"`.
        backend: `"auto"`, or a name; see `mclnf_fast.info()`.

    Returns:
        [M], dtype of x; float32 for float16 and bfloat16. Autocast casts weights and biases alone.

    Raises:
        As `bank_mlp`, naming `rays`, `ray_offsets`, `deltas`, `target`, `ray_weight`, `background`, `spec` and
        `reduction` besides.

    Example:
        >>> import torch
        >>> import mclnf_fast as mf
        >>> spec = mf.FieldSpec(3, 4, width=16, hidden_layers=1)
        >>> bank = mf.FieldBank(spec, modules=2)
        >>> rays, ray_offsets = torch.arange(4) * 5, torch.tensor([0, 1, 3])  # 3 rays of 5 points each
        >>> parameters = list(bank.weight), list(bank.bias)
        >>> bank_ray_mse(
        ...     torch.rand(15, 3), rays, ray_offsets, *parameters, torch.full((15,), 0.2), torch.rand(3, 3), spec
        ... ).shape
        torch.Size([2])
    """
    shading = Shading() if shading is None else shading
    if not isinstance(shading, Shading):
        raise TypeError(f"shading must be a Shading or None, got {type(shading).__name__}")
    cast = isinstance(x, Tensor) and x.dtype in CAST and autocast_enabled(x)
    weights, biases = check_field(x, weights, biases, spec, cast)
    points = x.shape[0]
    check_offsets("rays", rays, None, points, x.device)
    count = rays.shape[0] - 1
    check_offsets("ray_offsets", ray_offsets, weights[0].shape[0], count, x.device, "rays")
    offsets = rays.index_select(0, ray_offsets)
    if spec.out_dim != 4:
        raise ValueError(f"spec must have out_dim 4, a density and three colors, got {spec.out_dim}")
    check_tensor("deltas", deltas, (points,), x.dtype, x.device, "[N]")
    check_tensor("target", target, (count, 3), x.dtype, x.device, "[R, 3]")
    if ray_weight is not None:
        check_tensor("ray_weight", ray_weight, (count,), x.dtype, x.device, "[R]")
    if background is not None:
        check_tensor("background", background, (3,), x.dtype, x.device, "[3]")
        if shading.background == "last_sample":
            raise ValueError("background must be None if shading.background is 'last_sample', got a tensor")
    elif shading.background != "black" and (color := shading.background_color) is not None:
        background = constant(color, x)
    mean = checked_mean(reduction)
    weights, biases = parameters_for(x, weights, biases)
    function = _OP.serving(backend, x.device, weights[-1].dtype)
    with without_autocast(x):
        weight, behind = (None if t is None else widened(t) for t in (ray_weight, background))
        batch = RayBatch(rays, ray_offsets, widened(deltas), widened(target), weight, behind)
        loss: Tensor = function(FieldPoints(widened(x), offsets, weights, biases, spec), batch, shading, mean)
        return loss


class RayBatch(NamedTuple):
    """The rays of a call beside the bank's points: which points each has, and which color it must be.

    Both offsets come first; the others may be differentiated.
    """

    rays: Tensor
    ray_offsets: Tensor
    deltas: Tensor
    target: Tensor
    ray_weight: Tensor | None
    background: Tensor | None


def _in_steps(points: FieldPoints, batch: RayBatch, shading: Shading, mean: bool, backend: str = "reference") -> Tensor:
    """Return the losses by `bank_mlp`, `composite` and the squared error, each of a backend."""
    return ray_errors(points.outputs(backend), *batch, shading, mean, backend)


def _cpu(points: FieldPoints, batch: RayBatch, shading: Shading, mean: bool) -> Tensor:
    points = points.on_cpu
    if points.weights[-1].dtype in HALVES or not points.parameters_alone(*batch[2:]):
        return _in_steps(points, batch, shading, mean, "cpu")
    *bank, spec = points
    op = COMPILED.bank_ray_mse_fwd
    return op(*bank, *batch, *spec.packed, *autograd.packed(shading, points.x.dtype), mean, points.need_gradients)[0]


def _cuda(points: FieldPoints, batch: RayBatch, shading: Shading, mean: bool) -> Tensor:
    # No CUDA kernel fuses them; each step takes the best backend that it has there.
    return _in_steps(points, batch, shading, mean, "auto")


_OP = register(
    "bank_ray_mse",
    cuda=Backend(cuda_library, _cuda),
    cpu=Backend(cpu_library, _cpu),
    reference=Backend(always, _in_steps),
)
