"""A compact instant-NGP: a hash grid, two small networks and an occupancy grid, learned from posed pictures.

    python examples/instant_ngp.py --data FOLDER   # an object in front of white (NeRF-synthetic): five minutes
    python examples/instant_ngp.py --quick         # a ball, some seconds

By tiny-cuda-nn's and nerfacc's calls alone: it runs on these packages too. Writes instant_ngp.png: truth, render.
"""

from __future__ import annotations

import argparse
import time

import torch
from PIL import Image
from torch import Tensor

from mclnf_fast.compat import nerfacc
from mclnf_fast.compat import tinycudann as tcnn
from mclnf_fast.data import ImageSet, load_scene, sphere_cameras

WHITE = torch.ones(3)
Views = list[tuple[Tensor, Tensor, Tensor]]  # origins, unit directions and colors [H W, 3] of each


class Field(torch.nn.Module):
    """Density and color of points in a box, as instant-NGP has them (arXiv 2201.05989)."""

    def __init__(self, box: Tensor, levels: int, log2_entries: int) -> None:
        super().__init__()
        self.box = box
        grid = {"otype": "HashGrid", "n_levels": levels, "n_features_per_level": 2, "per_level_scale": 1.5}
        grid |= {"log2_hashmap_size": log2_entries, "base_resolution": 16}
        network = {"otype": "FullyFusedMLP", "activation": "ReLU", "output_activation": "None", "n_neurons": 64}
        sphere = {"otype": "SphericalHarmonics", "degree": 4, "n_dims_to_encode": 3}
        both = {"otype": "Composite", "nested": [sphere, {"otype": "Identity"}]}
        self.body = tcnn.NetworkWithInputEncoding(3, 16, grid, {**network, "n_hidden_layers": 1})
        self.head = tcnn.NetworkWithInputEncoding(18, 3, both, {**network, "n_hidden_layers": 2})

    def density(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return density [N] and features [N, 15] of points [N, 3]."""
        raw = self.body((x - self.box[:3]) / (self.box[3:] - self.box[:3])).float()
        return (raw[:, 0] - 1).clamp(max=11).exp(), raw[:, 1:]

    def forward(self, x: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Return colors [N, 3] and density [N]."""
        density, features = self.density(x)
        return self.head(torch.cat(((directions + 1) / 2, features), 1)).float().sigmoid(), density


class Renderer:
    """A field with its occupancy grid, on rays."""

    def __init__(self, field: Field, resolution: int) -> None:
        self.field = field
        self.occupancy = nerfacc.OccGridEstimator(field.box, resolution=resolution, levels=1)
        self.step = float((field.box[3:] - field.box[:3]).norm()) / 256

    def __call__(self, origins: Tensor, directions: Tensor) -> tuple[Tensor, int]:
        """Return the colors [R, 3] of rays, and how many samples they took."""

        def rgb_sigma(t_starts: Tensor, t_ends: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
            middle = (t_starts + t_ends)[:, None] / 2
            return self.field(origins[rays] + middle * directions[rays], directions[rays])

        options = {"render_step_size": self.step, "stratified": self.field.training}
        rays, t_starts, t_ends = self.occupancy.sampling(origins, directions, **options)
        color, *_ = nerfacc.rendering(t_starts, t_ends, rays, len(origins), rgb_sigma_fn=rgb_sigma, render_bkgd=WHITE)
        return color, len(rays)

    def opacity(self, x: Tensor) -> Tensor:
        """Return the opacity [N, 1] of a step at points."""
        return self.field.density(x)[0][:, None] * self.step

    @torch.no_grad()
    def evaluate(self, views: Views, every: int = 1) -> tuple[float, Tensor]:
        """Return the mean PSNR at every so-many-th pixel of views, and truth and render [2, H W, 3] of the first."""
        self.field.eval()
        pairs = []
        for view in views:
            origins, directions, truth = (t[::every] for t in view)
            chunks = zip(origins.split(8192), directions.split(8192))
            pairs.append(torch.stack((truth, torch.cat([self(*rays)[0] for rays in chunks]))))
        self.field.train()
        errors = torch.stack([(truth - render).square().mean() for truth, render in pairs])
        return float(-10 * errors.log10().mean()), pairs[0]


def read_views(folder: str) -> tuple[Views, Views, Tensor]:
    """Return the training and the test views of posed pictures, and the box about the scene [6]."""
    scene = load_scene(folder)

    def views(part: ImageSet) -> Views:
        return [(*part.cameras.view_rays(k), part.images[k].reshape(-1, 3) / 255) for k in range(len(part))]

    return views(scene.blocks[0].train), views(scene.blocks[0].test), scene.aabb.flatten()


def ball_views(count: int, size: int) -> tuple[Views, Views, Tensor]:
    """Return the same of a ball of radius 0.6 whose color is its surface normal."""
    cameras, views = sphere_cameras(count, size, seed=0), []
    for k in range(count):
        origins, directions = cameras.view_rays(k)
        along = (origins * directions).sum(-1)
        inside = along.square() - origins.square().sum(-1) + 0.36
        hit = origins + (-along - inside.clamp(min=0).sqrt())[:, None] * directions
        views.append((origins, directions, torch.where((inside > 0)[:, None], 0.5 + hit / 1.2, WHITE)))
    return views[2:], views[:2], torch.tensor([-1.0, -1.0, -1.0, 1.0, 1.0, 1.0])


def main(data: str | None = None, seconds: float = 300.0, quick: bool = False) -> dict[str, float]:
    """Learn for so many seconds; return the mean PSNR of the test views in dB before and after, and the steps."""
    train, test, box = read_views(data) if data else ball_views(24, 32 if quick else 100)
    origins, directions, colors = (torch.cat(tensors) for tensors in zip(*train))
    torch.manual_seed(0)
    render = Renderer(Field(box, *((4, 12) if quick else (12, 16))), 32 if quick else 128)
    optimizer = torch.optim.Adam(render.field.parameters(), lr=1e-2, eps=1e-15, fused=True)
    every, wanted = (1, 1 << 13) if quick else (97, 1 << 16)  # pixels looked at on the way, samples in a step
    before, batch, step, spent, shown = render.evaluate(test, every)[0], 1024, 0, 0.0, 0.0
    while (step < 150) if quick else (spent < seconds):
        began = time.perf_counter()
        render.occupancy.update_every_n_steps(step, render.opacity, occ_thre=1e-2, warmup_steps=64)
        ids = torch.randint(len(origins), (batch,))
        color, samples = render(origins[ids], directions[ids])
        loss = torch.nn.functional.smooth_l1_loss(color, colors[ids])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        optimizer.param_groups[0]["lr"] = 1e-2 * 0.1 ** (step / 150 if quick else spent / seconds)
        batch = max(64, min(1 << 14, int(batch * wanted / max(samples, 1))))  # about as many samples in every step
        step, spent = step + 1, spent + time.perf_counter() - began
        if not quick and spent > shown:
            print(
                f"{spent:6.0f} s  {step:5d} steps  {batch:5d} rays  {render.evaluate(test, every)[0]:.2f} dB",
                flush=True,
            )
            shown = max(2 * shown, 10.0)
    after, pair = render.evaluate(test)
    if not quick:
        size = int(pair.shape[1] ** 0.5)
        beside = pair.reshape(2, size, size, 3).transpose(0, 1).flatten(1, 2)
        Image.fromarray((beside.clamp(0, 1) * 255).byte().numpy()).save("instant_ngp.png")
    print(f"{before:.2f} dB before, {after:.2f} dB after {step} steps in {spent:.0f} s")
    return {"before": before, "after": after, "steps": float(step)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a folder of posed pictures")
    parser.add_argument("--seconds", type=float, default=300.0, help="of learning (default: %(default)s)")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    main(options.data, options.seconds, options.quick)
