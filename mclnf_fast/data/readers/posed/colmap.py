"""Reads a folder of COLMAP (a sparse model beside its pictures) as frames."""

from __future__ import annotations

from pathlib import Path

from mclnf_fast.data.readers.decoding.points import COLMAP_FOLDERS, colmap_points
from mclnf_fast.data.readers.files import relative_name, safe_path
from mclnf_fast.data.readers.frames import PosedFrame
from mclnf_fast.data.readers.layouts import IMAGES, walk
from mclnf_fast.data.readers.matrixcity import FrameGroup
from mclnf_fast.data.readers.posed.colmap_model import ColmapImage, read_cameras, read_images
from mclnf_fast.data.readers.posed.cut_scene import hold_out
from mclnf_fast.data.readers.posed.scene_frames import SceneFrames
from mclnf_fast.errors import InputError

MODEL_FOLDERS = (*COLMAP_FOLDERS, "")  # the last one: the model lies in the folder of the data itself
PICTURES = ("images", "input", "")  # folders that names are relative to; "": the folder of the data
MASKS = "masks"
COLMAP_FILES = "sparse/0/cameras.bin or cameras.txt with images.bin or images.txt (COLMAP)"


def find_model(root: Path) -> tuple[Path, Path] | None:
    """Return the files of cameras and of images of a model in a folder, the binary ones first; None if there is none.

    >>> find_model(Path("no such folder")) is None
    True
    """
    for folder in MODEL_FOLDERS:
        for ending in ("bin", "txt"):
            cameras, images = (root / folder / f"{name}.{ending}" for name in ("cameras", "images"))
            if cameras.is_file() and images.is_file():
                return cameras, images
    return None


def colmap_reason(root: Path) -> str | None:
    """Return the reason why `root` is a folder of COLMAP, or None.

    >>> colmap_reason(Path("no such folder")) is None
    True
    """
    model = find_model(root)
    return None if model is None else f"{model[0].name} and {model[1].name} in {model[0].parent}"


def colmap_frames(root: Path, holdout_every: int) -> SceneFrames:
    """Return the frames of a COLMAP model, by name, in the model's own coordinates.

    Pictures lie in `images`, else in `input`, else in the folder itself; `masks/NAME.png` (or the name with .png in
    place of its ending) masks the picture NAME. Pictures that the model does not name are left out, and noted. Each
    `holdout_every`-th picture is tested on.

    Raises:
        InputError: a fault of a file, a picture or a camera that is not there, masks of which none is a picture's.

    >>> colmap_frames(Path("nowhere"), holdout_every=8)
    Traceback (most recent call last):
    mclnf_fast.errors.InputError: nowhere: must hold sparse/0/cameras.bin or cameras.txt ... (COLMAP), does not
    """
    model = find_model(root)
    if model is None:
        raise InputError(f"{root}: must hold {COLMAP_FILES}, does not")
    cameras, images = read_cameras(model[0]), read_images(model[1])
    pictures = _picture_folder(root, images, model[1])
    masks = root / MASKS
    frames = []
    for image in images:
        if image.camera not in cameras:
            raise InputError(
                f"{model[1]}: image {image.name!r} must have a camera of {model[0].name}, has {image.camera}"
            )
        path = safe_path(root, pictures, image.name, model[1])
        if not path.is_file():
            raise InputError(f"{path}: must be an image, was not there (named in {model[1]})")
        camera = cameras[image.camera]
        mask = _mask(root, masks, image, model[1])
        frames.append(
            PosedFrame(path, relative_name(root, path), image.c2w, camera.intrinsics, model[0], mask, camera.lens)
        )
    if masks.is_dir() and frames and all(frame.mask is None for frame in frames):
        raise InputError(
            f"{masks}: must hold masks named as the pictures are ({images[0].name}.png), holds none of them"
        )
    group = FrameGroup(root.resolve().name)
    group.train, group.test = hold_out(frames, holdout_every)
    group.held_out = holdout_every
    scene = SceneFrames(group.name, [group], notes=_notes(root, model[0].parent, pictures, images))
    points = colmap_points(root, model[0].parent.relative_to(root).as_posix())
    if points is not None:
        scene.points, scene.points_file = scene.relative(points.xyz), points.file
    return scene


def _picture_folder(root: Path, images: list[ColmapImage], source: Path) -> Path:
    """Return the folder that the names of pictures are relative to."""
    for folder in PICTURES:
        # Of a set with missing pictures it is the folder that has any of them.
        if any(safe_path(root, root / folder, image.name, source).is_file() for image in images):
            return root / folder
    return root / PICTURES[0]


def _mask(root: Path, masks: Path, image: ColmapImage, source: Path) -> Path | None:
    """Return the mask of an image: COLMAP appends .png to its name, other tools replace the ending."""
    names = dict.fromkeys((f"{image.name}.png", Path(image.name).with_suffix(".png").as_posix()))
    paths = (safe_path(root, masks, name, source) for name in names)
    return next((path for path in paths if path.is_file()), None)


def _notes(root: Path, model: Path, pictures: Path, images: list[ColmapImage]) -> list[str]:
    """Return sentences on other models, and on pictures that the model does not name."""
    notes = []
    if model.name == "0":
        others = sorted(p.name for p in model.parent.iterdir() if p.is_dir() and p.name.isdigit() and p.name != "0")
        if others:
            folder = relative_name(root, model.parent)
            notes.append(f"Of {len(others) + 1} models in {folder} the first is read; others: {', '.join(others)}.")
    named = {(pictures / image.name).resolve() for image in images}
    left = 0 if pictures == root else sum(path.resolve() not in named for path in walk(pictures, IMAGES))
    if left:
        notes.append(f"{left} pictures in {pictures.name} have no pose in the model and are left out.")
    return notes
