"""A radiance field in your own loop: march rays, evaluate the field, composite, and step an ordinary torch optimizer.

    python examples/nerf_loop.py             # a minute or two
    python examples/nerf_loop.py --quick     # some seconds

The scene is a colored ball in front of white, so that the truth is known for every ray and nothing is downloaded.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import mclnf_fast as mf
from mclnf_fast.data import sphere_cameras
from mclnf_fast.render import Cameras

BOX = torch.tensor([[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]])
BACKGROUND = torch.ones(3)


def truth(origins: Tensor, directions: Tensor) -> Tensor:
    """Return the colors [R, 3] of rays: a ball of radius 0.6 whose color is its surface normal, in front of white."""
    along = (origins * directions).sum(-1)
    inside = along.square() - origins.square().sum(-1) + 0.36
    hit = origins + (-along - inside.clamp(min=0).sqrt())[:, None] * directions
    return torch.where((inside > 0)[:, None], 0.5 + hit / 1.2, BACKGROUND)


def render(bank: mf.FieldBank, origins: Tensor, directions: Tensor, per_ray: int, seed: int | None) -> Tensor:
    """Return the colors [R, 3] that a bank of one module has along rays, `per_ray` samples each; a seed adds jitter."""
    jitter = {"stratified": seed is not None, "seed": seed or 0}
    # A ray is cut into bins, and each bin is a sample: a grid of occupied cells in place of None would leave some out.
    samples = mf.ops.march_rays(origins, directions, None, BOX, bins=per_ray, **jitter)
    middle = (samples.t_starts + samples.t_ends)[:, None] / 2
    x = origins[samples.ray_ids] + middle * directions[samples.ray_ids]
    raw = bank(x[None])[0]  # [N, 4]: one module takes all points
    # Softplus keeps a gradient where the density is near 0; a relu that starts below 0 would never come back.
    density, color = torch.nn.functional.softplus(raw[:, 0]), raw[:, 1:].sigmoid()
    out = mf.ops.composite(density, color, samples.t_starts, samples.t_ends, samples.packed_info, BACKGROUND)
    return out.color


def main(quick: bool = False) -> dict[str, float]:
    """Train the field and return the PSNR of an unseen view before and after."""
    size, per_ray, rays, steps = (16, 16, 256, 120) if quick else (48, 32, 1024, 800)
    torch.manual_seed(0)
    cameras: Cameras = sphere_cameras(12, size, seed=0)
    every = [cameras.view_rays(k) for k in range(len(cameras))]
    origins, directions = (torch.cat(t) for t in zip(*every[1:]))  # view 0 is kept to test on
    colors, expected = truth(origins, directions), truth(*every[0])

    bank = mf.FieldBank(mf.FieldSpec(3, 4, width=64, hidden_layers=3, encoding=mf.Frequency(4)), modules=1)
    optimizer = torch.optim.Adam(bank.parameters(), lr=5e-3)

    def psnr() -> float:
        with torch.no_grad():
            return float(-10 * (render(bank, *every[0], per_ray, None) - expected).square().mean().log10())

    before = psnr()
    for step in range(steps):
        pick = torch.randint(len(origins), (rays,))
        loss = (render(bank, origins[pick], directions[pick], per_ray, seed=step) - colors[pick]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    after = psnr()
    print(f"unseen view: {before:.2f} dB before, {after:.2f} dB after {steps} steps")
    return {"before": before, "after": after}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some seconds")
    main(parser.parse_args().quick)
