"""A scene that is photographed through a known lens, learned with and without the lens."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from mclnf_fast.encodings import Frequency
from mclnf_fast.fields import initial_parameters
from mclnf_fast.render import Cells, Projection, RenderSettings, make_lens
from mclnf_fast.render.cameras import Cameras, look_at
from mclnf_fast.spec import FieldSpec
from mclnf_fast.tasks.rays import PosedImages, posed_losses

WIDTH, HEIGHT, FOCAL = 48, 36, 26.0
LENSES = {
    "OPENCV": (Projection.PERSPECTIVE, {"k1": -0.25, "k2": 0.06, "p1": 0.003, "p2": -0.002}),
    "OPENCV_FISHEYE": (Projection.EQUIDISTANT, {"k1": 0.05, "k2": -0.01}),
}


def opened(name: str, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where the rays of places on the picture meet the plane one ahead: the fixed point that OpenCV iterates to."""
    projection, c = LENSES[name]
    k1, k2, p1, p2 = (c.get(key, 0.0) for key in ("k1", "k2", "p1", "p2"))
    a, b = x.copy(), y.copy()
    for _ in range(500):
        s = a * a + b * b
        radial = 1 + k1 * s + k2 * s * s
        a = (x - 2 * p1 * a * b - p2 * (s + 2 * a * a)) / radial
        b = (y - p1 * (s + 2 * b * b) - 2 * p2 * a * b) / radial
    if projection == Projection.EQUIDISTANT:
        angle = np.hypot(a, b)
        a, b = a * np.tan(angle) / angle, b * np.tan(angle) / angle
    return a, b


def photographed(name: str, cameras: Cameras) -> Tensor:
    """Pictures of a colored ground at z = 0, each pixel the mean of 2 x 2 exact rays."""
    row, column, sub = np.arange(HEIGHT)[:, None, None], np.arange(WIDTH)[:, None], np.arange(4)
    x = (column + 0.25 + 0.5 * (sub % 2) - WIDTH / 2) / FOCAL + 0 * row
    y = (row + 0.25 + 0.5 * (sub // 2) - HEIGHT / 2) / FOCAL + 0 * column
    a, b = opened(name, x, y)
    pictures = []
    for pose in cameras.c2w.double().numpy():
        ray = np.stack((a, -b, -np.ones_like(a)), -1) @ pose[:, :3].T
        u, v = (pose[k, 3] - ray[..., k] / ray[..., 2] * pose[2, 3] for k in (0, 1))
        color = np.stack((np.sin(3 * u) * np.cos(2 * v), np.sin(2 * u + 3 * v), np.cos(4 * u - v)), -1)
        pictures.append(255 * (0.5 + 0.45 * color).mean(2))
    return torch.from_numpy(np.stack(pictures)).round().to(torch.uint8)


def above(count: int, seed: int) -> Cameras:
    generator = torch.Generator().manual_seed(seed)
    position = torch.rand(count, 3, generator=generator) * torch.tensor([1.2, 1.2, 0.3]) + torch.tensor(
        [-0.6, -0.6, 1.1]
    )
    target = position * torch.tensor([1.0, 1.0, 0.0]) + 0.3 * torch.rand(count, 3, generator=generator) - 0.15
    target[:, 2] = 0
    pose = look_at(position, target)
    return Cameras(pose, FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2, WIDTH, HEIGHT)


def learned(train: tuple[Tensor, Cameras], test: tuple[Tensor, Cameras]) -> float:
    """The mean PSNR of held-out views."""
    spec = FieldSpec(3, 4, width=32, hidden_layers=2, encoding=Frequency(3, include_input=True))
    cells = Cells(torch.tensor([[[-2.5, -2.5, -0.02], [2.5, 2.5, 0.02]]]))
    task = PosedImages("ground", train, test, cells, spec, RenderSettings(2, backend="cpu"))
    generator = torch.Generator().manual_seed(0)
    params = tuple(p.requires_grad_() for p in initial_parameters(spec, 1, generator=generator))
    optimizer = torch.optim.Adam(params, lr=2e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.001, total_iters=250)
    for step in range(250):
        batch = task.pool.batch(task.pool.uniform(1024, generator))
        loss = posed_losses(params, spec, batch, torch.tensor([0, 1024]), cells, task.settings, step).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return float(task.evaluate(params))


@pytest.mark.parametrize("name", LENSES)
def test_the_lens_is_worth_many_decibels(name):
    lens, views = make_lens(*LENSES[name]), (above(12, 1), above(3, 2))
    pictures = [photographed(name, cameras) for cameras in views]
    bent, plain = (
        learned(*[(p, replace(cameras, lens=one)) for p, cameras in zip(pictures, views)]) for one in (lens, None)
    )
    print(f"{name}: {bent:.1f} dB with the lens, {plain:.1f} dB without")
    assert bent > 26
    assert bent > plain + 8
