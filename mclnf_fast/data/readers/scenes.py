"""Reads posed images of every dialect as a `Scene`: `load_scene`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mclnf_fast.data.readers import matrixcity
from mclnf_fast.data.readers.boxes import cell_box, clipped, ground_height
from mclnf_fast.data.readers.frames import load_image_set
from mclnf_fast.data.readers.matrixcity import FrameGroup, find_city
from mclnf_fast.data.readers.options import SceneReadOptions, options_of
from mclnf_fast.data.readers.posed.colmap import COLMAP_FILES, colmap_frames, colmap_reason
from mclnf_fast.data.readers.posed.cut_scene import cut_by_position, hold_out, with_test_views
from mclnf_fast.data.readers.posed.scene_frames import SceneFrames, blender_frames, nerfstudio_frames
from mclnf_fast.data.readers.registry import Reader, add_built_in, choose, read_with, unknown_layout
from mclnf_fast.data.scene import Block, ImageSet, Scene, check_aabb
from mclnf_fast.errors import InputError

OPTION = "the option"  # where a box is from, in a note


def load_scene(path: str | Path, options: SceneReadOptions | None = None, **changes: Any) -> Scene:
    """Read posed images and cut them into blocks.

    Args:
        path: a folder in the layout of MatrixCity (either pose dialect), Blender, nerfstudio or COLMAP; it is detected.
        options: see `SceneReadOptions`; None: its defaults.
        changes: single fields of `options`, such as `blocks=(2, 2)`.

    Returns:
        A `Scene`. One that lies so far from its origin (coordinates of a map) that float32 would move its cameras is
        taken relative to `Scene.origin`, with a warning. Its notes name where its box is from: the first of

        - the option `aabb`, then the file's `aabb`, as they are;
        - the file's `aabb_points_2_98`, then the 2-98 % box of the sparse points (`decoding.points.read_points`), each
          with the heights of the points;
        - the 2-98 % box of the points at which the corner rays meet the ground, up to the lowest camera;
        - for views from all around something a cube about the point that they look at: of a Blender scene as large as
          the pictures' field of view there, otherwise with all cameras inside, since what stands behind is in the
          pictures too. It is at most the cube that instant-ngp's `aabb_scale` names.

        A block cut by a grid has its own cameras' footprint, within the heights of the scene (and within its box, if an
        option or the file names one). A block that has none of the held-out views holds out its own, or is merged with
        its neighbor: see `cut_scene.with_test_views`; the notes name it.

    Raises:
        InputError: an option is out of range, or the folder, a file, a pose, a path or a picture is not as it must be;
            the message names it.
        TypeError: an unknown option.

    >>> from mclnf_fast.data import write_city
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = write_city(f"{folder}/city", quick=True, blocks=(1, 1), train=2, test=1, meta_districts=0, city=0)
    ...     scene = load_scene(paths.target)
    >>> len(scene.blocks[0].train), scene.unit
    (2, '100 m')
    """
    settings = options_of(SceneReadOptions, options, changes)
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: must be a folder, was {'a file' if root.exists() else 'not there'}")
    downscale, max_side = settings.downscale, settings.max_side
    if not downscale >= 1:
        raise InputError(f"downscale: must be >= 1, was {downscale!r}")
    if max_side is not None and (max_side < 1 or downscale != 1):
        raise InputError(f"max_side: must be >= 1 and without downscale, was {max_side!r} with downscale {downscale!r}")
    if settings.holdout_every < 0 or settings.holdout_every == 1:
        raise InputError(f"holdout_every: must be 0 or >= 2, was {settings.holdout_every}")
    if settings.aabb is not None:
        check_aabb(torch.as_tensor(settings.aabb, dtype=torch.float64))
    _, names = _grid_or_names(settings.blocks)
    reader = choose("scene", root, settings.reader)
    if reader is None:
        _refuse_names(root, names)
        raise unknown_layout("scene", root)
    return read_with(reader, root, settings)


def _grid_or_names(
    blocks: tuple[int, int] | Sequence[str] | None,
) -> tuple[tuple[int, int] | None, list[str] | None]:
    """Return the option `blocks` as (grid, names), at most one of them set."""
    if blocks is None:
        return None, None
    if not isinstance(blocks, str) and len(blocks):
        if all(isinstance(block, str) for block in blocks):
            return None, [str(block) for block in blocks]
        if len(blocks) == 2 and all(isinstance(count, int) and not isinstance(count, bool) for count in blocks):
            nx, ny = blocks
            return (int(nx), int(ny)), None
    raise InputError(f"blocks: must be None, (nx, ny) or a list of block names, was {blocks!r}")


def _refuse_names(root: Path, names: list[str] | None) -> None:
    if names is not None:
        raise InputError(f"blocks: {root} has no named blocks, must be None or (nx, ny), was {names}")


def _read_city(root: Path, options: SceneReadOptions) -> Scene:
    city = find_city(root)
    if city is None:
        raise unknown_layout("scene", root)
    _, names = _grid_or_names(options.blocks)
    groups = matrixcity.read_blocks(*city, names)
    return _load_scene(root, SceneFrames(root.resolve().name, groups, unit=matrixcity.UNIT), options)


def _read_nerfstudio(root: Path, options: SceneReadOptions) -> Scene:
    _refuse_names(root, _grid_or_names(options.blocks)[1])
    return _load_scene(root, nerfstudio_frames(root, options.holdout_every), options)


def _read_blender(root: Path, options: SceneReadOptions) -> Scene:
    _refuse_names(root, _grid_or_names(options.blocks)[1])
    return _load_scene(root, blender_frames(root), options)


def _read_colmap(root: Path, options: SceneReadOptions) -> Scene:
    _refuse_names(root, _grid_or_names(options.blocks)[1])
    return _load_scene(root, colmap_frames(root, options.holdout_every), options)


def _load_scene(root: Path, frames: SceneFrames, options: SceneReadOptions) -> Scene:
    """Read the pictures of all blocks and find their boxes."""
    aabb = None
    if options.aabb is not None:
        aabb = frames.relative(torch.as_tensor(options.aabb, dtype=torch.float64))
    for group in frames.groups:
        if not group.train and not group.test:
            raise InputError(f"{root}: block {group.name!r} must have at least one view, has none")
        # Only when the files name no test views: the data's own are those that figures are compared on.
        if not group.test:
            group.train, group.test = hold_out(group.train, options.holdout_every)
            group.held_out = options.holdout_every
    grid, _ = _grid_or_names(options.blocks)
    if grid is not None:
        return _cut_scene(frames, grid, aabb, options)
    blocks, sources = [], []
    for group in frames.groups:
        train, test = _load_views(group, options, frames.notes)
        views = train if len(train) else test
        box, source = (aabb, OPTION) if aabb is not None else frames.bounds(views, group)
        blocks.append(Block(group.name, train, test, box))
        sources.append(source)
    return _scene(frames, blocks, sources)


def _scene(frames: SceneFrames, blocks: list[Block], sources: list[str], notes: Sequence[str] = ()) -> Scene:
    boxes = [f"Box of the scene: {source}." for source in dict.fromkeys(sources)]
    sentences = (*dict.fromkeys(frames.notes), *boxes, *(f"{note}." for note in notes))
    union = _union([block.aabb for block in blocks])
    return Scene(frames.name, tuple(blocks), union, frames.unit, frames.origin, sentences)


def _load_views(group: FrameGroup, options: SceneReadOptions, notes: list[str]) -> tuple[ImageSet, ImageSet]:
    """Return the views to train and to test on; `notes` are appended to."""
    # Together, since both must have one size.
    views = load_image_set(group.train + group.test, options.downscale, options.max_side, notes=notes)
    cut = len(group.train)
    return views.pick(torch.arange(cut)), views.pick(torch.arange(cut, len(views)))


def _cut_scene(frames: SceneFrames, grid: tuple[int, int], aabb: Tensor | None, options: SceneReadOptions) -> Scene:
    """Read the pictures of all groups as one and cut them into a grid of blocks by camera position."""
    groups = frames.groups
    # One group first: blocks of the data may overlap, and a grid is about camera positions alone.
    joined = FrameGroup(frames.name, [f for g in groups for f in g.train], [f for g in groups for f in g.test], aabb)
    # Of one group or of all: else moving a frame to the test views would change what the data themselves keep apart.
    joined.held_out = min(group.held_out for group in groups)
    boxes = [group.aabb for group in groups if group.aabb is not None]
    if aabb is None and len(boxes) == len(groups):
        joined.aabb = _union(boxes)
    cells, notes = with_test_views(cut_by_position(joined, *grid), joined.held_out)
    views = load_image_set(joined.train + joined.test, options.downscale, options.max_side, notes=frames.notes)
    train = views.pick(torch.arange(len(joined.train)))
    scene, source = frames.bounds(train, joined)
    ground = ground_height(train.cameras) if frames.points is None else float(frames.points[:, 2].median())
    # Frames of a cell are the very objects of the group: their places in it are those of the pictures.
    row = {id(frame): k for k, frame in enumerate(joined.train + joined.test)}
    blocks = []
    for cell in cells:
        cell_train, cell_test = (
            views.pick(torch.tensor([row[id(frame)] for frame in part], dtype=torch.int64))
            for part in (cell.train, cell.test)
        )
        box = cell_box(cell_train, scene, ground)
        blocks.append(Block(cell.name, cell_train, cell_test, box if joined.aabb is None else clipped(box, scene)))
    return _scene(frames, blocks, [OPTION if aabb is not None else source], notes)


def _union(boxes: list[Tensor]) -> Tensor:
    """Return the box [2, 3] about boxes."""
    stacked = torch.stack(boxes)
    return torch.stack([stacked[:, 0].amin(0), stacked[:, 1].amax(0)])


def _city_reason(root: Path) -> str | None:
    city = find_city(root)
    return None if city is None else f"poses of the {city[1]} dialect in {city[0]}"


def file_reason(name: str) -> Callable[[Path], str | None]:
    """Return the `detects` function of a layout that is known by one file in its folder.

    >>> file_reason("transforms.json")(Path("no such folder")) is None
    True
    """
    return lambda root: f"{name} in {root}" if (root / name).exists() else None


CITY_FILES = "pose/<block>/transforms_train.json (MatrixCity), train/<block>/transforms.json (MatrixCity raw)"
add_built_in(
    (
        Reader("matrixcity", "scene", CITY_FILES, _city_reason, _read_city),
        Reader("nerfstudio", "scene", "transforms.json (nerfstudio)", file_reason("transforms.json"), _read_nerfstudio),
        Reader(
            "blender", "scene", "transforms_train.json (Blender)", file_reason("transforms_train.json"), _read_blender
        ),
        Reader("colmap", "scene", COLMAP_FILES, colmap_reason, _read_colmap),
    )
)
