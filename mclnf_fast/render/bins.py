"""Volume rendering in dense bins: what single-view fields are learned with.

Every ray is cut into the same number of bins between two fixed distances, whatever it meets, and looked at once in
each bin, at a random place. Of Learned Initializations (arXiv 2012.02189) in two conventions: that of the "fast
single-view NeRF" text, and that of its authors' notebook (`learnit`). A point has 4 outputs, three raw colours and
then a raw density; colour is a sigmoid, density a relu. Behind an object is white; behind what a photo shows is more
of the field.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.errors import InputError
from mclnf_fast.fields import evaluate_params, split_params
from mclnf_fast.fields.functional import encode_grids
from mclnf_fast.fields.routing import offsets_of_equal_shares
from mclnf_fast.ops._constants import constant
from mclnf_fast.render.volume import Rendered
from mclnf_fast.shading import OBJECT_SHADING, Shading
from mclnf_fast.spec import FieldSpec

Convention = Literal["blog", "learnit"]
Background = Literal["white", "field"]
LAST_BIN: dict[Convention, float] = {"blog": 1e10, "learnit": 1e-3}  # its width; the blog's is opaque at any density


@dataclass(frozen=True)
class BinSettings:
    """How rays are cut.

    bins: B, looked at once each. near, far: where the first and the last edge lie, in lengths of a ray's direction.
    convention: `blog`, directions of length 1, each place uniform between the middles of its bin's neighbours, the
    last bin endless; `learnit`, directions of length 1 along the camera's axis (near and far are then depths), each
    place uniform over (far - near) / B from its edge on, the last bin 1e-3 wide. chunk: rays at a time where no
    gradient is needed. background: behind the last bin; `white`, or `field`: the last bin's own colour, whatever
    its density, so that a ray that meets nothing ends in what the field has there, a photo's sky.
    """

    bins: int = 128
    near: float = 2.0
    far: float = 6.0
    convention: Convention = "blog"
    chunk: int = 8192
    backend: str = "auto"
    background: Background = "white"

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise InputError(f"bins must be at least 2, got {self.bins}")
        if not 0 <= self.near < self.far < math.inf:
            raise InputError(f"near and far must be 0 <= near < far, finite, got {self.near} and {self.far}")
        if self.convention not in get_args(Convention):
            raise InputError(f"convention must be one of {', '.join(get_args(Convention))}, got {self.convention!r}")
        if self.background not in get_args(Background):
            raise InputError(f"background must be one of {', '.join(get_args(Background))}, got {self.background!r}")

    @property
    def shading(self) -> Shading:
        """How the field's outputs become pixels."""
        behind: Literal["white", "last_sample"] = "last_sample" if self.background == "field" else "white"
        # The blog's last bin is opaque at any density: its alpha is a switch, which has no gradient.
        return replace(OBJECT_SHADING, background=behind, detach_last_density=LAST_BIN[self.convention] > 1)


def bin_places(noise: Tensor, settings: BinSettings) -> Tensor:
    """Where rays are looked at: noise [..., B] in 0 ... 1 -> t [..., B], in order, of the noise's dtype.

    With edges e = linspace(near, far, B):

        blog     t_i = l_i + (u_i - l_i) noise_i,  l_i = (e_(i-1) + e_i) / 2,  u_i = (e_i + e_(i+1)) / 2,  l_0 = near,
                 u_(B-1) = far
        learnit  t_i = e_i + noise_i (far - near) / B

    Raises ValueError where noise has another number of bins.
    """
    if noise.shape[-1] != settings.bins:
        raise ValueError(f"noise must be [..., bins] with {settings.bins} bins, got {list(noise.shape)}")
    edges = torch.linspace(settings.near, settings.far, settings.bins, dtype=torch.float64)
    if settings.convention == "learnit":
        width = torch.full_like(edges, (settings.far - settings.near) / settings.bins)
        lower = edges
    else:
        middles = (edges[1:] + edges[:-1]) / 2
        lower = torch.cat((edges[:1], middles))
        width = torch.cat((middles, edges[-1:])) - lower
    return torch.addcmul(lower.to(noise), width.to(noise), noise)


def shaded(params: Sequence[Tensor], spec: FieldSpec, x: Tensor, backend: str = "auto") -> Tensor:
    """Colour and density [T, n, 4] at points [T, n, 3] of T objects."""
    offsets = offsets_of_equal_shares(x.shape[0], x.shape[1], x.device)
    raw = evaluate_params(params, spec, x.reshape(-1, 3), offsets, backend).reshape(*x.shape[:2], 4)
    density, color = OBJECT_SHADING.density_and_color(raw)
    return torch.cat((color, density[..., None]), -1)


def along_axis(directions: Tensor, axes: Tensor) -> Tensor:
    """Unit directions [..., 3] scaled to length 1 along their cameras' optical axes [..., 3]: t is then a depth."""
    return directions / (directions * axes).sum(-1, keepdim=True)


def render_bins(
    params: Sequence[Tensor],
    spec: FieldSpec,
    origins: Tensor,
    directions: Tensor,
    settings: BinSettings,
    noise: Tensor | None = None,
) -> Rendered:
    """The pixels of rays, each through the module of its object; T objects side by side are one bank.

        alpha_i = 1 - exp(-density_i (t_(i+1) - t_i)),  w_i = alpha_i prod_(j<i) (1 - alpha_j),
        pixel   = sum w_i colour_i + 1 - sum w_i

    With the background `field` the last bin's colour stands in the place of 1.

    Args:
        params: tensors [T, ...], as `FieldBank.stacked`; `spec` takes 3 coordinates and gives 4 outputs.
        origins, directions: [T, R, 3], scene units; of which length the directions are, `BinSettings` says.
        noise: [T, R, B] in 0 ... 1, see `bin_places`; None: 0.5 everywhere, the same picture each time.

    Returns Rendered(color [T, R, 3], opacity [T, R], depth [T, R]: the mean t, far where a ray meets nothing).
    Differentiable in `params`, but for the blog's last bin, whose endless width makes its alpha a switch: 0 without
    density, 1 with any; its derivative, 0 but within 1e-8 of the switch, is taken as 0 there too. Raises ValueError
    where shapes do not fit.
    """
    x, t, widths = _samples(spec, origins, directions, settings, noise)
    modules, rays = origins.shape[:2]
    offsets = offsets_of_equal_shares(modules, rays * settings.bins, x.device)
    raw = evaluate_params(params, spec, x, offsets, settings.backend).reshape(modules * rays, settings.bins, 4)
    density, color = settings.shading.density_and_color(raw)
    if settings.shading.detach_last_density:
        density = torch.cat((density[:, :-1], density[:, -1:].detach()), 1)
    fixed = settings.shading.background_color
    behind = color[:, -1] if fixed is None else constant(fixed, color)
    out = ops.composite(density, color, torch.zeros_like(widths), widths, background=behind, backend=settings.backend)
    depth = (out.weights * t).sum(1) + (1 - out.opacity) * settings.far
    return Rendered(*(p.reshape(modules, rays, *p.shape[1:]) for p in (out.color, out.opacity, depth)))


def bin_losses(
    params: Sequence[Tensor],
    spec: FieldSpec,
    origins: Tensor,
    directions: Tensor,
    colors: Tensor,
    settings: BinSettings,
    noise: Tensor | None = None,
) -> Tensor:
    """Mean squared error [T] of what `render_bins` gives against colors [T, R, 3], over rays and channels.

    The same and faster where it is learned from: by `ops.bank_ray_mse`. Arguments and errors as `render_bins`.
    """
    x, _, widths = _samples(spec, origins, directions, settings, noise)
    if colors.shape != origins.shape:
        raise ValueError(f"colors must be [T, R, 3] like origins {list(origins.shape)}, got {list(colors.shape)}")
    modules, rays = origins.shape[:2]
    weights, biases, tables = split_params(params, spec)
    if tables:
        offsets = offsets_of_equal_shares(modules, rays * settings.bins, x.device)
        x = encode_grids(x, offsets, tables, spec, settings.backend)
    return ops.bank_ray_mse(
        x,
        torch.arange(modules * rays + 1, device=x.device) * settings.bins,
        offsets_of_equal_shares(modules, rays, x.device),
        weights,
        biases,
        widths.reshape(-1),
        colors.reshape(-1, 3),
        spec.mlp,
        settings.shading,
        backend=settings.backend,
    )


def _samples(
    spec: FieldSpec, origins: Tensor, directions: Tensor, settings: BinSettings, noise: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Where rays are looked at: x [T R B, 3], and t and the bins' widths [T R, B]. Raises as `render_bins`."""
    modules, rays = origins.shape[:2] if origins.dim() == 3 else (-1, -1)
    if origins.shape != (modules, rays, 3) or directions.shape != origins.shape:
        raise ValueError(
            f"origins and directions must both be [T, R, 3], got {list(origins.shape)} and {list(directions.shape)}"
        )
    if spec.in_dim != 3 or spec.out_dim != 4:
        raise ValueError(f"spec must have in_dim 3 and out_dim 4, got {spec.in_dim} and {spec.out_dim}")
    bins = settings.bins
    if noise is None:
        noise = origins.new_full((modules, rays, bins), 0.5)
    elif noise.shape != (modules, rays, bins):
        raise ValueError(f"noise must be [T, R, bins] = [{modules}, {rays}, {bins}], got {list(noise.shape)}")
    t = bin_places(noise, settings).reshape(modules * rays, bins)
    x = torch.addcmul(origins.reshape(-1, 1, 3), t[..., None], directions.reshape(-1, 1, 3)).reshape(-1, 3)
    # Widths in the place of ends: 6 + 1e-3 would have lost half of the last one's digits.
    last = torch.full_like(t[:, :1], LAST_BIN[settings.convention])
    return x, t, torch.cat((t[:, 1:] - t[:, :-1], last), 1)


@torch.no_grad()
def render_pixels(
    params: Sequence[Tensor], spec: FieldSpec, origins: Tensor, directions: Tensor, settings: BinSettings
) -> Tensor:
    """Colours [T, R, 3] in 0 ... 1 of any number of rays [T, R, 3], `settings.chunk` at a time, without noise."""
    share = max(1, settings.chunk // max(1, origins.shape[0]))
    pieces = [
        render_bins(params, spec, o, d, settings).color
        for o, d in zip(origins.split(share, 1), directions.split(share, 1))
    ]
    return torch.cat(pieces, 1).clamp(0, 1) if pieces else origins.new_zeros(origins.shape)
