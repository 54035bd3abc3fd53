"""The definition of compositing in plain PyTorch: any floating dtype, any order of derivative, any device."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Composite(NamedTuple):
    """The pixels of rays, and the weights of their samples.

    Attributes:
        color: [R, C], background included.
        opacity: [R], the sum of the weights.
        depth: [R], the sum of weight times middle of the sample, in the units of t (not divided by the
            opacity).
        weights: like density, [N] or [R, S].
    """

    color: Tensor
    opacity: Tensor
    depth: Tensor
    weights: Tensor


def composite(
    density: Tensor,
    color: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    packed_info: Tensor | None = None,
    background: Tensor | None = None,
    early_stop_eps: float = 0.0,
) -> Composite:
    """Composite as `mclnf_fast.ops.composite` does; the arguments and their shapes are described there."""
    if packed_info is None:
        return _dense(density, color, t_starts, t_ends, background, early_stop_eps)
    # Rays are padded to the longest with a sample of density 0, row `n`, which has no weight.
    n, (first, count) = density.shape[0], packed_info.unbind(1)
    longest = int(count.max()) if count.numel() else 0
    step = torch.arange(longest, device=density.device)
    real = step < count[:, None]  # [R, longest]
    index = torch.where(real, first[:, None] + step, n)

    def pad(t: Tensor) -> Tensor:
        return torch.cat([t, t.new_zeros(1, *t.shape[1:])])[index]

    padded = _dense(pad(density), pad(color), pad(t_starts), pad(t_ends), background, early_stop_eps)
    weights = density.new_zeros(n).index_put((index[real],), padded.weights[real])
    return padded._replace(weights=weights)


def _dense(
    density: Tensor,
    color: Tensor,
    t_starts: Tensor,
    t_ends: Tensor,
    background: Tensor | None,
    early_stop_eps: float,
) -> Composite:
    length, endless = t_ends - t_starts, density.isinf()
    # An interval of length 0 has no weight, whatever its density; nothing behind an endless one is seen, however long
    # it is, so that it has no derivative. Infinity times 0 would make the whole ray NaN.
    s = torch.where(endless, 0.0, density) * length
    s = torch.where(endless & (length != 0), (density * length).detach(), s)
    before = torch.cat([s.new_zeros(s.shape[0], 1), s.cumsum(1)], dim=1)[:, : s.shape[1]]
    transmittance = torch.exp(-before)
    # The derivative of expm1 is its result plus 1, which is 0 from s = 37 on (17 in float32), where exp(-s) is not.
    weights = transmittance * torch.where(s < 0.5, -torch.expm1(-s), 1 - torch.exp(-s))
    if early_stop_eps > 0:
        lit = (transmittance < early_stop_eps).cumsum(1) == 0
        weights = torch.where(lit, weights, 0.0)
    opacity = weights.sum(1)
    pixels = (weights[:, :, None] * color).sum(1)
    if background is not None:
        pixels = pixels + (1 - opacity)[:, None] * background
    return Composite(pixels, opacity, (weights * (0.5 * (t_starts + t_ends))).sum(1), weights)
