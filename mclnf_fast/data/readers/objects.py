"""`load_objects`: a folder of objects seen from all around, in any of the usual layouts, as `ObjectSets`."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from mclnf_fast.data.graphics.mesh_render import render_mesh
from mclnf_fast.data.objects import FAR, NEAR, ObjectSets, ObjectViews, sphere_cameras
from mclnf_fast.data.readers.extras import MissingExtraError
from mclnf_fast.data.readers.gather import MOST_BYTES, listed
from mclnf_fast.data.readers.layouts import Found, Item, folders_in
from mclnf_fast.data.readers.objects_json import TRAIN, find_objects, json_frames
from mclnf_fast.data.readers.objects_mesh import find_meshes, read_mesh
from mclnf_fast.data.readers.objects_read import read_views
from mclnf_fast.data.readers.objects_srn import find_srn, srn_frames
from mclnf_fast.data.readers.split import check_split, plan
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

_log = logging.getLogger("mclnf_fast")
LOOKED_FOR = (
    "<object>/transforms.json, transforms_train.json (NeRF-synthetic), <id>/rgb with <id>/pose (SRN) or meshes "
    "(.glb, .gltf, .obj)"
)
VIEWS, SIZE = 25, 128  # of meshes, where none are asked for


def load_objects(
    folder: str | Path,
    *,
    size: int | None = None,
    test: float | int = 0.25,
    limit: int | None = None,
    views: int | None = None,
    seed: int = 0,
    strict: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ObjectSets:
    """Read objects of one category, each seen from all around; which layout it is is detected.

    - `<object>/transforms.json` with pictures; a `*_splits.json` beside them says which are to train and to test.
      Near 2, far 6, or what that file says.
    - SRN: `<category>_{train,val,test}/<id>/{rgb,pose}` or `<id>/{rgb,pose}`; pure white is transparent. Near 0.8, far
      1.8; chairs 1.25 and 2.75.
    - NeRF-synthetic: one scene is an object to test on, with its training views and then those to test on
      (`train_views`); of several scenes each is an object. Near 2, far 6.
    - `.glb`, `.gltf`, `.obj`: put into the unit ball and rendered from the same cameras as made cars; what a glTF
      material lets through is cut out. Near 2, far 6.

    Args:
        folder: a folder, or one mesh.
        size: pixels of the longer side; pictures are scaled by the mean over each pixel's area, weighted by alpha, and
            cameras with them. None: as in the files; meshes 128.
        test: share, or count, of the objects to test on, see `split.plan`; the data's own split is kept.
        limit: at most so many objects in all, chosen by seed.
        views: at most so many of each object, the first, and at most so many kept to test on; None: all. Of meshes so
            many are rendered; None: 25.
        seed: of the split, the choice and the meshes' cameras.
        strict: refuse an unusable object instead of skipping it with a warning.
        progress: called with (objects done, objects in all).

    Returns:
        Sets of objects named by their folders or files.

    Raises:
        InputError: an option out of range, nothing usable there, or with `strict` an unusable object.
    """
    root = Path(folder)
    check_split(test, None, limit, seed)
    for name, value in (("size", size), ("views", views)):
        if value is not None and not 1 <= value <= 4096:
            raise InputError(f"{name}: must be None or from 1 to 4096, was {value}")
    if root.is_file():
        found = find_meshes(root)
        if found is None:
            raise InputError(f"{root}: must be a folder or a mesh (.glb, .gltf, .obj), was {root.suffix!r}")
        return _load(root, root.parent, found, "mesh", size, test, limit, views, seed, strict, progress)
    if not root.is_dir():
        raise InputError(f"{root}: must be a folder of objects, was not there")
    inside = folders_in(root)
    for base in [root, *(inside if len(inside) == 1 else [])]:
        if (base / TRAIN).exists():
            return _scene(base, size, views, progress)
        for kind, look in (("json", find_objects), ("srn", find_srn)):
            found = look(base)
            if found is not None:
                return _load(base, root, found, kind, size, test, limit, views, seed, strict, progress)
    found = find_meshes(root)
    if found is None:
        raise InputError(f"{root}: must hold {LOOKED_FOR}, has none of them")
    return _load(root, root, found, "mesh", size, test, limit, views, seed, strict, progress)


def _load(
    base: Path, root: Path, found: tuple[Found, tuple[float, float]], kind: str, size: int | None, test: float | int,
    limit: int | None, views: int | None, seed: int, strict: bool, progress: Callable[[int, int], None] | None,
) -> ObjectSets:  # fmt: skip
    """The objects of a layout, split; unusable ones skipped or refused."""
    layout, (near, far) = found
    split = plan(layout, test, 0, limit, seed)
    items = [*split.train, *split.test]
    number = {item.name: k for k, item in enumerate(sorted(items, key=lambda item: item.name))}
    results: list[ObjectViews | InputError] = []
    first: ObjectViews | None = None
    for k, item in enumerate(items):
        try:
            result = _read(item, base, root, kind, size, views, seed, number[item.name], k >= len(split.train))
            if first is not None and result.images.shape[1:3] != first.images.shape[1:3]:
                raise InputError(
                    f"{item.path}: images must be {first.cameras.width}x{first.cameras.height} as those of "
                    f"{first.name!r}, were {result.cameras.width}x{result.cameras.height}: set a size"
                )
            results.append(result)
        except MissingExtraError:
            raise
        except InputError as error:
            if strict or len(items) == 1:
                raise
            _log.warning("skipped %s", error)
            results.append(error)
        else:
            if first is None:
                first = result
                _check_memory(layout.title, result, len(items))
        if progress is not None:
            progress(k + 1, len(items))
    cut = len(split.train)
    notes = [*layout.notes, *split.notes]
    skipped = [item.name for item, result in zip(items, results, strict=True) if isinstance(result, InputError)]
    if skipped:
        notes.append(f"skipped as unusable: {listed(skipped, 20)}")
    if kind == "mesh":
        notes.append(f"rendered from {views or VIEWS} cameras each")
    elif kind == "srn":
        notes.append("pure white is transparent")
    train, tested = _good(results[:cut]), _good(results[cut:])
    for name, kept, all_of in (("train", train, results[:cut]), ("test", tested, results[cut:])):
        if all_of and not kept:
            raise InputError(f"{layout.title}: none of the {len(all_of)} objects to {name} is usable; {all_of[0]}")
    return ObjectSets(layout.title, train, tested, near, far, tuple(notes))


def _read(
    item: Item, base: Path, root: Path, kind: str, size: int | None, views: int | None, seed: int, number: int,
    tested: bool,
) -> ObjectViews:  # fmt: skip
    """One object; views that its data keeps to test on are read where it is `tested` on."""
    if kind == "mesh":
        cameras = sphere_cameras(views or VIEWS, size or SIZE, seed, number)
        render = functools.partial(_rendered, root, item.path)
        return ObjectViews(item.name, render(cameras), cameras, render=render)
    if not item.path.is_dir():
        raise InputError(f"{item.path}: must be the folder of an object, was not there")
    frames, held = (srn_frames(item.path), []) if kind == "srn" else json_frames(root, item.path)
    return read_views(item.name, frames, held if tested else [], size=size, views=views, white=kind == "srn")


def _rendered(root: Path, path: Path, cameras: Cameras) -> Tensor:
    """A mesh put into the unit ball, uint8 [V, H, W, 4]; read anew each time, so that a large set need not be held."""
    mesh = read_mesh(root, path)
    try:
        mesh = mesh.into_ball()
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return render_mesh(mesh, cameras)


def _scene(
    root: Path, size: int | None, views: int | None, progress: Callable[[int, int], None] | None
) -> ObjectSets:  # fmt: skip
    """One scene of NeRF-synthetic: an object to test on, with its training views and those to test on."""
    name = root.resolve().name
    frames, held = json_frames(root, root)
    one = read_views(name, frames, held, size=size, views=views, white=False)
    if one.train_views is None:
        note = "one scene without test views: there is nothing to train on beside it"
    else:
        note = f"one scene: {one.train_views} views to learn from, {len(one) - one.train_views} to test on"
    if progress is not None:
        progress(1, 1)
    return ObjectSets(f"{name} (NeRF-synthetic)", (), (one,), NEAR, FAR, (note,))


def _good(results: Sequence[ObjectViews | InputError]) -> tuple[ObjectViews, ...]:
    return tuple(result for result in results if isinstance(result, ObjectViews))


def _check_memory(title: str, first: ObjectViews, count: int) -> None:
    size = first.images.numel() * count
    if size > MOST_BYTES:
        raise InputError(
            f"{title}: {count} objects would take {size / 2**30:.1f} GiB, must be at most {MOST_BYTES >> 30}: set a "
            "limit, fewer views or a smaller size"
        )
