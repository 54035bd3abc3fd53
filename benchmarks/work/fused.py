"""Rendering a scene: rays in, pixels out, no gradient (`render_rays`).

Shapes: those of a NeRF step (modules, rays, samples), resolution, of an occupancy grid with a ball in it. Ours renders
in one kernel and stops a ray that nothing more can be seen of; the peers march, evaluate and composite one after
another, with all samples in memory.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from benchmarks.contender import Contender, Outputs
from benchmarks.work.nerf import BACKGROUND, Nerf
from benchmarks.work.render import ball
from mclnf_fast import render
from mclnf_fast.render import Rays, RaySamples, RenderSettings, sample_in_cells
from mclnf_fast.render.volume import composite_samples, evaluate_samples
from mclnf_fast.shading import SCENE_SHADING

EARLY_STOP = 1e-4  # transmittance below which a ray ends: the largest share of a pixel that is lost


class Fused(Nerf):
    """The rays and cells of a NeRF step, and an occupancy grid, bool [X, X, X], of the unit box."""

    def __init__(self, op: str, shapes: dict[str, Any], device: str = "cpu") -> None:
        super().__init__(op, shapes, device)
        self.given = ball(int(shapes["resolution"]))  # marched on the CPU for the truth: see `work.render.March`
        self.occupancy = self.given.to(device)
        self.flops = None  # the number of points of a ray depends on where it ends
        # The share that an ended ray loses may be missing from its color.
        self.tolerance = {"color": 1e-3, "opacity": 1e-3, "depth": 1e-3}

    def settings(self, backend: str) -> RenderSettings:
        """Return the settings of a backend; without chunks, all rays are in memory."""
        shading = replace(SCENE_SHADING, background=BACKGROUND)
        return RenderSettings(self.samples, shading=shading, backend=backend)

    @property
    def grouped(self) -> Rays:
        """The rays as the renderer takes them."""
        return Rays(self.origins, self.directions, self.ray_offsets)

    def ours(self) -> list[Contender]:
        fused: Any = vars(render)["render_fused"]
        params = (*self.weights, *self.biases)

        def run() -> Any:
            return fused(
                params,
                self.spec,
                self.grouped,
                self.cells,
                self.settings("auto"),
                occupancy=self.occupancy,
                early_stop_eps=EARLY_STOP,
            )

        return [Contender("ours", run, named)]

    def own(self, name: str, backend: str = "auto") -> Contender:
        """Return the contender that calls the ops one by one."""
        params = (*self.weights, *self.biases)

        def run() -> Any:
            with torch.no_grad():
                return render.render_modules(
                    params,
                    self.spec,
                    self.grouped,
                    self.cells,
                    self.settings(backend),
                    occupancy=self.occupancy,
                )

        return Contender(name, run, named)

    def truth(self) -> Outputs:
        """Return the pixels of the same samples, evaluated and composited in float64."""
        reference = self.settings("reference")
        rays = Rays(*(t.cpu() for t in self.grouped))
        with torch.no_grad():
            samples = sample_in_cells(rays, self.cells, reference, self.given)
            wide = [t.to(self.device, torch.float64 if t.is_floating_point() else t.dtype) for t in samples[:-1]]
            samples = RaySamples(*wide)
            params = [t.double() for t in (*self.weights, *self.biases)]
            out = composite_samples(evaluate_samples(params, self.spec, samples, reference), samples, reference)
        return named(out._replace(depth=out.depth * self.cells.unit))

    def yardstick(self) -> Contender:
        return self.own("reference", "reference")


def named(out: Any) -> Outputs:
    """Return color [R, 3], opacity [R] and depth [R] as outputs."""
    return {"color": out.color, "opacity": out.opacity, "depth": out.depth}


WORK = Fused
