"""Reads the pictures, sounds or clips of a folder one by one, each at its own size if nothing else is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mclnf_fast.data.readers.audio import read_windows, window_length
from mclnf_fast.data.readers.decoding.pictures import common_mode, decode_picture, on_white, open_picture, to_array
from mclnf_fast.data.readers.frames import reduced_size
from mclnf_fast.data.readers.images import check_frame_options
from mclnf_fast.data.readers.layouts import ENDINGS, PLURAL, DataFile, any_file, data_files
from mclnf_fast.data.readers.options import AudioReadOptions, VideoReadOptions
from mclnf_fast.data.readers.videos import read_clips
from mclnf_fast.data.signals import SignalKind
from mclnf_fast.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, kw_only=True)
class FileReadOptions:
    """Options of `SignalFiles`.

    Attributes:
        kind: "image", "audio" or "video"; None: the one of which the folder has most files.
        limit: at most so many files, the first ones by name; None: all.
        size: side of the square that pictures and clips are cut to; None: pictures as they are, clips 64.
        resize: first scale a picture, aspect ratio kept, until it just covers the square.
        max_side: pictures are scaled down so that no side exceeds this many pixels.
        channels: of pictures and clips, 3 or 1.
        seconds, rate, peak: of sound, see `AudioReadOptions`.
        frames, stride: of clips, see `VideoReadOptions`.

    Raises:
        InputError: a value out of range.

    >>> FileReadOptions(size=64).channels
    3
    """

    kind: SignalKind | None = None
    limit: int | None = None
    size: int | None = None
    resize: bool = False
    max_side: int | None = None
    channels: int = 3
    seconds: float = 1.0
    rate: int = 16000
    peak: bool = False
    frames: int = 16
    stride: int = 1

    def __post_init__(self) -> None:
        if self.kind is not None and self.kind not in ENDINGS:
            raise InputError(f"kind: must be image, audio or video, was {self.kind!r}")
        check_frame_options(64 if self.size is None else self.size, self.channels)
        window_length(self.sound())
        if self.max_side is not None and self.size is not None:
            raise InputError("max_side: must not stand beside size, which decides the sides already")
        if self.resize and self.size is None:
            raise InputError("resize: must stand beside size, the side that pictures are scaled to cover")
        for name in ("limit", "max_side", "frames", "stride"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 1 << 31:
                raise InputError(f"{name}: must be at least 1, was {value}")

    def sound(self) -> AudioReadOptions:
        """Return the options of sound."""
        return AudioReadOptions(seconds=self.seconds, rate=self.rate, peak=self.peak)


class FileValues(NamedTuple):
    """The signal of one file: values float32 [*grid, C] in 0 ... 1, samples or frames per second, and what was changed
    on the way."""

    values: Tensor
    rate: float | None
    changes: list[str]


class SignalFiles:
    """The files of one kind below a folder, in the order of their paths; each is read when it is asked for.

    Args:
        folder: a folder, or one file.
        options: see `FileReadOptions`; None: its defaults.

    Raises:
        InputError: not there, or no file of the kind below it.

    >>> import tempfile
    >>> from PIL import Image
    >>> folder = tempfile.mkdtemp()
    >>> Image.new("RGB", (6, 4)).save(f"{folder}/a.png")
    >>> files = SignalFiles(folder)
    >>> files.kind, len(files), files.read(0).values.shape
    ('image', 1, torch.Size([4, 6, 3]))
    """

    def __init__(self, folder: str | Path, options: FileReadOptions | None = None) -> None:
        self.folder, self.options = Path(folder), options or FileReadOptions()
        if not self.folder.exists():
            raise InputError(f"{self.folder}: must be a folder of pictures, sounds or clips, was not there")
        self.kind: SignalKind = self.options.kind or self._kind()
        self.files = self._files(self.kind)[: self.options.limit]
        if not self.files:
            endings = " ".join(ENDINGS[self.kind])
            raise InputError(f"{self.folder}: must hold {PLURAL[self.kind]} ({endings}), has none")

    def __len__(self) -> int:
        return len(self.files)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes of a signal's grid."""
        axes: Mapping[SignalKind, tuple[str, ...]] = {
            "image": ("row", "column"), "audio": ("time",), "video": ("time", "row", "column"),
        }  # fmt: skip
        return axes[self.kind]

    @property
    def channels(self) -> int:
        """Values of a sample."""
        return 1 if self.kind == "audio" else self.options.channels

    def described(self) -> dict[str, Any]:
        """Return what the values depend on beside the files, as plain data."""
        of_kind = {
            "image": ("size", "resize", "max_side", "channels"),
            "audio": ("seconds", "rate", "peak"),
            "video": ("size", "frames", "stride", "channels"),
        }
        return {"kind": self.kind, **{name: getattr(self.options, name) for name in of_kind[self.kind]}}

    def read(self, index: int) -> FileValues:
        """Return the signal of a file.

        Raises:
            InputError: unusable.
            MissingExtraError: the extra `media` is not installed.
        """
        path, options = self.files[index].path, self.options
        if self.kind == "image":
            return FileValues(*_picture(path, options))
        if self.kind == "audio":
            signals = read_windows(path, options.sound())
        else:
            size = 64 if options.size is None else options.size
            clip = VideoReadOptions(frames=options.frames, stride=options.stride, size=size, channels=options.channels)
            signals = read_clips(path, clip)
        return FileValues(signals.values[0], signals.rate, signals.changes)

    def _files(self, kind: SignalKind) -> list[DataFile]:
        if self.folder.is_file():
            matches = self.folder.suffix.lower() in ENDINGS[kind]
            return [DataFile(self.folder, self.folder.name)] if matches else []
        return data_files(self.folder, self.folder, kind)

    def _kind(self) -> SignalKind:
        if self.folder.is_file():
            kinds = [kind for kind in ENDINGS if self.folder.suffix.lower() in ENDINGS[kind]]
            return kinds[0] if kinds else "image"
        # A GIF counts as a picture, its first frame: most are drawings.
        present: list[SignalKind] = [kind for kind in ENDINGS if any_file(self.folder, ENDINGS[kind])]
        if len(present) < 2:
            return present[0] if present else "image"
        counts = {kind: len(self._files(kind)) for kind in present}
        return max(present, key=lambda kind: counts[kind])


def _picture(path: Path, options: FileReadOptions) -> tuple[Tensor, None, list[str]]:
    if options.size is not None:
        values, changes = decode_picture(path, (options.size, options.size), options.channels, options.resize)
        return torch.from_numpy(values.copy()), None, changes
    from PIL import Image, ImageOps

    def wanted(wide: int, high: int) -> tuple[int, int]:
        return reduced_size(wide, high, 1.0, options.max_side)

    with open_picture(path, wanted=wanted) as (opened, _):
        changes = ["the first of several frames"] if getattr(opened, "is_animated", False) else []
        picture = common_mode(ImageOps.exif_transpose(opened), path)
        if picture.mode == "RGBA":
            picture = on_white(np.asarray(picture))
        reduced = wanted(*picture.size)  # turned upright, and of a large JPEG at a fraction of its size
        if reduced != picture.size:
            changes.append(f"scaled down to at most {options.max_side} pixels a side")
            picture = picture.resize(reduced, Image.Resampling.LANCZOS)
        return torch.from_numpy(to_array(picture, options.channels).copy()), None, changes
