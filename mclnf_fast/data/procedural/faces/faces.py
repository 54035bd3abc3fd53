"""Generates portraits: a family of pictures that share their structure as photographs of faces do, from a seed."""

from __future__ import annotations

import numpy as np
import torch

from mclnf_fast.data.procedural.checks import check_count_and_seed, check_size
from mclnf_fast.data.procedural.faces.draw import Portrait
from mclnf_fast.data.procedural.faces.dress import draw_back_hair, draw_clothes, draw_hair, draw_neck
from mclnf_fast.data.procedural.faces.features import draw_ears, draw_features
from mclnf_fast.data.procedural.faces.person import Person, Pose, draw_person, draw_pose
from mclnf_fast.data.signals import Signals, SignalSets, split_procedural


def draw_face(person: Person, pose: Pose, size: int) -> np.ndarray:
    """Return one portrait, float32 [size, size, 3] in [0, 1].

    >>> draw_face(draw_person(0, 0), draw_pose(0, 0), 16).shape
    (16, 16, 3)
    """
    face = Portrait(person, pose, size)
    face.backdrop()
    # Painting only the window that a stroke can reach takes a third of the time of whole pictures.
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
    # Without it, flat areas would be fitted exactly, and PSNR would have no ceiling as it has for photos.
    rgb += 0.006 * np.random.default_rng(person.seed + 2).standard_normal(rgb.shape, np.float32)  # film grain
    return np.clip(rgb, 0.0, 1.0)


def procedural_faces(
    count: int = 48, size: int = 178, *, seed: int = 0, test: int = 12, validation: int = 4
) -> SignalSets:
    """Generate portraits of different people: face, hair, clothes, backdrop and light, no two alike.

    Portrait k depends on the seed and k alone, so those of a smaller count are the first of a larger one.

    Args:
        count: number of portraits in total, at least 1.
        size: pixels of a side, at least 16.
        seed: seed of the whole family.
        test: number of portraits, the last, to test on.
        validation: number of portraits, those before, for the validation curve; the rest is to train.

    Returns:
        Sets of images [S, size, size, 3].

    Raises:
        InputError: a count, size or seed out of range.

    >>> procedural_faces(3, 16, test=1, validation=1).train.values.shape
    torch.Size([1, 16, 16, 3])
    """
    check_count_and_seed(count, seed)
    check_size(size, 16, 2048)
    pictures = np.stack([draw_face(draw_person(seed, k), draw_pose(seed, k), size) for k in range(count)])
    names = tuple(f"face {k:03d}" for k in range(count))
    signals = Signals("image", names, torch.from_numpy(pictures))
    notes = (f"{count} procedural portraits of seed {seed}",)
    return split_procedural("procedural faces", signals, test, validation, notes)
