"""An estimator of proposal networks that learn where the field is dense (Mip-NeRF 360, arXiv 2111.12077)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from mclnf_fast.checks import check_positive_int, check_tensor
from mclnf_fast.compat.nerfacc.data_specs import RayIntervals
from mclnf_fast.compat.nerfacc.estimators.base import AbstractEstimator
from mclnf_fast.compat.nerfacc.pdf import importance_sampling, searchsorted
from mclnf_fast.compat.nerfacc.volrend import render_transmittance_from_density

TYPES = ("uniform", "lindisp")


class PropNetEstimator(AbstractEstimator):
    """Proposal networks: each is asked where a ray should be sampled, the next one samples there.

    Args:
        optimizer: of the proposal networks; needed by `update_every_n_steps` alone.
        scheduler: of their learning rate.

    >>> estimator = PropNetEstimator()
    >>> def dense_in_the_middle(t_starts, t_ends):
    ...     return ((t_starts + t_ends) / 2 - 2).abs().lt(0.2) * 50.0
    >>> t_starts, t_ends = estimator.sampling([dense_in_the_middle], [32], 8, 1, 1.0, 3.0, "uniform")
    >>> bool((t_starts - 2).abs().median() < 0.2)
    True
    """

    def __init__(self, optimizer: Optimizer | None = None, scheduler: LRScheduler | None = None) -> None:
        super().__init__()
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.prop_cache: list[tuple[RayIntervals, Tensor | None]] = []

    @torch.no_grad()
    def sampling(  # type: ignore[override]  # the base names no arguments
        self,
        prop_sigma_fns: Sequence[Callable[[Tensor, Tensor], Tensor]],
        prop_samples: Sequence[int],
        num_samples: int,
        n_rays: int,
        near_plane: float,
        far_plane: float,
        sampling_type: str = "lindisp",
        stratified: bool = False,
        requires_grad: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Return samples of rays, t_starts and t_ends [R, num_samples].

        Args:
            prop_sigma_fns: the networks, t_starts and t_ends [R, S] to densities [R, S].
            prop_samples: S of each network.
            num_samples: samples at the end.
            n_rays: R.
            near_plane: where the rays begin.
            far_plane: where they end.
            sampling_type: "uniform" in t, or "lindisp", uniform in 1 / t, for which near_plane must be above 0.
            stratified: whether samples are shifted at random, each ray as a whole.
            requires_grad: whether the networks' results are saved, with gradients, for `compute_loss`.

        Raises:
            TypeError, ValueError: arguments, or what a network returns, do not fit.
        """
        if len(prop_sigma_fns) != len(prop_samples):
            raise ValueError(
                f"prop_samples must hold a number for each of the {len(prop_sigma_fns)} prop_sigma_fns, got "
                f"{len(prop_samples)}"
            )
        _check_planes(sampling_type, near_plane, far_plane)
        cdfs = torch.stack([torch.zeros(n_rays, device=self.device), torch.ones(n_rays, device=self.device)], -1)
        intervals = RayIntervals(cdfs)
        for network, samples in zip(prop_sigma_fns, prop_samples):
            intervals, _ = importance_sampling(intervals, cdfs, samples, stratified)
            t_starts, t_ends = _edges(sampling_type, intervals, near_plane, far_plane)
            with torch.set_grad_enabled(requires_grad):
                sigmas = network(t_starts, t_ends)
                check_tensor("the densities of prop_sigma_fns", sigmas, tuple(t_starts.shape), what="like t_starts")
                cdfs = _cdfs(render_transmittance_from_density(t_starts, t_ends, sigmas)[0]).to(t_starts.dtype)
                if requires_grad:
                    self.prop_cache.append((intervals, cdfs))
        intervals, _ = importance_sampling(intervals, cdfs, num_samples, stratified)
        if requires_grad:
            self.prop_cache.append((intervals, None))
        return _edges(sampling_type, intervals, near_plane, far_plane)

    @torch.enable_grad()
    def compute_loss(self, trans: Tensor, loss_scaler: float = 1.0) -> Tensor:
        """Return the loss of the networks in the last `sampling(requires_grad=True)`, and forget that; 0 without one.

        It is the weight of the samples that a network's histogram does not bound, squared, relative to the weight.

        Args:
            trans: [R, num_samples], transmittance of the final samples; a constant.
            loss_scaler: a factor.
        """
        if not self.prop_cache:
            return torch.zeros((), device=self.device)
        intervals, _ = self.prop_cache.pop()
        cdfs = _cdfs(trans).detach()
        loss = torch.zeros((), device=self.device)
        while self.prop_cache:
            prop_intervals, prop_cdfs = self.prop_cache.pop()
            assert prop_cdfs is not None
            if cdfs.numel():  # the mean over no rays is no number
                loss = loss + _pdf_loss(intervals, cdfs.to(prop_cdfs.dtype), prop_intervals, prop_cdfs).mean()
        return loss * loss_scaler

    @torch.enable_grad()
    def update_every_n_steps(  # type: ignore[override]  # the base names no arguments
        self, trans: Tensor, requires_grad: bool = False, loss_scaler: float = 1.0
    ) -> float:
        """Make a step of the networks' optimizer if requires_grad, and one of the scheduler; return the loss.

        Args:
            trans: [R, num_samples], as of `compute_loss`.
            requires_grad: as given to `sampling` before; without it no step is made and the loss is 0.
            loss_scaler: a factor of the loss.

        Raises:
            RuntimeError: there is no optimizer, or `sampling` saved nothing.
        """
        if requires_grad:
            return self._update(trans, loss_scaler)
        if self.scheduler is not None:
            self.scheduler.step()
        return 0.0

    @torch.enable_grad()
    def _update(self, trans: Tensor, loss_scaler: float = 1.0) -> float:
        if self.optimizer is None or not self.prop_cache:
            missing = "an optimizer" if self.optimizer is None else "a call of sampling(requires_grad=True) before"
            raise RuntimeError(f"update_every_n_steps(requires_grad=True) must have {missing}, got none")
        loss = self.compute_loss(trans, loss_scaler)
        self.optimizer.zero_grad()
        if loss.requires_grad:
            loss.backward()
        self.optimizer.step()
        if self.scheduler is not None:
            self.scheduler.step()
        return loss.item()


def get_proposal_requires_grad_fn(target: float = 5.0, num_steps: int = 1000) -> Callable[[int], bool]:
    """Return a function of the training step: whether the proposal networks learn in it.

    They do in every step at first, and every `target` steps or so from `num_steps` on.

    >>> learns = get_proposal_requires_grad_fn(target=2.0, num_steps=4)
    >>> [learns(step) for step in range(8)]
    [False, True, False, True, False, False, True, False]
    """
    check_positive_int(num_steps, "num_steps")
    since = 0

    def proposal_requires_grad_fn(step: int) -> bool:
        nonlocal since
        learns = since > min(step / num_steps, 1.0) * target
        since = 1 if learns else since + 1
        return learns

    return proposal_requires_grad_fn


def _check_planes(sampling_type: str, near_plane: float, far_plane: float) -> None:
    if sampling_type not in TYPES:
        raise ValueError(f"sampling_type must be one of {', '.join(TYPES)}, got {sampling_type!r}")
    if sampling_type == "lindisp" and not (near_plane > 0 and far_plane > 0):
        raise ValueError(f"near_plane and far_plane must be above 0 for lindisp, got {near_plane} and {far_plane}")


def _edges(sampling_type: str, intervals: RayIntervals, near: float, far: float) -> tuple[Tensor, Tensor]:
    """Return t_starts and t_ends of intervals whose edges are 0 at near and 1 at far."""
    s = intervals.vals
    t = s * far + (1 - s) * near if sampling_type == "uniform" else 1 / (s / far + (1 - s) / near)
    return t[..., :-1], t[..., 1:]


def _cdfs(trans: Tensor) -> Tensor:
    """Return what was absorbed up to each edge; all of it up to the last."""
    return 1.0 - torch.cat([trans, torch.zeros_like(trans[..., :1])], dim=-1)


def _pdf_loss(
    segments_query: RayIntervals, cdfs_query: Tensor, segments_key: RayIntervals, cdfs_key: Tensor, eps: float = 1e-7
) -> Tensor:
    """Return the loss of each interval of the query, whose weights those of the key should bound."""
    left, right = searchsorted(segments_key, segments_query)
    if segments_query.vals.dim() > 1:
        weights = cdfs_query[..., 1:] - cdfs_query[..., :-1]
        left, right = left[..., :-1], right[..., 1:]
    else:
        is_left, is_right = segments_query.is_left, segments_query.is_right
        assert is_left is not None
        assert is_right is not None
        weights = cdfs_query[is_right] - cdfs_query[is_left]
        left, right = left[is_left], right[is_right]
    bound = cdfs_key.gather(-1, right) - cdfs_key.gather(-1, left)
    return (weights - bound).clamp_min(0) ** 2 / (weights + eps)


def _lossfun_outer(t: Tensor, w: Tensor, t_env: Tensor, w_env: Tensor) -> Tensor:
    """Return `_pdf_loss` of two histograms: edges [..., S + 1] and weights [..., S], bounded by those of `env`."""

    def cdfs(weights: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(weights[..., :1]), weights.cumsum(-1)], -1)

    return _pdf_loss(RayIntervals(t), cdfs(w), RayIntervals(t_env), cdfs(w_env), torch.finfo(t.dtype).eps)
