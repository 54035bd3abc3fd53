"""Pictures of boxes, ellipsoids and a ground: rays from `raycast`, colours of facades, light of sun and sky."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

import torch
from torch import Tensor

from mclnf_fast.data.graphics.raycast import GROUND, SKY, RayCaster, Solids
from mclnf_fast.data.procedural.city.ground import pulses, within
from mclnf_fast.data.procedural.city.parts import BAY, FLOOR, RIM, ROOF, SHOP, WALL, WINDOW, WINDOW_TALL, WINDOW_WIDE
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

BAND_SAMPLES = 1 << 16  # samples shaded together: few enough for the cache, enough to hide a call's cost
MOST_THREADS = 8


@dataclass(frozen=True)
class Light:
    """How a scene is lit and taken; colours [3], linear light.

    Attributes:
        sun: unit direction towards the sun, above the horizon.
        sun_light: on what faces the sun.
        sky_light, bounce_light: on what faces up and what faces down.
        zenith, horizon: the sky seen overhead and at the level of the eye; linear in the sine of the height between.
        gain: of each channel, exposure and white balance of the camera.
    """

    sun: Tensor
    sun_light: Tensor
    sky_light: Tensor
    bounce_light: Tensor
    zenith: Tensor
    horizon: Tensor
    gain: Tensor


def _box_surface(rows6: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Which axis a point [N, 3] on a box [N, 6] faces, int64 [N], and the outward normal [N, 3]."""
    center, half = 0.5 * (rows6[:, :3] + rows6[:, 3:]), 0.5 * (rows6[:, 3:] - rows6[:, :3])
    local = points - center
    axis = (local.abs() - half).argmax(1)
    sign = torch.sign(local.gather(1, axis[:, None])[:, 0])
    normals = torch.zeros_like(points)
    normals.scatter_(1, axis[:, None], sign[:, None])
    return axis, normals


def _facade_color(rows6: Tensor, material: Tensor, points: Tensor, axis: Tensor, blur: Tensor) -> Tensor:
    """Colour [N, 3] of box faces: rows of windows on walls with a shop band below, a lighter rim around
    roofs."""
    low, size = points - rows6[:, :3], rows6[:, 3:] - rows6[:, :3]
    roof = axis == 2
    along = torch.where(axis == 0, low[:, 1], low[:, 0])
    length = torch.where(axis == 0, size[:, 1], size[:, 0])
    bay = length / (length / material[:, BAY]).round().clamp_min(1.0)
    floor = material[:, FLOOR]
    glass = pulses(along / bay, material[:, WINDOW_WIDE], blur / bay) * pulses(
        low[:, 2] / floor, material[:, WINDOW_TALL], blur / floor
    )
    # Whole windows only: none on the wall's last half metre beside a corner or below the roof.
    edge = torch.minimum(torch.minimum(along, length - along), size[:, 2] - low[:, 2]) - 0.5
    wall, window = material[:, WALL], material[:, WINDOW]
    glass = glass * within(edge, blur)
    color = wall + (0.85 * glass)[:, None] * (window - wall)
    shop = within(material[:, SHOP] - low[:, 2], blur) * (material[:, SHOP] > 0)
    front = 0.35 * wall + 0.65 * window
    color = color + (0.7 * shop)[:, None] * (front - color)
    rim = torch.minimum(
        torch.minimum(low[:, 0], size[:, 0] - low[:, 0]), torch.minimum(low[:, 1], size[:, 1] - low[:, 1])
    )
    rim = within(material[:, RIM] - rim, blur) * (material[:, RIM] > 0)
    top = material[:, ROOF] + (0.55 * rim)[:, None] * (wall - material[:, ROOF])
    return torch.where(roof[:, None], top, color)


class SolidRenderer:
    """Renders views of solids under one light; build it once, the shadow grid is kept.

    Args:
        solids: B boxes and E ellipsoids, metres.
        materials: float32 [B + E, MATERIAL_COLUMNS], see `city_parts`.
        ground: albedo [N, 3] of the plane z = 0 at x, y [N] seen with footprints [N], metres.
        light: see `Light`.
    """

    def __init__(
        self, solids: Solids, materials: Tensor, ground: Callable[[Tensor, Tensor, Tensor], Tensor], light: Light
    ) -> None:
        self.materials, self.ground, self.light = materials, ground, light
        self.caster = RayCaster(solids, light.sun)

    def render(
        self,
        cameras: Cameras,
        *,
        samples: int = 4,
        seed: int = 0,
        workers: int | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """Views as uint8 sRGB [V, H, W, 3].

        Args:
            cameras: positions in metres.
            samples: samples a pixel, a square number >= 4; each lies at a random place of its own subcell.
            seed: of those places. The same call gives the same bytes.
            workers: threads to use, each on a view of its own; None: torch's number of threads.
            progress: called with (views done, views in all).
        """
        side = round(samples**0.5)
        if side * side != samples or samples < 4:
            raise InputError(f"samples: must be a square number of samples a pixel >= 4, was {samples}")
        out = torch.empty(len(cameras), cameras.height, cameras.width, 3, dtype=torch.uint8)
        threads = torch.get_num_threads()
        workers = threads if workers is None else workers
        done = 0
        # One thread a view, not many threads an operation: these tensors are small, and on a machine
        # shared with others the operations' own threads wait for each other most of the time.
        with ThreadPoolExecutor(max(1, min(workers, MOST_THREADS, len(cameras)))) as pool:
            try:
                jobs = [pool.submit(self._view, cameras, view, side, seed, out[view]) for view in range(len(cameras))]
                for job in as_completed(jobs):
                    job.result()
                    done += 1
                    if progress is not None:
                        progress(done, len(cameras))
            finally:
                # A worker's setting is its own, but it is also what later threads begin with.
                torch.set_num_threads(threads)
        return out

    def _view(self, cameras: Cameras, view: int, side: int, seed: int, out: Tensor) -> None:
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed((seed << 20) + view)
        step = max(1, BAND_SAMPLES // (cameras.width * side * side))
        for first in range(0, cameras.height, step):
            rows = (first, min(first + step, cameras.height))
            out[rows[0] : rows[1]] = self._band(cameras, view, rows, side, generator)

    def _band(
        self, cameras: Cameras, view: int, rows: tuple[int, int], side: int, generator: torch.Generator
    ) -> Tensor:
        width, height, count = cameras.width, rows[1] - rows[0], side * side
        sub = torch.arange(count)
        jitter = torch.rand(2, width * height, count, generator=generator)
        pixel = torch.arange(width * height)[:, None]
        x = (pixel % width) + (sub % side + jitter[0]) / side
        y = (
            torch.div(pixel, width, rounding_mode="floor")
            + rows[0]
            + (torch.div(sub, side, rounding_mode="floor") + jitter[1]) / side
        )
        hits = self.caster.cast(cameras, view, rows, x, y)
        distance, solid = hits.distance.reshape(-1), hits.solid.reshape(-1)
        directions = torch.stack([part.reshape(-1) for part in hits.directions], 1)
        # A sample stands for 1 / side of a pixel's width at its distance.
        pitch = 1.0 / (float(torch.minimum(cameras.fx[view], cameras.fy[view])) * side)
        color = self._shade(cameras.c2w[view, :, 3], directions, distance, solid, pitch)
        color = color.reshape(width * height, count, 3).mean(1).clamp(0.0, 1.0)
        return (color ** (1 / 2.2) * 255.0 + 0.5).to(torch.uint8).reshape(height, width, 3)

    def _shade(self, origin: Tensor, directions: Tensor, distance: Tensor, solid: Tensor, pitch: float) -> Tensor:
        """Linear light [N, 3] of N samples."""
        light = self.light
        above = directions[:, 2:].clamp_min(0.0)
        color = light.horizon + above * (light.zenith - light.horizon)
        hit = (solid != SKY).nonzero()[:, 0]
        solid, distance, directions = solid[hit], distance[hit], directions.index_select(0, hit)
        points = origin + distance[:, None] * directions
        normals = torch.zeros_like(points)
        normals[:, 2] = 1.0
        albedo = torch.empty_like(points)
        boxes, ellipsoids = self.caster.solids.boxes, self.caster.solids.ellipsoids

        def blur(pick: Tensor) -> Tensor:
            # Slanted faces stretch the footprint one way only; the root is a compromise between both ways.
            facing = (directions.index_select(0, pick) * normals.index_select(0, pick)).sum(1).abs().clamp_min(0.05)
            return distance[pick] * pitch * facing.rsqrt()

        pick = (solid == GROUND).nonzero()[:, 0]
        points[pick, 2] = 0.0
        albedo.index_copy_(0, pick, self.ground(points[pick, 0], points[pick, 1], blur(pick)))
        pick = ((solid >= 0) & (solid < len(boxes))).nonzero()[:, 0]
        which, at = solid[pick], points.index_select(0, pick)
        rows6, material = boxes.index_select(0, which), self.materials.index_select(0, which)
        axis, facing_out = _box_surface(rows6, at)
        normals.index_copy_(0, pick, facing_out)
        albedo.index_copy_(0, pick, _facade_color(rows6, material, at, axis, blur(pick)))
        pick = (solid >= len(boxes)).nonzero()[:, 0]
        rows6 = ellipsoids[solid[pick] - len(boxes)]
        outward = (points[pick] - rows6[:, :3]) / rows6[:, 3:].square()
        normals[pick] = torch.nn.functional.normalize(outward, dim=1)
        albedo[pick] = self.materials[solid[pick], WALL]

        sun = (normals @ light.sun).clamp_min(0.0) * ~self.caster.shadowed(points, normals)
        up = 0.5 + 0.5 * normals[:, 2:]
        # Streets between houses see less of the sky than roofs do: light from above fades towards the ground.
        open_sky = 0.72 + 0.28 * (points[:, 2:] / 20.0).clamp(0.0, 1.0)
        falls = sun[:, None] * light.sun_light + open_sky * (up * light.sky_light + (1.0 - up) * light.bounce_light)
        color.index_copy_(0, hit, albedo * falls)
        return color * light.gain
