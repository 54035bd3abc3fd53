"""Read or make the signals of the image, video and audio jobs, cut them into tasks, and initialize their networks."""

from __future__ import annotations

from typing import Any

import torch

from mclnf_fast import data
from mclnf_fast.data.cut import CoordinateFrame, Cut
from mclnf_fast.data.signals import Signals, SignalSets
from mclnf_fast.fields import initial_parameters
from mclnf_fast.learn.params import Params
from mclnf_fast.learn.sampling.even import hilbert_order
from mclnf_fast.spec import FieldSpec
from mclnf_fast.systems.signals.options import AudioConfig, ImageConfig, SignalConfig, VideoConfig
from mclnf_fast.tasks.coords import CoordTask

# Procedural signals, and how many of them to test on.
PROCEDURAL = {"image": (36, 6), "video": (16, 4), "audio": (36, 6)}


def load(config: SignalConfig) -> SignalSets:
    """Read the signals of a folder, or make procedural ones. Raise InputError if a folder is unusable."""
    options = config.signals
    if options.path is None:
        return _procedural(config)
    keys: dict[str, Any] = {"limit": options.limit, "strict": options.strict}
    if options.test is not None:
        keys["test"] = options.test
    if isinstance(config, ImageConfig):
        image = config.data
        return data.load_images(
            options.path, size=image.size, resize=image.resize or None, channels=image.channels, **keys
        )
    if isinstance(config, VideoConfig):
        video = config.data
        return data.load_videos(options.path, frames=video.frames, size=video.size, stride=video.stride, **keys)
    assert isinstance(config, AudioConfig)
    audio = config.data
    return data.load_audio(options.path, seconds=audio.seconds, rate=audio.rate, peak=audio.peak, **keys)


def _procedural(config: SignalConfig) -> SignalSets:
    options = config.signals
    count, test = PROCEDURAL[config.kind]
    # A share of what is made, so that `--limit 4` still leaves signals for every purpose.
    count = min(count, options.limit or count)
    sizes = {"test": options.test or min(test, max(1, count // 4)), "validation": max(1, min(4, count // 4))}
    if isinstance(config, ImageConfig):
        return data.procedural_faces(count, config.data.size, **sizes)
    if isinstance(config, VideoConfig):
        return data.procedural_video(count, config.data.frames, config.data.size, **sizes)
    assert isinstance(config, AudioConfig)
    return data.procedural_audio(count, config.data.seconds, rate=config.data.rate, **sizes)


def cut_of(config: SignalConfig, sets: SignalSets) -> Cut:
    """Return how the signals are cut into tasks. Raise InputError if there are more tasks than samples."""
    options = config.signals
    return Cut(tuple(sets.test.values.shape[1:-1]), options.parts, options.span, options.box_span)


def tasks_of(
    config: SignalConfig, cut: Cut, signals: Signals, spec: FieldSpec, frame: CoordinateFrame
) -> list[CoordTask]:
    """Return the tasks of signals: in local coordinates for modules, in global ones for one network."""
    device = config.run.device
    return [
        CoordTask(
            f"task {k + 1}",
            cut.coordinates(k, frame).to(device),
            cut.values(signals.values, k).to(device),
            spec,
            config.run.backend,
            hilbert_order(tuple(box.stop - box.start for box in cut.box(k))),
        )
        for k in range(cut.tasks)
    ]


def random_initialization(config: SignalConfig, spec: FieldSpec, seed: int) -> Params:
    """Return a random initialization [1, ...], the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    *rest, last = initial_parameters(spec, 1, device=config.run.device, generator=generator)
    return (*rest, last + config.field.offset)


def meta_initialization(config: SignalConfig, random: Params, signals: Signals) -> Params:
    """Return where meta-training on `signals` begins: at the random initialization, or with `meta.center` at one whose
    mean output is their mean."""
    if not config.meta.center:
        return random
    *rest, last = random
    # The last bias alone: all else stays a plain random initialization.
    mean = signals.values.flatten(0, -2).mean(0).to(last)
    return (*rest, last + (mean - config.field.offset))
