"""Lists the files of a folder, hidden ones and repeated links left out, and groups them by speaker."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mclnf_fast.data.signals import SignalKind
from mclnf_fast.errors import InputError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
VIDEOS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".gif", ".m4v")
SOUNDS = (".flac", ".wav", ".ogg", ".mp3", ".m4a", ".aac", ".opus", ".aiff")
ENDINGS: dict[SignalKind, tuple[str, ...]] = {"image": IMAGES, "video": VIDEOS, "audio": SOUNDS}
PLURAL: dict[SignalKind, str] = {"image": "images", "video": "videos", "audio": "sound files"}
# Names of split folders and of keys in split files -> the set that they stand for.
SPLITS = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test",
}  # fmt: skip
UTTERANCE = re.compile(r"(\d+)-\d+-\d+")  # LibriSpeech: speaker, chapter, number


@dataclass(frozen=True)
class DataFile:
    """One file or folder of data.

    Attributes:
        path: its place.
        name: its name in reports.
        group: files of one group (a speaker) are never parted by a split; "": no group.

    >>> DataFile(Path("a/b.png"), "b.png").group
    ''
    """

    path: Path
    name: str
    group: str = ""


@dataclass
class Layout:
    """The files of a folder, split as the data splits them.

    Attributes:
        title: name of the data in reports.
        pools: files by "train", "validation" and "test", or all of them under "all" when the data has no split.
        notes: remarks on the choice for the report.
        resize: whether pictures of this layout are scaled to the crop rather than cut at their own scale.

    >>> Layout("two", {"all": [DataFile(Path("a.png"), "a.png")]}).resize
    False
    """

    title: str
    pools: dict[str, list[DataFile]]
    notes: list[str] = field(default_factory=list)
    resize: bool = False


def bases(path: Path) -> list[Path]:
    """Return `path`, and the only folder inside of it when there is exactly one.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Path(folder, "archive").mkdir()
    ...     print([path.name for path in bases(Path(folder))[1:]])
    ['archive']
    """
    inside = folders_in(path)
    return [path, inside[0]] if len(inside) == 1 else [path]


def folders_in(folder: Path) -> list[Path]:
    """Return the folders in `folder` by name, hidden ones left out; none when it cannot be listed.

    >>> folders_in(Path("no such folder"))
    []
    """
    try:
        return sorted(
            path for path in folder.iterdir() if os.path.isdir(path) and not path.name.startswith((".", "__MACOSX"))
        )
    except OSError:
        return []


def walk(root: Path, endings: Sequence[str]) -> list[Path]:
    """Return the files below `root` with one of `endings` (any case), sorted by path.

    Symbolic links are followed, each folder once. Names that begin with a dot are passed over.

    Raises:
        InputError: a folder cannot be listed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a.png", "b.PNG", ".hidden.png", "c.txt"):
    ...         Path(folder, name).touch()
    ...     print([path.name for path in walk(Path(folder), IMAGES)])
    ['a.png', 'b.PNG']
    """
    return sorted(_files(root, endings), key=lambda path: path.relative_to(root).parts)


def any_file(root: Path, endings: Sequence[str], stem: str = ".*") -> bool:
    """Return whether there is a file as `walk` lists them whose name without ending matches the expression `stem`.

    It stops at the first one: detection looks at data sets of 200,000 files, and to list them twice takes seconds.

    Raises:
        InputError: there is none among the folders that can be listed, and one cannot be.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a.png", "b.PNG", ".hidden.png", "c.txt"):
    ...         Path(folder, name).touch()
    ...     print(any_file(Path(folder), IMAGES, "b"), any_file(Path(folder), SOUNDS))
    True False
    """
    return any(re.fullmatch(stem, path.stem) for path in _files(root, endings))


def _files(root: Path, endings: Sequence[str]) -> Iterator[Path]:
    visited: set[tuple[int, int]] = set()
    errors: list[OSError] = []
    for folder, folders, files in os.walk(root, followlinks=True, onerror=errors.append):
        try:
            status = os.stat(folder)
        except OSError as error:
            errors.append(error)
            continue
        if (status.st_dev, status.st_ino) in visited:  # a link back to a parent would never end
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        # In place, as os.walk asks: a hidden folder (a cache, a .git) is then not entered at all.
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")))
        yield from (Path(folder, f) for f in files if f.lower().endswith(tuple(endings)) and not f.startswith("."))
    # Not before the end: files that can be listed are found first, and the error names the folder that cannot.
    if errors:
        raise InputError(f"{errors[0].filename}: cannot be listed: {errors[0].strerror}")


def data_files(root: Path, folder: Path, kind: SignalKind) -> list[DataFile]:
    """Return the files of one kind below `folder`, named by their paths below `root`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("a.png", "b.PNG", ".hidden.png", "c.txt"):
    ...         Path(folder, name).touch()
    ...     print([file.name for file in data_files(Path(folder), Path(folder), "image")])
    ['a.png', 'b.PNG']
    """
    return [DataFile(path, path.relative_to(root).as_posix()) for path in walk(folder, ENDINGS[kind])]


def grouped(files: list[DataFile]) -> list[DataFile]:
    """Return `files` with the group of each.

    The group is LibriSpeech's speaker in the file's name, else the first folder in which the paths differ; a file
    outside of those folders is a group of its own.

    >>> [file.group for file in grouped([DataFile(Path(p), p) for p in ("x/ann/1.wav", "x/bob/1.wav")])]
    ['ann', 'bob']
    """
    folders = [file.path.parts[:-1] for file in files]
    # Folders that all paths share do not identify a speaker; the first that differs does.
    shared = 0
    while len({parts[shared : shared + 1] for parts in folders}) == 1 and all(len(parts) > shared for parts in folders):
        shared += 1
    result = []
    for file, parts in zip(files, folders, strict=True):
        utterance = UTTERANCE.fullmatch(file.path.stem)
        group = utterance[1] if utterance else parts[shared] if len(parts) > shared else file.name
        result.append(DataFile(file.path, file.name, group))
    return result


@dataclass(frozen=True)
class SignalLayout:
    """One layout of images, videos or sound: which kinds it holds, how it is detected and which files it has.

    `reason` takes a folder and the kind and returns the reason for the detection or None; `files` lists the files of a
    folder that was detected. `rank` and `looks_inside` are those of `Reader`.

    >>> def reason(root, kind):
    ...     return "always"
    >>> layout = SignalLayout("any", ("image",), "anything", reason, lambda root, kind: Layout("any", {"all": []}))
    >>> layout.locate(Path("data"), "image").title
    'any (data)'
    """

    name: str
    kinds: tuple[SignalKind, ...]
    looks_for: str
    reason: Callable[[Path, SignalKind], str | None]
    files: Callable[[Path, SignalKind], Layout]
    rank: int = 0
    looks_inside: bool = True

    def locate(self, path: Path, kind: SignalKind) -> Layout:
        """Return the files of `path`, or of the only folder in it, titled by the layout and the name of `path`."""
        places = bases(path) if self.looks_inside else [path]
        base = next((place for place in places if self.reason(place, kind) is not None), path)
        layout = self.files(base, kind)
        name = path.name if path.is_file() else path.resolve().name
        if self.rank == 0 and layout.title:
            layout.title = f"{layout.title} ({name})"
        else:
            layout.title = f"{name} ({layout.title})" if layout.title else name
        return layout
