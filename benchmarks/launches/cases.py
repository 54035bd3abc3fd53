"""The training steps that are counted: every method on points and on rays, and every kind of meta-training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.fisher.scores import FimConfig
from mclnf_fast.learn.meta.config import MetaConfig
from mclnf_fast.learn.meta.episodes import TaskEpisodes
from mclnf_fast.learn.meta.trainer import MetaTrainer
from mclnf_fast.learn.methods import METHODS, AdaptConfig, Method
from mclnf_fast.learn.task import ScoredTask, join
from mclnf_fast.render import Cameras, Cells, RenderSettings
from mclnf_fast.render.cameras import look_at
from mclnf_fast.spec import FieldSpec, Frequency
from mclnf_fast.tasks.coords import CoordTask
from mclnf_fast.tasks.rays import PosedImages

IMAGES = FieldSpec(2, 3, 64, 3, activation="sine(30)")
CITY = FieldSpec(3, 4, 64, 4, encoding=Frequency(10))
STEPS = 16  # of a method in a count: two calls of `mim`, which scores every 16 steps


def images(k: int, device: str) -> CoordTask:
    """Return 3 pictures of 24 x 24 pixels that share their coordinates."""
    generator = torch.Generator().manual_seed(k)
    x = torch.rand(576, 2, generator=generator)
    return CoordTask(f"pictures {k}", x.to(device), torch.rand(3, 576, 3, generator=generator).to(device), IMAGES)


def block(k: int, device: str) -> PosedImages:
    """Return 3 pictures of a block of a city."""
    generator = torch.Generator().manual_seed(k)
    places = 4 * torch.nn.functional.normalize(torch.randn(3, 3, generator=generator), dim=1)
    cameras = Cameras(look_at(places, torch.zeros(3, 3)), 12.0, 12.0, 8.0, 8.0, 16, 16)
    pictures = torch.randint(256, (3, 16, 16, 3), dtype=torch.uint8, generator=generator)
    cells = Cells(torch.tensor([[[-1.0, -2.0, -1.0], [3.0, 1.0, 1.0]]]).to(device))
    views = (pictures.to(device), cameras.to(device))
    return PosedImages(f"block {k}", views, views, cells, CITY, RenderSettings(16, near=3.0, far=4.5), 4)


KINDS: dict[str, tuple[Callable[[int, str], ScoredTask], FieldSpec, int]] = {
    "images": (images, IMAGES, 256),
    "city": (block, CITY, 64),
}


def method(name: str, kind: str, device: str) -> Method:
    """Return a method that has not begun."""
    make, spec, batch = KINDS[kind]
    tasks = [make(k, device) for k in range(2)]
    init = tuple(p.detach().to(device) for p in initial_parameters(spec, 1, generator=torch.Generator().manual_seed(1)))
    config = AdaptConfig(batch=batch, fim=FimConfig(use="sample"))
    cls = METHODS[name]
    return cls([join(tasks)] if cls.joint else tasks, init, config, seed=3)


META = {
    "maml": MetaConfig(batch=64, tasks=2),
    "maml first order": MetaConfig(batch=64, tasks=2, first_order=True),
    "reptile": MetaConfig(batch=64, tasks=2, algorithm="reptile", grad_clip=None),
    "reptile, adam": MetaConfig(batch=64, tasks=2, algorithm="reptile", inner="adam", grad_clip=None),
    "oml": MetaConfig(batch=64, tasks=2),
    "mim, weights": MetaConfig(batch=64, tasks=2, fim_inner="weight", fim_outer="weight"),
    "gradncp": MetaConfig(batch=64, tasks=2, context="gradncp"),
}


def trainer(name: str, device: str) -> MetaTrainer:
    """Return meta-training on pictures."""
    config = dataclasses.replace(META[name], validate_every=0, steps=1000)
    tasks = [images(k, device) for k in range(2)]
    init = tuple(
        p.detach().to(device) for p in initial_parameters(IMAGES, 1, generator=torch.Generator().manual_seed(1))
    )
    oml = name == "oml"
    episodes = TaskEpisodes("oml" if oml else "modules", tasks, config)
    score: Callable[[Tensor], float] = lambda losses: 0.0  # noqa: E731  # a point of the curve waits, by its purpose
    return MetaTrainer(init, episodes, config, 3, 2 if oml else None, score=score, curve_points=1)
