"""Train the modules of a finished city run again by plain PyTorch code, for as long as the run took.

    python benchmarks/plain_torch_city.py RUN_FOLDER [--method mod_random] [--scale 1.0]

Reads RUN_FOLDER/config.yaml and metrics.json, trains each block's network (torch.nn.Linear layers, torch.optim.Adam,
dense sampling and compositing by tensor operations, nothing of ours but the readers of the data and of the run) from a
random initialization for the seconds per block that the run's method needed, and prints the PSNR of both on the
validation views. The learning rate falls over the time in the same way as it did over the run's steps.
"""

from __future__ import annotations

import argparse
import itertools
import math
import pathlib
import time

import torch
import yaml
from torch import Tensor, nn

from mclnf_fast.data import Block, load_scene, write_city
from mclnf_fast.report.record import CityRecord, read_record
from mclnf_fast.systems.city.options import CityConfig
from mclnf_fast.systems.common.config_file import from_plain


class Plain(nn.Module):
    """A network of frequency encoding, `hidden` ReLU layers and 4 outputs."""

    def __init__(self, frequencies: int, width: int, hidden: int) -> None:
        super().__init__()
        sizes = [3 + 6 * frequencies, *[width] * hidden, 4]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        for k, layer in enumerate(self.layers):
            gain = 2.0 if k < hidden else 1.0
            nn.init.uniform_(
                layer.weight,
                -math.sqrt(3 * gain / layer.in_features),
                math.sqrt(3 * gain / layer.in_features),
            )
            nn.init.zeros_(layer.bias)
        self.frequencies = frequencies

    def forward(self, x: Tensor) -> Tensor:
        parts = [x]
        for k in range(self.frequencies):
            parts += [torch.sin(2.0**k * math.pi * x), torch.cos(2.0**k * math.pi * x)]
        h = torch.cat(parts, -1)
        for layer in self.layers[:-1]:
            h = torch.relu(layer(h))
        return self.layers[-1](h)


def render(
    net: Plain,
    origins: Tensor,
    directions: Tensor,
    center: Tensor,
    half: Tensor,
    unit: float,
    samples_per_ray: int,
    jitter: bool,
) -> Tensor:
    """Return the colors [R, 3] of rays [R, 3] through the box; the last sample stands behind everything."""
    o, d = (origins - center) / half, directions * (unit / half)
    a, b = (-1 - o) / d, (1 - o) / d
    near = torch.minimum(a, b).amax(-1).clamp(min=0)
    far = torch.maximum(torch.maximum(a, b).amin(-1), near)
    edges = torch.linspace(0, 1, samples_per_ray + 1).expand(o.shape[0], -1)
    if jitter:
        move = (torch.rand(o.shape[0], samples_per_ray - 1) - 0.5) / samples_per_ray
        edges = torch.cat((edges[:, :1], edges[:, 1:-1] + move, edges[:, -1:]), 1)
    t = near[:, None] + edges * (far - near)[:, None]
    x = o[:, None] + d[:, None] * ((t[:, 1:] + t[:, :-1]) / 2)[..., None]
    raw = net(x)
    density, color = raw[..., 0].clamp(max=9.0).exp(), raw[..., 1:].sigmoid()
    alpha = 1 - torch.exp(-density * (t[:, 1:] - t[:, :-1]))
    through = torch.cumprod(torch.cat((torch.ones_like(alpha[:, :1]), 1 - alpha[:, :-1] + 1e-10), 1), 1)
    weights = alpha * through
    image = (weights[..., None] * color).sum(1)
    return image + (1 - weights.sum(1, keepdim=True)) * color[:, -1]


def train(block: Block, config: CityConfig, seconds: float, seed: int) -> tuple[float, int]:
    """Train on one block for `seconds`; return the PSNR (mean over the validation views) and the number of steps."""
    field, adapt = config.field, config.adapt
    torch.manual_seed(seed)
    center = block.aabb.mean(0)
    half = (block.aabb[1] - block.aabb[0]) / 2 * torch.tensor([field.margin, field.margin, 1.0])
    unit = float((block.aabb[1] - block.aabb[0]).max()) / 2
    net = Plain(field.frequencies, field.width, field.hidden_layers)
    optimizer = torch.optim.Adam(net.parameters(), lr=adapt.lr)
    cameras, pixels = block.train.cameras, block.train.cameras.width * block.train.cameras.height
    colors = block.train.images.reshape(-1, 3)
    began, steps = time.perf_counter(), 0
    while (share := (time.perf_counter() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = adapt.lr * (adapt.lr_end / adapt.lr) ** share
        ids = torch.randint(colors.shape[0], (adapt.batch,))
        origins, directions = cameras.rays(ids // pixels, ids % pixels)
        out = render(net, origins, directions, center, half, unit, field.samples_per_ray, True)
        loss = (out - colors[ids] / 255.0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    scores = []
    with torch.no_grad():
        for view in range(len(block.test)):
            rays = block.test.cameras.view_rays(view)
            out = render(net, *rays, center, half, unit, field.samples_per_ray, False)
            truth = block.test.images[view].reshape(-1, 3) / 255.0
            scores.append(-10 * math.log10(float((out - truth).square().mean())))
    return sum(scores) / len(scores), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--method", default="mod_random")
    parser.add_argument("--scale", type=float, default=1.0, help="times the run's seconds")
    arguments = parser.parse_args()
    config = from_plain(CityConfig, yaml.safe_load((arguments.run / "config.yaml").read_text()))
    record = read_record(arguments.run / "metrics.json")
    if not isinstance(record, CityRecord) or arguments.method not in record.methods:
        raise SystemExit(f"{arguments.run} must be a city run with the method {arguments.method}")
    if config.data.path is None:
        scene = load_scene(write_city(quick=config.run.quick, seed=config.seed).target)
    else:
        scene = load_scene(config.data.path, blocks=config.data.blocks, max_side=config.data.max_side)
    ours = record.methods[arguments.method]
    seconds = (ours.seconds or 0.0) / len(scene.blocks) * arguments.scale
    results = []
    for k, block in enumerate(scene.blocks):
        psnr, steps = train(block, config, seconds, config.seed + k)
        results.append(psnr)
        print(
            f"{block.name}: ours {ours.matrix[-1][k]:.2f} dB in {ours.steps_per_block} steps, "
            f"plain PyTorch {psnr:.2f} dB in {steps} steps, {seconds:.1f} s each",
            flush=True,
        )
    mean, threads = sum(results) / len(results), torch.get_num_threads()
    print(f"mean: ours {ours.psnr_mean:.2f} dB, plain PyTorch {mean:.2f} dB ({arguments.method}, {threads} threads)")


if __name__ == "__main__":
    main()
