"""The same modules on the same blocks, trained by plain PyTorch code for as long as a finished run took.

    python benchmarks/plain_torch_city.py RUN_FOLDER [--method mod_random] [--scale 1.0]

Reads RUN_FOLDER/config.yaml and metrics.json, trains each block's network (torch.nn.Linear layers, torch.optim.Adam,
dense sampling and compositing by tensor operations, nothing of ours but the reader of the data) from a random start
for the seconds a block that the run's method needed, and prints the held-out PSNR of both. The learning rate falls
over the time in the same way as it did over the run's steps.
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


class Plain(nn.Module):
    """Frequency encoding, `hidden` ReLU layers, 4 outputs."""

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
    bins: int,
    jitter: bool,
) -> Tensor:
    """Return rays [R, 3] through the box -> colors [R, 3]; the last sample stands behind everything."""
    o, d = (origins - center) / half, directions * (unit / half)
    a, b = (-1 - o) / d, (1 - o) / d
    near = torch.minimum(a, b).amax(-1).clamp(min=0)
    far = torch.maximum(torch.maximum(a, b).amin(-1), near)
    edges = torch.linspace(0, 1, bins + 1).expand(o.shape[0], -1)
    if jitter:
        move = (torch.rand(o.shape[0], bins - 1) - 0.5) / bins
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


def train(block: Block, config: dict, seconds: float, seed: int) -> tuple[float, int]:
    """Train one block for `seconds`; return the PSNR of validation views (their mean) and the steps made."""
    torch.manual_seed(seed)
    center = block.aabb.mean(0)
    half = (block.aabb[1] - block.aabb[0]) / 2 * torch.tensor([config["margin"], config["margin"], 1.0])
    unit = float((block.aabb[1] - block.aabb[0]).max()) / 2
    net = Plain(config["frequencies"], config["width"], config["hidden_layers"])
    optimizer = torch.optim.Adam(net.parameters(), lr=config["lr"])
    cameras, pixels = block.train.cameras, block.train.cameras.width * block.train.cameras.height
    colors = block.train.images.reshape(-1, 3)
    began, steps = time.perf_counter(), 0
    while (share := (time.perf_counter() - began) / seconds) < 1:
        for group in optimizer.param_groups:
            group["lr"] = config["lr"] * (config["lr_end"] / config["lr"]) ** share
        ids = torch.randint(colors.shape[0], (config["batch"],))
        origins, directions = cameras.rays(ids // pixels, ids % pixels)
        out = render(net, origins, directions, center, half, unit, config["bins"], True)
        loss = (out - colors[ids] / 255.0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        steps += 1
    found = []
    with torch.no_grad():
        for view in range(len(block.test)):
            rays = block.test.cameras.view_rays(view)
            out = render(net, *rays, center, half, unit, config["bins"], False)
            truth = block.test.images[view].reshape(-1, 3) / 255.0
            found.append(-10 * math.log10(float((out - truth).square().mean())))
    return sum(found) / len(found), steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--method", default="mod_random")
    parser.add_argument("--scale", type=float, default=1.0, help="times the run's seconds")
    arguments = parser.parse_args()
    config = yaml.safe_load((arguments.run / "config.yaml").read_text())
    record = read_record(arguments.run / "metrics.json")
    if not isinstance(record, CityRecord) or arguments.method not in record.methods:
        raise SystemExit(f"{arguments.run} must be a city run with the method {arguments.method}")
    if config["data"] is None:
        scene = load_scene(write_city(quick=config["quick"], seed=config["seed"]).target)
    else:
        blocks = tuple(config["blocks"]) if config["blocks"] else None
        scene = load_scene(config["data"], blocks=blocks, max_side=config["max_side"])
    ours = record.methods[arguments.method]
    seconds = (ours.seconds or 0.0) / len(scene.blocks) * arguments.scale
    results = []
    for k, block in enumerate(scene.blocks):
        psnr, steps = train(block, config, seconds, config["seed"] + k)
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
