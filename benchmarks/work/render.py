"""Marching and compositing of rays: `march`, `composite`, `composite_backward`.

Shapes: rays, bins; march: resolution, of an occupancy grid with a ball in it. The reference is the definition, so it is
the peer; march is compared with it in the same dtype, since a border crossed or not is a matter of rounding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf
from benchmarks.contender import Contender, Outputs
from benchmarks.work import Work

FLOAT = 4  # bytes
INDEX = 8


def rays_of(rays: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """origins and unit directions [R, 3] that all cross the box [-1, 1]^3, and the box [2, 3]."""
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(rays, 3, generator=generator), dim=1) * 4
    targets = torch.rand(rays, 3, generator=generator) * 1.6 - 0.8
    box = torch.tensor([[-1.0] * 3, [1.0] * 3])
    return origins, torch.nn.functional.normalize(targets - origins, dim=1), box


def ball(resolution: int) -> Tensor:
    """Occupancy bool [X, X, X] of a ball that fills about half of the box [-1, 1]^3."""
    axis = (torch.arange(resolution) + 0.5) / resolution * 2 - 1
    x, y, z = torch.meshgrid(axis, axis, axis, indexing="ij")
    return x * x + y * y + z * z < 0.9


class March(Work):
    """Rays through a grid whose ball fills about half of the box."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        self.rays, self.bins = int(shapes["rays"]), int(shapes["bins"])
        self.points = self.rays * self.bins
        # Whether a bin is kept is a matter of rounding, so the truth is the definition on the CPU, whose operators
        # round as IEEE has it; a GPU's fuse a multiplication and an addition here and there.
        origins, directions, box = rays_of(self.rays)
        self.given = (origins, directions, ball(int(shapes["resolution"])), box)
        self.origins, self.directions, self.occupancy, self.box = (t.to(device) for t in self.given)
        self.tolerance = {"": 1e-6}
        kept = self.definition()["t_starts"].shape[0]
        self.moved = float(kept * (2 * FLOAT + INDEX) + self.rays * (6 * FLOAT + 2 * INDEX))

    def own(self, name: str, backend: str = "auto") -> Contender:
        """Return the op as a caller of `mf.ops.march_rays` meets it."""

        def run() -> Any:
            return mf.ops.march_rays(
                self.origins, self.directions, self.occupancy, self.box, bins=self.bins, backend=backend
            )

        return Contender(name, run, lambda found: found._asdict())

    def ours(self) -> list[Contender]:
        return [self.own("ours")]

    def definition(self) -> Outputs:
        """Return the reference on the CPU."""
        origins, directions, occupancy, box = self.given
        return mf.ops.march_rays(origins, directions, occupancy, box, bins=self.bins, backend="reference")._asdict()

    def truth(self) -> Outputs:
        return {name: t.double().to(self.origins.device) for name, t in self.definition().items()}


class Composite(Work):
    """Packed samples, `bins` a ray, three colors, a background."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        self.backward = op == "composite_backward"
        self.rays, self.bins = int(shapes["rays"]), int(shapes["bins"])
        self.points = self.rays * self.bins
        generator = torch.Generator().manual_seed(0)
        found = mf.ops.march_rays(*rays_of(self.rays)[:2], None, rays_of(self.rays)[2], bins=self.bins)
        self.t_starts, self.t_ends, self.info = (
            t.to(device) for t in (found.t_starts, found.t_ends, found.packed_info)
        )
        self.ray_ids = found.ray_ids.to(device)
        self.density = (torch.rand(found.t_starts.shape[0], generator=generator) * 3).to(device)
        self.color = torch.rand(found.t_starts.shape[0], 3, generator=generator).to(device)
        self.background = torch.rand(3, generator=generator).to(device)
        self.grad_color = torch.randn(self.rays, 3, generator=generator).to(device)
        self.grad_depth = torch.randn(self.rays, generator=generator).to(device)
        read, written = 6 * self.points, self.points + 5 * self.rays  # density, color, t; weights, pixels
        if self.backward:
            read, written = 2 * read + 4 * self.rays, written + 4 * self.points
        self.moved = float(FLOAT * (read + written))
        self.tolerance = {"": 1e-5}

    def own(self, name: str, backend: str = "auto", dtype: torch.dtype = torch.float32) -> Contender:
        """Return the op as a caller of `mf.ops.composite` meets it."""
        density, color, t_starts, t_ends, background, grad_color, grad_depth = (
            t.to(dtype)
            for t in (
                self.density,
                self.color,
                self.t_starts,
                self.t_ends,
                self.background,
                self.grad_color,
                self.grad_depth,
            )
        )
        if not self.backward:

            def forward() -> Any:
                with torch.no_grad():
                    return mf.ops.composite(density, color, t_starts, t_ends, self.info, background, backend=backend)

            return Contender(name, forward, lambda found: found._asdict())
        leaves = (density.clone().requires_grad_(), color.clone().requires_grad_())

        def gradients() -> dict[str, Tensor]:
            out = mf.ops.composite(*leaves, t_starts, t_ends, self.info, background, backend=backend)
            found = torch.autograd.grad((out.color, out.depth), leaves, (grad_color, grad_depth))
            return {"density": found[0], "color": found[1]}

        return Contender(name, gradients)

    def ours(self) -> list[Contender]:
        return [self.own("ours")]

    def truth(self) -> Outputs:
        return self.own("", "reference", torch.float64).values()


def WORK(op: str, shapes: dict[str, Any], device: str = "cpu") -> Work:
    """Return the problem by its name."""
    return (March if op == "march" else Composite)(op, shapes, device)
