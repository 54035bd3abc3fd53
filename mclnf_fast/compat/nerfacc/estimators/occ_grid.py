"""An estimator that knows which cells of nested grids are occupied (Instant NGP, arXiv 2201.05989)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from mclnf_fast import ops
from mclnf_fast.checks import check_number, check_positive_int, check_tensor
from mclnf_fast.compat.nerfacc.estimators.base import AbstractEstimator
from mclnf_fast.compat.nerfacc.grid import _enlarge_aabb, check_plane, checked_rays, ray_aabb_intersect
from mclnf_fast.compat.nerfacc.volrend import (
    render_transmittance_from_alpha,
    render_transmittance_from_density,
    visible,
)

Samples = Callable[[Tensor, Tensor, Tensor], Tensor]
"""t_starts, t_ends and ray_indices, [N] each, to densities or opacities [N]."""


class OccGridEstimator(AbstractEstimator):
    """Cells of nested grids that are not empty; its samples skip the others.

    The buffers are those of the original, so that its `state_dict` loads: `resolution` int32 [3], `aabbs` [L, 6],
    `occs` [L X Y Z] (the remembered occupancies; -1: no camera sees the cell) and `binaries` bool [L, X, Y, Z].

    Args:
        roi_aabb: [6], lowest and highest corner of the first level; level k spans it scaled by 2^k about its center.
        resolution: cells along x, y and z, or one number for all three.
        levels: L.

    Raises:
        TypeError, ValueError: arguments that do not fit.

    >>> estimator = OccGridEstimator([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0], resolution=8)
    >>> estimator.update_every_n_steps(0, lambda x: (x.norm(dim=1, keepdim=True) < 0.5).float())
    >>> rays = torch.tensor([[0.1, 0.1, -2.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    >>> ray_indices, t_starts, t_ends = estimator.sampling(*rays, render_step_size=0.1)
    >>> bool(t_starts.min() > 1.3), bool(t_ends.max() < 2.7)
    (True, True)
    """

    DIM: int = 3
    resolution: Tensor
    aabbs: Tensor
    occs: Tensor
    binaries: Tensor
    grid_coords: Tensor
    grid_indices: Tensor

    def __init__(
        self,
        roi_aabb: Sequence[float] | Tensor,
        resolution: int | Sequence[int] | Tensor = 128,
        levels: int = 1,
        **kwargs: object,
    ) -> None:
        super().__init__()
        if kwargs:
            raise TypeError(f"roi_aabb, resolution and levels are the arguments, got {', '.join(kwargs)} as well")
        size = torch.as_tensor([resolution] * 3 if isinstance(resolution, int) else resolution, dtype=torch.int32)
        check_tensor("resolution", size, (3,), what="[3], or one int")
        if not bool((size > 0).all()):
            raise ValueError(f"resolution must be at least 1, got {size.tolist()}")
        box = roi_aabb if isinstance(roi_aabb, Tensor) else torch.tensor(roi_aabb, dtype=torch.float32)
        check_tensor("roi_aabb", box, (6,), what="[6]")
        if not bool((box[:3] < box[3:]).all()):
            raise ValueError(f"roi_aabb must have its lowest corner first, got {box.tolist()}")
        self.levels = check_positive_int(levels, "levels")
        self.cells_per_lvl = int(size.prod())
        self.register_buffer("resolution", size)
        self.register_buffer("aabbs", torch.stack([_enlarge_aabb(box, 2**k) for k in range(levels)]))
        self.register_buffer("occs", torch.zeros(levels * self.cells_per_lvl))
        self.register_buffer("binaries", torch.zeros([levels, *size.tolist()], dtype=torch.bool))
        axes = torch.meshgrid(*(torch.arange(n) for n in size.tolist()), indexing="ij")
        self.register_buffer("grid_coords", torch.stack(axes, -1).reshape(-1, 3), persistent=False)
        self.register_buffer("grid_indices", torch.arange(self.cells_per_lvl), persistent=False)

    @torch.no_grad()
    def sampling(  # type: ignore[override]  # the base names no arguments
        self,
        rays_o: Tensor,
        rays_d: Tensor,
        sigma_fn: Samples | None = None,
        alpha_fn: Samples | None = None,
        near_plane: float = 0.0,
        far_plane: float = 1e10,
        t_min: Tensor | None = None,
        t_max: Tensor | None = None,
        render_step_size: float = 1e-3,
        early_stop_eps: float = 1e-4,
        alpha_thre: float = 0.0,
        stratified: bool = False,
        cone_angle: float = 0.0,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the samples of rays in occupied cells: ray_indices int64 [N], t_starts [N] and t_ends [N].

        Args:
            rays_o: [R, 3], origins.
            rays_d: [R, 3], directions.
            sigma_fn: densities of samples; those that are not seen are left out. It is not called without samples.
            alpha_fn: opacities of samples, looked at if there is no sigma_fn.
            near_plane: where rays begin.
            far_plane: where they end.
            t_min: [R], where each ray begins, if that is behind near_plane.
            t_max: [R], where each ray ends, if that is before far_plane.
            render_step_size: length of a step.
            early_stop_eps: least transmittance of a sample that is seen.
            alpha_thre: least opacity of such a sample, but at most the mean occupancy of the grids.
            stratified: whether each ray begins up to a step later, at random.
            cone_angle: growth of the steps with t.

        Raises:
            TypeError, ValueError: arguments, or what a function returns, do not fit.
        """
        rays_o, rays_d, aabbs = checked_rays(rays_o, rays_d, self.aabbs)
        near = torch.full_like(rays_o[:, 0], check_number("near_plane", near_plane))
        far = torch.full_like(near, check_number("far_plane", far_plane, finite=False))
        if t_min is not None:
            near = torch.maximum(near, check_plane("t_min", t_min, 0.0, rays_o))
        if t_max is not None:
            far = torch.minimum(far, check_plane("t_max", t_max, 0.0, rays_o))
        step = max(check_number("render_step_size", render_step_size), 0.0)
        if stratified:
            near = near + torch.rand_like(near) * step
        samples = ops.traverse_grids(
            rays_o, rays_d, self.binaries, aabbs, *ray_aabb_intersect(rays_o, rays_d, aabbs), near, far,
            step=step, cone=check_number("cone_angle", cone_angle, 0.0),
        )  # fmt: skip
        found = samples.ray_ids, samples.t_starts, samples.t_ends
        if (sigma_fn is None and alpha_fn is None) or not (alpha_thre > 0 or early_stop_eps > 0) or not len(found[0]):
            return found
        if alpha_thre > 0:
            alpha_thre = min(alpha_thre, float(self.occs.mean()))
        if sigma_fn is not None:
            trans, alphas = render_transmittance_from_density(
                samples.t_starts, samples.t_ends, _values("sigma_fn", sigma_fn, samples), samples.packed_info
            )
        else:
            assert alpha_fn is not None
            alphas = _values("alpha_fn", alpha_fn, samples)
            trans = render_transmittance_from_alpha(alphas, samples.packed_info)
        seen = visible(trans, alphas, early_stop_eps, alpha_thre)
        return found[0][seen], found[1][seen], found[2][seen]

    @torch.no_grad()
    def update_every_n_steps(  # type: ignore[override]  # the base names no arguments
        self,
        step: int,
        occ_eval_fn: Callable[[Tensor], Tensor],
        occ_thre: float = 1e-2,
        ema_decay: float = 0.95,
        warmup_steps: int = 256,
        n: int = 16,
    ) -> None:
        """Look at the field in random points of cells, in every n-th step.

        A cell is occupied if what it remembers, `max(ema_decay * before, now)`, is above occ_thre, or above the mean
        of all cells if that is less.

        Args:
            step: number of the training step.
            occ_eval_fn: points [N, 3] to occupancies [N, 1] or [N]: density times step size, say.
            occ_thre: see above.
            ema_decay: see above.
            warmup_steps: up to this step all cells are looked at; then a quarter at random, and as many occupied ones.
            n: see above.

        Raises:
            RuntimeError: the estimator is in evaluation mode.
            ValueError: the occupancies have a wrong shape, or one is NaN.
        """
        if not self.training:
            raise RuntimeError("update_every_n_steps must be called in training mode, got one after eval()")
        if step % n == 0:
            self._update(step, occ_eval_fn, occ_thre, ema_decay, warmup_steps)

    @torch.no_grad()
    def mark_invisible_cells(
        self, K: Tensor, c2w: Tensor, width: int, height: int, near_plane: float = 0.0, chunk: int = 32**3
    ) -> None:
        """Set the occupancy of cells to -1, for good, that no camera sees or that are too near to one; others to 0.

        To be called once, before training. A cell is seen if its corner is inside a picture and behind near_plane, and
        too near if it is inside a picture and before near_plane.

        Args:
            K: [N, 3, 3] or [1, 3, 3], intrinsics of pinhole cameras that look along +z, in pixels.
            c2w: [N, 3, 4] or [N, 4, 4], poses, camera to world.
            width: of the pictures, in pixels.
            height: of the pictures, in pixels.
            near_plane: depth before which a cell is too near.
            chunk: cells that are looked at together.

        Raises:
            TypeError, ValueError: arguments that do not fit.
        """
        check_tensor("K", K, (None, 3, 3), None, self.device, "[N, 3, 3]")
        check_tensor("c2w", c2w, (None, None, 4), None, self.device, "[N, 3, 4] or [N, 4, 4]")
        if c2w.shape[1] not in (3, 4) or K.shape[0] not in (1, c2w.shape[0]):
            raise ValueError(
                f"c2w must be [N, 3, 4] or [N, 4, 4] and K [N, 3, 3] or [1, 3, 3], got {list(c2w.shape)} and "
                f"{list(K.shape)}"
            )
        K, c2w = K.to(self.aabbs), c2w.to(self.aabbs)
        to_camera = c2w[:, :3, :3].transpose(1, 2)
        position = c2w[:, :3, 3]
        intervals = (self.resolution - 1).clamp_min(1)
        for level, cells in enumerate(self._get_all_cells()):
            low, high = self.aabbs[level, :3], self.aabbs[level, 3:]
            for part in cells.split(chunk):
                points = low + self.grid_coords[part] / intervals * (high - low)
                pixels = (points - position[:, None]) @ to_camera.transpose(1, 2) @ K.transpose(1, 2)  # [N, chunk, 3]
                u, v, depth = *(pixels[..., :2] / pixels[..., 2:]).unbind(-1), pixels[..., 2]
                inside = (depth >= 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
                seen = (inside & (depth >= near_plane)).any(0) & ~(inside & (depth < near_plane)).any(0)
                self.occs[level * self.cells_per_lvl + part] = torch.where(seen, 0.0, -1.0).to(self.occs)

    @torch.no_grad()
    def _get_all_cells(self) -> list[Tensor]:
        """Return the numbers of the cells of each level that a camera sees."""
        return [self.grid_indices[level >= 0] for level in self.occs.view(self.levels, -1)]

    @torch.no_grad()
    def _sample_uniform_and_occupied_cells(self, n: int) -> list[Tensor]:
        """Return the numbers of n random cells of each level that a camera sees, and of n occupied ones."""
        chosen = []
        for occs, cells in zip(self.occs.view(self.levels, -1), self.binaries):
            uniform = torch.randint(self.cells_per_lvl, (n,), device=self.device)
            occupied = cells.flatten().nonzero()[:, 0]
            if n < len(occupied):
                occupied = occupied[torch.randint(len(occupied), (n,), device=self.device)]
            chosen.append(torch.cat([uniform[occs[uniform] >= 0], occupied]))
        return chosen

    @torch.no_grad()
    def _update(
        self,
        step: int,
        occ_eval_fn: Callable[[Tensor], Tensor],
        occ_thre: float = 0.01,
        ema_decay: float = 0.95,
        warmup_steps: int = 256,
    ) -> None:
        """Look at the field, as `update_every_n_steps` does in its turn."""
        every = step < warmup_steps
        chosen = self._get_all_cells() if every else self._sample_uniform_and_occupied_cells(self.cells_per_lvl // 4)
        for level, cells in enumerate(chosen):
            if not len(cells):
                continue
            corners = self.grid_coords[cells]
            unit = (corners + torch.rand_like(corners, dtype=torch.float32)) / self.resolution
            low, high = self.aabbs[level, :3], self.aabbs[level, 3:]
            now = occ_eval_fn(low + unit * (high - low))
            if now.shape not in ((len(cells),), (len(cells), 1)) or bool(now.isnan().any()):
                raise ValueError(
                    f"occ_eval_fn must return [N, 1] or [N] without NaN, N = {len(cells)}, got {list(now.shape)}"
                    + (" with NaN" if bool(now.isnan().any()) else "")
                )
            numbers = level * self.cells_per_lvl + cells
            # A cell may have been chosen twice: it is lowered once, and takes the larger of both.
            self.occs[numbers] = self.occs[numbers] * ema_decay
            self.occs.scatter_reduce_(0, numbers, now.reshape(-1).to(self.occs), "amax")
        seen = self.occs[self.occs >= 0]
        threshold = seen.mean().clamp(max=occ_thre) if len(seen) else self.occs.new_tensor(occ_thre)
        self.binaries = (self.occs > threshold).view(self.binaries.shape)


def _values(name: str, function: Samples, samples: ops.Traversal) -> Tensor:
    values = function(samples.t_starts, samples.t_ends, samples.ray_ids)
    shape = tuple(samples.t_starts.shape)
    check_tensor(f"the result of {name}", values, shape, None, samples.t_starts.device, "[N]")
    return values
