"""Reads the files of a Blender or nerfstudio scene as frames, with all that its box can be taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.readers import matrixcity
from mclnf_fast.data.readers.boxes import around_box, clipped, ground_box, object_box, points_box, read_scale_box
from mclnf_fast.data.readers.decoding.points import Points, colmap_file, read_points
from mclnf_fast.data.readers.files import read_box, read_file_name, read_json, read_matrix
from mclnf_fast.data.readers.frames import PosedFrame
from mclnf_fast.data.readers.matrixcity import FrameGroup
from mclnf_fast.data.readers.nerf_json import read_blender, read_nerfstudio
from mclnf_fast.data.readers.origin import far_origin, warn_of_origin
from mclnf_fast.data.scene import ImageSet
from mclnf_fast.render.cameras import Cameras


@dataclass
class SceneFrames:
    """The frames of a scene, before its pictures are read and its box is known.

    Coordinates are relative to `origin`: a scene far from the origin of its files is moved when the record is made.

    Attributes:
        name, unit: those of the scene.
        groups: one per block of the data.
        box: [2, 3], the file's percentile box of its points, when it has no other.
        points: [P, 3], sparse points; points_file: the file that they are from.
        most: [2, 3], a box that the scene does not exceed: the cube of instant-ngp's `aabb_scale`.
        is_object: whether its views stand around an object, with nothing behind it.
        origin: what was taken off the files' coordinates, see `Scene`.
        notes: on what was read otherwise than one might expect, in sentences.

    >>> SceneFrames("lego", [FrameGroup("lego")], is_object=True).unit
    'scene'
    """

    name: str
    groups: list[FrameGroup]
    box: Tensor | None = None
    points: Tensor | None = None
    points_file: str = ""
    most: Tensor | None = None
    is_object: bool = False
    unit: str = "scene"
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    notes: list[str] = field(default_factory=list)

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
        self.box, self.points, self.most = (self.relative(t) for t in (self.box, self.points, self.most))

    def relative(self, points: Tensor | None) -> Tensor | None:
        """Return points [..., 3] in the files' coordinates relative to `origin`, float32."""
        if points is None:
            return None
        return (points.double() - torch.tensor(self.origin, dtype=torch.float64)).to(torch.float32)

    def bounds(
        self,
        views: ImageSet,
        group: FrameGroup | None = None,
        around: Callable[[Cameras], Tensor] = around_box,
    ) -> tuple[Tensor, str]:
        """Return the box [2, 3] of a group's views, see `load_scene`, and where it is from.

        group: that of the views; None: the first. around: what makes a box of cameras around something.
        """
        aabb = (self.groups[0] if group is None else group).aabb
        if aabb is not None:
            return aabb, "the file's aabb"
        if self.box is not None or self.points is not None:
            heights = "" if self.points is None else f", heights of the points in {self.points_file}"
            points = f"2nd to 98th percentile of the points in {self.points_file}"
            source = points if self.box is None else f"the file's aabb_points_2_98{heights}"
            return points_box(self.points, self.box), source
        if self.is_object:
            return object_box(views.cameras), "a cube about the object, as large as the field of view"
        ground = ground_box(views.cameras)
        if ground is not None:
            return ground, "what the cameras see of the ground"
        cube = around(views.cameras)
        if self.most is None:
            return cube, "a cube about what the cameras look at, with all cameras inside (a guess)"
        return clipped(cube, self.most), "a cube with all cameras inside, within the file's aabb_scale (a guess)"


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

    >>> blender_frames(Path("nowhere"))
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: nowhere/transforms_train.json: must be a JSON file, was not there
    """
    return SceneFrames(root.resolve().name, [read_blender(root)], is_object=True)


def nerfstudio_frames(root: Path, holdout_every: int) -> SceneFrames:
    """Return the frames of `transforms.json`: nerfstudio's, or one raw block of MatrixCity.

    Raises:
        InputError: as `load_scene` does.

    >>> nerfstudio_frames(Path("nowhere"), holdout_every=8)
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: nowhere/transforms.json: must be a JSON file, was not there
    """
    name, path = root.resolve().name, root / "transforms.json"
    content = read_json(path)
    frames = content.get("frames")
    if isinstance(frames, list) and frames and isinstance(frames[0], dict) and "rot_mat" in frames[0]:
        # Only the raw dialect has `rot_mat`: this is one of its blocks, named alone.
        group = FrameGroup(root.name, matrixcity.read_raw_folder(root, root))
        if content.get("aabb") is not None:
            group.aabb = read_box(content["aabb"], f"{path}: key 'aabb'")
        return _with_points(SceneFrames(name, [group], unit=matrixcity.UNIT), read_points(root))
    group, content = read_nerfstudio(root, holdout_every)
    box = None
    if group.aabb is None and content.get("aabb_points_2_98") is not None:
        box = read_box(content["aabb_points_2_98"], f"{path}: key 'aabb_points_2_98'")
    scene = SceneFrames(name, [group], box, most=read_scale_box(content, path))
    named = read_file_name(content, "ply_file_path", path) if content.get("ply_file_path") is not None else None
    applied = content.get("applied_transform")
    colmap = None if applied is None else read_matrix(applied, f"{path}: key 'applied_transform'", ((3, 4), (4, 4)))
    points = read_points(root, named, colmap)
    if points is None and colmap is None and (file := colmap_file(root)) is not None:
        # Taken as they are, they would put the box somewhere else: such files often turn, move and scale the poses.
        scene.notes.append(
            f"{file.relative_to(root)} is not used: transforms.json has no applied_transform, which relates its points "
            "to the poses."
        )
    return _with_points(scene, points)


def _with_points(scene: SceneFrames, points: Points | None) -> SceneFrames:
    if points is not None:
        scene.points, scene.points_file = scene.relative(points.xyz), points.file
    return scene
