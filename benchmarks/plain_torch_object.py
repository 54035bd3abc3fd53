"""Learn one object's field of a finished single-view run again by plain PyTorch code.

    python benchmarks/plain_torch_object.py RUN_FOLDER [--again] [--same time] [--start meta] [--object 0]

Reads RUN_FOLDER/config.yaml and metrics.json, and learns the object from the same views with the same network from the
same random weights, rays per step, samples per ray, optimizer and rates: nn.Sequential, torch.optim, a renderer by
cumulative product; of ours only the readers and the initial weights. Either for as many steps as the run (`--same
steps`, the default) or for as many seconds (`--same time`). Prints the PSNR on the validation views and the seconds of
the steps, of both. Those of the run were measured when it ran; `--again` learns ours once more in turn with the other,
so that both are timed in the same way.
"""

from __future__ import annotations

import argparse
import math
import pathlib
import time
from collections.abc import Callable, Sequence

import torch
import yaml
from torch import Tensor, nn

from mclnf_fast.data import ObjectViews, load_objects, procedural_cars
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.meta.adapt import fine_tune
from mclnf_fast.render import Cameras
from mclnf_fast.render.objects import ObjectPool
from mclnf_fast.report.record import InitializationRecord, read_record
from mclnf_fast.systems.common.config_file import from_plain
from mclnf_fast.systems.single_view.options import SingleViewConfig
from mclnf_fast.systems.starts.ray_field import RayInitialization

CHUNK = 8192  # rays at a time without a gradient
TURN = 20  # steps


def encode(x: Tensor, frequencies: Tensor) -> Tensor:
    """Return sine and cosine [N, 6 F] of each coordinate of x [N, 3] at each frequency."""
    angles = x[:, None, :] * frequencies[:, None]
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)


def network(start: Sequence[Tensor]) -> nn.Sequential:
    """Return ReLU layers with the weights [1, in, out] and biases [1, out] of an initialization; the last is linear."""
    count, layers = len(start) // 2, []
    for k, (weight, bias) in enumerate(zip(start[:count], start[count:], strict=True)):
        layer = nn.Linear(*weight.shape[1:])
        with torch.no_grad():
            layer.weight.copy_(weight[0].T)
            layer.bias.copy_(bias[0])
        layers += [layer, nn.ReLU()] if k + 1 < count else [layer]
    return nn.Sequential(*layers)


class Plain:
    """A field and its renderer: as many samples in every ray between two distances, in front of white."""

    def __init__(self, config: SingleViewConfig, start: Sequence[Tensor], near: float, far: float) -> None:
        self.samples_per_ray, self.convention = config.field.samples_per_ray, config.convention
        self.frequencies = 2.0 ** torch.linspace(0, config.field.max_exp, 20)
        self.net = network(start)
        edges = torch.linspace(near, far, self.samples_per_ray)
        if self.convention == "learnit":
            self.lower, self.widths = edges, torch.full_like(edges, (far - near) / self.samples_per_ray)
        else:
            middles = (edges[1:] + edges[:-1]) / 2
            self.lower = torch.cat((edges[:1], middles))
            self.widths = torch.cat((middles, edges[-1:])) - self.lower

    def rays(self, cameras: Cameras, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return origins and directions [R, 3] of flat ids (view, row, column)."""
        pixels = cameras.width * cameras.height
        o, d = cameras.rays(ids // pixels, ids % pixels)
        if self.convention == "learnit":
            d = d / -(d * cameras.c2w[ids // pixels, :, 2]).sum(-1, keepdim=True)
        return o, d

    def render(self, o: Tensor, d: Tensor, noise: Tensor | float) -> Tensor:
        """Return the colors [R, 3] of rays [R, 3]."""
        t = (self.lower + self.widths * noise).expand(len(o), self.samples_per_ray)
        x = o[:, None] + t[..., None] * d[:, None]
        raw = self.net(encode(x.reshape(-1, 3), self.frequencies)).view(len(o), self.samples_per_ray, 4)
        last = torch.full_like(t[:, :1], 1e-3 if self.convention == "learnit" else 1e10)
        alpha = 1 - torch.exp(-torch.relu(raw[..., 3]) * torch.cat((t[:, 1:] - t[:, :-1], last), 1))
        through = torch.cumprod(1 - alpha, 1)
        weights = alpha * torch.cat((torch.ones_like(alpha[:, :1]), through[:, :-1]), 1)
        return (weights[..., None] * torch.sigmoid(raw[..., :3])).sum(1) + 1 - weights.sum(1, keepdim=True)


def white(images: Tensor) -> Tensor:
    """Return uint8 [V, H, W, 4] as [V H W, 3] in front of white."""
    values = images.reshape(-1, 4) / 255.0
    return values[:, :3] * values[:, 3:] + 1 - values[:, 3:]


def learner(one: ObjectViews, known: int, field: Plain, config: SingleViewConfig) -> Callable[[float], None]:
    """Return a function that makes a step on the first `known` views, at a share (0 ... 1) of all steps."""
    lr, end = config.adapt.rate, config.adapt.lr_end
    kind = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[config.adapt.optimizer]
    optimizer = kind(field.net.parameters(), lr=lr)
    colors, cameras = white(one.images[:known]), one.cameras[:known]

    def step(share: float) -> None:
        if end is not None:
            optimizer.param_groups[0]["lr"] = lr * (end / lr) ** share
        ids = torch.randint(len(colors), (config.adapt.batch,))
        out = field.render(*field.rays(cameras, ids), torch.rand(len(ids), field.samples_per_ray))
        loss = (out - colors[ids]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def in_turn(
    one: ObjectViews, known: int, config: SingleViewConfig, start: RayInitialization, step: Callable[[float], None]
) -> tuple[float, float]:
    """Learn ours once more, twenty steps in turn with twenty plain ones; return the seconds of both."""
    pool = ObjectPool([(one.images[:known], one.cameras[:known])], start.settings)
    seconds, made, began = [0.0, 0.0], 0, time.perf_counter()

    def after(done: int, *_: object) -> None:
        nonlocal made, began
        if done % TURN and done < config.steps:
            return
        middle = time.perf_counter()
        for k in range(made, done):
            step(k / max(1, config.steps - 1))
        made, end = done, time.perf_counter()
        seconds[0] += middle - began
        seconds[1] += end - middle
        began = end

    t = start.tuning(pool, config.seed)
    fine_tune(start.repeated(1), t.loss, t.steps, t.lr, kind=t.kind, lr_end=t.lr_end, callback=after)
    return seconds[0], seconds[1]


@torch.no_grad()
def score(one: ObjectViews, views: list[int], field: Plain) -> float:
    """Return the mean PSNR over views."""
    scores, pixels = [], one.cameras.width * one.cameras.height
    for view in views:
        ids = torch.arange(view * pixels, (view + 1) * pixels).split(CHUNK)
        out = torch.cat([field.render(*field.rays(one.cameras, part), 0.5) for part in ids]).clamp(0, 1)
        scores.append(-10 * math.log10(float((out - white(one.images[view : view + 1])).square().mean())))
    return sum(scores) / len(scores)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=pathlib.Path)
    parser.add_argument("--same", choices=("steps", "time"), default="steps")
    parser.add_argument("--again", action="store_true", help="learn ours again, from the standard start, in turn")
    parser.add_argument("--start", default="standard", help="the run's start to compare with")
    parser.add_argument("--object", type=int, default=0, help="which of the run's test objects")
    arguments = parser.parse_args()
    if arguments.again and arguments.same == "time":
        parser.error("--again goes with --same steps")
    config = from_plain(SingleViewConfig, yaml.safe_load((arguments.run / "config.yaml").read_text()))
    record = read_record(arguments.run / "metrics.json")
    if not isinstance(record, InitializationRecord) or record.views is None:
        raise SystemExit(f"{arguments.run} must be a finished run of single-view")
    name = record.names.test[arguments.object]
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    given = {"size": config.data.size, "views": config.data.views, "seed": config.seed}
    if config.data.path is None:
        count = len(record.names.train) + len(record.names.test)
        sets = procedural_cars(count, 1, **{k: v for k, v in given.items() if v is not None})
    else:
        test = {} if config.data.test is None else {"test": config.data.test}
        sets = load_objects(config.data.path, limit=config.data.limit, **given, **test)
    one = next(item for item in (*sets.train, *sets.test) if item.name == name)
    near, far = (d if own is None else own for own, d in ((config.field.near, sets.near), (config.field.far, sets.far)))
    known, tested = record.views.known[arguments.object], record.views.tested[arguments.object]
    views = list(range(len(one) - tested, len(one)))
    if config.data.inputs == "all" and one.train_views is None:
        raise SystemExit("the run has chosen its own test views; only data that has them, or --inputs N, compares")
    ours, together = record.initializations[arguments.start], len(record.names.test)
    torch.manual_seed(config.seed)
    params = initial_parameters(config.field.spec, 1, generator=torch.Generator().manual_seed(config.seed))
    how = config.steps, config.adapt.rate, config.adapt.batch, config.adapt.optimizer, config.adapt.lr_end
    start = RayInitialization(params, config.field.spec, config.settings(near, far), 1.0, *how)
    field = Plain(config, params, near, far)
    step, steps, its = learner(one, known, field, config), config.steps, ours.seconds or 0.0
    began = time.perf_counter()
    if arguments.same == "time":
        steps = 0
        while (share := (time.perf_counter() - began) / (its / together)) < 1:
            step(share)
            steps += 1
    elif arguments.again:
        its, gone = in_turn(one, known, config, start, step)
        together = 1
    else:
        for k in range(steps):
            step(k / max(1, steps - 1))
    gone = gone if arguments.again else time.perf_counter() - began
    beside = f" for {together} objects side by side" if together > 1 else ""
    print(f"{name}: {known} views learned from, {tested} tested on, {torch.get_num_threads()} threads")
    after = ours.after[arguments.object]
    print(f"ours, {arguments.start} start: {after:.2f} dB in {config.steps} steps, {its:.1f} s{beside}")
    print(f"plain PyTorch: {score(one, views, field):.2f} dB in {steps} steps, {gone:.1f} s")


if __name__ == "__main__":
    main()
