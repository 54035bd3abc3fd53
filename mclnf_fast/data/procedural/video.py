"""Short clips of drawn heads that talk and turn, made by a seed: translation, rotation, occlusion, moving light."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from mclnf_fast.data.graphics.noise import Noise
from mclnf_fast.data.procedural.faces.faces import check_made, draw_face
from mclnf_fast.data.procedural.faces.person import Person, Pose, draw_person, draw_pose
from mclnf_fast.data.signals import Signals, SignalSets, split_procedural
from mclnf_fast.errors import InputError

FRAMES_A_SECOND = 12.0


def _wander(rng: np.random.Generator, times: np.ndarray, slow: float, fast: float) -> np.ndarray:
    """A smooth random path over `times` (seconds), about -1 to 1, of waves between `slow` and `fast` Hz."""
    waves = [np.sin(2 * np.pi * (rng.uniform(slow, fast) * times + rng.uniform())) for _ in range(3)]
    return np.asarray(0.45 * waves[0] + 0.35 * waves[1] + 0.2 * waves[2])


def _poses(rng: np.random.Generator, start: Pose, count: int) -> list[Pose]:
    """How a head moves that nods, turns and talks under a light that wanders."""
    t = np.arange(count) / FRAMES_A_SECOND
    sway, nod, tilt, zoom = (_wander(rng, t, 0.15, 0.6) for _ in range(4))
    turn = np.clip(start.yaw + 0.9 * _wander(rng, t, 0.15, 0.45), -1, 1)
    talk = np.clip(1.3 * np.abs(_wander(rng, t, 1.0, 2.5)) - 0.25, 0, 0.9)
    blink = np.zeros(count)
    for at in np.arange(rng.uniform(0.2, 1.2), t[-1] + 0.2, rng.uniform(1.2, 2.5)):
        blink = np.maximum(blink, np.exp(-(((t - at) / 0.09) ** 2)))
    around = 1.2 * _wander(rng, t, 0.1, 0.35) + np.arctan2(start.light[1], start.light[0])
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
            pan=(float(drift[0]) * at, float(drift[1]) * at),
        )
        for row, angle, at in zip(rows, around.tolist(), t.tolist(), strict=True)
    ]


class Passer:
    """Something round and patterned that passes in front, turning as it goes."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        at = (np.arange(size, dtype=np.float32) + 0.5) * (2.0 / size) - 1
        self.x, self.y = np.meshgrid(at, at)
        self.noise, self.pixel = Noise(rng), 2.0 / size
        self.radius, self.spin = rng.uniform(0.16, 0.30), rng.uniform(-2.5, 2.5)
        self.side, self.height, self.speed = float(rng.choice([-1, 1])), rng.uniform(-0.1, 0.85), rng.uniform(0.9, 1.7)
        self.colors = rng.uniform(0.15, 0.95, (2, 3)).astype(np.float32)

    def lay(self, picture: np.ndarray, seconds: float) -> None:
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
    """One clip, float32 [frames, size, size, 3] in [0, 1]."""
    passer = Passer(rng, size) if rng.random() < 0.6 else None
    out = np.empty((frames, size, size, 3), np.float32)
    for k, moved in enumerate(_poses(rng, pose, frames)):
        out[k] = draw_face(person, moved, size)
        if passer is not None:
            passer.lay(out[k], k / FRAMES_A_SECOND)
    return out


def procedural_video(
    count: int = 16, frames: int = 24, size: int = 64, *, seed: int = 0, test: int = 4, validation: int = 2
) -> SignalSets:
    """Clips of drawn people who talk and turn, each another person; in some a patterned ball passes in front.

    Args:
        count: how many in all, at least 1; those of a smaller count are the first of a larger one.
        frames: of a clip, at 12 a second; from 1 to 512.
        size: pixels of a side, at least 16.
        seed: of the whole family.
        test: how many of them, the last, to test on.
        validation: how many, those before, for the validation curve; the rest is to train.

    Returns:
        Sets of video [S, frames, size, size, 3].

    Raises:
        InputError: a count, size or seed out of range.
    """
    check_made(count, seed)
    if not 16 <= size <= 1024:
        raise InputError(f"size: must be from 16 to 1024 pixels, was {size}")
    if not 1 <= frames <= 512:
        raise InputError(f"frames: must be from 1 to 512, was {frames}")
    clips = [
        draw_clip(draw_person(seed, k), draw_pose(seed, k), np.random.default_rng([seed, k, 5]), frames, size)
        for k in range(count)
    ]
    names = tuple(f"head {k:03d}" for k in range(count))
    made = Signals("video", names, torch.from_numpy(np.stack(clips)), FRAMES_A_SECOND)
    return split_procedural("drawn talking heads", made, test, validation, (f"{count} clips drawn by seed {seed}",))
