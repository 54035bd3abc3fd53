"""Reads posed images of every dialect as a `Scene`: `load_scene`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.readers import matrixcity
from mclnf_fast.data.readers.boxes import cell_box, cut_by_position, ground_height, object_box, read_points, scene_box
from mclnf_fast.data.readers.files import read_box, read_json
from mclnf_fast.data.readers.frames import PosedFrame, load_image_set
from mclnf_fast.data.readers.matrixcity import FrameGroup, find_city
from mclnf_fast.data.readers.nerf_json import read_blender, read_nerfstudio
from mclnf_fast.data.readers.options import SceneReadOptions, options_of
from mclnf_fast.data.readers.origin import far_origin, warn_of_origin
from mclnf_fast.data.readers.registry import Reader, add_built_in, choose, read_with, unknown_layout
from mclnf_fast.data.scene import Block, ImageSet, Scene, check_aabb
from mclnf_fast.errors import InputError


def load_scene(path: str | Path, options: SceneReadOptions | None = None, **changes: Any) -> Scene:
    """Read posed images and cut them into blocks.

    Args:
        path: a folder in the layout of MatrixCity (either pose dialect), Blender or nerfstudio; it is detected.
        options: see `SceneReadOptions`; None: its defaults.
        changes: single fields of `options`, such as `blocks=(2, 2)`.

    Returns:
        A `Scene`. One that lies so far from its origin (coordinates of a map) that float32 would move its cameras is
        taken relative to `Scene.origin`, with a warning. A MatrixCity block's box is its file's `aabb`, else the 2-98 %
        box of the points at which its corner rays meet the ground (z = 0), up to the lowest camera. Other scenes have
        `aabb`, then the file's `aabb_points_2_98`, then the points' 2-98 % box, then that footprint, and for views from
        all around an object a cube about it. A block cut by a grid has its own cameras' footprint, within the scene's
        heights.

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


@dataclass
class SceneFrames:
    """The frames of a scene, before its pictures are read and its box is known.

    Coordinates are relative to `origin`: a scene far from the origin of its files is moved when the record is made.

    Attributes:
        name, unit: those of the scene.
        groups: one per block of the data.
        box: [2, 3], the file's percentile box of its points, when it has no other.
        points: [P, 3], sparse points.
        is_object: whether its views stand around an object.
        origin: what was taken off the files' coordinates, see `Scene`.

    >>> SceneFrames("lego", [FrameGroup("lego")], is_object=True).unit
    'scene'
    """

    name: str
    groups: list[FrameGroup]
    box: Tensor | None = None
    points: Tensor | None = None
    is_object: bool = False
    unit: str = "scene"
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        frames = [frame for group in self.groups for frame in (*group.train, *group.test)]
        self.origin = far_origin(np.array([frame.c2w[:3, 3] for frame in frames]).reshape(-1, 3))
        warn_of_origin(self.name, self.origin)
        shift = np.array(self.origin)
        # Taken off in float64; only what is left is rounded.
        for group in self.groups:
            group.train = [_moved(frame, shift) for frame in group.train]
            group.test = [_moved(frame, shift) for frame in group.test]
            group.aabb = self.relative(group.aabb)
        self.box, self.points = self.relative(self.box), self.relative(self.points)

    def relative(self, points: Tensor | None) -> Tensor | None:
        """Return points [..., 3] in the files' coordinates relative to `origin`, float32."""
        if points is None:
            return None
        return (points.double() - torch.tensor(self.origin, dtype=torch.float64)).to(torch.float32)

    def bounds(self, views: ImageSet) -> Tensor:
        """Return the box [2, 3] of a scene of one group, see `load_scene`; `views` are all of it."""
        aabb = self.groups[0].aabb
        if aabb is not None:
            return aabb
        return object_box(views.cameras) if self.is_object else scene_box(views, self.points, self.box)


def _moved(frame: PosedFrame, shift: np.ndarray) -> PosedFrame:
    """Return the frame with its camera moved by -shift [3]."""
    if not shift.any():
        return frame
    c2w = frame.c2w.copy()
    c2w[:3, 3] -= shift
    return replace(frame, c2w=c2w)


def blender_frames(root: Path) -> SceneFrames:
    """Return the frames of `transforms_train.json` and its companions; their views stand around an object.

    Raises:
        InputError: as `load_scene` does.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=2, size=8), f"{folder}/cars")
    ...     path = tree / "car_000" / "transforms.json"
    ...     _ = path.rename(path.with_name("transforms_train.json"))
    ...     frames = blender_frames(tree / "car_000")
    >>> len(frames.groups[0].train), frames.is_object
    (2, True)
    """
    return SceneFrames(root.resolve().name, [read_blender(root)], is_object=True)


def nerfstudio_frames(root: Path, holdout_every: int) -> SceneFrames:
    """Return the frames of `transforms.json`: nerfstudio's, or one raw block of MatrixCity.

    Raises:
        InputError: as `load_scene` does.

    >>> from mclnf_fast.data import procedural_cars, write_objects
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     tree = write_objects(procedural_cars(1, 1, views=2, size=8), f"{folder}/cars")
    ...     frames = nerfstudio_frames(tree / "car_000", holdout_every=2)
    >>> len(frames.groups[0].train), frames.is_object
    (1, False)
    """
    name, path = root.resolve().name, root / "transforms.json"
    content = read_json(path)
    frames = content.get("frames")
    if isinstance(frames, list) and frames and isinstance(frames[0], dict) and "rot_mat" in frames[0]:
        # Only the raw dialect has `rot_mat`: this is one of its blocks, named alone.
        group = FrameGroup(root.name, matrixcity.read_raw_folder(root, root))
        if content.get("aabb") is not None:
            group.aabb = read_box(content["aabb"], f"{path}: key 'aabb'")
        return SceneFrames(name, [group], points=read_points(root, None), unit=matrixcity.UNIT)
    group, content = read_nerfstudio(root, holdout_every)
    box = None
    if group.aabb is None and content.get("aabb_points_2_98") is not None:
        box = read_box(content["aabb_points_2_98"], f"{path}: key 'aabb_points_2_98'")
    points_file = content.get("ply_file_path")
    points = read_points(root, points_file if isinstance(points_file, str) and points_file else None)
    return SceneFrames(name, [group], box, points)


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


def _load_scene(root: Path, frames: SceneFrames, options: SceneReadOptions) -> Scene:
    """Read the pictures of all blocks and find their boxes."""
    aabb = None
    if options.aabb is not None:
        aabb = frames.box = frames.relative(torch.as_tensor(options.aabb, dtype=torch.float64))
    for group in frames.groups:
        if not group.train and not group.test:
            raise InputError(f"{root}: block {group.name!r} must have at least one view, has none")
        # Only when the files name no test views: the data's own are those that figures are compared on.
        if not group.test:
            group.train, group.test = _hold_out(group.train, options.holdout_every)
    grid, _ = _grid_or_names(options.blocks)
    if grid is not None:
        return _cut_scene(frames, grid, aabb, options)
    blocks = []
    for group in frames.groups:
        train, test = _load_views(group, options)
        views = train if len(train) else test
        box = group.aabb if aabb is None else aabb
        if box is None:
            box = object_box(views.cameras) if frames.is_object else scene_box(views, frames.points, frames.box)
        blocks.append(Block(group.name, train, test, box))
    return Scene(frames.name, tuple(blocks), _union([block.aabb for block in blocks]), frames.unit, frames.origin)


def _hold_out(train: list[PosedFrame], every: int) -> tuple[list[PosedFrame], list[PosedFrame]]:
    """Return training frames as those to train and those to test on, each `every`-th (0: none)."""
    if every == 0 or len(train) < 2:
        return train, []
    return [frame for k, frame in enumerate(train) if k % every], train[::every]


def _load_views(group: FrameGroup, options: SceneReadOptions) -> tuple[ImageSet, ImageSet]:
    """Return the views to train and to test on."""
    # Together, since both must have one size.
    views = load_image_set(group.train + group.test, options.downscale, options.max_side)
    cut = len(group.train)
    return views.pick(torch.arange(cut)), views.pick(torch.arange(cut, len(views)))


def _cut_scene(frames: SceneFrames, grid: tuple[int, int], aabb: Tensor | None, options: SceneReadOptions) -> Scene:
    """Read the pictures of all groups as one and cut them into a grid of blocks by camera position."""
    groups = frames.groups
    # One group first: blocks of the data may overlap, and a grid is about camera positions alone.
    joined = FrameGroup(frames.name, [f for g in groups for f in g.train], [f for g in groups for f in g.test], aabb)
    boxes = [group.aabb for group in groups if group.aabb is not None]
    if aabb is None and len(boxes) == len(groups):
        joined.aabb = _union(boxes)
    cells = cut_by_position(joined, *grid)
    train, test = _load_views(joined, options)
    scene = joined.aabb if joined.aabb is not None else scene_box(train, frames.points, frames.box)
    ground = ground_height(train.cameras) if frames.points is None else float(frames.points[:, 2].median())
    # Frames of a cell are the very objects of the group: their places in it are those of the pictures.
    row = {id(frame): k for k, frame in enumerate(joined.train)}
    test_row = {id(frame): k for k, frame in enumerate(joined.test)}
    blocks = []
    for cell in cells:
        cell_train = train.pick(torch.tensor([row[id(frame)] for frame in cell.train], dtype=torch.int64))
        cell_test = test.pick(torch.tensor([test_row[id(frame)] for frame in cell.test], dtype=torch.int64))
        blocks.append(Block(cell.name, cell_train, cell_test, cell_box(cell_train, scene, ground)))
    return Scene(frames.name, tuple(blocks), _union([block.aabb for block in blocks]), frames.unit, frames.origin)


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
    )
)
