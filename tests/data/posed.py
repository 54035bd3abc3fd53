"""Folders of posed pictures for tests, with what a test wants to say in their `transforms.json`."""

import json
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mclnf_fast.data import load_objects, load_photos, load_scene
from mclnf_fast.render.cameras import Cameras, look_at

DOORS = ("scene", "objects", "photos")


def posed(root: Path, *, picture=None, top=None, frame=None, shift=(0.0, 0.0, 0.0), count=6, ending=".png") -> Path:
    """Pictures of 16 x 12 whose cameras stand in a ring and look at its middle; `picture` and `frame` take the view's
    number, `top` replaces keys of the file."""
    (root / "images").mkdir(parents=True)
    frames = []
    for k in range(count):
        turn = 2 * math.pi * k / count + 0.1
        pose = torch.eye(4, dtype=torch.float64)
        position = torch.tensor([[3 * math.cos(turn), 3 * math.sin(turn), 2.0]], dtype=torch.float32)
        pose[:3] = look_at(position, torch.zeros_like(position))[0].double()
        pose[:3, 3] += torch.tensor(shift, dtype=torch.float64)
        image = picture(k) if picture else Image.fromarray(np.full((12, 16, 3), (40 * k, 100, 200), np.uint8))
        image.save(root / f"images/{k}{ending}")
        named = {"file_path": f"images/{k}{ending}", "transform_matrix": pose.tolist()}
        frames.append(named | (frame(k) if frame else {}))
    content = {"fl_x": 20.0, **(top or {}), "frames": frames}
    text = json.dumps({key: value for key, value in content.items() if value is not None})
    (root / "transforms.json").write_text(text)
    return root


def through(door: str, root: Path) -> tuple[Cameras, torch.Tensor]:
    """The cameras and pictures [V, 12, 16, 3 or 4] of the folder `root / "one"`, in the order of the file."""
    if door == "scene":
        views = load_scene(root / "one", holdout_every=0).blocks[0].train
        return views.cameras, views.images
    if door == "objects":
        (item,) = load_objects(root / "one", strict=True).test
        return item.cameras, item.images
    sets = load_photos(root / "one", test=1, validation=0)
    photos = (*sets.test, *sets.train)
    poses = torch.cat([photo.cameras.c2w for photo in photos])
    intrinsics = [torch.cat([getattr(photo.cameras, name) for photo in photos]) for name in ("fx", "fy", "cx", "cy")]
    return Cameras(poses, *intrinsics, 16, 12), torch.cat([photo.images for photo in photos])
