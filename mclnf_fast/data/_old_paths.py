"""Keeps modules importable under the paths that they had before the folders `graphics`, `procedural` and `readers`.

The old path stands in `sys.modules` for a module that loads the new one when a name is first taken from it, with a
`DeprecationWarning`: nothing is loaded before. A finder in `sys.meta_path` would be shorter, but importing through it
binds the old module as an attribute of the package, where `load_audio` and others are functions.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from typing import Any

PACKAGE = "mclnf_fast.data"
MOVED = {
    "appearance": "procedural.place.appearance",
    "boxes": "readers.boxes",
    "car_body": "procedural.cars.body",
    "car_cabin": "procedural.cars.cabin",
    "car_parts": "procedural.cars.parts",
    "car_plan": "procedural.cars.plan",
    "city": "procedural.city.district",
    "city_parts": "procedural.city.parts",
    "city_render": "procedural.city.render",
    "city_views": "procedural.city.views",
    "city_write": "procedural.city.write",
    "clips": "readers.decoding.clips",
    "extras": "readers.decoding.extras",
    "face_draw": "procedural.faces.draw",
    "face_dress": "procedural.faces.dress",
    "face_features": "procedural.faces.features",
    "face_person": "procedural.faces.person",
    "files": "readers.files",
    "gather": "readers.gather",
    "ground": "procedural.city.ground",
    "layouts": "readers.layouts",
    "load": "readers.scenes",
    "load_audio": "readers.audio",
    "load_images": "readers.images",
    "load_objects": "readers.objects",
    "load_photos": "readers.photos",
    "load_videos": "readers.videos",
    "matrixcity": "readers.matrixcity",
    "mesh": "graphics.mesh",
    "mesh_parts": "graphics.mesh_parts",
    "mesh_render": "graphics.mesh_render",
    "nerf_json": "readers.nerf_json",
    "noise": "graphics.noise",
    "objects_json": "readers.objects_json",
    "objects_mesh": "readers.objects_mesh",
    "objects_read": "readers.objects_read",
    "objects_srn": "readers.objects_srn",
    "phantoms": "procedural.phantoms",
    "pictures": "readers.decoding.pictures",
    "place": "procedural.place.place",
    "procedural_audio": "procedural.audio",
    "procedural_cars": "procedural.cars.cars",
    "procedural_faces": "procedural.faces.faces",
    "procedural_photos": "procedural.place.photos",
    "procedural_video": "procedural.video",
    "raycast": "graphics.raycast",
    "solid_render": "procedural.city.solids",
    "sound": "readers.decoding.sound",
    "split": "readers.split",
}


class _OldModule(types.ModuleType):
    """The module at an old path, which hands on the names of the one at the new path `target`."""

    def __init__(self, name: str, target: str) -> None:
        super().__init__(name, f"Has moved to {target}.")
        self._target = target

    def __getattr__(self, name: str) -> Any:
        # Tools such as `warnings.catch_warnings` ask every module for its special names: that must load nothing.
        if name.startswith("__"):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(self._target), name)
        warnings.warn(f"{self.__name__} has moved to {self._target}", DeprecationWarning, stacklevel=2)
        return value


def keep_old_paths(package: types.ModuleType) -> None:
    """Make the moved modules of `mclnf_fast.data`, which is `package`, importable under their old paths."""
    for old, new in MOVED.items():
        module = _OldModule(f"{PACKAGE}.{old}", f"{PACKAGE}.{new}")
        sys.modules.setdefault(module.__name__, module)
        if not hasattr(package, old):  # functions such as `load_audio` keep their name
            setattr(package, old, module)
