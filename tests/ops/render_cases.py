"""Rays, fields and options for the tests of rendered rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import mclnf_fast as mf

SPEC = mf.FieldSpec(3, 4, 16, 2, activation="tanh", encoding=mf.Frequency(3))
WITH_VIEW = mf.Composite(((mf.Frequency(2, include_input=True), 3), (mf.SphericalHarmonics(3), 3)))
BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
COUNTS = (5, 0, 17, 1)

Call = dict[str, Any]


def call(spec: mf.FieldSpec, counts: Sequence[int] = COUNTS, device: str = "cpu", **options: Any) -> Call:
    """Rays from a sphere about the box to points within it; every third looks away."""
    g = torch.Generator().manual_seed(3)
    modules, rays = len(counts), sum(counts)
    weights = [torch.randn(modules, rows, out, generator=g) * 1.5 / rows**0.5 for rows, out in spec.layer_shapes]
    biases = [torch.randn(modules, out, generator=g) * 0.3 for _, out in spec.layer_shapes]
    origins = torch.nn.functional.normalize(torch.randn(rays, 3, generator=g), dim=-1) * 2.5
    directions = torch.nn.functional.normalize(torch.rand(rays, 3, generator=g) * 1.6 - 0.8 - origins, dim=-1)
    directions[2::3] *= -1
    view_directions = (
        None if spec.in_dim == 3 else torch.nn.functional.normalize(torch.randn(rays, 3, generator=g), dim=-1)
    )
    found: Call = {"origins": origins, "directions": directions, "ray_offsets": torch.tensor([0, *counts]).cumsum(0)}
    found |= {
        "weights": weights,
        "biases": biases,
        "spec": spec,
        "aabb": BOX,
        "view_directions": view_directions,
        **options,
    }
    return {name: on(device, value) for name, value in found.items()}


def on(device: str, value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    return [t.to(device) for t in value] if isinstance(value, list) else value


def worst(found: mf.ops.Pixels, wanted: mf.ops.Pixels) -> float:
    return max(float((a.double() - b.double()).abs().max()) for a, b in zip(found, wanted))


def blobs(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5)) > 0.6


OPTIONS: dict[str, Call] = {
    "bins": {"bins": 9},
    "steps": {"step": 0.3, "last_behind": True},
    "one cell in five": {"bins": 12, "occupancy": blobs(5, 6, 7), "last_behind": True},
    "levels": {"bins": 12, "occupancy": torch.where(blobs(3, 4, 4, 4), 2.0, -1.0)},
    "nothing there": {"bins": 30, "occupancy": torch.zeros(2, 2, 2, dtype=torch.bool), "background": torch.ones(3)},
    "background": {"bins": 5, "background": torch.tensor([0.1, 0.5, 0.9]), "near": 2.2, "far": 3.0},
    "a background each": {"bins": 5, "background": torch.rand(23, 3, generator=torch.Generator().manual_seed(1))},
    "early stop": {"bins": 24, "early_stop_eps": 0.2, "max_raw_density": 3.0},
    "heads": {"bins": 7, "density": "softplus", "color": "none"},
}


SPECS: dict[str, mf.FieldSpec] = {
    "view": mf.FieldSpec(6, 4, 16, 2, encoding=WITH_VIEW),
    "view raw": mf.FieldSpec(6, 4, 16, 2, encoding=mf.Frequency(2)),
    "skip": mf.FieldSpec(3, 3, 24, 3, activation="softplus", encoding=mf.Frequency(2), skips=(2,)),
    "sine": mf.FieldSpec(3, 2, 37, 1, activation="sine(5)", output_activation="tanh"),
    "no hidden layer": mf.FieldSpec(3, 4, 16, 0, encoding=mf.Frequency(2)),
    "too wide": mf.FieldSpec(3, 4, 130, 1, encoding=mf.Frequency(2)),
    "harmonics of the position": mf.FieldSpec(3, 4, 16, 1, encoding=mf.SphericalHarmonics(2)),
}
