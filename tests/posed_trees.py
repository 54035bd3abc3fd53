"""Small folders of posed pictures in nerfstudio's layout, for tests of scenes."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image

from mclnf_fast.render.cameras import look_at

SIZE = (12, 8)  # width, height
FOCAL = 10.0


def write_posed(
    folder: pathlib.Path,
    positions: Sequence[Sequence[float]],
    targets: Sequence[Sequence[float]],
    *,
    color: tuple[int, int, int] | None = None,
    **extra: object,
) -> pathlib.Path:
    """Write one picture per camera and `transforms.json`; pictures of one `color`, or of noise.

    positions, targets: where the cameras are and what they look at. extra: further keys of the file.
    """
    poses = look_at(torch.tensor(positions, dtype=torch.float32), torch.tensor(targets, dtype=torch.float32))
    rng, frames = np.random.default_rng(0), []
    (folder / "images").mkdir(parents=True)
    for k, pose in enumerate(poses):
        shape = (SIZE[1], SIZE[0], 3)
        pixels = rng.integers(0, 256, shape) if color is None else np.broadcast_to(color, shape)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"images/{k:02d}.png")
        matrix = np.eye(4)
        matrix[:3] = pose.double().numpy()
        frames.append({"file_path": f"images/{k:02d}.png", "transform_matrix": matrix.tolist()})
    content = {"fl_x": FOCAL, "w": SIZE[0], "h": SIZE[1], "frames": frames, **extra}
    (folder / "transforms.json").write_text(json.dumps(content))
    return folder


def looking_down(corners: Sequence[tuple[float, float]], height: float = 1.0) -> tuple[list[list[float]], ...]:
    """Return positions above places on the ground, and these places as targets."""
    return [[x, y, height] for x, y in corners], [[x, y, 0.0] for x, y in corners]


def ring(count: int, distance: float = 4.0) -> tuple[list[list[float]], ...]:
    """Return positions in a ring about the origin, level with it, and the origin as the target of each."""
    angles = [2 * np.pi * k / count for k in range(count)]
    return [[distance * np.cos(a), distance * np.sin(a), 0.0] for a in angles], [[0.0, 0.0, 0.0]] * count
