"""Generates short clips of heads that talk and turn, from a seed: translation, rotation, occlusion, moving light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mclnf_fast.data.graphics.noise import Noise
from mclnf_fast.data.procedural.checks import check_count_and_seed, check_size
from mclnf_fast.data.procedural.faces.faces import draw_face
from mclnf_fast.data.procedural.faces.person import Person, Pose, draw_person, draw_pose
from mclnf_fast.data.signals import Signals, SignalSets, split_procedural
from mclnf_fast.errors import InputError

FRAME_RATE = 12.0  # frames per second


def _wander(rng: np.random.Generator, times: np.ndarray, slow: float, fast: float) -> np.ndarray:
    """Return a smooth random path over `times` (seconds), about -1 to 1, of waves between `slow` and `fast` Hz."""
    waves = [np.sin(2 * np.pi * (rng.uniform(slow, fast) * times + rng.uniform())) for _ in range(3)]
    return np.asarray(0.45 * waves[0] + 0.35 * waves[1] + 0.2 * waves[2])


def _poses(rng: np.random.Generator, start: Pose, count: int) -> list[Pose]:
    """Return the poses of a head that nods, turns and talks under a light that wanders."""
    times = np.arange(count) / FRAME_RATE
    sway, nod, tilt, zoom = (_wander(rng, times, 0.15, 0.6) for _ in range(4))
    turn = np.clip(start.yaw + 0.9 * _wander(rng, times, 0.15, 0.45), -1, 1)
    talk = np.clip(1.3 * np.abs(_wander(rng, times, 1.0, 2.5)) - 0.25, 0, 0.9)
    blink = np.zeros(count)
    for instant in np.arange(rng.uniform(0.2, 1.2), times[-1] + 0.2, rng.uniform(1.2, 2.5)):
        blink = np.maximum(blink, np.exp(-(((times - instant) / 0.09) ** 2)))
    light_angle = 1.2 * _wander(rng, times, 0.1, 0.35) + np.arctan2(start.light[1], start.light[0])
    strength = float(np.hypot(*start.light))
    drift = rng.uniform(-0.35, 0.35, 2)
    paths = {
        "x": start.x + 0.13 * sway,
        "y": start.y + 0.05 * nod,
        "scale": start.scale * (1 + 0.06 * zoom),
        "roll": start.roll + 0.16 * tilt,
        "yaw": turn,
        "pitch": 0.5 * nod,
        "open": talk,
        "smile": start.smile * (1 - 0.5 * talk),
        "blink": blink,
        "gaze": start.gaze - 0.3 * turn,
        "ambient": start.ambient + 0.06 * sway,
    }
    rows = zip(*(path.tolist() for path in paths.values()), strict=True)
    return [
        replace(
            start,
            **dict(zip(paths, row, strict=True)),
            light=(strength * float(np.cos(angle)), strength * float(np.sin(angle))),
            pan=(float(drift[0]) * seconds, float(drift[1]) * seconds),
        )
        for row, angle, seconds in zip(rows, light_angle.tolist(), times.tolist(), strict=True)
    ]


class Passer:
    """A round patterned object that passes in front of a head, turning as it goes; `size` is the picture's side in
    pixels.

    >>> picture = np.zeros((16, 16, 3), np.float32)
    >>> Passer(np.random.default_rng(0), 16).paint(picture, seconds=1.0)
    """

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1
        self.x, self.y = np.meshgrid(axis, axis)
        self.noise, self.pixel = Noise(rng), 2.0 / size
        self.radius, self.spin = rng.uniform(0.16, 0.30), rng.uniform(-2.5, 2.5)
        self.side, self.height, self.speed = float(rng.choice([-1, 1])), rng.uniform(-0.1, 0.85), rng.uniform(0.9, 1.7)
        self.colors = rng.uniform(0.15, 0.95, (2, 3)).astype(np.float32)

    def paint(self, picture: np.ndarray, seconds: float) -> None:
        """Paint it over `picture` [size, size, 3] as it is at that time."""
        x = self.x + self.side * (1.3 - self.speed * seconds)
        y = self.y - self.height - 0.25 * (seconds - 1.0) ** 2 + 0.12
        r = np.hypot(x, y) / self.radius
        angle = np.arctan2(y, x) + self.spin * seconds
        bands = np.clip(4 * np.sin(angle * 6) * np.sin(r * 5) + 0.5, 0, 1)[..., None]
        ball = np.sqrt(np.clip(1 - r * r, 0, 1))
        grain = 1 + 0.15 * self.noise(r * np.cos(angle) * 9, r * np.sin(angle) * 9)
        light = (0.35 + 0.75 * ball - 0.25 * y / self.radius) * grain
        share = np.clip((1 - r) * self.radius / self.pixel + 0.5, 0, 1)[..., None]
        color = (self.colors[0] + bands * (self.colors[1] - self.colors[0])) * light[..., None]
        picture += share * (np.clip(color, 0, 1) - picture)


def draw_clip(person: Person, pose: Pose, rng: np.random.Generator, frames: int, size: int) -> np.ndarray:
    """Return one clip, float32 [frames, size, size, 3] in [0, 1].

    >>> draw_clip(draw_person(0, 0), draw_pose(0, 0), np.random.default_rng(0), frames=2, size=16).shape
    (2, 16, 16, 3)
    """
    # In some clips only, so that occlusion varies among clips and is no constant of the data.
    passer = Passer(rng, size) if rng.random() < 0.6 else None
    clip = np.empty((frames, size, size, 3), np.float32)
    for k, moved in enumerate(_poses(rng, pose, frames)):
        clip[k] = draw_face(person, moved, size)
        if passer is not None:
            passer.paint(clip[k], k / FRAME_RATE)
    return clip


def procedural_video(
    count: int = 16, frames: int = 24, size: int = 64, *, seed: int = 0, test: int = 4, validation: int = 2
) -> SignalSets:
    """Generate clips of people who talk and turn, each another person; in some a patterned ball passes in front.

    Clip k depends on the seed and k alone, so those of a smaller count are the first of a larger one.

    Args:
        count: number of clips in total, at least 1.
        frames: frames per clip, at 12 per second; from 1 to 512.
        size: pixels of a side, at least 16.
        seed: seed of the whole family.
        test: number of clips, the last, to test on.
        validation: number of clips, those before, for the validation curve; the rest is to train.

    Returns:
        Sets of video [S, frames, size, size, 3].

    Raises:
        InputError: a count, size or seed out of range.

    >>> procedural_video(2, frames=3, size=16, test=1, validation=0).test.values.shape
    torch.Size([1, 3, 16, 16, 3])
    """
    check_count_and_seed(count, seed)
    check_size(size, 16, 1024)
    if not 1 <= frames <= 512:
        raise InputError(f"frames: must be from 1 to 512, was {frames}")
    clips = [
        draw_clip(draw_person(seed, k), draw_pose(seed, k), np.random.default_rng([seed, k, 5]), frames, size)
        for k in range(count)
    ]
    names = tuple(f"head {k:03d}" for k in range(count))
    signals = Signals("video", names, torch.from_numpy(np.stack(clips)), FRAME_RATE)
    notes = (f"{count} procedural clips of seed {seed}",)
    return split_procedural("procedural talking heads", signals, test, validation, notes)
