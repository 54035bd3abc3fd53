"""Reads a folder of objects seen from all around, in any of the usual layouts, as `ObjectSets`: `load_objects`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from mclnf_fast.data.graphics.mesh_render import render_mesh
from mclnf_fast.data.objects import FAR, NEAR, ObjectSets, ObjectViews, sphere_cameras
from mclnf_fast.data.readers.decoding.extras import MissingExtraError
from mclnf_fast.data.readers.gather import MOST_BYTES, listed
from mclnf_fast.data.readers.layouts import DataFile, Layout, bases
from mclnf_fast.data.readers.objects_json import TRAIN, json_frames, json_objects, json_reason
from mclnf_fast.data.readers.objects_mesh import MESHES, mesh_files, mesh_reason, read_mesh
from mclnf_fast.data.readers.objects_read import read_views
from mclnf_fast.data.readers.objects_srn import srn_frames, srn_objects, srn_reason
from mclnf_fast.data.readers.options import ObjectReadOptions, options_of
from mclnf_fast.data.readers.registry import Reader, add_built_in, choose, read_with, unknown_layout
from mclnf_fast.data.readers.scenes import file_reason
from mclnf_fast.data.readers.split import check_split, split_files
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

_log = logging.getLogger("mclnf_fast")
VIEWS, SIZE = 25, 128  # of meshes, when none are asked for


def load_objects(folder: str | Path, options: ObjectReadOptions | None = None, **changes: Any) -> ObjectSets:
    """Read objects of one category, each seen from all around; the layout is detected.

    - `<object>/transforms.json` with pictures; a `*_splits.json` beside them names those to train and to test on. Near
      2, far 6, or the values in that file.
    - SRN: `<category>_{train,val,test}/<id>/{rgb,pose}` or `<id>/{rgb,pose}`; pure white is transparent. Near 0.8, far
      1.8; chairs 1.25 and 2.75.
    - NeRF-synthetic: one scene is an object to test on, with its training views and then those to test on
      (`train_views`); of several scenes each is an object. Near 2, far 6.
    - `.glb`, `.gltf`, `.obj`: put into the unit ball and rendered from the same cameras as procedural cars; parts that
      a glTF material makes transparent are cut out. Near 2, far 6.

    Args:
        folder: a folder, or one mesh.
        options: see `ObjectReadOptions`; None: its defaults.
        changes: single fields of `options`, such as `size=64`.

    Returns:
        Sets of objects named by their folders or files.

    Raises:
        InputError: an option out of range, nothing usable there, or with `strict` an unusable object.
        TypeError: an unknown option.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(2, 1, views=2, size=16), f"{folder}/cars")
    ...     objects = load_objects(tree)
    >>> [views.name for views in objects.test]
    ['car_001']
    """
    settings = options_of(ObjectReadOptions, options, changes)
    root = Path(folder)
    # Before any file is looked at: a wrong option should not cost a walk through the folder.
    check_split(settings, None)
    for name in ("size", "views"):
        value = getattr(settings, name)
        if value is not None and not 1 <= value <= 4096:
            raise InputError(f"{name}: must be None or from 1 to 4096, was {value}")
    is_file = root.is_file()
    if not is_file and not root.is_dir():
        raise InputError(f"{root}: must be a folder of objects, was not there")
    reader = choose("objects", root, settings.reader)
    if reader is None:
        if is_file:
            raise InputError(f"{root}: must be a folder or a mesh ({', '.join(MESHES)}), was {root.suffix!r}")
        raise unknown_layout("objects", root)
    return read_with(reader, root, settings)


@dataclass
class ObjectFolder:
    """The objects of one layout, and how one of them is read.

    Attributes:
        layout: title and folders (or files) of the objects.
        near, far: see `ObjectSets`.
        read: function (object, its number by name, whether it is tested on) that returns its views.
        notes: remarks for the report.

    >>> ObjectFolder(Layout("none", {}), 2.0, 6.0, lambda item, number, tested: None).notes
    ()
    """

    layout: Layout
    near: float
    far: float
    read: Callable[[DataFile, int, bool], ObjectViews]
    notes: tuple[str, ...] = ()


def _load(objects: ObjectFolder, options: ObjectReadOptions) -> ObjectSets:
    """Read the objects of a layout, split; unusable ones are skipped or refused."""
    layout = objects.layout
    split = split_files(layout, options, 0)
    items = [*split.train, *split.test]
    # By name and not by place in the split: a mesh keeps its cameras whatever is tested on.
    number = {item.name: k for k, item in enumerate(sorted(items, key=lambda item: item.name))}
    results: list[ObjectViews | InputError] = []
    reference: ObjectViews | None = None
    for k, item in enumerate(items):
        try:
            views = objects.read(item, number[item.name], k >= len(split.train))
            if reference is not None and views.images.shape[1:3] != reference.images.shape[1:3]:
                raise InputError(
                    f"{item.path}: images must be {reference.cameras.width}x{reference.cameras.height} as those of "
                    f"{reference.name!r}, were {views.cameras.width}x{views.cameras.height}: set a size"
                )
            results.append(views)
        except MissingExtraError:
            raise
        except InputError as error:
            # Of a single object nothing would be left, and the error of the file is more precise than that of the set.
            if options.strict or len(items) == 1:
                raise
            _log.warning("skipped %s", error)
            results.append(error)
        else:
            if reference is None:
                reference = views
                # Now that a size is known, and before an hour of reading ends without memory.
                _check_memory(layout.title, views, len(items))
        if options.progress is not None:
            options.progress(k + 1, len(items))
    cut = len(split.train)
    notes = [*layout.notes, *split.notes]
    skipped = [item.name for item, result in zip(items, results, strict=True) if isinstance(result, InputError)]
    if skipped:
        notes.append(f"skipped as unusable: {listed(skipped, 20)}")
    notes += objects.notes
    train, test = _usable(results[:cut]), _usable(results[cut:])
    for name, usable, all_results in (("train", train, results[:cut]), ("test", test, results[cut:])):
        if all_results and not usable:
            raise InputError(
                f"{layout.title}: none of the {len(all_results)} objects to {name} is usable; {all_results[0]}"
            )
    return ObjectSets(layout.title, train, test, objects.near, objects.far, tuple(notes))


def _usable(results: Sequence[ObjectViews | InputError]) -> tuple[ObjectViews, ...]:
    return tuple(result for result in results if isinstance(result, ObjectViews))


def _check_memory(title: str, views: ObjectViews, count: int) -> None:
    size = views.images.numel() * count
    if size > MOST_BYTES:
        raise InputError(
            f"{title}: {count} objects would take {size / 2**30:.1f} GiB, must be at most {MOST_BYTES >> 30}: set a "
            "limit, fewer views or a smaller size"
        )


def _base(root: Path, reason: Callable[[Path], str | None]) -> Path:
    """Return the folder, `root` or the only one in it, in which a layout was detected."""
    return next((base for base in bases(root) if reason(base) is not None), root)


def _check_folder(item: DataFile) -> None:
    if not item.path.is_dir():
        raise InputError(f"{item.path}: must be the folder of an object, was not there")


def _read_json(root: Path, options: ObjectReadOptions) -> ObjectSets:
    def read(item: DataFile, number: int, tested: bool) -> ObjectViews:
        _check_folder(item)
        frames, test_frames = json_frames(root, item.path)
        # Of an object to train on, the views that its data keeps to test on are not needed.
        return read_views(item.name, frames, test_frames if tested else [], size=options.size, views=options.views)

    layout, near, far = json_objects(_base(root, json_reason))
    return _load(ObjectFolder(layout, near, far, read), options)


def _read_srn(root: Path, options: ObjectReadOptions) -> ObjectSets:
    def read(item: DataFile, number: int, tested: bool) -> ObjectViews:
        _check_folder(item)
        return read_views(item.name, srn_frames(item.path), [], size=options.size, views=options.views, white=True)

    layout, near, far = srn_objects(_base(root, srn_reason))
    return _load(ObjectFolder(layout, near, far, read, ("pure white is transparent",)), options)


def _read_meshes(root: Path, options: ObjectReadOptions) -> ObjectSets:
    views = options.views or VIEWS
    inside = root.parent if root.is_file() else root

    def read(item: DataFile, number: int, tested: bool) -> ObjectViews:
        cameras = sphere_cameras(views, options.size or SIZE, options.seed, number)
        render = functools.partial(_render, inside, item.path)
        return ObjectViews(item.name, render(cameras), cameras, render=render)

    return _load(ObjectFolder(mesh_files(root), NEAR, FAR, read, (f"rendered from {views} cameras each",)), options)


def _render(root: Path, path: Path, cameras: Cameras) -> Tensor:
    """Return views of a mesh put into the unit ball, uint8 [V, H, W, 4]."""
    # Read again each time: to keep the meshes of a large set would take more memory than its pictures.
    mesh = read_mesh(root, path)
    try:
        mesh = mesh.into_ball()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return render_mesh(mesh, cameras)


def _read_scene(root: Path, options: ObjectReadOptions) -> ObjectSets:
    """Read one scene of NeRF-synthetic: an object to test on, with its training views and those to test on."""
    base = _base(root, file_reason(TRAIN))
    name = base.resolve().name
    frames, test_frames = json_frames(base, base)
    views = read_views(name, frames, test_frames, size=options.size, views=options.views)
    if views.train_views is None:
        note = "one scene without test views: there is nothing to train on beside it"
    else:
        note = f"one scene: {views.train_views} views to learn from, {len(views) - views.train_views} to test on"
    if options.progress is not None:
        options.progress(1, 1)
    return ObjectSets(f"{name} (NeRF-synthetic)", (), (views,), NEAR, FAR, (note,))


SRN_FILES = "<id>/rgb with <id>/pose (SRN)"
add_built_in(
    (
        Reader("transforms", "objects", "<object>/transforms.json", json_reason, _read_json, 0, True),
        Reader("nerf-synthetic", "objects", f"{TRAIN} (NeRF-synthetic)", file_reason(TRAIN), _read_scene, 0, True),
        Reader("srn", "objects", SRN_FILES, srn_reason, _read_srn, 0, True),
        Reader("meshes", "objects", f"meshes ({', '.join(MESHES)})", mesh_reason, _read_meshes, 1),
    )
)
