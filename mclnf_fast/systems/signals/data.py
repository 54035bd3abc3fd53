"""What the image, video and audio jobs learn from, a folder or procedural signals, and where they begin."""

from __future__ import annotations

from typing import Any

import torch

from mclnf_fast.data.cut import CoordinateFrame, Cut
from mclnf_fast.data.signals import Signals, SignalSets
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.even import hilbert_order
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.signals.options import AudioConfig, ImageConfig, SignalConfig, VideoConfig
from mclnf_fast.tasks.coords import CoordTask

MADE = {"image": (36, 6), "video": (16, 4), "audio": (36, 6)}  # procedural signals, and how many of them to test on


def load(config: SignalConfig) -> SignalSets:
    """Reads or makes the signals. Raises InputError where a folder is unusable."""
    from mclnf_fast import data

    if config.data is None:
        count, test = MADE[config.kind]
        count = min(count, config.limit or count)
        keys = {"test": config.test or min(test, max(1, count // 4)), "validation": max(1, min(4, count // 4))}
        if isinstance(config, ImageConfig):
            return data.procedural_faces(count, config.size, **keys)
        if isinstance(config, VideoConfig):
            return data.procedural_video(count, config.frames, config.size, **keys)
        assert isinstance(config, AudioConfig)
        return data.procedural_audio(count, config.seconds, rate=config.rate, **keys)
    options: dict[str, Any] = {"limit": config.limit, "strict": config.strict}
    if config.test is not None:
        options["test"] = config.test
    if isinstance(config, ImageConfig):
        return data.load_images(
            config.data, size=config.size, resize=config.resize or None, channels=config.channels, **options
        )
    if isinstance(config, VideoConfig):
        return data.load_videos(config.data, frames=config.frames, size=config.size, stride=config.stride, **options)
    assert isinstance(config, AudioConfig)
    return data.load_audio(config.data, seconds=config.seconds, rate=config.rate, peak=config.peak, **options)


def cut_of(config: SignalConfig, sets: SignalSets) -> Cut:
    """How the signals are cut into tasks. Raises InputError where there are more tasks than samples."""
    return Cut(tuple(sets.test.values.shape[1:-1]), config.parts, config.span, config.box_span)


def tasks_of(
    config: SignalConfig, cut: Cut, signals: Signals, spec: FieldSpec, frame: CoordinateFrame
) -> list[CoordTask]:
    """The tasks of signals: in local coordinates for modules, in global ones for one network."""
    return [
        CoordTask(
            f"task {k + 1}",
            cut.coordinates(k, frame).to(config.device),
            cut.values(signals.values, k).to(config.device),
            spec,
            config.backend,
            hilbert_order(tuple(box.stop - box.start for box in cut.box(k))),
        )
        for k in range(cut.tasks)
    ]


def random_start(config: SignalConfig, spec: FieldSpec, seed: int) -> Params:
    """A random initialisation [1, ...], the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    *rest, last = initial_parameters(spec, 1, device=config.device, generator=generator)
    return (*rest, last + config.offset)


def meta_start(config: SignalConfig, random: Params, signals: Signals) -> Params:
    """Where meta-training on `signals` begins: the random start, or with `meta.center` one about their mean."""
    if not config.meta.center:
        return random
    *rest, last = random
    mean = signals.values.flatten(0, -2).mean(0).to(last)
    return (*rest, last + (mean - config.offset))
