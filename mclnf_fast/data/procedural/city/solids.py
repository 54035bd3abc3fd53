"""Renders boxes, ellipsoids and a ground: rays from `raycast`, colors of facades, light of sun and sky."""

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

BAND_SAMPLES = 1 << 16  # samples shaded together: few enough for the processor's cache, enough to hide a call's cost
MOST_THREADS = 8


@dataclass(frozen=True)
class Light:
    """The light of a scene and the setting of the camera; colors [3], linear light.

    Attributes:
        sun: unit direction towards the sun, above the horizon.
        sun_light: light on faces towards the sun.
        sky_light, bounce_light: light on faces that look up and down.
        zenith, horizon: the sky overhead and at eye level; linear in the sine of the elevation between.
        gain: factor of each channel, exposure and white balance of the camera.

    >>> white = torch.ones(3)
    >>> Light(torch.tensor([0.0, 0.0, 1.0]), white, white, white, white, white, white).gain.tolist()
    [1.0, 1.0, 1.0]
    """

    sun: Tensor
    sun_light: Tensor
    sky_light: Tensor
    bounce_light: Tensor
    zenith: Tensor
    horizon: Tensor
    gain: Tensor


def _box_surface(rows6: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
    """Return the axis that a point [N, 3] on a box [N, 6] faces, int64 [N], and the outward normal [N, 3]."""
    center, half = 0.5 * (rows6[:, :3] + rows6[:, 3:]), 0.5 * (rows6[:, 3:] - rows6[:, :3])
    # The axis on which the point is nearest to the surface: rounding leaves it a little inside or outside.
    local = points - center
    axis = (local.abs() - half).argmax(1)
    sign = torch.sign(local.gather(1, axis[:, None])[:, 0])
    normals = torch.zeros_like(points)
    normals.scatter_(1, axis[:, None], sign[:, None])
    return axis, normals


def _facade_color(rows6: Tensor, material: Tensor, points: Tensor, axis: Tensor, blur: Tensor) -> Tensor:
    """Return the color [N, 3] of box faces: walls with windows and a shop band below, roofs with a lighter rim."""
    low, size = points - rows6[:, :3], rows6[:, 3:] - rows6[:, :3]
    roof = axis == 2
    along = torch.where(axis == 0, low[:, 1], low[:, 0])
    length = torch.where(axis == 0, size[:, 1], size[:, 0])
    # Stretched to a whole number of bays, so that no window is cut at a corner.
    bay = length / (length / material[:, BAY]).round().clamp_min(1.0)
    floor = material[:, FLOOR]
    glass = pulses(along / bay, material[:, WINDOW_WIDE], blur / bay) * pulses(
        low[:, 2] / floor, material[:, WINDOW_TALL], blur / floor
    )
    # Whole windows only: none on the wall's last half meter beside a corner or below the roof.
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
    """Renders views of solids under one light; build it once, since it keeps the shadow grid.

    Args:
        solids: B boxes and E ellipsoids, meters.
        materials: float32 [B + E, MATERIAL_COLUMNS], see `parts`.
        ground: function (x, y, footprints, each [N], meters) -> albedo [N, 3] of the plane z = 0, linear light.
        light: see `Light`.

    Raises:
        InputError: the sun is not above the horizon.

    >>> white = torch.ones(3)
    >>> light = Light(torch.tensor([0.0, 0.0, 1.0]), white, white, white, white, white, white)
    >>> solids = Solids(torch.zeros(0, 6), torch.zeros(0, 6))
    >>> renderer = SolidRenderer(solids, torch.zeros(0, 15), lambda x, y, footprint: torch.ones(len(x), 3), light)
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
        """Return views as uint8 sRGB [V, H, W, 3]. The same call gives the same bytes.

        Args:
            cameras: V cameras, positions in meters.
            samples: samples per pixel, a square number >= 4, each at a random place of its own subcell.
            seed: seed of those places.
            workers: number of threads, each on a view of its own; None: torch's number of threads.
            progress: called with (views done, views in total).

        Raises:
            InputError: `samples` is no square number >= 4.
        """
        side = round(samples**0.5)
        if side * side != samples or samples < 4:
            raise InputError(f"samples: must be a square number of samples per pixel >= 4, was {samples}")
        images = torch.empty(len(cameras), cameras.height, cameras.width, 3, dtype=torch.uint8)
        threads = torch.get_num_threads()
        workers = threads if workers is None else workers
        done = 0
        # One thread per view, not many threads per operation: these tensors are small, and on a machine shared with
        # others the operations' own threads wait for each other most of the time.
        with ThreadPoolExecutor(max(1, min(workers, MOST_THREADS, len(cameras)))) as pool:
            try:
                futures = [
                    pool.submit(self._view, cameras, view, side, seed, images[view]) for view in range(len(cameras))
                ]
                for future in as_completed(futures):
                    future.result()
                    done += 1
                    if progress is not None:
                        progress(done, len(cameras))
            finally:
                # A worker's setting is its own, but later threads begin with it.
                torch.set_num_threads(threads)
        return images

    def _view(self, cameras: Cameras, view: int, side: int, seed: int, image: Tensor) -> None:
        """Render one view into `image` uint8 [H, W, 3], band by band."""
        torch.set_num_threads(1)
        generator = torch.Generator().manual_seed((seed << 20) + view)
        step = max(1, BAND_SAMPLES // (cameras.width * side * side))
        for begin in range(0, cameras.height, step):
            rows = (begin, min(begin + step, cameras.height))
            image[rows[0] : rows[1]] = self._band(cameras, view, rows, side, generator)

    def _band(
        self, cameras: Cameras, view: int, rows: tuple[int, int], side: int, generator: torch.Generator
    ) -> Tensor:
        """Return the pixels of rows `rows[0]` to `rows[1] - 1`, uint8 [rows, W, 3]."""
        width, height, count = cameras.width, rows[1] - rows[0], side * side
        sub = torch.arange(count)
        jitter = torch.rand(2, width * height, count, generator=generator, dtype=torch.float32)
        pixel = torch.arange(width * height)[:, None]
        x = (pixel % width) + (sub % side + jitter[0]) / side
        y = (
            torch.div(pixel, width, rounding_mode="floor")
            + rows[0]
            + (torch.div(sub, side, rounding_mode="floor") + jitter[1]) / side
        )
        hits = self.caster.cast(cameras, view, rows, x, y)
        distance, solid = hits.distance.reshape(-1), hits.solid.reshape(-1)
        directions = torch.stack([component.reshape(-1) for component in hits.directions], 1)
        # A sample stands for 1 / side of a pixel's width at its distance.
        pitch = 1.0 / (float(torch.minimum(cameras.fx[view], cameras.fy[view])) * side)
        color = self._shade(cameras.c2w[view, :, 3], directions, distance, solid, pitch)
        color = color.reshape(width * height, count, 3).mean(1).clamp(0.0, 1.0)
        # The simple power that the colors of `parts` were chosen with, not the sRGB curve.
        return (color ** (1 / 2.2) * 255.0 + 0.5).to(torch.uint8).reshape(height, width, 3)

    def _shade(self, origin: Tensor, directions: Tensor, distance: Tensor, solid: Tensor, pitch: float) -> Tensor:
        """Return linear light [N, 3] of N samples; `pitch` is the width of a sample at distance 1."""
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

        def blur(chosen: Tensor) -> Tensor:
            # Slanted faces stretch the footprint one way only; the root is a compromise between both ways.
            facing = (directions.index_select(0, chosen) * normals.index_select(0, chosen)).sum(1).abs().clamp_min(0.05)
            return distance[chosen] * pitch * facing.rsqrt()

        chosen = (solid == GROUND).nonzero()[:, 0]
        points[chosen, 2] = 0.0
        albedo.index_copy_(0, chosen, self.ground(points[chosen, 0], points[chosen, 1], blur(chosen)))
        chosen = ((solid >= 0) & (solid < len(boxes))).nonzero()[:, 0]
        box, position = solid[chosen], points.index_select(0, chosen)
        rows6, material = boxes.index_select(0, box), self.materials.index_select(0, box)
        axis, facing_out = _box_surface(rows6, position)
        normals.index_copy_(0, chosen, facing_out)
        albedo.index_copy_(0, chosen, _facade_color(rows6, material, position, axis, blur(chosen)))
        chosen = (solid >= len(boxes)).nonzero()[:, 0]
        rows6 = ellipsoids[solid[chosen] - len(boxes)]
        outward = (points[chosen] - rows6[:, :3]) / rows6[:, 3:].square()
        normals[chosen] = torch.nn.functional.normalize(outward, dim=1)
        albedo[chosen] = self.materials[solid[chosen], WALL]

        sun = (normals @ light.sun).clamp_min(0.0) * ~self.caster.shadowed(points, normals)
        up = 0.5 + 0.5 * normals[:, 2:]
        # Streets between houses see less of the sky than roofs do: light from above fades towards the ground.
        open_sky = 0.72 + 0.28 * (points[:, 2:] / 20.0).clamp(0.0, 1.0)
        incoming = sun[:, None] * light.sun_light + open_sky * (up * light.sky_light + (1.0 - up) * light.bounce_light)
        color.index_copy_(0, hit, albedo * incoming)
        return color * light.gain
