"""The public compositing function: it checks its arguments, and a backend computes the result."""

from __future__ import annotations

import torch
from torch import Tensor

from mclnf_fast.checks import check_number, check_tensor, values_can_be_read
from mclnf_fast.ops._autograd import COMPILED
from mclnf_fast.ops._checks import in_transform, refuse_mapped
from mclnf_fast.ops._dispatch import Backend, always, cpu_library, cuda_library, register
from mclnf_fast.ops.composite import autograd, reference
from mclnf_fast.ops.composite.reference import Composite

_HALF_OR_SINGLE = (torch.float32, torch.float16, torch.bfloat16)

autograd.join()


def composite(
    density: Tensor,
    color: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    packed_info: Tensor | None = None,
    background: Tensor | None = None,
    *,
    early_stop_eps: float = 0.0,
    backend: str | None = "auto",
) -> Composite:
    """Composite the samples of rays (volume rendering, arXiv 2003.08934 eq. 3).

    With `s_i = density_i (t_end_i - t_start_i)` and `T_i = exp(-sum_{j<i} s_j)` along a ray, the weights are
    `w_i = T_i (1 - exp(-s_i))`; color is `sum w_i color_i + (1 - sum w_i) background`, opacity `sum w_i` and
    depth `sum w_i (t_start_i + t_end_i) / 2`. A ray without samples shows the background (0 without one).

    Differentiable twice in density, color, t_starts, t_ends and background (the reference: any number of
    times). Deterministic on every backend.

    Args:
        density: [N], or [R, S] if every ray has S samples; per unit of t. Not checked to be positive.
        color: [N, C] or [R, S, C], any C >= 1.
        t_starts: like density, the begin of each sample, in order along a ray.
        t_ends: like density, its end. Values are not checked: an interval of length 0 has no weight, whatever its
            density, and a backward one counts with its negative length, as the formula says. An endless density has no
            gradient in t.
        packed_info: int64 [R, 2], (first sample, count) of each ray, in increasing order, without overlap;
            samples that belong to no ray have weight and gradient 0. None: the dense layout. Values are
            checked on the CPU, not on an accelerator (which would have to wait) and not while `torch.compile`
            traces.
        background: color behind the samples, [C] or [R, C]; None: black.
        early_stop_eps: in [0, 1). Above 0, the samples of a ray from the first with `T_i < early_stop_eps` on
            contribute nothing and have no gradient.
        backend: "auto", "cuda", "cpu" or "reference". Inside torch.func transforms and forward-mode differentiation
            the reference serves.

    Tensors share one device and are float64 throughout, or float32, float16 and bfloat16 in any mixture:
    these are computed in float32 and the results have density's dtype.

    Returns:
        Composite(color [R, C], opacity [R], depth [R], weights like density).

    Raises:
        TypeError: an argument is no tensor or has a wrong dtype.
        ValueError: a wrong shape, device, packed_info or early_stop_eps.
        BackendError: a backend asked for by name can't serve.

    Example:
        >>> starts = torch.tensor([[0.0, 1.0]])  # one ray of two samples of length 1
        >>> out = composite(torch.tensor([[0.0, 100.0]]), torch.tensor([[[1.0], [0.5]]]), starts, starts + 1)
        >>> out.color.tolist(), out.depth.tolist()
        ([[0.5]], [1.5])
    """
    _check(density, color, t_starts, t_ends, packed_info, background, early_stop_eps)
    function = _OP.serving(backend, density.device, density.dtype)
    dtype = torch.float64 if density.dtype == torch.float64 else torch.float32
    inputs = (
        _as(density, dtype),
        _as(color, dtype),
        _as(t_starts, dtype),
        _as(t_ends, dtype),
        packed_info,
        None if background is None else _as(background, dtype),
    )
    result: Composite = function(inputs, float(early_stop_eps))
    return result if density.dtype == dtype else Composite(*(t.to(density.dtype) for t in result))


CompositeInputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]
"""Density, color, t_starts, t_ends, packed_info and background."""


def _reference(inputs: CompositeInputs, early_stop_eps: float) -> Composite:
    _check_segments(inputs[4], inputs[0].shape[0])
    return reference.composite(*inputs, early_stop_eps)


def _cpu(inputs: CompositeInputs, early_stop_eps: float) -> Composite:
    if torch.compiler.is_compiling():
        return _cuda(inputs, early_stop_eps)
    try:  # the kernel checks packed_info on its way through it; a check here first would be a second pass over it
        return Composite(*COMPILED.composite_fwd(*inputs, early_stop_eps))
    except RuntimeError:
        _check_segments(inputs[4], inputs[0].shape[0])
        raise


def _cuda(inputs: CompositeInputs, early_stop_eps: float) -> Composite:
    _check_segments(inputs[4], inputs[0].shape[0])
    return Composite(*COMPILED.composite_fwd(*inputs, early_stop_eps))


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor if tensor.dtype == dtype else tensor.to(dtype)


def _check(
    density: Tensor,
    color: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    packed_info: Tensor | None,
    background: Tensor | None,
    early_stop_eps: float,
) -> None:
    packed = packed_info is not None
    shape: tuple[int | None, ...] = (None,) if packed else (None, None)
    check_tensor(
        "density",
        density,
        shape,
        (torch.float64, *_HALF_OR_SINGLE),
        what="[N]" if packed else "[R, S] (no packed_info)",
    )
    dtypes = (torch.float64,) if density.dtype == torch.float64 else _HALF_OR_SINGLE
    like, device = tuple(density.shape), density.device
    check_tensor("color", color, (*like, None), dtypes, device, "[N, C]" if packed else "[R, S, C]")
    if color.shape[-1] < 1:
        raise ValueError(f"color must have at least 1 channel, got shape {list(color.shape)}")
    check_tensor("t_starts", t_starts, like, dtypes, device, "like density")
    check_tensor("t_ends", t_ends, like, dtypes, device, "like density")
    rays = like[0]
    if packed_info is not None:
        check_tensor("packed_info", packed_info, (None, 2), torch.int64, device, "[R, 2]")
        refuse_mapped("packed_info", packed_info)
        rays = packed_info.shape[0]
    if background is not None:
        channels = color.shape[-1]
        each = isinstance(background, Tensor) and background.dim() == 2
        shape = (rays, channels) if each else (channels,)
        check_tensor("background", background, shape, dtypes, device, "[C] or [R, C]; here")
    check_number("early_stop_eps", early_stop_eps, 0.0, 1.0)


def _check_segments(packed_info: Tensor | None, samples: int) -> None:
    if packed_info is None or packed_info.shape[0] == 0 or not values_can_be_read(packed_info):
        return
    if in_transform():
        return
    first, count = packed_info.unbind(1)
    least = torch.cat([first.new_zeros(1), (first + count)[:-1]])
    bad = (count < 0) | (first < least) | (count > samples - first)
    if bool(bad.any()):
        row = int(bad.to(torch.uint8).argmax())
        raise ValueError(
            f"packed_info must hold (first, count), first >= 0, count >= 0, first + count <= {samples} = N"
            f" and rays in order without overlap, got packed_info[{row}] = {packed_info[row].tolist()} where "
            f"first must be at least {int(least[row])}"
        )


_OP = register(
    "composite",
    cuda=Backend(cuda_library, _cuda),
    cpu=Backend(cpu_library, _cpu),
    reference=Backend(always, _reference),
)
