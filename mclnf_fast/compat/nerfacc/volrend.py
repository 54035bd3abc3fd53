"""Volume rendering: transmittance, weights, visibility and pixels of dense [R, S] or packed [N] samples.

A packed sample's ray is known from `packed_info` (int [R, 2], first sample and count of each ray) or from `ray_indices`
(int [N], samples of a ray side by side); without both, samples are dense and their last axis runs along the ray.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.checks import check_tensor
from mclnf_fast.compat.nerfacc.accumulate import accumulate_along_rays
from mclnf_fast.compat.nerfacc.accumulate import accumulate_along_rays_ as accumulate_along_rays_
from mclnf_fast.compat.nerfacc.pack import check_ray_indices, runs
from mclnf_fast.compat.nerfacc.scan import exclusive_prod, exclusive_sum

Field = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor]]
"""t_starts, t_ends and ray_indices to colors [..., 3] and densities or opacities [...]."""


def rendering(
    t_starts: Tensor,
    t_ends: Tensor,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    rgb_sigma_fn: Field | None = None,
    rgb_alpha_fn: Field | None = None,
    render_bkgd: Tensor | None = None,
    expected_depths: bool = True,
) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
    """Return colors [R, 3], opacities [R, 1] and depths [R, 1] of rays through a field, and what they are made of.

    Densities are composited in one pass (`ops.composite`). Differentiable twice in what the field returns. A ray
    without samples shows the background.

    Args:
        t_starts: [R, S], or packed [N]: where the samples begin, in order along a ray.
        t_ends: like t_starts, where they end.
        ray_indices: int [N], of packed samples.
        n_rays: R, with ray_indices.
        rgb_sigma_fn: the field, with densities. It is called with no samples too.
        rgb_alpha_fn: the field, with opacities; looked at if there is no rgb_sigma_fn.
        render_bkgd: background color, [3] or [R, 3]; None: black.
        expected_depths: whether depths are divided by the opacities.

    Returns:
        colors, opacities, depths, and a dict of `weights`, `alphas`, `trans`, `rgbs` and, of densities, `sigmas`.

    Raises:
        TypeError, ValueError: arguments, or what the field returns, do not fit.

    >>> t = torch.tensor([0.0, 1.0])
    >>> def field(t_starts, t_ends, ray_indices):
    ...     return torch.ones(2, 3), torch.tensor([0.0, 100.0])
    >>> colors, opacities, depths, extras = rendering(t, t + 1, torch.tensor([1, 1]), 2, rgb_sigma_fn=field)
    >>> colors.tolist(), depths.tolist()
    ([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]], [[0.0], [1.5]])
    """
    if rgb_sigma_fn is None and rgb_alpha_fn is None:
        raise ValueError("rgb_sigma_fn or rgb_alpha_fn must be given, got None for both")
    check_tensor("t_starts", t_starts)
    check_tensor("t_ends", t_ends, tuple(t_starts.shape), None, t_starts.device, "like t_starts")
    if ray_indices is not None:
        check_tensor("ray_indices", ray_indices, tuple(t_starts.shape), None, t_starts.device, "[N], like t_starts,")
        check_ray_indices(ray_indices, n_rays)
    if rgb_sigma_fn is not None:
        rgbs, sigmas = rgb_sigma_fn(t_starts, t_ends, ray_indices)
        _check_field("rgb_sigma_fn", rgbs, sigmas, t_starts)
        trans, alphas = render_transmittance_from_density(t_starts, t_ends, sigmas, ray_indices=ray_indices)
        pixels, weights = _composite(t_starts, t_ends, sigmas, rgbs, ray_indices, n_rays)
        extras = {"weights": weights, "alphas": alphas, "trans": trans, "sigmas": sigmas, "rgbs": rgbs}
    else:
        assert rgb_alpha_fn is not None
        rgbs, alphas = rgb_alpha_fn(t_starts, t_ends, ray_indices)
        _check_field("rgb_alpha_fn", rgbs, alphas, t_starts)
        weights, trans = render_weight_from_alpha(alphas, ray_indices=ray_indices)
        middles = ((t_starts + t_ends) / 2)[..., None]
        values = torch.cat([rgbs, torch.ones_like(middles), middles], dim=-1)
        pixels = accumulate_along_rays(weights, values, ray_indices, n_rays)
        extras = {"weights": weights, "trans": trans, "rgbs": rgbs, "alphas": alphas}
    colors, opacities, depths = pixels[..., :3], pixels[..., 3:4], pixels[..., 4:]
    if expected_depths:
        depths = depths / opacities.clamp_min(torch.finfo(rgbs.dtype).eps)
    if render_bkgd is not None:
        colors = colors + render_bkgd * (1.0 - opacities)
    return colors, opacities, depths, extras


def _check_field(name: str, rgbs: Tensor, opaque: Tensor, t_starts: Tensor) -> None:
    what = "like t_starts"
    check_tensor(f"the densities or opacities of {name}", opaque, tuple(t_starts.shape), None, t_starts.device, what)
    check_tensor(f"the colors of {name}", rgbs, (*t_starts.shape, 3), None, t_starts.device, "[..., 3], " + what)


def _composite(
    t_starts: Tensor, t_ends: Tensor, sigmas: Tensor, rgbs: Tensor, ray_indices: Tensor | None, n_rays: int | None
) -> tuple[Tensor, Tensor]:
    """Return color, opacity and depth side by side, [R, 5], and the weights like sigmas."""
    dtype = reduce(torch.promote_types, (t.dtype for t in (t_starts, t_ends, sigmas, rgbs)))
    rays, packed_info = (None, None) if ray_indices is None else runs(ray_indices)
    shape = t_starts.shape
    t_starts, t_ends, sigmas, rgbs = (t.to(dtype) for t in (t_starts, t_ends, sigmas, rgbs))
    if packed_info is None:  # composite takes one axis of rays
        t_starts, t_ends, sigmas = (t.reshape(shape[:-1].numel(), shape[-1]) for t in (t_starts, t_ends, sigmas))
        rgbs = rgbs.reshape(*t_starts.shape, 3)
    color, opacity, depth, weights = ops.composite(sigmas, rgbs, t_starts, t_ends, packed_info)
    pixels = torch.cat([color, opacity[:, None], depth[:, None]], dim=1)
    if rays is None:
        return pixels.reshape(*shape[:-1], 5), weights.reshape(shape)
    return ops.segment_sum(pixels, rays, n_rays or 0), weights


def render_transmittance_from_alpha(
    alphas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> Tensor:
    """Return the transmittance `prod_(j < i) (1 - alpha_j)` of each sample, like alphas.

    Args:
        alphas: [..., S], or packed [N]: the opacity of each sample, 0 to 1.
        packed_info: int [R, 2]; see the module.
        ray_indices: int [N]; see the module.
        n_rays: R; only checked against ray_indices.
        prefix_trans: like alphas, a factor of the result: what is left where earlier pieces of the rays ended.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    >>> render_transmittance_from_alpha(torch.tensor([0.5, 0.5, 0.5]), ray_indices=torch.tensor([0, 0, 1]))
    tensor([1.0000, 0.5000, 1.0000])
    """
    _check_rays(packed_info, ray_indices, n_rays)
    trans = exclusive_prod(1 - alphas, packed_info=packed_info, indices=ray_indices)
    return trans if prefix_trans is None else trans * prefix_trans


def render_transmittance_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return transmittance `exp(-sum_(j < i) s_j)` and opacity `1 - exp(-s_i)`, s = sigma (t_end - t_start).

    Args:
        t_starts: [..., S], or packed [N]: where the samples begin.
        t_ends: like t_starts, where they end.
        sigmas: like t_starts, densities per unit of t.
        packed_info, ray_indices, n_rays, prefix_trans: as of `render_transmittance_from_alpha`.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    >>> start = torch.tensor([0.0, 1.0])
    >>> trans, alphas = render_transmittance_from_density(start, start + 1, torch.tensor([0.5, 2.0]))
    >>> trans, alphas
    (tensor([1.0000, 0.6065]), tensor([0.3935, 0.8647]))
    """
    _check_rays(packed_info, ray_indices, n_rays)
    check_tensor("t_starts", t_starts)
    for name, t in (("t_ends", t_ends), ("sigmas", sigmas)):
        check_tensor(name, t, tuple(t_starts.shape), None, t_starts.device, "like t_starts")
    lengths = t_ends - t_starts
    # An endless density over no length is no depth, and not infinity times 0.
    depths = torch.where(lengths == 0, 0.0, sigmas) * lengths
    trans = torch.exp(-exclusive_sum(depths, packed_info=packed_info, indices=ray_indices))
    trans = trans if prefix_trans is None else trans * prefix_trans
    return trans, 1.0 - torch.exp(-depths)


def render_weight_from_alpha(
    alphas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the weights `T_i alpha_i` and the transmittance T; arguments as of `render_transmittance_from_alpha`.

    >>> render_weight_from_alpha(torch.tensor([0.5, 0.5, 0.5]), ray_indices=torch.tensor([0, 0, 1]))[0]
    tensor([0.5000, 0.2500, 0.5000])
    """
    trans = render_transmittance_from_alpha(alphas, packed_info, ray_indices, n_rays, prefix_trans)
    return trans * alphas, trans


def render_weight_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    prefix_trans: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return weights, transmittance and opacities; arguments as of `render_transmittance_from_density`.

    >>> start = torch.tensor([0.0, 1.0])
    >>> render_weight_from_density(start, start + 1, torch.tensor([0.5, 2.0]))[0]
    tensor([0.3935, 0.5244])
    """
    rays = (packed_info, ray_indices, n_rays, prefix_trans)
    trans, alphas = render_transmittance_from_density(t_starts, t_ends, sigmas, *rays)
    return trans * alphas, trans, alphas


@torch.no_grad()
def render_visibility_from_alpha(
    alphas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
    prefix_trans: Tensor | None = None,
) -> Tensor:
    """Return whether each sample is seen, bool like alphas: transmittance and opacity reach their thresholds.

    Args:
        alphas, packed_info, ray_indices, n_rays, prefix_trans: as of `render_transmittance_from_alpha`.
        early_stop_eps: least transmittance.
        alpha_thre: least opacity.

    >>> render_visibility_from_alpha(torch.tensor([0.1, 1.0, 0.5]), alpha_thre=0.2)
    tensor([False,  True, False])
    """
    trans = render_transmittance_from_alpha(alphas, packed_info, ray_indices, n_rays, prefix_trans)
    return visible(trans, alphas, early_stop_eps, alpha_thre)


@torch.no_grad()
def render_visibility_from_density(
    t_starts: Tensor,
    t_ends: Tensor,
    sigmas: Tensor,
    packed_info: Tensor | None = None,
    ray_indices: Tensor | None = None,
    n_rays: int | None = None,
    early_stop_eps: float = 1e-4,
    alpha_thre: float = 0.0,
    prefix_trans: Tensor | None = None,
) -> Tensor:
    """Return whether each sample is seen, bool like sigmas: transmittance and opacity reach their thresholds.

    Args:
        t_starts, t_ends, sigmas, packed_info, ray_indices, n_rays, prefix_trans: as of
            `render_transmittance_from_density`.
        early_stop_eps: least transmittance.
        alpha_thre: least opacity.

    >>> start = torch.tensor([0.0, 1.0, 2.0])
    >>> render_visibility_from_density(start, start + 1, torch.tensor([0.1, 20.0, 1.0]))
    tensor([ True,  True, False])
    """
    rays = (packed_info, ray_indices, n_rays, prefix_trans)
    trans, alphas = render_transmittance_from_density(t_starts, t_ends, sigmas, *rays)
    return visible(trans, alphas, early_stop_eps, alpha_thre)


def visible(trans: Tensor, alphas: Tensor, early_stop_eps: float, alpha_thre: float) -> Tensor:
    """Return whether transmittance and opacity reach their thresholds; one of 0 for the opacity is always reached.

    >>> visible(torch.tensor([1.0, 1e-5]), torch.tensor([0.5, 0.5]), 1e-4, 0.0)
    tensor([ True, False])
    """
    lit = trans >= early_stop_eps
    return lit & (alphas >= alpha_thre) if alpha_thre > 0 else lit


def _check_rays(packed_info: Tensor | None, ray_indices: Tensor | None, n_rays: int | None) -> None:
    if packed_info is not None and ray_indices is not None:
        raise ValueError("packed_info and ray_indices must not be given both")
    if ray_indices is not None and n_rays is not None:
        check_ray_indices(ray_indices, n_rays)
