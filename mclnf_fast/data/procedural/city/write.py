"""Writes procedural districts in MatrixCity's pose dialect, once, as a cache that survives crashes and races."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from mclnf_fast import cache
from mclnf_fast.data.graphics import raycast
from mclnf_fast.data.procedural.city.district import CELL, RING, make_district
from mclnf_fast.data.procedural.city.render import CityRenderer
from mclnf_fast.data.procedural.city.style import styles
from mclnf_fast.data.procedural.city.views import block_views, city_views
from mclnf_fast.data.readers.options import Progress
from mclnf_fast.errors import InputError
from mclnf_fast.render.cameras import Cameras

UNIT = 100.0  # meters to one unit of MatrixCity's split poses
MARKER = "city.json"
TARGET, META = "small_city", "meta_city_"


@dataclass(frozen=True)
class CityPlan:
    """The number and size of the pictures to render.

    Attributes:
        width, height: pixels of a picture.
        samples: samples per pixel.
        train, test: views per block of the target district.
        meta_districts: number of other districts, for meta-learning.
        meta_train, meta_test: views per block of those.
        city: views of the whole target district.
        blocks: blocks along x and y of each district.
        styles: of the districts for meta-learning, which take them in turn: 1: that of the target; more: it and others
            that are drawn (`random_style`).
        seed: seed of the districts.

    >>> CityPlan(blocks=(1, 1), meta_districts=0, city=0).views()
    46
    """

    width: int = 96
    height: int = 72
    samples: int = 4
    train: int = 40
    test: int = 6
    meta_districts: int = 2
    meta_train: int = 16
    meta_test: int = 2
    city: int = 4
    blocks: tuple[int, int] = (2, 2)
    styles: int = 1
    seed: int = 0

    def views(self) -> int:
        """Return the number of pictures in total."""
        cells = self.blocks[0] * self.blocks[1]
        meta = self.meta_districts * (self.meta_train + self.meta_test)
        return cells * (self.train + self.test + meta) + self.city


QUICK = {"width": 64, "height": 48, "train": 14, "test": 3, "meta_train": 6, "meta_test": 1, "city": 2}


@dataclass(frozen=True)
class CityPaths:
    """The folders of a written city.

    Attributes:
        root: the folder of all.
        target: the target district, a folder that `load_scene` reads (it holds `train`, `test` and `pose`).
        meta: the districts for meta-learning, folders of the same form.

    >>> CityPaths(Path("a"), Path("a/b"), ()).meta
    ()
    """

    root: Path
    target: Path
    meta: tuple[Path, ...]


def city_cache_dir() -> Path:
    """Return the folder for generated data: `$MCLNF_FAST_CACHE`, or `~/.cache/mclnf_fast`.

    >>> city_cache_dir() == cache.folder()
    True
    """
    return cache.folder()


def write_city(
    root: str | Path | None = None,
    *,
    quick: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
    **options: int | tuple[int, int],
) -> CityPaths:
    """Render a city of target blocks and, for meta-learning, other districts of the same style or of several, unless
    it is there already.

    Args:
        root: the folder to write; None: one in `city_cache_dir()` named after the options. If another version or other
            options wrote it, or it is incomplete, it is replaced.
        quick: small pictures and few views.
        seed: seed of the districts. The same options give the same bytes.
        progress: called with (pictures done, pictures in total); not called when the cache is good.
        options: fields of `CityPlan` to set otherwise.

    Returns:
        The folders. `small_city/aerial/pose/city` holds the views of the whole district.

    Raises:
        InputError: an unknown option or a value that gives no city; `root` holds something that this function did not
            write.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     paths = write_city(f"{folder}/city", quick=True, blocks=(1, 1), train=1, test=1, meta_districts=0, city=0)
    ...     print(sorted(path.name for path in paths.target.iterdir()))
    ['pose', 'test', 'train']
    """
    unknown = sorted(set(options) - set(CityPlan.__dataclass_fields__))
    if unknown:
        raise InputError(f"{unknown[0]}: must be one of {sorted(CityPlan.__dataclass_fields__)}")
    settings: dict = {**(QUICK if quick else {}), **options, "seed": seed}
    plan = CityPlan(**settings)
    for name in ("width", "height", "samples", "styles"):
        if getattr(plan, name) < 1:
            raise InputError(f"{name}: must be >= 1, was {getattr(plan, name)}")
    for name in ("train", "test", "meta_districts", "meta_train", "meta_test", "city", "seed"):
        if getattr(plan, name) < 0:
            raise InputError(f"{name}: must be >= 0, was {getattr(plan, name)}")
    key = _fingerprint(plan)
    target = city_cache_dir() / f"city-{key[:12]}" if root is None else Path(root)
    meta = tuple(target / f"{META}{k + 1}" / "aerial" for k in range(plan.meta_districts))
    paths = CityPaths(target, target / TARGET / "aerial", meta)
    if _complete(target, key):
        return paths
    _check_replaceable(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    build = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
    try:
        # Views are rendered by threads of their own; threads inside an operation as well would only wait for each
        # other.
        with one_thread() as workers:
            _write_all(build, plan, workers, progress)
        _seal(build, key, plan)
        _publish(build, target, key)
    finally:
        shutil.rmtree(build, ignore_errors=True)
    return paths


@contextmanager
def one_thread() -> Iterator[int]:
    """Run torch's operations on one thread each; yield the number of threads before, for work on whole views.

    >>> with one_thread() as threads:
    ...     torch.get_num_threads()
    1
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


def _fingerprint(plan: CityPlan) -> str:
    """Return a hash of the options and of the generator's own code: a change of either makes a cache stale."""
    digest = hashlib.sha256(json.dumps(asdict(plan), sort_keys=True).encode())
    # The code is part of the key: an edited generator must not be mixed with pictures of the old one.
    for source in (*sorted(Path(__file__).parent.glob("*.py")), Path(raycast.__file__)):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _complete(folder: Path, key: str) -> bool:
    """Return whether `folder` holds every file, of the right size, of a finished run with this fingerprint."""
    try:
        marker = json.loads((folder / MARKER).read_text())
        if marker["fingerprint"] != key:
            return False
        # Sizes and not hashes: to hash the pictures takes as long as to read them, at every start.
        return all((folder / name).stat().st_size == size for name, size in marker["files"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _check_replaceable(folder: Path) -> None:
    """Raise `InputError` if `folder` holds something that no run of `write_city` has written."""
    if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
        raise InputError(f"{folder}: must be a folder or not exist yet, was something else")
    if folder.is_dir():
        foreign = [p.name for p in folder.iterdir() if p.name not in (TARGET, MARKER) and not p.name.startswith(META)]
        if foreign:
            raise InputError(
                f"{folder}: must be empty or a generated city to be replaced, holds {sorted(foreign)[0]!r}"
            )


def _seal(build: Path, key: str, plan: CityPlan) -> None:
    """Write the list of all files, last of all: a folder without it is incomplete."""
    files = {p.relative_to(build).as_posix(): p.stat().st_size for p in sorted(build.rglob("*")) if p.is_file()}
    marker = {"fingerprint": key, "plan": asdict(plan), "files": files}
    (build / MARKER).write_text(json.dumps(marker, indent=1))


def _publish(build: Path, target: Path, key: str) -> None:
    """Rename the finished folder to `target`; of two processes that race, the later keeps the earlier's."""
    for _ in range(10):
        try:
            os.rename(build, target)  # succeeds if `target` is missing or an empty folder
            return
        except OSError:
            if _complete(target, key):
                return
            replaced = target.parent / f".{target.name}.{uuid.uuid4().hex}.tmp"
            try:
                os.rename(target, replaced)
            except FileNotFoundError:
                continue
            shutil.rmtree(replaced, ignore_errors=True)
    raise InputError(f"{target}: could not be replaced, another process keeps writing it")


def _write_all(build: Path, plan: CityPlan, workers: int, progress: Progress | None) -> None:
    """Render and write all districts into `build`."""
    done, total = 0, plan.views()

    def progress_from(offset: int) -> Progress | None:
        return None if progress is None else lambda k, _: progress(offset + k, total)

    size = (plan.width, plan.height)
    looks = styles(plan.seed, plan.styles)
    for number in range(plan.meta_districts + 1):
        style = looks[max(number - 1, 0) % len(looks)]
        district = make_district(plan.seed * 1000 + number, plan.blocks, style)
        renderer = CityRenderer(district)
        folder = build / (TARGET if number == 0 else f"{META}{number}") / "aerial"
        boxes = district.block_boxes()
        counts = (plan.train, plan.test) if number == 0 else (plan.meta_train, plan.meta_test)
        jobs = []
        for block, box in enumerate(boxes):
            for split, count in zip(("train", "test"), counts, strict=True):
                # One seed per split of each block, without overlap up to 4096 blocks and 64 districts.
                view_seed = ((plan.seed * 64 + number) * 4096 + block) * 2 + (split == "test")
                cameras = block_views(box, count, size, view_seed, style.flight)
                jobs.append((f"block_{block + 1}", split, box, cameras, view_seed))
        if number == 0 and plan.city:
            whole = torch.stack([boxes[:, 0].amin(0), boxes[:, 1].amax(0)])
            view_seed = plan.seed * 64 + 17
            cameras = city_views(boxes, plan.city, size, view_seed, ring=RING * CELL - 5.0)
            jobs.append(("city", "test", whole, cameras, view_seed))
        for name, split, box, cameras, view_seed in jobs:
            images = renderer.render(
                cameras, samples=plan.samples, seed=view_seed, workers=workers, progress=progress_from(done)
            )
            _write_split(folder, name, split, cameras, style.colored(images), box)
            done += len(cameras)


def _write_split(
    folder: Path, name: str, split: str, cameras: Cameras, images: torch.Tensor, box: torch.Tensor
) -> None:
    """Write one split of one block: pictures and poses, lengths in units of 100 m."""
    from PIL import Image

    pictures, poses = folder / split / name, folder / "pose" / name
    pictures.mkdir(parents=True, exist_ok=True)
    poses.mkdir(parents=True, exist_ok=True)
    frames = []
    for k in range(len(cameras)):
        Image.fromarray(images[k].numpy()).save(pictures / f"{k:04d}.png")
        pose = torch.eye(4, dtype=torch.float64)
        pose[:3] = cameras.c2w[k]
        pose[:3, 3] /= UNIT
        frames.append({"file_path": f"../../{split}/{name}/{k:04d}.png", "transform_matrix": pose.tolist()})
    focal = float(cameras.fx[0]) if len(cameras) else float(cameras.width)
    header = {
        "camera_angle_x": 2 * math.atan(0.5 * cameras.width / focal),
        "fl_x": focal, "fl_y": focal, "cx": cameras.width / 2, "cy": cameras.height / 2,
        "w": cameras.width, "h": cameras.height,
        "k1": 0.0, "k2": 0.0, "k3": 0.0, "k4": 0.0, "p1": 0.0, "p2": 0.0,
        "aabb": (box.to(torch.float64) / UNIT).tolist(),
    }  # fmt: skip
    (poses / f"transforms_{split}.json").write_text(json.dumps({**header, "frames": frames}, indent=1))
