"""Options of the `load_*` functions, one record per kind of data; a reader from outside gets the same record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, TypeVar

from torch import Tensor

Progress = Callable[[int, int], None]  # (items done, items in total)
WindowStart = Literal["first", "sound", "loudest"]
Options = TypeVar("Options", bound="ReadOptions")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options that every kind of data has.

    Attributes:
        reader: name of the reader to use (see `registry.readers`); None: the one that detects the folder's layout.

    >>> ReadOptions().reader is None
    True
    """

    reader: str | None = None


@dataclass(frozen=True, kw_only=True)
class SplitReadOptions(ReadOptions):
    """Options of data that is split into sets.

    Attributes:
        test: share in (0, 1), or count >= 1, of the files (images, videos, sound) or objects to test on; see
            `split.split_files`. The data's own split is kept.
        limit: at most so many files or objects in total, chosen by seed; None: all.
        seed: seed of the split and of that choice.
        strict: refuse an unusable file instead of skipping it with a warning.

    >>> SplitReadOptions(limit=10).test
    0.25
    """

    test: float = 0.25
    limit: int | None = None
    seed: int = 0
    strict: bool = False


@dataclass(frozen=True, kw_only=True)
class SignalReadOptions(SplitReadOptions):
    """Options of images, videos and sound.

    Attributes:
        validation: number of the files to train on (for sound: with their speakers) that are kept for the validation
            curve; None: 4, or fewer of a small set.

    >>> SignalReadOptions(validation=2).validation
    2
    """

    validation: int | None = None


@dataclass(frozen=True, kw_only=True)
class ImageReadOptions(SignalReadOptions):
    """Options of `load_images`.

    Attributes:
        size: side of the crop in pixels, or (height, width).
        resize: True: first scale each picture, aspect ratio kept, until it just covers the crop; False: cut at its own
            scale; None: as False, but FFHQ is scaled. Pictures smaller than the crop are always scaled up, and noted.
        channels: 3 (gray is repeated) or 1 (color becomes its luma).

    >>> ImageReadOptions(size=64).channels
    3
    """

    size: int | tuple[int, int] = 178
    resize: bool | None = None
    channels: int = 3


@dataclass(frozen=True, kw_only=True)
class VideoReadOptions(SignalReadOptions):
    """Options of `load_videos`.

    Attributes:
        frames: frames per clip. A shorter video is padded with its last frame, and noted; a video of a single frame is
            unusable unless `frames` is 1.
        stride: distance between the frames that are taken, in frames of the file.
        size: side of the crop in pixels, or (height, width).
        resize: first scale each frame, aspect ratio kept, until it just covers the crop; False: cut at its own scale.
            Frames smaller than the crop are always scaled up, and noted.
        channels: 3, or 1 (luma).
        clips_per_file: number of clips per file, one after another, as far as whole ones are there.

    >>> VideoReadOptions(frames=8).stride
    1
    """

    frames: int = 24
    stride: int = 1
    size: int | tuple[int, int] = 64
    resize: bool = True
    channels: int = 3
    clips_per_file: int = 1


@dataclass(frozen=True, kw_only=True)
class AudioReadOptions(SignalReadOptions):
    """Options of `load_audio`.

    Attributes:
        seconds: length of a window. A shorter file is padded with its last value, and noted.
        rate: samples per second.
        start: begin of a file's window. "first": the file's beginning, or the onset of sound when that window is
            silent; "sound": the time at which the loudness first comes within 40 dB of the loudest; "loudest": the
            window of most energy.
        windows_per_file: number of windows per file, one after another, as far as they fit.
        peak: scale each window to a peak of 0.95 of full scale.
        by_folder: keep folders and speakers together in the split by seed.

    >>> AudioReadOptions(seconds=0.5).rate
    16000
    """

    seconds: float = 1.0
    rate: int = 16000
    start: WindowStart = "first"
    windows_per_file: int = 1
    peak: bool = False
    by_folder: bool = True


@dataclass(frozen=True, kw_only=True)
class ObjectReadOptions(SplitReadOptions):
    """Options of `load_objects`.

    Attributes:
        size: pixels of the longer side; pictures are scaled by the mean over each pixel's area, weighted by alpha, and
            cameras with them. None: as in the files; meshes 128.
        views: at most so many views per object, the first ones, and at most so many of those kept to test on; None:
            all. Of meshes so many are rendered; None: 25.
        progress: called with (objects done, objects in total).

    >>> ObjectReadOptions(views=3).size is None
    True
    """

    size: int | None = None
    views: int | None = None
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True)
class PhotoReadOptions(ReadOptions):
    """Options of `load_photos`.

    Attributes:
        size: pixels of the longer side; None: as the first photo is.
        test, validation: number of photos to test and to validate on, see `photos.split_counts`.
        limit: at most so many photos, the first ones.
        progress: called with (photos done, photos in total).

    >>> PhotoReadOptions(limit=50).test is None
    True
    """

    size: int | None = None
    test: int | None = None
    validation: int | None = None
    limit: int | None = None
    progress: Progress | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class SceneReadOptions(ReadOptions):
    """Options of `load_scene`.

    Attributes:
        blocks: None: MatrixCity's own blocks, else the whole scene as one. (nx, ny): a grid over camera positions with
            equal shares of the views. A list of names: those of MatrixCity's blocks.
        downscale: factor >= 1 to reduce pictures by (box filter; intrinsics follow).
        max_side: reduce pictures so that no side exceeds this many pixels; not together with `downscale`.
        holdout_every: when the files name no test views, each such view is one; 0: none.
        aabb: [2, 3], scene units, the scene's box; a block of a scene that is read as a whole takes it as its own.

    >>> SceneReadOptions(blocks=(2, 2)).downscale
    1
    """

    blocks: tuple[int, int] | Sequence[str] | None = None
    downscale: float = 1
    max_side: int | None = None
    holdout_every: int = 8
    aabb: Tensor | None = None


def options_of(record: type[Options], options: Options | None, changes: Mapping[str, Any]) -> Options:
    """Return `options` (None: the defaults of `record`) with `changes` to single fields.

    Raises:
        TypeError: a name that is no field, or options of another kind of data.

    >>> options_of(ImageReadOptions, None, {"size": 64}).size
    64
    """
    # A TypeError, as Python raises for an unknown keyword: it is a mistake in a program and not in the data.
    names = [field.name for field in fields(record)]
    for name in changes:
        if name not in names:
            raise TypeError(f"{name}: must be one of {', '.join(sorted(names))}")
    if options is None:
        return record(**changes)
    if not isinstance(options, record):
        raise TypeError(f"options: must be {record.__name__}, was {type(options).__name__}")
    return replace(options, **changes)
