"""A folder of posed photos of plain colors."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import torch
from PIL import Image

from mclnf_fast.render.cameras import look_at


def write_photos(root: pathlib.Path, sizes: list[tuple[int, int]], **more: Any) -> None:
    """A folder as nerfstudio has it: photos of plain colors by cameras on a line that look at the origin."""
    root.mkdir(exist_ok=True)
    frames = []
    for k, (width, height) in enumerate(sizes):
        Image.new("RGB", (width, height), (20 * k, 100, 200)).save(root / f"{k}.png")
        pose = torch.eye(4)
        pose[:3] = look_at(torch.tensor([[0.2 * k, -4.0, 0.5]]), torch.zeros(1, 3))[0]
        frames.append({"file_path": f"{k}.png", "transform_matrix": pose.tolist(), "fl_x": 1.0 * width})
    box = {"aabb": [[-1, -1, -1], [1, 1, 1]]}
    (root / "transforms.json").write_text(json.dumps({"frames": frames, **box, **more}))
