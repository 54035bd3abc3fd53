"""A default dtype of float64, as people in tomography have it, changes nothing of what is read or made."""

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gltf_files import textured
from media_trees import picture
from places import default_dtype
from posed import posed

from mclnf_fast.data import (
    load_images,
    load_objects,
    load_photos,
    load_scene,
    procedural_audio,
    procedural_cars,
    procedural_faces,
    procedural_photos,
    procedural_video,
    write_city,
)
from mclnf_fast.data.procedural.phantoms import procedural_phantoms
from mclnf_fast.data.readers.objects_mesh import read_mesh


def tensors(value: Any) -> list[torch.Tensor]:
    """All tensors of a record and of those in it."""
    if isinstance(value, torch.Tensor):
        return [value]
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in tensors(item)]
    return []


def city(folder: Path) -> Any:
    target = write_city(folder / "city", quick=True, blocks=(1, 1), train=2, test=1, meta_districts=0, city=0).target
    return load_scene(target)


def mesh(folder: Path) -> Any:
    path = textured(folder / "a.glb", np.array([[0, 1], [1, 1], [0, 0]], np.float32))
    return read_mesh(folder, path), load_objects(path, views=2, size=8)


def pictures(folder: Path) -> Any:
    for k in range(3):
        picture(folder / f"{k}.png", k)
    return load_images(folder, size=8, test=1)


DOORS: dict[str, Callable[[Path], Any]] = {
    "scene": lambda folder: load_scene(posed(folder / "a"), blocks=(2, 1), holdout_every=0),
    "objects": lambda folder: load_objects(posed(folder / "a"), size=8),
    "photos": lambda folder: load_photos(posed(folder / "a"), test=1, validation=0),
    "pictures": pictures,
    "mesh": mesh,
    "city": city,
    "cars": lambda folder: procedural_cars(2, 1, views=2, size=8),
    "faces": lambda folder: procedural_faces(2, 16, test=1, validation=0),
    "place": lambda folder: procedural_photos(4, test=1, validation=0, size=16),
    "sound": lambda folder: procedural_audio(2, 0.1, test=1, validation=0),
    "video": lambda folder: procedural_video(2, 2, 16, test=1, validation=0),
    "phantoms": lambda folder: procedural_phantoms(2, 16, test=1),
}


@pytest.mark.parametrize("door", list(DOORS))
def test_nothing_depends_on_the_default_dtype(tmp_path, door):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    want = tensors(DOORS[door](tmp_path / "one"))
    with default_dtype(torch.float64):
        got = tensors(DOORS[door](tmp_path / "two"))
    assert len(got) == len(want) > 0
    for mine, theirs in zip(got, want, strict=True):
        assert mine.dtype == theirs.dtype
        assert torch.equal(mine, theirs)
