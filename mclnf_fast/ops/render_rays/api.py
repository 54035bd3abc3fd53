"""The public function that renders rays: it checks its arguments, and a backend computes the pixels."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.checks import check_bool, check_number, check_tensor, check_tensors
from mclnf_fast.ops import _triton
from mclnf_fast.ops._autograd import Joined, join_ops
from mclnf_fast.ops._checks import (
    HALVES,
    check_layers,
    check_offsets,
    check_spec,
    first_layer_widened,
    refuse_transformed,
)
from mclnf_fast.ops._dispatch import Backend, always, cpu_library, cuda_library, register
from mclnf_fast.ops.march.api import check_bins, check_box, check_occupancy
from mclnf_fast.ops.render_rays import reference
from mclnf_fast.ops.render_rays.reference import Options, Pixels
from mclnf_fast.packing import Activation
from mclnf_fast.spec import ACTIVATIONS, FieldSpec

HEADS = tuple(kind for kind in ACTIVATIONS if kind != "sine")
SAMPLES = 1 << 19  # about so many at a time if they are written to memory


def render_rays(
    origins: Tensor,
    directions: Tensor,
    ray_offsets: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    spec: FieldSpec,
    aabb: Tensor,
    occupancy: Tensor | None = None,
    *,
    view_directions: Tensor | None = None,
    bins: int | None = None,
    step: float | None = None,
    near: float = 0.0,
    far: float = math.inf,
    background: Tensor | None = None,
    last_behind: bool = False,
    density: str = "exp",
    color: str = "sigmoid",
    max_raw_density: float = 9.0,
    early_stop_eps: float = 0.0,
    backend: str | None = "auto",
) -> Pixels:
    """Return the pixels of rays through the bank, each ray through the module that it is grouped under.

    March, network and compositing (NeRF, arXiv 2003.08934, eq. 3) as one op, to look at a bank. It has no gradient:
    train through `march_rays`, `bank_mlp` and `composite`.

    A ray is cut into bins as `march_rays` does without jitter. The middle `o + t d` of every occupied bin goes through
    the network, whose first output `y_0` is a raw density and the others are raw colors: the sample has density
    `a(min(y_0, max_raw_density))` and colors `c(y_1 ...)`, and is composited front to back.

    In `triton` this is one kernel: a program holds a tile of rays in registers, advances each to its next occupied bin,
    evaluates one sample of every ray side by side and gives a finished ray's place to the next ray. No sample is
    written to memory, nothing waits for the host (a CUDA graph can capture it), and the bits do not depend on the order
    in which rays are worked on. Weights may be bfloat16 or float16 there: features and activations are rounded to that
    type, coordinates are not. Networks too wide for its registers (beyond 128; beyond 64 in exact float32) and
    spherical harmonics of the position go op by op, as in `cuda` and `reference`, which compute in the rays' type.

    In `cpu` it is one op too, in the rays' type: 64 rays at a time take turns in a block of samples, and a ray whose
    transmittance has fallen below 2^-24 gives its place to the next: what lies behind would change no float32 pixel.

    Args:
        origins: [R, 3], float32 or float64, grouped by module.
        directions: [R, 3], of any length: t counts in their units.
        ray_offsets: int64 [M + 1]; rays ray_offsets[m] ... ray_offsets[m+1]-1 are module m's.
        weights, biases: one tensor per layer, [M, in, out] and [M, out], as `bank_mlp` takes them: of the rays' dtype,
            or all but the first layer's weights and the biases of float16 or bfloat16.
        spec: the architecture: in_dim = 3 + E, out_dim = 1 + C, no grid.
        aabb: [2, 3], lowest and highest corner of the box in which every module lives.
        occupancy: as `march_rays` takes it: None, bool or float32 [X, Y, Z] or [L, X, Y, Z], the same for all modules.
        view_directions: [R, E], the coordinates of the network behind the position: a ray's unit direction, or other
            values per ray. None for E = 0.
        bins, step: exactly one of them, as `march_rays` takes them.
        near, far: t at which rays begin and end.
        background: color behind the samples, [C] or [R, C]; None: nothing (black).
        last_behind: in place of a background, the last sample of a ray also stands behind it, with its far end as
            depth; a ray without a sample is black.
        density, color: the activations a and c, of "none", "relu", "softplus", "tanh", "sigmoid", "exp".
        max_raw_density: the largest raw density.
        early_stop_eps: in [0, 1). A ray ends as soon as its transmittance has fallen below it; the samples left out are
            at most that share of a pixel. (With `last_behind` it is then open which of them stands behind.)
        backend: "auto", "triton", "cuda", "cpu" or "reference".

    Returns:
        Pixels(color [R, C], opacity [R], depth [R]), dtype of the rays.

    Raises:
        TypeError: an argument has a wrong type or dtype.
        ValueError: a wrong shape, device or value; values of tensors are read on the CPU only. Elsewhere a ray that is
            not finite shows the background, and one that no module has is black.
        RuntimeError: a gradient was asked for, or a torch.func transform or forward-mode differentiation works on one
            of the tensors.
        BackendError: a backend asked for by name can't serve.

    Example:
        >>> import mclnf_fast as mf
        >>> spec = mf.FieldSpec(3, 4, width=16, hidden_layers=1)
        >>> bank = mf.FieldBank(spec, modules=1)
        >>> rays = torch.tensor([[0.0, 0.0, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([0, 1])
        >>> box = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
        >>> with torch.no_grad():
        ...     pixels = render_rays(*rays, list(bank.weight), list(bank.bias), spec, box, bins=8)
        >>> pixels.color.shape
        torch.Size([1, 3])
    """
    weights, biases = check_tensors("weights", weights), check_tensors("biases", biases)
    tensors = {"origins": origins, "directions": directions, "weights": weights, "biases": biases, "aabb": aabb}
    tensors |= {"occupancy": occupancy, "view_directions": view_directions, "background": background}
    _refuse_gradients(tensors)
    with torch.no_grad():
        rays, device, dtype = check_box(origins, directions, aabb)
        _check_field(rays, device, dtype, ray_offsets, weights, biases, spec, view_directions)
        check_occupancy(occupancy, device, 0.0)
        check_bins(bins, step)
        check_bool("last_behind", last_behind)
        options = Options(bins, step, near, far, last_behind, density, color, max_raw_density, early_stop_eps)
        _check_options(options)
        if background is not None:
            _check_background(background, (rays, spec.out_dim - 1), dtype, device, options)
        function = _OP.serving(backend, device, dtype)
        field = (*first_layer_widened(weights, biases), spec)
        pixels: Pixels = function(
            origins, directions, ray_offsets, *field, aabb, occupancy, view_directions, background, options
        )
        return pixels


def _refuse_gradients(arguments: dict[str, object]) -> None:
    refuse_transformed("render_rays", "It has no derivative: use march_rays, bank_mlp and composite", **arguments)
    if not torch.is_grad_enabled():
        return
    for name, value in arguments.items():
        if any(isinstance(t, Tensor) and t.requires_grad for t in (value if isinstance(value, list) else [value])):
            raise RuntimeError(
                f"render_rays has no gradient, got {name} that require one: call it under torch.no_grad(), or train "
                "through march_rays, bank_mlp and composite (mclnf_fast.render.render_modules)"
            )


def _op_by_op(
    origins: Tensor,
    directions: Tensor,
    ray_offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    spec: FieldSpec,
    aabb: Tensor,
    occupancy: Tensor | None,
    view_directions: Tensor | None,
    background: Tensor | None,
    options: Options,
    backend: str = "auto",
) -> Pixels:
    """Render op by op, some rays at a time, since their samples are written to memory."""
    rays, most = origins.shape[0], SAMPLES // options.bins + 1 if options.bins else SAMPLES >> 7
    pieces = []
    for first in range(0, max(rays, 1), most):
        last = min(first + most, rays)
        behind = background[first:last] if background is not None and background.dim() == 2 else background
        pieces.append(
            reference.render_rays(
                origins[first:last],
                directions[first:last],
                ray_offsets.clamp(first, last) - first,
                weights,
                biases,
                spec,
                aabb,
                occupancy,
                None if view_directions is None else view_directions[first:last],
                behind,
                options,
                backend,
            )
        )
    return pieces[0] if len(pieces) == 1 else Pixels(*(torch.cat(parts) for parts in zip(*pieces)))


def _check_field(
    rays: int,
    device: torch.device,
    dtype: torch.dtype,
    ray_offsets: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    spec: FieldSpec,
    view_directions: Tensor | None,
) -> None:
    check_spec(spec)
    if spec.in_dim < 3 or spec.out_dim < 2:
        raise ValueError(
            "spec must take a position (in_dim of at least 3) and give a density and colors (out_dim of at least 2), "
            f"got in_dim {spec.in_dim} and out_dim {spec.out_dim}"
        )
    kind = weights[-1].dtype if weights else dtype
    if kind not in (dtype, *HALVES):
        raise TypeError(f"weights must have dtype {dtype} like the rays, float16 or bfloat16, got {kind}")
    modules = check_layers(weights, biases, spec, kind, device)
    check_offsets("ray_offsets", ray_offsets, modules, rays, device, "rays")
    if view_directions is not None or spec.in_dim > 3:
        check_tensor("view_directions", view_directions, (rays, spec.in_dim - 3), dtype, device, "[R, in_dim - 3]")


def _check_options(options: Options) -> None:
    for name in ("near", "far", "max_raw_density"):
        check_number(name, getattr(options, name), finite=False)
    for name in ("density", "color"):
        if (kind := getattr(options, name)) not in HEADS:
            raise ValueError(f"{name} must be one of {', '.join(HEADS)}, got {kind!r}")
    check_number("early_stop_eps", options.early_stop_eps, 0.0, 1.0)


def _check_background(
    background: Tensor, shape: tuple[int, int], dtype: torch.dtype, device: torch.device, options: Options
) -> None:
    if options.last_behind:
        raise ValueError("background must be None if last_behind is set, got both")
    each = isinstance(background, Tensor) and background.dim() == 2
    check_tensor("background", background, shape if each else shape[1:], dtype, device, "[C] or [R, C]; here")


def _triton_reason(device: torch.device, dtype: torch.dtype) -> str | None:
    if dtype != torch.float32:
        return f"it works on float32 rays, got {dtype}"
    return _triton.why_not(device, dtype)


def _triton_kernel(*call: Any) -> Pixels:
    from mclnf_fast.ops.render_rays.triton import ops  # takes a second, with Triton

    pixels = ops.render_rays(*call)
    return _op_by_op(*call) if pixels is None else pixels  # None: the registers do not hold the network


def _cpu(*call: Any) -> Pixels:
    origins, directions, ray_offsets, weights, biases, spec, aabb, occupancy, view_directions, background, options = (
        call
    )
    pixels = torch.ops.mclnf_fast.render_rays_fwd(
        origins,
        directions,
        ray_offsets,
        [w.to(origins.dtype) for w in weights],
        [b.to(origins.dtype) for b in biases],
        aabb,
        occupancy if occupancy is None or occupancy.dim() == 4 else occupancy[None],
        view_directions,
        background,
        *spec.packed,
        options.bins or 0,
        options.step or 0.0,
        options.near,
        options.far,
        options.last_behind,
        Activation[options.density.upper()],
        Activation[options.color.upper()],
        options.max_raw_density,
        options.early_stop_eps,
    )
    return Pixels(*pixels)


def _fake(
    origins: Tensor, directions: Tensor, ray_offsets: Tensor, weights: Any, biases: list[Tensor], *rest: Any
) -> Any:
    rays = origins.shape[0]
    return origins.new_empty(rays, biases[-1].shape[1] - 1), origins.new_empty(rays), origins.new_empty(rays)


join_ops("mclnf_fast", Joined("render_rays_fwd", _fake))


def _by(backend: str) -> Callable[..., Pixels]:
    return functools.partial(_op_by_op, backend=backend)


_OP = register(
    "render_rays",
    triton=Backend(_triton_reason, _triton_kernel),
    cuda=Backend(cuda_library, _by("auto")),
    cpu=Backend(cpu_library, _cpu),
    reference=Backend(always, _by("reference")),
)
