"""`load_scene`: one door for every dialect of posed images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mclnf_fast.data.readers import matrixcity
from mclnf_fast.data.readers.boxes import cut_by_position, ground_height, object_box, part_box, read_points, scene_box
from mclnf_fast.data.readers.files import box_of, load_set, read_json
from mclnf_fast.data.readers.matrixcity import Group
from mclnf_fast.data.readers.nerf_json import read_blender, read_nerfstudio
from mclnf_fast.data.scene import Block, ImageSet, Scene, check_aabb
from mclnf_fast.errors import InputError

LOOKED_FOR = (
    "transforms.json (nerfstudio), transforms_train.json (Blender), "
    "pose/<block>/transforms_train.json (MatrixCity) "
    "or train/<block>/transforms.json (MatrixCity raw)"
)


def load_scene(
    path: str | Path,
    *,
    blocks: tuple[int, int] | Sequence[str] | None = None,
    downscale: float = 1,
    max_side: int | None = None,
    holdout_every: int = 8,
    aabb: Tensor | None = None,
) -> Scene:
    """Read posed images and cut them into blocks.

    Args:
        path: a folder in the layout of MatrixCity (either pose dialect), Blender or nerfstudio; which one
            is detected.
        blocks: None: MatrixCity's own blocks, else the whole scene as one. (nx, ny): a grid over camera
            positions with equal shares of the views. A list of names: those of MatrixCity's blocks.
        downscale: reduce pictures by this factor >= 1 (box filter; intrinsics follow).
        max_side: or reduce so that no side exceeds this many pixels.
        holdout_every: where the files name no test views, each such view is held out; 0: none.
        aabb: [2, 3], the scene's box; a block of a whole-scene read takes it as its own.

    Returns:
        A `Scene`. A MatrixCity block's box is the json's `aabb`, else the 2-98 % box of where its corner
        rays meet the ground (z = 0), up to the lowest camera. Other scenes: `aabb`, then
        `aabb_points_2_98` of the json, then the points' 2-98 % box, then that footprint, and for views
        from all around an object a cube about it. A block cut by a grid has its own cameras' footprint,
        within the scene's heights.

    Raises:
        InputError: the folder, a json, a pose, a path or a picture is not as it must be; the message names
            it.
    """
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"{root}: must be a folder, was {'a file' if root.exists() else 'not there'}")
    if not downscale >= 1:
        raise InputError(f"downscale: must be >= 1, was {downscale!r}")
    if max_side is not None and (max_side < 1 or downscale != 1):
        raise InputError(f"max_side: must be >= 1 and without downscale, was {max_side!r} with downscale {downscale!r}")
    if holdout_every < 0 or holdout_every == 1:
        raise InputError(f"holdout_every: must be 0 or >= 2, was {holdout_every}")
    if aabb is not None:
        aabb = torch.as_tensor(aabb, dtype=torch.float32)
        check_aabb(aabb)
    grid, names = _asked_blocks(blocks)

    points: Tensor | None = None
    given, is_object, unit = aabb, False, "scene"
    city = matrixcity.find_root(root)
    if city is not None:
        folder, dialect = city
        groups = matrixcity.read_groups(folder, dialect, names)
        unit, name = matrixcity.UNIT, root.resolve().name
    else:
        name = root.resolve().name
        if names is not None:
            raise InputError(f"blocks: {root} has no named blocks, must be None or (nx, ny), was {names}")
        whole = read_whole(root, holdout_every)
        is_object, unit, points = whole.is_object, whole.unit, whole.points
        given = whole.box if given is None else given
        groups = [whole.group]
    for group in groups:
        if not group.train and not group.test:
            raise InputError(f"{root}: block {group.name!r} must have at least one view, has none")
        if not group.test:
            group.train, group.test = _hold_out(group, holdout_every)
    if grid is not None:
        joined = Group(name, [f for g in groups for f in g.train], [f for g in groups for f in g.test])
        boxes = [group.aabb for group in groups if group.aabb is not None]
        if aabb is not None:
            joined.aabb = aabb
        elif len(boxes) == len(groups):
            joined.aabb = _union(boxes)
        return _cut(joined, grid, name, unit, downscale, max_side, given, points)
    made = []
    for group in groups:
        train, test = _load(group, downscale, max_side)
        views = train if len(train) else test
        box = group.aabb if aabb is None else aabb
        if box is None:
            box = object_box(views.cameras) if is_object else scene_box(views, points, given)
        made.append(Block(group.name, train, test, box))
    return Scene(name, tuple(made), _union([block.aabb for block in made]), unit)


@dataclass
class Whole:
    """A scene in one piece, before its pictures are read: `box` is the file's percentile box of its points where it has
    no other, `is_object` whether its views stand around an object."""

    group: Group
    box: Tensor | None = None
    points: Tensor | None = None
    is_object: bool = False
    unit: str = "scene"

    def bounds(self, views: ImageSet) -> Tensor:
        """The scene's box [2, 3], see `load_scene`."""
        if self.group.aabb is not None:
            return self.group.aabb
        return object_box(views.cameras) if self.is_object else scene_box(views, self.points, self.box)


def read_whole(root: Path, holdout_every: int, looked_for: str = LOOKED_FOR) -> Whole:
    """The frames of a `transforms.json` or `transforms_train.json`. Raises InputError as `load_scene` does."""
    if (root / "transforms.json").exists():
        group, content = _read_transforms(root, holdout_every)
        unit = matrixcity.UNIT if content.pop("raw", None) else "scene"
        box = content.get("aabb_points_2_98")
        given = None
        if group.aabb is None and box is not None:
            given = box_of(box, f"{root / 'transforms.json'}: key 'aabb_points_2_98'")
        named = content.get("ply_file_path")
        return Whole(group, given, read_points(root, named if isinstance(named, str) and named else None), unit=unit)
    if (root / "transforms_train.json").exists():
        return Whole(read_blender(root), is_object=True)
    raise InputError(f"{root}: must hold {looked_for}, has none of them")


def _asked_blocks(
    blocks: tuple[int, int] | Sequence[str] | None,
) -> tuple[tuple[int, int] | None, list[str] | None]:
    """`blocks` as (grid, names), at most one of them set."""
    if blocks is None:
        return None, None
    if not isinstance(blocks, str) and len(blocks):
        if all(isinstance(part, str) for part in blocks):
            return None, [str(part) for part in blocks]
        if len(blocks) == 2 and all(isinstance(part, int) and not isinstance(part, bool) for part in blocks):
            nx, ny = blocks
            return (int(nx), int(ny)), None
    raise InputError(f"blocks: must be None, (nx, ny) or a list of block names, was {blocks!r}")


def _read_transforms(root: Path, holdout_every: int) -> tuple[Group, dict]:
    """A single `transforms.json`: nerfstudio's, or one raw block of MatrixCity (told by `rot_mat`)."""
    content = read_json(root / "transforms.json")
    frames = content.get("frames")
    if isinstance(frames, list) and frames and isinstance(frames[0], dict) and "rot_mat" in frames[0]:
        group = Group(root.name, matrixcity.read_raw_folder(root, root))
        if content.get("aabb") is not None:
            group.aabb = box_of(content["aabb"], f"{root / 'transforms.json'}: key 'aabb'")
        return group, {"raw": True}
    return read_nerfstudio(root, holdout_every)


def _hold_out(group: Group, every: int) -> tuple[list, list]:
    if every == 0 or len(group.train) < 2:
        return group.train, []
    return [f for k, f in enumerate(group.train) if k % every], group.train[::every]


def _load(group: Group, downscale: float, max_side: int | None) -> tuple[ImageSet, ImageSet]:
    """Both splits; they must have one size."""
    both = load_set(group.train + group.test, downscale, max_side)
    cut = len(group.train)
    return both.pick(torch.arange(cut)), both.pick(torch.arange(cut, len(both)))


def _cut(
    group: Group, grid: tuple[int, int], name: str, unit: str, downscale: float, max_side: int | None,
    given: Tensor | None, points: Tensor | None,
) -> Scene:  # fmt: skip
    parts = cut_by_position(group, *grid)
    train, test = _load(group, downscale, max_side)
    whole = group.aabb if group.aabb is not None else scene_box(train, points, given)
    ground = ground_height(train.cameras) if points is None else float(points[:, 2].median())
    row = {id(frame): k for k, frame in enumerate(group.train)}
    test_row = {id(frame): k for k, frame in enumerate(group.test)}
    made = []
    for part in parts:
        own = train.pick(torch.tensor([row[id(frame)] for frame in part.train], dtype=torch.int64))
        held = test.pick(torch.tensor([test_row[id(frame)] for frame in part.test], dtype=torch.int64))
        made.append(Block(part.name, own, held, part_box(own, whole, ground)))
    return Scene(name, tuple(made), _union([block.aabb for block in made]), unit)


def _union(boxes: list[Tensor]) -> Tensor:
    stacked = torch.stack(boxes)
    return torch.stack([stacked[:, 0].amin(0), stacked[:, 1].amax(0)])
