"""Objects without a renderer: bodies of boxes on ball wheels, traced analytically, seen from a dome of radius 4."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mclnf_fast.data.objects import ObjectSets, ObjectViews
from mclnf_fast.render.cameras import Cameras, look_at


def dome(views: int, size: int, generator: torch.Generator) -> Cameras:
    """Cameras on the upper half of a sphere of radius 4 that look at its middle."""
    turn = 2 * math.pi * torch.rand(views, generator=generator)
    height = 0.1 + 0.75 * torch.rand(views, generator=generator)
    flat = (1 - height.square()).sqrt()
    place = 4.0 * torch.stack((flat * turn.cos(), flat * turn.sin(), height), -1)
    focal = 0.5 * size / math.tan(math.radians(18))
    return Cameras(look_at(place, torch.zeros_like(place)), focal, focal, size / 2, size / 2, size, size)


def box(o: Tensor, d: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """First hit of rays [R, 3] with a box: t [R] (inf: none) and normal [R, 3]."""
    a, b = (low - o) / d, (high - o) / d
    near, axis = torch.minimum(a, b).max(-1)
    far = torch.maximum(a, b).amin(-1)
    t = torch.where((near < far) & (near > 0), near, torch.inf)
    normal = torch.nn.functional.one_hot(axis, 3) * -d.sign()
    return t, normal


def ball(o: Tensor, d: Tensor, middle: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """First hit of rays [R, 3] with a ball."""
    m = o - middle
    b, c = (m * d).sum(-1), m.square().sum(-1) - radius**2
    root = b.square() - c
    t = torch.where(root > 0, -b - root.clamp(min=0).sqrt(), torch.inf)
    return t, (m + t.nan_to_num(0, 0, 0)[:, None] * d) / radius


def one(generator: torch.Generator, cameras: Cameras) -> Tensor:
    """A thing with a body, a cabin and four wheels: uint8 [V, H, W, 4]."""
    u = torch.rand(10, generator=generator)
    length, width, body, cabin = 0.75 + 0.25 * u[0], 0.3 + 0.12 * u[1], 0.12 + 0.1 * u[2], 0.1 + 0.12 * u[3]
    back, front, wheel = -length * (0.2 + 0.6 * u[4]), length * (0.1 + 0.4 * u[5]), float(0.13 + 0.06 * u[6])
    paint = 0.1 + 0.85 * u[7:10]
    floor = -0.2
    roof, lamp = floor + 2 * body + 2 * cabin, floor + 1.5 * body
    v = lambda *n: torch.stack([torch.as_tensor(x, dtype=torch.float32) for x in n])  # noqa: E731
    ids = torch.arange(len(cameras)).repeat_interleave(cameras.width * cameras.height)
    pixels = torch.arange(cameras.width * cameras.height).repeat(len(cameras))
    o, d = cameras.rays(ids, pixels)
    parts = [
        (box(o, d, v(-length, -width, floor), v(length, width, floor + 2 * body)), paint),
        (box(o, d, v(back, -width * 0.85, floor), v(front, width * 0.85, roof)), v(0.25, 0.3, 0.4)),
        (box(o, d, v(back, -width * 0.86, roof - 0.4 * cabin), v(front, width * 0.86, roof)), paint),
        (box(o, d, v(length - 0.02, -width * 0.9, floor + body), v(length + 0.01, width * 0.9, lamp)), v(1, 0.95, 0.6)),
        *(
            (ball(o, d, v(x * length * 0.62, y * width, floor), wheel), v(0.08, 0.08, 0.09))
            for x in (-1, 1) for y in (-1, 1)
        ),
    ]  # fmt: skip
    hits = torch.stack([t for (t, _), _ in parts])
    first, which = hits.min(0)
    normals = torch.stack([n for (_, n), _ in parts])[which, torch.arange(len(which))]
    light = (0.55 + 0.45 * (normals * v(0.4, 0.3, 0.86)).sum(-1).clamp(min=0))[:, None]
    color = torch.stack([c for _, c in parts])[which] * light
    alpha = torch.isfinite(first).to(torch.float32)[:, None]
    rgba = torch.cat((color * alpha, alpha), -1).clamp(0, 1)
    return (rgba * 255).round().to(torch.uint8).reshape(len(cameras), cameras.height, cameras.width, 4)


def procedural_cars(
    count: int, test: int, *, views: int = 25, size: int = 128, seed: int = 0, **_: object
) -> ObjectSets:
    """In the place of the package's own, which takes longer."""
    made = []
    for k in range(count):
        generator = torch.Generator().manual_seed(seed * 1000 + k)
        cameras = dome(views, size, generator)
        made.append(ObjectViews(f"thing {k}", one(generator, cameras), cameras))
    train = count - test
    return ObjectSets("Things", tuple(made[:train]), tuple(made[train:]), 2.0, 6.0)
