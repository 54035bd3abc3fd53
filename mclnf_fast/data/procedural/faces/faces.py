"""Drawn portraits: a family of pictures that share their structure as photographs of faces do, made by a seed."""

from __future__ import annotations

import numpy as np
import torch

from mclnf_fast.data.procedural.faces.draw import Portrait
from mclnf_fast.data.procedural.faces.dress import draw_back_hair, draw_clothes, draw_hair, draw_neck
from mclnf_fast.data.procedural.faces.features import draw_ears, draw_features
from mclnf_fast.data.procedural.faces.person import Person, Pose, draw_person, draw_pose
from mclnf_fast.data.signals import Signals, SignalSets, split_procedural
from mclnf_fast.errors import InputError


def draw_face(person: Person, pose: Pose, size: int) -> np.ndarray:
    """One portrait, float32 [size, size, 3] in [0, 1]."""
    face = Portrait(person, pose, size)
    face.backdrop()
    bust, head = face.cut(face.sheet.y > 0), face.cut(np.hypot(face.u, face.v / 1.5) < person.width * 1.35)
    draw_back_hair(face)
    draw_neck(face.cut((np.abs(face.u) < person.width) & (face.v > 0.1)))
    draw_clothes(bust)
    if person.style not in ("long", "bob"):
        draw_ears(face)
    head.head()
    draw_features(head)
    draw_hair(face if person.style in ("long", "bob") else head)
    rgb = face.sheet.rgb
    rgb += 0.006 * np.random.default_rng(person.seed + 2).standard_normal(rgb.shape, np.float32)  # the film's grain
    return np.clip(rgb, 0.0, 1.0)


def procedural_faces(
    count: int = 48, size: int = 178, *, seed: int = 0, test: int = 12, validation: int = 4
) -> SignalSets:
    """Drawn portraits of different people: face, hair, clothes, backdrop and light, no two alike.

    Args:
        count: how many in all, at least 1; those of a smaller count are the first of a larger one.
        size: pixels of a side, at least 16.
        seed: of the whole family.
        test: how many of them, the last, to test on.
        validation: how many, those before, for the validation curve; the rest is to train.

    Returns:
        Sets of images [S, size, size, 3].

    Raises:
        InputError: a count, size or seed out of range.
    """
    check_made(count, seed)
    if not 16 <= size <= 2048:
        raise InputError(f"size: must be from 16 to 2048 pixels, was {size}")
    pictures = np.stack([draw_face(draw_person(seed, k), draw_pose(seed, k), size) for k in range(count)])
    names = tuple(f"face {k:03d}" for k in range(count))
    made = Signals("image", names, torch.from_numpy(pictures))
    return split_procedural("drawn faces", made, test, validation, (f"{count} portraits drawn by seed {seed}",))


def check_made(count: int, seed: int) -> None:
    """Refuses counts and seeds that nothing can be made from."""
    if count < 1:
        raise InputError(f"count: must be >= 1, was {count}")
    if seed < 0:
        raise InputError(f"seed: must be >= 0, was {seed}")
